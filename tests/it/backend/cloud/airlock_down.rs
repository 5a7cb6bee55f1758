//! A provider that is away, slow, or lies: whoever is known goes on, nobody new gets in, and nobody else waits.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::airlock::Airlock;
use super::airlock_bearer::{get, me};
use super::cluster::Database;
use super::tenant;
use crate::support::{Server, wait_for};

/// A provider, a server that has its keys, a token and an API key.
struct Scene {
    airlock: Airlock,
    server: Server,
    token: String,
    key: String,
    _database: Database,
}

impl Scene {
    fn new() -> Self {
        let airlock = Airlock::start();
        let database = Database::fresh();
        let (_, key) = tenant(&database, "acme");
        let server = airlock.serve(&database);
        let token = airlock.token("service:kahn-harness", "kahn:read");
        wait_for("the first keys", || (me(&server, &token) == 200).then_some(()));
        Self { airlock, server, token, key, _database: database }
    }

    fn opaque(&self) -> String {
        self.airlock.token("service:acme-opaque", "kahn:read")
    }

    /// A token with this must be told that the provider cannot be reached, and when to come again.
    fn is_unavailable(&self, token: &str, what: &str) {
        let answer = get(&self.server, "/api/me", token);
        assert_eq!(answer.problem(), (503, "provider_unavailable".into()), "{what}");
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{what}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), "", "{what}: a client would throw a good token away");
    }

    /// Whoever needs nothing of the provider is answered at once.
    fn others_go_on(&self, what: &str) {
        for _ in 0..10 {
            let fresh = self.airlock.mint(&json!({}));
            for token in [&self.token, &fresh, &self.key] {
                let begun = Instant::now();
                assert_eq!(me(&self.server, token), 200, "{what}");
                assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
            }
        }
    }
}

#[test]
fn while_the_provider_is_down_what_is_known_goes_on_and_nobody_new_gets_in() {
    let scene = Scene::new();
    let (asked, unasked) = (scene.opaque(), scene.opaque());
    assert_eq!(me(&scene.server, &asked), 200);
    let strange = scene.airlock.mint(&json!({ "header": { "kid": "not-published" } }));
    scene.airlock.fault(&json!({ "mode": "down" }));
    scene.others_go_on("down");
    assert_eq!(me(&scene.server, &asked), 200, "what the provider said a moment ago holds");
    scene.is_unavailable(&unasked, "an opaque token that nobody asked about");
    scene.is_unavailable(&strange, "a key that may be new");
    scene.airlock.fault(&json!({ "mode": "pass" }));
    wait_for("the provider", || (me(&scene.server, &unasked) == 200).then_some(()));
}

#[test]
fn a_slow_or_dripping_provider_holds_nobody_else_up() {
    let scene = Scene::new();
    for mode in ["slow", "drip"] {
        scene.airlock.fault(&json!({ "path": "introspection", "mode": mode }));
        scene.airlock.fault(&json!({ "path": "jwks", "mode": mode }));
        let waiting: Vec<String> = (0..20).map(|_| scene.opaque()).collect();
        let strange = scene.airlock.mint(&json!({ "header": { "kid": mode } }));
        std::thread::scope(|scope| {
            let begun = Instant::now();
            for token in &waiting {
                scope.spawn(|| scene.is_unavailable(token, mode));
            }
            scope.spawn(|| scene.is_unavailable(&strange, mode));
            while begun.elapsed() < Duration::from_secs(2) {
                scene.others_go_on(mode);
            }
        });
        // All of an answer has three seconds, however it comes.
        let begun = Instant::now();
        scene.is_unavailable(&scene.opaque(), mode);
        assert!(begun.elapsed() < Duration::from_secs(5), "{mode}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_server_that_starts_before_its_provider_lets_keys_in_and_everybody_when_it_is_there() {
    let airlock = Airlock::start();
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let token = airlock.token("service:kahn-harness", "kahn:read");
    let lies = [
        json!({ "path": "*", "mode": "down" }),
        json!({ "path": "discovery", "mode": "patch", "patch": { "issuer": format!("{}/", airlock.issuer) } }),
        json!({ "path": "discovery", "mode": "answer", "body": "<!doctype html>", "headers": { "content-type": "text/html" } }),
        json!({ "path": "discovery", "mode": "answer", "body": "[]" }),
        json!({ "path": "discovery", "mode": "answer", "status": 500, "body": "{}" }),
        json!({ "path": "discovery", "mode": "answer", "status": 302, "headers": { "location": format!("{}/jwks", airlock.issuer) } }),
        json!({ "path": "discovery", "mode": "patch", "patch": { "jwks_uri": "http://provider.example/jwks" } }),
        json!({ "path": "discovery", "mode": "patch", "patch": { "more": "m".repeat(1_100_000) } }),
        json!({ "path": "jwks", "mode": "answer", "body": "{\"keys\":[]}" }),
        json!({ "path": "jwks", "mode": "answer", "body": "not JSON" }),
        json!({ "path": "jwks", "mode": "slow" }),
    ];
    for (number, lie) in lies.iter().enumerate() {
        airlock.fault(lie);
        let server = airlock.serve(&database);
        let answer = get(&server, "/api/me", &token);
        assert_eq!(answer.problem(), (503, "provider_unavailable".into()), "{lie:.200}");
        assert_ne!(answer.header("retry-after"), "", "{lie:.200}");
        assert_eq!(me(&server, &key), 200, "{lie:.200}");
        airlock.fault(&json!({ "path": lie["path"], "mode": "pass" }));
        // It looks again after five seconds: some of them are enough.
        if [0, 1, 8].contains(&number) {
            wait_for("the provider", || (me(&server, &token) == 200).then_some(()));
        }
    }
}

#[test]
fn a_key_set_that_became_empty_or_odd_does_not_replace_the_one_that_works() {
    let scene = Scene::new();
    let keys = scene.airlock.look("/control/keys")["keys"].clone();
    let mut odd = vec![
        json!(null),
        json!(1),
        json!({}),
        json!({ "kty": "EC" }),
        json!({ "kty": "oct", "k": "AAAA", "kid": "s", "alg": "HS256" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short", "alg": "RS256" }),
        json!({ "kty": 7, "kid": "k" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "kid": "off-the-curve" }),
        json!([[]]),
    ];
    odd.extend(keys.as_array().expect("keys").iter().cloned());
    let sets = [("[]", false), ("[null]", false), ("{}", false), (&*json!(odd).to_string(), true)]
        .map(|(keys, is_usable)| (format!("{{\"keys\":{keys}}}"), is_usable));
    for (number, (body, is_usable)) in sets.iter().enumerate() {
        scene.airlock.fault(&json!({ "path": "jwks", "mode": "answer", "body": body }));
        let before = scene.airlock.count("/jwks");
        let strange = scene.airlock.mint(&json!({ "header": { "kid": format!("strange-{number}") } }));
        // A kid that nobody knows makes the server look, once the last look is five seconds back.
        wait_for("another look", || {
            let refused = me(&scene.server, &strange);
            assert!([401, 503].contains(&refused), "{refused}");
            (scene.airlock.count("/jwks") > before).then_some(())
        });
        for alg in ["EdDSA", "ES256", "RS256"] {
            let token = scene.airlock.mint(&json!({ "alg": alg }));
            assert_eq!(
                me(&scene.server, &token),
                200,
                "{alg} after {} (usable: {is_usable})",
                &body[..body.len().min(80)]
            );
        }
    }
}

#[test]
fn whatever_introspection_answers_only_a_good_yes_lets_in() {
    let scene = Scene::new();
    let patch = |patch: Value| json!({ "path": "introspection", "mode": "patch", "patch": patch });
    let answer = |more: Value| {
        let mut fault = json!({ "path": "introspection", "mode": "answer" });
        for (name, value) in more.as_object().expect("members") {
            fault[name] = value.clone();
        }
        fault
    };
    let issuer = &scene.airlock.issuer;
    let told = [
        (patch(json!({})), 200),
        (patch(json!({ "active": "true" })), 401),
        (patch(json!({ "active": 1 })), 401),
        (patch(json!({ "active": null })), 401),
        (patch(json!({ "active": false })), 401),
        (patch(json!({ "iss": format!("{issuer}/") })), 401),
        (patch(json!({ "iss": [issuer] })), 401),
        (patch(json!({ "aud": "other" })), 401),
        (patch(json!({ "aud": ["other"] })), 401),
        (patch(json!({ "exp": 1 })), 401),
        (patch(json!({ "exp": "never" })), 401),
        (patch(json!({ "token_type": "DPoP" })), 401),
        (patch(json!({ "cnf": { "jkt": "x" } })), 401),
        (patch(json!({ "org_id": null })), 403),
        (patch(json!({ "org_id": "org_nobody" })), 403),
        (patch(json!({ "org_id": ["org_acme"] })), 403),
        (answer(json!({ "status": 400, "body": "{\"error\":\"invalid_request\"}" })), 401),
        (answer(json!({ "status": 401, "body": "{\"error\":\"invalid_client\"}" })), 503),
        (answer(json!({ "status": 403, "body": "{}" })), 503),
        (answer(json!({ "status": 500, "body": "{}" })), 503),
        (answer(json!({ "status": 503, "body": "" })), 503),
        (answer(json!({ "status": 302, "headers": { "location": format!("{issuer}/yes") } })), 503),
        (answer(json!({ "body": "<!doctype html>" })), 503),
        (answer(json!({ "body": "" })), 503),
        (answer(json!({ "body": "{\"active\":true", "fill": 2_000_000 })), 503),
    ];
    for (fault, status) in told {
        let token = scene.opaque();
        scene.airlock.fault(&fault);
        assert_eq!(me(&scene.server, &token), status, "{fault:.200}");
        scene.airlock.fault(&json!({ "path": "introspection", "mode": "pass" }));
        assert_eq!(me(&scene.server, &scene.token), 200, "{fault:.200}");
    }
    let log = scene.server.log();
    assert!(!log.contains(&scene.airlock.client_secret), "the client's own secret is in the log");
}
