//! The thread that calls the tail reader: once for every run before anything is answered, then when something is heard, and
//! again and again.
//!
//! The poll is correct alone; what the system tells ([`super::ear`]) only makes it look sooner. Runs that go on are looked at
//! every second, all others in turn, so that a second costs the same however many runs there are; the folder of the runs is
//! listed when its times changed, and its listing never takes more than a part of the time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::archive::Shared;
use super::cache::{self, Cache};
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
/// The cache is written no more often.
const SAVE: Duration = Duration::from_secs(30);
/// The first time it is written at once, when so many bytes had to be read.
const SAVED_AT_ONCE: u64 = 32 * 1024 * 1024;

/// The thread; it is asked to end, and waited for, when this is dropped.
pub(super) struct Watcher {
    is_stopping: Arc<AtomicBool>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }
}

/// Starts the thread that reads these runs, every one once, and then watches the archive until the returned value is dropped.
///
/// # Errors
///
/// When the system gives no thread.
pub(super) fn start(shared: &Arc<Shared>, run_ids: Vec<RunId>) -> Result<Watcher, std::io::Error> {
    let (ear, stop) = Ear::new()?;
    let shared = Arc::clone(shared);
    let is_stopping = Arc::new(AtomicBool::new(false));
    let is_asked_to_stop = Arc::clone(&is_stopping);
    let thread = std::thread::Builder::new().name("tail".into()).spawn(move || {
        let mut rounds = Rounds::new(ear, &shared);
        rounds.saved_bytes = first_scan(&shared, &run_ids, &is_asked_to_stop);
        if !is_asked_to_stop.load(Ordering::Relaxed) {
            shared.has_read_all();
            rounds.run(&shared);
        }
    })?;
    Ok(Watcher { is_stopping, stop: Some(stop), thread: Some(thread) })
}

/// Looks at every run once, on all cores: what the cache knows is taken from there, the rest is read. Returns the size of the
/// cache.
fn first_scan(shared: &Shared, run_ids: &[RunId], is_stopping: &AtomicBool) -> u64 {
    let Some(archive) = shared.archive() else { return 0 };
    let cache = Cache::open(shared.root());
    if let Some(cache) = &cache {
        on_all_cores(&|| cache.take_over(&shared.index, &archive));
    }
    let next = AtomicUsize::new(0);
    on_all_cores(&|| {
        while let Some(run_id) = run_ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if is_stopping.load(Ordering::Relaxed) {
                return;
            }
            let run = shared.index.run_of_folder(run_id);
            if !run.data().is_listed() {
                // A run that cannot be read is told in the log and tried again by the poll.
                let _ = tail::look(&shared.index, Some(&archive), &run, Effort::Whole);
            }
        }
    });
    cache.map_or(0, |cache| cache.size())
}

fn on_all_cores(work: &(dyn Fn() + Sync)) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores {
            // Without another thread this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// The thread's own: what is to be looked at, and when.
struct Rounds {
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
    /// The size of the cache when it was last written or read.
    saved_bytes: u64,
    next_save: Instant,
    saving: Option<JoinHandle<u64>>,
}

impl Rounds {
    /// Listens to the archive from now on; its runs are read after that.
    fn new(mut ear: Ear, shared: &Shared) -> Self {
        let now = Instant::now();
        ear.listen_to_archive(shared.root());
        Self {
            ear,
            hot: HashMap::new(),
            due: VecDeque::new(),
            is_due: HashSet::new(),
            busy: Vec::new(),
            in_turn: Vec::new(),
            // It is listed once more by the first poll.
            listed: shared.archive().and_then(|archive| archive.runs_identity()),
            is_listing_settled: false,
            next_listing: now,
            next_turn: now,
            told: None,
            saved_bytes: 0,
            next_save: now + SAVE,
            saving: None,
        }
    }

    fn run(mut self, shared: &Arc<Shared>) {
        self.begin(shared);
        let mut next_poll = Instant::now();
        loop {
            let rest = if self.due.is_empty() { next_poll.duration_since(Instant::now()) } else { Duration::ZERO };
            let heard = self.ear.wait(rest);
            if heard.has_stopped {
                self.save_last(shared);
                return;
            }
            if heard.is_lost {
                // What was listed is not believed any longer.
                self.listed = None;
                next_poll = Instant::now();
            }
            let is_told = !heard.runs.is_empty();
            for run_id in heard.runs {
                self.look(shared, run_id);
            }
            if Instant::now() >= next_poll {
                self.poll(shared);
                self.save(shared);
                next_poll = Instant::now() + if self.ear.is_deaf() { DEAF_POLL } else { POLL };
            }
            self.work(shared);
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
            let live = listing.newest_first().iter().filter(|summary| summary.ended.is_none());
            live.map(|summary| summary.run_id.clone()).collect()
        };
        self.hot.extend(live.iter().take(MOST_HOT).map(|run_id| (run_id.clone(), now)));
        if shared.index.stale_bytes() > SAVED_AT_ONCE {
            self.next_save = now;
        }
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

    /// Writes the cache, when what it does not know would take longer to read than it takes to write.
    fn save(&mut self, shared: &Arc<Shared>) {
        if self.saving.as_ref().is_some_and(JoinHandle::is_finished) {
            self.await_save();
        }
        let (now, stale) = (Instant::now(), shared.index.stale_bytes());
        if stale == 0 || now < self.next_save || stale.saturating_mul(4) < self.saved_bytes || self.saving.is_some() {
            return;
        }
        self.next_save = now + SAVE;
        let shared = Arc::clone(shared);
        // Without a thread it is tried again.
        self.saving = std::thread::Builder::new().name("cache".into()).spawn(move || save_now(&shared)).ok();
    }

    fn await_save(&mut self) {
        if let Some(saving) = self.saving.take() {
            self.saved_bytes = saving.join().unwrap_or(self.saved_bytes);
        }
    }

    fn save_last(mut self, shared: &Shared) {
        self.await_save();
        if shared.index.stale_bytes() > 0 {
            save_now(shared);
        }
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

/// Writes the cache if this server may; returns its size.
fn save_now(shared: &Shared) -> u64 {
    let (Some(folder), Some(archive)) = (shared.cache_folder(), shared.archive()) else { return 0 };
    shared.index.clear_stale_bytes();
    match cache::write(folder, &archive, &shared.index) {
        Ok(size) => size,
        Err(error) => {
            log::warn!("index.json cannot be written ({error}); the next start reads the logs that changed");
            0
        }
    }
}
