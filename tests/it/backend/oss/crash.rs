//! What happens to an archive when the server is killed, a call of the system fails, or a file is huge.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::support::{Answer, PATIENCE, Server, kahn, request, wait_for};

fn line(run: &str, number: u64) -> String {
    match number {
        0 => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"run_start","total_nodes":1}}"#),
        _ => {
            format!(r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"{run}","event":"heartbeat","n":{number}}}"#)
        }
    }
}

fn lines(run: &str, seqs: std::ops::Range<u64>) -> String {
    seqs.map(|number| line(run, number) + "\n").collect()
}

/// An archive with a server over it, which may be another one later.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn log(&self, run: &str) -> PathBuf {
        self.archive().join("runs").join(run).join("transitions.jsonl")
    }

    fn serve(&self) -> Server {
        Server::start(&["serve", "--bind", "127.0.0.1:0", "--archive", &self.archive().display().to_string()], &[])
    }

    /// A server one of whose calls of the system fails: the tracer stands aside, so that the child is kahn itself.
    fn serve_failing(&self, inject: &str, path: Option<&Path>) -> Server {
        let archive = self.archive().display().to_string();
        let args = ["serve", "--bind", "127.0.0.1:0", "--archive", archive.as_str()];
        let mut command = Command::new("strace");
        // Variables of whoever runs the tests steer nothing.
        kahn(&[], &[]).get_envs().filter(|(_, value)| value.is_none()).for_each(|(name, _)| {
            command.env_remove(name);
        });
        let calls = inject.split(':').next().unwrap_or_default();
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={inject}")]);
        if let Some(path) = path {
            command.arg("-P").arg(path);
        }
        command.arg(env!("CARGO_BIN_EXE_kahn")).args(args);
        Server::of(command, &args, &[])
    }
}

fn get(server: &Server, path: &str) -> Answer {
    request(&server.url, ("GET", path), &[], None)
}

fn events(server: &Server, run: &str) -> String {
    let mut text = String::new();
    loop {
        let path = format!("/api/runs/{run}/events?limit=5000&from_seq={}", text.lines().count());
        let answer = get(server, &path);
        if answer.status != 200 || answer.body.is_empty() {
            return text;
        }
        text.push_str(&answer.text());
    }
}

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

fn post(server: &Server, run: &str, seqs: std::ops::Range<u64>) -> Answer {
    let path = format!("/v1/ingest/transitions?from_seq={}", seqs.start);
    request(&server.url, ("POST", &path), &NDJSON, Some(lines(run, seqs).as_bytes()))
}

/// The same to a server that may be killed meanwhile: whether it said 200.
fn is_acknowledged(url: &str, run: &str, seqs: std::ops::Range<u64>) -> bool {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let sent = agent
        .post(format!("{url}/v1/ingest/transitions?from_seq={}", seqs.start))
        .header("content-type", "application/x-ndjson")
        .send(lines(run, seqs));
    sent.is_ok_and(|answer| answer.status() == 200)
}

/// How often the server is killed; more by hand: CRASHES=100.
#[expect(clippy::disallowed_methods, reason = "for whoever runs this test by hand")]
fn crashes() -> u64 {
    std::env::var("CRASHES").ok().and_then(|crashes| crashes.parse().ok()).unwrap_or(5)
}

/// Acknowledged = stored, and stored once, whenever the server dies.
#[test]
fn killed_in_the_middle_of_ingest_it_loses_and_doubles_nothing() {
    const RUNS: [&str; 3] = ["a", "b", "c"];
    const BATCH: u64 = 7;
    let home = Home::new();
    let mut sent = [0_u64; RUNS.len()];
    for crash in 0..crashes() {
        let mut server = home.serve();
        let url = server.url.clone();
        let acknowledged = AtomicU64::new(0);
        let most = 2 + (crash * 37) % 90;
        let acks: Vec<u64> = std::thread::scope(|scope| {
            let producers: Vec<_> = RUNS
                .iter()
                .zip(sent)
                .map(|(run, from)| {
                    let (url, acknowledged) = (url.clone(), &acknowledged);
                    scope.spawn(move || {
                        let mut next = from;
                        while is_acknowledged(&url, run, next..next + BATCH) {
                            next += BATCH;
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        next
                    })
                })
                .collect();
            wait_for("acknowledged batches", || (acknowledged.load(Ordering::Relaxed) >= most).then_some(()));
            server.kill();
            producers.into_iter().map(|producer| producer.join().expect("a producer")).collect()
        });
        let server = home.serve();
        for ((run, acknowledged), sent) in RUNS.iter().zip(acks).zip(&mut sent) {
            let stored = events(&server, run);
            let count = stored.lines().count() as u64;
            assert_eq!(stored, lines(run, 0..count), "{run} after crash {crash}: each line once, in order");
            // What was not acknowledged may be there, or part of it.
            assert!(
                (acknowledged..=acknowledged + BATCH).contains(&count),
                "{run}: {count} of {acknowledged} acknowledged"
            );
            // A sender that heard nothing sends its batch again.
            let again = post(&server, run, acknowledged..acknowledged + BATCH).json();
            let number = |name: &str| again[name].as_u64().expect("a number");
            assert_eq!(
                (number("accepted") + number("duplicates"), number("duplicates")),
                (BATCH, count - acknowledged)
            );
            *sent = acknowledged + BATCH;
            assert_eq!(events(&server, run), lines(run, 0..*sent));
        }
        assert_eq!(server.terminate(), Some(0));
    }
    // The files say the same, whatever index.json does.
    for (run, sent) in RUNS.iter().zip(sent) {
        let log = fs::read_to_string(home.log(run)).expect("a log");
        let kept: String = log.lines().filter(|line| line.ends_with('}')).map(|line| format!("{line}\n")).collect();
        assert_eq!(kept, lines(run, 0..sent));
    }
}

/// Sends the same until it is taken; the call fails once in each thread. Returns how often it was refused.
fn until_taken(inject: &str, send: impl Fn() -> u16) -> u64 {
    let refused = AtomicU64::new(0);
    wait_for("the same again to be taken", || match send() {
        200 | 201 => Some(()),
        507 => {
            refused.fetch_add(1, Ordering::Relaxed);
            None
        }
        status => panic!("{inject}: {status}"),
    });
    refused.into_inner()
}

/// A call of the system that fails: nothing is acknowledged that is not stored, the server goes on, and the same again
/// then works.
#[test]
fn each_failing_call_of_a_write_refuses_the_batch_and_no_more() {
    // What fails, for which path, and what the sender is told.
    let cases = [
        ("write:error=ENOSPC:when=1", Some("log")),
        ("write:error=EIO:when=1", Some("log")),
        ("write:retval=20:when=1", Some("log")),
        ("fdatasync:error=EIO:when=1", None),
        ("fdatasync:error=ENOSPC:when=1", None),
    ];
    for (inject, path) in cases {
        let home = Home::new();
        let plain = home.serve();
        assert_eq!(post(&plain, "r", 0..5).status, 200);
        assert_eq!(plain.terminate(), Some(0));
        let log = home.log("r");
        let server = home.serve_failing(inject, path.map(|_| log.as_path()));
        assert_eq!(post(&server, "r", 5..9).problem(), (507, "no_space".into()), "{inject}");
        assert!(lines("r", 0..9).starts_with(&events(&server, "r")), "{inject}: reads go on");
        let again = || post(&server, "r", 5..9);
        until_taken(inject, || again().status);
        assert_eq!(events(&server, "r"), lines("r", 0..9), "{inject}");
        drop(server);
        assert_eq!(events(&home.serve(), "r"), lines("r", 0..9), "{inject}: after a restart");
    }
}

/// The same for what makes a new run: its folder, its mark, its graph.
#[test]
fn each_failing_call_that_makes_a_run_leaves_one_that_can_be_made() {
    const GRAPH: &[u8] = br#"{"version":1,"nodes":[]}"#;
    let cases = [
        "mkdirat:error=ENOSPC:when=1",
        "fsync:error=EIO:when=1",
        "fsync:error=EIO:when=2",
        "fsync:error=EIO:when=3",
        "fsync:error=EIO:when=4",
        "linkat:error=EIO:when=1",
        "unlinkat:error=EIO:when=1",
    ];
    for inject in cases {
        let home = Home::new();
        fs::create_dir_all(home.archive().join("runs")).expect("an archive");
        let server = home.serve_failing(inject, None);
        let put = || {
            let path = ("PUT", "/v1/ingest/runs/r/graph");
            request(&server.url, path, &[("content-type", "application/json")], Some(GRAPH)).status
        };
        assert!(until_taken(inject, put) > 0, "{inject}: nothing failed");
        until_taken(inject, || post(&server, "r", 0..3).status);
        until_taken(inject, put);
        assert_eq!(events(&server, "r"), lines("r", 0..3), "{inject}");
        drop(server);
        let server = home.serve();
        assert_eq!(events(&server, "r"), lines("r", 0..3), "{inject}");
        assert_eq!(get(&server, "/api/runs/r/graph").body, GRAPH, "{inject}");
    }
}

/// index.json that cannot be written costs the next start some reading, and nothing else.
#[test]
fn an_index_that_cannot_be_written_is_no_fault() {
    for inject in ["rename,renameat,renameat2:error=EIO:when=1", "unlinkat:error=EACCES:when=1"] {
        let home = Home::new();
        fs::create_dir_all(home.archive().join("runs/r")).expect("a run folder");
        fs::write(home.log("r"), lines("r", 0..3)).expect("a log");
        let server = home.serve_failing(inject, None);
        assert_eq!(events(&server, "r"), lines("r", 0..3));
        assert_eq!(server.terminate(), Some(0), "{inject}");
        let names: Vec<_> =
            fs::read_dir(home.archive()).expect("a folder").map(|e| e.expect("it").file_name()).collect();
        assert_eq!(names, ["runs"], "{inject}: nothing half made is left");
        assert_eq!(events(&home.serve(), "r"), lines("r", 0..3));
    }
}

/// A file that cannot be read now is read later.
#[test]
fn a_log_that_cannot_be_read_for_a_moment_is_shown_once_it_can() {
    for inject in ["openat:error=EMFILE:when=1", "openat:error=EACCES:when=1", "pread64:error=EIO:when=1"] {
        let home = Home::new();
        for run in ["r", "well"] {
            fs::create_dir_all(home.archive().join("runs").join(run)).expect("a run folder");
            fs::write(home.log(run), lines(run, 0..3)).expect("a log");
        }
        let server = home.serve_failing(inject, Some(&home.log("r")));
        assert_eq!(events(&server, "well"), lines("well", 0..3), "{inject}");
        wait_for("the run", || (events(&server, "r") == lines("r", 0..3)).then_some(()));
    }
}

/// Without inotify the poll alone notices everything.
#[test]
fn where_the_system_tells_nothing_the_poll_notices_everything() {
    for inject in ["inotify_init1:error=EMFILE", "inotify_add_watch:error=ENOSPC"] {
        let home = Home::new();
        let server = home.serve_failing(inject, None);
        fs::create_dir_all(home.archive().join("runs/r")).expect("a run folder");
        fs::write(home.log("r"), lines("r", 0..1)).expect("a log");
        wait_for("a new archive", || (events(&server, "r") == lines("r", 0..1)).then_some(()));
        let mut log = File::options().append(true).open(home.log("r")).expect("a log");
        for count in 2..4 {
            log.write_all((line("r", count - 1) + "\n").as_bytes()).expect("it takes a line");
            wait_for("a line", || (events(&server, "r") == lines("r", 0..count)).then_some(()));
        }
        fs::create_dir(home.archive().join("runs/s")).expect("a run folder");
        fs::write(home.log("s"), lines("s", 0..2)).expect("a log");
        wait_for("a new run", || (events(&server, "s") == lines("s", 0..2)).then_some(()));
        fs::write(home.archive().join("runs/s/aside"), lines("s", 0..1)).expect("a file");
        fs::rename(home.archive().join("runs/s/aside"), home.log("s")).expect("another log");
        wait_for("a replaced log", || (events(&server, "s") == lines("s", 0..1)).then_some(()));
        fs::rename(home.archive().join("runs"), home.archive().join("away")).expect("a folder");
        wait_for("an empty list", || (get(&server, "/api/runs").json()["total"] == 0).then_some(()));
        fs::rename(home.archive().join("away"), home.archive().join("runs")).expect("a folder");
        wait_for("both runs", || (get(&server, "/api/runs").json()["total"] == 2).then_some(()));
    }
}

/// A batch that was torn off when the server died is sent again: wherever it was cut, the log becomes what was sent. A line
/// with spaces behind it is an event too when it is cut within them.
#[test]
fn a_line_that_was_torn_off_becomes_whole_when_it_is_sent_again() {
    let home = Home::new();
    let server = home.serve();
    let spaced = |run: &str, seqs| lines(run, seqs).replace('\n', "   \n");
    for cut in 0..=spaced("000", 2..4).len() {
        let run = format!("{cut:03}");
        let rest = spaced(&run, 2..4);
        let post = |from_seq: u64, body: &str| {
            let path = format!("/v1/ingest/transitions?from_seq={from_seq}");
            request(&server.url, ("POST", &path), &NDJSON, Some(body.as_bytes()))
        };
        assert_eq!(post(0, &spaced(&run, 0..2)).status, 200);
        let log = home.archive().join("runs").join(&run).join("transitions.jsonl");
        let torn = &rest[..cut];
        File::options().append(true).open(log).and_then(|mut log| log.write_all(torn.as_bytes())).expect("a log");
        let answer = post(2, &rest);
        assert_eq!(answer.status, 200, "torn behind {torn:?}: {}", answer.text());
        assert_eq!(events(&server, &run), spaced(&run, 0..4), "torn behind {torn:?}");
    }
}

/// The second server said that it takes no writes, and keeps to it when the first one dies.
#[test]
fn a_second_server_stays_read_only_when_the_first_is_killed() {
    let home = Home::new();
    let mut first = home.serve();
    assert_eq!(post(&first, "r", 0..2).status, 200);
    let second = home.serve();
    assert_eq!(get(&second, "/api/config").json()["read_only"], true);
    assert_eq!(post(&second, "r", 2..3).problem(), (403, "read_only".into()));
    first.kill();
    assert_eq!(post(&second, "r", 2..3).problem(), (403, "read_only".into()));
    assert_eq!(get(&second, "/api/config").json()["read_only"], true);
    assert_eq!(events(&second, "r"), lines("r", 0..2));
    let third = home.serve();
    assert_eq!(post(&third, "r", 2..4).status, 200);
    wait_for("what another server wrote", || (events(&second, "r") == lines("r", 0..4)).then_some(()));
}

/// One huge log neither fills the memory nor holds up another run.
#[test]
fn huge_logs_are_read_in_little_memory_and_beside_the_others() {
    let home = Home::new();
    let put = |run: &str, bytes: &str| {
        fs::create_dir_all(home.archive().join("runs").join(run)).expect("a run folder");
        fs::write(home.log(run), bytes).expect("a log");
        File::options().append(true).open(home.log(run)).expect("a log")
    };
    let mut small = put("small", &lines("small", 0..1));
    let server = home.serve();
    assert_eq!(events(&server, "small"), lines("small", 0..1));
    // It stands aside until it is whole.
    let sparse = put("sparse-aside", &lines("sparse", 0..1));
    sparse.set_len(2 << 30).expect("a sparse file");
    drop(sparse);
    fs::create_dir(home.archive().join("runs/sparse")).expect("a run folder");
    fs::rename(home.log("sparse-aside"), home.log("sparse")).expect("a log");
    for count in 2..5 {
        small.write_all((line("small", count - 1) + "\n").as_bytes()).expect("it takes a line");
        wait_for("a line beside it", || (events(&server, "small") == lines("small", 0..count)).then_some(()));
    }
    assert_eq!(get(&server, "/api/runs/sparse").status, 404, "a log is not shown before it is read");
    let mut long = put("long", &lines("long", 0..1));
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        long.write_all(&piece).expect("a disk");
    }
    long.write_all(("\n".to_owned() + &line("long", 1) + "\n").as_bytes()).expect("a disk");
    let is_listed = |run: &str| get(&server, &format!("/api/runs/{run}")).status == 200;
    // Twice the patience: this binary is not optimized.
    let deadline = std::time::Instant::now() + 4 * PATIENCE;
    while !is_listed("sparse") {
        assert!(std::time::Instant::now() < deadline, "the sparse log is never shown");
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    let ledger = |run: &str| get(&server, &format!("/api/runs/{run}/problems")).json()["ledger"].clone();
    let torn = json!({"lines": 2, "kept": 1, "skipped": 0, "pending": 1, "unknown": 0});
    assert_eq!(ledger("sparse"), torn);
    wait_for("the line behind the long one", || (events(&server, "long") == lines("long", 0..2)).then_some(()));
    assert_eq!(ledger("long"), json!({"lines": 3, "kept": 2, "skipped": 1, "pending": 0, "unknown": 0}));
    let peak = server.peak_kib();
    assert!(peak <= 256 * 1024, "{peak} KiB");
}

/// What is held of runs is bounded by what it takes, and a graph takes what its texts take.
#[test]
fn graphs_that_are_held_count_with_all_their_texts() {
    let home = Home::new();
    let touches = vec![r#""t""#; 120_000].join(",");
    let graph = format!(
        r#"{{"version":1,"nodes":[{{"id":"a","deliverable":"","depends_on":[],"touches":[{touches}],"done_when":["x"]}}]}}"#
    );
    let runs: Vec<String> = (0..60).map(|at| format!("run-{at}")).collect();
    for run in &runs {
        let folder = home.archive().join("runs").join(run);
        fs::create_dir_all(&folder).expect("a run folder");
        fs::write(folder.join("graph.json"), &graph).expect("a graph");
    }
    let server = home.serve();
    for run in &runs {
        assert_eq!(get(&server, &format!("/api/runs/{run}")).status, 200);
    }
    // All of them would take 400 MiB.
    let peak = server.peak_kib();
    assert!(peak <= 256 * 1024, "{peak} KiB");
}
