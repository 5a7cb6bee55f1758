//! The cloud build for tests: a database of its own in a throwaway cluster, and what only this build has.
//!
//! The server under test always logs in as kahn_app: as a superuser it would pass every test of the walls.

mod account;
mod activity;
mod airlock;
mod airlock_bearer;
mod airlock_down;
mod bearer;
mod billing;
mod boot;
mod cluster;
mod door;
mod exact;
mod feed;
mod hostile;
mod keys;
mod library;
mod limits;
mod limits_addresses;
mod lists;
mod migrate;
mod provision;
mod reindex;
mod replicas;
mod retention;
mod room;
mod scrape;
mod session;
mod session_hostile;
mod session_sockets;
mod signed;
mod tenants;
mod walls;
mod weakened;
mod writes;

use std::path::Path;

use kahn::domain::{LineSplitter, Piece, parse_line};

use crate::support::{Kitchen, METRICS_TOKEN, Server, request, run};
use cluster::Database;

/// What the binary must say it is.
pub(crate) const MODE: &str = "cloud";

/// A server over a database without a run.
pub(crate) fn empty() -> Kitchen {
    empty_with(&[])
}

/// The same with further arguments.
pub(crate) fn empty_with(further: &[&str]) -> Kitchen {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve_with(&database, further);
    Kitchen::new(server, Some(read), Some(ingest), database)
}

/// A server over the sample archive, pushed into it: what is kept of each log, and its graph.
pub(crate) fn with_samples() -> Kitchen {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve(&database);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs");
    for folder in std::fs::read_dir(data).expect("the samples") {
        push(&server, &ingest, &folder.expect("a folder").path());
    }
    Kitchen::new(server, Some(read), Some(ingest), database)
}

/// A server as kahn_app.
fn serve(database: &Database) -> Server {
    serve_with(database, &[])
}

fn serve_with(database: &Database, further: &[&str]) -> Server {
    serve_at(&database.app_dsn(), further)
}

fn serve_at(dsn: &str, further: &[&str]) -> Server {
    let env = [
        ("KAHN_DATABASE_URL", dsn),
        ("KAHN_AUTH", "keys-only"),
        ("KAHN_AGENT_VIEWS", "on"),
        ("KAHN_METRICS_TOKEN", METRICS_TOKEN),
    ];
    Server::start(&[&["serve", "--bind", "127.0.0.1:0"], further].concat(), &env)
}

/// A tenant with an ingest key and a read key.
fn tenant(database: &Database, name: &str) -> (String, String) {
    tenant_at(&database.admin_dsn(), name)
}

fn tenant_at(admin: &str, name: &str) -> (String, String) {
    let key = |scope: &str| {
        let args = ["tenant", "provision", name, "--org", &format!("org_{name}"), "--scope", scope];
        let done = run(&args, &[("KAHN_ADMIN_DATABASE_URL", admin)]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let said = String::from_utf8(done.stdout).expect("text");
        said.lines().find(|line| line.starts_with("kahn_live_sk_")).expect("a key").to_owned()
    };
    (key("ingest"), key("read"))
}

/// What `kahn push` sends: the lines that are events of this run, byte for byte, and the graph.
fn push(server: &Server, key: &str, folder: &Path) {
    let run_id = folder.file_name().and_then(|name| name.to_str()).expect("a run_id");
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    let lines = kept_lines(folder);
    if !lines.is_empty() {
        let batch: Vec<u8> = lines.into_iter().flat_map(|line| [line, b"\n".to_vec()].concat()).collect();
        let answer = request(&server.url, ("POST", "/v1/ingest/transitions?from_seq=0"), &headers, Some(&batch));
        assert_eq!(answer.status, 200, "{run_id}: {}", answer.text());
    }
    if let Ok(graph) = std::fs::read(folder.join("graph.json")) {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let path = format!("/v1/ingest/runs/{run_id}/graph");
        let answer = request(&server.url, ("PUT", &path), &headers, Some(&graph));
        // A graph that is no JSON object is refused here and counts as absent there.
        assert!([201, 400].contains(&answer.status), "{run_id}: {}", answer.text());
    }
}

/// The lines of this folder's log that are events of its run, by the rule that both builds share.
fn kept_lines(folder: &Path) -> Vec<Vec<u8>> {
    let run_id = folder.file_name().and_then(|name| name.to_str()).expect("a run_id");
    let log = std::fs::read(folder.join("transitions.jsonl")).unwrap_or_default();
    let mut kept = Vec::new();
    LineSplitter::default().push(&log, |piece, _, _| {
        if let Piece::Line(line) = piece
            && parse_line(line).is_ok_and(|event| event.run_id == run_id)
        {
            kept.push(line.to_vec());
        }
    });
    kept
}
