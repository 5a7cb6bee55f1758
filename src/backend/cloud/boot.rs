//! What must hold before the server opens its port. Each refusal is one sentence: what is wrong, and what mends it.

mod trial;
mod walls;

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::migrate::required_tables;
use super::pool::{Database, DsnError, root_cause};
use super::settings::EntryMistake;

/// How long an unreachable database is waited for: both may just be starting.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The oldest Postgres that has what the migrations use.
const OLDEST_SERVER: u32 = 14;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootRefusal {
    /// No DSN.
    #[error(
        "no database is configured; set KAHN_DATABASE_URL to the DSN of the role kahn_app, \
         as in postgres://kahn_app:PASSWORD@HOST:5432/DATABASE"
    )]
    NoDsn,
    /// No way in that could be meant.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Entry(Vec<EntryMistake>),
    /// A DSN that cannot be used.
    #[error(transparent)]
    Dsn(#[from] DsnError),
    /// Nobody answers.
    #[error(
        "the database at {place} could not be reached within 10 s ({reason}); start it, or correct KAHN_DATABASE_URL"
    )]
    Unreachable {
        /// Host and port.
        place: String,
        /// The last attempt's reason.
        reason: String,
    },
    /// It answers and says no.
    #[error(
        "the database at {place} does not let {user} in ({reason}); correct KAHN_DATABASE_URL, \
         or set the password of kahn_app with `kahn migrate --app-password-file FILE`"
    )]
    LoginRejected {
        /// Host and port.
        place: String,
        /// The role that asked.
        user: String,
        /// What it said.
        reason: String,
    },
    /// Its certificate is not to be trusted.
    #[error(
        "no TLS connection to the database at {place} ({reason}); set KAHN_DATABASE_CA_FILE to a PEM file \
         with the certificate of its authority"
    )]
    Tls {
        /// Host and port.
        place: String,
        /// Why not.
        reason: String,
    },
    /// It speaks in the clear only.
    #[error(
        "the database at {place} offers no TLS; turn it on there, or add sslmode=disable to KAHN_DATABASE_URL \
         if the network in between is yours alone"
    )]
    NoTls {
        /// Host and port.
        place: String,
    },
    /// It is too old.
    #[error(
        "the database is Postgres {0}, and kahn needs 14 or newer; upgrade it, or point KAHN_DATABASE_URL at another one"
    )]
    TooOld(String),
    /// An acknowledged batch could be lost.
    #[error(
        "synchronous_commit is off, so an acknowledged batch could be lost in a crash; \
         run `ALTER ROLE {role} SET synchronous_commit = on`, or take the setting out of postgresql.conf, the database or the DSN"
    )]
    AsynchronousCommit {
        /// The role that the server logs in as.
        role: String,
    },
    /// A migration is missing.
    #[error("the table {table} is missing, which migrations/{file} makes; run `kahn migrate`")]
    MissingTable {
        /// The table.
        table: &'static str,
        /// The file that makes it.
        file: &'static str,
    },
    /// Row-level security would be inert.
    #[error(
        "the role {role} {power}, so the walls between tenants would not hold; \
         set KAHN_DATABASE_URL to the DSN of kahn_app, the role that `kahn migrate` makes"
    )]
    PowerfulRole {
        /// The role that the server logs in as.
        role: String,
        /// What it is, has or can become.
        power: String,
    },
    /// A table without its wall.
    #[error("the table {table} {lack}, so tenants would see each other's rows; {mend}")]
    NoWall {
        /// The table.
        table: String,
        /// What it lacks.
        lack: &'static str,
        /// The statement that mends it.
        mend: String,
    },
    /// A table whose wall is there and holds nothing.
    #[error(
        "the wall of the table {table} failed when it was tried: {what}; its policy is tenant_isolation, \
         {mend}"
    )]
    WallFails {
        /// The table.
        table: String,
        /// What happened.
        what: &'static str,
        /// How the policy is mended.
        mend: String,
    },
    /// A table whose wall could not be tried.
    #[error(
        "the wall of the table {table} could not be tried ({reason}); \
         make the table as migrations/README.md says, or move it out of the schema public"
    )]
    Untried {
        /// The table.
        table: String,
        /// What the database said.
        reason: String,
    },
    /// A key that looks past the walls.
    #[error(
        "the key {key} of the table {table} does not begin with tenant_id, so it would tell one tenant what another one has; \
         run `{mend}`"
    )]
    OpenKey {
        /// The table.
        table: String,
        /// The constraint or index.
        key: String,
        /// The statement that removes it.
        mend: String,
    },
    /// A table without the key that keeps rows from being there twice.
    #[error(
        "the table {table} has no primary key, so what is sent twice would be stored twice; \
         add it again as migrations/{file} has it"
    )]
    NoKey {
        /// The table.
        table: String,
        /// The file that makes it.
        file: &'static str,
    },
    /// A privilege that nobody needs.
    #[error("{role} may {privilege} the table {table}, which kahn never does and a mistake could; run `{mend}`")]
    TooMuch {
        /// Who.
        role: String,
        /// The verb, and the column where it is one.
        privilege: String,
        /// The table.
        table: String,
        /// The statement that takes it away.
        mend: String,
    },
    /// The server could own a table.
    #[error(
        "{role} may make tables in the schema public, whose walls would not hold for their maker; \
         run `REVOKE CREATE ON SCHEMA public FROM {role}`"
    )]
    Maker {
        /// Who.
        role: String,
    },
    /// One of the functions that answer before a tenant is known.
    #[error("the function {function} {fault}, so keys could not be looked up safely; {mend}")]
    Function {
        /// Its name.
        function: &'static str,
        /// What is wrong with it.
        fault: &'static str,
        /// How it is mended.
        mend: String,
    },
    /// A view that goes around the walls.
    #[error("the view {view} shows every tenant's rows to whoever asks it; run `{mend}`")]
    View {
        /// The view.
        view: String,
        /// The statement that mends it.
        mend: String,
    },
    /// The checks themselves failed.
    #[error("the boot checks could not be finished ({0}); see the database's log and start kahn again")]
    Unfinished(String),
    /// The pool could not be made.
    #[error("the connection pool could not be made ({0}); check KAHN_DATABASE_POOL")]
    Pool(#[from] deadpool_postgres::BuildError),
}

impl BootRefusal {
    /// Whether it is a mistake of configuration (exit code 2) rather than of the world (1).
    pub(super) fn is_configuration(&self) -> bool {
        matches!(self, Self::NoDsn | Self::Entry(_) | Self::Dsn(_) | Self::Pool(_))
    }
}

impl From<tokio_postgres::Error> for BootRefusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Unfinished(root_cause(&error))
    }
}

/// What [`check`] looks at, a clause each.
pub(super) fn checks() -> Vec<String> {
    let tables: Vec<&str> = required_tables().map(|(table, _)| table).collect();
    vec![
        "a database and a way in are configured".to_owned(),
        format!("the database answers within {} s", PATIENCE.as_secs()),
        format!("it is Postgres {OLDEST_SERVER} or newer, and synchronous_commit is not off"),
        "its role is no superuser, has no BYPASSRLS or CREATEROLE, owns no table, and can become no role that does"
            .to_owned(),
        format!("the required tables are there: {}", tables.join(", ")),
        "every table with a tenant_id has row-level security enabled, forced, and no policy but kahn's; every key of it begins with \
         tenant_id"
            .to_owned(),
        "the walls hold when they are tried between two reserved tenants: nothing is read, changed, deleted, added or moved across, \
         or without a tenant"
            .to_owned(),
        "nobody has a verb that kahn does not need (TRUNCATE, changing lines or plans, anything for PUBLIC), the three lookup functions \
         are kahn_lookup's own, no view goes around the walls"
            .to_owned(),
        "the port is free".to_owned(),
    ]
}

/// Reaches the database and looks at everything that can be looked at.
pub(super) async fn check(database: &Database) -> Result<(), BootRefusal> {
    let client = reach(database).await?;
    server(&client).await?;
    let roles = role(&client).await?;
    tables(&client).await?;
    let walled = walls::tenant_tables(&client).await?;
    walls::keys(&client).await?;
    walls::grants(&client, &roles).await?;
    walls::functions(&client).await?;
    walls::views(&client).await?;
    trial::walls(&client, &walled).await?;
    walls::policies(&walled)
}

/// The first connection; for up to 10 s while nobody is there, not a second time when somebody says no.
async fn reach(database: &Database) -> Result<Client, BootRefusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reason = match tokio::time::timeout_at(deadline, database.client()).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => match judge(database, &error) {
                Some(refusal) => return Err(refusal),
                None => root_cause(&error),
            },
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + RETRY_EVERY >= deadline {
            return Err(BootRefusal::Unreachable { place: database.place(), reason });
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// The refusal that a failed attempt is, or `None` when trying again may help.
fn judge(database: &Database, error: &tokio_postgres::Error) -> Option<BootRefusal> {
    let reason = root_cause(error);
    let (place, user) = (database.place(), database.user());
    if let Some(refusal) = error.as_db_error() {
        let starting_or_full = [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(refusal.code());
        let reason = refusal.message().to_owned();
        return (!starting_or_full).then_some(BootRefusal::LoginRejected { place, user, reason });
    }
    if reason == "server does not support TLS" {
        return Some(BootRefusal::NoTls { place });
    }
    let cause = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).last();
    match cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(io) if matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput) => {
            Some(BootRefusal::Tls { place, reason })
        }
        // Refused, no such socket, no such name (yet), cut off while starting.
        Some(_) => None,
        // rustls' errors are the innermost; the rest are no password, or no TLS where it is required.
        None if cause.is_some_and(|cause| cause.is::<rustls::Error>()) => Some(BootRefusal::Tls { place, reason }),
        None if error.is_closed() => None,
        None => Some(BootRefusal::LoginRejected { place, user, reason }),
    }
}

/// Old enough, and honest about COMMIT.
async fn server(client: &Client) -> Result<(), BootRefusal> {
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num'), current_setting('server_version'), \
             current_setting('synchronous_commit'), session_user::text",
            &[],
        )
        .await?;
    let (number, version): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let number: u32 =
        number.parse().map_err(|_| BootRefusal::Unfinished(format!("server_version_num is {number:?}")))?;
    if number / 10_000 < OLDEST_SERVER {
        return Err(BootRefusal::TooOld(if version.is_empty() { number.to_string() } else { major(number) }));
    }
    if row.try_get::<_, String>(2)? == "off" {
        return Err(BootRefusal::AsynchronousCommit { role: row.try_get(3)? });
    }
    Ok(())
}

/// 130018 is 13.18.
fn major(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// The role, and every role that it can become: whoever is a member may SET ROLE, whatever INHERIT says. Their names.
async fn role(client: &Client) -> Result<Vec<String>, BootRefusal> {
    let rows = client
        .query_typed(
            "WITH RECURSIVE reachable AS ( \
               SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user \
               UNION \
               SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN reachable ON m.member = reachable.oid) \
             SELECT session_user::text, r.rolname::text, r.rolsuper, r.rolbypassrls, r.rolcreaterole, \
               (SELECT c.oid::regclass::text FROM pg_catalog.pg_class c \
                WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' \
                ORDER BY c.oid LIMIT 1) \
             FROM reachable JOIN pg_catalog.pg_roles r USING (oid) ORDER BY r.rolname <> session_user, r.rolname",
            &[],
        )
        .await?;
    let mut roles = Vec::with_capacity(rows.len());
    for row in rows {
        let (own, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let owned: Option<String> = row.try_get(5)?;
        let power = if row.try_get(2)? {
            "is a superuser".to_owned()
        } else if row.try_get(3)? {
            "has BYPASSRLS".to_owned()
        } else if row.try_get(4)? {
            "has CREATEROLE".to_owned()
        } else if let Some(table) = owned {
            format!("owns the table {table}")
        } else if name == "kahn_lookup" {
            "sees the keys of all tenants".to_owned()
        } else {
            roles.push(name);
            continue;
        };
        let power = if own == name { power } else { format!("can SET ROLE to {name}, which {power}") };
        return Err(BootRefusal::PowerfulRole { role: own, power });
    }
    Ok(roles)
}

/// Every table that a migration makes.
async fn tables(client: &Client) -> Result<(), BootRefusal> {
    let present = present_tables(client).await?;
    match required_tables().find(|(table, _)| !present.iter().any(|name| name == table)) {
        Some((table, file)) => Err(BootRefusal::MissingTable { table, file }),
        None => Ok(()),
    }
}

/// The names of all tables in `public`.
pub(super) async fn present_tables(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query_typed(
            "SELECT relname::text FROM pg_catalog.pg_class \
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
            &[],
        )
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
