//! Runs of 50,000 events: their pages, hot and from a cold file.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::Advice;

use crate::archives::Archives;
use crate::generate;
use crate::http::Connection;
use crate::measure::{Row, Verdict, quantile, seconds, span};
use crate::process::Process;

/// State, first 500 events, diagnostics.
pub(crate) fn pages(archives: &mut Archives, rows: &mut Vec<Row>) {
    let root = archives.empty("long");
    let run_ids = generate::big_runs(&root, 50_000);
    // The second start finds what the first one left.
    Process::serving(&root).terminate();
    for (what, page) in [("state", ""), ("first 500 events", "/events"), ("diagnostics", "/diagnostics")] {
        let path = |run_id: &str| format!("/api/runs/{run_id}{page}");
        let mut cold: f64 = 0.0;
        for _ in 0..archives.times(3) {
            for run_id in run_ids {
                drop_from_cache(&root, run_id);
                // A start must not warm what the request then finds.
                let server = Process::serving(&root);
                drop_from_cache(&root, run_id);
                cold = cold.max(once(&mut Connection::open(&server.address).expect("it listens"), &path(run_id)));
                server.terminate();
            }
        }
        let server = Process::serving(&root);
        let mut connection = Connection::open(&server.address).expect("it listens");
        let status = connection.get(&path(run_ids[0])).expect("it answers").status;
        let what = format!("a run of 50,000 events: {what}");
        if status != 200 {
            rows.push(Row::open(&what, format!("it answers {status}")));
            continue;
        }
        let hot = run_ids.map(|run_id| {
            once(&mut connection, &path(run_id));
            quantile(&(0..archives.times(30)).map(|_| once(&mut connection, &path(run_id))).collect::<Vec<_>>(), 0.9)
        });
        let hot = hot[0].max(hot[1]);
        rows.push(Row {
            what,
            limit: "-".into(),
            kahn: format!("hot {}, cold {}", span(hot), span(cold)),
            ratio: "-".into(),
            bar: "hot < 50 ms, cold < 300 ms".into(),
            verdict: Verdict::of(hot < 0.050 && cold < 0.300),
        });
    }
}

fn once(connection: &mut Connection, path: &str) -> f64 {
    seconds(|| {
        let _ = connection.get(path).expect("it answers");
    })
}

/// Lets the system forget the pages of a run's files.
fn drop_from_cache(root: &Path, run_id: &str) {
    for entry in fs::read_dir(root.join("runs").join(run_id)).expect("a run folder") {
        let file = File::open(entry.expect("an entry").path()).expect("a file");
        file.sync_all().expect("a disk");
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("a file");
    }
}
