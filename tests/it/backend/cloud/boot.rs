//! The server does not start unless the walls stand; each refusal says what mends it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Instant;

use super::cluster::{APP_PASSWORD, Database, shared};
use crate::support::{PATIENCE, Server, kahn, request, run};

/// Starts the server, which must refuse: its exit code and its sentences.
fn refusal(env: &[(&str, &str)]) -> (i32, Vec<String>) {
    let mut child = kahn(&["serve", "--bind", "127.0.0.1:0"], env)
        .env("KAHN_LOG", "off")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("the server started instead of refusing");
            }
            None => std::thread::park_timeout(std::time::Duration::from_millis(5)),
        }
    };
    let mut said = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut said).expect("text");
    let sentences = said.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line).to_owned()).collect();
    (status.code().expect("an exit code"), sentences)
}

/// The one sentence with which a database of this DSN is refused, exit code 1.
fn sentence(dsn: &str) -> String {
    let (code, mut sentences) = refusal(&[("KAHN_DATABASE_URL", dsn), ("KAHN_AUTH", "keys-only")]);
    assert_eq!((code, sentences.len()), (1, 1), "{sentences:?}");
    sentences.remove(0)
}

fn starts(dsn: &str) {
    drop(Server::start(&["serve", "--bind", "127.0.0.1:0"], &[("KAHN_DATABASE_URL", dsn), ("KAHN_AUTH", "keys-only")]));
}

/// Tables with a wall, in the order of their names.
const TENANT_TABLES: [&str; 8] =
    ["activity", "alerts", "api_keys", "retention", "runs", "tenants", "transitions", "usage"];

/// All that the server needs, with the file that makes it.
const TABLES: [(&str, &str); 9] = [
    ("tenants", "V002__tenants.sql"),
    ("api_keys", "V003__api_keys.sql"),
    ("runs", "V004__runs.sql"),
    ("transitions", "V005__transitions.sql"),
    ("plans", "V006__plans_usage.sql"),
    ("usage", "V006__plans_usage.sql"),
    ("retention", "V007__retention.sql"),
    ("activity", "V008__activity.sql"),
    ("alerts", "V009__alerts.sql"),
];

#[test]
fn a_migrated_database_is_served_over_socket_and_password() {
    let database = Database::fresh();
    starts(&database.app_dsn());
    starts(&database.tcp_dsn(APP_PASSWORD, shared().port));
}

#[test]
fn each_missing_table_is_named_with_its_file() {
    for (table, file) in TABLES {
        let database = Database::fresh();
        database.admin(&format!("DROP TABLE {table} CASCADE"));
        let wanted = format!("the table {table} is missing, which migrations/{file} makes; run `kahn migrate`");
        assert_eq!(sentence(&database.app_dsn()), wanted);
    }
}

/// A question of the project's first card.
#[test]
fn cloud_without_a_dsn_does_not_boot() {
    let done = run(&["serve"], &[("KAHN_AUTH", "keys-only")]);
    assert_eq!(done.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&done.stderr),
        "error: no database is configured; set KAHN_DATABASE_URL to the DSN of the role kahn_app, \
         as in postgres://kahn_app:PASSWORD@HOST:5432/DATABASE\n"
    );
}

#[test]
fn what_is_not_configured_is_told_all_at_once() {
    let no_database = "no database is configured; set KAHN_DATABASE_URL to the DSN of the role kahn_app, \
                       as in postgres://kahn_app:PASSWORD@HOST:5432/DATABASE";
    let no_way_in = "no way in is configured; set KAHN_OIDC_ISSUER, KAHN_OIDC_AUDIENCE, KAHN_OIDC_CLIENT_ID and \
                     KAHN_OIDC_CLIENT_SECRET_FILE for an identity provider, or KAHN_AUTH=keys-only for API keys alone";
    let both = vec![no_database.to_owned(), no_way_in.to_owned()];
    assert_eq!(refusal(&[]), (2, both));
    assert_eq!(refusal(&[("KAHN_AUTH", "keys-only")]), (2, vec![no_database.to_owned()]));
    let dsn = Database::fresh().app_dsn();
    assert_eq!(refusal(&[("KAHN_DATABASE_URL", &dsn)]), (2, vec![no_way_in.to_owned()]));
    let (code, sentences) = refusal(&[("KAHN_DATABASE_URL", &dsn), ("KAHN_AUTH", "open")]);
    assert_eq!(code, 2);
    assert!(sentences[0].starts_with("KAHN_AUTH is \"open\"; set KAHN_AUTH=keys-only"), "{sentences:?}");
    let (code, sentences) = refusal(&[("KAHN_DATABASE_URL", "nonsense"), ("KAHN_AUTH", "keys-only")]);
    assert_eq!(code, 2);
    assert!(sentences[0].starts_with("KAHN_DATABASE_URL is no connection string ("), "{sentences:?}");
    assert!(sentences[0].ends_with("; it looks like postgres://user:password@host:5432/database"), "{sentences:?}");
}

/// An @ that is not encoded ends the password, and what follows it would be told as the host, and asked for in the DNS.
#[test]
fn a_dsn_whose_password_may_be_taken_for_something_else_is_refused_and_not_repeated() {
    let strange = [
        "postgres://kahn_app:Head@Tail@127.0.0.1:1/postgres",
        "postgresql://kahn_app:He%40ad@Tail@127.0.0.1:1/postgres",
        "postgres://kahn_app:Head@Tail/Rest@127.0.0.1:1/postgres",
        "postgres://kahn_app:Head@Tail?Rest@127.0.0.1:1/postgres?sslmode=disable",
        "postgres://kahn_app:Head@Tail,Rest@127.0.0.1:1/postgres",
        "postgres://kahn_app@Head%40Tail/postgres",
        "postgres://127.0.0.1:1/postgres?user=kahn_app&password=Head@Tail",
        "postgres://127.0.0.1/postgres?user=kahn_app&password=Head@Tail",
        "host=Head@Tail user=kahn_app",
        "host=127.0.0.1,Head@Tail user=kahn_app",
    ];
    let unparsed = [
        ("postgresql+driver://kahn_app:Head@Tail:1/postgres?sslmode=disable", "it has an option that is not known"),
        ("postgres://kahn_app:Head:Tail@127.0.0.1:Rest/postgres", "its port is none"),
        ("host=127.0.0.1 user=kahn_app password=Head Tail=Rest", "it has an option that is not known"),
        ("host=127.0.0.1 user=kahn_app password=Head Tail", "it cannot be parsed"),
    ];
    let encoded = "it has an @ or ? where none can be; write the user and the password percent-encoded, an @ as %40 and a ? as %3F";
    for (dsn, reason) in strange.into_iter().map(|dsn| (dsn, encoded)).chain(unparsed) {
        let sentence = |variable: &str| {
            format!(
                "{variable} is no connection string ({reason}); it looks like postgres://user:password@host:5432/database"
            )
        };
        let env = [("KAHN_DATABASE_URL", dsn), ("KAHN_AUTH", "keys-only")];
        assert_eq!(refusal(&env), (2, vec![sentence("KAHN_DATABASE_URL")]), "{dsn}");
        let admin = [("KAHN_ADMIN_DATABASE_URL", dsn)];
        for args in [&["migrate"][..], &["tenant", "list"]] {
            let done = run(args, &admin);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(said, format!("error: {}\n", sentence("KAHN_ADMIN_DATABASE_URL")), "{args:?} {dsn}");
        }
        let mode = run(&["mode"], &env);
        let said = String::from_utf8_lossy(&[mode.stdout, mode.stderr].concat()).into_owned();
        let shown = ["Head", "He%40ad", "He@ad", "Tail", "Rest"].into_iter().find(|part| said.contains(part));
        assert_eq!(shown, None, "{said}");
    }
    for dsn in [
        "postgres://kahn_app:He%40ad%3F/Tail:#@127.0.0.1:1/postgres",
        "host=127.0.0.1 port=1 user=kahn_app password=He@ad",
    ] {
        let said = run(&["mode"], &[("KAHN_DATABASE_URL", dsn), ("KAHN_AUTH", "keys-only")]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("Postgres at 127.0.0.1:1, as kahn_app") && !said.contains("He"), "{said}");
    }
}

#[test]
fn a_server_that_is_given_the_owners_dsn_says_so_once_and_by_its_name_alone() {
    let database = Database::fresh();
    let dsn = database.app_dsn();
    let mut env = vec![("KAHN_DATABASE_URL", dsn.as_str()), ("KAHN_AUTH", "keys-only"), ("KAHN_LOG", "info")];
    let told = |env: &[(&str, &str)]| {
        let server = Server::start(&["serve", "--bind", "127.0.0.1:0"], env);
        let log = server.log();
        assert!(!log.contains("the-owners-secret"), "{log}");
        log.lines().filter(|line| line.contains("KAHN_ADMIN_DATABASE_URL")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&env), [""; 0]);
    env.push(("KAHN_ADMIN_DATABASE_URL", "postgres://postgres:the-owners-secret@127.0.0.1:1/postgres"));
    let told = told(&env);
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:?}");
}

/// Half a provider would be a server that nobody can sign in to, or one that lets in whom nobody meant.
#[test]
fn a_provider_that_is_half_configured_or_not_to_be_trusted_is_refused_by_the_name_of_what_mends_it() {
    let dsn = Database::fresh().app_dsn();
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "a secret\n").expect("it is written");
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let (secret, empty) = (secret.path().display().to_string(), empty.path().display().to_string());
    let endless = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(endless.path(), [b's'; 4097]).expect("it is written");
    let endless = endless.path().display().to_string();
    let whole = [
        ("KAHN_OIDC_ISSUER", "https://id.example.org"),
        ("KAHN_OIDC_AUDIENCE", "kahn"),
        ("KAHN_OIDC_CLIENT_ID", "kahn"),
        ("KAHN_OIDC_CLIENT_SECRET_FILE", secret.as_str()),
    ];
    let key = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), [b'k'; 32]).expect("it is written");
    let key = key.path().display().to_string();
    let browsers = [("KAHN_PUBLIC_URL", "https://kahn.example.org"), ("KAHN_SESSION_KEY_FILE", key.as_str())];
    let with = |changes: &[(&'static str, &str)]| {
        let kept = whole.iter().chain(&browsers).filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        let env: Vec<(&str, &str)> =
            kept.chain(changes).copied().chain([("KAHN_DATABASE_URL", dsn.as_str())]).collect();
        refusal(&env)
    };
    for (name, _) in whole {
        let rest = whole.iter().copied().filter(|(kept, _)| *kept != name);
        let (code, sentences) = refusal(&rest.chain([("KAHN_DATABASE_URL", dsn.as_str())]).collect::<Vec<_>>());
        assert_eq!((code, sentences.len()), (2, 1), "{sentences:?}");
        assert!(sentences[0].contains(&format!("{name} is missing")), "{sentences:?}");
    }
    let cases = [
        ("KAHN_AUTH", "keys-only", "leave out the one that is not meant"),
        ("KAHN_AUTH", "open", "set KAHN_AUTH=keys-only"),
        ("KAHN_OIDC_ISSUER", "http://id.example.org", "http is for this machine alone"),
        ("KAHN_OIDC_ISSUER", "http://127.0.0.1.example.org", "http is for this machine alone"),
        ("KAHN_OIDC_ISSUER", "id.example.org", "which is no address"),
        ("KAHN_OIDC_ISSUER", "https://id.example.org?tenant=1", "which is more than an issuer's address"),
        ("KAHN_OIDC_CLIENT_SECRET_FILE", "/nowhere/secret", "put the client's secret in it"),
        ("KAHN_OIDC_CLIENT_SECRET_FILE", empty.as_str(), "which is empty"),
        ("KAHN_OIDC_CLIENT_SECRET_FILE", endless.as_str(), "which holds more than 4096 bytes"),
        ("KAHN_OIDC_TYP", "loose", "write it as --oidc-typ compat, or strict"),
        ("KAHN_OIDC_ORG_CLAIM", "sub", "leave it out for org_id"),
        ("KAHN_OIDC_LONGEST_LIFE", "0", "leave it out for a day"),
        ("KAHN_PUBLIC_URL", "https://kahn.example.org/path", "write it as in https://kahn.example.org"),
        ("KAHN_PUBLIC_URL", "http://kahn.example.org", "http is for this machine alone"),
        ("KAHN_SESSION_KEY_FILE", empty.as_str(), "make it with `head -c 48 /dev/urandom | base64`"),
        ("KAHN_PUBLIC_URL", "", "nobody could sign in with a browser; set both, or neither"),
        ("KAHN_SESSION_KEY_FILE", "", "nobody could sign in with a browser; set both, or neither"),
        ("KAHN_OIDC_CLIENT_SECRET", "a secret", "and KAHN_OIDC_CLIENT_SECRET_FILE are both set"),
    ];
    for (name, value, mend) in cases {
        let (code, sentences) = with(&[(name, value)]);
        assert_eq!((code, sentences.len()), (2, 1), "{name}={value}: {sentences:?}");
        assert!(sentences[0].contains(name) && sentences[0].contains(mend), "{name}={value}: {sentences:?}");
        assert!(!sentences[0].contains("a secret"), "{sentences:?}");
    }
}

/// A platform that has variables and no files could not let anybody sign in.
#[test]
fn secrets_come_from_the_environment_where_there_are_no_files() {
    let database = Database::fresh();
    let dsn = database.app_dsn();
    let whole = [
        ("KAHN_DATABASE_URL", dsn.as_str()),
        ("KAHN_OIDC_ISSUER", "https://127.0.0.1:1"),
        ("KAHN_OIDC_AUDIENCE", "kahn"),
        ("KAHN_OIDC_CLIENT_ID", "kahn"),
        ("KAHN_OIDC_CLIENT_SECRET", "a secret"),
        ("KAHN_PUBLIC_URL", "https://kahn.example.org"),
        ("KAHN_SESSION_KEY", "a secret of the tests that is long enough"),
    ];
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0"], &whole);
    // With a session's key the way into the browser is open: it says that the provider is away, not that there is none.
    let answer = request(&server.url, ("GET", "/auth/login"), &[], None);
    assert_eq!(answer.status, 503, "{}", answer.text());
    drop(server);

    for (name, value, mend) in [
        ("KAHN_OIDC_CLIENT_SECRET", "a secret\nof two lines", "put the client's secret in it"),
        ("KAHN_OIDC_CLIENT_SECRET", " ", "put the client's secret in it"),
        ("KAHN_SESSION_KEY", "a secret too short", "make it with `head -c 48 /dev/urandom | base64`"),
        ("KAHN_SESSION_KEY_FILE", "/nowhere/key", "KAHN_SESSION_KEY and KAHN_SESSION_KEY_FILE are both set"),
        ("KAHN_PUBLIC_URL", "", "KAHN_SESSION_KEY is set and KAHN_PUBLIC_URL is not"),
        ("KAHN_AUTH", "keys-only", "KAHN_OIDC_ISSUER names an identity provider"),
    ] {
        let kept = whole.iter().copied().filter(|(kept, _)| *kept != name);
        let (code, sentences) = refusal(&kept.chain([(name, value)]).collect::<Vec<_>>());
        assert_eq!((code, sentences.len()), (2, 1), "{name}: {sentences:?}");
        assert!(sentences[0].contains(name) && sentences[0].contains(mend), "{name}: {sentences:?}");
        assert!(!sentences[0].contains("a secret"), "{sentences:?}");
    }
}

/// A question of the project's first card.
#[test]
fn there_is_no_cloud_with_files() {
    let dsn = Database::fresh().app_dsn();
    for flag in ["--archive", "--fixture-dir"] {
        let done = run(&["serve", flag, "somewhere"], &[("KAHN_DATABASE_URL", &dsn), ("KAHN_AUTH", "keys-only")]);
        assert_eq!(done.status.code(), Some(2));
        let wanted = format!(
            "error: {flag} belongs to the oss build; this is the cloud build, which keeps runs in Postgres and reads \
             no archive: build the other one with cargo install kahn --features oss\n"
        );
        assert_eq!(String::from_utf8_lossy(&done.stderr), wanted);
    }
    let help = run(&["serve", "--help"], &[]);
    assert!(!String::from_utf8_lossy(&help.stdout).contains("--archive"), "it is hidden");
}

#[test]
fn a_wrong_password_is_told_at_once_and_a_missing_one_too() {
    let database = Database::fresh();
    let port = shared().port;
    let before = Instant::now();
    let mend =
        "correct KAHN_DATABASE_URL, or set the password of kahn_app with `kahn migrate --app-password-file FILE`";
    let wanted = format!(
        "the database at 127.0.0.1:{port} does not let kahn_app in (password authentication failed for user \"kahn_app\"); {mend}"
    );
    assert_eq!(sentence(&database.tcp_dsn("wrong", port)), wanted);
    let wanted = format!("the database at 127.0.0.1:{port} does not let kahn_app in (password missing); {mend}");
    assert_eq!(sentence(&format!("postgres://kahn_app@127.0.0.1:{port}/{}", database.name)), wanted);
    let wanted = format!(
        "the database at 127.0.0.1:{port} does not let kahn_app in (database \"nowhere\" does not exist); {mend}"
    );
    assert_eq!(sentence(&database.tcp_dsn(APP_PASSWORD, port).replace(&database.name, "nowhere")), wanted);
    assert!(before.elapsed().as_secs() < 8, "nobody waited for a database that answers");
}

#[test]
fn a_database_without_tls_is_not_spoken_to_where_tls_is_asked_for() {
    let (database, port) = (Database::fresh(), shared().port);
    let wanted = format!(
        "the database at 127.0.0.1:{port} offers no TLS; turn it on there, or add sslmode=disable to KAHN_DATABASE_URL \
         if the network in between is yours alone"
    );
    assert_eq!(sentence(&(database.tcp_dsn(APP_PASSWORD, port) + " sslmode=require")), wanted);
}

#[test]
fn a_closed_port_is_tried_for_ten_seconds() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let before = Instant::now();
    let wanted = format!(
        "the database at {closed} could not be reached within 10 s (Connection refused (os error 111)); \
         start it, or correct KAHN_DATABASE_URL"
    );
    assert_eq!(sentence(&format!("postgres://kahn_app:x@{closed}/kahn")), wanted);
    assert!((8..14).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

#[test]
fn a_silent_port_is_given_up_after_ten_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let said = sentence(&format!("postgres://kahn_app:x@{address}/kahn"));
    let wanted = format!(
        "the database at {address} could not be reached within 10 s (no answer); start it, or correct KAHN_DATABASE_URL"
    );
    assert_eq!(said, wanted);
}

#[test]
fn a_database_that_starts_meanwhile_is_waited_for() {
    let database = Database::fresh();
    let place = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let late = std::thread::spawn(move || {
        std::thread::park_timeout(std::time::Duration::from_secs(2));
        proxy(TcpListener::bind(place).expect("the port is still free"), |bytes| bytes);
    });
    starts(&database.tcp_dsn(APP_PASSWORD, place.port()));
    drop(late);
}

#[test]
fn an_old_server_is_refused() {
    let database = Database::fresh();
    let number = database.admin("SHOW server_version_num")[0][0].clone();
    let old = format!("13{}", &number[2..]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (from, to) = (number.clone().into_bytes(), old.clone().into_bytes());
    std::thread::spawn(move || proxy(listener, move |bytes| replace(bytes, &from, &to)));
    let minor: u32 = old[2..].parse().expect("a number");
    let wanted = format!(
        "the database is Postgres 13.{minor}, and kahn needs 14 or newer; upgrade it, or point KAHN_DATABASE_URL at another one"
    );
    assert_eq!(sentence(&database.tcp_dsn(APP_PASSWORD, port)), wanted);
}

#[test]
fn commits_that_do_not_wait_for_the_disk_are_refused() {
    let database = Database::fresh();
    database.admin(&format!("ALTER ROLE kahn_app IN DATABASE {} SET synchronous_commit = off", database.name));
    let wanted = "synchronous_commit is off, so an acknowledged batch could be lost in a crash; \
                  run `ALTER ROLE kahn_app SET synchronous_commit = on`, or take the setting out of postgresql.conf, the database or the DSN";
    assert_eq!(sentence(&database.app_dsn()), wanted);
    let reset = format!("ALTER ROLE kahn_app IN DATABASE {} RESET synchronous_commit", database.name);
    database.admin(&reset);
    let options = format!("{} options='-c synchronous_commit=off'", database.app_dsn());
    assert_eq!(sentence(&options), wanted);
    starts(&database.app_dsn());
}

#[test]
fn a_role_that_could_pass_the_walls_is_refused() {
    let database = Database::fresh();
    let name = &database.name;
    let refused = |role: &str, power: &str| {
        let wanted = format!(
            "the role {role} {power}, so the walls between tenants would not hold; \
             set KAHN_DATABASE_URL to the DSN of kahn_app, the role that `kahn migrate` makes"
        );
        assert_eq!(sentence(&database.dsn_of(role)), wanted);
    };
    refused("postgres", "is a superuser");

    let roles = [
        ("bypass", "BYPASSRLS", "has BYPASSRLS"),
        ("maker", "CREATEROLE", "has CREATEROLE"),
        ("god", "SUPERUSER", "is a superuser"),
    ];
    for (role, attribute, power) in roles {
        let (top, middle, login) =
            (format!("{role}_{name}"), format!("{role}_middle_{name}"), format!("{role}_login_{name}"));
        // Two steps away and not inherited: SET ROLE goes there all the same.
        database.admin(&format!(
            "CREATE ROLE {top} LOGIN {attribute}; CREATE ROLE {middle} NOINHERIT; CREATE ROLE {login} LOGIN NOINHERIT; \
             GRANT {top} TO {middle}; GRANT {middle} TO {login}"
        ));
        refused(&top, power);
        refused(&login, &format!("can SET ROLE to {top}, which {power}"));
    }

    let login = format!("owner_login_{name}");
    database.admin(&format!("CREATE ROLE {login} LOGIN; GRANT kahn_owner TO {login}"));
    refused(&login, "can SET ROLE to kahn_owner, which owns the table tenants");
    database
        .admin(&format!("CREATE TABLE public.own (); ALTER TABLE public.own OWNER TO kahn_app; DROP OWNED BY {login}"));
    refused("kahn_app", "owns the table own");
    database.admin("DROP TABLE public.own");
    starts(&database.app_dsn());
    let made =
        "bypass maker god".split(' ').map(|role| format!("{role}_login_{name}, {role}_middle_{name}, {role}_{name}"));
    database.admin(&format!("DROP ROLE {}, {login}", made.collect::<Vec<_>>().join(", ")));
}

#[test]
fn a_tenant_table_without_its_wall_is_refused() {
    let database = Database::fresh();
    for table in TENANT_TABLES {
        let file = TABLES.iter().find(|(name, _)| *name == table).expect("a table").1;
        let refused = |lack: &str, mend: &str| {
            let wanted = format!("the table {table} {lack}, so tenants would see each other's rows; {mend}");
            assert_eq!(sentence(&database.app_dsn()), wanted);
        };
        database.admin(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
        refused(
            "does not have row-level security enabled",
            &format!("run `ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY`"),
        );
        database.admin(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"));
        refused(
            "does not force row-level security on its owner",
            &format!("run `ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY`"),
        );
        database
            .admin(&format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY; DROP POLICY tenant_isolation ON {table}"));
        refused("lacks its policy tenant_isolation", &format!("create it again as migrations/{file} does"));
        // A policy of that name that lets writes through is none.
        database.admin(&format!("CREATE POLICY tenant_isolation ON {table} USING (false)"));
        refused("lacks its policy tenant_isolation", &format!("create it again as migrations/{file} does"));
        let wall = "tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid";
        database.admin(&format!(
            "DROP POLICY tenant_isolation ON {table}; \
             CREATE POLICY tenant_isolation ON {table} USING ({wall}) WITH CHECK ({wall}); \
             CREATE POLICY open_door ON {table} USING (true)"
        ));
        refused("has a policy that is not kahn's", &format!("run `DROP POLICY open_door ON public.{table}`"));
        database.admin(&format!("DROP POLICY open_door ON {table}"));
    }
    starts(&database.app_dsn());
}

#[test]
fn a_table_that_somebody_adds_needs_a_wall_too() {
    let database = Database::fresh();
    database.admin("CREATE TABLE public.extra (tenant_id uuid)");
    assert!(sentence(&database.app_dsn()).starts_with("the table extra does not have row-level security enabled"));
}

/// Passes connections on to the cluster; what the server says goes through `change`.
pub(super) fn proxy(listener: TcpListener, change: impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static) {
    let port = shared().port;
    for client in listener.incoming().map_while(Result::ok) {
        let server = TcpStream::connect(("127.0.0.1", port)).expect("the cluster");
        let (mut to_server, mut from_client) =
            (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let change = change.clone();
        std::thread::spawn(move || {
            let (mut server, mut client) = (server, client);
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = server.read(&mut buffer) {
                if client.write_all(&change(buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
    }
}

fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}
