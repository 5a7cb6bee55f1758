//! The runs as they are known now: the rows that lists show, in order, and beside each what its answers need.
//!
//! Nothing here reads a file. Locks are taken in this order: a run's tail, its data, the listing; none is held over I/O that
//! an answer waits for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use super::tail::Tail;
use crate::archive_reader::Identity;
use crate::contract::{Change, Spawned};
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
    tail: Mutex<Tail>,
    data: RwLock<RunData>,
}

/// What is known of a run, of one moment.
#[derive(Debug)]
pub(super) struct RunData {
    pub(super) summary: Arc<Summary>,
    /// Written in place, unless an answer still holds it.
    pub(super) state: Arc<RunState>,
    pub(super) graph: Option<Arc<Graph>>,
    pub(super) graph_sha256: Option<String>,
    pub(super) ledger: Ledger,
    /// The first skipped lines.
    pub(super) problems: Vec<Problem>,
    /// Faults of whole files: no line is theirs.
    pub(super) file_problems: Vec<Problem>,
    /// Where the kept lines 0, 64, 128... begin.
    pub(super) marks: Vec<u64>,
    pub(super) seen: Seen,
}

/// The bytes that were read, as far as they can be known again.
#[derive(Debug, Clone, Copy, Default)]
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
    pub(super) fn new(run_id: &RunId) -> Self {
        let state = RunState::default();
        Self {
            summary: Arc::new(Summary::of(run_id, &state, None)),
            state: Arc::new(state),
            graph: None,
            graph_sha256: None,
            ledger: Ledger::default(),
            problems: Vec::new(),
            file_problems: Vec::new(),
            marks: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Makes the summary anew from state and graph.
    pub(super) fn summarize(&mut self, run_id: &RunId) {
        let graph = self.graph.as_deref().zip(self.graph_sha256.as_deref());
        self.summary = Arc::new(Summary::of(run_id, &self.state, graph));
    }

    fn is_listed(&self) -> bool {
        self.state.next_seq > 0 || self.graph.is_some()
    }
}

impl Run {
    fn new(run_id: &RunId) -> Self {
        Self {
            run_id: run_id.clone(),
            is_anchored: AtomicBool::new(false),
            tail: Mutex::new(Tail::default()),
            data: RwLock::new(RunData::new(run_id)),
        }
    }

    /// The tail reader's own; whoever holds it is the one reader of this log.
    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known.
    pub(super) fn data(&self) -> RwLockReadGuard<'_, RunData> {
        self.data.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, for the tail reader alone.
    pub(super) fn data_mut(&self, _tail: &mut Tail) -> RwLockWriteGuard<'_, RunData> {
        self.data.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All runs of the archive.
pub(super) struct Index {
    listing: RwLock<Listing>,
    changes: broadcast::Sender<Change>,
}

/// The rows, kept in order while they change one by one.
#[derive(Default)]
pub(super) struct Listing {
    /// Every run folder, listed or not.
    runs: HashMap<RunId, Arc<Run>>,
    /// The listed runs.
    rows: HashMap<RunId, Arc<Summary>>,
    /// The listed runs, newest start first.
    newest_first: BTreeMap<StartKey, Arc<Summary>>,
    /// The listed runs that a run started, by start.
    children: HashMap<String, BTreeMap<ChildKey, Spawned>>,
}

/// A row's place among the newest first: nulls last, ties by run_id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StartKey {
    is_null: bool,
    started: Reverse<Option<i64>>,
    run_id: RunId,
}

impl StartKey {
    pub(super) fn new(started: Option<Timestamp>, run_id: &RunId) -> Self {
        let millis = started.map(Timestamp::millis);
        Self { is_null: millis.is_none(), started: Reverse(millis), run_id: run_id.clone() }
    }
}

type ChildKey = (Option<Timestamp>, RunId);

impl Index {
    pub(super) fn new() -> Self {
        Self { listing: RwLock::default(), changes: broadcast::Sender::new(CHANGES_KEPT) }
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
        Arc::clone(listing.runs.entry(run_id.clone()).or_insert_with(|| Arc::new(Run::new(run_id))))
    }

    /// Shows a run as its data is now; `_tail` proves that its data stays so meanwhile.
    pub(super) fn publish(&self, run: &Arc<Run>, _tail: &Tail) {
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
        {
            let mut listing = self.listing_mut();
            if !is_gone() {
                return;
            }
            listing.set_row(&run.run_id, None);
            listing.runs.remove(&run.run_id);
        }
        self.tell(Change::Run(run.run_id.clone()));
    }

    fn tell(&self, change: Change) {
        // It fails when nobody listens.
        let _ = self.changes.send(change);
    }
}

impl Listing {
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
    pub(super) fn newest_first(&self) -> &BTreeMap<StartKey, Arc<Summary>> {
        &self.newest_first
    }

    /// The listed runs that this run started, by start, then run_id.
    pub(super) fn spawned(&self, run_id: &RunId) -> Vec<Spawned> {
        self.children.get(run_id.as_str()).map(|children| children.values().cloned().collect()).unwrap_or_default()
    }

    fn set_row(&mut self, run_id: &RunId, row: Option<Arc<Summary>>) {
        let old = match &row {
            Some(summary) => self.rows.insert(run_id.clone(), Arc::clone(summary)),
            None => self.rows.remove(run_id),
        };
        if let Some(old) = old {
            self.newest_first.remove(&StartKey::new(old.started, run_id));
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
            self.newest_first.insert(StartKey::new(summary.started, run_id), summary);
        }
    }
}
