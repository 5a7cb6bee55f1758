//! Tokens of the identity provider at the door, against a real one: its keys through rotation and outage, and what it is asked.

use std::thread;

use serde_json::{Value, json};

use super::airlock::{Airlock, kid_of, shared};
use super::cluster::Database;
use super::tenant;
use crate::support::{Answer, Server, request, wait_for};

/// A server with the tenant acme (org_acme), and a key of it.
fn server(airlock: &Airlock) -> (Server, Database, String) {
    let database = Database::fresh();
    let (_, read) = tenant(&database, "acme");
    let server = airlock.serve(&database);
    (server, database, read)
}

fn me(server: &Server, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    request(&server.url, ("GET", "/api/me"), &[("authorization", &bearer)], None)
}

/// The first answer that is none of "not known yet": the keys are fetched beside the start.
fn ready(server: &Server, token: &str) -> Answer {
    wait_for("the provider's keys", || Some(me(server, token)).filter(|answer| answer.status != 503))
}

#[test]
fn machines_come_in_with_tokens_of_every_kind_and_may_what_their_scopes_say() {
    let airlock = shared();
    let (server, _database, _) = server(airlock);
    for client in ["service:kahn-harness", "service:acme-es256", "service:acme-rs256", "service:acme-opaque"] {
        let token = airlock.token(client, "kahn:read kahn:ingest");
        let answer = ready(&server, &token);
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        let said = answer.json();
        assert_eq!((&said["kind"], &said["user"]), (&json!("client"), &json!(client)));
        assert_eq!(said["tenant"], "acme");
        assert_eq!(said["scopes"], json!(["read", "ingest"]));
        let reader = airlock.token(client, "kahn:read");
        assert_eq!(me(&server, &reader).json()["scopes"], json!(["read"]));
    }
    // Known, and nobody's: 403. Another server's word for the same would send a good token away.
    for (client, what) in [("service:nobody", "of no org"), ("service:globex", "of an org that is no tenant")] {
        let answer = me(&server, &airlock.token(client, "kahn:read"));
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (403, "Bearer error=\"insufficient_scope\""),
            "{what}"
        );
    }
}

#[test]
fn a_new_signing_key_counts_at_once_and_forged_ones_cost_a_fetch_in_five_seconds() {
    let airlock = Airlock::start();
    let (server, _database, _) = server(&airlock);
    let before = airlock.token("service:kahn-harness", "kahn:read");
    assert_eq!(ready(&server, &before).status, 200);
    airlock.rotate();
    let fetched = airlock.count("/jwks");
    let after = airlock.token("service:kahn-harness", "kahn:read");
    assert_ne!(kid_of(&before), kid_of(&after));
    assert_eq!(me(&server, &after).status, 200);
    assert_eq!(airlock.count("/jwks"), fetched + 1);
    for number in 0..40 {
        let forged = airlock.mint(&json!({"header": {"kid": format!("forged-{number}")}}));
        assert_eq!(me(&server, &forged).status, 401);
    }
    assert!(airlock.count("/jwks") <= fetched + 2, "{} fetches", airlock.count("/jwks"));
    assert_eq!(me(&server, &before).status, 200, "the old key is published still");
}

#[test]
fn an_outage_lets_nobody_new_in_and_sends_nobody_away_whose_key_is_known() {
    let airlock = Airlock::start();
    let (server, _database, key) = server(&airlock);
    let known = airlock.token("service:kahn-harness", "kahn:read");
    let later = airlock.token("service:acme-rs256", "kahn:read");
    let opaque = airlock.token("service:acme-opaque", "kahn:read");
    let unasked = airlock.token("service:acme-opaque", "kahn:read");
    let forged = airlock.mint(&json!({"header": {"kid": "forged"}}));
    assert_eq!(ready(&server, &known).status, 200);
    assert_eq!(me(&server, &opaque).status, 200);
    for mode in ["down", "drip", "answer"] {
        airlock.fault(&json!({"mode": mode, "status": 500}));
        for (token, what) in
            [(&known, "seen"), (&later, "signed with a known key"), (&opaque, "vouched for just now"), (&key, "a key")]
        {
            assert_eq!(me(&server, token).status, 200, "{mode}: {what}");
        }
        for (token, what) in [(&forged, "an unknown key"), (&unasked, "an opaque token")] {
            let answer = me(&server, token);
            assert_eq!(answer.problem(), (503, "provider_unavailable".to_owned()), "{mode}: {what}");
            assert!(!answer.header("retry-after").is_empty(), "{mode}: {what}");
        }
    }
    airlock.fault(&json!({"mode": "pass"}));
    assert_eq!(ready(&server, &unasked).status, 200);
    assert_eq!(ready(&server, &forged).status, 401);
}

#[test]
fn a_server_starts_without_its_provider_and_keys_work_meanwhile() {
    let airlock = Airlock::start();
    let token = airlock.token("service:kahn-harness", "kahn:read");
    airlock.fault(&json!({"mode": "down"}));
    let (server, _database, key) = server(&airlock);
    let answer = me(&server, &token);
    assert_eq!(answer.problem(), (503, "provider_unavailable".to_owned()));
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(me(&server, &key).status, 200);
    airlock.fault(&json!({"mode": "pass"}));
    assert_eq!(ready(&server, &token).status, 200);
}

#[test]
fn keys_that_are_odd_or_none_do_not_replace_those_that_are_known() {
    let airlock = Airlock::start();
    let (server, _database, _) = server(&airlock);
    let known = airlock.token("service:kahn-harness", "kahn:read");
    assert_eq!(ready(&server, &known).status, 200);
    airlock.fault(&json!({"path": "jwks", "mode": "answer", "body": "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"x\",\"k\":\"AAAA\"}, 7, null]}"}));
    let forged = airlock.mint(&json!({"header": {"kid": "forged"}}));
    assert_eq!(me(&server, &forged).status, 503);
    assert_eq!(me(&server, &known).status, 200);
    assert_eq!(me(&server, &airlock.token("service:kahn-harness", "kahn:read")).status, 200);
}

#[test]
fn what_the_provider_says_of_an_opaque_token_decides() {
    let airlock = Airlock::start();
    let (server, _database, _) = server(&airlock);
    let good = |overrides: Value| {
        let mut said = json!({"active": true, "iss": airlock.issuer, "sub": "ada", "client_id": "kahn", "org_id": "org_acme",
            "token_type": "Bearer", "scope": "kahn:read", "exp": 4_000_000_000_u64, "aud": "kahn"});
        for (name, value) in overrides.as_object().expect("members") {
            if value.is_null() {
                said.as_object_mut().expect("members").remove(name);
            } else {
                said[name] = value.clone();
            }
        }
        said.to_string()
    };
    let ask = |number: usize, status: u64, body: String| {
        airlock.fault(&json!({"path": "introspection", "mode": "answer", "status": status, "body": body}));
        me(&server, &format!("opaque-token-number-{number}"))
    };
    let first = ask(0, 200, good(json!({})));
    assert_eq!((first.status, &first.json()["user"], &first.json()["kind"]), (200, &json!("ada"), &json!("user")));
    let cases = [
        (200, 200, good(json!({"exp": null, "aud": ["other", "kahn"], "token_type": "bearer"}))),
        (200, 401, json!({"active": false}).to_string()),
        (200, 401, good(json!({"active": "true"}))),
        (200, 401, good(json!({"active": 1}))),
        (200, 401, good(json!({"iss": "https://other.example"}))),
        (200, 401, good(json!({"iss": null}))),
        (200, 401, good(json!({"exp": 1_000_000_000}))),
        (200, 401, good(json!({"exp": "4000000000"}))),
        (200, 401, good(json!({"aud": "other"}))),
        (200, 401, good(json!({"token_type": "DPoP"}))),
        (200, 401, good(json!({"cnf": {"jkt": "x"}}))),
        (200, 401, good(json!({"sub": "a\u{7}b"}))),
        (200, 401, good(json!({"sub": "x".repeat(256)}))),
        (200, 403, good(json!({"org_id": null}))),
        (200, 403, good(json!({"org_id": ["org_acme"]}))),
        (200, 403, good(json!({"org_id": "org/acme"}))),
        (200, 503, "no JSON".to_owned()),
        (200, 503, "{\"active\":true,\"active\":false}".to_owned()),
        (400, 401, "{}".to_owned()),
        (401, 503, "{}".to_owned()),
        (403, 503, "{}".to_owned()),
        (302, 503, "{}".to_owned()),
        (500, 503, "{}".to_owned()),
    ];
    for (number, (said, wanted, body)) in cases.into_iter().enumerate() {
        let answer = ask(number + 1, said, body.clone());
        assert_eq!(answer.status, wanted, "{said}: {body}");
    }
    // What was refused is not asked about again for a while, and what was good is believed.
    airlock.fault(&json!({"path": "introspection", "mode": "pass"}));
    let asked = airlock.count("/token/introspection");
    assert_eq!(me(&server, "opaque-token-number-3").status, 401);
    assert_eq!(me(&server, "opaque-token-number-0").status, 200);
    assert_eq!(airlock.count("/token/introspection"), asked);
}

#[test]
fn a_provider_that_hangs_is_asked_about_64_tokens_at_once_and_about_each_once() {
    let airlock = Airlock::start();
    let (server, _database, key) = server(&airlock);
    assert_eq!(ready(&server, &airlock.token("service:acme-opaque", "kahn:read")).status, 200);
    airlock.fault(&json!({"path": "introspection", "mode": "slow"}));
    let before = airlock.count("/token/introspection");
    thread::scope(|scope| {
        let asked: Vec<_> = (0..160)
            .map(|number| {
                scope.spawn({
                    let server = &server;
                    move || me(server, &format!("opaque-token-number-{}", number % 80)).problem()
                })
            })
            .collect();
        wait_for("64 calls", || (airlock.count("/token/introspection") >= before + 64).then_some(()));
        assert_eq!(me(&server, &key).status, 200, "nobody else waits for it");
        for answer in asked {
            assert_eq!(answer.join().expect("an answer"), (503, "provider_unavailable".to_owned()));
        }
    });
    assert_eq!(airlock.count("/token/introspection"), before + 64);
}

/// Each would be somebody else's token, or no access token at all, in the words of an access token.
#[test]
#[expect(clippy::disallowed_methods, reason = "what a token says of its end is the calendar's")]
fn claims_have_to_be_those_of_an_access_token_for_this_server() {
    let airlock = shared();
    let (server, _database, _) = server(airlock);
    assert_eq!(ready(&server, &airlock.token("service:kahn-harness", "kahn:read")).status, 200);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a date").as_secs();
    let of = |said: Value| {
        let answer = me(&server, &airlock.mint(&said));
        (answer.status, answer.header("www-authenticate").to_owned())
    };
    let claims = |claims: Value| of(json!({ "claims": claims })).0;
    let header = |header: Value| of(json!({ "header": header })).0;
    // Clocks may differ by a minute, a day is the longest life, and who says nothing of scopes may read.
    for good in [
        json!({}),
        json!({"exp": now - 30}),
        json!({"exp": now + 86_400}),
        json!({"nbf": now + 30}),
        json!({"iat": now + 30}),
        json!({"aud": ["other", "kahn"]}),
        json!({"scope": null}),
        json!({"sub": null}),
        json!({"exp": now as f64 + 60.5}),
    ] {
        assert_eq!(claims(good.clone()), 200, "{good}");
    }
    for bad in [
        json!({"exp": null}),
        json!({"exp": now - 90}),
        json!({"exp": now + 86_400 + 120}),
        json!({"exp": (now + 60).to_string()}),
        json!({"exp": [now + 60]}),
        json!({"exp": true}),
        json!({"nbf": now + 120}),
        json!({"nbf": "0"}),
        json!({"iat": now + 120}),
        json!({"iat": {}}),
        json!({"iss": [airlock.issuer]}),
        json!({"iss": format!("{}/", airlock.issuer)}),
        json!({"iss": null}),
        json!({"aud": "kahn "}),
        json!({"aud": ["KAHN"]}),
        json!({"aud": [7, "kahn"]}),
        json!({"aud": {"kahn": true}}),
        json!({"aud": null}),
        json!({"cnf": {"jkt": "x"}}),
        json!({"nonce": "x"}),
        json!({"at_hash": "x"}),
        json!({"c_hash": "x"}),
        json!({"events": {}}),
        json!({"sub": 7}),
        json!({"sub": ""}),
        json!({"sub": null, "client_id": null}),
        json!({"scope": ["kahn:read"]}),
    ] {
        assert_eq!(claims(bad.clone()), 401, "{bad}");
    }
    for nobody in [
        json!({"org_id": null}),
        json!({"org_id": 7}),
        json!({"org_id": "org_acme\n"}),
        json!({"org_id": "x".repeat(65)}),
    ] {
        assert_eq!(claims(nobody.clone()), 403, "{nobody}");
    }
    // It is known who asks, and that it may nothing.
    let answer = request(
        &server.url,
        ("GET", "/api/runs"),
        &[(
            "authorization",
            &format!("Bearer {}", airlock.mint(&json!({"claims": {"scope": "kahn:readonly openid"}}))),
        )],
        None,
    );
    assert_eq!(answer.problem(), (403, "insufficient_scope".to_owned()));
    for good in [json!({"typ": "JWT"}), json!({"typ": null}), json!({"typ": "application/at+jwt"})] {
        assert_eq!(header(good.clone()), 200, "{good}");
    }
    for bad in [json!({"typ": "dpop+jwt"}), json!({"typ": "logout+jwt"}), json!({"typ": ""}), json!({"crit": ["exp"]})]
    {
        assert_eq!(header(bad.clone()), 401, "{bad}");
    }
}

#[test]
fn a_strict_server_takes_what_says_that_it_is_an_access_token_and_nothing_else() {
    let airlock = shared();
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = airlock.serve_with(&database, &["--oidc-typ", "strict"], &[]);
    assert_eq!(ready(&server, &airlock.mint(&json!({"header": {"typ": "at+jwt"}}))).status, 200);
    for typ in [json!("JWT"), json!(null), json!("jwt")] {
        assert_eq!(me(&server, &airlock.mint(&json!({"header": {"typ": typ}}))).status, 401, "{typ}");
    }
}
