//! The runs as they are known now: the rows that lists show, in order, and beside each what its answers need.
//!
//! Nothing here reads a file. Locks are taken in this order: a run's tail, its data, the listing; none is held over I/O that
//! an answer waits for.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use tokio::sync::broadcast;

use super::commit::Commits;
use super::lineage::{Gone, Lineage};
use super::ordered::{self, Ordered};
use super::tail::{Ends, Tail};
use crate::archive_reader::Identity;
use crate::contract::{Change, Loaded, Spawned};
use crate::domain::{Graph, Ledger, Problem, RunId, Timestamp};
use crate::reduce::{RunState, Summary};

/// Wake-ups that a follower may fall behind before they are told as one.
const CHANGES_KEPT: usize = 4096;

/// Every so many kept lines, the place of one is remembered, so that a read need not begin at the start of the log.
pub(super) const MARK_EVERY: u64 = 64;

/// One run folder.
pub(super) struct Run {
    pub(super) run_id: RunId,
    /// The entries of its folder were made durable by this process.
    pub(super) is_anchored: AtomicBool,
    pub(super) commits: Commits,
    /// Its bytes are among those that the cache knows nothing of, see [`Index::stale_bytes`].
    pub(super) is_counted_stale: AtomicBool,
    /// When its state was last asked for, by the index's count of such moments.
    last_used: AtomicU64,
    /// The listing's revision when an answer about this run last became another one.
    pub(super) revision: AtomicU64,
    tail: Mutex<Tail>,
    data: RwLock<RunData>,
}

/// What is known of a run, of one moment. The little that lists show stays; what a run's page needs is hot or read again.
#[derive(Debug)]
pub(super) struct RunData {
    pub(super) summary: Arc<Summary>,
    pub(super) ledger: Ledger,
    /// Faults of whole files: no line is theirs.
    pub(super) file_problems: Vec<Problem>,
    pub(super) seen: Seen,
    /// Of the lines that were shown last: a log that is away for a while leaves it as it was.
    pub(super) lineage: Lineage,
    /// Of the log as it was seen, once the cache asked for it.
    pub(super) ends: Option<Ends>,
    pub(super) hot: Option<Box<Hot>>,
}

/// What is made of the whole log, and let go of when nobody asks for it.
#[derive(Debug, Default)]
pub(super) struct Hot {
    /// Written in place, unless an answer still holds it.
    pub(super) state: Arc<RunState>,
    /// The graph and the SHA-256 of its bytes.
    pub(super) graph: Option<(Arc<Graph>, String)>,
    /// The first skipped lines.
    pub(super) problems: Vec<Problem>,
    /// Where the kept lines 0, 64, 128... begin.
    pub(super) marks: Vec<u64>,
    /// About how many bytes all this takes, and the offset in the log at which that was counted.
    weighed: (usize, u64),
}

impl Hot {
    /// Takes another graph, whose weight is not known.
    pub(super) fn set_graph(&mut self, graph: Option<(Arc<Graph>, String)>) {
        self.graph = graph;
        self.weighed = (0, 0);
    }

    /// About how many bytes this takes; counted anew when the log has grown by an eighth, so that it costs nothing an event.
    fn weigh(&mut self, offset: u64) -> usize {
        let (weight, counted_at) = self.weighed;
        if weight > 0 && offset >= counted_at && offset - counted_at <= counted_at / 8 {
            return weight;
        }
        let agent = &self.state.agent;
        let attempts: usize = self.state.nodes.values().map(|node| node.attempts.len()).sum();
        let calls: usize = agent.tools.values().map(|tool| tool.durations_s.len()).sum();
        let planned = self.graph.as_ref().map_or(0, |(graph, _)| graph.weight());
        let weight = 4096
            + 1024 * self.state.nodes.len()
            + 80 * attempts
            + 8 * calls
            + 160 * agent.audits.len()
            + self.state.text_bytes()
            + planned
            + 200 * agent.loops.len()
            + 80 * self.problems.len()
            + 8 * self.marks.len();
        self.weighed = (weight, offset);
        weight
    }
}

/// The bytes that were read, as far as they can be known again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The file.
    pub(super) identity: Option<Identity>,
    /// The offset behind the last whole line.
    pub(super) offset: u64,
    /// The first kept line: where it begins and how long it is (its hash is the log_id).
    pub(super) first: Option<(u64, usize)>,
    /// The bytes before `offset`: how many, and the start of their SHA-256.
    pub(super) edge: Option<(usize, [u8; 8])>,
}

impl RunData {
    /// What lists show of a run, and no more.
    pub(super) fn cold(summary: Arc<Summary>, ledger: Ledger) -> Self {
        let (seen, lineage) = (Seen::default(), Lineage::default());
        Self { summary, ledger, file_problems: Vec::new(), seen, lineage, ends: None, hot: None }
    }

    /// Nothing is known of the run.
    fn unknown(run_id: &RunId) -> Self {
        Self::cold(Arc::new(Summary::of(run_id, &RunState::default(), None)), Ledger::default())
    }

    /// The run's files were found empty so far.
    pub(super) fn empty(run_id: &RunId) -> Self {
        Self { hot: Some(Box::default()), ..Self::unknown(run_id) }
    }

    /// Makes the summary anew from state and graph.
    pub(super) fn summarize(&mut self, run_id: &RunId) {
        if let Some(hot) = &self.hot {
            let graph = hot.graph.as_ref().map(|(graph, sha256)| (&**graph, sha256.as_str()));
            self.summary = Arc::new(Summary::of(run_id, &hot.state, graph));
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.summary.next_seq > 0 || self.summary.graph_sha256.is_some()
    }
}

impl Run {
    fn new(run_id: &RunId, lineage: Lineage) -> Self {
        Self {
            run_id: run_id.clone(),
            is_anchored: AtomicBool::new(false),
            commits: Commits::default(),
            is_counted_stale: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            tail: Mutex::new(Tail::default()),
            data: RwLock::new(RunData { lineage, ..RunData::unknown(run_id) }),
        }
    }

    /// The tail reader's own; whoever holds it is the one reader of this log.
    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless somebody has it now.
    pub(super) fn try_tail(&self) -> Option<MutexGuard<'_, Tail>> {
        match self.tail.try_lock() {
            Ok(tail) => Some(tail),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What is known.
    pub(super) fn data(&self) -> RwLockReadGuard<'_, RunData> {
        self.data.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, for the tail reader alone.
    pub(super) fn data_mut(&self, _tail: &mut Tail) -> RwLockWriteGuard<'_, RunData> {
        self.data.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a run's page needs, if it is hot.
    pub(super) fn loaded(&self) -> Option<Loaded> {
        let data = self.data();
        let hot = data.hot.as_ref()?;
        Some(Loaded {
            summary: Arc::clone(&data.summary),
            state: Arc::clone(&hot.state),
            graph: hot.graph.as_ref().map(|(graph, _)| Arc::clone(graph)),
        })
    }

    /// Lets go of what can be read again.
    pub(super) fn cool(&self, tail: &mut Tail) {
        tail.forget_place();
        let hot = self.data_mut(tail).hot.take();
        drop(hot);
    }
}

/// All runs of the archive.
pub(super) struct Index {
    listing: RwLock<Listing>,
    hot: Mutex<Vec<HotRun>>,
    moments: AtomicU64,
    stale_bytes: AtomicU64,
    changes: broadcast::Sender<Change>,
}

/// A run whose state is held, and about how many bytes that takes.
struct HotRun {
    run: Arc<Run>,
    weight: usize,
}

/// How many states are held at the most.
const MOST_HOT_RUNS: usize = 512;
/// About how many bytes they may take together.
const MOST_HOT_BYTES: usize = 64 * 1024 * 1024;
/// So many are held whatever they take: a run that grows is not folded again for each of its events.
const FEWEST_HOT_RUNS: usize = 4;

/// The rows, kept in order while they change one by one.
#[derive(Default)]
pub(super) struct Listing {
    /// Counts the changes of rows: answers that were made at the same count are the same.
    revision: u64,
    /// Every run folder, listed or not.
    runs: HashMap<RunId, Arc<Run>>,
    /// The listed runs.
    rows: HashMap<RunId, Arc<Summary>>,
    /// The listed runs, newest start first.
    newest_first: Ordered,
    /// The listed runs that a run started, by start.
    children: HashMap<String, BTreeMap<ChildKey, Spawned>>,
    /// The runs that are no longer among them.
    gone: Gone,
}

type ChildKey = (Option<Timestamp>, RunId);

impl Index {
    pub(super) fn new() -> Self {
        Self {
            listing: RwLock::default(),
            hot: Mutex::default(),
            moments: AtomicU64::new(0),
            stale_bytes: AtomicU64::new(0),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        }
    }

    /// Somebody asked for this run's state.
    pub(super) fn touch(&self, run: &Run) {
        run.last_used.store(self.moments.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Holds the state that a look has just made or grown, and lets go of those that nobody asked for longest.
    pub(super) fn hold(&self, run: &Arc<Run>, tail: &mut Tail) {
        let weight = {
            let mut data = run.data_mut(tail);
            let offset = data.seen.offset;
            let Some(hot) = &mut data.hot else { return };
            hot.weigh(offset)
        };
        self.touch(run);
        let mut held = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        match held.iter_mut().find(|hot| Arc::ptr_eq(&hot.run, run)) {
            Some(hot) => hot.weight = weight,
            None => held.push(HotRun { run: Arc::clone(run), weight }),
        }
        let mut sum: usize = held.iter().map(|hot| hot.weight).sum();
        let too_many = |held: &[HotRun], sum: usize| {
            held.len() > MOST_HOT_RUNS || (sum > MOST_HOT_BYTES && held.len() > FEWEST_HOT_RUNS)
        };
        while too_many(&held, sum) {
            let used = |hot: &HotRun| hot.run.last_used.load(Ordering::Relaxed);
            let Some(oldest) = (0..held.len()).min_by_key(|at| used(&held[*at])) else { return };
            // One that is being read now stays until the next time.
            let Some(mut tail) = held[oldest].run.try_tail() else { return };
            held[oldest].run.cool(&mut tail);
            drop(tail);
            sum -= held.swap_remove(oldest).weight;
        }
    }

    /// Forgets that this run's state is held.
    fn let_go(&self, run: &Arc<Run>) {
        let mut held = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|hot| !Arc::ptr_eq(&hot.run, run));
    }

    /// Hears of every change from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The rows.
    pub(super) fn listing(&self) -> RwLockReadGuard<'_, Listing> {
        self.listing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing_mut(&self) -> RwLockWriteGuard<'_, Listing> {
        self.listing.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run of this folder, listed or not; made when it is new.
    pub(super) fn run_of_folder(&self, run_id: &RunId) -> Arc<Run> {
        if let Some(run) = self.listing().runs.get(run_id) {
            return Arc::clone(run);
        }
        let mut listing = self.listing_mut();
        let Listing { runs, gone, .. } = &mut *listing;
        Arc::clone(runs.entry(run_id.clone()).or_insert_with(|| Arc::new(Run::new(run_id, gone.take(run_id)))))
    }

    /// How many bytes of logs would have to be read at the next start, because the cache knows another state of them.
    pub(super) fn stale_bytes(&self) -> u64 {
        self.stale_bytes.load(Ordering::Relaxed)
    }

    /// The cache is being written anew.
    pub(super) fn clear_stale_bytes(&self) {
        self.stale_bytes.store(0, Ordering::Relaxed);
    }

    /// Shows a run as its data is now, which the cache does not know; `tail` proves that its data stays so meanwhile.
    pub(super) fn publish(&self, run: &Arc<Run>, tail: &Tail) {
        if !run.is_counted_stale.swap(true, Ordering::Relaxed) {
            // A run that went counts too, and a log that is short.
            self.stale_bytes.fetch_add(run.data().seen.offset + 64, Ordering::Relaxed);
        }
        self.show(run, tail);
    }

    /// The same for what the cache knows.
    pub(super) fn show(&self, run: &Arc<Run>, _tail: &Tail) {
        let (summary, is_listed) = {
            let data = run.data();
            (Arc::clone(&data.summary), data.is_listed())
        };
        {
            let mut listing = self.listing_mut();
            // A run whose folder vanished meanwhile is not brought back by someone who still held it.
            if !listing.runs.get(&run.run_id).is_some_and(|known| Arc::ptr_eq(known, run)) {
                return;
            }
            listing.set_row(&run.run_id, is_listed.then_some(summary));
        }
        self.tell(Change::Run(run.run_id.clone()));
    }

    /// Takes a run out when its folder is gone. `is_gone` is asked while nobody can bring the run back: an append makes
    /// the folder first and asks for its run then.
    pub(super) fn remove_if(&self, run: &Arc<Run>, is_gone: impl FnOnce() -> bool) {
        let _tail = run.tail();
        let lineage = run.data().lineage;
        {
            let mut listing = self.listing_mut();
            if !is_gone() {
                return;
            }
            listing.set_row(&run.run_id, None);
            if listing.runs.remove(&run.run_id).is_some() {
                listing.gone.put(&run.run_id, lineage);
            }
        }
        self.let_go(run);
        self.tell(Change::Run(run.run_id.clone()));
    }

    fn tell(&self, change: Change) {
        // It fails when nobody listens.
        let _ = self.changes.send(change);
    }
}

impl Listing {
    /// Greater after any change of a row.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Answers about this run are others from now on.
    fn renew(&self, run_id: &str) {
        if let Some(run) = self.runs.get(run_id) {
            run.revision.store(self.revision, Ordering::Relaxed);
        }
    }

    /// The summary of a listed run.
    pub(super) fn row(&self, run_id: &RunId) -> Option<&Arc<Summary>> {
        self.rows.get(run_id)
    }

    /// A listed run.
    pub(super) fn run(&self, run_id: &RunId) -> Option<Arc<Run>> {
        self.rows.get(run_id).and_then(|_| self.runs.get(run_id)).map(Arc::clone)
    }

    /// Every run folder, in no order.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.values()
    }

    /// The listed runs, newest start first.
    pub(super) fn newest_first(&self) -> &Ordered {
        &self.newest_first
    }

    /// The listed runs that this run started, by start, then run_id.
    pub(super) fn spawned(&self, run_id: &RunId) -> Vec<Spawned> {
        self.children.get(run_id.as_str()).map(|children| children.values().cloned().collect()).unwrap_or_default()
    }

    fn set_row(&mut self, run_id: &RunId, row: Option<Arc<Summary>>) {
        self.revision += 1;
        self.renew(run_id.as_str());
        let old = match &row {
            Some(summary) => self.rows.insert(run_id.clone(), Arc::clone(summary)),
            None => self.rows.remove(run_id),
        };
        // A run's page names the runs that it started, by start.
        let place = |row: Option<&Arc<Summary>>| row.and_then(|row| Some((row.parent.clone()?, row.started)));
        let places = [place(old.as_ref()), place(row.as_ref())];
        if places[0] != places[1] {
            places.iter().flatten().for_each(|(parent, _)| self.renew(&parent.run_id));
        }
        if let Some(old) = old {
            self.newest_first.remove(ordered::key(old.started, run_id));
            if let Some(parent) = &old.parent
                && let Some(children) = self.children.get_mut(&parent.run_id)
            {
                children.remove(&(old.started, run_id.clone()));
                if children.is_empty() {
                    self.children.remove(&parent.run_id);
                }
            }
        }
        if let Some(summary) = row {
            if let Some(parent) = &summary.parent {
                let child = Spawned { run_id: run_id.clone(), node_id: parent.node_id.clone() };
                let children = self.children.entry(parent.run_id.clone()).or_default();
                children.insert((summary.started, run_id.clone()), child);
            }
            self.newest_first.insert(summary);
        }
    }
}
