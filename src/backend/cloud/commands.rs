//! The subcommands that only this build has.

mod retention;
mod tenant;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;

use self::retention::RetentionOptions;
use self::tenant::TenantCommand;
use super::migrate::{self, MigrateError};
use super::pool::Database;
use super::reindex::{self, ReindexError, Told};
use super::{ADMIN_DATABASE_URL, Options, retention as retentions, tenant as tenants};
use crate::config::{self, BootError, Serving};
use crate::domain::Timestamp;

const APP_PASSWORD: &str = "KAHN_APP_PASSWORD";

/// Subcommands that only this build has.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply the migrations over the owner's DSN (KAHN_ADMIN_DATABASE_URL)
    Migrate(MigrateOptions),
    /// Make summaries, states and lists again from the stored lines (over KAHN_DATABASE_URL, beside running servers)
    Reindex(ReindexOptions),
    /// Tenants, their plans and keys
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Delete runs that are past their days, as the server does every hour (KAHN_DATABASE_URL)
    Retention(RetentionOptions),
}

/// Options of `kahn migrate`.
#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// Change nothing: list each table with its file, present or missing; exit 1 if any is missing
    #[arg(long, env = "KAHN_MIGRATE_CHECK", value_parser = BoolishValueParser::new())]
    check: bool,
    /// Print one JSON object a table (with --check)
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// File with the password that the role kahn_app gets; without it, KAHN_APP_PASSWORD of the environment (neither is
    /// read with --check)
    #[arg(long, env = "KAHN_APP_PASSWORD_FILE", value_name = "FILE")]
    app_password_file: Option<PathBuf>,
    /// PEM file with the certificate of the database's authority, instead of the web's
    #[arg(long, env = "KAHN_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

/// Options of `kahn reindex`.
#[derive(Debug, Args)]
pub struct ReindexOptions {
    /// Print one JSON object a tenant
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// PEM file with the certificate of the database's authority, instead of the web's
    #[arg(long, env = "KAHN_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

impl Command {
    /// Does the work; the exit code is 0 when it is done and 1 when the work found a fault. None of these commands serves
    /// or asks for the time.
    ///
    /// # Errors
    ///
    /// When it could not be done.
    pub fn run(
        self,
        _serve: impl FnOnce(Serving<Options>) -> Result<ExitCode, BootError>,
        _now: fn() -> Timestamp,
    ) -> Result<ExitCode, BootError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| BootError::Failure(format!("the runtime could not be started: {error}")))?;
        let mut out = std::io::stdout();
        runtime.block_on(async {
            match self {
                Self::Migrate(options) => run_migrate(&options, &mut out).await,
                Self::Reindex(options) => run_reindex(&options, &mut out).await,
                Self::Tenant(command) => command.run(&mut out).await,
                Self::Retention(options) => options.run(&mut out).await,
            }
        })
    }
}

async fn run_migrate(options: &MigrateOptions, out: &mut dyn Write) -> Result<ExitCode, BootError> {
    let database = owner(options.database_ca_file.as_ref())?;
    if options.check {
        let tables = migrate::check(&database).await?;
        for table in &tables {
            let done = if options.json { put_json(out, table) } else { writeln!(out, "{table}") };
            done.map_err(MigrateError::Output)?;
        }
        return Ok(if tables.iter().all(|table| table.present) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let password = migrate::password(options.app_password_file.as_deref(), config::env(APP_PASSWORD))?;
    migrate::migrate(&database, password, out).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_reindex(options: &ReindexOptions, out: &mut dyn Write) -> Result<ExitCode, BootError> {
    let server = Options { database_ca_file: options.database_ca_file.clone(), ..Options::default() };
    let mut all = true;
    let tell = |told: &Told<'_>| {
        all &= told.is_whole();
        if options.json { put_json(out, told) } else { told.tell(out) }
    };
    reindex::reindex(&server.door().await?, tell).await?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One JSON object as a line.
fn put_json(out: &mut dyn Write, value: &impl Serialize) -> std::io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(value)?)
}

fn owner(ca_file: Option<&PathBuf>) -> Result<Database, MigrateError> {
    let dsn = config::env(ADMIN_DATABASE_URL).ok_or(MigrateError::NoDsn)?;
    Ok(Database::for_owner(&dsn, ADMIN_DATABASE_URL, ca_file.map(PathBuf::as_path))?)
}

impl From<MigrateError> for BootError {
    fn from(error: MigrateError) -> Self {
        if error.is_configuration() { Self::configuration(error.to_string()) } else { Self::Failure(error.to_string()) }
    }
}

impl From<ReindexError> for BootError {
    fn from(error: ReindexError) -> Self {
        match error {
            ReindexError::Boot(refusal) => refusal.into(),
            other => Self::Failure(other.to_string()),
        }
    }
}
