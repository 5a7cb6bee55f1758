//! What a tenant may ask for: two token buckets, one for the events that it brings and one for all its other requests. Rate
//! and burst are its plan's.
//!
//! The buckets are this process's own, so the limits hold where one replica runs (railway.toml says so).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;

use super::bucket::{Bucket, Flow, seconds};
use super::scope::{DatabaseError, Door, Query, TenantId};
use super::store::tenant;
use crate::contract::{Budget, Cost, Principal, Refusal};

/// How long a plan is remembered: that long after `kahn tenant set-plan` the new one holds.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long a plan that is remembered goes on when the database cannot be asked, before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a request whose tenant's plan is remembered waits for a newer one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of how many tenants the buckets are held. Past that those go that were asked for least.
const MOST_TENANTS: usize = 16_384;

/// The buckets of all tenants.
pub(super) struct RateLimits {
    door: Door,
    purses: Cache<TenantId, Arc<Purse>>,
}

impl RateLimits {
    pub(super) fn new(door: Door) -> Self {
        Self { door, purses: Cache::new(MOST_TENANTS) }
    }

    /// Takes a cost from the principal's tenant; see [`crate::contract::Access::charge`].
    pub(super) async fn charge(&self, who: &Principal, cost: Cost) -> Result<Option<Budget>, Refusal> {
        let tenant = tenant(who).map_err(|_| Refusal::NoTenant)?;
        let purse = self.purse(tenant);
        let flow = self.flow(tenant, &purse).await?;
        purse.state().charge(flow, cost, Instant::now()).map(Some)
    }

    fn purse(&self, tenant: TenantId) -> Arc<Purse> {
        let Ok(purse) = self.purses.get_or_insert_with(&tenant, || Ok::<_, Infallible>(Arc::default()));
        purse
    }

    /// The plan's figures. Of many requests that find them too old one asks, and the others go on with them.
    async fn flow(&self, tenant: TenantId, purse: &Purse) -> Result<Flow, Refusal> {
        let Some(known) = purse.state().known else {
            let _asking = purse.asking.lock().await;
            // Whoever was before may have been told.
            if let Some(known) = purse.state().known {
                return Ok(known.flow);
            }
            let told = self.look_up(tenant).await.map_err(|error| {
                log::error!("a tenant's plan could not be looked up: {error}");
                Refusal::Unavailable
            })?;
            purse.state().known = Some(told);
            return Ok(told.flow);
        };
        if Instant::now() < known.until {
            return Ok(known.flow);
        }
        let Ok(_asking) = purse.asking.try_lock() else { return Ok(known.flow) };
        let told = match timeout(PATIENCE, self.look_up(tenant)).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => known.go_on(&error.to_string()),
            Err(_) => known.go_on("it gave no answer in time"),
        };
        purse.state().known = Some(told);
        Ok(told.flow)
    }

    async fn look_up(&self, tenant: TenantId) -> Result<Known, DatabaseError> {
        let until = Instant::now() + REMEMBERED;
        let plan = Query {
            sql: "SELECT p.rate_per_s, p.burst FROM tenants t JOIN plans p USING (plan) WHERE t.tenant_id = $1",
            parameters: &[(&tenant.0, Type::UUID)],
        };
        let [plans] = self.door.read("plan", tenant, [plan]).await?;
        let plan = plans.first().ok_or_else(|| DatabaseError::Unreadable("the tenant has no plan".to_owned()))?;
        // The table's checks keep both above 0.
        let count = |place| Ok::<_, DatabaseError>(u32::try_from(plan.try_get::<_, i32>(place)?).unwrap_or(1));
        Ok(Known { flow: Flow { rate_per_s: count(0)?, burst: count(1)? }, until })
    }
}

/// A tenant's buckets.
#[derive(Default)]
struct Purse {
    state: Mutex<PurseState>,
    /// Held by whoever asks the database for the plan.
    asking: tokio::sync::Mutex<()>,
}

impl Purse {
    fn state(&self) -> MutexGuard<'_, PurseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct PurseState {
    requests: Bucket,
    events: Bucket,
    known: Option<Known>,
}

/// A plan's figures.
#[derive(Clone, Copy)]
struct Known {
    flow: Flow,
    /// When they are asked for again.
    until: Instant,
}

impl Known {
    /// The same for a little longer.
    fn go_on(self, reason: &str) -> Self {
        log::warn!("the database did not tell a tenant's plan, so what was known of it goes on: {reason}");
        Self { until: Instant::now() + PAUSE, ..self }
    }
}

impl PurseState {
    fn charge(&mut self, flow: Flow, cost: Cost, now: Instant) -> Result<Budget, Refusal> {
        let (policy, bucket, count) = match cost {
            Cost::Request => ("requests", &mut self.requests, 1),
            Cost::Events(count) | Cost::AnnouncedEvents(count) => ("events", &mut self.events, count),
        };
        if count > u64::from(flow.burst) {
            return Err(Refusal::NeverFits { limit: flow.burst.into() });
        }
        let had = match cost {
            Cost::AnnouncedEvents(_) => bucket.look_for(flow, count, now),
            Cost::Request | Cost::Events(_) => bucket.take(flow, count, now),
        };
        let budget = Budget {
            policy,
            burst: flow.burst.into(),
            window_s: flow.window_s(),
            remaining: bucket.remaining(flow),
            reset_s: seconds(bucket.full_in(flow)),
        };
        had.map(|()| budget).map_err(|wait| {
            let retry_after_s = seconds(wait);
            Refusal::RateLimited { budget: Budget { reset_s: retry_after_s, ..budget }, retry_after_s }
        })
    }
}
