//! A tenant's account over HTTP, each behind its wall: plan and usage, keys, who did what.

pub(super) mod activity;
pub(super) mod keys;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::activity::Actor;
use self::keys::{KeyError, Wanted, read_key};
use super::retention::Job;
use super::scope::{DatabaseError, Door, OfTenant, Query, TenantId};
use super::store::tenant;
use super::{api_keys, billing};
use crate::contract::{
    Account, AccountError, Activity, ActivityQuery, Billing, Key, MOST_KEYS, MadeKey, OVERLAP_HOURS, Principal,
    StoreError, WantedKey,
};
use crate::domain::Timestamp;

/// Accounts of all tenants.
pub(super) struct PostgresAccount {
    door: Door,
    /// What plans promise by themselves; it stops with the account.
    _retention: Job,
}

impl PostgresAccount {
    pub(super) fn new(door: Door, retention: Job) -> Self {
        Self { door, _retention: retention }
    }
}

#[async_trait]
impl Account for PostgresAccount {
    async fn billing(&self, who: &Principal) -> Result<Billing, StoreError> {
        billing::billing(&self.door, tenant(who)?).await
    }

    async fn keys(&self, who: &Principal) -> Result<Vec<Key>, StoreError> {
        let tenant = tenant(who)?;
        let keys =
            Query { sql: keys::LISTED, parameters: &[(&tenant.0, Type::UUID), (&i64::from(MOST_KEYS), Type::INT8)] };
        let [rows] = self.door.read("keys", tenant, [keys]).await?;
        Ok(rows.iter().map(read_key).collect::<Result<_, _>>()?)
    }

    async fn make_key(&self, who: &Principal, wanted: WantedKey) -> Result<MadeKey, AccountError> {
        let (tenant, who) = (tenant(who)?, who.clone());
        let made = self.door.write("key_make", tenant, move |transaction| {
            let (who, wanted) = (who.clone(), wanted.clone());
            Box::pin(async move {
                let WantedKey { label, scope } = &wanted;
                keys::make(transaction, &Wanted { label, scope: *scope, by: Actor::Principal(&who) }).await
            })
        });
        Ok(made.await.map_err(KeyError::into_account_error)?.into())
    }

    async fn rotate_key(&self, who: &Principal, key_id: &str) -> Result<MadeKey, AccountError> {
        let (tenant, who, key_id) = (tenant(who)?, who.clone(), id(key_id)?);
        let made = self.door.write("key_rotate", tenant, move |transaction| {
            let who = who.clone();
            Box::pin(async move {
                let overlap = Duration::from_secs(u64::from(OVERLAP_HOURS) * 60 * 60);
                keys::rotate(transaction, (key_id, overlap), Actor::Principal(&who)).await
            })
        });
        Ok(made.await.map_err(KeyError::into_account_error)?.into())
    }

    async fn revoke_key(&self, who: &Principal, key_id: &str) -> Result<(), AccountError> {
        let (tenant, who, key_id) = (tenant(who)?, who.clone(), id(key_id)?);
        let revoked = self.door.write("key_revoke", tenant, move |transaction| {
            let who = who.clone();
            Box::pin(async move { keys::revoke(transaction, key_id, Actor::Principal(&who)).await })
        });
        revoked.await.map(drop).map_err(KeyError::into_account_error)
    }

    async fn activity(&self, who: &Principal, wanted: ActivityQuery) -> Result<Vec<Activity>, StoreError> {
        activity::read(&self.door, tenant(who)?, &wanted).await
    }
}

/// The id in an address. What is none is nobody's key.
fn id(key_id: &str) -> Result<Uuid, AccountError> {
    let id = Uuid::try_parse(key_id).ok();
    // An id has one form: others that the library reads would be further addresses of the same key.
    id.filter(|id| id.to_string() == key_id).ok_or(AccountError::UnknownKey)
}

/// A moment of the database.
pub(super) fn moment(row: &Row, place: usize) -> Result<Option<Timestamp>, DatabaseError> {
    let moment: Option<SystemTime> = row.try_get(place)?;
    let millis = moment.map(|moment| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
    Ok(millis.map(|millis| Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))))
}
