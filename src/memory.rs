//! What is held of answers: those made of all runs, until the runs change or the window moves on.
//!
//! One of them is computed by one request at a time; whoever asks the same meanwhile waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::contract::Principal;
use crate::domain::Timestamp;

/// More questions than this are not told apart in memory: then all are forgotten.
const MOST_SLOTS: usize = 1000;

/// The answers that are held.
#[derive(Debug, Default)]
pub struct HeldAnswers {
    slots: Mutex<HashMap<String, Slot>>,
}

/// The place of one answer. Whoever computes it keeps it locked.
pub type Slot = Arc<tokio::sync::Mutex<Option<HeldAnswer>>>;

/// A finished answer, and for how long it holds.
#[derive(Debug, Clone)]
pub struct HeldAnswer {
    /// The revision of the store before its runs were read.
    pub revision: u64,
    /// The beginning of its window.
    pub from: Option<Timestamp>,
    /// The first moment at which a run of it leaves the window: windows that begin later hold other runs.
    pub until: Option<Timestamp>,
    /// The body.
    pub body: Bytes,
    /// The hash of the body, in hex.
    pub sha256: String,
}

impl HeldAnswer {
    /// Whether it answers the same question about this revision, with a window that begins at `from`.
    pub fn holds(&self, revision: u64, from: Option<Timestamp>) -> bool {
        let is_same_window = match (self.from, from) {
            (None, None) => true,
            (Some(own), Some(from)) => own <= from && self.until.is_none_or(|until| from <= until),
            _ => false,
        };
        self.revision >= revision && is_same_window
    }
}

impl HeldAnswers {
    /// The slot of a question of this principal's tenant.
    pub fn slot(&self, who: &Principal, question: &str) -> Slot {
        let tenant = who.tenant.as_ref().map_or("", |tenant| &*tenant.id);
        let key = format!("{tenant} {question}");
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST_SLOTS && !slots.contains_key(&key) {
            slots.clear();
        }
        Arc::clone(slots.entry(key).or_default())
    }
}
