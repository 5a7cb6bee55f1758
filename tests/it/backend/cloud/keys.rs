//! API keys over HTTP: who gets in, and what for.

use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster::{Database, Gate};
use super::{serve, serve_with, tenant};
use crate::feed::{Socket, block_on};
use crate::support::{Answer, Server, request, wait_for};

const LINE: &[u8] =
    b"{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"run_start\",\"total_nodes\":1}\n";

fn read(server: &Server, authorization: &str) -> Answer {
    request(&server.url, ("GET", "/api/runs"), &[("authorization", authorization), ("x-request-id", "same")], None)
}

fn ingest(server: &Server, authorization: &str) -> Answer {
    let headers = [("authorization", authorization), ("content-type", "application/x-ndjson")];
    request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(LINE))
}

#[test]
fn a_key_does_what_its_scope_says_and_nothing_else() {
    let database = Database::fresh();
    let (ingest_key, read_key) = tenant(&database, "acme");
    let server = serve(&database);
    assert_eq!(ingest(&server, &format!("Bearer {ingest_key}")).status, 200);
    assert_eq!(read(&server, &format!("bearer {read_key}")).status, 200, "the scheme in any case");
    let refused = read(&server, &format!("Bearer {ingest_key}"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["scope"], "read");
    let refused = ingest(&server, &format!("Bearer {read_key}"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["scope"], "ingest");
    let me = request(&server.url, ("GET", "/api/me"), &[("authorization", &format!("Bearer {read_key}"))], None).json();
    assert_eq!((&me["kind"], &me["scopes"]), (&"api_key".into(), &serde_json::json!(["read"])), "{me}");
}

/// The refusal, which a key that was good a moment ago gets in the promised time.
fn refused_within_5_s(server: &Server, authorization: &str) -> Answer {
    let ended = Instant::now();
    let refused = wait_for("a refusal", || Some(read(server, authorization)).filter(|answer| answer.status == 401));
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    refused
}

#[test]
fn a_mistyped_unknown_revoked_or_expired_key_is_401_with_the_same_body() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let server = serve(&database);
    let good = format!("Bearer {key}");
    assert_eq!(read(&server, &good).status, 200);

    let other = tenant(&Database::fresh(), "acme").1;
    let mut typo = key.clone();
    let last = if typo.pop() == Some('x') { 'y' } else { 'x' };
    typo.push(last);
    let bodies: Vec<String> =
        [typo, other.clone(), "kahn_live_sk_".into(), "kahn_".into(), "x.y.z".into(), "opaque0123456789".into()]
            .iter()
            .map(|token| {
                let answer = read(&server, &format!("Bearer {token}"));
                assert_eq!(answer.status, 401, "{token}: {}", answer.text());
                assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
                answer.text()
            })
            .collect();

    database.admin("UPDATE api_keys SET revoked_at = now() WHERE scope = 'read'");
    let revoked = refused_within_5_s(&server, &good);
    database
        .admin("UPDATE api_keys SET revoked_at = NULL, expires_at = now() - interval '1 second' WHERE scope = 'read'");
    let expired = refused_within_5_s(&server, &good);
    assert!(bodies.iter().chain([&revoked.text(), &expired.text()]).all(|body| *body == bodies[0]), "{bodies:#?}");
    database.admin("UPDATE api_keys SET expires_at = now() + interval '1 hour'");
    assert_eq!(read(&server, &good).status, 200, "a refusal is not remembered");
    // The right prefix with another secret.
    database.admin("UPDATE api_keys SET key_sha256 = sha256('another')");
    refused_within_5_s(&server, &good);
}

#[test]
fn without_credentials_the_challenge_is_bare() {
    let database = Database::fresh();
    let server = serve(&database);
    let answer = request(&server.url, ("GET", "/api/runs"), &[], None);
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"));
    let basic = read(&server, "Basic a2Fobjprb2Zm");
    assert_eq!((basic.status, basic.header("www-authenticate")), (401, "Bearer"));
    for odd in ["Bearer", "Bearer ", ""] {
        assert_eq!(read(&server, odd).status, 401, "{odd:?}");
    }
    assert_eq!(read(&server, &format!("Bearer {}", "x".repeat(9000))).status, 401);
}

#[test]
fn last_use_is_noted_at_most_once_a_minute() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let server = serve(&database);
    let used = "SELECT last_used_at FROM api_keys WHERE scope = 'read' AND last_used_at IS NOT NULL";
    assert!(database.admin(used).is_empty());
    assert_eq!(read(&server, &format!("Bearer {key}")).status, 200);
    let first = wait_for("last_used_at", || database.admin(used).pop());
    for _ in 0..5 {
        assert_eq!(read(&server, &format!("Bearer {key}")).status, 200);
    }
    assert_eq!(database.admin(used).first(), Some(&first));
    database.admin("UPDATE api_keys SET last_used_at = last_used_at - interval '61 seconds' WHERE scope = 'read'");
    wait_for("a later last_used_at", || {
        assert_eq!(read(&server, &format!("Bearer {key}")).status, 200);
        database.admin(used).pop().filter(|now| *now > first)
    });
}

/// A rotation, a backup or a person may hold a key's row for long.
#[test]
fn a_key_whose_row_is_locked_gets_in_as_fast() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let server = serve_with(&database, &["--database-pool", "1"]);
    let gate = Gate::new(&database.admin_dsn());
    gate.run("BEGIN; SELECT 1 FROM api_keys FOR UPDATE");
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(read(&server, &format!("Bearer {key}")).status, 200);
    }
    // Whoever waited for the lock would give up after 3 s and have held the one connection so long.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let used = "SELECT 1 FROM api_keys WHERE last_used_at IS NOT NULL";
    assert!(database.admin(used).is_empty(), "it was locked");
    gate.run("ROLLBACK");
    wait_for("last_used_at", || {
        assert_eq!(read(&server, &format!("Bearer {key}")).status, 200);
        database.admin(used).pop()
    });
}

/// The tenant is the key's, whatever a body, a header or an address says.
#[test]
fn a_tenant_that_is_named_in_a_request_is_nobody() {
    let database = Database::fresh();
    let ((ingest_a, read_a), (_, read_b)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    let id_of_b = database.admin("SELECT tenant_id FROM tenants WHERE name = 'b'").concat().concat();
    let line = format!(
        "{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"run_start\",\"total_nodes\":1,\"tenant_id\":\"{id_of_b}\",\"org_id\":\"org_b\",\"tenant\":\"b\"}}\n"
    );
    let graph = format!("{{\"version\":1,\"nodes\":[],\"tenant_id\":\"{id_of_b}\"}}");
    let bearer = format!("Bearer {ingest_a}");
    let send = |bearer: &str, method: &str, path: &str, body: &str| {
        let kind = if method == "PUT" { "application/json" } else { "application/x-ndjson" };
        let headers = [
            ("authorization", bearer),
            ("content-type", kind),
            ("x-tenant-id", &id_of_b),
            ("kahn-tenant-id", &id_of_b),
            ("cookie", "tenant=b"),
        ];
        request(&server.url, (method, path), &headers, Some(body.as_bytes()))
    };
    let ingest = "/v1/ingest/transitions";
    for query in [format!("?tenant_id={id_of_b}"), "?org_id=org_b".to_owned()] {
        let answer = send(&bearer, "POST", &format!("{ingest}{query}"), &line);
        assert_eq!(answer.problem(), (400, "unknown_parameter".into()));
    }
    let rest = &ingest_a["kahn_live_sk_".len()..];
    let malformed = [
        ingest_a[..ingest_a.len() - 1].to_owned(),
        format!("{ingest_a}0"),
        format!("{ingest_a}, {ingest_a}"),
        ingest_a.replace('_', "-"),
        format!("kahn_test_sk_{rest}"),
        format!("KAHN_LIVE_SK_{rest}"),
        format!("kahn_live_sk__{rest}"),
        format!("kahn_live_sk_{id_of_b}_{rest}"),
        format!("kahn_live_sk_' OR true --_{rest}"),
    ];
    for key in malformed {
        let answer = send(&format!("Bearer {key}"), "POST", ingest, &line);
        assert_eq!(answer.problem(), (401, "invalid_token".into()), "{key}");
    }
    assert_eq!(database.admin("SELECT count(*) FROM runs"), [["0"]], "nothing of what was refused is stored");
    assert_eq!(send(&bearer, "POST", ingest, &line).status, 200);
    assert_eq!(send(&bearer, "PUT", "/v1/ingest/runs/r/graph", &graph).status, 201);
    let total = |key: &str| {
        let headers = [("authorization", &*format!("Bearer {key}")), ("x-tenant-id", &id_of_b)];
        request(&server.url, ("GET", "/api/runs"), &headers, None).json()["total"].clone()
    };
    assert_eq!((total(&read_a), total(&read_b)), (json!(1), json!(0)));
    let owners = "SELECT DISTINCT t.name FROM tenants t JOIN (SELECT tenant_id FROM runs UNION SELECT tenant_id FROM transitions \
                  UNION SELECT tenant_id FROM usage) AS rows USING (tenant_id)";
    assert_eq!(database.admin(owners), [["a"]]);
}

#[test]
fn a_revoked_key_is_dead_on_every_server_within_5_s_and_so_are_its_sockets() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let (_, other) = tenant(&database, "other");
    let servers = [serve(&database), serve(&database)];
    let bearer = format!("Bearer {key}");
    block_on(async {
        let mut sockets = Vec::new();
        for server in &servers {
            sockets.push(Socket::open_at(&server.url, Some(bearer.clone())).await);
        }
        let mut kept = Socket::open_at(&servers[0].url, Some(format!("Bearer {other}"))).await;
        // Used until the last moment, so that every server has just found it good.
        servers.iter().for_each(|server| assert_eq!(read(server, &bearer).status, 200));
        let listed = super::tenants::list(&database);
        let of_acme = listed.iter().find(|tenant| tenant["tenant"] == "acme").expect("the tenant");
        let keys = of_acme["keys"].as_array().expect("its keys");
        let key_id =
            keys.iter().find(|key| key["scope"] == "read").expect("the key")["key_id"].as_str().expect("an id");
        super::tenants::done(&database, &["revoke-key", "acme", key_id]);
        let revoked = Instant::now();
        servers.iter().for_each(|server| drop(refused_within_5_s(server, &bearer)));
        for socket in &mut sockets {
            assert_eq!(socket.next().await, json!({"type": "close", "code": 4401}));
        }
        assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
        kept.is_quiet().await;
        assert_eq!(read(&servers[1], &format!("Bearer {other}")).status, 200);
    });
}
