//! A cluster of the bench's own, migrated databases in it, and kahn over them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Handle;
use tokio_postgres::{Client, NoTls};

use crate::process::Process;

/// What the server is started with for durability's sake, and the memory that a small machine would give it.
const SETTINGS: &str =
    "-c fsync=on -c full_page_writes=on -c autovacuum=on -c shared_buffers=256MB -c max_wal_size=4GB";

/// A cluster; it is stopped when this is dropped, or when the bench is gone.
pub(crate) struct Cluster {
    socket_dir: String,
    port: u64,
    /// Of a thread of its own, which drives every connection of the bench.
    pub(crate) runtime: Handle,
    databases: AtomicU32,
    _pipe: ChildStdin,
    child: Child,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        // The path of a socket is short, so the folder cannot be anywhere below the project.
        let folder = std::env::temp_dir().join(format!("kahn-bench-{}", std::process::id()));
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster"))
            .arg(&folder)
            .env("KAHN_CLUSTER_OPTIONS", SETTINGS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/cluster starts");
        let pipe = child.stdin.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let said: serde_json::Value = serde_json::from_str(&line).expect("the cluster is ready");
        let driver = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = driver.handle().clone();
        std::thread::spawn(move || driver.block_on(std::future::pending::<()>()));
        Self {
            socket_dir: said["socket_dir"].as_str().expect("a folder").to_owned(),
            port: said["port"].as_u64().expect("a port"),
            runtime,
            databases: AtomicU32::new(0),
            _pipe: pipe,
            child,
        }
    }

    /// A migrated database.
    pub(crate) fn database(&self) -> Database<'_> {
        let name = format!("bench{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let owner = self.client("postgres", "postgres");
        self.runtime.block_on(owner.batch_execute(&format!("CREATE DATABASE {name}"))).expect("a database");
        let database = Database { cluster: self, name };
        database.command(&["migrate"]);
        database
    }

    fn dsn(&self, role: &str, database: &str) -> String {
        format!("host={} port={} user={role} dbname={database}", self.socket_dir, self.port)
    }

    fn client(&self, role: &str, database: &str) -> Client {
        self.runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&self.dsn(role, database), NoTls).await.expect("a connection");
            tokio::spawn(connection);
            client
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A migrated database of some rows.
pub(crate) struct Database<'a> {
    pub(crate) cluster: &'a Cluster,
    name: String,
}

/// A tenant: the header fields that its two keys make.
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) ingest: String,
    pub(crate) read: String,
}

impl Database<'_> {
    /// A connection as the server's role.
    pub(crate) fn app(&self) -> Client {
        self.cluster.client("kahn_app", &self.name)
    }

    /// A connection as a superuser, whom no row-level security holds up.
    pub(crate) fn owner(&self) -> Client {
        self.cluster.client("postgres", &self.name)
    }

    /// What the server's role connects with.
    pub(crate) fn app_dsn(&self) -> String {
        self.cluster.dsn("kahn_app", &self.name)
    }

    /// kahn over this database.
    pub(crate) fn serve(&self) -> Process {
        let dsn = self.app_dsn();
        let variables = [("KAHN_DATABASE_URL", dsn.as_str()), ("KAHN_AUTH", "keys-only"), ("KAHN_AGENT_VIEWS", "on")];
        Process::kahn_with(&[], &variables, "/readyz")
    }

    /// A tenant with a key of each kind.
    pub(crate) fn tenant(&self, name: &str) -> Tenant {
        let fields = |scope: &str| {
            let said = self.command(&["tenant", "provision", name, "--org", &format!("org_{name}"), "--scope", scope]);
            let key = said.lines().find(|line| line.starts_with("kahn_live_sk_")).expect("a key");
            format!("Authorization: Bearer {key}\r\n")
        };
        let (ingest, read) = (fields("ingest"), fields("read"));
        let owner = self.owner();
        // A plan that holds nobody up, before a server asks for it.
        let sql = format!(
            "INSERT INTO plans (plan, retention_days, rate_per_s, burst) VALUES ('free', 90, 1000000, 2000000) \
                 ON CONFLICT DO NOTHING; \
             UPDATE tenants SET plan = 'free' WHERE name = '{name}'"
        );
        self.cluster.runtime.block_on(owner.batch_execute(&sql)).expect("a plan");
        let row = self
            .cluster
            .runtime
            .block_on(owner.query_one("SELECT tenant_id::text FROM tenants WHERE name = $1", &[&name]));
        Tenant { id: row.expect("a tenant").get(0), ingest, read }
    }

    fn command(&self, args: &[&str]) -> String {
        let done = Command::new(env!("CARGO_BIN_EXE_kahn"))
            .args(args)
            .env("KAHN_ADMIN_DATABASE_URL", self.cluster.dsn("postgres", &self.name))
            .output()
            .expect("kahn starts");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }
}
