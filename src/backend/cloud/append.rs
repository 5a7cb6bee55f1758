//! Writing: a batch of lines, or a graph, in one transaction. Lines and what `reduce` makes of them change together, so
//! every reader sees both or neither.
//!
//! A batch takes three trips however many runs it names: the rows are made and locked; what is written is sent; COMMIT. One more
//! where lines have to be read, because they are sent again or because the state of a run is not held.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{join, join3};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::cache::{Held, HotRun, Runs};
use super::lines::{self, NewLines, Span, signed};
use super::scope::{DatabaseError, TenantId, Transaction};
use super::stored::{self, Snapshotted, Stored, fold};
use crate::contract::{Appended, GraphPut, Part, StoreError, WrittenTo, align};
use crate::domain::id::sha256_hex;
use crate::domain::{Graph, LogId, RunId, Timestamp, parse_line};
use crate::reduce::{RunState, Summary};

/// A run's row, locked until the transaction ends.
pub(super) struct LockedRun {
    run_id: RunId,
    state: Arc<RunState>,
    snapshot: Snapshotted,
    /// The graph and the SHA-256 of its bytes.
    graph: Option<(Arc<Graph>, String)>,
    deleted: bool,
    /// How many lines are stored.
    next_seq: u64,
    /// Whether this transaction adds lines.
    grown: bool,
}

impl LockedRun {
    /// A run whose state was made again, as far as its lines go.
    pub(super) fn again(stored: Stored) -> Self {
        Self {
            run_id: stored.run_id,
            state: Arc::new(stored.state),
            snapshot: stored.snapshot,
            graph: stored.graph,
            deleted: stored.deleted,
            next_seq: stored.next_seq,
            grown: false,
        }
    }
}

/// What a transaction wrote: runs to be held once it is committed.
pub(super) type Written = Vec<Held>;

/// The whole of an append, inside its transaction.
pub(super) async fn append(
    transaction: &Transaction,
    (tenant, held): (TenantId, &Runs),
    batch: &[Part],
) -> Result<(Appended, Written), StoreError> {
    let run_ids: Vec<&RunId> = batch.iter().map(|part| &part.run_id).collect();
    let mut runs = lock(transaction, (tenant, held), &run_ids).await?;
    let stored = check_stored(transaction, &mut runs, batch).await?;
    let mut appended = Appended::default();
    let mut new_lines = NewLines::default();
    for (part, duplicates) in batch.iter().zip(stored) {
        let run = runs.get_mut(&part.run_id).ok_or_else(vanished)?;
        let new = part.lines.get(duplicates..).unwrap_or_default();
        if !new.is_empty() {
            run.grown = true;
            let state = Arc::make_mut(&mut run.state);
            for line in new {
                let event = parse_line(line).map_err(|reason| StoreError::Failed(reason.into()))?;
                new_lines.push(&part.run_id, state.next_seq, line)?;
                run.snapshot.tail_bytes += line.len() as u64 + 1;
                state.fold(&event, line);
            }
        }
        appended.accepted += new.len() as u64;
        appended.duplicates += duplicates as u64;
        let end = WrittenTo { next_seq: run.state.next_seq, log_id: run.state.log_id.clone() };
        appended.runs.insert(run.run_id.clone(), end);
    }
    if appended.accepted == 0 {
        return Ok((appended, Written::new()));
    }
    let (inserted, saved, counted) = join3(
        new_lines.insert(transaction, tenant),
        save(transaction, runs.into_values().filter(|run| run.grown)),
        count_usage(transaction, tenant, (appended.accepted, new_lines.bytes())),
    )
    .await;
    inserted?;
    let written = saved?;
    counted?;
    Ok((appended, written))
}

/// The whole of a graph's first snapshot, inside its transaction.
pub(super) async fn put_graph(
    transaction: &Transaction,
    (tenant, held): (TenantId, &Runs),
    run_id: &RunId,
    bytes: &Bytes,
) -> Result<(GraphPut, Written), StoreError> {
    let mut runs = lock(transaction, (tenant, held), &[run_id]).await?;
    let run = runs.get_mut(run_id).ok_or_else(vanished)?;
    if run.deleted {
        return Err(StoreError::Gone { run_id: run_id.clone() });
    }
    let sha256 = sha256_hex(bytes);
    match &run.graph {
        Some((_, kept)) if *kept == sha256 => return Ok((GraphPut::Same, Written::new())),
        Some(_) => return Err(StoreError::GraphConflict { run_id: run_id.clone() }),
        None => {}
    }
    check_stored(transaction, &mut runs, &[]).await?;
    transaction
        .execute(
            "UPDATE runs SET graph = $2, graph_sha256 = $3 WHERE run_id = $1",
            &[(&run_id.as_str(), Type::TEXT), (&bytes.as_ref(), Type::BYTEA), (&sha256, Type::TEXT)],
        )
        .await?;
    let graph = stored::read_graph(run_id, bytes).await?;
    let graph = Some((Arc::new(graph), sha256));
    let written = save(transaction, runs.into_values().map(|run| LockedRun { graph: graph.clone(), ..run })).await?;
    Ok((GraphPut::Created, written))
}

/// Makes the rows that are missing and locks all, both in the order of run_id, so that nobody waits in a circle. A
/// transaction that fails leaves no empty rows behind.
async fn lock(
    transaction: &Transaction,
    (tenant, held): (TenantId, &Runs),
    run_ids: &[&RunId],
) -> Result<BTreeMap<RunId, LockedRun>, StoreError> {
    let names: Vec<&str> = run_ids.iter().map(|run_id| run_id.as_str()).collect();
    if names.len() > FEW {
        weigh(transaction, &names).await?;
    }
    let hot: Vec<Option<Held>> =
        run_ids.iter().map(|run_id| held.get(tenant, run_id).filter(|held| held.run.is_some())).collect();
    let known: Vec<Option<String>> =
        hot.iter().map(|held| held.as_ref().map(|held| held.changed.to_string())).collect();
    let sql = format!(
        "SELECT {} FROM runs AS r JOIN unnest($1, $2) AS known (run_id, changed) ON r.run_id = known.run_id \
         ORDER BY r.run_id FOR UPDATE OF r",
        stored::columns("known.changed")
    );
    let of_missing = [(&tenant.0 as _, Type::UUID), (&names as _, Type::TEXT_ARRAY)];
    let of_all = [(&names as _, Type::TEXT_ARRAY), (&known as _, Type::TEXT_ARRAY)];
    let (made, rows) = join(
        transaction.execute(
            "INSERT INTO runs (tenant_id, run_id) SELECT $1, run_id FROM unnest($2) AS run_id ORDER BY run_id COLLATE \"C\" \
             ON CONFLICT DO NOTHING",
            &of_missing,
        ),
        transaction.query(&sql, &of_all),
    )
    .await;
    made?;
    let mut hot: BTreeMap<&RunId, Held> =
        run_ids.iter().copied().zip(hot).filter_map(|(id, held)| Some((id, held?))).collect();
    let mut runs = BTreeMap::new();
    for row in rows? {
        let stored = Stored::of(&row).await?;
        let run = match hot.remove(&stored.run_id).filter(|_| stored.is_known) {
            Some(Held { summary, run: Some(HotRun { state, graph }), .. }) => LockedRun {
                graph: graph.zip(summary.graph_sha256.clone()),
                state,
                snapshot: stored.snapshot,
                deleted: stored.deleted,
                next_seq: stored.next_seq,
                run_id: stored.run_id,
                grown: false,
            },
            _ => LockedRun::again(stored),
        };
        runs.insert(run.run_id.clone(), run);
    }
    Ok(runs)
}

/// So few runs are locked without a look at how much is kept of them: a graph has 8 MiB at the most.
const FEW: usize = 8;
/// So much may be kept of the runs of one batch: all of it is in memory until COMMIT.
const MOST_KEPT: usize = 64 * 1024 * 1024;

/// Refuses a batch whose runs would take too much memory.
async fn weigh(transaction: &Transaction, names: &[&str]) -> Result<(), StoreError> {
    let sql = "SELECT octet_length(state) + octet_length(summary) + coalesce(octet_length(graph), 0) FROM runs WHERE run_id = ANY ($1)";
    let rows = transaction.query(sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    let mut kept = 0;
    for row in &rows {
        kept += usize::try_from(row.try_get::<_, i32>(0).map_err(DatabaseError::from)?).unwrap_or_default();
    }
    if kept > MOST_KEPT { Err(StoreError::TooMuch { limit: MOST_KEPT }) } else { Ok(()) }
}

/// Reads what is stored, of all runs at once: folds what is missing of their states, and holds the parts' first lines against
/// what they repeat. How many lines of each part are stored already.
///
/// # Errors
///
/// That of the first part that does not fit.
async fn check_stored(
    transaction: &Transaction,
    runs: &mut BTreeMap<RunId, LockedRun>,
    batch: &[Part],
) -> Result<Vec<usize>, StoreError> {
    let mut duplicates = Vec::with_capacity(batch.len());
    let mut misfit = None;
    let mut spans: Vec<Span> = Vec::new();
    for part in batch {
        let run = runs.get(&part.run_id).ok_or_else(vanished)?;
        let gone = || StoreError::Gone { run_id: part.run_id.clone() };
        let overlap = if run.deleted { Err(gone()) } else { align::overlap(part, run.next_seq) };
        match overlap {
            Ok(overlap) => {
                duplicates.push(usize::try_from(overlap.end - overlap.start).unwrap_or(usize::MAX));
                spans.push(Span { run_id: part.run_id.clone(), from: overlap.start, to: overlap.end });
            }
            // Lines of an earlier part may not fit either, and would be told first.
            Err(error) => {
                misfit = Some(error);
                break;
            }
        }
    }
    let repeated = spans.len();
    let mut behind: Vec<&mut LockedRun> = Vec::new();
    if misfit.is_none() {
        behind.extend(runs.values_mut().filter(|run| run.state.next_seq < run.next_seq));
        spans.extend(behind.iter().map(|run| Span {
            run_id: run.run_id.clone(),
            from: run.state.next_seq,
            to: run.next_seq,
        }));
    }
    let mut at = (0, 0);
    lines::each(transaction, spans, |place, line| {
        let Some(run) = place.checked_sub(repeated).and_then(|place| behind.get_mut(place)) else {
            let Some(part) = batch.get(place) else { return Ok(()) };
            let index = if at.0 == place { at.1 } else { 0 };
            at = (place, index + 1);
            if part.lines.get(index) != Some(&line) {
                return Err(StoreError::Conflict { run_id: part.run_id.clone(), seq: part.from_seq + index as u64 });
            }
            return Ok(());
        };
        let LockedRun { state, run_id, .. } = &mut **run;
        Ok(fold(Arc::make_mut(state), run_id, &line)?)
    })
    .await?;
    match misfit {
        Some(error) => Err(error),
        None => Ok(duplicates),
    }
}

/// Writes the summary of each run, the columns that lists use, and the state where that is due. The columns are copies of members
/// whose pattern the parser has checked, so that no event can bring a NUL here, which text columns do not take.
async fn save(transaction: &Transaction, runs: impl Iterator<Item = LockedRun>) -> Result<Written, StoreError> {
    let runs: Vec<LockedRun> = runs.collect();
    let (summaries, rows) = update(transaction, &runs, Occasion::Received).await?;
    // One transaction, one version, whichever the row.
    let Some(row) = rows.first().filter(|_| rows.len() == runs.len()) else { return Err(vanished()) };
    let changed = stored::version_of(row, 0)?;
    let held = runs.into_iter().zip(summaries).map(|(run, summary)| Held {
        changed,
        summary: Arc::new(summary),
        run: Some(HotRun { state: run.state, graph: run.graph.map(|(graph, _)| graph) }),
    });
    Ok(held.collect())
}

/// Writes what was made again of a run, where anything of it is other than what stands there; whether it was.
pub(super) async fn rewrite(transaction: &Transaction, run: LockedRun) -> Result<bool, StoreError> {
    let (_, rows) = update(transaction, &[run], Occasion::MadeAgain).await?;
    Ok(!rows.is_empty())
}

/// Why rows are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Somebody sent something.
    Received,
    /// What is there is made again, as if it had always been so.
    MadeAgain,
}

async fn update(
    transaction: &Transaction,
    runs: &[LockedRun],
    occasion: Occasion,
) -> Result<(Vec<Summary>, Vec<Row>), StoreError> {
    let received = occasion == Occasion::Received;
    let mut states = Vec::with_capacity(runs.len());
    let mut snapshots = Vec::with_capacity(runs.len());
    let mut summaries = Vec::with_capacity(runs.len());
    for run in runs {
        let graph = run.graph.as_ref().map(|(graph, sha256)| (&**graph, sha256.as_str()));
        summaries.push(Summary::of(&run.run_id, &run.state, graph));
        let is_due = run.snapshot.is_due(run.state.next_seq);
        states.push(if is_due { Some(json(&run.state)?) } else { None });
        snapshots.push(if is_due { Snapshotted::written(run.state.next_seq) } else { run.snapshot });
    }
    // A parameter is an array with a member a run.
    fn each<'a, F, T>(of: &'a [F], member: impl Fn(&'a F) -> T) -> Vec<T> {
        of.iter().map(member).collect()
    }
    let next_seqs = summaries.iter().map(|run| signed(run.next_seq)).collect::<Result<Vec<_>, _>>()?;
    let state_seqs = snapshots.iter().map(|state| signed(state.seq)).collect::<Result<Vec<_>, _>>()?;
    let tails = snapshots.iter().map(|state| signed(state.tail_bytes)).collect::<Result<Vec<_>, _>>()?;
    let jsons = summaries.iter().map(json).collect::<Result<Vec<_>, _>>()?;
    let parent = |run: &'_ Summary| run.parent.clone();
    let rows = transaction
        .query(
            "UPDATE runs AS r SET next_seq = n.next_seq, log_id = n.log_id, summary = n.summary, \
             state = coalesce(n.state, r.state), state_seq = n.state_seq, tail_bytes = n.tail_bytes, fold_version = $17, \
             received_at = CASE WHEN $20 THEN now() ELSE r.received_at END, changed = pg_current_xact_id(), kind = n.kind, outcome = n.outcome, \
             outcome_rank = n.outcome_rank, started = n.started, last_event = n.last_event, ended = n.ended, \
             duration_s = n.duration_s, agent_id = n.agent_id, parent_run_id = n.parent_run_id, \
             parent_node_id = n.parent_node_id, node_ids = n.node_ids::text[] \
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $18, $19) \
             AS n (run_id, next_seq, log_id, summary, state, kind, outcome, outcome_rank, started, last_event, ended, \
             duration_s, agent_id, parent_run_id, parent_node_id, node_ids, state_seq, tail_bytes) \
             WHERE r.run_id = n.run_id AND ($20 OR n.state IS NOT NULL OR r.fold_version <> $17 OR \
             (r.summary, r.kind, r.outcome, r.outcome_rank, r.started, r.last_event, r.ended, r.duration_s, r.agent_id, \
              r.parent_run_id, r.parent_node_id, r.node_ids) IS DISTINCT FROM \
             (n.summary, n.kind, n.outcome, n.outcome_rank, n.started, n.last_event, n.ended, n.duration_s, n.agent_id, \
              n.parent_run_id, n.parent_node_id, n.node_ids::text[])) RETURNING r.changed::text",
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
                (&stored::fold_version(), Type::INT4),
                (&state_seqs, Type::INT8_ARRAY),
                (&tails, Type::INT8_ARRAY),
                (&received, Type::BOOL),
            ],
        )
        .await?;
    Ok((summaries, rows))
}

/// A run's node ids as an array's text, since Postgres has no arrays of arrays of different lengths. Each in quotes: a
/// node may be called null. The pattern of a node id has no character that would need more.
fn node_ids(run: &Summary) -> String {
    let quoted: Vec<String> = run.node_results.iter().map(|node| format!("\"{}\"", node.node_id)).collect();
    format!("{{{}}}", quoted.join(","))
}

async fn count_usage(
    transaction: &Transaction,
    tenant: TenantId,
    (events, bytes): (u64, u64),
) -> Result<(), StoreError> {
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

/// Retention took the row between our two statements.
fn vanished() -> StoreError {
    DatabaseError::Lost("the run was deleted in this moment".to_owned()).into()
}
