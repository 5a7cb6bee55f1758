//! What a tenant has agreed on and used. Only a backend with tenants has it.

use async_trait::async_trait;
use serde::Serialize;

use super::{Principal, StoreError};

/// The account of a principal's tenant, and of nobody else's.
#[async_trait]
pub trait Account: Send + Sync {
    /// The plan, what it gives, and what was used of it.
    async fn billing(&self, who: &Principal) -> Result<Billing, StoreError>;
}

/// A plan and its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Billing {
    /// The plan's name.
    pub plan: String,
    /// Days that runs are kept after their last batch: the plan's, or the tenant's own.
    pub retention_days: u32,
    /// What the token bucket gains a second.
    pub rate_per_s: u32,
    /// What it holds.
    pub burst: u32,
    /// The last [`USAGE_DAYS`] days, oldest first; a day without use is left out.
    pub usage: Vec<Usage>,
}

/// How many days of use an answer goes back, today among them.
pub const USAGE_DAYS: u32 = 90;

/// What was stored on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The UTC day, as 2026-04-24.
    pub day: String,
    /// Lines; what was sent again counts once.
    pub events: u64,
    /// Their bytes, newlines among them.
    pub bytes: u64,
}
