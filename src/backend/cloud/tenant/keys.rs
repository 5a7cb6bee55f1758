//! `kahn tenant rotate-key` and `revoke-key`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{
    Actor, Database, EnvFile, KeyError, KeyScope, TenantError, Wanted, begin, enter, keys_of, migrate, variable,
};
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
    let own = enter(&transaction, &wanted.name).await?;
    let next = Wanted { label: "rotated", scope: wanted.scope, by: Actor::Command("kahn tenant rotate-key") };
    let (key, old) = keys_of::replace(&own, wanted.overlap, &next)
        .await
        .map_err(|error| TenantError::of_key(error, &wanted.name))?;
    // As with the first key: the file is written before the commit, and takes its name after it.
    let kept = wanted
        .env_file
        .as_deref()
        .map(|path| EnvFile::prepare(path, &variable(wanted.scope, &wanted.name), &key.text))
        .transpose()?;
    transaction.commit().await?;
    let kept_in = kept.map(EnvFile::take_place).transpose()?;
    Ok(Rotated {
        tenant: wanted.name.clone(),
        scope: wanted.scope.as_str(),
        key_id: key.shown.key_id,
        key: key.text,
        old: old.map(|old| Ending { key_id: old.key_id.to_string(), expires: old.expires }),
        kept_in,
    })
}

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
    let own = enter(&transaction, &wanted.name).await?;
    let revoked = keys_of::revoke(&own, key_id, Actor::Command("kahn tenant revoke-key"));
    let revoked = revoked.await.map_err(|error| match error {
        KeyError::Unknown => no_key(),
        other => TenantError::of_key(other, &wanted.name),
    })?;
    let done = Revoked {
        tenant: wanted.name.clone(),
        key_id: key_id.to_string(),
        revoked: revoked.at,
        was_live: revoked.is_new,
    };
    transaction.commit().await?;
    Ok(done)
}
