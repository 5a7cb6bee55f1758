//! API keys at the door: who holds one, remembered for a second.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::access::refused;
use super::api_keys::{self, KeyHash, Presented};
use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{Principal, PrincipalKind, Refusal, Scope, Tenant};

/// How long a key that was found to be good is let in again unasked. With the pace at which sockets are asked again (every
/// 3 s), a revoked key is dead within 5 s everywhere.
const TRUSTED: Duration = Duration::from_secs(1);

/// How many keys are remembered at once.
const REMEMBERED: usize = 4096;

/// The keys of all tenants.
pub(super) struct Keys {
    door: Door,
    /// By the key's hash, never the key. Refusals are not remembered.
    known: Cache<KeyHash, Holder>,
}

/// Who holds a key, as of a moment.
#[derive(Clone)]
struct Holder {
    principal: Arc<Principal>,
    /// Before the database was asked.
    asked: Instant,
}

impl Keys {
    pub(super) fn new(door: Door) -> Self {
        Self { door, known: Cache::new(REMEMBERED) }
    }

    /// Asks the database once a [`TRUSTED`] span, for all requests that present the key in it.
    pub(super) async fn holder(&self, token: &str) -> Result<Arc<Principal>, Refusal> {
        let Some(presented) = api_keys::parse(token) else {
            return Err(refused("it is no key that kahn made (mistyped?)", token));
        };
        let now = Instant::now();
        let is_stale = |holder: &Holder| now.saturating_duration_since(holder.asked) >= TRUSTED;
        self.known.remove_if(&presented.hash, is_stale);
        let holder = self.known.get_or_insert_async(&presented.hash, self.look_up(&presented, token)).await?;
        // Whoever waited for another request's answer may have got one to a question of long ago.
        let holder = if is_stale(&holder) { self.look_up(&presented, token).await? } else { holder };
        Ok(holder.principal)
    }

    async fn look_up(&self, presented: &Presented<'_>, token: &str) -> Result<Holder, Refusal> {
        let asked = Instant::now();
        let found = self
            .door
            .outside(
                "key",
                Query {
                    sql: "SELECT tenant_id, tenant_name, key_id, scope, key_sha256, expired, revoked, use_is_stale \
                      FROM kahn_api_key_candidates($1)",
                    parameters: &[(&presented.prefix, Type::TEXT)],
                },
            )
            .await
            .and_then(|rows| rows.iter().map(Candidate::read).collect::<Result<Vec<_>, _>>());
        let candidates = found.map_err(|error| {
            log::error!("an API key could not be checked: {error}");
            Refusal::Unavailable
        })?;
        let hashes: Vec<&[u8]> = candidates.iter().map(|candidate| candidate.hash.as_slice()).collect();
        let Some(key) = api_keys::find(&presented.hash, &hashes).and_then(|place| candidates.get(place)) else {
            return Err(refused("nobody has it", token));
        };
        if key.revoked {
            return Err(refused("it was revoked", token));
        }
        if key.expired {
            return Err(refused("it has expired", token));
        }
        let scope = match key.scope.as_str() {
            "ingest" => Scope::Ingest,
            "read" => Scope::Read,
            _ => return Err(refused("its scope is not known", token)),
        };
        if key.use_is_stale {
            self.note_use(key.tenant, key.key_id);
        }
        let principal = Arc::new(Principal {
            kind: PrincipalKind::ApiKey,
            user: format!("key:{}", key.key_id),
            tenant: Some(Tenant { id: key.tenant.0.to_string().into(), name: Arc::clone(&key.tenant_name) }),
            scopes: vec![scope],
        });
        Ok(Holder { principal, asked })
    }

    /// Writes `last_used_at`, at most once a minute, behind the request's back. Never waits for a lock: it would hold a
    /// connection that requests want.
    fn note_use(&self, tenant: TenantId, key_id: Uuid) {
        let door = self.door.clone();
        tokio::spawn(async move {
            let noted: Result<u64, DatabaseError> = door
                .write("key_use", tenant, move |transaction| {
                    Box::pin(async move {
                        let sql = "UPDATE api_keys SET last_used_at = now() WHERE key_id = ( \
                                     SELECT key_id FROM api_keys WHERE key_id = $1 \
                                     AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute') \
                                     FOR UPDATE SKIP LOCKED)";
                        transaction.execute(sql, &[(&key_id, Type::UUID)]).await
                    })
                })
                .await;
            if let Err(error) = noted {
                log::warn!("last_used_at of key {key_id} was not written: {error}");
            }
        });
    }
}

/// A key of the prefix that was presented.
struct Candidate {
    tenant: TenantId,
    tenant_name: Arc<str>,
    key_id: Uuid,
    scope: String,
    hash: Vec<u8>,
    expired: bool,
    revoked: bool,
    use_is_stale: bool,
}

impl Candidate {
    fn read(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            tenant: TenantId(row.try_get(0)?),
            tenant_name: row.try_get::<_, &str>(1)?.into(),
            key_id: row.try_get(2)?,
            scope: row.try_get(3)?,
            hash: row.try_get(4)?,
            expired: row.try_get(5)?,
            revoked: row.try_get(6)?,
            use_is_stale: row.try_get(7)?,
        })
    }
}
