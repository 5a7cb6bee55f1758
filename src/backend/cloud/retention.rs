//! Runs go when their days are over: first out of every answer, a week later for good.
//!
//! What `deleted_at` says: nothing, the run is there; a moment, it was deleted then and may be restored for [`GRACE_HOURS`];
//! `-infinity`, it is being removed for good. That mark comes first, in a transaction of its own: whatever is killed while lines
//! go, what is left of the run is never shown or restored, by no clock, and the next job goes on with it.
//!
//! Everything here works within one tenant at a time, in small transactions, each under the locks of the runs that it names.

mod job;
mod restore;

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

pub(super) use self::job::Job;
pub(super) use self::restore::restore;
use super::account::activity::{Action, Actor, note};
use super::boot::BootRefusal;
use super::pool::{Database, root_cause};
use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::StoreError;
use crate::domain::RunId;

/// How long a run that was deleted may be restored.
const GRACE_HOURS: i32 = 7 * 24;

/// Runs that one transaction deletes, marks or removes.
const RUNS_AT_ONCE: usize = 200;

/// Rows of lines that one transaction removes: each may hold a mebibyte, and none may hold others up for long.
const LINES_AT_ONCE: i64 = 200;

/// One lock a database: `kahn` and 4, in ASCII. Whoever holds it is the one job of all servers and commands.
const LOCK: i64 = 0x6b61_686e_0004;

/// How long the lock may take to be asked for, the connection included.
const TURN_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Who `activity` says did it.
const ACTOR: Actor<'_> = Actor::Command("kahn retention");

/// Why runs were not deleted, removed or restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RetentionError {
    /// The server would not start over this database either.
    #[error(transparent)]
    Refused(#[from] BootRefusal),
    /// Another job is at work.
    #[error(
        "another server or command is at this work right now; run `kahn retention` again in a minute to see that nothing is left"
    )]
    Busy,
    /// The database did not do it.
    #[error(
        "retention stopped ({0}); what was done is done, nothing is half visible: run `kahn retention` again to go on"
    )]
    Database(#[from] DatabaseError),
    /// No such tenant.
    #[error("there is no tenant {0:?}; `kahn tenant list` shows all of them")]
    NoTenant(String),
    /// Nothing can be restored.
    #[error(
        "run {run_id} of tenant {tenant} is gone: more than 7 days have passed since it was deleted, or it never was there"
    )]
    Gone {
        /// The tenant.
        tenant: String,
        /// The run.
        run_id: String,
    },
    /// Nobody reads what is printed.
    #[error("the output could not be written: {0}")]
    Output(#[from] std::io::Error),
}

impl RetentionError {
    /// Whether it is a mistake of usage or configuration (exit code 2) rather than of the world (1).
    pub(super) fn is_configuration(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_configuration())
    }
}

/// What went of a tenant, or would go.
#[derive(Debug, Default, Serialize)]
pub(super) struct Went {
    tenant: String,
    retention_days: i32,
    /// Runs past their days: gone from every answer, and restorable for a week.
    deleted: Vec<String>,
    /// Runs past that week: gone for good.
    removed: Vec<String>,
}

impl Went {
    /// Whether nothing went.
    pub(super) fn is_empty(&self) -> bool {
        self.deleted.is_empty() && self.removed.is_empty()
    }
}

impl Went {
    /// What a person reads once it is done.
    pub(super) fn done(&self) -> String {
        self.sentence(["deleted", "removed for good"])
    }

    /// What a person reads before.
    pub(super) fn due(&self) -> String {
        self.sentence(["would be deleted", "would be removed for good"])
    }

    fn sentence(&self, [first, then]: [&str; 2]) -> String {
        const NAMED: usize = 10;
        let runs = |runs: &[String]| match runs.len() {
            0 => "none".to_owned(),
            count if count <= NAMED => format!("{count} ({})", runs.join(", ")),
            count => format!("{count} ({} and more)", runs[..NAMED].join(", ")),
        };
        let Self { tenant, retention_days, deleted, removed } = self;
        format!("{tenant}: past {retention_days} days, {first}: {}; {then}: {}", runs(deleted), runs(removed))
    }
}

/// Says what is due now, tenant by tenant; changes nothing. A tenant of whom it cannot be said keeps none of the others waiting.
pub(super) async fn due(
    door: &Door,
    mut told: impl FnMut(Went) -> Result<(), RetentionError>,
) -> Result<(), RetentionError> {
    let mut failure = None;
    for tenant in tenants(door).await? {
        match due_of(door, tenant).await {
            Ok(due) => told(due)?,
            Err(error) => failure = Some(failed(tenant, error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

fn failed(tenant: TenantId, error: DatabaseError) -> RetentionError {
    log::error!("retention of tenant {}: {error}", tenant.0);
    error.into()
}

/// Deletes and removes what is due, tenant by tenant, and says of each what went. A tenant with which that fails keeps none of
/// the others waiting.
///
/// # Errors
///
/// When another job is at it, or the database fails; what was told is done.
pub(super) async fn run(
    database: &Database,
    door: &Door,
    mut told: impl FnMut(Went) -> Result<(), RetentionError>,
) -> Result<(), RetentionError> {
    let turn = Turn::take(database).await?;
    let mut failure = None;
    for tenant in tenants(door).await? {
        turn.is_still_ours()?;
        match run_of(door, tenant, &turn).await {
            Ok(went) => told(went)?,
            Err(error) => failure = Some(failed(tenant, error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn run_of(door: &Door, tenant: TenantId, turn: &Turn) -> Result<Went, DatabaseError> {
    let due = due_of(door, tenant).await?;
    let mut went = Went { tenant: due.tenant, retention_days: due.retention_days, ..Went::default() };
    for runs in due.deleted.chunks(RUNS_AT_ONCE) {
        turn.is_still_ours()?;
        went.deleted.extend(delete(door, tenant, (went.retention_days, runs)).await?);
    }
    for runs in due.removed.chunks(RUNS_AT_ONCE) {
        turn.is_still_ours()?;
        mark(door, tenant, runs).await?;
        loop {
            turn.is_still_ours()?;
            let (removed, is_done) = remove(door, tenant, runs).await?;
            went.removed.extend(removed);
            if is_done {
                break;
            }
        }
    }
    Ok(went)
}

/// A write to runs; where the name of one is still taken by a run that is being removed for good, what is left of that goes
/// first, all of it. A run that is deleted and not marked yet keeps its name.
pub(super) async fn with_room<T, F: Future<Output = Result<T, StoreError>>>(
    door: &Door,
    tenant: TenantId,
    write: impl Fn() -> F,
) -> Result<T, StoreError> {
    loop {
        match write().await {
            Err(StoreError::Gone { run_id }) if make_room(door, tenant, &run_id).await? => {}
            outcome => return outcome,
        }
    }
}

/// Whether there was anything to remove.
async fn make_room(door: &Door, tenant: TenantId, run_id: &RunId) -> Result<bool, DatabaseError> {
    let names = [run_id.as_str().to_owned()];
    let sql = "SELECT 1 FROM runs WHERE tenant_id = $1 AND run_id = $2 AND deleted_at = '-infinity'";
    let marked = Query { sql, parameters: &[(&tenant.0, Type::UUID), (&run_id.as_str(), Type::TEXT)] };
    let [rows] = door.read("retention_room", tenant, [marked]).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    while !remove(door, tenant, &names).await?.1 {}
    Ok(true)
}

/// The one job's right to work. It ends with its connection, so also when the process is killed.
struct Turn {
    client: Client,
}

impl Turn {
    async fn take(database: &Database) -> Result<Self, RetentionError> {
        let taken = tokio::time::timeout(TURN_WITHIN, async {
            let client = database.client().await.map_err(|error| DatabaseError::NoConnection(root_cause(&error)))?;
            let row = client.query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&LOCK, Type::INT8)]).await?;
            Ok::<_, DatabaseError>((client, row))
        });
        let silent = |_| DatabaseError::NoConnection(format!("no answer within {} s", TURN_WITHIN.as_secs()));
        let (client, row) = taken.await.map_err(silent)??;
        let is_ours: bool = row.try_get(0).map_err(DatabaseError::from)?;
        if is_ours { Ok(Self { client }) } else { Err(RetentionError::Busy) }
    }

    fn is_still_ours(&self) -> Result<(), DatabaseError> {
        if self.client.is_closed() {
            return Err(DatabaseError::Lost("the connection that held the job's lock ended".to_owned()));
        }
        Ok(())
    }
}

async fn tenants(door: &Door) -> Result<Vec<TenantId>, DatabaseError> {
    let sql = "SELECT tenant_id FROM kahn_tenant_ids() AS tenant_id";
    let rows = door.outside("tenants", Query { sql, parameters: &[] }).await?;
    rows.iter().map(|row| Ok(TenantId(row.try_get::<_, Uuid>(0)?))).collect()
}

async fn due_of(door: &Door, tenant: TenantId) -> Result<Went, DatabaseError> {
    // Days of 24 hours, so that no time zone's summer makes one shorter.
    let sql = "SELECT t.name, coalesce(r.days, p.retention_days) AS days \
               FROM tenants t LEFT JOIN plans p USING (plan) LEFT JOIN retention r USING (tenant_id) WHERE t.tenant_id = $1";
    let past_days = format!(
        "SELECT run_id FROM runs, ({sql}) AS own WHERE tenant_id = $1 AND deleted_at IS NULL \
         AND received_at <= now() - make_interval(hours => 24 * own.days) ORDER BY run_id"
    );
    let past_grace = "SELECT run_id FROM runs WHERE tenant_id = $1 AND deleted_at <= now() - make_interval(hours => $2) ORDER BY run_id";
    let of_tenant = [(&tenant.0 as _, Type::UUID)];
    let [own, deleted, removed] = door
        .read(
            "retention_due",
            tenant,
            [
                Query { sql, parameters: &of_tenant },
                Query { sql: &past_days, parameters: &of_tenant },
                Query { sql: past_grace, parameters: &[of_tenant[0].clone(), (&GRACE_HOURS, Type::INT4)] },
            ],
        )
        .await?;
    let own = own.first().ok_or_else(|| DatabaseError::Unreadable(format!("tenant {} has no row", tenant.0)))?;
    let name: String = own.try_get(0)?;
    let days: Option<i32> = own.try_get(1)?;
    let retention_days =
        days.ok_or_else(|| DatabaseError::Unreadable(format!("the plan of tenant {name} is none of plans")))?;
    Ok(Went { tenant: name, retention_days, deleted: names(&deleted)?, removed: names(&removed)? })
}

/// Takes runs that are past their days out of every answer; which ones went. One that somebody writes to right now is not due.
async fn delete(door: &Door, tenant: TenantId, (days, runs): (i32, &[String])) -> Result<Vec<String>, DatabaseError> {
    let sql = "UPDATE runs SET deleted_at = now(), changed = pg_current_xact_id() \
               WHERE tenant_id = $1 AND run_id IN ( \
                 SELECT run_id FROM runs WHERE tenant_id = $1 AND run_id = ANY ($2) AND deleted_at IS NULL \
                 AND received_at <= now() - make_interval(hours => 24 * $3) ORDER BY run_id FOR UPDATE SKIP LOCKED) \
               RETURNING run_id";
    let runs = runs.to_vec();
    door.write("retention_delete", tenant, move |transaction| {
        let runs = runs.clone();
        Box::pin(async move {
            let of_these = [(&tenant.0 as _, Type::UUID), (&runs as _, Type::TEXT_ARRAY), (&days as _, Type::INT4)];
            let mut deleted = names(&transaction.query(sql, &of_these).await?)?;
            deleted.sort_unstable();
            if !deleted.is_empty() {
                note(transaction, (ACTOR, Action::RunsDeleted, &format!("{} runs", deleted.len()))).await?;
            }
            Ok(deleted)
        })
    })
    .await
}

/// Marks runs that are past their grace. From here on nothing brings them back.
async fn mark(door: &Door, tenant: TenantId, runs: &[String]) -> Result<(), DatabaseError> {
    let sql = "UPDATE runs SET deleted_at = '-infinity' WHERE tenant_id = $1 AND run_id IN ( \
                 SELECT run_id FROM runs WHERE tenant_id = $1 AND run_id = ANY ($2) \
                 AND deleted_at <= now() - make_interval(hours => $3) ORDER BY run_id FOR UPDATE SKIP LOCKED)";
    let runs = runs.to_vec();
    door.write("retention_mark", tenant, move |transaction| {
        let runs = runs.clone();
        Box::pin(async move {
            let of_these =
                [(&tenant.0 as _, Type::UUID), (&runs as _, Type::TEXT_ARRAY), (&GRACE_HOURS as _, Type::INT4)];
            transaction.execute(sql, &of_these).await
        })
    })
    .await
    .map(drop)
}

/// Removes some lines of the marked runs among these, and the runs whose lines are all gone. Which runs went, and whether
/// nothing is left to do.
async fn remove(door: &Door, tenant: TenantId, runs: &[String]) -> Result<(Vec<String>, bool), DatabaseError> {
    let marked = "SELECT run_id FROM runs WHERE tenant_id = $1 AND run_id = ANY ($2) AND deleted_at = '-infinity' \
                  ORDER BY run_id FOR UPDATE";
    let lines = "DELETE FROM transitions AS t USING ( \
                   SELECT run_id, seq FROM transitions WHERE tenant_id = $1 AND run_id = ANY ($2) \
                   ORDER BY run_id, seq LIMIT $3) AS first \
                 WHERE t.tenant_id = $1 AND t.run_id = first.run_id AND t.seq = first.seq";
    let rows = "DELETE FROM runs WHERE tenant_id = $1 AND run_id = ANY ($2)";
    let runs = runs.to_vec();
    door.write("retention_remove", tenant, move |transaction| {
        let runs = runs.clone();
        Box::pin(async move {
            let marked = transaction.query(marked, &[(&tenant.0, Type::UUID), (&runs, Type::TEXT_ARRAY)]).await?;
            let marked = names(&marked)?;
            if marked.is_empty() {
                return Ok((marked, true));
            }
            let these = [(&tenant.0 as _, Type::UUID), (&marked as _, Type::TEXT_ARRAY)];
            let some = [these[0].clone(), these[1].clone(), (&LINES_AT_ONCE as _, Type::INT8)];
            let gone = transaction.execute(lines, &some).await?;
            if i64::try_from(gone).is_ok_and(|gone| gone >= LINES_AT_ONCE) {
                return Ok((Vec::new(), false));
            }
            transaction.execute(rows, &these).await?;
            note(transaction, (ACTOR, Action::RunsRemoved, &format!("{} runs", marked.len()))).await?;
            Ok((marked, true))
        })
    })
    .await
}

fn names(rows: &[Row]) -> Result<Vec<String>, DatabaseError> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
