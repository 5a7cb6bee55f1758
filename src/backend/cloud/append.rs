//! Writing: a batch of lines, or a graph, in one transaction. Lines and what `reduce` makes of them change together, so
//! every reader sees both or neither.

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::scope::{DatabaseError, TenantId, Transaction};
use crate::contract::{Appended, GraphPut, Part, StoreError, WrittenTo, align};
use crate::domain::id::sha256_hex;
use crate::domain::{Graph, RunId, parse_line};
use crate::reduce::{RunState, Summary};

/// A run's row, locked until the transaction ends.
struct LockedRun {
    run_id: RunId,
    state: RunState,
    graph: Option<(Bytes, String)>,
    deleted: bool,
}

/// The whole of an append, inside its transaction.
pub(super) async fn append(
    transaction: &Transaction,
    tenant: TenantId,
    batch: &[Part],
) -> Result<Appended, StoreError> {
    let mut run_ids: Vec<&RunId> = batch.iter().map(|part| &part.run_id).collect();
    // Everybody locks in this order, so nobody waits in a circle.
    run_ids.sort_unstable();
    let mut runs = lock(transaction, tenant, &run_ids).await?;
    let mut appended = Appended::default();
    let mut new_bytes = 0;
    // In the batch's order, since its first part that does not fit is the one that is told.
    for part in batch {
        let run = runs.iter_mut().find(|run| run.run_id == part.run_id).ok_or_else(vanished)?;
        if run.deleted {
            return Err(StoreError::Gone { run_id: run.run_id.clone() });
        }
        let before = run.state.next_seq;
        let duplicates = check_stored(transaction, part, before).await?;
        let new = part.lines.get(duplicates..).unwrap_or_default();
        for line in new {
            let event = parse_line(line).map_err(|reason| StoreError::Failed(reason.into()))?;
            run.state.fold(&event, line);
        }
        if !new.is_empty() {
            insert_lines(transaction, tenant, &run.run_id, before, new).await?;
            save(transaction, run).await?;
        }
        appended.accepted += new.len() as u64;
        appended.duplicates += duplicates as u64;
        new_bytes += new.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        let end = WrittenTo { next_seq: run.state.next_seq, log_id: run.state.log_id.clone() };
        appended.runs.insert(run.run_id.clone(), end);
    }
    if appended.accepted > 0 {
        count_usage(transaction, tenant, appended.accepted, new_bytes).await?;
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
    let run = runs.first_mut().ok_or_else(vanished)?;
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
    save(transaction, run).await?;
    Ok(GraphPut::Created)
}

/// Makes the rows that are missing and locks all; a transaction that fails leaves no empty ones behind.
async fn lock(transaction: &Transaction, tenant: TenantId, run_ids: &[&RunId]) -> Result<Vec<LockedRun>, StoreError> {
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
    let mut runs = Vec::with_capacity(rows.len());
    for row in rows {
        let name: &str = row.try_get(0).map_err(DatabaseError::from)?;
        let state: &str = row.try_get(1).map_err(DatabaseError::from)?;
        let graph: Option<&[u8]> = row.try_get(2).map_err(DatabaseError::from)?;
        let sha256: Option<String> = row.try_get(3).map_err(DatabaseError::from)?;
        runs.push(LockedRun {
            run_id: RunId::parse(name).ok_or_else(|| DatabaseError::Unreadable(format!("run_id {name:?}")))?,
            state: read_state(state)?,
            graph: graph.map(Bytes::copy_from_slice).zip(sha256),
            deleted: row.try_get(4).map_err(DatabaseError::from)?,
        });
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

async fn insert_lines(
    transaction: &Transaction,
    tenant: TenantId,
    run_id: &RunId,
    from_seq: u64,
    lines: &[Bytes],
) -> Result<(), StoreError> {
    let lines: Vec<&[u8]> = lines.iter().map(AsRef::as_ref).collect();
    transaction
        .execute(
            "INSERT INTO transitions (tenant_id, run_id, seq, line) \
             SELECT $1, $2, $3 + place - 1, line FROM unnest($4) WITH ORDINALITY AS given (line, place)",
            &[
                (&tenant.0, Type::UUID),
                (&run_id.as_str(), Type::TEXT),
                (&signed(from_seq)?, Type::INT8),
                (&lines, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Writes state and summary, and the columns that lists use: copies of members whose pattern the parser has checked, so
/// that no event can bring a NUL here, which text columns do not take.
async fn save(transaction: &Transaction, run: &LockedRun) -> Result<(), StoreError> {
    let graph = match &run.graph {
        Some((bytes, sha256)) => Some((Graph::parse(bytes).map_err(|error| StoreError::Failed(error.into()))?, sha256)),
        None => None,
    };
    let summary = Summary::of(&run.run_id, &run.state, graph.as_ref().map(|(graph, sha256)| (graph, sha256.as_str())));
    let state_json = json(&run.state)?;
    let summary_json = json(&summary)?;
    let node_ids: Vec<String> = summary.node_results.iter().map(|node| node.node_id.clone()).collect();
    let parent = summary.parent.as_ref();
    transaction
        .execute(
            "UPDATE runs SET next_seq = $2, log_id = $3, summary = $4, state = $5, received_at = now(), \
             changed = pg_current_xact_id(), kind = $6, outcome = $7, outcome_rank = $8, started = $9, last_event = $10, \
             ended = $11, duration_s = $12, agent_id = $13, parent_run_id = $14, parent_node_id = $15, node_ids = $16 \
             WHERE run_id = $1",
            &[
                (&run.run_id.as_str(), Type::TEXT),
                (&signed(summary.next_seq)?, Type::INT8),
                (&summary.log_id.as_ref().map(|log_id| log_id.as_str()), Type::TEXT),
                (&summary_json, Type::TEXT),
                (&state_json, Type::TEXT),
                (&summary.kind.map(|kind| kind.as_str()), Type::TEXT),
                (&summary.outcome.map(|outcome| outcome.as_str()), Type::TEXT),
                (&summary.outcome.map(|outcome| i16::from(outcome.rank())), Type::INT2),
                (&summary.started.map(|moment| moment.millis()), Type::INT8),
                (&summary.last_event.map(|moment| moment.millis()), Type::INT8),
                (&summary.ended.is_some(), Type::BOOL),
                (&summary.duration_s, Type::FLOAT8),
                (&summary.agent_id, Type::TEXT),
                (&parent.map(|parent| parent.run_id.as_str()), Type::TEXT),
                (&parent.and_then(|parent| parent.node_id.as_deref()), Type::TEXT),
                (&node_ids, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
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
