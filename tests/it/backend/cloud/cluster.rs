//! One throwaway cluster for this process, one migrated template, and a copy of it for each test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::support::run;

/// The password of kahn_app over TCP; on the cluster's socket nobody needs one.
pub(super) const APP_PASSWORD: &str = "a password ' with $ signs";

/// A cluster that lives as long as this value's pipe to `tests/cluster`: at the latest until this process is gone.
pub(super) struct Cluster {
    pub(super) socket_dir: String,
    pub(super) port: u16,
    _pipe: ChildStdin,
    child: Child,
}

impl Cluster {
    pub(super) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster");
        let mut child =
            Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tests/cluster starts");
        let pipe = child.stdin.take().expect("a pipe");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line of JSON");
        let said: serde_json::Value = serde_json::from_str(&line).expect("the cluster is ready");
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        Self { socket_dir: said["socket_dir"].as_str().expect("a folder").to_owned(), port, _pipe: pipe, child }
    }

    /// The DSN of a role on the socket, where everybody is trusted.
    pub(super) fn dsn(&self, role: &str, database: &str) -> String {
        format!("host={} port={} user={role} dbname={database}", self.socket_dir, self.port)
    }

    /// Runs statements as this role; the rows of all of them, as text.
    pub(super) fn sql(&self, role: &str, database: &str, statements: &str) -> Result<Vec<Vec<String>>, String> {
        let dsn = self.dsn(role, database);
        runtime().block_on(async move {
            let (client, connection) =
                tokio_postgres::connect(&dsn, NoTls).await.map_err(|error| format!("{error:?}"))?;
            let driver = tokio::spawn(connection);
            let answers = client.simple_query(statements).await;
            drop(client);
            // Only when it is gone may the database be a template again.
            let _ = driver.await;
            let answers = answers.map_err(|error| {
                error.as_db_error().map_or_else(|| format!("{error:?}"), |refusal| refusal.message().to_owned())
            })?;
            let row = |message: &SimpleQueryMessage| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|at| row.get(at).unwrap_or("NULL").to_owned()).collect())
                }
                _ => None,
            };
            Ok(answers.iter().filter_map(row).collect())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The script stops the cluster when it is told to, or when the pipe closes.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

/// A session that stays open between statements, to hold others up with its locks.
pub(super) struct Gate {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Gate {
    pub(super) fn new(dsn: &str) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("a connection");
            tokio::spawn(connection);
            client
        });
        Self { runtime, client }
    }

    pub(super) fn run(&self, statements: &str) {
        self.runtime.block_on(self.client.batch_execute(statements)).expect("it is allowed");
    }

    /// How many rows a statement gives.
    pub(super) fn count(&self, statement: &str) -> usize {
        self.runtime.block_on(self.client.query(statement, &[])).expect("it is allowed").len()
    }
}

/// A runtime for one piece of work.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

const TEMPLATE: &str = "kahn_template";

/// The cluster that the tests of this process share.
pub(super) fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start();
        cluster.sql("postgres", "postgres", &format!("CREATE DATABASE {TEMPLATE}")).expect("a template");
        let folder = tempfile::tempdir().expect("a folder");
        let password = folder.path().join("app.pw");
        std::fs::write(&password, format!("{APP_PASSWORD}\n")).expect("a password file");
        let done = run(
            &["migrate", "--app-password-file", &password.display().to_string()],
            &[("KAHN_ADMIN_DATABASE_URL", &cluster.dsn("postgres", TEMPLATE))],
        );
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        cluster
    })
}

/// A migrated database of one test; it goes with this value.
pub(super) struct Database {
    pub(super) name: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Database {
    pub(super) fn fresh() -> Self {
        Self::create(&format!(" TEMPLATE {TEMPLATE} STRATEGY file_copy"))
    }

    pub(super) fn unmigrated() -> Self {
        Self::create("")
    }

    fn create(how: &str) -> Self {
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        shared().sql("postgres", "postgres", &format!("CREATE DATABASE {name}{how}")).expect("a database");
        Self { name }
    }

    pub(super) fn app_dsn(&self) -> String {
        self.dsn_of("kahn_app")
    }

    pub(super) fn admin_dsn(&self) -> String {
        self.dsn_of("postgres")
    }

    pub(super) fn dsn_of(&self, role: &str) -> String {
        shared().dsn(role, &self.name)
    }

    /// Over TCP, where kahn_app needs its password. A port other than the cluster's is a proxy's.
    pub(super) fn tcp_dsn(&self, password: &str, port: u16) -> String {
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        format!("host=127.0.0.1 port={port} user=kahn_app password='{quoted}' dbname={}", self.name)
    }

    /// As a superuser, to arrange things.
    pub(super) fn admin(&self, statements: &str) -> Vec<Vec<String>> {
        shared().sql("postgres", &self.name, statements).expect("it is allowed")
    }

    /// As the server's role.
    pub(super) fn app(&self, statements: &str) -> Result<Vec<Vec<String>>, String> {
        shared().sql("kahn_app", &self.name, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = shared().sql("postgres", "postgres", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}
