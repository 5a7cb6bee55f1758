//! `kahn tenant`, over the owner's DSN.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::tenants::{Provision, Retention, Revoke, Rotate, SetPlan, TenantError};
use super::{BootError, owner, put_json, tenants};
use crate::contract::KeyScope;

/// Subcommands of `kahn tenant`.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant with its plan and first key; doing it again changes nothing
    Provision(ProvisionOptions),
    /// List tenants with their plans and keys (never a key itself)
    List(ListOptions),
    /// Make a new key in the place of the one before, which goes on for a while
    RotateKey(RotateOptions),
    /// End a key now: dead on every server within 5 s
    RevokeKey(RevokeOptions),
    /// Put a tenant on a plan, which says how long its runs are kept and how much it may send
    SetPlan(SetPlanOptions),
}

/// What all of them take.
#[derive(Debug, Args)]
struct Common {
    /// Print one JSON object a line
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// PEM file with the certificate of the database's authority, instead of the web's
    #[arg(long, env = "KAHN_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

/// Options of `kahn tenant provision`.
#[derive(Debug, Args)]
pub struct ProvisionOptions {
    /// The tenant's name: lower-case letters, digits and dashes
    name: String,
    /// The organisation at the identity provider whose people belong to it
    #[arg(long, env = "KAHN_TENANT_ORG", value_name = "ORG_ID")]
    org: String,
    /// What the key may do
    #[arg(long, env = "KAHN_TENANT_SCOPE", value_enum, default_value_t = KeyScope::Ingest)]
    scope: KeyScope,
    /// Keep the key in this file too (mode 0600), as `KAHN_KEY_<NAME>=...` or `KAHN_READ_KEY_<NAME>=...`
    #[arg(long, env = "KAHN_TENANT_WRITE_ENV", value_name = "FILE")]
    write_env: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Options of `kahn tenant list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    #[command(flatten)]
    common: Common,
}

/// Options of `kahn tenant rotate-key`.
#[derive(Debug, Args)]
pub struct RotateOptions {
    /// The tenant's name
    name: String,
    /// What the new key may do; the one before it of this scope gets an end
    #[arg(long, env = "KAHN_TENANT_SCOPE", value_enum, default_value_t = KeyScope::Ingest)]
    scope: KeyScope,
    /// How long the old key goes on: a number with s, m, h or d, at most 90d
    #[arg(long, env = "KAHN_TENANT_OVERLAP", default_value = "24h", value_parser = overlap)]
    overlap: Duration,
    /// Keep the new key in this file too (mode 0600), as `KAHN_KEY_<NAME>=...` or `KAHN_READ_KEY_<NAME>=...`
    #[arg(long, env = "KAHN_TENANT_WRITE_ENV", value_name = "FILE")]
    write_env: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Options of `kahn tenant revoke-key`.
#[derive(Debug, Args)]
pub struct RevokeOptions {
    /// The tenant's name
    name: String,
    /// The key's id, as `kahn tenant list` shows it
    key_id: String,
    #[command(flatten)]
    common: Common,
}

/// Options of `kahn tenant set-plan`.
#[derive(Debug, Args)]
pub struct SetPlanOptions {
    /// The tenant's name
    name: String,
    /// The plan's name
    plan: String,
    /// Days that this tenant's runs are kept, instead of the plan's; `default` goes back to those [default: as it is]
    #[arg(long, env = "KAHN_TENANT_RETENTION_DAYS", value_name = "N|default", value_parser = retention)]
    retention_days: Option<Retention>,
    #[command(flatten)]
    common: Common,
}

const MOST_DAYS: i32 = 36_500;

fn retention(text: &str) -> Result<Retention, String> {
    match text.parse() {
        _ if text == "default" => Ok(Retention::Default),
        Ok(days) if (1..=MOST_DAYS).contains(&days) => Ok(Retention::Days(days)),
        _ => Err(format!("write a whole number of days from 1 to {MOST_DAYS}, or default")),
    }
}

const LONGEST_OVERLAP: Duration = Duration::from_secs(90 * 24 * 60 * 60);

fn overlap(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];
    let seconds = units.into_iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(seconds)
    });
    seconds
        .map(Duration::from_secs)
        .filter(|overlap| *overlap <= LONGEST_OVERLAP)
        .ok_or_else(|| "write a whole number with s, m, h or d, at most 90d, such as 24h".to_owned())
}

impl TenantCommand {
    pub(super) async fn run(self, out: &mut dyn Write) -> Result<ExitCode, BootError> {
        let (Self::Provision(ProvisionOptions { common, .. })
        | Self::List(ListOptions { common })
        | Self::RotateKey(RotateOptions { common, .. })
        | Self::RevokeKey(RevokeOptions { common, .. })
        | Self::SetPlan(SetPlanOptions { common, .. })) = &self;
        let json = common.json;
        let database = owner(common.database_ca_file.as_ref())?;
        match self {
            Self::Provision(ProvisionOptions { name, org, scope, write_env, .. }) => {
                let wanted = Provision { name, org, scope, env_file: write_env };
                let done = tenants::provision(&database, &wanted).await?;
                say(out, json, &done, |out| done.tell(out))
            }
            Self::List(_) => {
                for tenant in tenants::list(&database).await? {
                    match say(out, json, &tenant, |out| tenant.tell(out)) {
                        // `| head` has seen enough. What is only said once is another matter.
                        Err(TenantError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => break,
                        said => said?,
                    }
                }
                Ok(())
            }
            Self::RotateKey(RotateOptions { name, scope, overlap, write_env, .. }) => {
                let wanted = Rotate { name, scope, overlap, env_file: write_env };
                let done = tenants::rotate(&database, &wanted).await?;
                say(out, json, &done, |out| done.tell(out))
            }
            Self::RevokeKey(RevokeOptions { name, key_id, .. }) => {
                let done = tenants::revoke(&database, &Revoke { name, key_id }).await?;
                say(out, json, &done, |out| done.tell(out))
            }
            Self::SetPlan(SetPlanOptions { name, plan, retention_days, .. }) => {
                let wanted = SetPlan { name, plan, retention: retention_days.unwrap_or(Retention::AsItIs) };
                let done = tenants::set_plan(&database, &wanted).await?;
                say(out, json, &done, |out| done.tell(out))
            }
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The answer, for programs or for people.
fn say(
    out: &mut dyn Write,
    json: bool,
    answer: &impl Serialize,
    tell: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), TenantError> {
    if json {
        put_json(out, answer)?
    } else {
        tell(out)?
    }
    Ok(())
}

impl From<TenantError> for BootError {
    fn from(error: TenantError) -> Self {
        if error.is_configuration() { Self::configuration(error.to_string()) } else { Self::Failure(error.to_string()) }
    }
}
