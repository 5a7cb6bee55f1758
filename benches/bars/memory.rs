//! Resident memory: everything loaded beside the bare reducer's; and hostile or merely large archives.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::archives::Archives;
use crate::generate;
use crate::http::Connection;
use crate::measure::{Row, Verdict, megabytes};
use crate::process::Process;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Memory with M and L loaded: each page of the list and each run's page was asked for.
pub(crate) fn loaded(archives: &mut Archives, rows: &mut Vec<Row>) {
    const GROWTH: &str = "memory growth per further 10,000 runs (M to L)";
    let medium = archives.medium();
    let bare = Process::part(&["part-reduce", &medium.display().to_string()]).resident();
    let (of_medium, runs) = everything_asked_for(&medium);
    let bar = 1.5 * bare + 20e6;
    rows.push(Row {
        what: "memory on M, everything loaded".into(),
        limit: megabytes(bare),
        kahn: megabytes(of_medium),
        ratio: format!("{:.2}x", of_medium / bare),
        bar: format!("<= 1.5x + 20 MB = {}", megabytes(bar)),
        verdict: Verdict::of(of_medium <= bar),
    });
    // States and answers are held up to a bound that a tenth of M has not reached and a tenth of L has: the difference of
    // the two would be that bound, not what a run takes.
    if archives.is_quick() {
        rows.push(Row::open(GROWTH, "not shown with --quick: the archives are too small"));
        return;
    }
    let (of_large, more) = everything_asked_for(&archives.large());
    let growth = (of_large - of_medium) / (more - runs) as f64 * 10_000.0;
    rows.push(Row::absolute(GROWTH, megabytes(growth), "<= 40 MB", growth <= 40e6));
}

/// Resident bytes once every row and every run's page was answered, and how many runs there are.
fn everything_asked_for(root: &Path) -> (f64, usize) {
    let server = Process::serving(root);
    let mut connection = Connection::open(&server.address).expect("it listens");
    let mut path = "/api/runs?limit=500".to_owned();
    let mut run_ids: Vec<String> = Vec::new();
    loop {
        let body = connection.get(&path).expect("it answers").body;
        let page: serde_json::Value = serde_json::from_slice(&body).expect("a list");
        let items = page["items"].as_array().expect("items");
        run_ids.extend(items.iter().filter_map(|row| row["run_id"].as_str()).map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/runs?limit=500&cursor={cursor}"),
            None => break,
        }
    }
    for run_id in &run_ids {
        connection.get(&format!("/api/runs/{run_id}")).expect("it answers");
    }
    (server.resident(), run_ids.len())
}

/// The most memory while L is read cold, while a line of 64 MB is, while a sparse file of 2 GB is.
pub(crate) fn bounded(archives: &mut Archives, rows: &mut Vec<Row>) {
    let most = 256.0 * MEBIBYTE;
    let mut peak = |what: &str, root: &Path| {
        let _ = fs::remove_file(root.join("index.json"));
        let peak = Process::serving(root).peak();
        rows.push(Row::absolute(what, megabytes(peak), "<= 256 MiB", peak <= most));
    };
    let large = archives.large();
    peak("memory at its peak: cold start on L, 1 GB", &large);
    let long = archives.empty("long-line");
    let log = run_log(&long);
    fs::write(&log, generate::run_start("odd") + &"x".repeat(64 << 20) + "\n" + &generate::heartbeat("odd", 1, "", 0))
        .expect("a log");
    peak("the same: a line of 64 MB", &long);
    let sparse = archives.empty("sparse");
    let mut log = File::create(run_log(&sparse)).expect("a log");
    log.write_all(generate::run_start("odd").as_bytes()).and_then(|()| log.set_len(2 << 30)).expect("a disk");
    peak("the same: a sparse file of 2 GB", &sparse);
}

fn run_log(root: &Path) -> std::path::PathBuf {
    let folder = root.join("runs/odd");
    fs::create_dir_all(&folder).expect("a run folder");
    folder.join("transitions.jsonl")
}
