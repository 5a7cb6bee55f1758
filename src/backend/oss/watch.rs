//! Who calls the tail reader: once for every run before anything is answered, then a thread that waits and polls.
//!
//! The poll is correct alone; what the system tells ([`super::ear`]) only makes it look sooner. Runs that go on are looked at
//! every second, all others in turn, so that a second costs the same however many runs there are; the folder of the runs is
//! listed when its times changed, and its listing never takes more than a part of the time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::archive::Shared;
use super::ear::{Ear, Listening};
use super::tail::{self, Effort, Looked};
use crate::archive_reader::{Identity, ReaderError};
use crate::domain::RunId;

/// How often runs that go on are looked at, and whether folders came or went.
const POLL: Duration = Duration::from_secs(1);
/// The same while nothing is heard from the system.
const DEAF_POLL: Duration = Duration::from_millis(200);
/// What is heard within this time is looked at together.
const GATHER: Duration = Duration::from_millis(1);
/// Listing the runs may take one part in so many of the time.
const LISTING_SHARE: u32 = 50;
/// How many of the other runs are looked at each second.
const IN_TURN: usize = 256;
/// How long is looked at what is due before the system is heard again.
const STRETCH: Duration = Duration::from_millis(50);
/// A run that was silent for so long is looked at in turn with all the others.
const STAYS_HOT: Duration = Duration::from_secs(15 * 60);
/// How many runs are looked at every second.
const MOST_HOT: usize = 512;

/// Stops the thread when it is dropped.
pub(super) struct Watch {
    _stop: UnixStream,
}

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
            let _ = tail::look(&shared.index, Some(&archive), &run, Effort::Whole);
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

/// Starts the thread that watches; it ends with the returned value.
///
/// # Errors
///
/// When the system gives no thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Watch, std::io::Error> {
    let (ear, stop) = Ear::new()?;
    let shared = Arc::downgrade(shared);
    std::thread::Builder::new().name("tail".into()).spawn(move || Watcher::new(ear).run(&shared))?;
    Ok(Watch { _stop: stop })
}

/// The thread's own: what is to be looked at, and when.
struct Watcher {
    ear: Ear,
    /// Runs that go on, and when each last changed.
    hot: HashMap<RunId, Instant>,
    /// Runs to look at now.
    due: VecDeque<RunId>,
    is_due: HashSet<RunId>,
    /// Runs that somebody else was reading.
    busy: Vec<RunId>,
    /// The rest of the runs that are looked at in turn.
    in_turn: Vec<RunId>,
    /// The folder of the runs as it was when it was listed.
    listed: Option<Identity>,
    /// It was listed again with the same times.
    is_listing_settled: bool,
    next_listing: Instant,
    next_turn: Instant,
    told: Option<String>,
}

impl Watcher {
    fn new(ear: Ear) -> Self {
        let now = Instant::now();
        Self {
            ear,
            hot: HashMap::new(),
            due: VecDeque::new(),
            is_due: HashSet::new(),
            busy: Vec::new(),
            in_turn: Vec::new(),
            listed: None,
            is_listing_settled: false,
            next_listing: now,
            next_turn: now,
            told: None,
        }
    }

    fn run(mut self, shared: &Weak<Shared>) {
        let mut next_poll = Instant::now();
        if let Some(shared) = shared.upgrade() {
            self.begin(&shared);
        }
        loop {
            let rest = if self.due.is_empty() { next_poll.duration_since(Instant::now()) } else { Duration::ZERO };
            let heard = self.ear.wait(rest);
            let Some(shared) = shared.upgrade().filter(|_| !heard.has_stopped) else { return };
            if heard.is_lost {
                // What was listed is not believed any longer.
                self.listed = None;
                next_poll = Instant::now();
            }
            let is_told = !heard.runs.is_empty();
            for run_id in heard.runs {
                self.look(&shared, run_id);
            }
            if Instant::now() >= next_poll {
                self.poll(&shared);
                next_poll = Instant::now() + if self.ear.is_deaf() { DEAF_POLL } else { POLL };
            }
            self.work(&shared);
            if is_told && self.due.is_empty() {
                std::thread::park_timeout(GATHER);
            }
        }
    }

    /// Follows what was read before this thread began.
    fn begin(&mut self, shared: &Shared) {
        let now = Instant::now();
        let live: Vec<RunId> = {
            let listing = shared.index.listing();
            let live = listing.newest_first().values().filter(|summary| summary.ended.is_none());
            live.map(|summary| summary.run_id.clone()).collect()
        };
        self.hot.extend(live.iter().take(MOST_HOT).map(|run_id| (run_id.clone(), now)));
        self.follow_archive(shared);
        for run_id in &live {
            if self.ear.listen_to_run(shared.root(), run_id) == Listening::Deaf {
                break;
            }
        }
        // What came between the reading and the listening.
        live.into_iter().for_each(|run_id| self.put_due(run_id));
    }

    fn follow_archive(&mut self, shared: &Shared) {
        self.ear.listen_to_archive(shared.root());
        self.listed = None;
    }

    fn put_due(&mut self, run_id: RunId) {
        if self.is_due.insert(run_id.clone()) {
            self.due.push_back(run_id);
        }
    }

    /// Looks at what is due, for a while.
    fn work(&mut self, shared: &Shared) {
        let until = Instant::now() + STRETCH;
        while let Some(run_id) = self.due.pop_front() {
            self.is_due.remove(&run_id);
            self.look(shared, run_id);
            if Instant::now() >= until {
                break;
            }
        }
    }

    fn poll(&mut self, shared: &Shared) {
        for run_id in std::mem::take(&mut self.busy) {
            self.put_due(run_id);
        }
        let trouble = self.list(shared).err().map(|error| error.to_string());
        if let Some(trouble) = trouble.as_ref().filter(|trouble| self.told.as_ref() != Some(*trouble)) {
            log::warn!("{trouble}");
        }
        self.told = trouble;
        let now = Instant::now();
        self.hot.retain(|_, changed| now.duration_since(*changed) < STAYS_HOT);
        if self.hot.len() > MOST_HOT {
            let mut by_change: Vec<_> = self.hot.drain().collect();
            by_change.sort_by_key(|(_, changed)| std::cmp::Reverse(*changed));
            by_change.truncate(MOST_HOT);
            self.hot.extend(by_change);
        }
        for run_id in self.hot.keys().cloned().collect::<Vec<_>>() {
            self.look(shared, run_id);
        }
        if now >= self.next_turn {
            self.next_turn = now + POLL;
            self.look_in_turn(shared);
        }
    }

    fn look_in_turn(&mut self, shared: &Shared) {
        if self.in_turn.is_empty() {
            self.in_turn = shared.index.listing().folders().map(|run| run.run_id.clone()).collect();
        }
        for run_id in self.in_turn.split_off(self.in_turn.len().saturating_sub(IN_TURN)) {
            if !self.hot.contains_key(&run_id) {
                self.look(shared, run_id);
            }
        }
    }

    /// Opens the archive that stands there now, and lists its runs if they may have come or gone.
    fn list(&mut self, shared: &Shared) -> Result<(), ReaderError> {
        shared.reopen()?;
        let archive = shared.archive();
        let found = archive.as_ref().and_then(|archive| archive.runs_identity());
        let is_other = match (&self.listed, &found) {
            (Some(listed), Some(found)) => !listed.is_same_file(found),
            (None, None) => false,
            _ => true,
        };
        if is_other {
            // Nothing that was known of the folders holds in another one.
            self.follow_archive(shared);
            self.next_listing = Instant::now();
        }
        let begun = Instant::now();
        if (self.listed == found && self.is_listing_settled) || begun < self.next_listing {
            return Ok(());
        }
        let run_ids = archive.as_ref().map_or(Ok(Vec::new()), |archive| archive.run_ids())?;
        let mut known: HashSet<RunId> = shared.index.listing().folders().map(|run| run.run_id.clone()).collect();
        for run_id in run_ids {
            if !known.remove(&run_id) || is_other {
                self.put_due(run_id);
            }
        }
        known.into_iter().for_each(|gone| self.put_due(gone));
        self.is_listing_settled = self.listed == found;
        self.listed = found;
        let now = Instant::now();
        self.next_listing = now + POLL.max(now.duration_since(begun) * LISTING_SHARE);
        Ok(())
    }

    fn look(&mut self, shared: &Shared, run_id: RunId) {
        let run = shared.index.run_of_folder(&run_id);
        let archive = shared.archive();
        let Some(looked) = tail::try_look(&shared.index, archive.as_deref(), &run) else {
            self.busy.push(run_id);
            return;
        };
        // A run that cannot be read is told in the log, once, and tried again in its turn.
        let Ok(Looked { has_changed, is_ended, is_listed, has_more }) = looked else { return };
        if !is_listed && shared.is_gone(&run_id) {
            self.hot.remove(&run_id);
            self.ear.leave_run(&run_id);
            shared.index.remove_if(&run, || shared.is_gone(&run_id));
            return;
        }
        if is_ended {
            self.hot.remove(&run_id);
            self.ear.leave_run(&run_id);
        } else {
            if has_changed {
                self.hot.insert(run_id.clone(), Instant::now());
            }
            // What was written before is not told: it is read once more.
            if self.ear.listen_to_run(shared.root(), &run_id) == Listening::Begun {
                self.put_due(run_id);
                return;
            }
        }
        if has_more {
            self.put_due(run_id);
        }
    }
}
