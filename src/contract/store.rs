//! Where logs are kept. A store keeps lines and, beside them, what `reduce` made of them; it computes no figure of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{ListPage, ListQuery, Principal, Selection};
use crate::domain::{Graph, Ledger, LogId, Problem, RunId};
use crate::reduce::{RunState, Summary};

/// Logs, graphs, and what was made of them.
///
/// Laws, for every method:
///
/// - A run that is not the principal's does not exist: `None`, the same as one that nobody has.
/// - One answer is of one moment: its members (log_id, lines, next_seq, state, summary) fit each other.
/// - What [`Store::append`] acknowledged is durable, and every later answer to the same principal shows it.
#[async_trait]
pub trait Store: Send + Sync {
    /// A page of summaries, filtered, ordered and counted as the query says.
    async fn list(&self, who: &Principal, query: &ListQuery) -> Result<ListPage, StoreError>;

    /// The summaries of all runs that are selected, by start, then run_id, both rising; runs without a start come last. They
    /// come some at a time, since nobody has to hold all of them, and are all of one moment.
    async fn summaries(&self, who: &Principal, selection: Selection) -> Result<Summaries, StoreError>;

    /// What lists show of one run.
    async fn summary(&self, who: &Principal, run_id: &RunId) -> Result<Option<Arc<Summary>>, StoreError>;

    /// The state of one run after its last event, with its graph.
    async fn load(&self, who: &Principal, run_id: &RunId) -> Result<Option<Loaded>, StoreError>;

    /// The runs whose parent is this run, by start, then run_id.
    async fn spawned(&self, who: &Principal, run_id: &RunId) -> Result<Vec<Spawned>, StoreError>;

    /// Kept lines from `from_seq` on, byte for byte; none when the log is shorter. At least one when there is one.
    async fn read(
        &self,
        who: &Principal,
        run_id: &RunId,
        from_seq: u64,
        limit: ReadLimit,
    ) -> Result<Option<Lines>, StoreError>;

    /// graph.json's bytes; the inner `None` is a run without one (or with one that counts as absent).
    async fn graph(&self, who: &Principal, run_id: &RunId) -> Result<Option<Option<GraphFile>>, StoreError>;

    /// Keeps the graph of a run, once. The bytes were accepted by [`Graph::parse`].
    ///
    /// # Errors
    ///
    /// [`StoreError::GraphConflict`] when other bytes are kept already; equal bytes are [`GraphPut::Same`].
    async fn put_graph(&self, who: &Principal, run_id: &RunId, bytes: Bytes) -> Result<GraphPut, StoreError>;

    /// Appends a batch, all of it or nothing, aligned by content (see [`super::align`]); returns when it is durable.
    ///
    /// Parts name different runs. The first part that does not fit gives the error.
    async fn append(&self, who: &Principal, batch: Vec<Part>) -> Result<Appended, StoreError>;

    /// The ledger and the skipped lines of one run.
    async fn problems(&self, who: &Principal, run_id: &RunId) -> Result<Option<Problems>, StoreError>;

    /// A wake-up whenever a run of this principal may have changed. It may wake in vain, never fail to wake:
    /// a change that happened after this call returned is followed by an item.
    async fn follow(&self, who: &Principal) -> Result<Changes, StoreError>;

    /// Tells answers that are still good from others: while it stays the same number, [`Store::list`] and
    /// [`Store::summaries`] (of everything), or [`Store::load`], [`Store::spawned`] and [`Store::read`] (of a run), give this
    /// principal what they gave before. `None`: the store cannot tell at once, or there is no such run.
    ///
    /// It only ever grows, and has grown before anybody is told of the change: by an acknowledged write, or by
    /// [`Store::follow`].
    fn revision(&self, who: &Principal, of: About<'_>) -> Option<u64>;

    /// Whether the storage answers.
    async fn ready(&self) -> Result<(), StoreError>;

    /// How the storage is doing, as far as that is known without asking it.
    fn vitals(&self) -> Vitals {
        Vitals::default()
    }
}

/// How a storage is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Its connections, where it has such.
    pub connections: Option<Connections>,
    /// What it holds in memory, where that is a cache.
    pub cache: Option<CacheVitals>,
    /// What was asked of it, where that is counted.
    pub calls: Vec<CallVitals>,
}

/// How the calls of one name went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallVitals {
    /// The name, of a fixed set.
    pub name: &'static str,
    /// How many there were.
    pub calls: u64,
    /// How many got no answer, or an error.
    pub failed: u64,
    /// How often one was run again.
    pub retried: u64,
    /// How long all of them took.
    pub time: std::time::Duration,
}

/// The connections of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// At work.
    pub busy: u64,
    /// Open, with nothing to do.
    pub idle: u64,
    /// How many there may be.
    pub most: u64,
    /// Requests that wait for one.
    pub waiting: u64,
}

/// What is held in memory, and how often it was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheVitals {
    /// How many things.
    pub entries: u64,
    /// The bytes that they count as.
    pub bytes: u64,
    /// Times that something was found.
    pub hits: u64,
    /// Times that it was not.
    pub misses: u64,
}

/// What a revision is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About<'a> {
    /// All runs of the principal.
    Everything,
    /// One run, and the runs that it started.
    Run(&'a RunId),
}

/// Summaries, some at a time. Behind an error nothing comes.
pub type Summaries = BoxStream<'static, Result<Vec<Arc<Summary>>, StoreError>>;

/// A stream of wake-ups; it ends when the store stops.
pub type Changes = BoxStream<'static, Change>;

/// Which run to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This one.
    Run(RunId),
    /// Any of them: wake-ups were coalesced or dropped.
    All,
}

/// A run as it is now.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its summary.
    pub summary: Arc<Summary>,
    /// The fold of all its events.
    pub state: Arc<RunState>,
    /// Its graph, as far as it can be used.
    pub graph: Option<Arc<Graph>>,
}

/// A run that another one started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawned {
    /// The child.
    pub run_id: RunId,
    /// The parent's node.
    pub node_id: Option<String>,
}

/// How much one read may give: it stops after so many lines, or with the line that passes so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Lines.
    pub lines: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Lines of one log.
#[derive(Debug, Clone)]
pub struct Lines {
    /// The log they are of; `None` when it has no kept line.
    pub log_id: Option<LogId>,
    /// How many kept lines the log has.
    pub next_seq: u64,
    /// Grows whenever lines that were given are not the log's any more: only where it is the same number do lines fit those
    /// that were read before. A store that never changes a line says 0.
    pub generation: u64,
    /// The lines, without LF; the first one has the seq that was asked for.
    pub lines: Vec<Bytes>,
}

/// graph.json as it was written.
#[derive(Debug, Clone)]
pub struct GraphFile {
    /// Its bytes.
    pub bytes: Bytes,
    /// Their SHA-256, in hex.
    pub sha256: String,
}

/// What became of a graph that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphPut {
    /// It is kept now.
    Created,
    /// The same bytes were kept already.
    Same,
}

/// One run's share of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    /// The run.
    pub run_id: RunId,
    /// The seq of its first line.
    pub from_seq: u64,
    /// Lines without LF, each accepted by [`crate::domain::parse_line`] and of this run; at least one.
    pub lines: Vec<Bytes>,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Lines that are new.
    pub accepted: u64,
    /// Lines that were stored already.
    pub duplicates: u64,
    /// Where each run's log goes on.
    pub runs: BTreeMap<RunId, WrittenTo>,
}

/// Where a log goes on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WrittenTo {
    /// The seq of the next line.
    pub next_seq: u64,
    /// The log.
    pub log_id: Option<LogId>,
}

/// The ledger and the first skipped lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// What became of every line.
    pub ledger: Ledger,
    /// The first [`MAX_PROBLEMS`], in line order, those of graph.json first.
    pub items: Vec<Problem>,
    /// Whether there are more.
    pub truncated: bool,
}

/// How many problems an answer lists.
pub const MAX_PROBLEMS: usize = 1000;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A stored line differs from the batch's.
    #[error("run {run_id} has another line at seq {seq}; history is never rewritten")]
    Conflict {
        /// The run.
        run_id: RunId,
        /// The first seq that differs.
        seq: u64,
    },
    /// The batch begins behind the end of the log.
    #[error("run {run_id} goes on at seq {next_seq}; send the lines from there")]
    Gap {
        /// The run.
        run_id: RunId,
        /// Where it goes on.
        next_seq: u64,
    },
    /// Another program writes this run's log.
    #[error("run {run_id} was written by another program; kahn appends only to runs of its own")]
    ForeignLog {
        /// The run.
        run_id: RunId,
    },
    /// Other graph bytes are kept already.
    #[error("run {run_id} has another graph; it is written once")]
    GraphConflict {
        /// The run.
        run_id: RunId,
    },
    /// The run was deleted and may still be restored.
    #[error("run {run_id} was deleted")]
    Gone {
        /// The run.
        run_id: RunId,
    },
    /// What is kept of the runs that a batch names is too much for one transaction.
    #[error("what is kept of this batch's runs passes {limit} bytes; send fewer runs in a batch")]
    TooMuch {
        /// The most that it may be.
        limit: usize,
    },
    /// The store takes no writes.
    #[error("this archive is served read-only")]
    ReadOnly,
    /// The disk took no more; what was not acknowledged may be sent again.
    #[error("the disk is full or failing")]
    NoSpace(#[source] std::io::Error),
    /// Try again: nothing is known to be stored, and sending it again does not double it.
    #[error("the storage does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read.
    #[error("the storage failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}
