//! What a server holds of runs is bounded, however many tenants and runs there are, and no answer depends on it.

use crate::support::{Answer, Server, request};

use super::cluster::Database;
use super::{push, tenant};

const TENANTS: usize = 1_000;
const RUNS: usize = 100_000;
/// What is held of runs, in MiB.
const HELD: u64 = 64;
/// What a server needs besides, in MiB: its code, connections, and the page of an aggregate that is being gathered.
const BESIDES: u64 = 64;
const AS_OF: &str = "as_of=2026-04-25T00:00:00.000Z";

fn get(server: &Server, key: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let answer = request(&server.url, ("GET", path), &[("authorization", &bearer), ("x-request-id", "room")], None);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer
}

/// A key of the tenant with this prefix, as `kahn tenant` would make one.
fn key(prefix: &str) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = format!("kahn_live_sk_{prefix}_{}", "s".repeat(43));
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(char::from(BASE62[rest % 62]));
        rest /= 62;
    }
    digits.reverse();
    body + &digits.into_iter().collect::<String>()
}

fn start(database: &Database, megabytes: u64) -> Server {
    let (dsn, megabytes) = (database.app_dsn(), megabytes.to_string());
    let env = [
        ("KAHN_DATABASE_URL", dsn.as_str()),
        ("KAHN_AUTH", "keys-only"),
        ("KAHN_AGENT_VIEWS", "on"),
        ("KAHN_MEMORY_MB", megabytes.as_str()),
    ];
    Server::start(&["serve", "--bind", "127.0.0.1:0"], &env)
}

#[test]
fn a_thousand_tenants_and_a_hundred_thousand_runs_of_one_are_answered_in_bounded_memory() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "big");
    {
        let server = start(&database, HELD);
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs");
        for folder in std::fs::read_dir(data).expect("the samples") {
            push(&server, &ingest, &folder.expect("a folder").path());
        }
    }
    let prefixes: Vec<String> = (0..TENANTS).map(|n| format!("room{n:04}")).collect();
    let keys: Vec<String> = prefixes.iter().map(|prefix| key(prefix)).collect();
    let pairs: Vec<String> = prefixes.iter().zip(&keys).map(|(prefix, key)| format!("('{prefix}', '{key}')")).collect();
    let columns = "next_seq, log_id, fold_version, received_at, kind, outcome, outcome_rank, started, last_event, ended, \
                   duration_s, agent_id, node_ids";
    // Rows as kahn wrote them, under other names.
    database.admin(&format!(
        "CREATE TEMP TABLE given AS SELECT * FROM (VALUES {}) AS given (prefix, key); \
         CREATE TEMP TABLE written AS SELECT *, row_number() OVER (ORDER BY run_id) AS place FROM runs WHERE parent_run_id IS NULL; \
         INSERT INTO tenants (tenant_id, name, org_id, plan, key_prefix) \
           SELECT gen_random_uuid(), prefix, prefix, 'beta', prefix FROM given; \
         INSERT INTO api_keys (tenant_id, key_id, prefix, label, scope, key_sha256, last_used_at) \
           SELECT tenant_id, gen_random_uuid(), prefix, 'x', 'read', sha256(convert_to(key, 'UTF8')), now() \
           FROM given JOIN tenants ON name = prefix; \
         INSERT INTO runs (tenant_id, run_id, summary, {columns}) SELECT t.tenant_id, run_id, summary, {columns} \
           FROM tenants AS t JOIN written ON place <= 5 WHERE t.name LIKE 'room%'; \
         INSERT INTO runs (tenant_id, run_id, summary, {columns}) SELECT tenant_id, run_id || '-' || n, \
           replace(summary, '\"run_id\":\"' || run_id || '\"', '\"run_id\":\"' || run_id || '-' || n || '\"'), {columns} \
           FROM written, generate_series(1, {RUNS} / (SELECT count(*) FROM written) + 1) AS n; ANALYZE runs",
        pairs.join(","),
    ));
    let aggregates = ["agent-runs/aggregate", "audit-checkpoints/flakiness", "nodes/flakiness"]
        .map(|what| format!("/api/{what}?window=all&{AS_OF}"));
    let server = start(&database, HELD);
    for key in &keys {
        let list = get(&server, key, &format!("/api/runs?{AS_OF}")).json();
        assert_eq!(list["total"], 5);
    }
    let list = get(&server, &read, &format!("/api/runs?limit=500&{AS_OF}")).json();
    assert!(list["total"].as_u64().is_some_and(|total| total >= RUNS as u64), "{}", list["total"]);
    let answers: Vec<Vec<u8>> = aggregates.iter().map(|path| get(&server, &read, path).body).collect();
    let peak = server.peak_kib() / 1024;
    assert!(peak <= HELD + BESIDES, "{peak} MiB at the peak");
    // A server that holds next to nothing says the same.
    let forgetful = start(&database, 1);
    let path = &aggregates[2];
    assert_eq!(get(&forgetful, &read, path).body, answers[2], "{path}");
    let peak = forgetful.peak_kib() / 1024;
    assert!(peak <= BESIDES, "{peak} MiB at the peak of one that holds nothing");
}
