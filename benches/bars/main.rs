//! `cargo bench --bench bars`: every figure that kahn means to reach, with its limit measured beside it.
//!
//! Machines are noisy, so a figure is a ratio: both sides in turn, A B A B, and the median of the pairs. The table goes to
//! standard output and, with `--write`, between the marks of docs/performance.md.
//!
//! - `--quick`: a tenth of the archives, a third of the rounds.
//! - `--only NAME`: rows of one group; may be repeated. `--list` names the groups.
//! - `load ADDRESS PATH SECONDS`: only asks, so that a server can be profiled under it.
//! - `generate DIR --runs N [--short] [--seed S]`: only writes an archive.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench prints, rounds, and stops where it cannot go on"
)]

mod archives;
mod generate;
mod http;
mod ingest;
mod limits;
mod live;
mod long;
mod many;
mod measure;
mod memory;
mod process;
mod serve;
mod size;
mod sockets;
mod start;
mod websocket;

use std::path::Path;

use archives::Archives;
use measure::{HEAD, Row};

type Group = (&'static str, fn(&mut Archives, &mut Vec<Row>));

/// The groups of rows, in the order of the table.
const GROUPS: &[Group] = &[
    ("size", size::binary),
    ("index", start::with_index),
    ("change", start::one_changed),
    ("serve", serve::hot),
    ("live", live::append_to_frame),
    ("ingest", ingest::durable),
    ("long", long::pages),
    ("sockets", sockets::crowd),
    ("many", many::runs),
    ("cold", start::cold),
    ("memory", memory::loaded),
    ("bounded", memory::bounded),
];

fn main() {
    // cargo adds --bench.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["part-reduce", root] => limits::reduce(Path::new(root)),
        ["part-walk", root] => limits::walk(Path::new(root)),
        ["part-serve", folder] => limits::serve_from_memory(Path::new(folder)),
        ["part-follow", file] => limits::follow(Path::new(file)),
        ["part-crowd", address, healthy, stuck] => {
            let count = |text: &str| text.parse().expect("a number");
            sockets::clients(address, count(healthy), count(stuck));
        }
        ["generate", root, options @ ..] => generate_only(Path::new(root), options),
        ["load", address, path, seconds] => {
            let time = std::time::Duration::from_secs(seconds.parse().expect("seconds"));
            println!("{:?}", http::load(address, &[(*path).to_owned()], 64, time));
        }
        ["--list"] => GROUPS.iter().for_each(|(name, _)| println!("{name}")),
        options => measure_all(options),
    }
}

fn generate_only(root: &Path, options: &[&str]) {
    let value = |name: &str| {
        let at = options.iter().position(|option| *option == name)?;
        options.get(at + 1)?.parse::<u64>().ok()
    };
    let length = if options.contains(&"--short") { generate::Length::Short } else { generate::Length::Usual };
    let runs = usize::try_from(value("--runs").unwrap_or(10_000)).expect("a count");
    let made = generate::archive(root, generate::Plan { runs, length, seed: value("--seed").unwrap_or(1) });
    println!("{runs} runs, {} events, {} bytes", made.events, made.bytes);
}

fn measure_all(options: &[&str]) {
    let only: Vec<&str> = options.windows(2).filter(|pair| pair[0] == "--only").map(|pair| pair[1]).collect();
    let unknown = only.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name));
    assert!(unknown.is_none(), "no group {unknown:?}; --list names them");
    let mut archives = Archives::new(options.contains(&"--quick"));
    let mut rows = Vec::new();
    println!("{HEAD}");
    for (name, group) in GROUPS.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let begun = std::time::Instant::now();
        let from = rows.len();
        group(&mut archives, &mut rows);
        rows[from..].iter().for_each(|row| println!("{}", row.markdown()));
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    measure::sum_up(&rows);
    if options.contains(&"--write") {
        measure::write_table(&rows, "bars");
    }
}
