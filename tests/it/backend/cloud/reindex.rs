//! `kahn reindex`: what stands beside the lines can be spoilt, and is made again from them.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::cluster::{Database, runtime};
use super::library::{open, part, run_id, somebody};
use super::{push, serve, tenant};
use crate::support::{Kitchen, kahn, run};

/// What a server answers of everything: the list in several orders, aggregates, and every run's pages.
fn answers(kitchen: &Kitchen) -> Vec<(String, String)> {
    let mut paths: Vec<String> =
        ["", "&sort=duration", "&sort=outcome&order=asc", "&kind=ci", "&outcome=partial", "&node_id=build"]
            .iter()
            .map(|more| format!("/api/runs?limit=500&as_of=2026-04-25T00:00:00.000Z{more}"))
            .collect();
    let names = kitchen.get(&paths[0]).json();
    for name in names["items"].as_array().expect("items").iter().map(|row| row["run_id"].as_str().expect("a run_id")) {
        paths.extend(["", "/diagnostics", "/problems"].map(|page| {
            let as_of = if page == "/problems" { "" } else { "?as_of=2026-04-25T00:00:00.000Z" };
            format!("/api/runs/{name}{page}{as_of}")
        }));
    }
    for page in ["agent-runs/aggregate", "audit-checkpoints/flakiness", "nodes/flakiness"] {
        paths.push(format!("/api/{page}?as_of=2026-04-25T00:00:00.000Z"));
    }
    let body = |path: String| {
        let answer = kitchen.get(&path);
        (path, format!("{} {}", answer.status, answer.text()))
    };
    paths.into_iter().map(body).collect()
}

fn reindex(database: &Database, more: &[&str]) -> Output {
    run(&[&["reindex"], more].concat(), &[("KAHN_DATABASE_URL", &database.app_dsn()), ("KAHN_AUTH", "keys-only")])
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A server over the samples. Its database stays with the test.
fn samples(database: &Database) -> Kitchen {
    let (ingest, read) = tenant(database, "acme");
    let server = serve(database);
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs");
    for folder in std::fs::read_dir(data).expect("the samples") {
        push(&server, &ingest, &folder.expect("a folder").path());
    }
    Kitchen::new(server, Some(read), Some(ingest), ())
}

#[test]
fn spoilt_summaries_states_and_columns_are_made_again_beside_a_running_server() {
    let database = Database::fresh();
    let mut kitchen = samples(&database);
    let before = answers(&kitchen);
    let kept = "SELECT md5(string_agg(run_id || seq || md5(lines), ',' ORDER BY run_id, seq)) FROM transitions";
    let received = "SELECT run_id, received_at FROM runs ORDER BY run_id";
    let (lines, times) = (database.admin(kept), database.admin(received));
    let nothing = reindex(&database, &[]);
    assert!(nothing.status.success(), "{nothing:?}");
    assert!(said(&nothing).ends_with(" runs, 0 made again\n"), "{}", said(&nothing));
    for spoil in [
        // Another one's, none, no JSON, an older fold, wrong figures that can be read, columns alone.
        "UPDATE runs SET summary = (SELECT max(summary) FROM runs)",
        "UPDATE runs SET summary = '', state = '{', state_seq = 3",
        "UPDATE runs SET state = 'x', summary = 'null'",
        "UPDATE runs SET fold_version = 0, summary = '{\"old\":1}', state = '{\"old\":1}'",
        "UPDATE runs SET started = 5, last_event = 7, kind = 'agent', outcome = 'stuck', outcome_rank = 1, ended = false, \
         duration_s = 1e9, agent_id = 'x', parent_run_id = 'y', parent_node_id = 'z', node_ids = '{build}'",
    ] {
        database.admin(spoil);
        let done = reindex(&database, &[]);
        assert!(done.status.success(), "{spoil}: {done:?}");
        assert!(!said(&done).contains(" 0 made again"), "{spoil}: {}", said(&done));
        assert_eq!(answers(&kitchen), before, "{spoil}");
        kitchen.restart();
        assert_eq!(answers(&kitchen), before, "{spoil}, without what the server held");
    }
    assert_eq!((database.admin(kept), database.admin(received)), (lines, times));
}

#[test]
fn what_another_fold_made_is_never_misread() {
    let database = Database::fresh();
    let mut kitchen = samples(&database);
    let before = answers(&kitchen);
    for spoil in [
        "UPDATE runs SET fold_version = 999, summary = '{\"of\":\"tomorrow\"}', state = '{\"of\":\"tomorrow\"}'",
        "UPDATE runs SET summary = 'spoilt', state = 'spoilt', fold_version = (SELECT max(fold_version) FROM runs)",
    ] {
        database.admin(spoil);
        kitchen.restart();
        assert_eq!(answers(&kitchen), before, "{spoil}");
    }
}

#[test]
fn a_run_that_cannot_be_read_is_named_and_the_others_are_made_again() {
    let database = Database::fresh();
    let (a, b) = (somebody(&database, "a"), somebody(&database, "b"));
    runtime().block_on(async {
        let store = open(&database, 2).await.store;
        for name in ["good", "holed", "torn"] {
            store.append(&a, vec![part(name, 0, 3)]).await.expect("stored");
            store.append(&a, vec![part(name, 3, 3)]).await.expect("stored");
        }
        store.append(&b, vec![part("good", 0, 2)]).await.expect("stored");
    });
    database.admin(
        "DELETE FROM transitions WHERE run_id = 'holed' AND seq = 3; UPDATE runs SET summary = 'spoilt'; \
         UPDATE transitions SET lines = '\\x7b0a7b' WHERE run_id = 'torn' AND seq = 0",
    );
    let done = reindex(&database, &["--json"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told: Vec<serde_json::Value> =
        said(&done).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |name: &str| told.iter().find(|told| told["tenant"] == name).expect("the tenant").clone();
    assert_eq!((&of("b")["runs"], &of("b")["rebuilt"]), (&1.into(), &1.into()));
    let unreadable: Vec<_> = of("a")["unreadable"].as_array().expect("a list").clone();
    let names: Vec<_> = unreadable.iter().map(|run| run["run_id"].as_str().expect("a run_id")).collect();
    assert_eq!(names, ["holed", "torn"], "{told:?}");
    let text = said(&reindex(&database, &[]));
    assert!(text.contains("run holed cannot be read and stays as it is"), "{text}");
    runtime().block_on(async {
        let store = open(&database, 2).await.store;
        for (who, length) in [(&a, 6), (&b, 2)] {
            let summary = store.summary(who, &run_id("good")).await.expect("an answer").expect("a run");
            assert_eq!(summary.next_seq, length);
        }
    });
    let spoilt = database.admin("SELECT count(*) FROM runs WHERE run_id = 'good' AND summary = 'spoilt'");
    assert_eq!(spoilt, [["0"]]);
}

#[test]
fn killed_at_any_point_and_beside_writers_it_ends_right_when_it_is_started_again() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let env = [("KAHN_DATABASE_URL", database.app_dsn()), ("KAHN_AUTH", "keys-only".to_owned())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    runtime().block_on(async {
        let store = open(&database, 4).await.store;
        let batch = (0..600).map(|run| part(&format!("run-{run}"), 0, 5)).collect();
        store.append(&a, batch).await.expect("stored");
        let mut length = 5;
        for patience in [20, 60, 120, 250, 500] {
            database_spoil(&database).await;
            let mut child =
                kahn(&["reindex"], &env).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
            // Writers go on meanwhile, and nobody is refused.
            let until = tokio::time::Instant::now() + Duration::from_millis(patience);
            while tokio::time::Instant::now() < until {
                store.append(&a, vec![part("run-7", length, 1), part("run-599", length, 1)]).await.expect("stored");
                length += 1;
            }
            let killed = Command::new("kill").args(["-KILL", &child.id().to_string()]).status().expect("kill runs");
            assert!(killed.success() || child.try_wait().expect("a child").is_some());
            child.wait().expect("a child");
        }
        let done = reindex(&database, &[]);
        assert!(done.status.success(), "{done:?}");
        let fresh = open(&database, 2).await.store;
        for run in 0..600 {
            let name = run_id(&format!("run-{run}"));
            let wanted = if [7, 599].contains(&run) { length } else { 5 };
            let summary = fresh.summary(&a, &name).await.expect("an answer").expect("a run");
            assert_eq!(summary.next_seq, wanted, "{name}");
            let loaded = fresh.load(&a, &name).await.expect("an answer").expect("a run");
            assert_eq!((loaded.state.next_seq, loaded.summary), (wanted, summary), "{name}");
        }
    });
    assert_eq!(database.admin("SELECT count(*) FROM runs WHERE summary = 'spoilt'"), [["0"]]);
}

async fn database_spoil(database: &Database) {
    let (client, connection) =
        tokio_postgres::connect(&database.admin_dsn(), tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let spoil = "UPDATE runs SET summary = 'spoilt', changed = pg_current_xact_id()";
    client.batch_execute(spoil).await.expect("spoilt");
}
