//! `kahn demo`: the first minute of most people with kahn. What it shows must be right, and nothing of it may stay.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kahn::domain::{Timestamp, parse_line};
use serde_json::Value;

use crate::support::{kahn, request, run, wait_for};

/// A demo that runs until it is dropped, in a folder for temporary files of its own.
struct Demo {
    child: Child,
    url: String,
    temporary: tempfile::TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        Self::start_in(args, &[])
    }

    /// With these variables beside its own.
    fn start_in(args: &[&str], env: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().expect("a folder");
        let place = temporary.path().to_str().expect("a path");
        let mut child = kahn(&[&["demo"], args].concat(), &[env, &[("TMPDIR", place)]].concat())
            // Where it would write by mistake: a relative path.
            .current_dir(temporary.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut said = BufReader::new(child.stderr.take().expect("stderr"));
        let mut first = String::new();
        said.read_line(&mut first).expect("a line");
        let Some((_, url)) = first.trim_end().split_once(" listens on ") else { panic!("the first line is {first:?}") };
        let url = url.to_owned();
        // Reads on, so that the demo never waits for a reader.
        std::thread::spawn(move || said.lines().map_while(Result::ok).count());
        Self { child, url, temporary }
    }

    fn get(&self, path: &str) -> Value {
        let answer = request(&self.url, ("GET", path), &[], None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The run as soon as it has ended.
    fn ended(&self, run_id: &str) -> Value {
        wait_for(run_id, || {
            let answer = request(&self.url, ("GET", &format!("/api/runs/{run_id}")), &[], None);
            (answer.status == 200 && answer.json()["phase"] == "ended").then(|| answer.json())
        })
    }

    /// What there is beside the pipe: the demo's own folder and nothing else.
    fn folders(&self) -> Vec<PathBuf> {
        entries(self.temporary.path())
    }

    fn send(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn end(&mut self) -> Option<i32> {
        wait_for("the demo to end", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

fn validate(archive: &Path) -> (Option<i32>, String) {
    let output = run(&["validate", archive.to_str().expect("a path")], &[]);
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

/// The members of each item of a list.
fn texts(answer: &Value, key: &str) -> BTreeSet<String> {
    let items = answer["items"].as_array().expect("items");
    items.iter().filter_map(|item| item[key].as_str()).map(str::to_owned).collect()
}

#[test]
fn the_live_run_comes_to_its_end_and_every_log_is_sound() {
    let before = now();
    let mut demo = Demo::start(&["--speed", "200", "--once"]);
    let run = demo.ended("release-331");
    assert_eq!(run["outcome"], "partial", "{run}");
    let nodes = serde_json::json!(
        {"total": 12, "pending": 0, "ready": 0, "running": 0, "done": 9, "failed": 1, "blocked": 2}
    );
    assert_eq!(run["nodes"], nodes);
    assert_eq!((&run["total_attempts"], &run["flake_retries"]), (&13.into(), &1.into()));
    assert_eq!(run["flaky_nodes"], serde_json::json!(["api-events"]));
    assert_eq!(run["first_failure"]["node_id"], "backup");
    let of = |run: &Value, id: &str| {
        let states = run["node_states"].as_array().expect("nodes");
        states.iter().find(|node| node["node_id"] == id).expect("the node").clone()
    };
    let backup = of(&run, "backup");
    assert_eq!((&backup["attempts"], &backup["reason"]), (&3.into(), &"max_ralph_iters_reached".into()));
    assert_eq!(of(&run, "canary")["reason"], "ancestor_failed:backup");

    // The agents that it started, each linked to its node.
    let looping = demo.ended("mend-backup-331");
    assert_eq!(looping["outcome"], "partial");
    let parent = serde_json::json!({"run_id": "release-331", "node_id": "backup", "attempt": 2, "step": null});
    assert_eq!(looping["parent"], parent);
    assert_eq!(looping["audits"], serde_json::json!({"pass": 1, "fail": 1, "warn": 1}));
    assert_eq!(looping["tool_calls"], serde_json::json!({"total": 7, "failed": 5}));
    assert_eq!(demo.ended("repair-331")["outcome"], "converged");
    assert_eq!(demo.ended("review-331")["outcome"], "converged");
    assert!(looping["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{looping}");
    // The run may have been shown before them.
    let spawned = of(&demo.ended("release-331"), "backup")["spawned"].clone();
    assert_eq!(spawned, serde_json::json!(["mend-backup-331"]));

    runs_alone_what_must(&demo, "release-331");

    // Timestamps of now, for people who look at "2 minutes ago".
    for key in ["started", "ended"] {
        let ts = Timestamp::parse(run[key].as_str().expect("a ts")).expect("a ts");
        assert!((before..=now()).contains(&ts), "{key} {ts}");
    }
    let [archive] = &demo.folders()[..] else { panic!("{:?}", demo.folders()) };
    let (code, said) = validate(archive);
    assert!(code == Some(0) && said.ends_with(": no faults\n"), "{said}");
    demo.send("-TERM");
    assert_eq!(demo.end(), Some(0));
    assert_eq!(demo.folders(), Vec::<PathBuf>::new(), "nothing stays");
}

#[expect(clippy::disallowed_methods, reason = "a test of what is of now")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_millis(i64::try_from(since.as_millis()).expect("before 9999"))
}

/// What must run alone did, and the rest side by side: graph and log are of one producer.
fn runs_alone_what_must(demo: &Demo, run_id: &str) {
    let graph = demo.get(&format!("/api/runs/{run_id}/graph"));
    let alone: BTreeSet<&str> = graph["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter(|node| node["parallel_safe"] == false)
        .map(|node| node["id"].as_str().expect("an id"))
        .collect();
    assert!(alone.contains("restore-drill"), "{alone:?}");
    let path = format!("/api/runs/{run_id}/events?limit=5000");
    let events = request(&demo.url, ("GET", &path), &[], None).text();
    let (mut running, mut most) = (BTreeSet::new(), 0);
    for event in events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let Some(node) = event["node_id"].as_str().map(str::to_owned) else { continue };
        if event["to"] == "running" {
            running.insert(node);
        } else if event["from"] == "running" {
            running.remove(&node);
        }
        most = most.max(running.len());
        assert!(running.len() < 2 || !running.iter().any(|id| alone.contains(id.as_str())), "{running:?}");
    }
    assert!((2..=3).contains(&most), "{most} nodes ran at a time");
}

/// By turns a run fails and converges; without it the second minute of a demo is like the first.
#[test]
fn the_next_live_run_converges() {
    let demo = Demo::start(&["--speed", "1000"]);
    let run = demo.ended("release-332");
    assert_eq!((&run["outcome"], &run["nodes"]["done"]), (&"clean_with_flake".into(), &12.into()), "{run}");
    assert_eq!(run["flaky_nodes"], serde_json::json!(["backup"]));
    runs_alone_what_must(&demo, "release-332");
    assert_eq!(demo.ended("drill-332")["parent"]["node_id"], "restore-drill");
    assert_eq!(demo.ended("release-333")["outcome"], "partial");
}

/// Pages that are empty, or all green, show nobody what kahn is for.
#[test]
fn the_past_has_something_of_everything() {
    let demo = Demo::start(&["--once"]);
    let total = demo.get("/api/runs")["total"].as_u64().expect("a number");
    assert!((30..=60).contains(&total), "{total} runs");
    assert_eq!(demo.get("/api/runs?q=torn")["total"], 0, "the damaged sample stays out");
    assert!(demo.get("/api/runs?window=24h")["total"].as_u64().is_some_and(|in_a_day| in_a_day >= 5));
    assert!(demo.get("/api/runs?phase=live")["total"].as_u64().is_some_and(|live| live >= 1), "a run plays");
    let verdicts = |path: &str| texts(&demo.get(path), "verdict");
    let all = |verdicts: BTreeSet<String>, wanted: &[&str]| {
        assert!(wanted.iter().all(|verdict| verdicts.contains(*verdict)), "{wanted:?} are not all in {verdicts:?}");
    };
    let audits = verdicts("/api/audit-checkpoints/flakiness");
    all(audits, &["regressed", "flaky", "broken", "recovered", "stable", "insufficient_data"]);
    let nodes = verdicts("/api/nodes/flakiness");
    all(nodes, &["regressed", "flaky", "broken", "recovered", "stable"]);
    let agents = demo.get("/api/agent-runs/aggregate");
    let regressed: Vec<&Value> =
        agents["items"].as_array().expect("items").iter().filter(|agent| agent["regression"] == true).collect();
    assert_eq!(regressed.len(), 1, "{agents}");
    let outcomes = texts(&demo.get("/api/runs?limit=500"), "outcome");
    all(
        outcomes,
        &["clean", "clean_with_flake", "partial", "stuck", "catastrophic", "converged", "escaped", "aborted"],
    );
}

#[test]
fn nothing_stays_however_it_is_ended() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut demo = Demo::start(&["--speed", "50"]);
        assert_eq!(demo.folders().len(), 1, "it writes in one folder");
        demo.send(signal);
        assert_eq!(demo.end(), Some(0), "{signal}");
        assert_eq!(demo.folders(), Vec::<PathBuf>::new(), "{signal}");
    }
}

/// A real terminal that is closed: `script` makes one, and its end hangs up.
#[test]
fn nothing_stays_when_its_terminal_goes() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut terminal = Command::new("python3")
        .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_kahn")])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut said = String::new();
    BufReader::new(terminal.stdout.take().expect("stdout")).read_line(&mut said).expect("a line");
    assert!(said.contains(" listens on http://127.0.0.1:"), "{said}");
    assert!(terminal.wait().expect("an end").success());
    wait_for("the folder to go", || entries(temporary.path()).is_empty().then_some(()));
}

/// Starts the demo in a terminal of its own, says its first line, and closes the terminal.
const TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'demo'])
said = b''
while b'\\n' not in said:
    said += os.read(terminal, 4096)
print(said.decode().splitlines()[0], flush=True)
os.close(terminal)
sys.exit(0 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 else 1)
";

#[test]
fn a_kept_archive_stays_and_serves_as_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("demo");
    let place = kept.to_str().expect("a path");
    let mut demo = Demo::start(&["--speed", "1000", "--once", "--keep", place]);
    demo.ended("release-331");
    demo.ended("review-331");
    assert_eq!(demo.folders(), Vec::<PathBuf>::new(), "all of it is in the folder that was named");
    demo.send("-TERM");
    assert_eq!(demo.end(), Some(0));
    assert_eq!(validate(&kept).0, Some(0));
    // It is somebody's now, and nothing is added to it.
    let again = run(&["demo", "--keep", place], &[]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(2));
    assert!(said.contains("it is not empty, and the demo adds nothing to what is there"), "{said}");
}

/// Every log of a kept demo with its times taken out.
fn without_times(seed: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("demo");
    let args = ["--speed", "1000", "--once", "--seed", seed, "--keep", kept.to_str().expect("a path")];
    let demo = Demo::start(&args);
    for run_id in ["release-331", "review-331", "mend-backup-331"] {
        demo.ended(run_id);
    }
    let mut logs: Vec<String> = Vec::new();
    for run in entries(&kept.join("runs")) {
        let Ok(log) = fs::read_to_string(run.join("transitions.jsonl")) else { continue };
        let lines = log.lines().map(|line| {
            let event = parse_line(line.as_bytes()).expect("an event");
            line.replace(&event.ts.to_string(), "")
        });
        logs.push(lines.collect::<Vec<_>>().join("\n"));
    }
    logs.sort();
    logs
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = without_times("7");
    assert!(story.len() > 30, "{}", story.len());
    assert_eq!(story, without_times("7"));
    assert_ne!(story, without_times("8"));
}

/// What the image of this build sets: all addresses of the container, and an archive that the demo leaves alone.
#[test]
fn it_starts_where_a_container_listens_on_all_addresses() {
    let image = [
        ("KAHN_MODE", "oss"),
        ("KAHN_BIND", "0.0.0.0:0"),
        ("KAHN_ALLOW_REMOTE", "true"),
        ("KAHN_ARCHIVE", "/archive"),
        ("KAHN_ALLOWED_HOST", "kahn.local,kahn.test"),
    ];
    let hosts_of = |demo: Demo, hosts: &[&str]| -> Vec<u16> {
        let url = demo.url.replace("0.0.0.0", "127.0.0.1");
        let ask = |host: &&str| request(&url, ("GET", "/healthz"), &[("host", *host)], None).status;
        hosts.iter().map(ask).collect()
    };
    let hosts = ["localhost", "kahn.test", "elsewhere.test"];
    assert_eq!(hosts_of(Demo::start_in(&[], &image), &hosts), [200, 200, 421]);
    let typed = ["--bind", "0.0.0.0:0", "--allow-remote", "--allowed-host", "elsewhere.test"];
    assert_eq!(hosts_of(Demo::start(&typed), &hosts), [200, 421, 200]);
}

#[test]
fn mistakes_of_usage_are_exit_code_2() {
    for (args, said) in [
        (vec!["demo", "--speed", "0"], "--speed (KAHN_DEMO_SPEED) is \"0\", which is no number from 0.1 to 1000"),
        (vec!["demo", "--speed", "fast"], "write it as --speed 2"),
        (vec!["demo", "--bind", "0.0.0.0:0"], "which other machines can reach, and there is no login"),
        (vec!["demo", "--seed", "x"], "invalid value 'x' for '--seed <N>'"),
    ] {
        let temporary = tempfile::tempdir().expect("a folder");
        let output = run(&args, &[("TMPDIR", temporary.path().to_str().expect("a path"))]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{args:?}: {stderr}");
        assert_eq!(entries(temporary.path()), Vec::<PathBuf>::new(), "{args:?}");
    }
}
