//! Writes against each other and the database's own refusals.

use kahn::contract::{GraphPut, ListPosition, ReadLimit, StoreError};

use super::cluster::{Database, runtime};
use super::library::{open, part, run_id, somebody};

use crate::support::everything;

const ALL: ReadLimit = ReadLimit { lines: 100_000, bytes: usize::MAX };

#[test]
fn batches_over_the_same_runs_in_any_order_do_not_lock_each_other_out() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 8).await;
        for round in 0..20_u64 {
            let appends = (0..8).map(|turn: u64| {
                // Rows that each of them makes in even rounds and finds in odd ones.
                let names = (0..6).map(|n| format!("run-{}-{}", round / 2, (n * (turn + 1) + turn) % 7));
                let mut batch: Vec<_> = names.map(|name| part(&name, round % 2, 1)).collect();
                batch.sort_by(|x, y| x.run_id.cmp(&y.run_id));
                batch.dedup_by(|x, y| x.run_id == y.run_id);
                if turn.is_multiple_of(2) {
                    batch.reverse();
                }
                backend.store.append(&a, batch)
            });
            for done in futures_util::future::join_all(appends).await {
                match done {
                    // Behind: an earlier round did not name this run.
                    Ok(_) | Err(StoreError::Gap { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });
}

#[test]
fn a_batch_that_does_not_fit_in_one_run_stores_nothing_of_any() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let store = &backend.store;
        store.append(&a, vec![part("old", 0, 3)]).await.expect("stored");
        let gap = store.append(&a, vec![part("new", 0, 2), part("old", 4, 1), part("gap", 9, 1)]).await;
        let Err(StoreError::Gap { run_id: run, next_seq: 3 }) = &gap else { panic!("{gap:?}") };
        assert_eq!(run.as_str(), "old", "the first part that does not fit");
        let mut other = part("old", 1, 3);
        other.lines[1] = part("old", 77, 1).lines.remove(0);
        let conflict = store.append(&a, vec![part("new", 0, 2), other]).await;
        assert!(matches!(&conflict, Err(StoreError::Conflict { seq: 2, .. })), "{conflict:?}");
        assert!(store.summary(&a, &run_id("new")).await.expect("an answer").is_none());
        assert_eq!(store.list(&a, &everything()).await.expect("an answer").total, 1);

        let again = store.append(&a, vec![part("old", 1, 4)]).await.expect("stored");
        assert_eq!((again.accepted, again.duplicates), (2, 2));
        let again = store.append(&a, vec![part("old", 1, 4)]).await.expect("stored");
        assert_eq!((again.accepted, again.duplicates), (0, 4));
        let lines = store.read(&a, &run_id("old"), 0, ALL).await.expect("an answer").expect("a run");
        assert_eq!((lines.next_seq, lines.lines), (5, part("old", 0, 5).lines));
        assert_eq!(
            database_usage(&database).await,
            (5, part("old", 0, 5).lines.iter().map(|line| line.len() as i64 + 1).sum())
        );
    });
}

async fn database_usage(database: &Database) -> (i64, i64) {
    let (client, connection) =
        tokio_postgres::connect(&database.admin_dsn(), tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let row = client.query_one("SELECT sum(events)::bigint, sum(bytes)::bigint FROM usage", &[]).await.expect("a row");
    (row.get(0), row.get(1))
}

#[test]
fn a_read_stops_with_the_line_that_passes_the_limit() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let whole = part("r", 0, 20);
        let length = whole.lines[1].len();
        backend.store.append(&a, vec![whole.clone()]).await.expect("stored");
        for (from, lines, bytes, wanted) in [
            (0, 5, usize::MAX, 5),
            (3, 100, 1, 1),
            (1, 100, length, 2),
            (1, 100, length - 1, 1),
            (19, 10, 0, 1),
            (20, 10, 10, 0),
            (u64::MAX, 10, 10, 0),
        ] {
            let read = backend
                .store
                .read(&a, &run_id("r"), from, ReadLimit { lines, bytes })
                .await
                .expect("an answer")
                .expect("a run");
            let start = usize::try_from(from.min(20)).expect("small");
            assert_eq!(read.lines, whole.lines[start..start + wanted], "{from} {lines} {bytes}");
        }
        assert!(backend.store.read(&a, &run_id("none"), 0, ALL).await.expect("an answer").is_none());
    });
}

#[test]
fn hostile_text_goes_in_and_comes_out_unchanged() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let line = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"agent_run_start","agent_id":"coder","task":"a\u0000b \"'; DROP TABLE runs; --","model":"\ud83d\ude00","parent":{"run_id":"parent","node_id":"node"}}"#;
        let mut hostile = part("r", 0, 1);
        hostile.lines = vec![line.into()];
        backend.store.append(&a, vec![hostile]).await.expect("stored");
        let summary = backend.store.summary(&a, &run_id("r")).await.expect("an answer").expect("a run");
        assert_eq!(summary.task.as_deref(), Some("a\0b \"'; DROP TABLE runs; --"));
        assert_eq!(summary.parent.as_ref().map(|parent| parent.run_id.as_str()), Some("parent"));
        let mut query = everything();
        for (wanted, found) in [("parent", 1), ("par\0ent", 0), ("'; DROP TABLE runs; --", 0)] {
            query.filter.parent = Some(wanted.to_owned());
            assert_eq!(backend.store.list(&a, &query).await.expect("an answer").total, found, "{wanted:?}");
        }
        let read = backend.store.read(&a, &run_id("r"), 0, ALL).await.expect("an answer").expect("a run");
        assert_eq!(read.lines, [line.as_bytes()]);
    });
}

#[test]
fn a_graph_is_written_once_and_a_deleted_run_is_gone() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let store = &backend.store;
        let graph = r#"{"version":1,"nodes":[{"id":"build","deliverable":"x","done_when":["true"]}]}"#;
        let run = run_id("r");
        assert_eq!(store.put_graph(&a, &run, graph.into()).await.expect("kept"), GraphPut::Created);
        assert_eq!(store.put_graph(&a, &run, graph.into()).await.expect("kept"), GraphPut::Same);
        let other = store.put_graph(&a, &run, "{}".into()).await;
        assert!(matches!(other, Err(StoreError::GraphConflict { .. })), "{other:?}");
        let kept = store.graph(&a, &run).await.expect("an answer").expect("a run").expect("a graph");
        assert_eq!(kept.bytes, graph);
        let mut query = everything();
        query.filter.node_id = Some("build".to_owned());
        assert_eq!(store.list(&a, &query).await.expect("an answer").total, 1, "a node of the graph alone");
        store.append(&a, vec![part("r", 0, 1)]).await.expect("stored");
        let loaded = store.load(&a, &run).await.expect("an answer").expect("a run");
        assert_eq!(loaded.summary.graph_sha256.as_deref(), Some(kept.sha256.as_str()));
        assert_eq!(loaded.state.next_seq, 1);

        let (client, connection) =
            tokio_postgres::connect(&database.admin_dsn(), tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client.batch_execute("UPDATE runs SET deleted_at = now()").await.expect("deleted");
        let gone = store.append(&a, vec![part("r", 1, 1)]).await;
        assert!(matches!(gone, Err(StoreError::Gone { .. })), "{gone:?}");
        assert!(matches!(store.put_graph(&a, &run, graph.into()).await, Err(StoreError::Gone { .. })));
        assert!(store.load(&a, &run).await.expect("an answer").is_none());
        assert!(store.read(&a, &run, 0, ALL).await.expect("an answer").is_none());
        assert!(store.problems(&a, &run).await.expect("an answer").is_none());
        let mut query = everything();
        query.position = ListPosition::Offset(0);
        assert_eq!(store.list(&a, &query).await.expect("an answer").total, 0);
    });
}
