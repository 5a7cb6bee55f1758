//! What `kahn tenant` does, over the owner's DSN. Here: making a tenant with its plan and first key (doing it again changes
//! nothing), and what all of these commands share.

mod env_file;
mod keys;
mod list;
mod plan;

use std::io::Write;
use std::path::PathBuf;

use async_trait::async_trait;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use self::env_file::EnvFile;
pub(super) use self::keys::{Revoke, Rotate, revoke, rotate};
pub(super) use self::list::list;
pub(super) use self::plan::{Retention, SetPlan, set_plan};
use super::account::activity::{Action, Actor, note};
use super::account::keys::{self as keys_of, KeyError, Wanted, read_key};
use super::account::moment;
use super::api_keys;
use super::migrate::{self, MigrateError};
use super::pool::{Database, root_cause};
use super::scope::{DatabaseError, OfTenant, Parameter, TenantId};
use crate::contract::{Key, KeyScope};

/// One lock a database: `kahn` and 2, in ASCII. It keeps an org from getting two tenants, and a tenant too many keys.
const LOCK: i64 = 0x6b61_686e_0002;

impl ValueEnum for KeyScope {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Ingest, Self::Read]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Ingest => "Append events",
            Self::Read => "Look",
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
}

/// What the key stands under in an env file.
fn variable(scope: KeyScope, name: &str) -> String {
    let name = name.to_ascii_uppercase().replace('-', "_");
    match scope {
        KeyScope::Ingest => format!("KAHN_KEY_{name}"),
        KeyScope::Read => format!("KAHN_READ_KEY_{name}"),
    }
}

/// What is wanted.
pub(super) struct Provision {
    /// The tenant's name.
    pub(super) name: String,
    /// Its org at the identity provider.
    pub(super) org: String,
    /// What the key may do.
    pub(super) scope: KeyScope,
    /// Where the key is kept too.
    pub(super) env_file: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Provisioned {
    tenant: String,
    org: String,
    /// Whether the tenant is new.
    made: bool,
    scope: &'static str,
    /// The new key, shown this once; null when a live one was there.
    key: Option<String>,
    /// The file that holds it too.
    kept_in: Option<PathBuf>,
}

impl Provisioned {
    /// What a person reads.
    pub(super) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { tenant, org, scope, .. } = self;
        if self.made {
            writeln!(out, "made tenant {tenant} for org {org} on plan beta")?;
        }
        let Some(key) = &self.key else {
            return writeln!(
                out,
                "tenant {tenant} has a live {scope} key already; it was shown when it was made and cannot be shown again"
            );
        };
        writeln!(out, "{scope} key of tenant {tenant}, shown this once:\n{key}")?;
        match &self.kept_in {
            Some(path) => writeln!(out, "kept in {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Why the tenant could not be provisioned.
#[derive(Debug, thiserror::Error)]
pub(super) enum TenantError {
    /// A name that cannot stand in a variable's name.
    #[error(
        "the tenant's name is {0:?}; use 1 to 63 lower-case letters, digits and dashes, beginning with a letter or digit"
    )]
    BadName(String),
    /// An org that no token can carry.
    #[error("--org is {0:?}; an org_id has 1 to 64 letters, digits, dashes and underscores")]
    BadOrg(String),
    /// The org has a tenant of another name.
    #[error("the org {org} belongs to the tenant {name}; use that name, or another org")]
    OrgTaken {
        /// The org.
        org: String,
        /// The tenant that has it.
        name: String,
    },
    /// The name has a tenant of another org.
    #[error("the tenant {name} belongs to the org {org}; use that org, or another name")]
    NameTaken {
        /// The tenant.
        name: String,
        /// The org that has it.
        org: String,
    },
    /// No such tenant.
    #[error("there is no tenant {0:?}; `kahn tenant list` shows all of them")]
    NoTenant(String),
    /// No such plan.
    #[error("there is no plan {plan:?}; the plans are {}", .plans.join(", "))]
    NoPlan {
        /// What was asked for.
        plan: String,
        /// What there is.
        plans: Vec<String>,
    },
    /// No such key.
    #[error("the tenant {name} has no key {key_id:?}; `kahn tenant list` shows the ids of all of them")]
    NoKey {
        /// The tenant.
        name: String,
        /// What was asked for.
        key_id: String,
    },
    /// A rotation is still going on.
    #[error(
        "the tenant {name} has two live {scope} keys already ({}), and two are the most; wait until the older one has \
         ended, or end one now with `kahn tenant revoke-key {name} KEY_ID`", .key_ids.join(", ")
    )]
    TwoKeys {
        /// The tenant.
        name: String,
        /// What the keys may do.
        scope: &'static str,
        /// The keys, the older one first.
        key_ids: Vec<String>,
    },
    /// Connection and schema.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The schema is not there yet.
    #[error("the database is not migrated ({0}); run `kahn migrate`")]
    NotMigrated(String),
    /// A statement failed.
    #[error("the database refused ({0})")]
    Database(String),
    /// No randomness.
    #[error("the system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The env file cannot be replaced; the key was made.
    #[error("the key was made and stands in {draft}, since {path} cannot be replaced ({reason}); move it there")]
    EnvDraft {
        /// The file.
        path: PathBuf,
        /// What holds the key.
        draft: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// The env file cannot be written; no key was made.
    #[error("{path} cannot be written ({reason}), so no key was made; name a writable file with --write-env")]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// Nobody reads what is printed.
    #[error("the output could not be written: {0}")]
    Output(#[from] std::io::Error),
}

impl TenantError {
    /// Whether it is a mistake of usage or configuration (exit code 2) rather than of the world (1).
    pub(super) fn is_configuration(&self) -> bool {
        match self {
            Self::BadName(_) | Self::BadOrg(_) => true,
            Self::Migrate(error) => error.is_configuration(),
            _ => false,
        }
    }

    /// What a key's rule refused to the tenant of this name.
    fn of_key(error: KeyError, name: &str) -> Self {
        let name = name.to_owned();
        match error {
            KeyError::Unknown => Self::NoKey { name, key_id: String::new() },
            KeyError::Dead(key_id) => Self::NoKey { name, key_id: key_id.to_string() },
            KeyError::TooMany(scope, key_ids) => {
                Self::TwoKeys { name, scope: scope.as_str(), key_ids: key_ids.iter().map(Uuid::to_string).collect() }
            }
            KeyError::Randomness(error) => error.into(),
            KeyError::Database(error) => error.into(),
        }
    }
}

/// No such role, table or function.
const UNMIGRATED: [&str; 4] = ["42704", "42P01", "42883", "22023"];

impl From<tokio_postgres::Error> for TenantError {
    fn from(error: tokio_postgres::Error) -> Self {
        let reason = root_cause(&error);
        match error.code() {
            Some(code) if UNMIGRATED.contains(&code.code()) => Self::NotMigrated(reason),
            _ => Self::Database(reason),
        }
    }
}

impl From<DatabaseError> for TenantError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Refused { code, message } if UNMIGRATED.contains(&&*code) => Self::NotMigrated(message),
            DatabaseError::Refused { message, .. } => Self::Database(message),
            other => Self::Database(other.to_string()),
        }
    }
}

/// Makes what is missing of tenant and key.
pub(super) async fn provision(database: &Database, wanted: &Provision) -> Result<Provisioned, TenantError> {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let name = wanted.name.as_bytes();
    if name.len() > 63
        || !name.first().is_some_and(|byte| lower(*byte))
        || !name.iter().all(|byte| lower(*byte) || *byte == b'-')
    {
        return Err(TenantError::BadName(wanted.name.clone()));
    }
    let org_fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=64).contains(&wanted.org.len()) || !wanted.org.bytes().all(org_fits) {
        return Err(TenantError::BadOrg(wanted.org.clone()));
    }
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let (tenant, made) = tenant(&transaction, wanted).await?;
    let own = Own { transaction: &transaction, tenant };
    if made {
        note(&own, (PROVISIONED_BY, Action::TenantProvisioned, &wanted.name)).await?;
    }
    let live = keys_of::live(&own, wanted.scope).await?;
    let mut provisioned = Provisioned {
        tenant: wanted.name.clone(),
        org: wanted.org.clone(),
        made,
        scope: wanted.scope.as_str(),
        key: None,
        kept_in: None,
    };
    if !live.is_empty() {
        transaction.commit().await?;
        return Ok(provisioned);
    }
    let first = Wanted { label: "first", scope: wanted.scope, by: PROVISIONED_BY };
    let key = keys_of::make(&own, &first).await.map_err(|error| TenantError::of_key(error, &wanted.name))?;
    // The file is written before the commit and takes its name after it: a key is never committed and lost.
    let kept = wanted
        .env_file
        .as_deref()
        .map(|path| EnvFile::prepare(path, &variable(wanted.scope, &wanted.name), &key.text))
        .transpose()?;
    transaction.commit().await?;
    // Before anything is printed: whoever reads that may have gone away, and the file is then the only place it is in.
    provisioned.kept_in = kept.map(EnvFile::take_place).transpose()?;
    provisioned.key = Some(key.text);
    Ok(provisioned)
}

const PROVISIONED_BY: Actor<'_> = Actor::Command("kahn tenant provision");

/// The tenant of this org, made if there is none, and whether it is new. Sets the transaction's tenant.
async fn tenant(transaction: &Transaction<'_>, wanted: &Provision) -> Result<(TenantId, bool), TenantError> {
    let row = transaction.query_typed_one("SELECT public.kahn_tenant_of_org($1)", &[(&wanted.org, Type::TEXT)]).await?;
    let known: Option<Uuid> = row.try_get(0)?;
    let tenant = known.unwrap_or_else(Uuid::new_v4);
    transaction
        .execute_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant.to_string(), Type::TEXT)])
        .await?;
    if known.is_some() {
        let row = transaction
            .query_typed_one("SELECT name FROM public.tenants WHERE tenant_id = $1", &[(&tenant, Type::UUID)])
            .await?;
        let name: String = row.try_get(0)?;
        if name != wanted.name {
            return Err(TenantError::OrgTaken { org: wanted.org.clone(), name });
        }
        return Ok((TenantId(tenant), false));
    }
    if let Some(org) = orgs_of(transaction, &wanted.name).await?.pop() {
        return Err(TenantError::NameTaken { name: wanted.name.clone(), org: org.1 });
    }
    let prefix = api_keys::make_prefix()?;
    transaction
        .execute_typed(
            "INSERT INTO public.tenants (tenant_id, name, org_id, plan, key_prefix) VALUES ($1, $2, $3, 'beta', $4)",
            &[(&tenant, Type::UUID), (&wanted.name, Type::TEXT), (&wanted.org, Type::TEXT), (&prefix, Type::TEXT)],
        )
        .await?;
    Ok((TenantId(tenant), true))
}

/// The owner's transaction, once it works for a tenant.
struct Own<'a> {
    transaction: &'a Transaction<'a>,
    tenant: TenantId,
}

#[async_trait]
impl OfTenant for Own<'_> {
    fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Ok(self.transaction.query_typed(sql, parameters).await?)
    }
}

/// A transaction of the tables' owner, whoever logged in (so the walls are the same for a superuser and for a managed
/// database's owner), one after the other.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, TenantError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL ROLE kahn_owner").await?;
    transaction.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    Ok(transaction)
}

/// The tenants of this name and their orgs, asked as the one role that looks over all walls: at just these columns.
async fn orgs_of(transaction: &Transaction<'_>, name: &str) -> Result<Vec<(Uuid, String)>, TenantError> {
    transaction.batch_execute("SET LOCAL ROLE kahn_lookup").await?;
    let rows = transaction
        .query_typed(
            "SELECT tenant_id, org_id FROM public.tenants WHERE name = $1 AND NOT reserved",
            &[(&name, Type::TEXT)],
        )
        .await?;
    transaction.batch_execute("SET LOCAL ROLE kahn_owner").await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The tenant of this name, which the transaction works for from here on.
async fn enter<'a>(transaction: &'a Transaction<'a>, name: &str) -> Result<Own<'a>, TenantError> {
    let [(tenant, _)] = orgs_of(transaction, name).await?[..] else {
        return Err(TenantError::NoTenant(name.to_owned()));
    };
    transaction
        .execute_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant.to_string(), Type::TEXT)])
        .await?;
    Ok(Own { transaction, tenant: TenantId(tenant) })
}
