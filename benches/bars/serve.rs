//! Serving: hot answers beside actix serving the same bytes from memory, to 64 connections.

use std::fs;
use std::time::Duration;

use crate::archives::Archives;
use crate::http::{self, Load};
use crate::measure::{Row, Verdict, median, pairs, ratio, sides, span};
use crate::process::Process;

const CONNECTIONS: usize = 64;

/// The list, run pages, aggregates.
pub(crate) fn hot(archives: &mut Archives, rows: &mut Vec<Row>) {
    let kahn = Process::serving(&archives.medium());
    let list = "/api/runs?limit=50".to_owned();
    compare(archives, rows, &kahn, ("GET /api/runs?limit=50", &[list], Some(0.8)));
    // A page for each connection: 64 runs that follow each other in the list, both kinds.
    let text = http::get(&kahn.address, "/api/runs?limit=64").expect("it answers").body;
    let page: serde_json::Value = serde_json::from_slice(&text).expect("a list");
    let run_ids = page["items"].as_array().expect("items").iter().filter_map(|row| row["run_id"].as_str());
    let pages: Vec<String> = run_ids.map(|run_id| format!("/api/runs/{run_id}")).collect();
    compare(archives, rows, &kahn, ("GET /api/runs/{id}, 64 runs in turn", &pages, Some(0.6)));
    for (what, path) in [
        ("agents aggregate", "/api/agent-runs/aggregate"),
        ("audit flakiness", "/api/audit-checkpoints/flakiness"),
        ("node flakiness", "/api/nodes/flakiness"),
    ] {
        compare(archives, rows, &kahn, (what, &[path.to_owned()], Some(0.8)));
    }
    // What a page costs when nothing is held: as_of makes each request another one.
    let fresh: Vec<String> = (0..2000)
        .map(|at| format!("/api/runs?limit=50&as_of=2026-11-01T00:{:02}:{:02}.000Z", at / 60, at % 60))
        .collect();
    compare(archives, rows, &kahn, ("the same list, each request another as_of", &fresh, None));
}

fn compare(
    archives: &mut Archives,
    rows: &mut Vec<Row>,
    kahn: &Process,
    (what, paths, bar): (&str, &[String], Option<f64>),
) {
    let folder = archives.empty("bodies");
    let mut bytes = 0;
    for (at, path) in paths.iter().enumerate() {
        let answer = http::get(&kahn.address, path).expect("kahn answers");
        if answer.status != 200 {
            rows.push(Row::open(what, format!("{path} answers {}", answer.status)));
            return;
        }
        bytes += answer.body.len();
        fs::write(folder.join(at.to_string()), &answer.body).expect("a file");
    }
    fs::write(folder.join("index"), paths.join("\n")).expect("a file");
    let bare = Process::part(&["part-serve", &folder.display().to_string()]);
    let time = Duration::from_millis(archives.times(1500) as u64);
    let measured = |server: &Process| {
        let before = server.cpu_s();
        let load = http::load(&server.address, paths, CONNECTIONS, time);
        (load, (server.cpu_s() - before) / (load.per_second * time.as_secs_f64()))
    };
    let figures = pairs(archives.times(9), |_| measured(&bare), |_| measured(kahn));
    let of = |figure: fn(&(Load, f64)) -> f64| -> Vec<(f64, f64)> {
        figures.iter().map(|(bare, kahn)| (figure(bare), figure(kahn))).collect()
    };
    let (rate, p99, cpu) = (of(|(load, _)| load.per_second), of(|(load, _)| load.p99_s), of(|(_, cpu)| *cpu));
    let what = format!("{what} ({:.1} KB)", bytes as f64 / paths.len() as f64 / 1e3);
    let per_second = |rate: f64| format!("{rate:.0}/s");
    let cpu_ratio = ratio(&cpu);
    match bar {
        Some(bar) => rows.push(Row::at_least(&what, sides(&rate, per_second), ratio(&rate), bar)),
        None => {
            let (limit, kahn) = sides(&rate, per_second);
            let ratio = format!("{:.2}x", ratio(&rate));
            let verdict = Verdict::Open("no bar".into());
            rows.push(Row { what: what.clone(), limit, kahn, ratio, bar: "-".into(), verdict });
        }
    }
    if bar.is_some() {
        rows.push(Row::at_most(&format!("{what}: p99"), sides(&p99, span), ratio(&p99), 2.0));
    }
    eprintln!(
        "{what}: server CPU a request {cpu_ratio:.2}x ({} us)",
        (median(&cpu.iter().map(|(_, kahn)| kahn * 1e6).collect::<Vec<_>>())).round()
    );
}
