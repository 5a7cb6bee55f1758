//! What a tenant has agreed on and used, its keys, and who did what with them. Only a backend with tenants has it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Principal, StoreError};
use crate::domain::Timestamp;

/// The account of a principal's tenant, and of nobody else's.
#[async_trait]
pub trait Account: Send + Sync {
    /// The plan, what it gives, and what was used of it.
    async fn billing(&self, who: &Principal) -> Result<Billing, StoreError>;

    /// The tenant's keys, those that are alive first, then the newest first; at most [`MOST_KEYS`].
    async fn keys(&self, who: &Principal) -> Result<Vec<Key>, StoreError>;

    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`AccountError::TooManyKeys`]; nothing is made then.
    async fn make_key(&self, who: &Principal, wanted: WantedKey) -> Result<MadeKey, AccountError>;

    /// Makes a key in the place of this one, which goes on for [`OVERLAP_HOURS`] at the most.
    ///
    /// # Errors
    ///
    /// [`AccountError::UnknownKey`], [`AccountError::DeadKey`], [`AccountError::TooManyKeys`]; nothing is made then.
    async fn rotate_key(&self, who: &Principal, key_id: &str) -> Result<MadeKey, AccountError>;

    /// Ends a key now. One that was revoked before stays as it is.
    ///
    /// # Errors
    ///
    /// [`AccountError::UnknownKey`].
    async fn revoke_key(&self, who: &Principal, key_id: &str) -> Result<(), AccountError>;

    /// Who did what, newest first: what comes behind a place. What is noted is never changed, so pages that are read one
    /// after the other miss nothing of what was there at the first, and hold nothing twice.
    async fn activity(&self, who: &Principal, wanted: ActivityQuery) -> Result<Vec<Activity>, StoreError>;
}

/// How many keys an answer lists.
pub const MOST_KEYS: u32 = 500;

/// How many keys of one scope a tenant may have at once: the one in use, and the one that follows it.
pub const MOST_LIVE_KEYS: usize = 2;

/// How long a key goes on once another one was made in its place.
pub const OVERLAP_HOURS: u32 = 24;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyScope {
    /// Append events.
    Ingest,
    /// Look.
    Read,
}

impl KeyScope {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
        }
    }
}

/// A key, as far as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its id.
    pub key_id: String,
    /// What people call it.
    pub label: String,
    /// What it may do.
    pub scope: String,
    /// What stands in the keys of its tenant.
    pub prefix: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it ends, or ended.
    pub expires: Option<Timestamp>,
    /// When it was ended.
    pub revoked: Option<Timestamp>,
    /// When it was used last, to a minute.
    pub last_used: Option<Timestamp>,
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedKey {
    /// What people call it.
    pub label: String,
    /// What it may do.
    pub scope: KeyScope,
}

/// A new key.
#[derive(Clone, Serialize)]
pub struct MadeKey {
    /// What may be shown at any time.
    #[serde(flatten)]
    pub shown: Key,
    /// The key itself, shown this once.
    pub key: String,
}

/// A part of the activity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityQuery {
    /// What comes behind this place; from the newest where there is none.
    pub behind: Option<ActivityPosition>,
    /// The most that is wanted.
    pub limit: u32,
}

/// A place in the activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivityPosition {
    /// Microseconds since 1970: two entries may have the same millisecond.
    pub at_us: u64,
    /// The entry's own id, which orders those of one microsecond.
    pub id: String,
}

/// Who did what with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// When.
    pub at: Timestamp,
    /// Who: `user:`, `client:` or `key:` and its id, or the command. A provider's text: shown as it is, never as markup.
    pub actor: String,
    /// What.
    pub action: String,
    /// With what: a key's id, a plan, a run.
    pub target: String,
    /// Its place.
    #[serde(skip)]
    pub position: ActivityPosition,
}

/// Why nothing was done to an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No such key here, or nobody's business.
    #[error("there is no such key; GET /api/keys lists all of them")]
    UnknownKey,
    /// It has ended already.
    #[error("key {key_id} has ended, so none can take its place; make a new one with POST /api/keys")]
    DeadKey {
        /// The key.
        key_id: String,
    },
    /// As many as there may be.
    #[error(
        "there are {MOST_LIVE_KEYS} live {} keys already, which is the most; wait until one has ended, or end one now with \
         DELETE /api/keys/KEY_ID", .scope.as_str()
    )]
    TooManyKeys {
        /// What they may do.
        scope: KeyScope,
        /// The keys, the older one first.
        key_ids: Vec<String>,
    },
    /// The storage.
    #[error(transparent)]
    Store(#[from] StoreError),
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
