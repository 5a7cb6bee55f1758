//! How the door's transactions went, by their names: what is slow is told at once, the counts when the server ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::scope::DatabaseError;
use crate::contract::CallVitals;

/// A call that takes longer is told in the log.
const SLOW: Duration = Duration::from_secs(1);

/// Counts by name. As many rows as there are names in the source, since a name is a literal.
#[derive(Default)]
pub(super) struct Tally(Mutex<BTreeMap<&'static str, Counts>>);

/// How the calls of one name went.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: u64,
    /// Calls that the database did not answer, or answered with an error.
    failed: u64,
    /// Transactions that were run again after a conflict.
    retried: u64,
    /// Calls whose request was dropped before the end.
    dropped: u64,
    /// COMMITs whose answer was lost.
    unknown: u64,
    time: Duration,
}

impl Tally {
    /// A call begins.
    pub(super) fn call(&self, name: &'static str) -> Call<'_> {
        Call { tally: self, name, began: Instant::now(), counts: Counts { dropped: 1, ..Counts::default() } }
    }

    /// The counts by now.
    pub(super) fn vitals(&self) -> Vec<CallVitals> {
        let of = |(name, counts): (&&'static str, &Counts)| CallVitals {
            name,
            calls: counts.calls,
            failed: counts.failed,
            retried: counts.retried,
            time: counts.time,
        };
        self.held().iter().map(of).collect()
    }

    /// Nothing panics while it holds the lock, and a count that is off by one is no harm.
    fn held(&self) -> MutexGuard<'_, BTreeMap<&'static str, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, counts)) in self.held().iter().enumerate() {
            let Counts { calls, failed, retried, dropped, unknown, time } = counts;
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {calls} in {:.3} s", time.as_secs_f64())?;
            for (count, what) in [(failed, "failed"), (retried, "retried"), (dropped, "dropped"), (unknown, "unknown")]
            {
                if *count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let told = self.to_string();
        if !told.is_empty() {
            log::info!("database calls: {told}");
        }
    }
}

/// A call under way. It is counted when this value goes, as dropped unless it has ended.
pub(super) struct Call<'a> {
    tally: &'a Tally,
    name: &'static str,
    began: Instant,
    counts: Counts,
}

impl Call<'_> {
    /// The transaction is run again.
    pub(super) fn retried(&mut self, reason: &DatabaseError) {
        self.counts.retried += 1;
        log::debug!("{} is run again: {reason}", self.name);
    }

    /// The call has an answer.
    pub(super) fn answered(mut self) {
        self.counts.dropped = 0;
    }

    /// The call has none.
    pub(super) fn failed(mut self, reason: &DatabaseError) {
        self.counts.dropped = 0;
        self.counts.failed = 1;
        if matches!(reason, DatabaseError::CommitUnknown(_)) {
            self.counts.unknown = 1;
            log::warn!("{}: {reason}", self.name);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let time = self.began.elapsed();
        if time > SLOW {
            log::warn!("{} took {:.1} s at the database", self.name, time.as_secs_f64());
        }
        let mut rows = self.tally.held();
        let row = rows.entry(self.name).or_default();
        row.calls += 1;
        row.failed += self.counts.failed;
        row.retried += self.counts.retried;
        row.dropped += self.counts.dropped;
        row.unknown += self.counts.unknown;
        row.time += time;
    }
}
