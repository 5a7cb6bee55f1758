//! Tokens of a real provider at the door: who is let in, for whom, what for, and when that ends.

use std::time::{Duration, Instant};

use serde_json::json;

use super::airlock::{Airlock, kid_of, shared};
use super::cluster::Database;
use super::tenant;
use crate::feed::{Socket, block_on};
use crate::support::{Answer, Server, request, wait_for};

const LINE: &[u8] =
    b"{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"run_start\",\"total_nodes\":1}\n";

/// GET with a token; the request id is fixed, so that answers can be compared.
pub(super) fn get(server: &Server, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    request(&server.url, ("GET", path), &[("authorization", &bearer), ("x-request-id", "same")], None)
}

/// Whether it is let in, as a status.
pub(super) fn me(server: &Server, token: &str) -> u16 {
    get(server, "/api/me", token).status
}

/// One event with a token.
fn ingest(server: &Server, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(LINE))
}

/// When the socket of a token was closed, which has to be with 4401.
fn closed(url: &str, token: &str, within: Duration, meanwhile: impl FnOnce()) -> Duration {
    block_on(async {
        let mut socket = Socket::open_at(url, Some(format!("Bearer {token}"))).await;
        meanwhile();
        let begun = Instant::now();
        loop {
            let frame = socket.any().await;
            if frame["type"] == "close" {
                assert_eq!(frame["code"], 4401, "{frame}");
                return begun.elapsed();
            }
            assert!(begun.elapsed() < within, "still open after {within:?}");
        }
    })
}

#[test]
fn a_machine_gets_in_with_every_kind_of_token_as_what_the_provider_says_it_is() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = shared().serve(&database);
    let clients = ["service:kahn-harness", "service:acme-es256", "service:acme-rs256", "service:acme-opaque"];
    for client in clients {
        let token = shared().token(client, "kahn:read kahn:ingest");
        let answer = get(&server, "/api/me", &token);
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        let me = answer.json();
        assert_eq!((&me["kind"], &me["user"]), (&json!("client"), &json!(client)), "{me}");
        assert_eq!((&me["tenant"], &me["scopes"]), (&json!("acme"), &json!(["read", "ingest"])), "{me}");
        assert_eq!(ingest(&server, &token).status, 200, "{client}");
        assert_eq!(get(&server, "/api/runs/r", &token).status, 200, "{client}");
    }
    let person = shared().mint(&json!({ "claims": { "sub": "ada@acme", "client_id": "kahn" } }));
    let me = get(&server, "/api/me", &person).json();
    assert_eq!((&me["kind"], &me["user"]), (&json!("user"), &json!("ada@acme")), "{me}");
}

#[test]
fn a_token_does_what_its_scopes_say_and_nothing_else() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = shared().serve(&database);
    for client in ["service:kahn-harness", "service:acme-opaque"] {
        let refused = |answer: Answer, scope: &str| {
            assert_eq!(answer.problem(), (403, "insufficient_scope".into()), "{client}");
            assert_eq!(answer.json()["scope"], scope, "{client}");
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"kahn:{scope}\"");
            assert_eq!(answer.header("www-authenticate"), challenge, "{client}");
        };
        let (reads, brings) = (shared().token(client, "kahn:read"), shared().token(client, "kahn:ingest"));
        assert_eq!((get(&server, "/api/runs", &reads).status, ingest(&server, &brings).status), (200, 200), "{client}");
        refused(ingest(&server, &reads), "ingest");
        refused(get(&server, "/api/runs", &brings), "read");
        refused(get(&server, "/api/billing", &reads), "admin");
        assert_eq!(get(&server, "/api/billing", &shared().token(client, "kahn:admin")).status, 200, "{client}");
    }
    let unsaid = shared().mint(&json!({ "claims": { "scope": null } }));
    assert_eq!(get(&server, "/api/me", &unsaid).json()["scopes"], json!(["read"]), "whose token says nothing may read");
}

#[test]
fn a_good_token_of_an_organisation_without_a_tenant_is_403() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = shared().serve(&database);
    for client in ["service:nobody", "service:globex", "service:globex-opaque"] {
        let token = shared().token(client, "kahn:read");
        let answer = get(&server, "/api/runs", &token);
        assert_eq!(answer.problem(), (403, "insufficient_scope".into()), "{client}");
        assert_eq!(answer.header("www-authenticate"), "Bearer error=\"insufficient_scope\"", "{client}");
    }
}

#[test]
fn another_tenants_run_is_404_with_the_bytes_of_a_run_that_is_not_there() {
    let database = Database::fresh();
    tenant(&database, "acme");
    tenant(&database, "globex");
    let server = shared().serve(&database);
    let acme = shared().token("service:kahn-harness", "kahn:read kahn:ingest");
    let others =
        ["service:globex", "service:globex-opaque"].map(|client| shared().token(client, "kahn:read kahn:ingest"));
    let paths =
        ["", "/events", "/graph", "/diagnostics", "/problems", "/nodes/n"].map(|part| format!("/api/runs/r{part}"));
    let look = || -> Vec<Answer> {
        let ask = |token: &str, path: &str| {
            let mut answer = get(&server, path, token);
            answer.headers.retain(|name, _| !name.starts_with("ratelimit") && name != "date");
            answer
        };
        others.iter().flat_map(|token| paths.iter().map(move |path| ask(token, path))).collect()
    };
    let before = look();
    assert!(before.iter().all(|answer| answer.status == 404), "{before:?}");
    assert_eq!(ingest(&server, &acme).status, 200);
    assert_eq!(get(&server, "/api/runs/r", &acme).status, 200);
    assert_eq!(look(), before, "whether another tenant has it makes no difference");
    for token in &others {
        assert_eq!(get(&server, "/api/runs", token).json()["total"], 0);
    }
}

#[test]
fn a_new_key_costs_one_fetch_and_a_withdrawn_one_lets_nobody_in() {
    let airlock = Airlock::start();
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = airlock.serve(&database);
    let old = airlock.token("service:kahn-harness", "kahn:read");
    wait_for("the first keys", || (me(&server, &old) == 200).then_some(()));
    let fetched = airlock.count("/jwks");
    airlock.rotate();
    let new = airlock.token("service:kahn-harness", "kahn:read");
    assert_ne!(kid_of(&old), kid_of(&new));
    assert_eq!(me(&server, &new), 200, "the first request that shows the new key gets in");
    assert_eq!(airlock.count("/jwks"), fetched + 1);
    for token in [&old, &new] {
        assert_eq!(me(&server, token), 200, "both are published");
    }
    assert_eq!(airlock.count("/jwks"), fetched + 1, "a key that is known asks nobody");
    // The old key goes; whoever brings a still newer one makes the server look, in five seconds at the latest.
    airlock.withdraw(&kid_of(&old));
    airlock.rotate();
    let newest = airlock.token("service:kahn-harness", "kahn:read");
    wait_for("the newest key", || (me(&server, &newest) == 200).then_some(()));
    assert_eq!(
        (me(&server, &old), me(&server, &new)),
        (401, 200),
        "what was verified before is forgotten with its key"
    );
}

#[test]
fn forged_kids_cost_one_fetch_in_five_seconds_and_no_good_client_waits() {
    let airlock = Airlock::start();
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = airlock.serve(&database);
    let good = airlock.token("service:kahn-harness", "kahn:read");
    wait_for("the first keys", || (me(&server, &good) == 200).then_some(()));
    let forged: Vec<String> =
        (0..8).map(|number| airlock.mint(&json!({ "header": { "kid": format!("forged-{number}") } }))).collect();
    let (before, begun) = (airlock.count("/jwks"), Instant::now());
    let (mut asked, mut longest) = (0_u32, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(12) {
        // From many addresses, as a flood would come.
        for token in &forged {
            let from = format!("10.0.{}.{}", asked / 250, asked % 250);
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", &from)];
            let answer = request(&server.url, ("GET", "/api/me"), &headers, None);
            assert!([401, 429].contains(&answer.status), "{}", answer.text());
            asked += 1;
        }
        let one = Instant::now();
        assert_eq!(me(&server, &good), 200);
        longest = longest.max(one.elapsed());
    }
    let fetched = airlock.count("/jwks") - before;
    assert!((1..=3).contains(&fetched), "{fetched} fetches for {asked} forged kids in {:?}", begun.elapsed());
    assert!(asked > 100 && longest < Duration::from_secs(2), "{asked} forged; a good client waited {longest:?}");
}

#[test]
fn a_revoked_opaque_token_is_dead_within_a_minute_and_so_is_its_socket() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = shared().serve(&database);
    let client = "service:acme-opaque";
    let token = shared().token(client, "kahn:read");
    let url = server.url.clone();
    assert_eq!(me(&server, &token), 200);
    let minute = Duration::from_secs(60);
    let took = closed(&url, &token, minute, || shared().revoke(client, &token));
    assert!(took < minute, "{took:?}");
    let begun = Instant::now();
    while me(&server, &token) != 401 {
        assert!(took + begun.elapsed() < minute, "still let in");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
