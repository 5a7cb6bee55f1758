//! Group commit: batches that wait for the same log share one sync.
//!
//! There is no timer: whoever comes first syncs at once, and all who wrote meanwhile share the next sync. So one sender alone
//! waits for nothing but the disk, and nobody waits for more than two syncs.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::contract::StoreError;

/// How far a log is durable, in writes of this process.
#[derive(Debug, Default)]
pub(super) struct Commits {
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Writes so far.
    written: u64,
    /// Writes that a sync which began after them has ended.
    durable: u64,
    /// Writes that a failed sync may have lost.
    lost: u64,
    is_syncing: bool,
}

/// A write, by its place among the writes to its log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(u64);

impl Commits {
    /// Says that something was written; the log's lock is held.
    pub(super) fn wrote(&self) -> Number {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.written += 1;
        Number(progress.written)
    }

    /// Returns once that write is durable: by this sync or by another batch's.
    ///
    /// # Errors
    ///
    /// When the sync that was to make it durable failed, whoever called it.
    pub(super) fn settle(
        &self,
        Number(own): Number,
        sync: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while progress.is_syncing && progress.durable < own && progress.lost < own {
            progress = self.ended.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.lost < own && progress.durable >= own {
            return Ok(());
        }
        if progress.lost >= own {
            let why = std::io::Error::other("another batch's sync of this log failed");
            return Err(StoreError::NoSpace(why));
        }
        progress.is_syncing = true;
        let covered = progress.written;
        drop(progress);
        let outcome = sync();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.is_syncing = false;
        match &outcome {
            Ok(()) => progress.durable = covered,
            // After a failed sync the system may have forgotten what it could not write: a later sync that works says
            // nothing of these writes.
            Err(_) => progress.lost = progress.written,
        }
        drop(progress);
        self.ended.notify_all();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    /// While one sync goes on, others write; all of them share the next one. A shared sync that began before a write must not
    /// count for it.
    #[test]
    fn those_who_wait_share_one_sync_that_begins_after_their_writes() {
        let commits = Arc::new(Commits::default());
        let syncs = Arc::new(AtomicU64::new(0));
        let first = commits.wrote();
        let (go, gone) = mpsc::channel::<()>();
        let (begun, began) = mpsc::channel();
        std::thread::scope(|scope| {
            let slow_commits = &commits;
            let slow = scope.spawn(move || {
                slow_commits.settle(first, || {
                    begun.send(()).ok();
                    gone.recv().ok();
                    Ok(())
                })
            });
            began.recv().ok();
            let others: Vec<_> = (0..20)
                .map(|_| {
                    let written = commits.wrote();
                    let (commits, syncs) = (Arc::clone(&commits), Arc::clone(&syncs));
                    scope.spawn(move || {
                        commits.settle(written, || {
                            syncs.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        })
                    })
                })
                .collect();
            go.send(()).ok();
            assert!(matches!(slow.join(), Ok(Ok(()))));
            assert!(others.into_iter().all(|other| matches!(other.join(), Ok(Ok(())))));
        });
        assert_eq!(syncs.load(Ordering::Relaxed), 1, "one sync for the twenty that waited");
    }

    /// A batch whose bytes may be lost is never acknowledged because a later sync worked.
    #[test]
    fn a_failed_sync_fails_everybody_who_had_written() {
        let commits = Commits::default();
        let (first, second) = (commits.wrote(), commits.wrote());
        assert!(commits.settle(first, || Err(StoreError::NoSpace(std::io::ErrorKind::Other.into()))).is_err());
        assert!(commits.settle(second, || Ok(())).is_err());
        assert!(commits.settle(commits.wrote(), || Ok(())).is_ok());
        assert!(commits.settle(second, || Ok(())).is_err(), "nor by those that came after it");
    }
}
