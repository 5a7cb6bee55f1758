//! Wake-ups: fast by NOTIFY, certain by the poll.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kahn::contract::{Change, Changes};

use super::cluster::{Database, runtime};
use super::library::{open, part, run_id, somebody};
use crate::support::PATIENCE;

/// Waits for a wake-up for this run; how long it took.
async fn woken(changes: &mut Changes, run: &str) -> Duration {
    let before = Instant::now();
    loop {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("a wake-up in 10 s");
        if [Some(Change::Run(run_id(run))), Some(Change::All)].contains(&change) {
            return before.elapsed();
        }
    }
}

async fn quiet(changes: &mut Changes) {
    let heard = tokio::time::timeout(Duration::from_millis(1500), changes.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

/// Passes over the wake-ups of the past: a run may be told twice, by NOTIFY and by the poll.
async fn settle(changes: &mut Changes) {
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
