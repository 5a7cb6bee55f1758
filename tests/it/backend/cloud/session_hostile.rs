//! What others try with a sign-in and with a session: each of these would put somebody into an account that is not theirs,
//! or have a person's browser do what they did not ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::airlock::Airlock;
use super::cluster::Database;
use super::session::{Jar, PUBLIC, Person, Reply, SESSION, SIGN_IN, ask, key_file, serve, serve_with, two_tenants};
use super::tenant;
use crate::support::{Server, request, wait_for};

fn is_refused(reply: &Reply, what: &str) {
    assert_eq!(reply.status, 400, "{what}: {}", reply.body);
    let problem: Value = serde_json::from_str(&reply.body).expect("a problem");
    assert_eq!(problem["code"], "sign_in_failed", "{what}");
    assert!(reply.cookies.is_empty(), "{what} sets a cookie");
}

#[test]
fn a_sign_in_ends_only_in_the_browser_that_began_it_and_only_once() {
    let (server, _database) = two_tenants();
    let (mut victim, mut attacker) = (Person::at(&server), Person::at(&server));
    let (of_victim, of_attacker) = (victim.leaves("/auth/login"), attacker.leaves("/auth/login"));
    let back_of_attacker = attacker.agrees(&of_attacker, "eve@globex");
    is_refused(&victim.returns(&back_of_attacker), "another's state: the victim would work in the attacker's account");
    is_refused(&Person::at(&server).returns(&back_of_attacker), "a browser that began nothing");

    let back = victim.agrees(&of_victim, "ada@acme");
    let state = |back: &str| back.split("state=").nth(1).expect("a state").split('&').next().expect("it").to_owned();

    for (what, wrong) in [
        ("no state", back.replace("state=", "was=")),
        ("an empty state", back.replace(&state(&back), "")),
        ("a state twice", format!("{back}&state={}", state(&back))),
        ("another provider's answer", back.replace("iss=", "iss=https%3A%2F%2Fevil.example&was=")),
        ("an answer that does not say whose it is", back.replace("iss=", "was=")),
        ("no code", back.replace("code=", "was=")),
        ("an empty answer", format!("{PUBLIC}/auth/callback")),
        ("an error beside the code", format!("{back}&error=access_denied")),
    ] {
        is_refused(&victim.returns(&wrong), what);
    }
    let before = victim.here.clone();
    assert_eq!(victim.returns(&back).status, 303, "the true answer still counts");
    is_refused(&victim.returns(&back), "the same answer again");
    victim.here = before;
    is_refused(&victim.returns(&back), "the same answer again, with the cookies of before");

    let of_victim = victim.leaves("/auth/login");
    let back = victim.agrees(&of_victim, "ada@acme");
    let mixed = back_of_attacker.replace(&state(&back_of_attacker), &state(&back));
    is_refused(&victim.returns(&mixed), "another's code under one's own state");
    is_refused(
        &victim.returns(&back),
        "a second code: one sign-in asks the provider about one, or codes could be guessed",
    );
}

#[test]
fn a_person_who_refuses_at_the_provider_stays_out() {
    let (server, _database) = two_tenants();
    let mut person = Person::at(&server);
    let provider = person.leaves("/auth/login");
    let back = person.answers(&provider, "do=no");
    assert!(back.contains("error=access_denied"), "{back}");
    let reply = person.returns(&back);
    assert_eq!((reply.status, reply.location.as_str()), (303, "/"), "back to the card that offers signing in");
    assert!(person.here.0.is_empty(), "{} cookies", person.here.0.len());
    is_refused(&person.returns(&back), "the same refusal again");
    assert_eq!(person.asks(("GET", "/api/me"), &[]).status, 401);
}

/// JSON in the window is no answer for somebody whose sign-in took too long.
#[test]
fn a_failed_sign_in_is_a_page_that_begins_another_for_whoever_came_with_a_browser() {
    let (server, _database) = two_tenants();
    let page =
        request(&server.url, ("GET", "/auth/callback?state=x&code=y"), &[("accept", "text/html,*/*;q=0.8")], None);
    assert_eq!((page.status, page.header("content-type")), (400, "text/html; charset=utf-8"), "{}", page.text());
    assert!(page.text().contains("<a href=\"/auth/login\">Sign in again</a>"), "{}", page.text());
    assert_eq!(page.header("cache-control"), "no-store");
    let wrong = request(&server.url, ("GET", "/auth/login?next=/a"), &[("accept", "text/html,*/*;q=0.8")], None);
    assert_eq!((wrong.status, wrong.header("content-type")), (400, "text/html; charset=utf-8"), "{}", wrong.text());
    let told = request(&server.url, ("GET", "/auth/callback?state=x&code=y"), &[], None);
    assert_eq!((told.status, told.header("content-type")), (400, "application/problem+json"));
}

#[test]
fn another_challenge_or_nonce_than_the_browsers_ends_nothing() {
    let (server, _database) = two_tenants();
    for name in ["nonce", "code_challenge"] {
        let mut person = Person::at(&server);
        let provider = person.leaves("/auth/login");
        let given = provider.split(&format!("{name}=")).nth(1).expect("it").split('&').next().expect("it").to_owned();
        let other = format!("A{}", given.chars().skip(1).map(|c| if c == 'a' { 'b' } else { 'a' }).collect::<String>());
        let back = person.agrees(&provider.replace(&given, &other), "ada@acme");
        is_refused(&person.returns(&back), name);
    }
}

#[test]
fn signing_in_leads_to_pages_of_this_server_alone() {
    let (server, _database) = two_tenants();
    for (wanted, place) in [
        ("%2Fruns%2Fof-acme%23events", "/runs/of-acme#events"),
        ("https%3A%2F%2Fevil.example%2F", "/"),
        ("%2F%2Fevil.example", "/"),
        ("%2F%5Cevil.example", "/"),
        ("%2F%09%2Fevil.example", "/"),
        ("%2F%0D%0ASet-Cookie%3A%20a%3Db", "/"),
        ("%2Fauth%2Flogout", "/"),
        ("%252F%252Fevil.example", "/"),
        ("javascript%3Aalert(1)", "/"),
    ] {
        let mut person = Person::at(&server);
        let provider = person.leaves(&format!("/auth/login?return_to={wanted}"));
        let back = person.agrees(&provider, "ada@acme");
        assert_eq!(person.returns(&back).location, place, "{wanted}");
    }
    assert_eq!(Person::at(&server).goes("/auth/login?return_to=/a&return_to=/b").status, 400);
    assert_eq!(Person::at(&server).goes("/auth/login?next=/a").status, 400);
}

#[test]
fn a_session_counts_on_this_servers_own_pages_alone() {
    let (server, _database) = two_tenants();
    let person = Person::signed_in(&server, "ada@acme");
    let foreign = |request: (&str, &str), headers: &[(&str, &str)]| {
        let refused = person.asks(request, headers);
        assert_eq!(refused.problem(), (403, "foreign_origin".to_owned()), "{request:?} {headers:?}");
    };
    for site in ["cross-site", "same-site", "same-origin, cross-site", "nonsense"] {
        foreign(("GET", "/api/runs"), &[("sec-fetch-site", site)]);
        foreign(("GET", "/api/me"), &[("origin", PUBLIC), ("sec-fetch-site", site)]);
    }
    for origin in [
        "https://evil.example",
        "null",
        "",
        "http://kahn.example",
        "https://kahn.example:444",
        "https://kahn.example.evil.example",
    ] {
        foreign(("GET", "/api/runs"), &[("origin", origin)]);
        foreign(("POST", "/v1/ingest/transitions"), &[("origin", origin), ("content-type", "application/x-ndjson")]);
    }
    foreign(("POST", "/v1/ingest/transitions"), &[("content-type", "application/x-ndjson")]);
    for own in [&[][..], &[("sec-fetch-site", "same-origin")], &[("sec-fetch-site", "none")], &[("origin", PUBLIC)]] {
        assert_eq!(person.asks(("GET", "/api/runs"), own).status, 200, "{own:?}");
    }
    let own = [("origin", PUBLIC), ("sec-fetch-site", "same-origin"), ("content-type", "application/x-ndjson")];
    assert_eq!(person.asks(("POST", "/v1/ingest/transitions"), &own).problem(), (400, "empty_batch".to_owned()));
    // A token says itself who asks, wherever the page is from; and a bad one is not made up for by a cookie.
    assert_eq!(person.asks(("GET", "/api/runs"), &[("authorization", "Bearer nonsense")]).problem().0, 401);
}

/// A session's cookie as this server would have sealed it, were it the one to say what is in it.
fn sealed(airlock: &Airlock, key: &[u8], name: &str, session: &Value) -> String {
    let mut hash = Sha512::new();
    for part in ["kahn session 1", airlock.issuer.as_str(), "kahn"] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(key);
    let key = cookie::Key::from(&hash.finalize());
    let mut jar = cookie::CookieJar::new();
    jar.private_mut(&key).add(cookie::Cookie::new(name.to_owned(), session.to_string()));
    jar.get(name).expect("it was added").value().to_owned()
}

#[test]
fn a_session_that_was_changed_is_over_or_was_sealed_elsewhere_is_none() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let airlock = Airlock::start();
    let server = serve(&airlock, &database);
    let key = std::fs::read(key_file()).expect("the key");
    let status = |field: &str| {
        let mut person = Person::at(&server);
        person.here.0.insert(SESSION.to_owned(), field.to_owned());
        person.asks(("GET", "/api/me"), &[]).status
    };
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let session = |until: u64| json!({"id": "0123456789012345678901", "user": "ada@acme", "org": "org_acme", "scopes": ["read"], "until": until});
    let good = sealed(&airlock, &key, SESSION, &session(now + 60));
    assert_eq!(status(&good), 200, "what these tests seal is what the server seals");
    assert_eq!(status(&sealed(&airlock, &key, SESSION, &session(now - 1))), 401, "over");
    assert_eq!(status(&sealed(&airlock, &key, SIGN_IN, &session(now + 60))), 401, "sealed as another cookie");
    assert_eq!(status(&sealed(&airlock, b"another key, of the same length", SESSION, &session(now + 60))), 401);
    assert_eq!(status(&sealed(&Airlock::start(), &key, SESSION, &session(now + 60))), 401, "of another provider");
    assert_eq!(status(&session(now + 60).to_string().replace([' ', '"', ',', ';'], "")), 401, "not sealed");
    assert_eq!(status(&STANDARD.encode(session(now + 60).to_string())), 401, "not sealed");
    for at in (0..good.len()).step_by(7) {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(status(&String::from_utf8(changed).expect("text")), 401, "changed at {at}");
        assert_eq!(status(&good[..at]), 401, "cut at {at}");
    }
    let twice = format!("{good}; {SESSION}={good}");
    assert_eq!(status(&twice), 401, "two of one name");
    // It ends by itself, under an open page.
    let short = sealed(&airlock, &key, SESSION, &session(now + 3));
    wait_for("the session's end", || (status(&short) == 401).then_some(()));
}

/// A provider that fails while somebody signs in.
fn signs_in_with(airlock: &Airlock, server: &Server, fault: &Value) -> Reply {
    let mut person = Person::at(server);
    let provider = person.leaves("/auth/login");
    let back = person.agrees(&provider, "ada@acme");
    airlock.fault(fault);
    let reply = person.returns(&back);
    airlock.fault(&json!({"path": "token", "mode": "pass"}));
    assert!(!person.here.0.contains_key(SESSION), "{fault}");
    reply
}

#[test]
fn a_provider_that_fails_or_lies_lets_nobody_in() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let airlock = Airlock::start();
    let server = serve(&airlock, &database);
    for (what, fault) in [
        ("cut off", json!({"path": "token", "mode": "down"})),
        ("silent", json!({"path": "token", "mode": "slow"})),
        ("dripping", json!({"path": "token", "mode": "drip"})),
        ("failing", json!({"path": "token", "mode": "answer", "status": 500})),
        ("knowing no such client", json!({"path": "token", "mode": "answer", "status": 401, "body": "{}"})),
        (
            "elsewhere",
            json!({"path": "token", "mode": "answer", "status": 302, "headers": {"location": "https://evil.example/"}}),
        ),
        ("talkative", json!({"path": "token", "mode": "answer", "body": "{}", "fill": 2_000_000})),
    ] {
        let reply = signs_in_with(&airlock, &server, &fault);
        assert_eq!(reply.status, 503, "{what}: {}", reply.body);
        assert!(reply.body.contains("provider_unavailable"), "{what}: {}", reply.body);
    }
    let id_token = |alg: &str, header: Value, more: Value| {
        let mut claims = json!({"aud": "kahn", "sub": "ada@acme", "client_id": null, "scope": null, "nonce": "x"});
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        airlock.mint(&json!({"alg": alg, "header": header, "claims": claims}))
    };
    for (what, patch) in [
        ("no ID token", json!({"id_token": null})),
        ("no access token", json!({"access_token": null})),
        ("a token for a bound key", json!({"token_type": "DPoP"})),
        ("an access token as the ID token", json!({"id_token": airlock.mint(&json!({}))})),
        ("another nonce", json!({"id_token": id_token("EdDSA", json!({"typ": "JWT"}), json!({}))})),
        ("an unsigned ID token", json!({"id_token": "eyJhbGciOiJub25lIn0.e30."})),
        ("an opaque ID token", json!({"id_token": "0123456789abcdef0123456789abcdef"})),
        ("an access token that is none", json!({"access_token": "x.y.z"})),
        ("an API key as the access token", json!({"access_token": "kahn_live_sk_abcdefgh_x"})),
        (
            "another person's access token",
            json!({"access_token": airlock.mint(&json!({"claims": {"sub": "eve@globex"}}))}),
        ),
        ("a machine's access token", json!({"access_token": airlock.token("service:kahn-harness", "kahn:read")})),
    ] {
        let reply = signs_in_with(&airlock, &server, &json!({"path": "token", "mode": "patch", "patch": patch}));
        is_refused(&reply, what);
    }
    assert_eq!(Person::signed_in(&server, "ada@acme").asks(("GET", "/api/me"), &[]).status, 200);
    airlock.fault(&json!({"mode": "down"}));
    let mut late = Person::at(&server);
    assert_eq!(late.goes("/auth/login").status, 303, "where people sign in is known");
    airlock.fault(&json!({"mode": "pass"}));
}

/// Comes back from a sign-in that it began itself, at once and with a code that nobody gave it; the status and the code of it.
fn guesses(server: &Server, airlock: &Airlock, from: &str) -> (u16, String) {
    let mut jar = Jar::default();
    let begun = ask("GET", &format!("{}/auth/login", server.url), &[("x-forwarded-for", from)], "");
    assert_eq!(begun.status, 303, "{}", begun.body);
    jar.take(&begun);
    let query = begun.location.split_once('?').expect("a query").1;
    let state = query.split('&').find(|pair| pair.starts_with("state=")).expect("a state").to_owned();
    let issuer: String = form_urlencoded::byte_serialize(airlock.issuer.as_bytes()).collect();
    let back = format!("{}/auth/callback?code=x&{state}&iss={issuer}", server.url);
    let reply = ask("GET", &back, &[("x-forwarded-for", from), ("cookie", &jar.field())], "");
    let problem: Value = serde_json::from_str(&reply.body).expect("a problem");
    (reply.status, problem["code"].as_str().expect("a code").to_owned())
}

#[test]
fn whoever_comes_back_with_codes_that_are_none_is_told_to_wait_and_asks_the_provider_no_more() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let airlock = Airlock::start();
    let few = ["--auth-failures-burst", "5", "--auth-failures-rate", "1", "--trusted-proxies", "127.0.0.1"];
    let server = serve_with(&airlock, &database, &few);
    let from = "198.51.100.7";
    // What does not reach the provider costs nobody anything: an old page that is loaded again, say.
    for _ in 0..20 {
        let stray =
            ask("GET", &format!("{}/auth/callback?code=x&state=y", server.url), &[("x-forwarded-for", from)], "");
        is_refused(&stray, "an answer to nothing");
    }
    let mut looked_at = 0;
    wait_for("the address to be told to wait", || {
        let before = airlock.count("/token");
        let (status, code) = guesses(&server, &airlock, from);
        match status {
            400 => looked_at += 1,
            _ => assert_eq!((status, code.as_str()), (429, "too_many_failures")),
        }
        assert_eq!(
            airlock.count("/token") - before,
            u64::from(status == 400),
            "a question to the provider that is not counted"
        );
        (status == 429).then_some(())
    });
    assert!((5..15).contains(&looked_at), "{looked_at} of 5");
    assert_eq!(guesses(&server, &airlock, "198.51.100.8").0, 400, "another address answers for itself");
    assert_eq!(Person::signed_in(&server, "ada@acme").asks(("GET", "/api/me"), &[]).status, 200);
}

#[test]
fn a_person_who_comes_while_many_sign_in_waits_for_a_turn() {
    let database = Database::fresh();
    let airlock = Airlock::start();
    let server = serve(&airlock, &database);
    airlock.fault(&json!({"path": "token", "mode": "late", "ms": 500}));
    // More than are asked about at once.
    let all: Vec<(u16, String)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..24).map(|_| scope.spawn(|| guesses(&server, &airlock, "198.51.100.7"))).collect();
        asking.into_iter().map(|guess| guess.join().expect("an answer")).collect()
    });
    assert!(all.iter().all(|(status, code)| (*status, code.as_str()) == (400, "sign_in_failed")), "{all:?}");
}

#[test]
fn where_nobody_signs_in_the_way_is_closed_and_says_so() {
    let database = Database::fresh();
    let keys_only = super::serve(&database);
    let person = Person::at(&keys_only);
    assert_eq!(person.asks(("GET", "/auth/login"), &[]).problem(), (404, "no_sign_in".to_owned()));
    assert_eq!(person.asks(("GET", "/auth/callback?code=a&state=b"), &[]).problem().0, 404);
    assert_eq!(person.asks(("POST", "/auth/logout"), &[]).problem().0, 404);
    assert_eq!(person.asks(("GET", "/api/config"), &[]).json()["sign_in"], false);
}
