//! What `kahn tenant` does, over the owner's DSN. Here: making a tenant with its plan and first key (doing it again changes
//! nothing), and what all of these commands share.

mod env_file;
mod keys;
mod list;
mod plan;

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use self::env_file::EnvFile;
pub(super) use self::keys::{Revoke, Rotate, revoke, rotate};
pub(super) use self::list::list;
pub(super) use self::plan::{Retention, SetPlan, set_plan};
use super::api_keys::{self, NewKey};
use super::migrate::{self, MigrateError};
use super::pool::{Database, root_cause};
use crate::domain::Timestamp;

/// One lock a database: `kahn` and 2, in ASCII. It keeps an org from getting two tenants, and a tenant too many keys.
const LOCK: i64 = 0x6b61_686e_0002;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KeyScope {
    /// Append events
    Ingest,
    /// Look
    Read,
}

impl KeyScope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
        }
    }

    fn variable(self, name: &str) -> String {
        let name = name.to_ascii_uppercase().replace('-', "_");
        match self {
            Self::Ingest => format!("KAHN_KEY_{name}"),
            Self::Read => format!("KAHN_READ_KEY_{name}"),
        }
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
}

impl From<tokio_postgres::Error> for TenantError {
    fn from(error: tokio_postgres::Error) -> Self {
        let reason = root_cause(&error);
        // No such role, table or function.
        let unmigrated = ["42704", "42P01", "42883", "22023"];
        match error.code() {
            Some(code) if unmigrated.contains(&code.code()) => Self::NotMigrated(reason),
            _ => Self::Database(reason),
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
    let (tenant, prefix, made) = tenant(&transaction, wanted).await?;
    let live = transaction
        .query_typed(
            "SELECT 1 FROM public.api_keys WHERE tenant_id = $1 AND scope = $2 AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > now()) LIMIT 1",
            &[(&tenant, Type::UUID), (&wanted.scope.as_str(), Type::TEXT)],
        )
        .await?;
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
    let key = api_keys::make(&prefix)?;
    let by = Made { tenant, prefix: &prefix, scope: wanted.scope, label: "first", actor: "kahn tenant provision" };
    by.keep(&transaction, &key).await?;
    // The file is written before the commit and takes its name after it: a key is never committed and lost.
    let kept = wanted
        .env_file
        .as_deref()
        .map(|path| EnvFile::prepare(path, &wanted.scope.variable(&wanted.name), &key.text))
        .transpose()?;
    transaction.commit().await?;
    // Before anything is printed: whoever reads that may have gone away, and the file is then the only place it is in.
    provisioned.kept_in = kept.map(EnvFile::take_place).transpose()?;
    provisioned.key = Some(key.text);
    Ok(provisioned)
}

/// The tenant of this org, made if there is none; its id, the prefix of its keys, and whether it is new. Sets the
/// transaction's tenant.
async fn tenant(transaction: &Transaction<'_>, wanted: &Provision) -> Result<(Uuid, String, bool), TenantError> {
    let row = transaction.query_typed_one("SELECT public.kahn_tenant_of_org($1)", &[(&wanted.org, Type::TEXT)]).await?;
    let known: Option<Uuid> = row.try_get(0)?;
    let tenant = known.unwrap_or_else(Uuid::new_v4);
    transaction
        .execute_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant.to_string(), Type::TEXT)])
        .await?;
    if known.is_some() {
        let row = transaction
            .query_typed_one(
                "SELECT name, key_prefix FROM public.tenants WHERE tenant_id = $1",
                &[(&tenant, Type::UUID)],
            )
            .await?;
        let (name, prefix): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if name != wanted.name {
            return Err(TenantError::OrgTaken { org: wanted.org.clone(), name });
        }
        return Ok((tenant, prefix, false));
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
    Ok((tenant, prefix, true))
}

/// A new key, but for its secret.
struct Made<'a> {
    tenant: Uuid,
    prefix: &'a str,
    scope: KeyScope,
    label: &'a str,
    actor: &'a str,
}

impl Made<'_> {
    /// Keeps the key's hash; the key's id.
    async fn keep(&self, transaction: &Transaction<'_>, key: &NewKey) -> Result<Uuid, TenantError> {
        let key_id = Uuid::new_v4();
        let hash = key.hash.as_slice();
        transaction
            .execute_typed(
                "INSERT INTO public.api_keys (tenant_id, key_id, prefix, label, scope, key_sha256) VALUES ($1, $2, $3, $4, $5, $6)",
                &[
                    (&self.tenant, Type::UUID),
                    (&key_id, Type::UUID),
                    (&self.prefix, Type::TEXT),
                    (&self.label, Type::TEXT),
                    (&self.scope.as_str(), Type::TEXT),
                    (&hash, Type::BYTEA),
                ],
            )
            .await?;
        note(transaction, self.tenant, (self.actor, "key_made", &key_id.to_string())).await?;
        Ok(key_id)
    }
}

/// Notes who did what with whom.
async fn note(
    transaction: &Transaction<'_>,
    tenant: Uuid,
    (actor, action, target): (&str, &str, &str),
) -> Result<(), TenantError> {
    transaction
        .execute_typed(
            "INSERT INTO public.activity (tenant_id, activity_id, actor, action, target) VALUES ($1, $2, $3, $4, $5)",
            &[
                (&tenant, Type::UUID),
                (&Uuid::new_v4(), Type::UUID),
                (&actor, Type::TEXT),
                (&action, Type::TEXT),
                (&target, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
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
async fn enter(transaction: &Transaction<'_>, name: &str) -> Result<Uuid, TenantError> {
    let [(tenant, _)] = orgs_of(transaction, name).await?[..] else {
        return Err(TenantError::NoTenant(name.to_owned()));
    };
    transaction
        .execute_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant.to_string(), Type::TEXT)])
        .await?;
    Ok(tenant)
}

/// A moment of the database.
fn moment(row: &Row, place: usize) -> Result<Option<Timestamp>, TenantError> {
    let moment: Option<SystemTime> = row.try_get(place)?;
    let millis = moment.map(|moment| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
    Ok(millis.map(|millis| Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))))
}
