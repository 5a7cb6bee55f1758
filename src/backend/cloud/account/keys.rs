//! The rules of keys, for HTTP and for `kahn tenant` alike: how many there may be, how one follows another, how one ends.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::activity::{Action, Actor, note};
use super::{DatabaseError, OfTenant, api_keys, moment};
use crate::contract::{AccountError, Key, KeyScope, MOST_LIVE_KEYS, MadeKey, StoreError};
use crate::domain::Timestamp;

/// Locks of two numbers: `kahn`, in ASCII, and a tenant's hash. It keeps a tenant from getting too many keys, and holds up no
/// other one but by chance.
const LOCKS: i32 = 0x6b61_686e;

/// A tenant's keys, those that are alive first, then the newest first.
pub(super) const LISTED: &str = "SELECT key_id, label, scope, prefix, created_at, expires_at, revoked_at, last_used_at FROM api_keys \
     WHERE tenant_id = $1 \
     ORDER BY revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) DESC, created_at DESC, key_id LIMIT $2";

/// A key that is wanted.
pub(crate) struct Wanted<'a> {
    /// What people call it.
    pub(crate) label: &'a str,
    /// What it may do.
    pub(crate) scope: KeyScope,
    /// Who wants it.
    pub(crate) by: Actor<'a>,
}

/// A key that was made; its text is nowhere else.
pub(crate) struct Made {
    /// The whole key.
    pub(crate) text: String,
    /// What may be shown of it.
    pub(crate) shown: Key,
}

impl From<Made> for MadeKey {
    fn from(made: Made) -> Self {
        Self { shown: made.shown, key: made.text }
    }
}

/// Why nothing was done to a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The tenant has no such key.
    #[error("there is no such key")]
    Unknown,
    /// It has ended.
    #[error("key {0} has ended")]
    Dead(Uuid),
    /// As many are alive as may be.
    #[error("there are {MOST_LIVE_KEYS} live {} keys already", .0.as_str())]
    TooMany(KeyScope, Vec<Uuid>),
    /// The system gave no randomness.
    #[error("the system gave no randomness ({0})")]
    Randomness(#[from] getrandom::Error),
    /// The database did not do it.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl KeyError {
    pub(super) fn into_account_error(self) -> AccountError {
        match self {
            Self::Unknown => AccountError::UnknownKey,
            Self::Dead(key_id) => AccountError::DeadKey { key_id: key_id.to_string() },
            Self::TooMany(scope, key_ids) => {
                AccountError::TooManyKeys { scope, key_ids: key_ids.iter().map(Uuid::to_string).collect() }
            }
            Self::Randomness(_) => StoreError::Failed(self.into()).into(),
            Self::Database(error) => StoreError::from(error).into(),
        }
    }
}

/// From here on nobody else changes this tenant's keys, until the transaction ends. A statement of its own: those that follow
/// see what others did before.
async fn lock(transaction: &impl OfTenant) -> Result<(), DatabaseError> {
    let tenant = transaction.tenant().0.to_string();
    let sql = "SELECT pg_advisory_xact_lock($1, hashtext($2))";
    transaction.rows(sql, &[(&LOCKS, Type::INT4), (&tenant, Type::TEXT)]).await.map(drop)
}

/// The keys of this scope that are alive, the older one first; the rule looks at these, so nobody else changes them from here on.
pub(crate) async fn live(transaction: &impl OfTenant, scope: KeyScope) -> Result<Vec<Uuid>, DatabaseError> {
    lock(transaction).await?;
    let sql = "SELECT key_id FROM public.api_keys WHERE tenant_id = $1 AND scope = $2 AND revoked_at IS NULL \
               AND (expires_at IS NULL OR expires_at > now()) ORDER BY created_at, key_id";
    let of_scope = [(&transaction.tenant().0 as _, Type::UUID), (&scope.as_str() as _, Type::TEXT)];
    transaction.rows(sql, &of_scope).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The rule: so many keys of a scope at the most, and with as many none is added and none is put in another's place.
async fn room(transaction: &impl OfTenant, scope: KeyScope) -> Result<Vec<Uuid>, KeyError> {
    let live = live(transaction, scope).await?;
    if live.len() < MOST_LIVE_KEYS { Ok(live) } else { Err(KeyError::TooMany(scope, live)) }
}

/// Makes a key.
pub(crate) async fn make(transaction: &impl OfTenant, wanted: &Wanted<'_>) -> Result<Made, KeyError> {
    room(transaction, wanted.scope).await?;
    keep(transaction, wanted).await
}

/// Makes a key with label and scope of this one, which gets an end.
pub(super) async fn rotate(
    transaction: &impl OfTenant,
    (key_id, overlap): (Uuid, Duration),
    by: Actor<'_>,
) -> Result<Made, KeyError> {
    let sql = "SELECT label, scope FROM public.api_keys WHERE tenant_id = $1 AND key_id = $2";
    let of_key = [(&transaction.tenant().0 as _, Type::UUID), (&key_id as _, Type::UUID)];
    let rows = transaction.rows(sql, &of_key).await?;
    let row = rows.first().ok_or(KeyError::Unknown)?;
    let (label, scope): (String, String) =
        (row.try_get(0).map_err(DatabaseError::from)?, row.try_get(1).map_err(DatabaseError::from)?);
    let scope = [KeyScope::Ingest, KeyScope::Read].into_iter().find(|own| own.as_str() == scope);
    let scope = scope.ok_or_else(|| DatabaseError::Unreadable(format!("the scope of key {key_id} is not known")))?;
    let wanted = Wanted { label: &label, scope, by };
    let live = live(transaction, scope).await?;
    if !live.contains(&key_id) {
        return Err(KeyError::Dead(key_id));
    }
    if live.len() >= MOST_LIVE_KEYS {
        return Err(KeyError::TooMany(scope, live));
    }
    follow(transaction, (key_id, overlap), &wanted).await.map(|(made, _)| made)
}

/// A key that has an end.
pub(crate) struct Ending {
    pub(crate) key_id: Uuid,
    pub(crate) expires: Option<Timestamp>,
}

/// Makes a key in the place of the one that is alive, where there is one; that gets an end.
pub(crate) async fn replace(
    transaction: &impl OfTenant,
    overlap: Duration,
    wanted: &Wanted<'_>,
) -> Result<(Made, Option<Ending>), KeyError> {
    match room(transaction, wanted.scope).await?.first() {
        None => Ok((keep(transaction, wanted).await?, None)),
        Some(old) => follow(transaction, (*old, overlap), wanted).await.map(|(made, end)| (made, Some(end))),
    }
}

/// Gives a live key an end, unless it has an earlier one, and keeps the one that follows it.
async fn follow(
    transaction: &impl OfTenant,
    (key_id, overlap): (Uuid, Duration),
    wanted: &Wanted<'_>,
) -> Result<(Made, Ending), KeyError> {
    let sql = "UPDATE public.api_keys SET expires_at = least(expires_at, now() + make_interval(secs => $3)) \
               WHERE tenant_id = $1 AND key_id = $2 RETURNING expires_at";
    let end = [
        (&transaction.tenant().0 as _, Type::UUID),
        (&key_id as _, Type::UUID),
        (&overlap.as_secs_f64() as _, Type::FLOAT8),
    ];
    let rows = transaction.rows(sql, &end).await?;
    let row = rows.first().ok_or(KeyError::Unknown)?;
    note(transaction, (wanted.by, Action::KeyGivenAnEnd, &key_id.to_string())).await?;
    Ok((keep(transaction, wanted).await?, Ending { key_id, expires: moment(row, 0)? }))
}

/// Makes a key and keeps its hash.
async fn keep(transaction: &impl OfTenant, wanted: &Wanted<'_>) -> Result<Made, KeyError> {
    let tenant = transaction.tenant().0;
    let sql = "SELECT key_prefix FROM public.tenants WHERE tenant_id = $1";
    let rows = transaction.rows(sql, &[(&tenant, Type::UUID)]).await?;
    let row = rows.first().ok_or_else(|| DatabaseError::Unreadable(format!("tenant {tenant} has no row")))?;
    let prefix: String = row.try_get(0).map_err(DatabaseError::from)?;
    let (key_id, key) = (Uuid::new_v4(), api_keys::make(&prefix)?);
    let sql = "INSERT INTO public.api_keys (tenant_id, key_id, prefix, label, scope, key_sha256) VALUES ($1, $2, $3, $4, $5, $6) \
               RETURNING key_id, label, scope, prefix, created_at, expires_at, revoked_at, last_used_at";
    let hash = key.hash.as_slice();
    let row = [
        (&tenant as _, Type::UUID),
        (&key_id as _, Type::UUID),
        (&prefix as _, Type::TEXT),
        (&wanted.label as _, Type::TEXT),
        (&wanted.scope.as_str() as _, Type::TEXT),
        (&hash as _, Type::BYTEA),
    ];
    let rows = transaction.rows(sql, &row).await?;
    let kept = rows.first().ok_or_else(|| DatabaseError::Unreadable("the new key was not kept".to_owned()))?;
    note(transaction, (wanted.by, Action::KeyMade, &key_id.to_string())).await?;
    Ok(Made { text: key.text, shown: read_key(kept)? })
}

/// When a key was revoked, and whether that is now.
pub(crate) struct Revocation {
    pub(crate) at: Option<Timestamp>,
    pub(crate) is_new: bool,
}

/// Ends a key now. One that was revoked before stays as it is, and nothing is noted.
pub(crate) async fn revoke(transaction: &impl OfTenant, key_id: Uuid, by: Actor<'_>) -> Result<Revocation, KeyError> {
    lock(transaction).await?;
    let of_key = [(&transaction.tenant().0 as _, Type::UUID), (&key_id as _, Type::UUID)];
    let sql = "UPDATE public.api_keys SET revoked_at = now() WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL \
               RETURNING revoked_at";
    if let Some(row) = transaction.rows(sql, &of_key).await?.first() {
        note(transaction, (by, Action::KeyRevoked, &key_id.to_string())).await?;
        return Ok(Revocation { at: moment(row, 0)?, is_new: true });
    }
    let sql = "SELECT revoked_at FROM public.api_keys WHERE tenant_id = $1 AND key_id = $2";
    let rows = transaction.rows(sql, &of_key).await?;
    let row = rows.first().ok_or(KeyError::Unknown)?;
    Ok(Revocation { at: moment(row, 0)?, is_new: false })
}

/// A row of key_id, label, scope, prefix, created_at, expires_at, revoked_at, last_used_at.
pub(crate) fn read_key(row: &Row) -> Result<Key, DatabaseError> {
    Ok(Key {
        key_id: row.try_get::<_, Uuid>(0)?.to_string(),
        label: row.try_get(1)?,
        scope: row.try_get(2)?,
        prefix: row.try_get(3)?,
        created: moment(row, 4)?,
        expires: moment(row, 5)?,
        revoked: moment(row, 6)?,
        last_used: moment(row, 7)?,
    })
}
