//! What is held now: answers that are finished, for as long as they are still the answer.
//!
//! An answer is made of what is stored, of the request and of now. It is held with the revision of what it was made of and with
//! the span of time over which it stays the same, and whoever asks names the revision and the moment of the question. So nothing
//! has to be thrown away in time: what does not fit any more is not found. Without a revision nothing is held.
//! What takes long is made by one request at a time; whoever asks the same meanwhile waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use sha2::Sha256;
use tokio::sync::OwnedMutexGuard;

use crate::contract::{CacheVitals, Principal};
use crate::domain::Timestamp;

/// Bytes that all held answers take together, at the most.
const CAPACITY: u64 = 32 * 1024 * 1024;
/// What an answer takes besides its bytes.
const OVERHEAD: usize = 512;
/// About how many answers there are: a guess that only sizes tables.
const ABOUT_SO_MANY: usize = 1024;

/// Finished answers. One for the server, shared by its workers.
pub struct Memory {
    held: Cache<Key, Held, ByBytes>,
    /// Answers that take long and are being made now.
    turns: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The right to make an answer, until it is dropped.
pub type Turn = OwnedMutexGuard<()>;

/// Which answer: of whom, to what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    tenant: Option<Arc<str>>,
    target: Box<str>,
}

impl Key {
    /// The answer to this target (path and query, as they were sent) for whoever sees what this principal sees.
    pub fn new(who: &Principal, target: &str) -> Self {
        Self { tenant: who.tenant.as_ref().map(|tenant| Arc::clone(&tenant.id)), target: target.into() }
    }
}

/// A span of time over which an answer is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Span {
    /// Now has no part in the answer.
    pub const ALWAYS: Self = Self { from: None, until: None };

    /// From `now` on, and before `until` where there is one.
    pub fn from(now: Timestamp, until: Option<Timestamp>) -> Self {
        Self { from: Some(now), until }
    }

    fn contains(self, now: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// A finished answer.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its body.
    pub body: Bytes,
    /// Its ETag, as it is sent.
    pub etag: Bytes,
    /// Its Link header.
    pub link: Option<String>,
    /// What of its body is of the very moment it was finished at; `None`: nothing, or the request named that moment.
    pub moment: Option<Moment>,
}

/// The end of a body that is another one at each moment.
#[derive(Debug, Clone)]
pub struct Moment {
    /// When it was finished.
    pub at: Timestamp,
    /// How many bytes before it are the same at every moment of the span.
    pub behind: usize,
    /// Those bytes, hashed: the ETag of another moment goes on from there.
    pub hashed: Sha256,
}

#[derive(Debug, Clone)]
struct Held {
    revision: u64,
    span: Span,
    answer: Arc<Finished>,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Held> for ByBytes {
    fn weight(&self, key: &Key, held: &Held) -> u64 {
        let answer = &held.answer;
        let link = answer.link.as_ref().map_or(0, String::len);
        (key.target.len() + answer.body.len() + link + OVERHEAD) as u64
    }
}

impl Memory {
    /// Nothing is held yet.
    pub fn new() -> Self {
        let by_default = || Cache::with_weighter(ABOUT_SO_MANY, CAPACITY, ByBytes);
        // One shard: a large answer may take a good part of the whole.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(ABOUT_SO_MANY)
            .weight_capacity(CAPACITY)
            .build()
            .map(|options| Cache::with_options(options, ByBytes, Default::default(), Default::default()));
        Self {
            held: options.unwrap_or_else(|_| by_default()),
            turns: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Waits until nobody else is making this answer: what takes long is made once for all who ask at the same time.
    pub async fn turn(&self, key: &Key) -> Turn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(key).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(key.clone(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }

    /// The answer of this revision at this moment, where it is held.
    pub fn find(&self, key: &Key, revision: u64, now: Timestamp) -> Option<(Span, Arc<Finished>)> {
        let held = self.held.get(key).filter(|held| held.revision == revision && held.span.contains(now));
        if held.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
        held.map(|held| (held.span, held.answer))
    }

    /// How much is held, and how often it was there.
    pub fn vitals(&self) -> CacheVitals {
        CacheVitals {
            entries: self.held.len() as u64,
            bytes: self.held.weight(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Holds an answer. `revision` was asked for before anything was read that the answer is made of.
    pub fn hold(&self, key: Key, revision: u64, span: Span, answer: &Arc<Finished>) {
        self.held.insert(key, Held { revision, span, answer: Arc::clone(answer) });
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
