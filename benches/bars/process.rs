//! Programs beside the bench: kahn as it is shipped, and the bare limits as children of the bench's own binary.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::http;

/// A child; it is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// `127.0.0.1:PORT`, where it serves.
    pub(crate) address: String,
    /// Seconds from its start until it first answered (kahn) or said that it is ready (a child of the bench).
    pub(crate) start_s: f64,
}

impl Process {
    /// Starts kahn and waits until GET /api/runs answers.
    pub(crate) fn kahn(options: &[&str]) -> Self {
        Self::kahn_with(options, &[], "/api/runs")
    }

    /// Starts kahn with these variables and waits until this path answers.
    pub(crate) fn kahn_with(options: &[&str], variables: &[(&str, &str)], path: &str) -> Self {
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kahn"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAHN_") || name == "PORT" {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--bind", "127.0.0.1:0"]).args(options).envs(variables.iter().copied());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("kahn starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut said = Vec::new();
        let address = loop {
            match lines.next() {
                Some(Ok(line)) => {
                    if let Some((_, address)) = line.split_once("listens on http://") {
                        break address.trim().to_owned();
                    }
                    said.push(line);
                }
                _ => panic!("kahn did not start: {said:?}"),
            }
        };
        // What it complains of is part of what a bench found.
        std::thread::spawn(move || {
            let faults = lines.map_while(Result::ok).filter(|line| line.contains(" ERROR]") || line.contains(" WARN"));
            faults.for_each(|line| eprintln!("kahn: {line}"));
        });
        while http::get(&address, path).map_or(0, |answer| answer.status) != 200 {
            assert!(begun.elapsed() < Duration::from_secs(300), "kahn does not answer");
        }
        Self { child, address, start_s: begun.elapsed().as_secs_f64() }
    }

    /// kahn over this archive.
    pub(crate) fn serving(archive: &Path) -> Self {
        Self::kahn(&["--archive", &archive.display().to_string()])
    }

    /// Starts a part of this bench as a process of its own and waits for its `ready ADDRESS`.
    pub(crate) fn part(args: &[&str]) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("a line");
        let start_s = begun.elapsed().as_secs_f64();
        let address = line.strip_prefix("ready").unwrap_or_else(|| panic!("{args:?} said {line:?}")).trim().to_owned();
        child.stdout = Some(stdout.into_inner());
        Self { child, address, start_s }
    }

    /// Lets a part go on, and gives what it prints until its end.
    pub(crate) fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut text).expect("its words");
        }
        let _ = self.child.wait();
        text
    }

    /// Sends a part a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("it listens");
    }

    /// Asks it to stop as a service manager would, and waits until it has.
    pub(crate) fn terminate(mut self) {
        let _ = rustix::process::kill_process(self.pid(), Signal::TERM);
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Resident bytes now.
    pub(crate) fn resident(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most resident bytes so far.
    pub(crate) fn peak(&self) -> f64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a figure");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024.0
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Seconds of CPU that all its threads used so far, to the nanosecond (`/proc/PID/stat` counts in hundredths).
    pub(crate) fn cpu_s(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let spent = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        spent.sum::<f64>() / 1e9
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a part says when it is ready.
pub(crate) fn say_ready(address: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
}

/// Waits until the bench lets the part go on.
pub(crate) fn wait_for_end_of_input() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
