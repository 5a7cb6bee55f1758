//! `kahn tenant list`, `rotate-key` and `revoke-key`. If these fail, a key cannot be changed without an outage, or is not dead
//! when it should be.

use std::process::Output;

use serde_json::{Value, json};

use super::cluster::Database;
use super::{serve, tenant};
use crate::support::{Server, request, run, wait_for};

/// `kahn tenant` with these arguments.
pub(super) fn ask(database: &Database, args: &[&str]) -> Output {
    run(&[&["tenant"], args].concat(), &[("KAHN_ADMIN_DATABASE_URL", &database.admin_dsn()), ("KAHN_LOG", "off")])
}

/// What it printed, when it is done.
pub(super) fn done(database: &Database, args: &[&str]) -> String {
    let output = ask(database, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The exit code and the sentence of a refusal.
pub(super) fn refusal(database: &Database, args: &[&str]) -> (Option<i32>, String) {
    let output = ask(database, args);
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Every tenant, as a program reads it.
pub(super) fn list(database: &Database) -> Vec<Value> {
    objects(&done(database, &["list", "--json"]))
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn status(server: &Server, key: &str) -> u16 {
    request(&server.url, ("GET", "/api/runs"), &[("authorization", &format!("Bearer {key}"))], None).status
}

#[test]
fn the_list_tells_all_of_a_key_but_the_key() {
    let database = Database::fresh();
    assert_eq!(done(&database, &["list"]), "", "the tenants of the boot checks are nobody's");
    let (ingest, read) = tenant(&database, "zeta");
    tenant(&database, "acme");
    let server = serve(&database);
    assert_eq!(status(&server, &read), 200);
    wait_for("last_used", || list(&database)[1]["keys"][1]["last_used"].as_str().map(str::to_owned));
    let tenants = list(&database);
    let names: Vec<&Value> = tenants.iter().map(|tenant| &tenant["tenant"]).collect();
    assert_eq!(names, ["acme", "zeta"]);
    let zeta = &tenants[1];
    assert_eq!((&zeta["org"], &zeta["plan"]), (&json!("org_zeta"), &json!("beta")));
    let members: Vec<&String> = zeta["keys"][0].as_object().expect("a key").keys().collect();
    let mut wanted = vec!["key_id", "label", "scope", "prefix", "created", "expires", "revoked", "last_used"];
    wanted.sort_unstable();
    let mut members: Vec<&str> = members.into_iter().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, wanted);
    assert_eq!((&zeta["keys"][0]["scope"], &zeta["keys"][0]["last_used"]), (&json!("ingest"), &Value::Null));
    let text = done(&database, &["list"]);
    let key_id = zeta["keys"][1]["key_id"].as_str().expect("an id");
    assert!(text.contains("zeta: org org_zeta, plan beta, runs kept 90 days") && text.contains(key_id), "{text}");
    let hashes = database.admin("SELECT encode(key_sha256, 'hex') FROM api_keys").concat();
    for said in [text, done(&database, &["list", "--json"])] {
        // A key is its prefix and 49 characters more.
        assert!(!said.contains("kahn_live_sk_") && !said.contains(&ingest[22..]) && !said.contains(&read[22..]));
        assert!(!hashes.iter().any(|hash| said.contains(hash.as_str())));
    }
}

#[test]
fn a_rotation_lets_both_keys_in_until_the_old_one_ends() {
    let database = Database::fresh();
    let (_, old) = tenant(&database, "acme");
    let (_, others) = tenant(&database, "other");
    let server = serve(&database);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tenants.env").display().to_string();
    let args = ["rotate-key", "acme", "--scope", "read", "--overlap", "2h", "--write-env", &path, "--json"];
    let said = objects(&done(&database, &args)).remove(0);
    let new = said["key"].as_str().expect("a key").to_owned();
    assert_eq!(said["kept_in"], path);
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), format!("KAHN_READ_KEY_ACME={new}\n"));
    assert_eq!((status(&server, &old), status(&server, &new)), (200, 200));
    let live = "SELECT label, expires_at IS NULL, expires_at BETWEEN now() + interval '119 minutes' AND now() + interval '120 minutes' \
                FROM api_keys k JOIN tenants t USING (tenant_id) WHERE t.name = 'acme' AND scope = 'read' ORDER BY k.created_at";
    assert_eq!(database.admin(live), [["first", "f", "t"], ["rotated", "t", "NULL"]]);

    // A second rotation would end a key that somebody still uses.
    let (code, sentence) = refusal(&database, &["rotate-key", "acme", "--scope", "read"]);
    assert!(code == Some(1) && sentence.contains("two live read keys"), "{sentence}");
    let old_id = said["old"]["key_id"].as_str().expect("an id");
    assert!(sentence.contains(old_id) && sentence.contains("kahn tenant revoke-key acme KEY_ID"), "{sentence}");
    done(&database, &["revoke-key", "acme", old_id]);
    wait_for("the old key's end", || (status(&server, &old) == 401).then_some(()));

    // Without an overlap it is one after the other.
    let said = done(&database, &["rotate-key", "acme", "--scope", "read", "--overlap", "0s"]);
    let newest = said.lines().find(|line| line.starts_with("kahn_live_sk_")).expect("a key").to_owned();
    wait_for("the second key's end", || (status(&server, &new) == 401).then_some(()));
    assert_eq!((status(&server, &newest), status(&server, &others)), (200, 200));
    let actions = database.admin("SELECT actor, action FROM activity ORDER BY at").concat();
    let count = |action: &str| actions.iter().filter(|own| *own == action).count();
    assert_eq!((count("key_made"), count("key_given_an_end"), count("key_revoked")), (6, 2, 1), "{actions:?}");
    assert_eq!(count("kahn tenant rotate-key"), 4);
}

#[test]
fn an_end_that_is_near_is_not_put_off_by_a_rotation() {
    let database = Database::fresh();
    tenant(&database, "acme");
    database.admin("UPDATE api_keys SET expires_at = now() + interval '1 minute'");
    let said = done(&database, &["rotate-key", "acme", "--overlap", "24h"]);
    assert!(said.contains(" ends at "), "{said}");
    let late = "SELECT count(*) FROM api_keys WHERE expires_at > now() + interval '1 minute'";
    assert_eq!(database.admin(late), [["0"]]);
    // Where all are dead there is nothing to end.
    database.admin("UPDATE api_keys SET revoked_at = now()");
    let said = done(&database, &["rotate-key", "acme"]);
    assert!(said.contains("there was no live ingest key before it"), "{said}");
}

#[test]
fn a_key_is_revoked_once_and_said_again() {
    let database = Database::fresh();
    tenant(&database, "acme");
    tenant(&database, "other");
    let id = |tenant: usize| list(&database)[tenant]["keys"][0]["key_id"].as_str().expect("an id").to_owned();
    let key_id = id(0);
    let first = objects(&done(&database, &["revoke-key", "acme", &key_id, "--json"])).remove(0);
    let again = objects(&done(&database, &["revoke-key", "acme", &key_id, "--json"])).remove(0);
    assert_eq!((&first["was_live"], &again["was_live"]), (&json!(true), &json!(false)));
    assert_eq!(first["revoked"], again["revoked"]);
    let rows = "SELECT (SELECT count(*) FROM api_keys WHERE revoked_at IS NOT NULL), (SELECT count(*) FROM activity WHERE action = 'key_revoked')";
    assert_eq!(database.admin(rows), [["1", "1"]]);
    // Another tenant's key is one that nobody has.
    for unknown in [&*id(1), "00000000-0000-4000-8000-000000000000", "nonsense", "'; DROP TABLE api_keys --"] {
        let (code, sentence) = refusal(&database, &["revoke-key", "acme", unknown]);
        assert_eq!(code, Some(1));
        assert!(sentence.contains("has no key") && sentence.contains("`kahn tenant list`"), "{sentence}");
    }
    assert_eq!(database.admin(rows), [["1", "1"]]);
}

#[test]
fn unknown_tenants_and_senseless_overlaps_change_nothing() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let before = database.admin("SELECT * FROM api_keys ORDER BY key_id");
    for args in [["rotate-key", "nobody"].as_slice(), &["rotate-key", "kahn-probe-a"], &["revoke-key", "nobody", "x-1"]]
    {
        let (code, sentence) = refusal(&database, args);
        let is_told = sentence.contains("there is no tenant") || sentence.contains("has no key");
        assert!(code == Some(1) && is_told, "{args:?}: {sentence}");
    }
    for overlap in ["24", "h", "-1h", "1.5h", "91d", "99999999999999999999d", ""] {
        let args = ["rotate-key", "acme", &format!("--overlap={overlap}")];
        assert_eq!(refusal(&database, &args).0, Some(2), "{overlap}");
    }
    let (code, _) = refusal(&database, &["rotate-key", "acme", "--write-env", "/nowhere/tenants.env"]);
    assert_eq!(code, Some(1));
    let taken = refusal(&database, &["provision", "acme", "--org", "another"]);
    assert_eq!(taken.0, Some(1));
    assert!(taken.1.contains("the tenant acme belongs to the org org_acme"), "{}", taken.1);
    assert_eq!(database.admin("SELECT * FROM api_keys ORDER BY key_id"), before);
}

/// As with other tools: `| head` is no mistake. A key that nobody read is one.
#[test]
fn a_reader_that_has_seen_enough_of_the_list_is_no_failure() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let without_reader = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kahn"));
        command.args(args).env("KAHN_ADMIN_DATABASE_URL", database.admin_dsn()).stdout(writer);
        let output = command.stderr(std::process::Stdio::piped()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [["tenant", "list"].as_slice(), &["tenant", "list", "--json"]] {
        assert_eq!(without_reader(args), (Some(0), String::new()), "{args:?}");
    }
    assert_eq!(without_reader(&["tenant", "rotate-key", "acme"]).0, Some(1));
}
