//! `kahn migrate`: once, again, at the same time, and by an owner who is no superuser.

use std::process::Output;

use super::cluster::{Cluster, Database, Gate};
use crate::support::{Server, kahn, run, wait_for};

fn migrate(dsn: &str, args: &[&str]) -> Output {
    run(&[&["migrate"], args].concat(), &[("KAHN_ADMIN_DATABASE_URL", dsn), ("KAHN_LOG", "off")])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn twice_is_once_and_check_tells_what_is_there() {
    let database = Database::unmigrated();
    let dsn = database.admin_dsn();

    let before = migrate(&dsn, &["--check"]);
    assert_eq!(before.status.code(), Some(1));
    let listed = text(&before.stdout);
    assert_eq!(listed.lines().count(), 9);
    assert!(listed.lines().all(|line| line.ends_with("missing")), "{listed}");
    assert!(
        database.admin("SELECT 1 FROM pg_class WHERE relname = 'kahn_migrations'").is_empty(),
        "it changed nothing"
    );

    let first = migrate(&dsn, &[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout).lines().filter(|line| line.starts_with("applied V0")).count(), 9);
    let second = migrate(&dsn, &[]);
    assert_eq!(text(&second.stdout), "nothing to apply: the database has all 9 migrations\n");

    let after = migrate(&dsn, &["--check"]);
    assert_eq!(after.status.code(), Some(0));
    let listed = text(&after.stdout);
    let last: Vec<&str> = listed.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!(last, ["alerts", "V009__alerts.sql", "present"]);

    database.admin("DROP TABLE alerts");
    assert_eq!(migrate(&dsn, &["--check"]).status.code(), Some(1));
    let dropped = migrate(&dsn, &[]);
    assert_eq!(dropped.status.code(), Some(1));
    let wanted = "error: the table alerts is missing although migrations/V009__alerts.sql was applied: somebody dropped it; \
                  restore it from a backup, or run that file by hand\n";
    assert_eq!(text(&dropped.stderr), wanted);
}

/// Platforms run `kahn migrate` before every deployment, that of an older kahn too: a refusal would keep it from being put back.
#[test]
fn a_kahn_that_is_put_back_leaves_the_migrations_of_a_newer_one_alone() {
    let database = Database::fresh();
    database
        .admin("INSERT INTO kahn_migrations SELECT 10, 'V010__later', checksum FROM kahn_migrations WHERE version = 9");
    let done = migrate(&database.admin_dsn(), &[]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let told = "nothing to apply: the database has all 9 migrations\n\
                the database is of a newer kahn, whose migrations stay as they are: V010__later\n";
    assert_eq!((text(&done.stdout).as_str(), text(&done.stderr).as_str()), (told, ""));
    let edited = "UPDATE kahn_migrations SET checksum = '1' WHERE version = 9";
    database.admin(edited);
    let refused = migrate(&database.admin_dsn(), &[]);
    assert_eq!(refused.status.code(), Some(1), "one that was edited is refused still");
    assert!(
        text(&refused.stderr).starts_with("error: migrations/V009__alerts.sql was applied"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn without_a_dsn_or_with_a_bad_password_file_it_says_what_to_do() {
    let done = run(&["migrate"], &[]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("set KAHN_ADMIN_DATABASE_URL"), "{}", text(&done.stderr));
    let database = Database::unmigrated();
    let done = migrate(&database.admin_dsn(), &["--app-password-file", "/nowhere/app.pw"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("/nowhere/app.pw"), "{}", text(&done.stderr));
    assert_eq!(migrate(&database.admin_dsn(), &["--check"]).status.code(), Some(1), "nothing was applied");
}

/// A platform that has variables and no files could set no password, and the server could not log in.
#[test]
fn the_password_may_come_from_the_environment_and_only_from_one_place() {
    let cluster = Cluster::start();
    let owner = cluster.dsn("postgres", "postgres");
    let with = |args: &[&str], password: &str| {
        let env = [("KAHN_ADMIN_DATABASE_URL", owner.as_str()), ("KAHN_APP_PASSWORD", password), ("KAHN_LOG", "off")];
        run(&[&["migrate"], args].concat(), &env)
    };
    let done = with(&["--app-password-file", "/nowhere/app.pw"], "of-the-variable");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("are both given; leave out"), "{}", text(&done.stderr));
    let done = with(&[], "of-the\nvariable");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("KAHN_APP_PASSWORD cannot be used (it holds more than one line)"));
    assert!(!text(&done.stderr).contains("of-the"), "it shows none of it");
    assert_eq!(with(&["--check"], "of-the-variable").status.code(), Some(1), "nothing was applied");

    let done = with(&[], "of-the-variable");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).ends_with("set the password of kahn_app\n"), "{}", text(&done.stdout));
    assert!(!text(&done.stdout).contains("of-the-variable"));
    let app = |password: &str| format!("postgres://kahn_app:{password}@127.0.0.1:{}/postgres", cluster.port);
    drop(Server::start(
        &["serve", "--bind", "127.0.0.1:0"],
        &[("KAHN_DATABASE_URL", &app("of-the-variable")), ("KAHN_AUTH", "keys-only")],
    ));
    let wrong = run(&["serve"], &[("KAHN_DATABASE_URL", &app("another")), ("KAHN_AUTH", "keys-only")]);
    assert_eq!(wrong.status.code(), Some(1), "the database asks for the password");
}

/// Roles belong to the cluster: on a new one, several first migrations race for them.
#[test]
fn many_databases_of_a_new_cluster_at_once_and_one_of_a_mere_owner() {
    let cluster = Cluster::start();
    let admin = |statement: &str| cluster.sql("postgres", "postgres", statement).expect("it is allowed");
    admin("CREATE ROLE owner LOGIN CREATEROLE");
    admin("CREATE DATABASE managed OWNER owner");
    let databases = ["a", "b", "c", "d"];
    for database in databases {
        admin(&format!("CREATE DATABASE {database}"));
    }
    let mut dsns: Vec<String> = databases.iter().map(|database| cluster.dsn("postgres", database)).collect();
    // Two of the same database too: one waits for the other and has nothing left to do.
    dsns.push(dsns[0].clone());
    dsns.push(cluster.dsn("owner", "managed"));
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("app.pw");
    std::fs::write(&password, "secret").expect("a file");
    let password = password.display().to_string();
    // Somebody else's migration has just made the roles and is about to commit: all of these see none yet.
    let gate = Gate::new(&cluster.dsn("postgres", "postgres"));
    gate.run("BEGIN; CREATE ROLE kahn_owner; CREATE ROLE kahn_app LOGIN; CREATE ROLE kahn_lookup");
    let runs: Vec<_> = dsns
        .iter()
        .map(|dsn| {
            // The mere owner sets no password: before Postgres 16 it may, from then on only of roles that it made.
            let args: &[&str] =
                if dsn.contains("managed") { &["migrate"] } else { &["migrate", "--app-password-file", &password] };
            kahn(args, &[("KAHN_ADMIN_DATABASE_URL", dsn), ("KAHN_LOG", "off")])
                .stderr(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("the binary starts")
        })
        .collect();
    let blocked =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'transactionid'";
    wait_for("a migration of each database to wait for the roles", || (admin(blocked) == [["5"]]).then_some(()));
    gate.run("COMMIT");
    for child in runs {
        let done = child.wait_with_output().expect("its end");
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    for database in databases.iter().chain(&["managed"]) {
        assert_eq!(migrate(&cluster.dsn("postgres", database), &["--check"]).status.code(), Some(0));
    }

    let owner = cluster.dsn("owner", "managed");
    let made = run(&["tenant", "provision", "acme", "--org", "org"], &[("KAHN_ADMIN_DATABASE_URL", &owner)]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let app = cluster.dsn("kahn_app", "managed");
    drop(Server::start(
        &["serve", "--bind", "127.0.0.1:0"],
        &[("KAHN_DATABASE_URL", &app), ("KAHN_AUTH", "keys-only")],
    ));
}
