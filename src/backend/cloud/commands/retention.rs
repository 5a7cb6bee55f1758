//! `kahn retention`, over the server's own DSN and with no more rights than it has.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};

use super::retentions::{self, RetentionError, Went};
use super::{BootError, Options, put_json};

/// Options of `kahn retention`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RetentionOptions {
    #[command(subcommand)]
    command: Option<RetentionCommand>,
    /// Change nothing: print what would go
    #[arg(long, env = "KAHN_RETENTION_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// Subcommands of `kahn retention`.
#[derive(Debug, Subcommand)]
enum RetentionCommand {
    /// Bring a run back that was deleted less than 7 days ago
    Restore(RestoreOptions),
}

/// Options of `kahn retention restore`.
#[derive(Debug, Args)]
struct RestoreOptions {
    /// The run
    run_id: String,
    /// The tenant's name
    #[arg(long, env = "KAHN_TENANT", value_name = "NAME")]
    tenant: String,
    #[command(flatten)]
    common: Common,
}

/// What both take.
#[derive(Debug, Args)]
struct Common {
    /// Print one JSON object a line
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// PEM file with the certificate of the database's authority, instead of the web's
    #[arg(long, env = "KAHN_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

impl RetentionOptions {
    pub(super) async fn run(self, out: &mut dyn Write) -> Result<ExitCode, BootError> {
        self.work(out).await?;
        Ok(ExitCode::SUCCESS)
    }

    async fn work(self, out: &mut dyn Write) -> Result<(), RetentionError> {
        let common = match &self.command {
            Some(RetentionCommand::Restore(options)) => &options.common,
            None => &self.common,
        };
        let server = Options { database_ca_file: common.database_ca_file.clone(), ..Options::default() };
        // Behind the server's own checks: with more rights than it may have, one tenant's days would reach the runs of all.
        let door = server.door().await?;
        if let Some(RetentionCommand::Restore(options)) = &self.command {
            let restored = retentions::restore(&door, &options.tenant, &options.run_id).await?;
            if options.common.json {
                put_json(out, &restored)?;
            } else {
                writeln!(out, "{restored}")?;
            }
            return Ok(());
        }
        let mut went_any = false;
        let mut tell = |went: Went| -> Result<(), RetentionError> {
            went_any |= !went.is_empty();
            if self.common.json {
                put_json(out, &went)?;
            } else if !went.is_empty() {
                writeln!(out, "{}", if self.dry_run { went.due() } else { went.done() })?;
            }
            Ok(())
        };
        if self.dry_run {
            retentions::due(&door, &mut tell).await?;
        } else {
            retentions::run(&server.database()?, &door, &mut tell).await?;
        }
        if !went_any && !self.common.json {
            writeln!(out, "no run is past its days")?;
        }
        Ok(())
    }
}

impl From<RetentionError> for BootError {
    fn from(error: RetentionError) -> Self {
        if error.is_configuration() { Self::configuration(error.to_string()) } else { Self::Failure(error.to_string()) }
    }
}
