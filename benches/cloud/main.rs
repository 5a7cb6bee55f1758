//! `cargo bench --bench cloud --no-default-features --features cloud`: the figures of the cloud build, each beside its limit.
//!
//! It starts a PostgreSQL cluster of its own (`tests/cluster`) on the disk that the project is on, with fsync on.
//!
//! - `--quick`: a tenth of the runs, a third of the rounds.
//! - `--only NAME`: rows of one group; may be repeated. `--list` names the groups.
//! - `--write`: puts the table between the marks of docs/performance.md.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench prints, rounds, and stops where it cannot go on"
)]

macro_rules! of_the_other_bench {
    ($($name:ident = $path:literal),+ $(,)?) => {$(
        #[path = $path]
        #[allow(dead_code, clippy::allow_attributes, reason = "what the other bench uses of it")]
        mod $name;
    )+};
}

of_the_other_bench!(
    archives = "../bars/archives.rs",
    generate = "../bars/generate.rs",
    http = "../bars/http.rs",
    ingest = "../bars/ingest.rs",
    live = "../bars/live.rs",
    many = "../bars/many.rs",
    measure = "../bars/measure.rs",
    process = "../bars/process.rs",
    size = "../bars/size.rs",
    websocket = "../bars/websocket.rs",
);

mod airlock;
mod append;
mod database;
mod door;
mod pages;
mod replica;
mod tenants;

use archives::Archives;
use database::Cluster;
use measure::{HEAD, Row};

type Group = (&'static str, fn(&Cluster, &mut Archives, &mut Vec<Row>));

/// The groups of rows, in the order of the table.
const GROUPS: &[Group] = &[
    ("size", |_, archives, rows| size::stripped(archives, rows, ("binary, stripped (cloud)", 13.0))),
    ("ingest", append::ingest),
    ("pages", pages::beside_the_query),
    ("door", door::at_the_door),
    ("replica", replica::commit_to_frame),
    ("tenants", tenants::many_runs),
];

fn main() {
    // cargo adds --bench.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let options: Vec<&str> = args.iter().map(String::as_str).collect();
    if options.contains(&"--list") {
        GROUPS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    }
    let only: Vec<&str> = options.windows(2).filter(|pair| pair[0] == "--only").map(|pair| pair[1]).collect();
    let unknown = only.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name));
    assert!(unknown.is_none(), "no group {unknown:?}; --list names them");
    let mut archives = Archives::new(options.contains(&"--quick"));
    let cluster = Cluster::start();
    let mut rows = Vec::new();
    println!("{HEAD}");
    for (name, group) in GROUPS.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let begun = std::time::Instant::now();
        let from = rows.len();
        group(&cluster, &mut archives, &mut rows);
        rows[from..].iter().for_each(|row| println!("{}", row.markdown()));
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    measure::sum_up(&rows);
    if options.contains(&"--write") {
        measure::write_table(&rows, "cloud");
    }
}
