//! Bad credentials, counted by address: whoever guesses is soon told to wait, before anything is looked up for them.
//!
//! Credentials that were good before go on, from whatever address: a bad neighbour locks nobody out who was let in already.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::addresses::{Network, client};
use super::bucket::{Bucket, Flow, seconds};
use crate::contract::{Principal, Refusal, RequestFacts};

/// Of how many addresses failures are counted. Those that failed once make room before those that go on failing.
const ADDRESSES: usize = 4096;
/// How many credentials are known to have been good.
const KNOWN: usize = 16_384;

/// How often credentials may be bad.
pub(super) struct Failures {
    flow: Flow,
    trusted: Vec<Network>,
    buckets: Cache<IpAddr, Arc<Mutex<Bucket>>>,
    /// By their hash, never themselves.
    known: Cache<[u8; 32], ()>,
}

impl Failures {
    pub(super) fn new(flow: Flow, trusted: Vec<Network>) -> Self {
        Self { flow, trusted, buckets: Cache::new(ADDRESSES), known: Cache::new(KNOWN) }
    }

    /// Whether these credentials are looked at.
    pub(super) fn screen(&self, request: &RequestFacts) -> Result<(), Refusal> {
        let Some(credentials) = hash(request) else { return Ok(()) };
        self.screen_address(request).or_else(|refusal| self.known.get(&credentials).ok_or(refusal))
    }

    /// Whether anything that nobody knows yet is looked at from there: a code is a credential as well.
    pub(super) fn screen_address(&self, request: &RequestFacts) -> Result<(), Refusal> {
        let bucket = client(request, &self.trusted).and_then(|address| self.buckets.get(&address));
        let Some(bucket) = bucket else { return Ok(()) };
        let there = bucket.lock().unwrap_or_else(PoisonError::into_inner).look_for(self.flow, 1, Instant::now());
        there.map_err(|wait| Refusal::TooManyFailures { retry_after_s: seconds(wait) })
    }

    /// Notes what became of them. Only bad ones count: not those that are missing, and no outage.
    pub(super) fn note(&self, request: &RequestFacts, outcome: &Result<Principal, Refusal>) {
        let Some(credentials) = hash(request) else { return };
        match outcome {
            Ok(_) => {
                if self.known.get(&credentials).is_none() {
                    self.known.insert(credentials, ());
                }
            }
            Err(Refusal::BadToken) => {
                self.known.remove(&credentials);
                self.take(request);
            }
            Err(_) => {}
        }
    }

    /// Counts a bad one of this address.
    pub(super) fn take(&self, request: &RequestFacts) {
        let Some(address) = client(request, &self.trusted) else { return };
        let now = Instant::now();
        let Ok(bucket) = self.buckets.get_or_insert_with(&address, || Ok::<_, Infallible>(Arc::default()));
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were under way while the last one was taken are beyond counting.
        let _ = bucket.take(self.flow, 1, now);
    }
}

/// What stands for the credentials of the Authorization field. A cookie is none of these: it is sealed, and costs nobody a
/// question to anyone.
fn hash(request: &RequestFacts) -> Option<[u8; 32]> {
    if request.authorizations.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for field in &request.authorizations {
        hash.update(field.as_bytes());
        // In no field.
        hash.update(b"\n");
    }
    Some(hash.finalize().into())
}
