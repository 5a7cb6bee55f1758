//! /api/keys. If these fail, an admin cannot change a key without an outage, ends somebody else's, or a key is shown twice.

use std::time::{Duration, Instant};

use kahn::contract::Principal;
use serde_json::{Value, json};

use super::cluster::Database;
use super::library::{admin, admin_of, served};
use super::{serve, tenant};
use crate::feed::{Socket, block_on};
use crate::support::{Answer, request, wait_for};

const LINE: &[u8] =
    b"{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"run_start\",\"total_nodes\":1}\n";
/// An id that no key has.
const NOBODYS: &str = "00000000-0000-4000-8000-000000000000";

fn send(url: &str, asked: (&str, &str), body: &str) -> Answer {
    let headers = [("content-type", "application/json"), ("x-request-id", "same")];
    request(url, asked, &headers, Some(body.as_bytes()).filter(|body| !body.is_empty()))
}

fn make(url: &str, label: &str, scope: &str) -> Answer {
    send(url, ("POST", "/api/keys"), &json!({"label": label, "scope": scope}).to_string())
}

fn rotate(url: &str, key_id: &str) -> Answer {
    send(url, ("POST", &format!("/api/keys/{key_id}/rotate")), "")
}

fn revoke(url: &str, key_id: &str) -> Answer {
    send(url, ("DELETE", &format!("/api/keys/{key_id}")), "")
}

fn listed(url: &str) -> Vec<Value> {
    request(url, ("GET", "/api/keys"), &[], None).json()["items"].as_array().expect("a list").clone()
}

/// What may be shown of a key of this scope and label.
fn listed_as(url: &str, scope: &str, label: &str) -> Value {
    let keys = listed(url).into_iter();
    keys.into_iter().find(|key| key["scope"] == scope && key["label"] == label).expect("a key")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}"))
}

/// An admin of a tenant that has no live key.
fn without_keys(database: &Database, name: &str) -> Principal {
    let who = admin(database, name);
    database.admin("UPDATE api_keys SET revoked_at = now()");
    who
}

#[test]
fn a_key_that_was_made_works_at_once_and_is_never_shown_again() {
    let database = Database::fresh();
    let who = without_keys(&database, "acme");
    let server = serve(&database);
    served(&database, &who, |url| {
        let made = make(url, "  build farm \u{fc}  ", "ingest");
        assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{}", made.text());
        let whole = made.text();
        let made = made.json();
        let members = ["key_id", "label", "scope", "prefix", "created", "expires", "revoked", "last_used", "key"];
        let places: Vec<_> = members.iter().map(|name| whole.find(&format!("\"{name}\":"))).collect();
        assert!(places.is_sorted() && places[0].is_some(), "{members:?} in this order: {whole}");
        assert_eq!(made.as_object().expect("an object").len(), members.len());
        assert_eq!((text(&made, "label"), text(&made, "scope")), ("build farm \u{fc}", "ingest"));
        let key = text(&made, "key");
        assert!(key.starts_with(&format!("kahn_live_sk_{}_", text(&made, "prefix"))));
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", &*bearer), ("content-type", "application/x-ndjson")];
        let stored = request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(LINE));
        assert_eq!(stored.status, 200, "{}", stored.text());
        let used = wait_for("last_used", || listed(url)[0]["last_used"].as_str().map(str::to_owned));
        let mut shown = made.clone();
        shown.as_object_mut().expect("an object").remove("key");
        shown["last_used"] = used.into();
        assert_eq!(listed(url)[0], shown, "what is listed is what was said");
        let secret = &key[22..];
        let hash = database.admin("SELECT encode(key_sha256, 'hex') FROM api_keys WHERE revoked_at IS NULL").concat();
        for target in ["/api/keys", "/api/activity", "/api/activity?format=ndjson", "/api/me"] {
            let said = request(url, ("GET", target), &[], None).text();
            assert!(!said.contains(secret) && !said.contains(&hash[0]), "{target}");
        }
        let rows = "SELECT k::text FROM api_keys k UNION ALL SELECT a::text FROM activity a";
        assert!(database.admin(rows).concat().iter().all(|row| !row.contains(secret)), "nor is it stored");
    });
}

#[test]
fn a_scope_has_two_live_keys_at_the_most_however_many_ask_at_once() {
    let database = Database::fresh();
    let who = without_keys(&database, "acme");
    served(&database, &who, |url| {
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let asked: Vec<_> =
                (0..8).map(|number| scope.spawn(move || make(url, &format!("n{number}"), "ingest"))).collect();
            asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
        });
        let made: Vec<Value> = answers.iter().filter(|answer| answer.status == 201).map(Answer::json).collect();
        assert_eq!(made.len(), 2);
        let mut live: Vec<&str> = made.iter().map(|key| text(key, "key_id")).collect();
        live.sort_unstable();
        for refused in answers.iter().filter(|answer| answer.status != 201) {
            assert_eq!(refused.problem(), (409, "too_many_keys".into()));
            let mut named: Vec<String> = serde_json::from_value(refused.json()["key_ids"].clone()).expect("ids");
            named.sort_unstable();
            assert_eq!(named, live, "the ids of those that are in the way");
            assert!(refused.text().contains("DELETE /api/keys/KEY_ID"), "what mends it: {}", refused.text());
        }
        assert_eq!(make(url, "reader", "read").status, 201, "each scope has its own");
        // The command goes by the same rule, and sees what was made here.
        let (code, sentence) = super::tenants::refusal(&database, &["rotate-key", "acme"]);
        assert!(code == Some(1) && live.iter().all(|id| sentence.contains(id)), "{sentence}");
        assert_eq!(revoke(url, live[0]).status, 204);
        assert_eq!(make(url, "next", "ingest").status, 201);
    });
}

#[test]
fn a_rotated_key_goes_on_for_a_day_and_no_longer() {
    let database = Database::fresh();
    let who = without_keys(&database, "acme");
    served(&database, &who, |url| {
        let old = make(url, "farm", "read").json();
        let answer = rotate(url, text(&old, "key_id"));
        assert_eq!((answer.status, answer.header("cache-control")), (201, "no-store"));
        let new = answer.json();
        assert_eq!((text(&new, "label"), text(&new, "scope"), &new["expires"]), ("farm", "read", &Value::Null));
        assert_ne!((&new["key_id"], &new["key"]), (&old["key_id"], &old["key"]));
        let end = "SELECT expires_at BETWEEN now() + interval '1439 minutes' AND now() + interval '1440 minutes' \
                   FROM api_keys WHERE expires_at IS NOT NULL";
        assert_eq!(database.admin(end), [["t"]]);
        assert_eq!(listed(url)[0]["key_id"], new["key_id"], "the newest of those alive is the first");
        for either in [&old, &new] {
            let again = rotate(url, text(either, "key_id"));
            assert_eq!(again.problem(), (409, "too_many_keys".into()), "a third one would end a key in use");
        }
        // Its end is there; then an end that comes sooner than a day is not put off.
        let expire = format!("UPDATE api_keys SET expires_at = now() WHERE key_id = '{}'", text(&old, "key_id"));
        database.admin(&expire);
        assert_eq!(rotate(url, text(&old, "key_id")).problem(), (409, "dead_key".into()));
        let new_id = text(&new, "key_id");
        database
            .admin(&format!("UPDATE api_keys SET expires_at = now() + interval '1 hour' WHERE key_id = '{new_id}'"));
        let third = rotate(url, new_id).json();
        assert_eq!(third["expires"], Value::Null, "{third}");
        let end = format!("SELECT expires_at < now() + interval '61 minutes' FROM api_keys WHERE key_id = '{new_id}'");
        assert_eq!(database.admin(&end), [["t"]]);
        assert_eq!(revoke(url, new_id).status, 204);
        assert_eq!(rotate(url, new_id).problem(), (409, "dead_key".into()));
        assert_eq!(rotate(url, NOBODYS).problem(), (404, "unknown_key".into()));
    });
}

#[test]
fn a_key_that_was_revoked_over_http_is_dead_within_5_s_and_so_is_its_socket() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "acme");
    let who = admin_of(&database, "acme");
    let servers = [serve(&database), serve(&database)];
    let bearer = format!("Bearer {key}");
    let status =
        |place: usize| request(&servers[place].url, ("GET", "/api/runs"), &[("authorization", &bearer)], None).status;
    served(&database, &who, |url| {
        let key_id = listed_as(url, "read", "first");
        let key_id = text(&key_id, "key_id");
        block_on(async {
            let mut socket = Socket::open_at(&servers[0].url, Some(bearer.clone())).await;
            assert_eq!((status(0), status(1)), (200, 200));
            assert_eq!(revoke(url, key_id).status, 204);
            let ended = Instant::now();
            for place in [0, 1] {
                wait_for("a refusal", || (status(place) == 401).then_some(()));
            }
            assert_eq!(socket.next().await, json!({"type": "close", "code": 4401}));
            assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
        });
        let revoked = listed_as(url, "read", "first")["revoked"].clone();
        let again = revoke(url, key_id);
        assert_eq!((again.status, again.text().as_str()), (204, ""), "a second time it is what it was");
        assert_eq!(listed_as(url, "read", "first")["revoked"], revoked);
        let noted = "SELECT actor, target FROM activity WHERE action = 'key_revoked'";
        assert_eq!(database.admin(noted), [["user:ada", key_id]], "once");
    });
}

#[test]
fn another_tenants_key_is_one_that_is_not_there() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    tenant(&database, "other");
    let theirs = "SELECT key_id FROM api_keys k JOIN tenants t USING (tenant_id) WHERE t.name = 'other'";
    let theirs = database.admin(theirs).concat();
    let before = database.admin("SELECT * FROM api_keys ORDER BY key_id");
    served(&database, &who, |url| {
        assert_eq!(listed(url).len(), 2, "its own");
        let shouted = theirs[0].to_uppercase();
        let plain = theirs[0].replace('-', "");
        for ask in [rotate, revoke] {
            let unknown = ask(url, NOBODYS);
            assert_eq!(unknown.problem(), (404, "unknown_key".into()));
            for key_id in
                [&*theirs[0], &theirs[1], &shouted, &plain, "nonsense", "%00", "%ff", "..%2fme", &"a".repeat(4000)]
            {
                assert_eq!(ask(url, key_id).text(), unknown.text(), "{key_id}");
            }
        }
        let own = text(&listed(url)[0], "key_id").to_uppercase();
        assert_eq!(revoke(url, &own).problem(), (404, "unknown_key".into()), "an id is written in one way");
    });
    assert_eq!(database.admin("SELECT * FROM api_keys ORDER BY key_id"), before);
}

#[test]
fn a_key_is_made_only_of_what_is_asked_for_exactly() {
    let database = Database::fresh();
    let who = without_keys(&database, "acme");
    served(&database, &who, |url| {
        let longest = "\u{e9}".repeat(64);
        let bad = [
            "",
            "{",
            "null",
            "[]",
            "\"ci\"",
            "{}",
            r#"{"label":"ci"}"#,
            r#"{"scope":"read"}"#,
            r#"{"label":"ci","scope":"admin"}"#,
            r#"{"label":"ci","scope":"READ"}"#,
            r#"{"label":"ci","scope":["read"]}"#,
            r#"{"label":"ci","scope":null}"#,
            r#"{"label":null,"scope":"read"}"#,
            r#"{"label":7,"scope":"read"}"#,
            r#"{"label":"ci","scope":"read","more":1}"#,
            r#"{"label":"ci","scope":"read","label":"other"}"#,
            r#"{"label":"ci","scope":"read"} x"#,
            r#"{"label":"","scope":"read"}"#,
            r#"{"label":"  ","scope":"read"}"#,
            r#"{"label":"a\u0000b","scope":"read"}"#,
            r#"{"label":"a\nb","scope":"read"}"#,
            r#"{"label":"a\u202eb","scope":"read"}"#,
            r#"{"label":"\u200b","scope":"read"}"#,
            r#"{"label":"\ud800","scope":"read"}"#,
            &format!(r#"{{"label":"{longest}x","scope":"read"}}"#),
        ];
        for body in bad {
            assert_eq!(send(url, ("POST", "/api/keys"), body).problem(), (400, "invalid_key".into()), "{body}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            let body = json!({"label": "ci", "scope": "read"}).to_string();
            let answer = request(url, ("POST", "/api/keys"), &[("content-type", kind)], Some(body.as_bytes()));
            assert_eq!(answer.problem(), (415, "unsupported_media_type".into()), "{kind}");
        }
        let large = json!({"label": "x".repeat(64 * 1024), "scope": "read"}).to_string();
        assert_eq!(send(url, ("POST", "/api/keys"), &large).problem(), (413, "body_too_large".into()));
        assert_eq!(send(url, ("POST", "/api/keys?scope=read"), "{}").problem(), (400, "unknown_parameter".into()));
        for (method, target) in
            [("POST", format!("/api/keys/{NOBODYS}/rotate")), ("DELETE", format!("/api/keys/{NOBODYS}"))]
        {
            assert_eq!(send(url, (method, &target), "{}").problem(), (400, "unexpected_body".into()));
        }
        assert_eq!(database.admin("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL"), [["0"]]);
        let most = make(url, &longest, "read");
        assert_eq!((most.status, most.json()["label"].as_str()), (201, Some(&*longest)));
    });
}

/// Every address of the account, with the methods it takes.
fn addresses() -> Vec<(String, String)> {
    let of_account =
        |pattern: &str| ["/api/keys", "/api/activity", "/api/billing"].iter().any(|own| pattern.starts_with(own));
    let routes = kahn::http::route_table().into_iter().filter(|(_, pattern)| of_account(pattern));
    let addresses: Vec<_> = routes.map(|(method, pattern)| (method, pattern.replace("{key_id}", NOBODYS))).collect();
    assert_eq!(addresses.len(), 6);
    addresses
}

#[test]
fn only_an_admin_gets_to_the_account() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve(&database);
    for (method, target) in addresses() {
        for key in [&ingest, &read] {
            let headers = [("authorization", &*format!("Bearer {key}")), ("content-type", "application/json")];
            let answer = request(&server.url, (&method, &target), &headers, None);
            assert_eq!(answer.problem(), (403, "insufficient_scope".into()), "{method} {target}");
            assert_eq!(answer.json()["scope"], "admin");
            assert!(answer.header("www-authenticate").contains("kahn:admin"));
        }
        let answer = request(&server.url, (&method, &target), &[], None);
        assert_eq!(answer.problem(), (401, "no_credentials".into()), "{method} {target}");
    }
    let rows = "SELECT count(*), count(revoked_at), count(expires_at) FROM api_keys";
    assert_eq!(database.admin(rows), [["2", "0", "0"]]);
}
