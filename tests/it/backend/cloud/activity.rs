//! Who did what. If these fail, a change leaves no trace, a trace tells of what never was, or somebody can take one back.

use std::collections::BTreeSet;

use kahn::contract::{Principal, PrincipalKind};
use serde_json::{Value, json};

use super::cluster::Database;
use super::library::{admin, served, somebody};
use super::tenants::{done, refusal};
use crate::support::{Answer, request};

fn get(url: &str, target: &str) -> Answer {
    request(url, ("GET", target), &[], None)
}

fn make(url: &str) -> Answer {
    let headers = [("content-type", "application/json")];
    request(url, ("POST", "/api/keys"), &headers, Some(br#"{"label":"ci","scope":"ingest"}"#))
}

fn actions(url: &str) -> Vec<(String, String, String)> {
    let items = get(url, "/api/activity").json()["items"].clone();
    let text = |entry: &Value, name: &str| entry[name].as_str().expect("a text").to_owned();
    let all = items.as_array().expect("a list").iter();
    all.map(|entry| (text(entry, "actor"), text(entry, "action"), text(entry, "target"))).collect()
}

#[test]
fn every_change_is_told_with_who_made_it_newest_first() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    served(&database, &who, |url| {
        let text = |answer: &Value, name: &str| answer[name].as_str().expect("a text").to_owned();
        let first = done(&database, &["rotate-key", "acme", "--overlap", "0s", "--json"]);
        let first: Value = serde_json::from_str(&first).expect("an object");
        let made = make(url).json();
        request(url, ("DELETE", &format!("/api/keys/{}", text(&first, "key_id"))), &[], None);
        let next = request(url, ("POST", &format!("/api/keys/{}/rotate", text(&made, "key_id"))), &[], None).json();
        database.admin("INSERT INTO plans VALUES ('large', 400, 5000, 70000)");
        done(&database, &["set-plan", "acme", "large", "--retention-days", "30"]);
        done(&database, &["set-plan", "acme", "large", "--retention-days", "30"]);
        done(&database, &["set-plan", "acme", "large", "--retention-days", "default"]);
        done(&database, &["set-plan", "acme", "large", "--retention-days", "default"]);
        let rotated = "kahn tenant rotate-key";
        let planned = "kahn tenant set-plan";
        let provisioned = "kahn tenant provision";
        let wanted = [
            (planned, "retention_changed", "default".to_owned()),
            (planned, "retention_changed", "30".to_owned()),
            (planned, "plan_changed", "large".to_owned()),
            ("user:ada", "key_made", text(&next, "key_id")),
            ("user:ada", "key_given_an_end", text(&made, "key_id")),
            ("user:ada", "key_revoked", text(&first, "key_id")),
            ("user:ada", "key_made", text(&made, "key_id")),
            (rotated, "key_made", text(&first, "key_id")),
            (rotated, "key_given_an_end", first["old"]["key_id"].as_str().expect("an id").to_owned()),
        ];
        let wanted: Vec<_> = wanted.map(|(who, what, target)| (who.to_owned(), what.to_owned(), target)).into();
        let told = actions(url);
        assert_eq!(told[..wanted.len()], wanted[..]);
        let begun: Vec<_> = told[wanted.len()..].iter().map(|(who, what, _)| (who.as_str(), what.as_str())).collect();
        assert_eq!(begun, [(provisioned, "key_made"), (provisioned, "key_made"), (provisioned, "tenant_provisioned")]);
        assert_eq!(told.last().map(|(_, _, target)| target.as_str()), Some("acme"));
        let entry = &get(url, "/api/activity").json()["items"][0];
        assert_eq!(entry.as_object().expect("an object").len(), 4, "{entry}");
    });
}

/// What may go wrong does: the entry cannot be written, or what it tells cannot.
#[test]
fn a_change_and_its_entry_are_there_together_or_not_at_all() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    let state = || {
        let of = |table: &str| database.admin(&format!("SELECT row_to_json(t)::text FROM {table} t ORDER BY 1"));
        ["api_keys", "activity", "retention", "tenants"].map(of)
    };
    let may = |table: &str, yes: bool| {
        let change = if yes { "DROP CONSTRAINT never" } else { "ADD CONSTRAINT never CHECK (false) NOT VALID" };
        database.admin(&format!("ALTER TABLE {table} {change}"));
    };
    database.admin("INSERT INTO plans VALUES ('large', 400, 5000, 70000)");
    served(&database, &who, |url| {
        let key_id = get(url, "/api/keys").json()["items"][0]["key_id"].as_str().expect("an id").to_owned();
        let (one, rotation) = (format!("/api/keys/{key_id}"), format!("/api/keys/{key_id}/rotate"));
        let before = state();
        for table in ["activity", "api_keys"] {
            may(table, false);
            let asked =
                [make(url), request(url, ("DELETE", &one), &[], None), request(url, ("POST", &rotation), &[], None)];
            for answer in asked {
                assert_eq!(answer.problem(), (500, "storage_failed".into()), "{table}");
                assert!(!answer.text().contains("never") && !answer.text().contains(table), "{}", answer.text());
            }
            assert_eq!(refusal(&database, &["rotate-key", "acme", "--scope", "read"]).0, Some(1));
            assert_eq!(refusal(&database, &["revoke-key", "acme", &key_id]).0, Some(1));
            assert_eq!(refusal(&database, &["provision", "new", "--org", "new"]).0, Some(1));
            may(table, true);
            assert_eq!(state(), before, "{table}");
        }
        may("activity", false);
        assert_eq!(refusal(&database, &["set-plan", "acme", "large"]).0, Some(1));
        assert_eq!(refusal(&database, &["set-plan", "acme", "beta", "--retention-days", "3"]).0, Some(1));
        may("activity", true);
        assert_eq!(state(), before);
        assert_eq!(make(url).status, 201, "and then it works");
    });
}

#[test]
fn the_servers_role_can_add_entries_and_never_change_one() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    let tenant = who.tenant.expect("a tenant").id;
    let as_tenant = |statement: &str| {
        database.app(&format!("BEGIN; SELECT set_config('kahn.tenant_id', '{tenant}', true); {statement}; COMMIT"))
    };
    let before = database.admin("SELECT * FROM activity ORDER BY activity_id");
    assert_eq!(before.len(), 3);
    for statement in [
        "UPDATE activity SET actor = 'nobody'",
        "UPDATE activity SET at = now()",
        "DELETE FROM activity",
        "TRUNCATE activity",
        "DROP TABLE activity",
        "ALTER TABLE activity DISABLE ROW LEVEL SECURITY",
        "INSERT INTO activity SELECT * FROM activity ON CONFLICT (tenant_id, activity_id) DO UPDATE SET actor = 'nobody'",
    ] {
        let refused = as_tenant(statement).expect_err(statement);
        assert!(refused.contains("permission denied") || refused.contains("must be owner"), "{statement}: {refused}");
    }
    assert_eq!(database.admin("SELECT * FROM activity ORDER BY activity_id"), before);
    let added = "INSERT INTO activity (tenant_id, activity_id, actor, action, target) \
                 SELECT tenant_id, gen_random_uuid(), 'a', 'b', 'c' FROM tenants RETURNING 1";
    as_tenant(added).expect("it may add");
    assert_eq!(database.admin("SELECT count(*) FROM activity"), [["4"]]);
}

/// Entries of one instant, many of them, and more that come while somebody reads.
#[test]
fn pages_hold_every_entry_once_in_one_order() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    somebody(&database, "other");
    let more = |count: u32, at: &str| {
        database.admin(&format!(
            "INSERT INTO activity (tenant_id, activity_id, at, actor, action, target) \
             SELECT tenant_id, gen_random_uuid(), {at}, t.name, 'key_made', n::text FROM tenants t, generate_series(1, {count}) n \
             WHERE NOT reserved"
        ));
    };
    more(700, "'2026-04-24T10:00:00.123456Z'");
    more(600, "'2026-04-24T10:00:00.123456Z'::timestamptz + n / 7 * interval '1 microsecond'");
    served(&database, &who, |url| {
        let pages = |limit: usize| {
            let (mut items, mut cursor) = (Vec::new(), String::new());
            loop {
                let answer = get(url, &format!("/api/activity?limit={limit}{cursor}"));
                let page = answer.json();
                let of_page = page["items"].as_array().expect("a list").clone();
                let next = page["next_cursor"].as_str().map(str::to_owned);
                assert!(of_page.len() == limit || next.is_none(), "only the last page is short");
                items.extend(of_page);
                let Some(next) = next else {
                    assert_eq!(answer.header("link"), "");
                    return items;
                };
                assert_eq!(answer.header("link"), format!("</api/activity?cursor={next}&limit={limit}>; rel=\"next\""));
                cursor = format!("&cursor={next}");
            }
        };
        let all = pages(500);
        assert_eq!(all.len(), 1303);
        let targets: BTreeSet<_> = all.iter().map(|entry| entry.to_string()).collect();
        assert!(targets.len() >= 700 && all.iter().all(|entry| entry["actor"] != "other"), "its own, each once");
        assert!(all.iter().map(|entry| entry["at"].as_str()).rev().is_sorted(), "newest first");
        for limit in [7, 100, 131] {
            assert_eq!(pages(limit), all, "{limit}");
        }
        let lines: Vec<Value> = get(url, "/api/activity?format=ndjson")
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object a line"))
            .collect();
        assert_eq!(lines, all, "an export is the same entries");

        // What comes meanwhile is before the place where somebody reads on.
        let first = get(url, "/api/activity?limit=500").json();
        more(50, "now()");
        let next = first["next_cursor"].as_str().expect("a cursor");
        let second = get(url, &format!("/api/activity?limit=500&cursor={next}")).json();
        assert_eq!(second["items"].as_array().expect("a list")[..], all[500..1000]);
        assert_eq!(pages(500)[50..], all[..]);
    });
}

#[test]
fn a_cursor_leads_nowhere_but_into_the_tenants_own_entries() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    let other = admin(&database, "other");
    let mut theirs = String::new();
    served(&database, &other, |url| {
        let page = get(url, "/api/activity?limit=1").json();
        theirs = page["next_cursor"].as_str().expect("a cursor").to_owned();
    });
    served(&database, &who, |url| {
        let behind = get(url, &format!("/api/activity?cursor={theirs}")).json();
        let items = behind["items"].as_array().expect("a list").clone();
        let own = get(url, "/api/activity").json()["items"].as_array().expect("a list").clone();
        assert!(items.iter().all(|entry| own.contains(entry)), "{items:?}");
        let encoded = |value: &Value| base64url(&value.to_string());
        let id = "00000000-0000-4000-8000-000000000000";
        for cursor in [
            json!({"at_us": -1, "id": id}),
            json!({"at_us": 1.5, "id": id}),
            json!({"at_us": "1", "id": id}),
            json!({"at_us": u64::MAX, "id": id}),
            json!({"at_us": 253_402_300_800_000_000_u64, "id": id}),
            json!({"at_us": 1, "id": "nonsense"}),
            json!({"at_us": 1, "id": "' OR true --------------------------"}),
            json!({"at_us": 1}),
            json!({"at_us": 1, "id": id, "tenant_id": id}),
        ] {
            let answer = get(url, &format!("/api/activity?cursor={}", encoded(&cursor)));
            assert_eq!(answer.problem(), (400, "invalid_cursor".into()), "{cursor}");
        }
        let at_the_ends = [json!({"at_us": 0, "id": id}), json!({"at_us": 253_402_300_799_999_999_u64, "id": id})];
        let counts = at_the_ends.map(|place| {
            let page = get(url, &format!("/api/activity?cursor={}", encoded(&place))).json();
            page["items"].as_array().expect("a list").len()
        });
        assert_eq!(counts, [0, own.len()]);
        for query in ["limit=0", "limit=501", "format=csv", "format=ndjson&limit=5", "as_of=2026-04-24T10:00:00.000Z"] {
            assert_eq!(get(url, &format!("/api/activity?{query}")).status, 400, "{query}");
        }
    });
}

fn base64url(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// A provider may name people as it likes.
#[test]
fn a_hostile_name_is_a_text_in_the_log_and_nothing_more() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    let long = "x".repeat(5000);
    let names = [
        "<script>alert(1)</script>",
        "key:00000000",
        "a\"b\\c\r\n{\"at\":1}",
        "'; DROP TABLE activity --",
        "nul\0nul",
        &long,
    ];
    for name in names {
        let who = Principal { kind: PrincipalKind::Client, user: name.to_owned(), ..who.clone() };
        database.admin("UPDATE api_keys SET revoked_at = now()");
        served(&database, &who, |url| {
            assert_eq!(make(url).status, 201, "{name:?}");
            let (actor, action, _) = actions(url).remove(0);
            assert_eq!(action, "key_made");
            assert!(actor.starts_with("client:") && actor.chars().count() <= 300 && !actor.contains('\0'), "{actor:?}");
            if name.len() < 200 && !name.contains('\0') {
                assert_eq!(actor, format!("client:{name}"));
            }
            let export = get(url, "/api/activity?format=ndjson");
            assert_eq!(export.header("content-type"), "application/x-ndjson");
            assert!(export.header("content-disposition").starts_with("attachment"));
            let lines = export.text();
            assert_eq!(lines.lines().count(), database.admin("SELECT 1 FROM activity").len(), "a line an entry");
        });
    }
}

/// Enough to be seen in memory if all of it were held.
#[test]
fn a_long_log_is_exported_whole() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    let count = 30_000;
    database.admin(&format!(
        "INSERT INTO activity (tenant_id, activity_id, actor, action, target) \
         SELECT tenant_id, gen_random_uuid(), 'a', 'b', n::text FROM tenants, generate_series(1, {count}) n WHERE name = 'acme'"
    ));
    served(&database, &who, |url| {
        let text = get(url, "/api/activity?format=ndjson").text();
        let targets: BTreeSet<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).expect("an object")["target"].as_str().expect("a text").to_owned()
            })
            .collect();
        assert_eq!((text.lines().count(), targets.len() >= count), (count + 3, true));
    });
}
