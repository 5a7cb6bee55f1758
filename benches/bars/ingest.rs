//! Durable ingest over HTTP, beside a bare append and fdatasync of the same batches.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use crate::archives::Archives;
use crate::generate;
use crate::http::Connection;
use crate::measure::{Row, pairs, ratio, sides};
use crate::process::Process;

/// One producer, and eight at once; 500 events a batch.
pub(crate) fn durable(archives: &mut Archives, rows: &mut Vec<Row>) {
    let root = archives.empty("ingested");
    let kahn = Process::serving(&root);
    for (producers, batches) in [(1, 20), (8, 6)] {
        let figures = pairs(
            archives.times(9),
            |round| bare_per_s(&root, (producers, batches), round),
            |round| kahn_per_s(&kahn.address, (producers, batches), round),
        );
        rows.push(Row::at_least(
            &format!("durable ingest, batches of 500, {producers} producer{}", if producers == 1 { "" } else { "s" }),
            sides(&figures, |rate| format!("{rate:.0} events/s")),
            ratio(&figures),
            0.7,
        ));
    }
}

/// Events of a batch.
pub(crate) const BATCH: usize = 500;

/// The batches of one producer's run.
pub(crate) fn batches(run_id: &str, count: usize) -> Vec<String> {
    generate::agent_lines(run_id, BATCH * count).chunks(BATCH).map(<[String]>::concat).collect()
}

/// Events a second when every producer does `each` with the batches of its run.
pub(crate) fn per_second(
    producers: usize,
    count: usize,
    name: impl Fn(usize) -> String,
    each: impl Fn(&str, Vec<String>) + Sync,
) -> f64 {
    let runs: Vec<(String, Vec<String>)> =
        (0..producers).map(name).map(|run_id| (run_id.clone(), batches(&run_id, count))).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (run_id, batches) in runs {
            let each = &each;
            scope.spawn(move || each(&run_id, batches));
        }
    });
    (producers * count * BATCH) as f64 / begun.elapsed().as_secs_f64()
}

fn bare_per_s(root: &Path, (producers, count): (usize, usize), round: usize) -> f64 {
    let folder = root.join("bare");
    std::fs::create_dir_all(&folder).expect("a folder");
    per_second(
        producers,
        count,
        |producer| format!("bare-{producers}-{round}-{producer}"),
        |run_id, batches| {
            let mut log = File::options().append(true).create(true).open(folder.join(run_id)).expect("a log");
            for batch in batches {
                log.write_all(batch.as_bytes()).and_then(|()| log.sync_data()).expect("a disk");
            }
        },
    )
}

fn kahn_per_s(address: &str, (producers, count): (usize, usize), round: usize) -> f64 {
    per_second(
        producers,
        count,
        |producer| format!("run-{producers}-{round}-{producer}"),
        |_, batches| {
            let mut connection = Connection::open(address).expect("it listens");
            for (at, batch) in batches.iter().enumerate() {
                let path = format!("/v1/ingest/transitions?from_seq={}", at * BATCH);
                let answer = connection.post(&path, batch.as_bytes()).expect("it answers");
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            }
        },
    )
}
