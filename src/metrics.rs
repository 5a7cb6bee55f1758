//! What this process counted of itself. Counting is on the way of every request, so it takes no lock and writes no text: each
//! worker has counters of its own, and whoever looks adds them up. No counter is of a run, an agent or a tenant.

mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use process::Process;

/// Methods that are counted by name; all else is the last one.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
/// Classes of statuses.
pub const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Where the buckets of latency end, in microseconds, and how it is written in seconds; the last bucket has no end.
pub const BUCKETS: [(u64, &str); 11] = [
    (1_000, "0.001"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
];

/// A number that only rises. Order among counters means nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the whole process counts.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    workers: Mutex<Vec<Arc<Requests>>>,
    problems: Mutex<BTreeMap<&'static str, u64>>,
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    /// What producers sent.
    pub ingest: Ingest,
    /// What became of live clients.
    pub live: LiveClients,
}

/// What producers sent, and is stored.
#[derive(Debug, Default)]
pub struct Ingest {
    /// Batches that were taken, those with nothing new too.
    pub batches: Counter,
    /// Their bytes, decoded.
    pub bytes: Counter,
    /// Events that are new.
    pub accepted: Counter,
    /// Events that were there already.
    pub duplicates: Counter,
    /// Graphs that were taken.
    pub graphs: Counter,
}

/// What became of live clients.
#[derive(Debug, Default)]
pub struct LiveClients {
    /// Closed, because they took too little of what they had asked for, or gave no sign of life.
    pub dropped: Counter,
    /// Times that one was told to go on from a seq, or to read the list again, because it had been too slow.
    pub resyncs: Counter,
}

impl Metrics {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            workers: Mutex::default(),
            problems: Mutex::default(),
            rejected: Mutex::default(),
            ingest: Ingest::default(),
            live: LiveClients::default(),
        }
    }

    /// A worker's own counters of requests, for so many routes.
    pub fn worker(&self, routes: usize) -> Arc<Requests> {
        let requests = Arc::new(Requests::new(routes));
        held(&self.workers).push(Arc::clone(&requests));
        requests
    }

    /// A problem was answered.
    pub fn note_problem(&self, code: &'static str) {
        *held(&self.problems).entry(code).or_default() += 1;
    }

    /// A producer's request was answered with this problem.
    pub fn note_rejected(&self, code: &'static str) {
        *held(&self.rejected).entry(code).or_default() += 1;
    }

    /// Problems by code.
    pub fn problems(&self) -> BTreeMap<&'static str, u64> {
        held(&self.problems).clone()
    }

    /// Problems of producers' requests by code.
    pub fn rejected(&self) -> BTreeMap<&'static str, u64> {
        held(&self.rejected).clone()
    }

    /// Requests of all workers, by route.
    pub fn requests(&self) -> Vec<RouteCount> {
        let mut all: Vec<RouteCount> = Vec::new();
        for worker in held(&self.workers).iter() {
            all.resize_with(all.len().max(worker.0.len()), RouteCount::default);
            all.iter_mut().zip(&worker.0).for_each(|(sum, own)| sum.add(own));
        }
        all
    }

    /// How long the process has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Nothing panics while it holds one of these locks.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's counters of requests: one of these a route, and one for addresses that are none.
#[derive(Debug)]
pub struct Requests(Box<[OneRoute]>);

#[derive(Debug, Default)]
struct OneRoute {
    answered: [[Counter; STATUSES.len()]; METHODS.len()],
    buckets: [Counter; BUCKETS.len() + 1],
    microseconds: Counter,
}

impl Requests {
    fn new(routes: usize) -> Self {
        Self((0..=routes).map(|_| OneRoute::default()).collect())
    }

    /// An answer began after so long. `route` is the number of its route, or of no route: the one behind the last.
    pub fn note(&self, route: usize, (method, status): (usize, u16), took: Duration) {
        let Some(route) = self.0.get(route).or(self.0.last()) else { return };
        let class = usize::from(status / 100).saturating_sub(1).min(STATUSES.len() - 1);
        if let Some(answered) = route.answered.get(method).and_then(|by_status| by_status.get(class)) {
            answered.add(1);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|(end, _)| took <= *end).unwrap_or(BUCKETS.len());
        if let Some(bucket) = route.buckets.get(bucket) {
            bucket.add(1);
        }
        route.microseconds.add(took);
    }
}

/// The requests of a route.
#[derive(Debug, Clone, Default)]
pub struct RouteCount {
    /// By method and class of status.
    pub answered: [[u64; STATUSES.len()]; METHODS.len()],
    /// By latency, each bucket alone.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// All latencies together.
    pub microseconds: u64,
}

impl RouteCount {
    fn add(&mut self, own: &OneRoute) {
        for (sums, counters) in self.answered.iter_mut().zip(&own.answered) {
            sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.get());
        }
        self.buckets.iter_mut().zip(&own.buckets).for_each(|(sum, counter)| *sum += counter.get());
        self.microseconds += own.microseconds.get();
    }
}
