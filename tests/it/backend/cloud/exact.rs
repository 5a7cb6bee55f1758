//! What producers sent is stored once and whole: pushed by many at once, a line at a time, in large batches, and when nobody knows
//! whether the database has committed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kahn::contract::{GraphPut, Part, ReadLimit, StoreError};
use kahn::domain::parse_line;
use kahn::reduce::RunState;

use super::cluster::{APP_PASSWORD, Database, runtime, shared};
use super::library::{open, part, run_id, somebody};
use crate::support::{Kitchen, Server};

const ALL: ReadLimit = ReadLimit { lines: 100_000, bytes: usize::MAX };

/// An agent's log, whose state grows with every call.
fn agent_log(run: &str, lines: u64) -> Part {
    let line = |seq: u64| match seq {
        0 => format!(
            r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"agent_run_start","agent_id":"a","task":"t"}}"#
        ),
        _ => format!(
            r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"{run}","event":"tool_invocation","agent_id":"a","step":{},"tool_name":"bash","ok":{},"duration_s":{}.{:03},"input_summary":"{seq}"}}"#,
            seq / 3,
            !seq.is_multiple_of(7),
            seq % 5,
            seq % 1000
        ),
    };
    Part { run_id: run_id(run), from_seq: 0, lines: (0..lines).map(|seq| line(seq).into()).collect() }
}

fn slice(log: &Part, from: usize, to: usize) -> Part {
    Part { run_id: log.run_id.clone(), from_seq: from as u64, lines: log.lines[from..to].to_vec() }
}

fn folded(log: &Part) -> RunState {
    let mut state = RunState::default();
    for line in &log.lines {
        state.fold(&parse_line(line).expect("an event"), line);
    }
    state
}

#[test]
fn producers_that_push_overlapping_slices_of_one_log_at_once_store_it_once() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        // Two servers, each with its own memory.
        let (here, there) = (open(&database, 4).await, open(&database, 4).await);
        let log = agent_log("r", 2_000);
        let producers = (0..8_usize).map(|producer| {
            let (store, a, log) = (if producer.is_multiple_of(2) { &here } else { &there }, &a, &log);
            async move {
                let (mut at, mut accepted) = (0, 0);
                while at < log.lines.len() {
                    let end = (at + 17 + 31 * producer).min(log.lines.len());
                    // Each goes back over what it sent, more or less far.
                    let from = at.saturating_sub(producer * 5);
                    match store.store.append(a, vec![slice(log, from, end)]).await {
                        Ok(done) => {
                            assert_eq!(done.accepted + done.duplicates, (end - from) as u64);
                            accepted += done.accepted;
                            at = end;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                accepted
            }
        });
        let accepted: u64 = futures_util::future::join_all(producers).await.into_iter().sum();
        assert_eq!(accepted, 2_000);
        for server in [&here, &there, &open(&database, 1).await] {
            let stored = server.store.read(&a, &log.run_id, 0, ALL).await.expect("an answer").expect("a run");
            assert_eq!((stored.next_seq, &stored.lines), (2_000, &log.lines));
            let loaded = server.store.load(&a, &log.run_id).await.expect("an answer").expect("a run");
            assert_eq!(*loaded.state, folded(&log));
        }
    });
    assert_eq!(database.admin("SELECT events FROM usage"), [["2000"]]);
}

#[test]
fn a_run_that_came_in_batches_of_any_size_reads_the_same_from_every_seq() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let writer = open(&database, 2).await;
        let reader = open(&database, 2).await;
        for (name, sizes) in [("ones", &[1_usize][..]), ("mixed", &[1, 700, 3, 64, 2]), ("whole", &[1_300])] {
            let log = agent_log(name, 1_300);
            let (mut at, mut sizes) = (0, sizes.iter().cycle());
            while at < log.lines.len() {
                let end = (at + sizes.next().expect("endless")).min(log.lines.len());
                writer.store.append(&a, vec![slice(&log, at, end)]).await.expect("stored");
                at = end;
            }
            let mut lines = Vec::new();
            for from in (0..1_301).step_by(13) {
                let limit = ReadLimit { lines: 13, bytes: usize::MAX };
                let page = reader.store.read(&a, &log.run_id, from, limit).await.expect("an answer").expect("a run");
                assert_eq!(page.lines.first(), log.lines.get(from as usize), "{name} from {from}");
                lines.extend(page.lines);
            }
            assert_eq!(lines, log.lines, "{name}");
            let loaded = reader.store.load(&a, &log.run_id).await.expect("an answer").expect("a run");
            assert_eq!(*loaded.state, folded(&log), "{name}");
        }
    });
    // Written now and then, not with every line, and never ahead of the run.
    let kept = database.admin("SELECT run_id, state_seq, next_seq FROM runs ORDER BY run_id");
    assert_eq!(kept.iter().map(|row| row[2].as_str()).collect::<Vec<_>>(), ["1300"; 3]);
    assert_eq!(kept[1][1], "1000", "{kept:?}");
}

#[test]
fn lines_that_are_lost_are_told_and_never_passed_over() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let log = agent_log("r", 30);
    runtime().block_on(async {
        let writer = open(&database, 1).await;
        for at in (0..30).step_by(10) {
            writer.store.append(&a, vec![slice(&log, at, at + 10)]).await.expect("stored");
        }
    });
    database.admin("DELETE FROM transitions WHERE seq = 10");
    runtime().block_on(async {
        let store = open(&database, 1).await.store;
        for from in [5, 10, 15] {
            let read = store.read(&a, &log.run_id, from, ALL).await;
            assert!(matches!(read, Err(StoreError::Failed(_))), "{from}: {read:?}");
        }
        let loaded = store.load(&a, &log.run_id).await;
        assert!(matches!(loaded, Err(StoreError::Failed(_))), "{loaded:?}");
        let appended = store.append(&a, vec![part("r", 30, 1)]).await;
        assert!(matches!(appended, Err(StoreError::Failed(_))), "{appended:?}");
        let lines = store.read(&a, &log.run_id, 20, ALL).await.expect("an answer").expect("a run").lines;
        assert_eq!(lines, log.lines[20..]);
    });
}

/// What the proxy does with the next COMMIT of a transaction that adds lines.
const PASS: usize = 0;
const LOSE_THE_COMMIT: usize = 1;
const LOSE_ITS_ANSWER: usize = 2;

/// Stands between kahn and Postgres, counts statements, and may lose a COMMIT or its answer.
struct Proxy {
    port: u16,
    next_commit: Arc<AtomicUsize>,
    /// Statements of transactions that write.
    statements: Arc<AtomicUsize>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (next_commit, statements) = (Arc::new(AtomicUsize::new(PASS)), Arc::new(AtomicUsize::new(0)));
        let (armed, counted) = (Arc::clone(&next_commit), Arc::clone(&statements));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", shared().port)).expect("the cluster");
                let lost = Arc::new(AtomicUsize::new(PASS));
                let (from_server, to_client) = (server.try_clone().expect("twice"), client.try_clone().expect("twice"));
                let answers = Arc::clone(&lost);
                std::thread::spawn(move || bring_answers(from_server, to_client, &answers));
                let (armed, counted) = (Arc::clone(&armed), Arc::clone(&counted));
                std::thread::spawn(move || bring_questions(client, server, &lost, (&armed, &counted)));
            }
        });
        Self { port, next_commit, statements }
    }
}

fn bring_answers(mut from: TcpStream, mut to: TcpStream, lost: &AtomicUsize) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if lost.load(Ordering::SeqCst) != PASS || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Message by message: the first two (does it speak TLS? who is it?) have no type before their length.
fn bring_questions(
    mut from: TcpStream,
    mut to: TcpStream,
    lost: &AtomicUsize,
    (armed, counted): (&AtomicUsize, &AtomicUsize),
) {
    let (mut typeless, mut writes, mut adds_lines) = (2, false, false);
    loop {
        let mut head = vec![0; if typeless > 0 { 4 } else { 5 }];
        if from.read_exact(&mut head).is_err() {
            break;
        }
        typeless = usize::saturating_sub(typeless, 1);
        let length = u32::from_be_bytes(head[head.len() - 4..].try_into().expect("four bytes")) as usize;
        let mut body = vec![0; length - 4];
        if from.read_exact(&mut body).is_err() {
            break;
        }
        match (head.len(), head[0], body.as_slice()) {
            (5, b'Q', begin) if begin.starts_with(b"BEGIN ") && begin.ends_with(b"READ WRITE\0") => writes = true,
            (5, b'Q', b"COMMIT\0") if adds_lines => {
                (writes, adds_lines) = (false, false);
                let what = armed.swap(PASS, Ordering::SeqCst);
                lost.store(what, Ordering::SeqCst);
                if what == LOSE_THE_COMMIT {
                    break;
                }
            }
            (5, b'Q', b"COMMIT\0") => writes = false,
            (5, b'P', statement) if writes => {
                counted.fetch_add(1, Ordering::SeqCst);
                adds_lines |= statement.windows(23).any(|words| words == b"INSERT INTO transitions");
            }
            _ => {}
        }
        if to.write_all(&[head, body].concat()).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn kitchen_behind(proxy: &Proxy) -> Kitchen {
    let database = Database::fresh();
    let (ingest, read) = super::tenant(&database, "acme");
    let dsn = database.tcp_dsn(APP_PASSWORD, proxy.port);
    let env = [("KAHN_DATABASE_URL", dsn.as_str()), ("KAHN_AUTH", "keys-only"), ("KAHN_AGENT_VIEWS", "on")];
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0"], &env);
    Kitchen::new(server, Some(read), Some(ingest), database)
}

fn ndjson(part: &Part) -> Vec<u8> {
    part.lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
}

#[test]
fn a_commit_that_nobody_knows_the_end_of_is_settled_by_sending_the_batch_again() {
    let proxy = Proxy::start();
    let kitchen = kitchen_behind(&proxy);
    let mut stored = 0;
    for (turn, what) in [LOSE_ITS_ANSWER, LOSE_THE_COMMIT, LOSE_ITS_ANSWER].into_iter().enumerate() {
        let log = agent_log("r", (turn as u64 + 1) * 40);
        let batch = ndjson(&slice(&log, turn * 40, turn * 40 + 40));
        let path = format!("/v1/ingest/transitions?from_seq={}", turn * 40);
        proxy.next_commit.store(what, Ordering::SeqCst);
        let unknown = kitchen.post(&path, &batch);
        assert_eq!(unknown.status, 503, "{}", unknown.text());
        assert!(!unknown.header("retry-after").is_empty());
        let again = kitchen.post(&path, &batch);
        assert_eq!(again.status, 200, "{}", again.text());
        let is_stored = what == LOSE_ITS_ANSWER;
        let told = again.json();
        assert_eq!(
            (told["accepted"].as_u64(), told["duplicates"].as_u64()),
            if is_stored { (Some(0), Some(40)) } else { (Some(40), Some(0)) }
        );
        stored += 40;
        let events = kitchen.get("/api/runs/r/events?limit=5000");
        assert_eq!(events.body, ndjson(&log), "after {stored}");
        let state = kitchen.get("/api/runs/r").json();
        assert_eq!(state["next_seq"], stored, "{state}");
    }
}

#[test]
fn a_batch_of_ten_thousand_runs_is_a_handful_of_statements() {
    let proxy = Proxy::start();
    let kitchen = kitchen_behind(&proxy);
    let batch: Vec<u8> = (0..10_000).flat_map(|run| ndjson(&part(&format!("run-{run}"), 0, 1))).collect();
    for (accepted, duplicates) in [(10_000, 0), (0, 10_000)] {
        proxy.statements.store(0, Ordering::SeqCst);
        let answer = kitchen.post("/v1/ingest/transitions", &batch);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        assert_eq!((&told["accepted"], &told["duplicates"]), (&accepted.into(), &duplicates.into()));
        let statements = proxy.statements.load(Ordering::SeqCst);
        assert!(statements <= 9, "{statements} statements");
    }
}

#[test]
fn a_batch_cannot_make_the_server_hold_more_than_it_has_room_for() {
    let database = Database::fresh();
    let who = somebody(&database, "acme");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        // Nine graphs of seven and a half mebibytes.
        let graph = format!(r#"{{"version":1,"nodes":[],"pad":"{}"}}"#, "x".repeat(15 << 19));
        for run in 0..9 {
            let put = backend.store.put_graph(&who, &run_id(&format!("run-{run}")), graph.clone().into()).await;
            assert_eq!(put.expect("kept"), GraphPut::Created);
        }
        let batch: Vec<Part> = (0..9).map(|run| part(&format!("run-{run}"), 0, 1)).collect();
        let refused = backend.store.append(&who, batch.clone()).await;
        assert!(matches!(refused, Err(StoreError::TooMuch { .. })), "{refused:?}");
        let stored = backend.store.read(&who, &run_id("run-0"), 0, ALL).await.expect("an answer").expect("a run");
        assert!(stored.lines.is_empty(), "nothing of it is stored");
        let appended = backend.store.append(&who, batch[1..].to_vec()).await.expect("fewer runs are taken");
        assert_eq!(appended.accepted, 8);
    });
}
