//! A tenant of 100,000 runs beside one of 10,000, and the memory that answering for it takes.

use std::fs;
use std::path::Path;

use kahn::domain::parse_line;

use crate::archives::Archives;
use crate::database::{Cluster, Tenant};
use crate::http::Connection;
use crate::many::{self, Side};
use crate::measure::{Row, megabytes};

/// Lines of a request, and its bytes: half of what the server takes.
const LINES: usize = 5000;
const BYTES: usize = 4 * 1024 * 1024;

/// What `KAHN_MEMORY_MB` is when nobody sets it.
const MEMORY: f64 = 256e6;

/// Pages, filters, sorts, aggregates; then what the server holds.
pub(crate) fn many_runs(cluster: &Cluster, archives: &mut Archives, rows: &mut Vec<Row>) {
    let database = cluster.database();
    let tenants = ["few", "many"].map(|name| database.tenant(name));
    let folders = archives.short();
    let loader = database.serve();
    for (tenant, folder) in tenants.iter().zip(&folders) {
        load(&loader.address, tenant, folder, usize::MAX);
    }
    loader.terminate();
    cluster.runtime.block_on(database.owner().batch_execute("VACUUM ANALYZE")).expect("it is allowed");
    let kahn = database.serve();
    let before = kahn.resident();
    let from = rows.len();
    let sides = tenants
        .each_ref()
        .map(|tenant| Side::open(Connection::with_fields(&kahn.address, &tenant.read).expect("it listens")));
    many::compare(archives, rows, sides);
    for row in &mut rows[from..] {
        row.what = format!("one tenant, {}", row.what);
    }
    let grown = kahn.peak() - before;
    rows.push(Row::absolute(
        "memory that answering for 100,000 runs took, at its peak",
        megabytes(grown),
        "<= KAHN_MEMORY_MB (256)",
        grown <= MEMORY,
    ));
}

/// Sends the runs of an archive, at most so many, several in a request; what is no event of its run is left out. The run
/// ids that were sent.
pub(crate) fn load(address: &str, tenant: &Tenant, archive: &Path, at_most: usize) -> Vec<String> {
    let mut connection = Connection::with_fields(address, &tenant.ingest).expect("it listens");
    let mut run_ids = Vec::new();
    let (mut batch, mut lines) = (Vec::new(), 0);
    let mut folders: Vec<_> = fs::read_dir(archive.join("runs")).expect("an archive").flatten().collect();
    folders.sort_by_key(|entry| entry.file_name());
    for folder in folders.into_iter().take(at_most) {
        let run_id = folder.file_name().into_string().expect("a name");
        let log = fs::read(folder.path().join("transitions.jsonl")).expect("a log");
        let whole = log.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let kept: Vec<&[u8]> = whole
            .filter(|line| parse_line(&line[..line.len() - 1]).is_ok_and(|event| event.run_id == run_id))
            .collect();
        if kept.is_empty() {
            continue;
        }
        if lines + kept.len() > LINES || batch.len() > BYTES {
            post(&mut connection, &std::mem::take(&mut batch));
            lines = 0;
        }
        lines += kept.len();
        batch.extend(kept.concat());
        run_ids.push(run_id);
    }
    if !batch.is_empty() {
        post(&mut connection, &batch);
    }
    run_ids
}

fn post(connection: &mut Connection, batch: &[u8]) {
    let answer = connection.post("/v1/ingest/transitions", batch).expect("it answers");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}
