//! Writing: a batch of lines, or a graph, in one transaction. Lines and what `reduce` makes of them change together, so
//! every reader sees both or neither.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::scope::{DatabaseError, TenantId, Transaction};
use crate::contract::{Appended, GraphPut, Part, StoreError, WrittenTo, align};
use crate::domain::id::sha256_hex;
use crate::domain::{Graph, LogId, RunId, Timestamp, parse_line};
use crate::reduce::{RunState, Summary};

/// A run's row, locked until the transaction ends.
struct LockedRun {
    run_id: RunId,
    state: RunState,
    graph: Option<(Bytes, String)>,
    deleted: bool,
    /// Whether this transaction adds lines.
    grown: bool,
}

/// The whole of an append, inside its transaction.
pub(super) async fn append(
    transaction: &Transaction,
    tenant: TenantId,
    batch: &[Part],
) -> Result<Appended, StoreError> {
    let run_ids: Vec<&RunId> = batch.iter().map(|part| &part.run_id).collect();
    let mut runs = lock(transaction, tenant, &run_ids).await?;
    let mut appended = Appended::default();
    let mut new_lines = NewLines::default();
    // In the batch's order, since its first part that does not fit is the one that is told.
    for part in batch {
        let run = runs.get_mut(&part.run_id).ok_or_else(vanished)?;
        if run.deleted {
            return Err(StoreError::Gone { run_id: run.run_id.clone() });
        }
        let duplicates = check_stored(transaction, part, run.state.next_seq).await?;
        let new = part.lines.get(duplicates..).unwrap_or_default();
        for line in new {
            let event = parse_line(line).map_err(|reason| StoreError::Failed(reason.into()))?;
            new_lines.run_ids.push(part.run_id.as_str());
            new_lines.seqs.push(signed(run.state.next_seq)?);
            new_lines.lines.push(line);
            run.state.fold(&event, line);
            run.grown = true;
        }
        appended.accepted += new.len() as u64;
        appended.duplicates += duplicates as u64;
        let end = WrittenTo { next_seq: run.state.next_seq, log_id: run.state.log_id.clone() };
        appended.runs.insert(run.run_id.clone(), end);
    }
    if appended.accepted > 0 {
        new_lines.insert(transaction, tenant).await?;
        save(transaction, runs.values().filter(|run| run.grown)).await?;
        let bytes = new_lines.lines.iter().map(|line| line.len() as u64 + 1).sum();
        count_usage(transaction, tenant, appended.accepted, bytes).await?;
    }
    Ok(appended)
}

/// The whole of a graph's first snapshot, inside its transaction.
pub(super) async fn put_graph(
    transaction: &Transaction,
    tenant: TenantId,
    run_id: &RunId,
    bytes: &Bytes,
) -> Result<GraphPut, StoreError> {
    let mut runs = lock(transaction, tenant, &[run_id]).await?;
    let run = runs.get_mut(run_id).ok_or_else(vanished)?;
    if run.deleted {
        return Err(StoreError::Gone { run_id: run_id.clone() });
    }
    match &run.graph {
        Some((kept, _)) if kept == bytes => return Ok(GraphPut::Same),
        Some(_) => return Err(StoreError::GraphConflict { run_id: run_id.clone() }),
        None => {}
    }
    let sha256 = sha256_hex(bytes);
    transaction
        .execute(
            "UPDATE runs SET graph = $2, graph_sha256 = $3 WHERE run_id = $1",
            &[(&run_id.as_str(), Type::TEXT), (&bytes.as_ref(), Type::BYTEA), (&sha256, Type::TEXT)],
        )
        .await?;
    run.graph = Some((bytes.clone(), sha256));
    save(transaction, std::iter::once(&*run)).await?;
    Ok(GraphPut::Created)
}

/// Makes the rows that are missing and locks all, both in the order of run_id, so that nobody waits in a circle. A
/// transaction that fails leaves no empty rows behind.
async fn lock(
    transaction: &Transaction,
    tenant: TenantId,
    run_ids: &[&RunId],
) -> Result<BTreeMap<RunId, LockedRun>, StoreError> {
    let names: Vec<&str> = run_ids.iter().map(|run_id| run_id.as_str()).collect();
    transaction
        .execute(
            "INSERT INTO runs (tenant_id, run_id) SELECT $1, run_id FROM unnest($2) AS run_id ORDER BY run_id COLLATE \"C\" \
             ON CONFLICT DO NOTHING",
            &[(&tenant.0, Type::UUID), (&names, Type::TEXT_ARRAY)],
        )
        .await?;
    let rows = transaction
        .query(
            "SELECT run_id, state, graph, graph_sha256, deleted_at IS NOT NULL FROM runs WHERE run_id = ANY ($1) \
             ORDER BY run_id FOR UPDATE",
            &[(&names, Type::TEXT_ARRAY)],
        )
        .await?;
    let mut runs = BTreeMap::new();
    for row in rows {
        let name: &str = row.try_get(0).map_err(DatabaseError::from)?;
        let state: &str = row.try_get(1).map_err(DatabaseError::from)?;
        let graph: Option<&[u8]> = row.try_get(2).map_err(DatabaseError::from)?;
        let sha256: Option<String> = row.try_get(3).map_err(DatabaseError::from)?;
        let run_id = RunId::parse(name).ok_or_else(|| DatabaseError::Unreadable(format!("run_id {name:?}")))?;
        let run = LockedRun {
            run_id: run_id.clone(),
            state: read_state(state)?,
            graph: graph.map(Bytes::copy_from_slice).zip(sha256),
            deleted: row.try_get(4).map_err(DatabaseError::from)?,
            grown: false,
        };
        runs.insert(run_id, run);
    }
    Ok(runs)
}

/// The state of a row; one that was only just made has none yet.
pub(super) fn read_state(text: &str) -> Result<RunState, DatabaseError> {
    if text.is_empty() {
        return Ok(RunState::default());
    }
    serde_json::from_str(text).map_err(|error| DatabaseError::Unreadable(format!("a run's state: {error}")))
}

/// Holds the part's first lines against what is stored; how many are stored already.
async fn check_stored(transaction: &Transaction, part: &Part, next_seq: u64) -> Result<usize, StoreError> {
    let stored = align::overlap(part, next_seq)?;
    if stored.is_empty() {
        return Ok(0);
    }
    let rows = transaction
        .query(
            "SELECT line FROM transitions WHERE run_id = $1 AND seq >= $2 AND seq < $3 ORDER BY seq",
            &[
                (&part.run_id.as_str(), Type::TEXT),
                (&signed(stored.start)?, Type::INT8),
                (&signed(stored.end)?, Type::INT8),
            ],
        )
        .await?;
    let lines =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&[u8]>, _>>().map_err(DatabaseError::from)?;
    if lines.len() as u64 != stored.end - stored.start {
        return Err(DatabaseError::Unreadable(format!("run {} lacks lines below seq {next_seq}", part.run_id)).into());
    }
    align::check_duplicates(part, lines)
}

/// The lines that a batch adds, over all its runs: one statement, however many these are.
#[derive(Default)]
struct NewLines<'a> {
    run_ids: Vec<&'a str>,
    seqs: Vec<i64>,
    lines: Vec<&'a [u8]>,
}

impl NewLines<'_> {
    async fn insert(&self, transaction: &Transaction, tenant: TenantId) -> Result<(), StoreError> {
        transaction
            .execute(
                "INSERT INTO transitions (tenant_id, run_id, seq, line) \
                 SELECT $1, run_id, seq, line FROM unnest($2, $3, $4) AS given (run_id, seq, line)",
                &[
                    (&tenant.0, Type::UUID),
                    (&self.run_ids, Type::TEXT_ARRAY),
                    (&self.seqs, Type::INT8_ARRAY),
                    (&self.lines, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }
}

/// Writes state and summary of each run, and the columns that lists use: copies of members whose pattern the parser has
/// checked, so that no event can bring a NUL here, which text columns do not take.
async fn save(transaction: &Transaction, runs: impl Iterator<Item = &LockedRun>) -> Result<(), StoreError> {
    let mut states = Vec::new();
    let mut summaries = Vec::new();
    for run in runs {
        let graph = match &run.graph {
            Some((bytes, sha256)) => {
                Some((Graph::parse(bytes).map_err(|error| StoreError::Failed(error.into()))?, sha256))
            }
            None => None,
        };
        let graph = graph.as_ref().map(|(graph, sha256)| (graph, sha256.as_str()));
        summaries.push(Summary::of(&run.run_id, &run.state, graph));
        states.push(json(&run.state)?);
    }
    // A parameter is an array with a member a run.
    fn each<'a, T>(summaries: &'a [Summary], member: impl Fn(&'a Summary) -> T) -> Vec<T> {
        summaries.iter().map(member).collect()
    }
    let next_seqs = summaries.iter().map(|run| signed(run.next_seq)).collect::<Result<Vec<_>, _>>()?;
    let jsons = summaries.iter().map(json).collect::<Result<Vec<_>, _>>()?;
    let parent = |run: &'_ Summary| run.parent.clone();
    transaction
        .execute(
            "UPDATE runs AS r SET next_seq = n.next_seq, log_id = n.log_id, summary = n.summary, state = n.state, \
             received_at = now(), changed = pg_current_xact_id(), kind = n.kind, outcome = n.outcome, \
             outcome_rank = n.outcome_rank, started = n.started, last_event = n.last_event, ended = n.ended, \
             duration_s = n.duration_s, agent_id = n.agent_id, parent_run_id = n.parent_run_id, \
             parent_node_id = n.parent_node_id, node_ids = n.node_ids::text[] \
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
             AS n (run_id, next_seq, log_id, summary, state, kind, outcome, outcome_rank, started, last_event, ended, \
             duration_s, agent_id, parent_run_id, parent_node_id, node_ids) \
             WHERE r.run_id = n.run_id",
            &[
                (&each(&summaries, |run| run.run_id.as_str()), Type::TEXT_ARRAY),
                (&next_seqs, Type::INT8_ARRAY),
                (&each(&summaries, |run| run.log_id.as_ref().map(LogId::as_str)), Type::TEXT_ARRAY),
                (&jsons, Type::TEXT_ARRAY),
                (&states, Type::TEXT_ARRAY),
                (&each(&summaries, |run| run.kind.map(|kind| kind.as_str())), Type::TEXT_ARRAY),
                (&each(&summaries, |run| run.outcome.map(|outcome| outcome.as_str())), Type::TEXT_ARRAY),
                (&each(&summaries, |run| run.outcome.map(|outcome| i16::from(outcome.rank()))), Type::INT2_ARRAY),
                (&each(&summaries, |run| run.started.map(Timestamp::millis)), Type::INT8_ARRAY),
                (&each(&summaries, |run| run.last_event.map(Timestamp::millis)), Type::INT8_ARRAY),
                (&each(&summaries, |run| run.ended.is_some()), Type::BOOL_ARRAY),
                (&each(&summaries, |run| run.duration_s), Type::FLOAT8_ARRAY),
                (&each(&summaries, |run| run.agent_id.as_deref()), Type::TEXT_ARRAY),
                (&each(&summaries, |run| parent(run).map(|parent| parent.run_id)), Type::TEXT_ARRAY),
                (&each(&summaries, |run| parent(run).and_then(|parent| parent.node_id)), Type::TEXT_ARRAY),
                (&each(&summaries, node_ids), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// A run's node ids as an array's text, since Postgres has no arrays of arrays of different lengths. Each in quotes: a
/// node may be called null. The pattern of a node id has no character that would need more.
fn node_ids(run: &Summary) -> String {
    let quoted: Vec<String> = run.node_results.iter().map(|node| format!("\"{}\"", node.node_id)).collect();
    format!("{{{}}}", quoted.join(","))
}

async fn count_usage(transaction: &Transaction, tenant: TenantId, events: u64, bytes: u64) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO usage AS u (tenant_id, day, events, bytes) VALUES ($1, (now() AT TIME ZONE 'utc')::date, $2, $3) \
             ON CONFLICT (tenant_id, day) DO UPDATE SET events = u.events + excluded.events, bytes = u.bytes + excluded.bytes",
            &[(&tenant.0, Type::UUID), (&signed(events)?, Type::INT8), (&signed(bytes)?, Type::INT8)],
        )
        .await?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Failed(error.into()))
}

/// Postgres has no unsigned integers; no log gets that long.
pub(super) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|error| StoreError::Failed(error.into()))
}

/// Retention took the row between our two statements.
fn vanished() -> StoreError {
    DatabaseError::Lost("the run was deleted in this moment".to_owned()).into()
}
