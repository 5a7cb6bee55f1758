//! Two servers over one database: a client of B sees what A took, in order, without a gap and without a double, whatever
//! breaks between. If these fail, a page beside the wrong replica shows a run that is not the one that was stored.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{APP_PASSWORD, Cluster, Database, Gate, runtime, shared};
use super::library::{open, part, somebody};
use super::{serve, serve_at, tenant, tenant_at};
use crate::feed::{Mirror, Socket, block_on};
use crate::support::{PATIENCE, Server, request, run, wait_for};

fn line(run_id: &str, seq: usize) -> String {
    match seq {
        0 => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"run_start","total_nodes":1}}"#),
        _ => format!(r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"{run_id}","event":"heartbeat","n":{seq}}}"#),
    }
}

fn lines(run_id: &str, count: usize) -> Vec<String> {
    (0..count).map(|seq| line(run_id, seq)).collect()
}

/// The answer's status; `None` when there is none.
fn try_post(url: &str, key: &str, path: &str, body: &str) -> Option<u16> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
    let sent = agent
        .post(format!("{url}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/x-ndjson")
        .send(body);
    sent.ok().map(|answer| answer.status().as_u16())
}

/// Posts this line until it is acknowledged, as a producer with a ledger does.
fn post(url: &Mutex<String>, key: &str, run_id: &str, seq: usize) {
    let body = line(run_id, seq) + "\n";
    wait_for("an acknowledgement", || {
        let url = url.lock().expect("a lock").clone();
        match try_post(&url, key, &format!("/v1/ingest/transitions?from_seq={seq}"), &body) {
            Some(200) => Some(()),
            Some(503) | None => None,
            Some(status) => panic!("{status}"),
        }
    });
}

async fn mirror(server: &Server, key: &str, run_id: &str) -> Mirror {
    Mirror::of(Socket::open_at(&server.url, Some(format!("Bearer {key}"))).await, run_id).await
}

async fn list(server: &Server, key: &str) -> Socket {
    let mut socket = Socket::open_at(&server.url, Some(format!("Bearer {key}"))).await;
    socket.say(json!({"type": "subscribe_runs"})).await;
    assert_eq!(socket.any().await["type"], "heartbeat");
    socket
}

/// Reads the list, as a client must, until the run's row says this; a row never goes back.
async fn until_row(socket: &mut Socket, server: &Server, key: &str, run_id: &str, next_seq: usize) {
    let mut last = 0;
    while last < next_seq as u64 {
        let frame = socket.next().await;
        let row = match frame["type"].as_str() {
            Some("run") => frame["row"].clone(),
            // Told to read the list again.
            Some("resync") => {
                let bearer = format!("Bearer {key}");
                // There are more runs than a page of it holds.
                let path = format!("/api/runs?q={run_id}&limit=500");
                let answer = request(&server.url, ("GET", &path), &[("authorization", &bearer)], None);
                let rows = answer.json()["items"].as_array().cloned().unwrap_or_default();
                rows.into_iter().find(|row| row["run_id"] == run_id).unwrap_or(Value::Null)
            }
            _ => panic!("{frame}"),
        };
        if row["run_id"] == run_id {
            let now = row["next_seq"].as_u64().expect("a seq");
            assert!(now >= last, "{frame} behind {last}");
            last = now;
        }
    }
}

/// NOTIFY is heard, and it is not the poll that tells: half of five lines need less than a quarter of its second.
async fn assert_fast(mirror: &mut Mirror, url: &Mutex<String>, key: &str, run_id: &str) {
    let mut took = Vec::new();
    for _ in 0..5 {
        let seq = mirror.lines.len();
        post(url, key, run_id, seq);
        let before = Instant::now();
        mirror.until(&lines(run_id, seq + 1)).await;
        took.push(before.elapsed());
    }
    took.sort_unstable();
    assert!(took[2] < Duration::from_millis(250), "{took:?}");
}

#[test]
fn a_listen_connection_that_is_cut_again_and_again_costs_nobody_a_line() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "a");
    let (a, b) = (serve(&database), serve(&database));
    let url = Mutex::new(a.url.clone());
    post(&url, &ingest, "r", 0);
    let (is_done, cuts) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let gate = Gate::new(&database.admin_dsn());
            while !is_done.load(Ordering::Relaxed) {
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
                cuts.fetch_add(gate.count(cut), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        scope.spawn(|| {
            for seq in 1..200 {
                post(&url, &ingest, "r", seq);
            }
        });
        block_on(async {
            let (mut followed, mut listed) = (mirror(&b, &read, "r").await, list(&b, &read).await);
            followed.until(&lines("r", 200)).await;
            until_row(&mut listed, &b, &read, "r", 200).await;
            is_done.store(true, Ordering::Relaxed);
            // Listening again: faster than any poll.
            wait_for("both to listen", || {
                let listening =
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
                let rows = std::thread::scope(|scope| scope.spawn(|| database.admin(listening)).join().expect("rows"));
                (rows[0][0] == "2").then_some(())
            });
            assert_fast(&mut followed, &url, &ingest, "r").await;
            followed.socket.is_quiet().await;
            assert_eq!((followed.resets, followed.errors), (0, vec![]));
        });
    });
    let cuts = cuts.load(Ordering::Relaxed);
    assert!(cuts >= 4, "{cuts} cuts of both: too few to tell");
}

/// A way to the cluster that can lose notifications: while it holds, a connection over which one is sent goes no further.
struct Gap {
    port: u16,
    holds: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Gap {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (holds, held) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (is_holding, count) = (Arc::clone(&holds), Arc::clone(&held));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", shared().port)).expect("the cluster");
                let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
                let (is_holding, count) = (Arc::clone(&is_holding), Arc::clone(&count));
                std::thread::spawn(move || pass(client, server, &is_holding, &count));
            }
        });
        Self { port, holds, held }
    }
}

fn pass(mut client: TcpStream, mut server: TcpStream, is_holding: &AtomicBool, held: &AtomicUsize) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let notifies = buffer[..length].windows(9).any(|window| window == b"pg_notify");
        if notifies && is_holding.load(Ordering::Relaxed) {
            held.fetch_add(1, Ordering::Relaxed);
            // Until the client goes away: the statement is never sent.
            while client.read(&mut buffer).is_ok_and(|length| length > 0) {}
            return;
        }
        if server.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

#[test]
fn a_server_killed_between_commit_and_notify_has_told_all_the_same() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "a");
    let gap = Gap::open();
    let mut a = serve_at(&database.tcp_dsn(APP_PASSWORD, gap.port), &[]);
    let b = serve(&database);
    let url = Mutex::new(a.url.clone());
    post(&url, &ingest, "r", 0);
    block_on(async {
        let (mut followed, mut listed) = (mirror(&b, &read, "r").await, list(&b, &read).await);
        followed.until(&lines("r", 1)).await;
        for round in 1..4 {
            gap.holds.store(true, Ordering::Relaxed);
            post(&url, &ingest, "r", round);
            wait_for("the notification to be lost", || (gap.held.load(Ordering::Relaxed) == round).then_some(()));
            a.kill();
            let before = Instant::now();
            followed.until(&lines("r", round + 1)).await;
            until_row(&mut listed, &b, &read, "r", round + 1).await;
            assert!(before.elapsed() < Duration::from_secs(5), "{:?}: the poll takes a second", before.elapsed());
            gap.holds.store(false, Ordering::Relaxed);
            a = a.again();
            url.lock().unwrap().clone_from(&a.url);
        }
        // The producer sends its last line again: stored once, told once.
        post(&url, &ingest, "r", 3);
        assert_fast(&mut followed, &url, &ingest, "r").await;
        followed.socket.is_quiet().await;
        assert_eq!((followed.resets, followed.errors), (0, vec![]));
    });
}

#[test]
fn more_notifications_than_there_is_room_for_lose_nothing() {
    const RUNS: usize = 4600;
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "a");
    let gap = Gap::open();
    let (a, b) = (serve_at(&database.tcp_dsn(APP_PASSWORD, gap.port), &[]), serve(&database));
    let batch = |seqs: usize| -> String {
        let run = |number: usize| lines(&format!("r{number}"), seqs).iter().map(|line| format!("{line}\n")).collect();
        (0..RUNS).map(run).collect::<Vec<String>>().concat()
    };
    let path = "/v1/ingest/transitions";
    assert_eq!(try_post(&a.url, &ingest, path, &batch(1)), Some(200));
    let last = format!("r{}", RUNS - 1);
    block_on(async {
        let (mut followed, mut listed) = (mirror(&b, &read, &last).await, list(&b, &read).await);
        followed.until(&lines(&last, 1)).await;
        // Its queue holds 4,096, and the batch names the last run last.
        gap.holds.store(true, Ordering::Relaxed);
        assert_eq!(try_post(&a.url, &ingest, path, &batch(2)), Some(200));
        followed.until(&lines(&last, 2)).await;
        assert_eq!(gap.held.load(Ordering::Relaxed), 1, "nothing but the poll has told it");
        until_row(&mut listed, &b, &read, &last, 2).await;
        gap.holds.store(false, Ordering::Relaxed);
        followed.socket.is_quiet().await;
        assert_eq!((followed.resets, followed.errors), (0, vec![]));
    });
}

const DATABASE: &str = "kahn";

/// A cluster of its own, migrated.
fn own_cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.sql("postgres", "postgres", &format!("CREATE DATABASE {DATABASE}")).expect("a database");
    let admin = cluster.dsn("postgres", DATABASE);
    let done = run(&["migrate"], &[("KAHN_ADMIN_DATABASE_URL", &admin)]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    cluster
}

/// Crashes it and starts it again at the same place; what was not yet on the way to the disk is lost.
fn crash(cluster: &Cluster) {
    let data = format!("{}/data", cluster.socket_dir);
    let options = std::fs::read_to_string(format!("{data}/postmaster.opts")).expect("how it was started");
    let program = options.split(' ').next().expect("its program").trim_matches('"');
    let mut command = Command::new(std::path::Path::new(program).with_file_name("pg_ctl"));
    command.args(["restart", "-m", "immediate", "-w", "-t", "30", "-D", &data, "-l", &format!("{data}/server.log")]);
    command.current_dir(&cluster.socket_dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let owner = std::fs::metadata(&data).expect("its folder");
    if owner.uid() != rustix::process::getuid().as_raw() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    assert!(command.status().expect("pg_ctl runs").success());
}

#[test]
fn a_database_that_crashes_and_a_server_that_is_killed_under_load_lose_and_double_nothing() {
    let cluster = own_cluster();
    let (ingest, read) = tenant_at(&cluster.dsn("postgres", DATABASE), "a");
    let dsn = cluster.dsn("kahn_app", DATABASE);
    let (mut a, b) = (serve_at(&dsn, &[]), serve_at(&dsn, &[]));
    let url = Mutex::new(a.url.clone());
    post(&url, &ingest, "r", 0);
    std::thread::scope(|scope| {
        let posting = scope.spawn(|| {
            for seq in 1..500 {
                post(&url, &ingest, "r", seq);
            }
        });
        block_on(async {
            let (mut followed, mut listed) = (mirror(&b, &read, "r").await, list(&b, &read).await);
            for (number, seq) in (0..).zip([50, 120, 190, 260, 330, 400]) {
                while followed.lines.len() < seq {
                    followed.take().await;
                }
                if number % 2 == 0 {
                    crash(&cluster);
                } else {
                    a.kill();
                    a = a.again();
                    url.lock().unwrap().clone_from(&a.url);
                }
            }
            followed.until(&lines("r", 500)).await;
            until_row(&mut listed, &b, &read, "r", 500).await;
            posting.join().expect("all are acknowledged");
            assert_fast(&mut followed, &url, &ingest, "r").await;
            followed.socket.is_quiet().await;
            assert_eq!(followed.resets, 0);
        });
    });
}

fn signal(server: &Server, name: &str) {
    assert!(Command::new("kill").args([name, &server.pid().to_string()]).status().expect("kill runs").success());
}

#[test]
fn a_database_whose_count_of_transactions_went_back_hides_no_change() {
    let cluster = own_cluster();
    let sql = |statements: &str| -> Vec<Vec<String>> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| cluster.sql("postgres", DATABASE, statements))
                .join()
                .expect("it ends")
                .expect("it is allowed")
        })
    };
    // What is not waited for reaches the disk late.
    sql("ALTER SYSTEM SET wal_writer_delay = '10s'");
    sql("ALTER SYSTEM SET wal_writer_flush_after = '100MB'");
    sql("SELECT pg_reload_conf()");
    let (ingest, read) = tenant_at(&cluster.dsn("postgres", DATABASE), "a");
    let b = serve_at(&cluster.dsn("kahn_app", DATABASE), &[]);
    let url = Mutex::new(b.url.clone());
    block_on(async {
        for run_id in ["r", "s"] {
            post(&url, &ingest, run_id, 0);
        }
        let (mut followed, mut other) = (mirror(&b, &read, "r").await, mirror(&b, &read, "s").await);
        followed.until(&lines("r", 1)).await;
        other.until(&lines("s", 1)).await;
        // Transactions that end and leave nothing on the disk.
        let gate_dsn = cluster.dsn("postgres", DATABASE);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let gate = Gate::new(&gate_dsn);
                (0..500).for_each(|_| gate.run("SELECT pg_current_xact_id()"));
            });
        });
        let count = |rows: Vec<Vec<String>>| rows[0][0].parse::<u64>().expect("an id");
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let before = count(sql(next));
        // The server's poll has seen them.
        let begun = sql("SELECT clock_timestamp()::text")[0][0].clone();
        wait_for("a poll", || {
            let polled = format!(
                "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE 'SELECT pg_current_snapshot%' AND state = 'idle' AND query_start > '{begun}'"
            );
            (count(sql(&polled)) > 0).then_some(())
        });
        // The server comes back when all is over.
        signal(&b, "-STOP");
        crash(&cluster);
        // Nobody notifies, and its id is one that was seen to have ended.
        let gone = sql(
            "UPDATE runs SET deleted_at = now(), changed = pg_current_xact_id() WHERE run_id = 'r' RETURNING changed::text",
        );
        assert!(count(gone) < before, "the count did not go back: this shows nothing");
        signal(&b, "-CONT");
        while followed.errors.last().is_none_or(|code| code != "unknown_run") {
            followed.take().await;
        }
        assert_eq!(other.lines, lines("s", 1));
        post(&url, &ingest, "s", 1);
        other.until(&lines("s", 2)).await;
    });
}

#[test]
fn a_transaction_that_somebody_leaves_open_makes_nobody_look_again_and_again() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let mut changes = backend.store.follow(&a).await.expect("a stream");
        let connect = || async {
            let (client, connection) =
                tokio_postgres::connect(&database.admin_dsn(), tokio_postgres::NoTls).await.expect("a connection");
            tokio::spawn(connection);
            client
        };
        let (open, other) = (connect().await, connect().await);
        open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("an id");
        let parts = (0..1200).map(|number| part(&format!("r{number}"), 0, 1)).collect();
        backend.store.append(&a, parts).await.expect("stored");
        super::feed::settle(&mut changes).await;
        // Polls that have something to ask about.
        for _ in 0..3 {
            other.batch_execute("SELECT pg_current_xact_id()").await.expect("an id");
            super::feed::quiet(&mut changes).await;
        }
        // And what is written is told, also by whoever had been open.
        let tenant = a.tenant.as_ref().expect("a tenant").id.clone();
        let write = format!("SELECT set_config('kahn.tenant_id', '{tenant}', true); UPDATE runs SET changed = pg_current_xact_id() WHERE run_id = 'r7'");
        open.batch_execute(&format!("{write}; COMMIT")).await.expect("committed");
        super::feed::woken(&mut changes, "r7").await;
    });
}
