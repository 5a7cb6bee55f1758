//! Who calls the tail reader: once for every run before the backend exists, then a thread that polls.
//!
//! The poll is correct alone. Runs that go on are looked at five times a second; every run folder about once a second, and less
//! often where that would take more than a twentieth of the time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::archive::Shared;
use crate::archive_reader::ReaderError;
use crate::domain::RunId;

const POLL: Duration = Duration::from_millis(200);
const SWEEP: Duration = Duration::from_secs(1);
/// A sweep may take one part in so many of the time.
const SWEEP_SHARE: u32 = 20;
/// A run that was silent for so long is looked at with all the others.
const STAYS_HOT: Duration = Duration::from_secs(15 * 60);
/// How many runs are looked at between sweeps.
const MOST_HOT: usize = 512;

/// Stops the thread when it is dropped.
pub(super) struct Watch {
    _stop: SyncSender<()>,
}

/// Runs that go on, and when each last changed.
type Hot = HashMap<RunId, Instant>;

/// Looks at every run once, on all cores.
///
/// # Errors
///
/// When the archive cannot be listed.
pub(super) fn first_scan(shared: &Shared) -> Result<(), ReaderError> {
    let Some(archive) = shared.archive() else { return Ok(()) };
    let run_ids = archive.run_ids()?;
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(run_id) = run_ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            let run = shared.index.run_of_folder(run_id);
            // A run that cannot be read is told in the log and tried again by the poll.
            let _ = super::tail::look(&shared.index, Some(&archive), &run);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores {
            // Without another thread this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    Ok(())
}

/// Starts the thread that polls; it ends with the returned value.
///
/// # Errors
///
/// When the system gives no thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Watch, std::io::Error> {
    let (stop, stopped) = mpsc::sync_channel(1);
    let shared = Arc::downgrade(shared);
    std::thread::Builder::new().name("tail".into()).spawn(move || {
        let now = Instant::now();
        let mut hot: Hot = hot_at_start(&shared, now);
        let mut next_sweep = now;
        let mut told = None;
        while stopped.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            let Some(shared) = shared.upgrade() else { break };
            let begun = Instant::now();
            if begun < next_sweep {
                poll_hot(&shared, &mut hot);
                continue;
            }
            let trouble = sweep(&shared, &mut hot).err().map(|error| error.to_string());
            if let Some(trouble) = trouble.as_ref().filter(|trouble| told.as_ref() != Some(*trouble)) {
                log::warn!("{trouble}");
            }
            told = trouble;
            let now = Instant::now();
            next_sweep = now + SWEEP.max((now - begun) * SWEEP_SHARE);
        }
    })?;
    Ok(Watch { _stop: stop })
}

fn hot_at_start(shared: &Weak<Shared>, now: Instant) -> Hot {
    let Some(shared) = shared.upgrade() else { return Hot::new() };
    let listing = shared.index.listing();
    let live = listing.newest_first().values().filter(|summary| summary.ended.is_none());
    live.take(MOST_HOT).map(|summary| (summary.run_id.clone(), now)).collect()
}

fn poll_hot(shared: &Shared, hot: &mut Hot) {
    let run_ids: Vec<RunId> = hot.keys().cloned().collect();
    for run_id in run_ids {
        look(shared, &run_id, hot);
    }
}

/// Looks at every run folder: those that appeared, those that changed, those that vanished.
fn sweep(shared: &Shared, hot: &mut Hot) -> Result<(), ReaderError> {
    shared.reopen()?;
    let archive = shared.archive();
    let run_ids = archive.as_ref().map_or(Ok(Vec::new()), |archive| archive.run_ids())?;
    for run_id in &run_ids {
        look(shared, run_id, hot);
    }
    let present: HashSet<&RunId> = run_ids.iter().collect();
    let gone: Vec<_> =
        shared.index.listing().folders().filter(|run| !present.contains(&run.run_id)).map(Arc::clone).collect();
    for run in gone {
        hot.remove(&run.run_id);
        shared.index.remove_if(&run, || shared.is_gone(&run.run_id));
    }
    let now = Instant::now();
    hot.retain(|_, changed| now - *changed < STAYS_HOT);
    if hot.len() > MOST_HOT {
        let mut by_change: Vec<_> = hot.drain().collect();
        by_change.sort_by_key(|(_, changed)| std::cmp::Reverse(*changed));
        by_change.truncate(MOST_HOT);
        hot.extend(by_change);
    }
    Ok(())
}

fn look(shared: &Shared, run_id: &RunId, hot: &mut Hot) {
    let run = shared.index.run_of_folder(run_id);
    let archive = shared.archive();
    // A run that cannot be read is told in the log, once, and tried again.
    let Ok(looked) = super::tail::look(&shared.index, archive.as_deref(), &run) else { return };
    if looked.is_ended {
        hot.remove(run_id);
    } else if looked.has_changed {
        hot.insert(run_id.clone(), Instant::now());
    }
}
