//! `kahn tenant rotate-key` and `revoke-key`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Database, EnvFile, KeyScope, Made, TenantError, api_keys, begin, enter, migrate, moment, note};
use crate::domain::Timestamp;

/// A key in the place of another.
pub(crate) struct Rotate {
    /// The tenant's name.
    pub(crate) name: String,
    /// What the keys may do.
    pub(crate) scope: KeyScope,
    /// How long the old one goes on.
    pub(crate) overlap: Duration,
    /// Where the new key is kept too.
    pub(crate) env_file: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Rotated {
    tenant: String,
    scope: &'static str,
    key_id: String,
    /// The new key, shown this once.
    key: String,
    /// The key before it, where there was a live one.
    old: Option<Ending>,
    /// The file that holds the new one too.
    kept_in: Option<PathBuf>,
}

/// A key that has an end.
#[derive(Debug, Serialize)]
struct Ending {
    key_id: String,
    expires: Option<Timestamp>,
}

impl Rotated {
    /// What a person reads.
    pub(crate) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { tenant, scope, key_id, key, .. } = self;
        writeln!(out, "new {scope} key {key_id} of tenant {tenant}, shown this once:\n{key}")?;
        if let Some(path) = &self.kept_in {
            writeln!(out, "kept in {}", path.display())?;
        }
        match &self.old {
            Some(Ending { key_id, expires: Some(end) }) => writeln!(out, "the old key {key_id} ends at {end}"),
            _ => writeln!(out, "there was no live {scope} key before it"),
        }
    }
}

/// Makes a key and gives the one before it an end.
pub(crate) async fn rotate(database: &Database, wanted: &Rotate) -> Result<Rotated, TenantError> {
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let tenant = enter(&transaction, &wanted.name).await?;
    let scope = wanted.scope.as_str();
    let live = transaction
        .query_typed(
            "SELECT key_id FROM public.api_keys WHERE tenant_id = $1 AND scope = $2 AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > now()) ORDER BY created_at, key_id",
            &[(&tenant, Type::UUID), (&scope, Type::TEXT)],
        )
        .await?;
    let live: Vec<Uuid> = live.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if live.len() > 1 {
        let key_ids = live.iter().map(Uuid::to_string).collect();
        return Err(TenantError::TwoKeys { name: wanted.name.clone(), scope, key_ids });
    }
    let old = match live.first() {
        Some(key_id) => {
            let row = transaction
                .query_typed_one(
                    "UPDATE public.api_keys SET expires_at = least(expires_at, now() + make_interval(secs => $3)) \
                     WHERE tenant_id = $1 AND key_id = $2 RETURNING expires_at",
                    &[(&tenant, Type::UUID), (key_id, Type::UUID), (&wanted.overlap.as_secs_f64(), Type::FLOAT8)],
                )
                .await?;
            note(&transaction, tenant, (ROTATED_BY, "key_given_an_end", &key_id.to_string())).await?;
            Some(Ending { key_id: key_id.to_string(), expires: moment(&row, 0)? })
        }
        None => None,
    };
    let row = transaction
        .query_typed_one("SELECT key_prefix FROM public.tenants WHERE tenant_id = $1", &[(&tenant, Type::UUID)])
        .await?;
    let prefix: String = row.try_get(0)?;
    let key = api_keys::make(&prefix)?;
    let by = Made { tenant, prefix: &prefix, scope: wanted.scope, label: "rotated", actor: ROTATED_BY };
    let key_id = by.keep(&transaction, &key).await?.to_string();
    // As with the first key: the file is written before the commit, and takes its name after it.
    let kept = wanted
        .env_file
        .as_deref()
        .map(|path| EnvFile::prepare(path, &wanted.scope.variable(&wanted.name), &key.text))
        .transpose()?;
    transaction.commit().await?;
    let kept_in = kept.map(EnvFile::take_place).transpose()?;
    Ok(Rotated { tenant: wanted.name.clone(), scope, key_id, key: key.text, old, kept_in })
}

const ROTATED_BY: &str = "kahn tenant rotate-key";

/// A key that ends now.
pub(crate) struct Revoke {
    /// The tenant's name.
    pub(crate) name: String,
    /// The key's id.
    pub(crate) key_id: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Revoked {
    tenant: String,
    key_id: String,
    /// When it was revoked: now, or once before.
    revoked: Option<Timestamp>,
    /// Whether it was alive until now.
    was_live: bool,
}

impl Revoked {
    /// What a person reads.
    pub(crate) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { tenant, key_id, revoked, was_live } = self;
        let when = revoked.map(|at| format!(" at {at}")).unwrap_or_default();
        if *was_live {
            writeln!(out, "revoked key {key_id} of tenant {tenant}; it is dead on every server within 5 s")
        } else {
            writeln!(out, "key {key_id} of tenant {tenant} was revoked already{when}")
        }
    }
}

/// Ends a key now; one that was revoked before stays as it is.
pub(crate) async fn revoke(database: &Database, wanted: &Revoke) -> Result<Revoked, TenantError> {
    let no_key = || TenantError::NoKey { name: wanted.name.clone(), key_id: wanted.key_id.clone() };
    let key_id = Uuid::try_parse(&wanted.key_id).map_err(|_| no_key())?;
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let tenant = enter(&transaction, &wanted.name).await?;
    let key = [(&tenant as _, Type::UUID), (&key_id as _, Type::UUID)];
    let revoked = transaction
        .execute_typed(
            "UPDATE public.api_keys SET revoked_at = now() WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL",
            &key,
        )
        .await?;
    if revoked > 0 {
        note(&transaction, tenant, ("kahn tenant revoke-key", "key_revoked", &key_id.to_string())).await?;
    }
    let rows = transaction
        .query_typed("SELECT revoked_at FROM public.api_keys WHERE tenant_id = $1 AND key_id = $2", &key)
        .await?;
    let row = rows.first().ok_or_else(no_key)?;
    let done = Revoked {
        tenant: wanted.name.clone(),
        key_id: key_id.to_string(),
        revoked: moment(row, 0)?,
        was_live: revoked > 0,
    };
    transaction.commit().await?;
    Ok(done)
}
