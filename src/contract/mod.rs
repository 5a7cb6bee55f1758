//! What a kitchen must give the stove, with the laws written beside it.

pub mod access;
pub mod account;
pub mod align;
pub mod description;
pub mod list;
pub mod store;

use std::sync::Arc;

pub use access::{
    Access, Budget, Cost, Principal, PrincipalKind, Redirection, Refusal, RequestFacts, Scope, SignStep, Tenant,
};
pub use account::{
    Account, AccountError, Activity, ActivityPosition, ActivityQuery, Billing, Key, KeyScope, MOST_KEYS,
    MOST_LIVE_KEYS, MadeKey, OVERLAP_HOURS, USAGE_DAYS, Usage, WantedKey,
};
pub use description::Description;
pub use list::{Filter, ListPage, ListPosition, ListQuery, Order, Selection, Sort, SortKey, leaves_window_at};
pub use store::{
    About, Appended, CacheVitals, CallVitals, Change, Changes, Connections, GraphFile, GraphPut, Lines, Loaded, Part,
    Problems, ReadLimit, Spawned, Store, StoreError, Summaries, Vitals, WrittenTo,
};

/// A backend whose checks have passed: what differs between the builds.
#[derive(Clone)]
pub struct Backend {
    /// Where the logs are.
    pub store: Arc<dyn Store>,
    /// Who may ask.
    pub access: Arc<dyn Access>,
    /// What tenants agreed on and used; `None` where there are no tenants.
    pub account: Option<Arc<dyn Account>>,
    /// Whether every write is refused.
    pub read_only: bool,
}
