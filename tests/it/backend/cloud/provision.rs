//! `kahn tenant provision`: idempotent, and the key is shown once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use super::cluster::Database;
use crate::support::run;

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
fn two_at_once_make_one_tenant() {
    let database = Database::fresh();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(provision(&database, &["acme", "--org", "a"]).status.success()));
        }
    });
    let counted = "SELECT (SELECT count(*) FROM tenants WHERE NOT reserved), (SELECT count(*) FROM api_keys)";
    assert_eq!(database.admin(counted), [["1", "1"]]);
}
