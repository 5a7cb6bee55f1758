//! Which tenant an org of the identity provider is, remembered for a few seconds.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{Refusal, Tenant};

/// How long an answer counts: who was just provisioned comes in after it, who was removed is out after it.
const TRUSTED: Duration = Duration::from_secs(2);

/// How many orgs are remembered at once, those of no tenant among them.
const REMEMBERED: usize = 4096;

/// The longest org that is looked up.
const LONGEST_ORG: usize = 64;

/// Orgs and their tenants. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tenants {
    door: Door,
    known: Arc<Cache<String, Known>>,
}

/// What an org was, as of a moment.
#[derive(Clone)]
struct Known {
    tenant: Option<Tenant>,
    /// Before the database was asked.
    asked: Instant,
}

impl Tenants {
    pub(super) fn new(door: Door) -> Self {
        Self { door, known: Arc::new(Cache::new(REMEMBERED)) }
    }

    /// The tenant of this org, which somebody has been verified to belong to.
    pub(super) async fn of_org(&self, org: &str) -> Result<Tenant, Refusal> {
        if !is_org(org) {
            return Err(Refusal::NoTenant);
        }
        let now = Instant::now();
        let is_stale = |known: &Known| now.saturating_duration_since(known.asked) >= TRUSTED;
        self.known.remove_if(org, is_stale);
        let known = self.known.get_or_insert_async(org, self.look_up(org)).await;
        let known = match known {
            // Whoever waited for another request's answer may have got one to a question of long ago.
            Ok(known) if is_stale(&known) => self.look_up(org).await,
            other => other,
        };
        let known = known.map_err(|error| {
            log::error!("an org could not be looked up: {error}");
            Refusal::Unavailable
        })?;
        known.tenant.ok_or(Refusal::NoTenant)
    }

    async fn look_up(&self, org: &str) -> Result<Known, DatabaseError> {
        let asked = Instant::now();
        let found = Query { sql: "SELECT kahn_tenant_of_org($1)", parameters: &[(&org, Type::TEXT)] };
        let rows = self.door.outside("org", found).await?;
        let id: Option<Uuid> = rows.first().map(|row| row.try_get(0)).transpose()?.flatten();
        let Some(id) = id else { return Ok(Known { tenant: None, asked }) };
        // Names are behind the wall.
        let named = Query { sql: "SELECT name FROM tenants WHERE tenant_id = $1", parameters: &[(&id, Type::UUID)] };
        let [rows] = self.door.read("tenant_name", TenantId(id), [named]).await?;
        let name: Option<&str> = rows.first().map(|row| row.try_get(0)).transpose()?;
        let tenant = name.map(|name| Tenant { id: id.to_string().into(), name: name.into() });
        Ok(Known { tenant, asked })
    }
}

/// What an org may look like (security.md, bearer tokens).
fn is_org(org: &str) -> bool {
    (1..=LONGEST_ORG).contains(&org.len())
        && org.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
