//! The rows of the list as they change, for all lists of one tenant: each run at most four times a second, its last state
//! always. A row changes by an event or a graph, and by the clock, when a live run has been silent for too long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::seats::held;
use crate::contract::{Change, Filter, ListPosition, ListQuery, Order, Principal, Sort, Store, StoreError};
use crate::domain::{RunId, Timestamp};
use crate::reduce::{Phase, Summary};
use crate::services::Clock;

/// How often a run's row is told: four times a second.
const ROW_EVERY: Duration = Duration::from_millis(250);
/// How often the clock is looked at, and a store that did not answer is asked again.
const TICK: Duration = Duration::from_secs(1);
/// How long it is remembered how a row was told.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Rows that wait for one client; past that it is told to read the list again.
const WAITING: usize = 256;
/// Rows that are told before the clients get their turn.
const AT_ONCE: usize = 32;
/// Rows of one question for the live runs.
const PAGE: usize = 500;

/// How rows become frames, as they go over the wire.
#[derive(Debug, Clone, Copy)]
pub struct RenderRows {
    /// A row at a moment, with the silence in milliseconds after which its run counts as stalled.
    pub row: fn(&Summary, Timestamp, u64) -> Bytes,
    /// That a run is not in the list any longer.
    pub removed: fn(&RunId) -> Bytes,
}

/// A run whose row changed.
#[derive(Debug)]
pub struct RowNews {
    /// The run.
    pub run_id: RunId,
    /// What its row shows; `None` when there is no such run any longer.
    pub summary: Option<Arc<Summary>>,
    /// The moment that stands for now.
    pub at: Timestamp,
    /// The frame for lists that the run is in.
    pub row: Bytes,
    /// The frame for lists that it has left.
    pub removed: Bytes,
}

/// What a client's list has missed.
#[derive(Debug)]
pub enum ListNews {
    /// A row, as it is now.
    Row(Arc<RowNews>),
    /// More than was kept for it: the list has to be read again.
    Lost,
}

/// The lists of one tenant.
pub(super) struct Rows {
    source: Source,
    lists: Mutex<Lists>,
    /// Runs that may have changed and were not looked at yet.
    changed: Mutex<BTreeSet<RunId>>,
    poke: Notify,
}

/// Where rows come from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) store: Arc<dyn Store>,
    pub(super) who: Principal,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stall_after_ms: u64,
}

#[derive(Default)]
struct Lists {
    waiting: HashMap<u64, Arc<Waiting>>,
    next_id: u64,
    /// Runs while there are lists.
    task: Option<JoinHandle<()>>,
}

/// What one client's list has not taken.
struct Waiting {
    rows: Mutex<Missed>,
    bell: Arc<Notify>,
}

#[derive(Default)]
struct Missed {
    rows: BTreeMap<RunId, Arc<RowNews>>,
    is_lost: bool,
}

impl Waiting {
    fn put(&self, news: &Arc<RowNews>) {
        {
            let mut missed = held(&self.rows);
            if missed.rows.len() >= WAITING && !missed.rows.contains_key(&news.run_id) {
                missed.rows.clear();
                missed.is_lost = true;
            }
            missed.rows.insert(news.run_id.clone(), Arc::clone(news));
        }
        self.bell.notify_one();
    }

    fn lose(&self) {
        {
            let mut missed = held(&self.rows);
            missed.rows.clear();
            missed.is_lost = true;
        }
        self.bell.notify_one();
    }
}

impl Rows {
    pub(super) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self { source, lists: Mutex::default(), changed: Mutex::default(), poke: Notify::new() })
    }

    /// Takes note of a wake-up; nothing waits.
    pub(super) fn note(&self, change: &Change) {
        let lists = held(&self.lists);
        if lists.waiting.is_empty() {
            return;
        }
        match change {
            Change::Run(run_id) => {
                held(&self.changed).insert(run_id.clone());
                self.poke.notify_one();
            }
            Change::All => lists.waiting.values().for_each(|waiting| waiting.lose()),
        }
    }

    /// Every row that changes after this returned is told to the list.
    pub(super) fn list(self: &Arc<Self>, bell: &Arc<Notify>, render: RenderRows) -> Listed {
        let waiting = Arc::new(Waiting { rows: Mutex::default(), bell: Arc::clone(bell) });
        let mut lists = held(&self.lists);
        let id = lists.next_id;
        lists.next_id += 1;
        lists.waiting.insert(id, Arc::clone(&waiting));
        lists.task.get_or_insert_with(|| tokio::spawn(Teller::run(Arc::clone(self), render)));
        Listed { rows: Arc::clone(self), waiting, id }
    }

    fn tell(&self, news: &Arc<RowNews>) {
        held(&self.lists).waiting.values().for_each(|waiting| waiting.put(news));
    }
}

/// A client's list, until it is dropped.
pub struct Listed {
    rows: Arc<Rows>,
    waiting: Arc<Waiting>,
    id: u64,
}

impl Listed {
    /// The next thing that the list has missed.
    pub fn next(&self) -> Option<ListNews> {
        let mut missed = held(&self.waiting.rows);
        if std::mem::take(&mut missed.is_lost) {
            return Some(ListNews::Lost);
        }
        missed.rows.pop_first().map(|(_, news)| ListNews::Row(news))
    }

    /// Whether it has missed anything.
    pub fn is_behind(&self) -> bool {
        let missed = held(&self.waiting.rows);
        missed.is_lost || !missed.rows.is_empty()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut lists = held(&self.rows.lists);
        lists.waiting.remove(&self.id);
        if lists.waiting.is_empty() {
            lists.task.take().iter().for_each(JoinHandle::abort);
            held(&self.rows.changed).clear();
        }
    }
}

/// Looks at runs and tells their rows.
struct Teller {
    source: Source,
    render: RenderRows,
    /// When each run was told last, and the hash of how: wake-ups come in vain, most of them soon after another. For
    /// [`REMEMBERED`].
    told: HashMap<RunId, (Instant, u64)>,
    /// Runs that are to be looked at, and when.
    due: BTreeMap<RunId, Instant>,
    /// When live runs stall, in milliseconds since the epoch.
    stalls: BTreeSet<(i64, RunId)>,
    stall_of: HashMap<RunId, i64>,
    /// The runs that are live already are known.
    knows_live: bool,
}

impl Teller {
    /// Ends with the last list, by being dropped.
    async fn run(rows: Arc<Rows>, render: RenderRows) {
        let mut teller = Self {
            source: rows.source.clone(),
            render,
            told: HashMap::new(),
            due: BTreeMap::new(),
            stalls: BTreeSet::new(),
            stall_of: HashMap::new(),
            knows_live: false,
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = teller.due.values().min().copied();
            let until_due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = rows.poke.notified() => teller.note(std::mem::take(&mut *held(&rows.changed))),
                () = until_due => {}
                _ = tick.tick() => teller.look_at_clock().await,
            }
            teller.tell_due(&rows).await;
        }
    }

    fn note(&mut self, changed: BTreeSet<RunId>) {
        let now = Instant::now();
        for run_id in changed {
            let at = self.told.get(&run_id).map_or(now, |(told, _)| *told + ROW_EVERY);
            self.due.entry(run_id).or_insert(at);
        }
    }

    async fn look_at_clock(&mut self) {
        let now = self.source.clock.now().millis();
        if !self.knows_live {
            match self.learn_live().await {
                Ok(()) => self.knows_live = true,
                Err(error) => log::warn!("which runs are live is not known yet: {error}"),
            }
        }
        let begun = Instant::now();
        while let Some((at, run_id)) = self.stalls.pop_first() {
            if at > now {
                self.stalls.insert((at, run_id));
                break;
            }
            self.stall_of.remove(&run_id);
            self.due.entry(run_id).or_insert(begun);
        }
    }

    /// When the runs that are live now will stall.
    async fn learn_live(&mut self) -> Result<(), StoreError> {
        let filter = Filter { phase: Some(Phase::Live), ..everything(&self.source) };
        let mut position = ListPosition::Offset(0);
        loop {
            let query =
                ListQuery { filter: filter.clone(), sort: Sort::Started, order: Order::Desc, position, limit: PAGE };
            let page = self.source.store.list(&self.source.who, &query).await?;
            page.items.iter().for_each(|summary| self.mind_stall(&summary.run_id, Some(summary)));
            let Some(last) = page.items.last().filter(|_| page.more) else { return Ok(()) };
            position = ListPosition::After(Sort::Started.key(last));
        }
    }

    fn mind_stall(&mut self, run_id: &RunId, summary: Option<&Summary>) {
        if let Some(at) = self.stall_of.remove(run_id) {
            self.stalls.remove(&(at, run_id.clone()));
        }
        let now = self.source.clock.now();
        let after = i64::try_from(self.source.stall_after_ms).unwrap_or(i64::MAX);
        let live = summary.filter(|summary| summary.phase(now, self.source.stall_after_ms) == Phase::Live);
        if let Some(last) = live.and_then(|summary| summary.last_event) {
            let at = last.millis().saturating_add(after);
            self.stalls.insert((at, run_id.clone()));
            self.stall_of.insert(run_id.clone(), at);
        }
    }

    async fn tell_due(&mut self, rows: &Rows) {
        let now = Instant::now();
        self.told.retain(|_, (told, _)| now - *told < REMEMBERED);
        let ripe: Vec<RunId> = self.due.extract_if(.., |_, at| *at <= now).map(|(run_id, _)| run_id).collect();
        for (number, run_id) in (1..).zip(ripe) {
            match self.source.store.summary(&self.source.who, &run_id).await {
                Ok(summary) => {
                    self.mind_stall(&run_id, summary.as_deref());
                    let news = self.news(&run_id, summary);
                    let mut hasher = DefaultHasher::new();
                    news.row.hash(&mut hasher);
                    let hash = hasher.finish();
                    let told = self.told.insert(run_id, (Instant::now(), hash));
                    if told.is_none_or(|(_, told)| told != hash) {
                        rows.tell(&news);
                    }
                }
                Err(error) => {
                    log::warn!("the row of a run is not known yet: {error}");
                    self.due.insert(run_id, Instant::now() + TICK);
                }
            }
            if number % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn news(&self, run_id: &RunId, summary: Option<Arc<Summary>>) -> Arc<RowNews> {
        let at = self.source.clock.now();
        let stall_after_ms = self.source.stall_after_ms;
        let row = summary.as_ref().map(|summary| (self.render.row)(summary, at, stall_after_ms)).unwrap_or_default();
        Arc::new(RowNews { run_id: run_id.clone(), summary, at, row, removed: (self.render.removed)(run_id) })
    }
}

/// The filter that every run fits.
fn everything(source: &Source) -> Filter {
    Filter {
        now: source.clock.now(),
        stall_after_ms: source.stall_after_ms,
        without_agents: false,
        kind: None,
        phase: None,
        outcome: None,
        agent_id: None,
        node_id: None,
        parent: None,
        q: None,
        last_event_from: None,
        since: None,
        until: None,
        started_by: None,
    }
}
