//! What a row keeps of a run beside its lines: the summary, the state as it was some lines ago, the graph. Both summary and state
//! are of a certain fold; what another one made, or what cannot be read, is made again from the lines.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;

use super::cache::{Held, HotRun};
use super::lines::{self, Ask, Span};
use super::scope::DatabaseError;
use crate::contract::StoreError;
use crate::domain::{Graph, LogId, RunId, parse_line};
use crate::reduce::{REDUCER_VERSION, RunState, Summary};

/// A state is written again once the lines behind it are so many,
const TAIL_LINES: u64 = 1_000;
/// or so many bytes,
const TAIL_BYTES: u64 = 256 * 1024;

/// The fold that made what this program writes.
pub(super) fn fold_version() -> i32 {
    i32::try_from(REDUCER_VERSION).unwrap_or(i32::MAX)
}

/// The columns of [`Stored`]. Of a version that is known already (an expression for its `changed`, as text) the long ones stay
/// where they are.
pub(super) fn columns(known: &str) -> String {
    let long = |name: &str| format!("CASE WHEN r.changed = ({known})::text::xid8 THEN NULL ELSE r.{name} END");
    format!(
        "r.run_id, r.changed::text, r.next_seq, r.log_id, r.state_seq, r.tail_bytes, octet_length(r.state)::bigint, r.fold_version, \
         r.deleted_at IS NOT NULL, coalesce(r.changed = ({known})::text::xid8, false), {}, {}, {}, r.graph_sha256",
        long("summary"),
        long("state"),
        long("graph"),
    )
}

/// The row of one run that is not deleted; `known` is an expression for the version that is held.
pub(super) fn one_run(known: &str) -> String {
    format!("SELECT {} FROM runs AS r WHERE r.run_id = $1 AND r.deleted_at IS NULL", columns(known))
}

/// A row of [`columns`].
pub(super) struct Stored {
    pub(super) run_id: RunId,
    /// The transaction that wrote it: one version of the row.
    pub(super) changed: u64,
    pub(super) next_seq: u64,
    pub(super) log_id: Option<LogId>,
    pub(super) deleted: bool,
    /// What stands in the row of the state, and since when.
    pub(super) snapshot: Snapshotted,
    /// The asked-for version is this one, and what follows is not filled.
    pub(super) is_known: bool,
    /// The state after its first `state.next_seq` lines.
    pub(super) state: RunState,
    /// `None` where it has to be made again.
    pub(super) summary: Option<Arc<Summary>>,
    /// The graph and the SHA-256 of its bytes.
    pub(super) graph: Option<(Arc<Graph>, String)>,
}

/// The state that a row holds: how far it goes, and how long it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Snapshotted {
    /// How many lines are folded into it.
    pub(super) seq: u64,
    /// The bytes of the lines behind them, with their LFs.
    pub(super) tail_bytes: u64,
    bytes: u64,
    /// It is of another fold, or cannot be read.
    pub(super) is_stale: bool,
}

impl Snapshotted {
    /// Whether the state of a run of so many lines should be written again. The tail has to be as long as what would be written,
    /// so that a run whose state grows with it is not written more and more often than it grows.
    pub(super) fn is_due(&self, next_seq: u64) -> bool {
        let tail = next_seq.saturating_sub(self.seq);
        self.is_stale || ((tail >= TAIL_LINES || self.tail_bytes >= TAIL_BYTES) && self.tail_bytes >= self.bytes)
    }

    /// The state is written, as far as the run goes.
    pub(super) fn written(next_seq: u64) -> Self {
        Self { seq: next_seq, ..Self::default() }
    }
}

/// So long a graph is read where it is. A longer one is read by a thread that may take its time: a worker has other clients.
const SHORT_GRAPH: usize = 64 * 1024;

/// Reads the bytes of a graph that was accepted.
pub(super) async fn read_graph(run_id: &RunId, bytes: &[u8]) -> Result<Graph, DatabaseError> {
    let unreadable = |why: String| DatabaseError::Unreadable(format!("the graph of run {run_id}: {why}"));
    let read = if bytes.len() <= SHORT_GRAPH {
        Graph::parse(bytes)
    } else {
        let bytes = bytes.to_vec();
        let reading = tokio::task::spawn_blocking(move || Graph::parse(&bytes));
        reading.await.map_err(|error| unreadable(error.to_string()))?
    };
    read.map_err(|error| unreadable(error.to_string()))
}

impl Stored {
    pub(super) async fn of(row: &Row) -> Result<Self, DatabaseError> {
        let name: &str = row.try_get(0)?;
        let run_id = RunId::parse(name).ok_or_else(|| DatabaseError::Unreadable(format!("run_id {name:?}")))?;
        let log_id: Option<&str> = row.try_get(3)?;
        let version: i32 = row.try_get(7)?;
        let is_known: bool = row.try_get(9)?;
        let next_seq = count(row, 2)?;
        let mut snapshot = Snapshotted {
            seq: count(row, 4)?,
            tail_bytes: count(row, 5)?,
            bytes: count(row, 6)?,
            is_stale: next_seq > 0 && version != fold_version(),
        };
        let mut summary = None;
        let mut state = RunState::default();
        if !is_known {
            let (text, state_text): (&str, &str) = (row.try_get(10)?, row.try_get(11)?);
            summary = summary_of(&run_id, text, version);
            match state_of(&run_id, state_text, version).filter(|state| state.next_seq == snapshot.seq) {
                Some(kept) if kept.next_seq <= next_seq => state = kept,
                _ => snapshot.is_stale = true,
            }
        }
        let graph = match row.try_get(12)? {
            Some(bytes) => Some(read_graph(&run_id, bytes).await?),
            None => None,
        };
        let sha256: Option<String> = row.try_get(13)?;
        Ok(Self {
            changed: version_of(row, 1)?,
            next_seq,
            log_id: log_id.map(LogId::from_kept),
            deleted: row.try_get(8)?,
            snapshot,
            is_known,
            state,
            summary,
            graph: graph.map(Arc::new).zip(sha256),
            run_id,
        })
    }

    /// The lines that are missing in the state.
    pub(super) fn tail(&self) -> Span {
        Span { run_id: self.run_id.clone(), from: self.state.next_seq, to: self.next_seq }
    }

    /// The whole run, once its lines are read as far as they are missing.
    pub(super) async fn whole(mut self, ask: &(impl Ask + ?Sized)) -> Result<Held, StoreError> {
        let tail = self.tail();
        lines::each(ask, vec![tail], |_, line| Ok(fold(&mut self.state, &self.run_id, &line)?)).await?;
        Ok(self.held())
    }

    /// The run, whose state is whole.
    pub(super) fn held(self) -> Held {
        let graph = self.graph.as_ref().map(|(graph, sha256)| (&**graph, sha256.as_str()));
        let summary = self.summary.unwrap_or_else(|| Arc::new(Summary::of(&self.run_id, &self.state, graph)));
        let run = HotRun { state: Arc::new(self.state), graph: self.graph.map(|(graph, _)| graph) };
        Held { changed: self.changed, summary, run: Some(run) }
    }
}

/// Folds a stored line.
pub(super) fn fold(state: &mut RunState, run_id: &RunId, line: &Bytes) -> Result<(), DatabaseError> {
    let event = parse_line(line).map_err(|reason| {
        DatabaseError::Unreadable(format!("the line at seq {} of run {run_id}: {reason}", state.next_seq))
    })?;
    state.fold(&event, line);
    Ok(())
}

/// A row's summary, if it is of this fold and can be read. A run that was only just made has none yet.
pub(super) fn summary_of(run_id: &RunId, text: &str, version: i32) -> Option<Arc<Summary>> {
    if version != fold_version() || text.is_empty() {
        return None;
    }
    serde_json::from_str(text).map_err(|error| told("summary", run_id, &error)).ok()
}

/// A row's state, likewise; a run without any line or with few has none.
fn state_of(run_id: &RunId, text: &str, version: i32) -> Option<RunState> {
    if text.is_empty() {
        return Some(RunState::default());
    }
    if version != fold_version() {
        return None;
    }
    serde_json::from_str(text).map_err(|error| told("state", run_id, &error)).ok()
}

fn told(what: &str, run_id: &RunId, error: &serde_json::Error) {
    log::warn!(
        "the {what} of run {run_id} cannot be read ({error}) and is made again from its lines; `kahn reindex` mends it"
    );
}

/// A version of a row, out of a column of text.
pub(super) fn version_of(row: &Row, place: usize) -> Result<u64, DatabaseError> {
    let text: &str = row.try_get(place)?;
    text.parse().map_err(|_| DatabaseError::Unreadable(format!("a row's version {text:?}")))
}

fn count(row: &Row, place: usize) -> Result<u64, DatabaseError> {
    let number: i64 = row.try_get(place)?;
    u64::try_from(number).map_err(|_| DatabaseError::Unreadable(format!("a count of {number}")))
}
