//! Wake-ups: fast by NOTIFY, certain by the poll. Sockets: of their tenant alone, as long as its key lives.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kahn::contract::{Change, Changes};
use serde_json::json;

use super::cluster::{Database, runtime};
use super::library::{open, part, run_id, somebody};
use super::{serve, serve_with, tenant};
use crate::feed::{Mirror, Socket, block_on};
use crate::support::{PATIENCE, Server, request};

/// Waits for a wake-up for this run; how long it took.
pub(super) async fn woken(changes: &mut Changes, run: &str) -> Duration {
    let before = Instant::now();
    loop {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("a wake-up in 10 s");
        if [Some(Change::Run(run_id(run))), Some(Change::All)].contains(&change) {
            return before.elapsed();
        }
    }
}

pub(super) async fn quiet(changes: &mut Changes) {
    let heard = tokio::time::timeout(Duration::from_millis(1500), changes.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

/// Passes over the wake-ups of the past: a run may be told twice, by NOTIFY and by the poll.
pub(super) async fn settle(changes: &mut Changes) {
    while tokio::time::timeout(Duration::from_millis(1300), changes.next()).await.is_ok() {}
}

#[test]
fn a_write_through_one_process_wakes_followers_of_another_and_nobody_elses() {
    let database = Database::fresh();
    let (a, b) = (somebody(&database, "a"), somebody(&database, "b"));
    runtime().block_on(async {
        let (writer, reader) = (open(&database, 2).await, open(&database, 2).await);
        let mut of_a = reader.store.follow(&a).await.expect("a stream");
        let mut of_b = reader.store.follow(&b).await.expect("a stream");
        // Listening begins in the background; the first wake-up may be the poll's.
        writer.store.append(&a, vec![part("first", 0, 1)]).await.expect("stored");
        woken(&mut of_a, "first").await;
        settle(&mut of_a).await;
        let mut fastest = Duration::MAX;
        for seq in 1..4 {
            writer.store.append(&a, vec![part("first", seq, 1)]).await.expect("stored");
            fastest = fastest.min(woken(&mut of_a, "first").await);
            settle(&mut of_a).await;
        }
        assert!(fastest < Duration::from_millis(500), "NOTIFY took {fastest:?}; was it the poll?");
        quiet(&mut of_b).await;
    });
}

#[test]
fn a_lost_notification_costs_a_second_even_when_the_commit_comes_late() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let tenant = a.tenant.as_ref().expect("a tenant").id.clone();
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        backend.store.append(&a, vec![part("r", 0, 1), part("s", 0, 1)]).await.expect("stored");
        let mut changes = backend.store.follow(&a).await.expect("a stream");
        settle(&mut changes).await;
        // Rows written by SQL: nobody notifies.
        let write = |run: &str| {
            format!("SELECT set_config('kahn.tenant_id', '{tenant}', true); UPDATE runs SET changed = pg_current_xact_id() WHERE run_id = '{run}'")
        };
        let (client, connection) = tokio_postgres::connect(&database.app_dsn(), tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client.batch_execute(&format!("BEGIN; {}; COMMIT", write("r"))).await.expect("written");
        let took = woken(&mut changes, "r").await;
        assert!(took < Duration::from_secs(3), "{took:?}");
        settle(&mut changes).await;
        // Open over several polls, while younger transactions commit: its id is older than what was polled since.
        client.batch_execute(&format!("BEGIN; {}", write("r"))).await.expect("written");
        backend.store.append(&a, vec![part("s", 1, 1)]).await.expect("stored");
        woken(&mut changes, "s").await;
        // Written by SQL, so only a poll finds them: past the first wake-up, each one is a poll that has passed.
        let (other, connection) =
            tokio_postgres::connect(&database.app_dsn(), tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        for _ in 0..4 {
            other.batch_execute(&format!("BEGIN; {}; COMMIT", write("s"))).await.expect("written");
            woken(&mut changes, "s").await;
        }
        client.batch_execute("COMMIT").await.expect("committed");
        woken(&mut changes, "r").await;
    });
}

#[test]
fn the_feed_survives_its_connections_being_cut() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let mut changes = backend.store.follow(&a).await.expect("a stream");
        backend.store.append(&a, vec![part("r", 0, 1)]).await.expect("stored");
        woken(&mut changes, "r").await;
        settle(&mut changes).await;
        let name = &database.name;
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()");
        let cut = tokio::task::spawn_blocking({
            let dsn = database.admin_dsn();
            move || {
                runtime().block_on(async move {
                    let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.expect("a connection");
                    tokio::spawn(connection);
                    client.query(&cut, &[]).await.expect("cut").len()
                })
            }
        });
        assert!(cut.await.expect("a thread") >= 2, "the listener and at least one of the pool");
        // A write may meet a dead connection and says so; the retry settles it.
        let deadline = Instant::now() + PATIENCE;
        while backend.store.append(&a, vec![part("r", 0, 2)]).await.is_err() {
            assert!(Instant::now() < deadline, "no connection was made anew");
        }
        woken(&mut changes, "r").await;
        settle(&mut changes).await;
        // Listening again: faster than the poll.
        let mut fastest = Duration::MAX;
        for seq in 2..5 {
            backend.store.append(&a, vec![part("r", seq, 1)]).await.expect("stored");
            fastest = fastest.min(woken(&mut changes, "r").await);
            settle(&mut changes).await;
        }
        assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    });
}

fn start(server: &Server, key: &str, run_id: &str) {
    let headers = [("authorization", &*format!("Bearer {key}")), ("content-type", "application/x-ndjson")];
    let line = start_line(run_id) + "\n";
    let answer = request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(line.as_bytes()));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn start_line(run_id: &str) -> String {
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"run_start","total_nodes":1}}"#)
}

/// As the owner, from a thread without a runtime.
fn sql(database: &Database, statement: &str) {
    std::thread::scope(|scope| scope.spawn(|| database.admin(statement)).join().expect("it is allowed"));
}

async fn listening(server: &Server, key: &str) -> Socket {
    let mut socket = Socket::open_at(&server.url, Some(format!("Bearer {key}"))).await;
    socket.say(json!({"type": "subscribe_runs"})).await;
    assert_eq!(socket.any().await["type"], "heartbeat");
    socket
}

#[test]
fn a_tenant_hears_of_its_own_runs_and_of_no_others() {
    let database = Database::fresh();
    let ((ingest_a, read_a), (ingest_b, read_b)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    block_on(async {
        let (mut of_a, mut of_b) = (listening(&server, &read_a).await, listening(&server, &read_b).await);
        start(&server, &ingest_a, "shared");
        assert_eq!(of_a.next().await["row"]["run_id"], "shared");
        of_b.say(json!({"type": "subscribe", "run_id": "shared", "from_seq": 0})).await;
        assert_eq!(of_b.next().await["code"], "unknown_run");
        of_b.is_quiet().await;
        start(&server, &ingest_b, "own");
        assert_eq!(of_b.next().await["row"]["run_id"], "own");
        of_a.is_quiet().await;
    });
}

#[test]
fn a_socket_whose_key_is_revoked_is_closed_and_no_other() {
    let database = Database::fresh();
    let ((_, revoked), (ingest, kept)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    block_on(async {
        let mut other = listening(&server, &kept).await;
        let (mut first, mut second) = (listening(&server, &revoked).await, listening(&server, &revoked).await);
        sql(
            &database,
            "UPDATE api_keys k SET revoked_at = now() FROM tenants t WHERE t.tenant_id = k.tenant_id AND t.name = 'a' AND k.scope = 'read'",
        );
        for socket in [&mut first, &mut second] {
            assert_eq!(socket.next().await, json!({"type": "close", "code": 4401}));
        }
        start(&server, &ingest, "r");
        assert_eq!(other.next().await["row"]["run_id"], "r");
    });
}

#[test]
fn a_tenant_takes_so_many_sockets_and_leaves_room_for_others() {
    let database = Database::fresh();
    let ((_, a), (_, b)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve_with(&database, &["--max-tenant-sockets", "1"]);
    block_on(async {
        let _first = listening(&server, &a).await;
        let headers = [
            ("authorization", format!("Bearer {a}")),
            ("connection", "Upgrade".into()),
            ("upgrade", "websocket".into()),
            ("sec-websocket-version", "13".into()),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
        ];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let refused = request(&server.url, ("GET", "/ws/live"), &headers, None);
        assert_eq!(refused.problem(), (429, "too_many_sockets".to_owned()));
        assert_eq!(refused.header("retry-after"), "5");
        let _other = listening(&server, &b).await;
    });
}

#[test]
fn a_run_that_is_deleted_and_restored_is_gone_on_with() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "a");
    let server = serve(&database);
    start(&server, &ingest, "r");
    block_on(async {
        let mut list = listening(&server, &read).await;
        let mut mirror = Mirror::of(Socket::open_at(&server.url, Some(format!("Bearer {read}"))).await, "r").await;
        mirror.until(&[start_line("r")]).await;
        sql(&database, "UPDATE runs SET deleted_at = now(), changed = pg_current_xact_id()");
        while mirror.errors.is_empty() {
            mirror.take().await;
        }
        assert_eq!(mirror.errors, ["unknown_run"]);
        // A wake-up of its making may come after the list began: its row, unchanged.
        let mut told = list.next().await;
        while told["type"] == "run" {
            assert_eq!(told["row"]["next_seq"], 1, "{told}");
            told = list.next().await;
        }
        assert_eq!(told, json!({"type": "run_removed", "run_id": "r"}));
        sql(&database, "UPDATE runs SET deleted_at = NULL, changed = pg_current_xact_id()");
        assert_eq!(list.next().await["row"]["run_id"], "r");
        let beat = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"heartbeat"}"#;
        let headers = [("authorization", &*format!("Bearer {ingest}")), ("content-type", "application/x-ndjson")];
        let sent = format!("{beat}\n");
        let path = "/v1/ingest/transitions?from_seq=1";
        assert_eq!(request(&server.url, ("POST", path), &headers, Some(sent.as_bytes())).status, 200);
        mirror.until(&[start_line("r"), beat.to_owned()]).await;
        assert_eq!(mirror.resets, 0);
        mirror.socket.is_quiet().await;
    });
}
