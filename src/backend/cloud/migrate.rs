//! `kahn migrate`: applies the embedded migrations over the owner's DSN. The server itself never changes the schema.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::boot::present_tables;
use super::pool::{Database, DsnError, root_cause};
use crate::domain::id::sha256_hex;

/// A migration file: its name without `.sql`, its text, and the tables that the server cannot do without.
struct File {
    name: &'static str,
    with_suffix: &'static str,
    sql: &'static str,
    tables: &'static [&'static str],
}

macro_rules! files {
    ($($name:literal => [$($table:literal),*],)*) => {
        &[$(File {
            name: $name,
            with_suffix: concat!($name, ".sql"),
            sql: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $name, ".sql")),
            tables: &[$($table),*],
        }),*]
    };
}

const FILES: &[File] = files! {
    "V001__roles" => [],
    "V002__tenants" => ["tenants"],
    "V003__api_keys" => ["api_keys"],
    "V004__runs" => ["runs"],
    "V005__transitions" => ["transitions"],
    "V006__plans_usage" => ["plans", "usage"],
    "V007__retention" => ["retention"],
    "V008__activity" => ["activity"],
    "V009__alerts" => ["alerts"],
};

/// One lock a database: `kahn` and 1, in ASCII.
const LOCK: i64 = 0x6b61_686e_0001;

/// Every required table and the file that makes it, in the order of the files.
pub(super) fn required_tables() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().flat_map(|file| file.tables.iter().map(|table| (*table, file.with_suffix)))
}

/// Why the database could not be migrated.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    /// No DSN.
    #[error(
        "no database is configured; set KAHN_ADMIN_DATABASE_URL to the DSN of the database's owner, \
         as in postgres://postgres:PASSWORD@HOST:5432/DATABASE"
    )]
    NoDsn,
    /// A DSN that cannot be used.
    #[error(transparent)]
    Dsn(#[from] DsnError),
    /// Nobody answers, or says no.
    #[error("no connection to the database at {place} ({reason}); correct KAHN_ADMIN_DATABASE_URL")]
    Connect {
        /// Host and port.
        place: String,
        /// Why not.
        reason: String,
    },
    /// The password file cannot be used.
    #[error(
        "the password file {path} cannot be used ({reason}); --app-password-file names a file with one line, the password of kahn_app"
    )]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The password variable cannot be used.
    #[error("KAHN_APP_PASSWORD cannot be used ({0}); it holds one line, the password of kahn_app")]
    PasswordVariable(&'static str),
    /// Two passwords for one role.
    #[error(
        "KAHN_APP_PASSWORD and KAHN_APP_PASSWORD_FILE (--app-password-file) are both given; leave out the one that is not meant"
    )]
    TwoPasswords,
    /// A migration failed.
    #[error("migrations/{file} failed ({reason}); it was rolled back: mend the cause and run `kahn migrate` again")]
    Failed {
        /// The file.
        file: &'static str,
        /// What the database said.
        reason: String,
    },
    /// One that was applied is not the one that this kahn has.
    #[error(
        "migrations/{file} was applied to this database with another text than this kahn has; \
         migrate with the kahn that applied it, or with a newer one"
    )]
    Edited {
        /// The file.
        file: &'static str,
    },
    /// A statement failed.
    #[error("the database refused ({0})")]
    Database(String),
    /// Everything is applied, and yet a table is not there.
    #[error(
        "the table {table} is missing although migrations/{file} was applied: somebody dropped it; \
         restore it from a backup, or run that file by hand"
    )]
    Dropped {
        /// The table.
        table: &'static str,
        /// Its file.
        file: &'static str,
    },
    /// Nobody reads what is printed.
    #[error("the output could not be written: {0}")]
    Output(#[from] std::io::Error),
}

impl MigrateError {
    /// Whether it is a mistake of configuration (exit code 2) rather than of the world (1).
    pub(super) fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::NoDsn | Self::Dsn(_) | Self::PasswordFile { .. } | Self::PasswordVariable(_) | Self::TwoPasswords
        )
    }
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(root_cause(&error))
    }
}

/// A connection of the owner, with names that mean what they say.
pub(super) async fn connect(database: &Database) -> Result<Client, MigrateError> {
    let client = database
        .client()
        .await
        .map_err(|error| MigrateError::Connect { place: database.place(), reason: root_cause(&error) })?;
    client.batch_execute("SET search_path = public").await?;
    Ok(client)
}

/// A table that the server cannot do without.
#[derive(Debug, Serialize)]
pub(super) struct RequiredTable {
    table: &'static str,
    /// The migration that makes it.
    file: &'static str,
    pub(super) present: bool,
}

impl fmt::Display for RequiredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, file, present } = self;
        write!(f, "{table:<12} {file:<24} {}", if *present { "present" } else { "missing" })
    }
}

/// Every required table, and whether it is there.
pub(super) async fn check(database: &Database) -> Result<Vec<RequiredTable>, MigrateError> {
    let present = present_tables(&connect(database).await?).await?;
    let row = |(table, file)| RequiredTable { table, file, present: present.iter().any(|name| name == table) };
    Ok(required_tables().map(row).collect())
}

/// Where the password of kahn_app is to come from.
#[derive(Debug)]
pub(super) enum Password<'a> {
    /// A file with one line.
    File(&'a Path),
    /// A variable of the environment: platforms may have nothing else.
    Variable(String),
}

/// The one place that a password was given in, if it was.
pub(super) fn password<'a>(
    file: Option<&'a Path>,
    variable: Option<String>,
) -> Result<Option<Password<'a>>, MigrateError> {
    match (file, variable) {
        (Some(_), Some(_)) => Err(MigrateError::TwoPasswords),
        (Some(path), None) => Ok(Some(Password::File(path))),
        (None, variable) => Ok(variable.map(Password::Variable)),
    }
}

/// Applies what is missing, sets kahn_app's password when one is given, and looks at the result.
pub(super) async fn migrate(
    database: &Database,
    password: Option<Password<'_>>,
    out: &mut dyn Write,
) -> Result<(), MigrateError> {
    let password = password.map(read_password).transpose()?;
    let mut client = connect(database).await?;
    // It ends with the connection.
    client.execute_typed("SELECT pg_advisory_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    client.batch_execute(HISTORY).await?;
    let applied = history(&client).await?;
    let mut count = 0;
    for (version, file) in (1..).zip(FILES) {
        let checksum = sha256_hex(file.sql.as_bytes());
        match applied.iter().find(|migration| migration.version == version) {
            Some(migration) if migration.name == file.name && migration.checksum == checksum => {}
            Some(_) => return Err(MigrateError::Edited { file: file.with_suffix }),
            None => {
                apply(&mut client, file, (version, &checksum))
                    .await
                    .map_err(|error| MigrateError::Failed { file: file.with_suffix, reason: root_cause(&error) })?;
                writeln!(out, "applied {}", file.with_suffix)?;
                count += 1;
            }
        }
    }
    if count == 0 {
        writeln!(out, "nothing to apply: the database has all {} migrations", FILES.len())?;
    }
    // A kahn that is put back behind a newer one migrates too, as platforms have it do: what it does not know is left alone.
    let newer: Vec<&str> =
        applied.iter().skip_while(|migration| migration.is_known()).map(|migration| migration.name.as_str()).collect();
    if !newer.is_empty() {
        writeln!(out, "the database is of a newer kahn, whose migrations stay as they are: {}", newer.join(", "))?;
    }
    if let Some(password) = password {
        set_password(&client, &password).await?;
        writeln!(out, "set the password of kahn_app")?;
    }
    let present = present_tables(&client).await?;
    match required_tables().find(|(table, _)| !present.iter().any(|name| name == table)) {
        Some((table, file)) => Err(MigrateError::Dropped { table, file }),
        None => Ok(()),
    }
}

/// What was applied to this database.
const HISTORY: &str = "CREATE TABLE IF NOT EXISTS public.kahn_migrations (version integer PRIMARY KEY, name text NOT NULL, \
                           checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// A migration that was applied.
struct Applied {
    /// Its place among the files, from 1.
    version: i32,
    /// The file, without `.sql`.
    name: String,
    /// SHA-256 of its text.
    checksum: String,
}

impl Applied {
    /// Whether this kahn has it, rather than a newer one alone.
    fn is_known(&self) -> bool {
        usize::try_from(self.version).is_ok_and(|version| version <= FILES.len())
    }
}

/// In the order of their versions.
async fn history(client: &Client) -> Result<Vec<Applied>, tokio_postgres::Error> {
    let rows =
        client.query_typed("SELECT version, name, checksum FROM public.kahn_migrations ORDER BY version", &[]).await?;
    let read = |row: &Row| Ok(Applied { version: row.try_get(0)?, name: row.try_get(1)?, checksum: row.try_get(2)? });
    rows.iter().map(read).collect()
}

/// One file and its entry, both or neither.
async fn apply(
    client: &mut Client,
    file: &File,
    (version, checksum): (i32, &str),
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(file.sql).await?;
    let sql = "INSERT INTO public.kahn_migrations (version, name, checksum) VALUES ($1, $2, $3)";
    transaction
        .execute_typed(sql, &[(&version, Type::INT4), (&file.name, Type::TEXT), (&checksum, Type::TEXT)])
        .await?;
    transaction.commit().await
}

fn read_password(password: Password<'_>) -> Result<String, MigrateError> {
    match password {
        Password::File(path) => {
            let refused =
                |reason: &str| MigrateError::PasswordFile { path: path.to_owned(), reason: reason.to_owned() };
            let text = std::fs::read_to_string(path).map_err(|error| refused(&error.to_string()))?;
            Ok(one_line(&text).map_err(refused)?.to_owned())
        }
        Password::Variable(text) => Ok(one_line(&text).map_err(MigrateError::PasswordVariable)?.to_owned()),
    }
}

/// A password, without the end of its line.
fn one_line(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err("it is empty"),
        _ if line.contains(['\n', '\r', '\0']) => Err("it holds more than one line"),
        _ => Ok(line),
    }
}

/// The server gets a SCRAM verifier, never the password: statements end up in logs.
async fn set_password(client: &Client, password: &str) -> Result<(), MigrateError> {
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    // A verifier has no quote and no backslash: base64, digits, `$`, `:`.
    let statement = format!("ALTER ROLE kahn_app PASSWORD '{verifier}'");
    // The role is the cluster's; another database's migration may be setting it in this moment.
    for _ in 0..20 {
        match client.batch_execute(&statement).await {
            Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return Ok(other?),
        }
    }
    Ok(client.batch_execute(&statement).await?)
}

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn every_file_of_the_folder_is_embedded_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder of migrations")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .filter(|name| name.ends_with(".sql"))
            .collect();
        names.sort();
        let embedded: Vec<&str> = FILES.iter().map(|file| file.with_suffix).collect();
        assert_eq!(names, embedded);
    }
}
