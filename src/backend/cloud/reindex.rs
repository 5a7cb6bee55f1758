//! `kahn reindex`: makes summaries, states and the columns of lists again from the lines, for every run of every tenant. It goes
//! through the same door as the server, run by run: it may be ended at any point, started again, and run beside servers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::append::{self, LockedRun};
use super::boot::BootRefusal;
use super::lines::{self, Span};
use super::scope::{DatabaseError, Door, Parameter, Query, TenantId, Transaction};
use super::stored::{self, Stored, fold};
use crate::contract::StoreError;
use crate::domain::RunId;
use crate::reduce::RunState;

/// How many run ids are asked for at a time.
const PAGE: i64 = 500;
/// How often a run is tried that somebody else holds, or that was deleted and begun anew meanwhile, and the pause between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Retention removes the lines of all others, some at a time.
const NOT_GOING: &str = "r.deleted_at IS DISTINCT FROM '-infinity'";

/// Why nothing more was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReindexError {
    /// The database is not one that a server would serve from.
    #[error(transparent)]
    Boot(#[from] BootRefusal),
    /// It went away meanwhile.
    #[error("{0}; what was done is kept: run `kahn reindex` again")]
    Database(#[from] DatabaseError),
    /// A run could not be written.
    #[error("run {run_id} could not be made again ({reason}); what was done is kept: run `kahn reindex` again")]
    Store {
        /// The run.
        run_id: RunId,
        /// Why not.
        reason: String,
    },
    /// Nobody reads what is printed.
    #[error("the output could not be written: {0}")]
    Output(#[from] std::io::Error),
}

/// What became of a tenant's runs.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    tenant: &'a str,
    /// Those that were looked at.
    runs: u64,
    /// Those of them that were other than their lines say.
    rebuilt: u64,
    /// Those whose lines cannot be read; they stay as they are.
    unreadable: Vec<Unreadable>,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    run_id: RunId,
    reason: String,
}

impl Told<'_> {
    /// Whether every run could be made again.
    pub(super) fn is_whole(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// What a person reads.
    pub(super) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { tenant, runs, rebuilt, unreadable } = self;
        for Unreadable { run_id, reason } in unreadable {
            writeln!(out, "tenant {tenant}: run {run_id} cannot be read and stays as it is: {reason}")?;
        }
        writeln!(out, "tenant {tenant}: {runs} runs, {rebuilt} made again")
    }
}

/// All runs of all tenants, which are told of one after the other.
pub(super) async fn reindex(
    door: &Door,
    mut tell: impl FnMut(&Told<'_>) -> std::io::Result<()>,
) -> Result<(), ReindexError> {
    let sql = "SELECT tenant_id FROM public.kahn_tenant_ids() AS tenant_id";
    for row in door.outside("tenants", Query { sql, parameters: &[] }).await? {
        let tenant = TenantId(row.try_get::<_, Uuid>(0).map_err(DatabaseError::from)?);
        let sql = "SELECT name FROM tenants WHERE NOT reserved";
        let [names] = door.read("reindex", tenant, [Query { sql, parameters: &[] }]).await?;
        // Removed since it was listed.
        let Some(name) = names.first() else { continue };
        tell(&tenant_of_name(door, tenant, name.try_get(0).map_err(DatabaseError::from)?).await?)?;
    }
    Ok(())
}

async fn tenant_of_name<'a>(door: &Door, tenant: TenantId, name: &'a str) -> Result<Told<'a>, ReindexError> {
    let mut told = Told { tenant: name, runs: 0, rebuilt: 0, unreadable: Vec::new() };
    let mut behind = String::new();
    loop {
        let sql = format!("SELECT run_id FROM runs AS r WHERE run_id > $1 AND {NOT_GOING} ORDER BY run_id LIMIT $2");
        let parameters: [Parameter<'_>; 2] = [(&behind, Type::TEXT), (&PAGE, Type::INT8)];
        let [rows] = door.read("reindex", tenant, [Query { sql: &sql, parameters: &parameters }]).await?;
        let Some(last) = rows.last() else { return Ok(told) };
        let next: String = last.try_get(0).map_err(DatabaseError::from)?;
        for row in &rows {
            let run_id: &str = row.try_get(0).map_err(DatabaseError::from)?;
            let Some(run_id) = RunId::parse(run_id) else { continue };
            told.runs += 1;
            match run(door, tenant, &run_id).await {
                Ok(was_wrong) => told.rebuilt += u64::from(was_wrong),
                Err(StoreError::Failed(reason)) => {
                    told.unreadable.push(Unreadable { run_id, reason: reason.to_string() });
                }
                Err(error) => {
                    let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                    return Err(ReindexError::Store { run_id, reason });
                }
            }
        }
        log::info!("tenant {name}: {} runs so far, {} made again", told.runs, told.rebuilt);
        behind = next;
    }
}

/// One run; whether it was other than its lines say.
async fn run(door: &Door, tenant: TenantId, run_id: &RunId) -> Result<bool, StoreError> {
    let mut attempt = 1;
    loop {
        match run_once(door, tenant, run_id).await {
            Err(StoreError::Unavailable(reason)) if attempt < ATTEMPTS => {
                log::debug!("run {run_id}: {reason}; it is tried again");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Most of the lines are folded before the row is locked, so that nobody who adds lines has to wait for that.
async fn run_once(door: &Door, tenant: TenantId, run_id: &RunId) -> Result<bool, StoreError> {
    let sql = format!("SELECT {} FROM runs AS r WHERE r.run_id = $1 AND {NOT_GOING}", stored::columns("NULL"));
    let name = run_id.as_str();
    let parameters: [Parameter<'_>; 1] = [(&name, Type::TEXT)];
    let queries = [Query { sql: &sql, parameters: &parameters }];
    let (snapshot, [rows]) = door.snapshot("reindex read", tenant, queries).await?;
    // Deleted since it was listed.
    let Some(row) = rows.first() else { return Ok(false) };
    let seen = Stored::of(row).await?;
    let mut state = RunState::default();
    let mut kept = (!seen.snapshot.is_stale).then_some(seen.state);
    let whole = Span { run_id: run_id.clone(), from: 0, to: seen.next_seq };
    let folded = lines::each(&snapshot, vec![whole], |_, line| {
        if let Some(kept) = kept.as_mut().filter(|kept| kept.next_seq == state.next_seq) {
            fold(kept, run_id, &line)?;
        }
        Ok(fold(&mut state, run_id, &line)?)
    })
    .await;
    match folded {
        // Its lines are being removed for good.
        Err(StoreError::Failed(_)) if seen.deleted => return Ok(false),
        folded => folded?,
    }
    let [] = snapshot.finish([]).await?;
    let seen = Arc::new(Seen { changed: seen.changed, is_wrong: kept.as_ref() != Some(&state), state });
    let (run_id, sql) = (run_id.clone(), sql + " FOR UPDATE");
    door.write("reindex", tenant, move |transaction| {
        let (run_id, sql, seen) = (run_id.clone(), sql.clone(), Arc::clone(&seen));
        Box::pin(async move { write(transaction, (&run_id, &sql), &seen).await })
    })
    .await
}

/// What was folded of a run before its row was locked.
struct Seen {
    changed: u64,
    /// Whether the state that is kept is another one.
    is_wrong: bool,
    state: RunState,
}

async fn write(transaction: &Transaction, (run_id, sql): (&RunId, &str), seen: &Seen) -> Result<bool, StoreError> {
    let name = run_id.as_str();
    let rows = transaction.query(sql, &[(&name, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let mut now = Stored::of(row).await?;
    if now.log_id != seen.state.log_id && seen.state.log_id.is_some() || now.next_seq < seen.state.next_seq {
        return Err(DatabaseError::Lost("the run was begun anew in this moment".to_owned()).into());
    }
    now.state = seen.state.clone();
    lines::each(transaction, vec![now.tail()], |_, line| Ok(fold(&mut now.state, run_id, &line)?)).await?;
    // What was written meanwhile goes on from a state that may be wrong.
    now.snapshot.is_stale |= seen.is_wrong || now.changed != seen.changed;
    append::rewrite(transaction, LockedRun::again(now)).await
}
