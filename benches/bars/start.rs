//! Starting: cold, with index.json, and what one changed run costs afterwards.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::archives::Archives;
use crate::generate;
use crate::measure::{Row, median, pairs, ratio, seconds, sides, span};
use crate::process::Process;

const INDEX: &str = "index.json";

/// Cold starts: without index.json, until GET /api/runs answers.
pub(crate) fn cold(archives: &mut Archives, rows: &mut Vec<Row>) {
    for (name, root, count) in [("M", archives.medium(), archives.times(7)), ("L", archives.large(), archives.times(3))]
    {
        let figures = pairs(count, |_| reduced_s(&root), |_| cold_s(&root));
        rows.push(Row::at_most(
            &format!("cold start on {name}, without index.json"),
            sides(&figures, span),
            ratio(&figures),
            1.3,
        ));
    }
}

fn reduced_s(root: &Path) -> f64 {
    Process::part(&["part-reduce", &root.display().to_string()]).start_s
}

fn cold_s(root: &Path) -> f64 {
    let _ = fs::remove_file(root.join(INDEX));
    Process::serving(root).start_s
}

/// Starts that find index.json.
pub(crate) fn with_index(archives: &mut Archives, rows: &mut Vec<Row>) {
    const WHAT: &str = "start with index.json on M";
    let root = archives.medium();
    Process::serving(&root).terminate();
    if !root.join(INDEX).exists() {
        rows.push(Row::open(WHAT, "there is no index.json yet"));
        return;
    }
    let figures = pairs(
        archives.times(11),
        |_| Process::part(&["part-walk", &root.display().to_string()]).start_s,
        |_| Process::serving(&root).start_s,
    );
    rows.push(Row::at_most(WHAT, sides(&figures, span), ratio(&figures), 3.0));
}

/// What a change of one run costs the server, among many runs and among few: seconds of CPU a change, idling subtracted.
pub(crate) fn one_changed(archives: &mut Archives, rows: &mut Vec<Row>) {
    let (few, many) = (archives.few(), archives.medium());
    let time = Duration::from_secs(archives.times(6) as u64);
    let servers = [Changing::start(&few), Changing::start(&many)];
    let [few, many] = &servers;
    let figures = pairs(archives.times(3), |_| few.cost(time), |_| many.cost(time));
    let changed: Vec<(f64, f64)> = figures.iter().map(|(few, many)| (few.change_s, many.change_s)).collect();
    rows.push(Row::at_most(
        "one run changed: CPU a change, among 10,000 runs beside among 100",
        sides(&changed, span),
        ratio(&changed),
        1.5,
    ));
    let idle: Vec<f64> = figures.iter().map(|(_, many)| many.idle_share * 100.0).collect();
    let few: Vec<f64> = figures.iter().map(|(few, _)| few.idle_share * 100.0).collect();
    rows.push(Row {
        what: "idle with 10,000 runs beside 100: share of a core".into(),
        limit: format!("{:.2} %", median(&few)),
        kahn: format!("{:.2} %", median(&idle)),
        ratio: "-".into(),
        bar: "-".into(),
        verdict: crate::measure::Verdict::Open("no bar".into()),
    });
}

struct Cost {
    change_s: f64,
    idle_share: f64,
}

/// A server, and a live run of its archive.
struct Changing {
    server: Process,
    log: File,
}

impl Changing {
    fn start(root: &Path) -> Self {
        let folder = root.join("runs/changing");
        fs::create_dir_all(&folder).expect("a run folder");
        fs::write(folder.join("transitions.jsonl"), generate::run_start("changing")).expect("a log");
        let server = Process::serving(root);
        let log = File::options().append(true).open(folder.join("transitions.jsonl")).expect("a log");
        Self { server, log }
    }

    fn cost(&self, time: Duration) -> Cost {
        const PAUSE: Duration = Duration::from_millis(25);
        let idle = self.spent_s(|| std::thread::sleep(time)) / time.as_secs_f64();
        let changes = (time.as_secs_f64() / PAUSE.as_secs_f64()) as u64;
        let mut elapsed = 0.0;
        let spent = self.spent_s(|| {
            elapsed = seconds(|| {
                for seq in 0..changes {
                    let mut log = &self.log;
                    log.write_all(generate::heartbeat("changing", seq, "", 0).as_bytes()).expect("a disk");
                    std::thread::sleep(PAUSE);
                }
            });
        });
        Cost { change_s: ((spent - idle * elapsed) / changes as f64).max(1e-7), idle_share: idle }
    }

    fn spent_s(&self, work: impl FnOnce()) -> f64 {
        let before = self.server.cpu_s();
        work();
        self.server.cpu_s() - before
    }
}
