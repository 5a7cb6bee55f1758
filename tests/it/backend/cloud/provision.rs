//! `kahn tenant provision`: idempotent, and the key is shown once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::cluster::{Database, Gate};
use crate::support::{kahn, run, wait_for};

fn provision(database: &Database, args: &[&str]) -> Output {
    run(
        &[&["tenant", "provision"], args].concat(),
        &[("KAHN_ADMIN_DATABASE_URL", &database.admin_dsn()), ("KAHN_LOG", "off")],
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn the_second_time_changes_nothing() {
    let database = Database::fresh();
    let first = provision(&database, &["acme", "--org", "org_acme"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let said = text(&first.stdout);
    assert!(said.contains("made tenant acme for org org_acme on plan beta\n"), "{said}");
    let key = said.lines().last().expect("a key");
    assert_eq!(key.len(), 71);

    let rows = "SELECT t.*, k.* FROM tenants t JOIN api_keys k USING (tenant_id) ORDER BY k.key_id";
    let before = database.admin(rows);
    assert_eq!(before.len(), 1);
    assert!(!before[0].iter().any(|column| column.contains(key)), "the key itself is not stored");
    let second = provision(&database, &["acme", "--org", "org_acme"]);
    assert!(second.status.success());
    let wanted = "tenant acme has a live ingest key already; it was shown when it was made and cannot be shown again\n";
    assert_eq!(text(&second.stdout), wanted);
    assert_eq!(database.admin(rows), before);

    assert!(provision(&database, &["acme", "--org", "org_acme", "--scope", "read"]).status.success());
    assert_eq!(database.admin("SELECT scope FROM api_keys ORDER BY scope"), [["ingest"], ["read"]]);
    let other = provision(&database, &["other", "--org", "org_acme"]);
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(
        text(&other.stderr),
        "error: the org org_acme belongs to the tenant acme; use that name, or another org\n"
    );

    // A key that is dead is made again.
    database.admin("UPDATE api_keys SET revoked_at = now() WHERE scope = 'ingest'");
    let again = provision(&database, &["acme", "--org", "org_acme"]);
    assert!(text(&again.stdout).contains("kahn_live_sk_"), "{}", text(&again.stdout));
    assert_eq!(database.admin("SELECT count(*), count(DISTINCT prefix) FROM api_keys"), [["3", "1"]]);
}

#[test]
fn the_env_file_keeps_each_tenants_line_and_is_nobody_elses_to_read() {
    let database = Database::fresh();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tenants.env");
    let path = file.display().to_string();
    std::fs::write(&file, "# mine\nKAHN_KEY_ACME=old\nKAHN_KEY_ACME_2=other").expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");

    let done = provision(&database, &["acme", "--org", "a", "--write-env", &path]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let shown = text(&done.stdout).lines().find(|line| line.starts_with("kahn_live_sk_")).expect("a key").to_owned();
    let kept = std::fs::read_to_string(&file).expect("the file");
    assert_eq!(kept, format!("# mine\nKAHN_KEY_ACME_2=other\nKAHN_KEY_ACME={shown}\n"));
    assert_eq!(mode(&file), 0o600);

    assert!(provision(&database, &["acme", "--org", "a", "--scope", "read", "--write-env", &path]).status.success());
    assert!(provision(&database, &["other-one", "--org", "b", "--write-env", &path]).status.success());
    let kept = std::fs::read_to_string(&file).expect("the file");
    for line in
        [format!("KAHN_KEY_ACME={shown}"), "KAHN_READ_KEY_ACME=kahn".to_owned(), "KAHN_KEY_OTHER_ONE=kahn".to_owned()]
    {
        assert!(kept.contains(&line), "{kept}");
    }
    assert_eq!(mode(&file), 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "no draft is left");
}

#[test]
fn a_file_that_cannot_be_written_means_no_key() {
    let database = Database::fresh();
    let done = provision(&database, &["acme", "--org", "a", "--write-env", "/nowhere/tenants.env"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("so no key was made"), "{}", text(&done.stderr));
    assert_eq!(database.admin("SELECT count(*) FROM tenants WHERE NOT reserved"), [["0"]]);
}

#[test]
fn bad_names_and_an_unmigrated_database_are_told() {
    let database = Database::unmigrated();
    for args in [["Acme", "--org", "a"], ["-", "--org", "a"], ["acme", "--org", "probe:a"]] {
        assert_eq!(provision(&database, &args).status.code(), Some(2), "{args:?}");
    }
    let done = provision(&database, &["acme", "--org", "a"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("run `kahn migrate`"), "{}", text(&done.stderr));
}

#[test]
fn four_at_once_make_one_tenant() {
    let database = Database::fresh();
    let gate = Gate::new(&database.admin_dsn());
    // The lock that each of them takes: none goes on before all are there.
    gate.run("SELECT pg_advisory_lock(x'6b61686e0002'::bigint)");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(provision(&database, &["acme", "--org", "a"]).status.success()));
        }
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        wait_for("all four to wait", || (database.admin(waiting) == [["4"]]).then_some(()));
        gate.run("SELECT pg_advisory_unlock_all()");
    });
    let counted = "SELECT (SELECT count(*) FROM tenants WHERE NOT reserved), (SELECT count(*) FROM api_keys)";
    assert_eq!(database.admin(counted), [["1", "1"]]);
}

#[test]
fn json_holds_the_key_once() {
    let database = Database::fresh();
    let said = |args: &[&str]| -> Value {
        let output = provision(&database, &[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tenants.env").display().to_string();
    let first = said(&["acme", "--org", "a", "--write-env", &path]);
    let key = first["key"].as_str().expect("a key");
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), format!("KAHN_KEY_ACME={key}\n"));
    let wanted = json!({"tenant": "acme", "org": "a", "made": true, "scope": "ingest", "key": key, "kept_in": path});
    assert_eq!(first, wanted);
    let wanted = json!({"tenant": "acme", "org": "a", "made": false, "scope": "ingest", "key": null, "kept_in": null});
    assert_eq!(said(&["acme", "--org", "a", "--write-env", &path]), wanted);
    let output = run(&["migrate", "--check", "--json"], &[("KAHN_ADMIN_DATABASE_URL", &database.admin_dsn())]);
    let tables: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(tables.contains(&json!({"table": "alerts", "file": "V009__alerts.sql", "present": true})), "{tables:?}");
}

/// The key is committed by then: lost from the file too, nobody would ever have it.
#[test]
fn a_key_is_in_its_file_though_nobody_reads_the_answer() {
    let database = Database::fresh();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tenants.env").display().to_string();
    let mut child = kahn(
        &["tenant", "provision", "acme", "--org", "a", "--write-env", &path],
        &[("KAHN_ADMIN_DATABASE_URL", &database.admin_dsn())],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert!(text(&output.stderr).contains("the output could not be written"), "{}", text(&output.stderr));
    assert!(std::fs::read_to_string(&path).expect("the file").starts_with("KAHN_KEY_ACME=kahn_live_sk_"));
}

/// `kahn mode` is asked in deployments, and its answer is pasted into chats.
#[test]
fn mode_names_the_database_and_never_its_password() {
    let dsn = "postgres://kahn_app:hunter2@127.0.0.1:5/kahn?sslmode=disable";
    let env = [("KAHN_DATABASE_URL", dsn), ("KAHN_AUTH", "keys-only")];
    let said = text(&run(&["mode"], &env).stdout);
    assert!(said.contains("storage     Postgres at 127.0.0.1:5, as kahn_app\n"), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("would refuse"), "{said}");
    let said = text(&run(&["mode"], &[]).stdout);
    assert!(said.contains("would refuse to start:\n  no database is configured;"), "{said}");
}
