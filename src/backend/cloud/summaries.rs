//! Summaries out of rows: of a page, or of all runs of an aggregate, which are read some at a time.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::cache::{Held, Runs};
use super::list::{LISTED, SelectionSql};
use super::scope::{DatabaseError, Door, Parameter, Snapshot, TenantId};
use super::stored::{self, Stored, one_run};
use crate::contract::{Selection, StoreError, Summaries};
use crate::domain::RunId;
use crate::reduce::Summary;

/// How many runs are looked at in one go,
const RUNS: &str = "FETCH 1000 FROM runs_of_aggregate";
/// and about how many bytes of summaries are read in one go.
const BYTES: i64 = 2 * 1024 * 1024;

/// The summary in a row of [`LISTED`]: parsed once a version. `None` where it has to be made again.
pub(super) fn listed(runs: &Runs, tenant: TenantId, row: &Row) -> Result<Option<Arc<Summary>>, DatabaseError> {
    let run_id = read_run_id(row.try_get(0)?)?;
    let changed = stored::version_of(row, 1)?;
    if let Some(summary) = runs.summary(tenant, &run_id, changed) {
        return Ok(Some(summary));
    }
    let summary = stored::summary_of(&run_id, row.try_get(3)?, row.try_get(2)?);
    if let Some(summary) = &summary {
        runs.hold(tenant, Held { changed, summary: Arc::clone(summary), run: None });
    }
    Ok(summary)
}

/// A summary made again from the lines.
pub(super) async fn anew(
    runs: &Runs,
    tenant: TenantId,
    ask: &Snapshot<'_>,
    run_id: &str,
) -> Result<Arc<Summary>, StoreError> {
    let parameters: [Parameter<'_>; 1] = [(&run_id, Type::TEXT)];
    let rows = ask.query(&one_run("NULL"), &parameters).await?;
    let row = rows.first().ok_or_else(|| DatabaseError::Unreadable(format!("run {run_id}")))?;
    let held = Stored::of(row).await?.whole(ask).await?;
    runs.hold(tenant, held.clone());
    Ok(held.summary)
}

pub(super) fn read_run_id(name: &str) -> Result<RunId, DatabaseError> {
    RunId::parse(name).ok_or_else(|| DatabaseError::Unreadable(format!("run_id {name:?}")))
}

/// The summaries of all runs that are selected. They are read by a task that is a step ahead of whoever takes them, and ends when
/// nobody does.
pub(super) fn all(door: Door, runs: Runs, tenant: TenantId, selection: Selection) -> Summaries {
    let (found, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let reading = Reading { runs, tenant, found: found.clone() };
        let end = match reading.all(&door, selection).await {
            Ok(()) => Part::End,
            Err(error) => Part::Of(Err(error)),
        };
        // An error here says that nobody waits for it.
        drop(found.send(end).await);
    });
    stream::unfold(Some(taken), |taken| async move {
        let mut taken = taken?;
        match taken.recv().await {
            Some(Part::Of(some)) => Some((some, Some(taken))),
            Some(Part::End) => None,
            // Without its last word it is not whole, whatever came before.
            None => Some((Err(StoreError::Failed("the reading of summaries ended early".into())), None)),
        }
    })
    .boxed()
}

/// What the reading task hands over: some summaries or an error, and that these were all.
enum Part {
    Of(Result<Vec<Arc<Summary>>, StoreError>),
    End,
}

struct Reading {
    runs: Runs,
    tenant: TenantId,
    found: mpsc::Sender<Part>,
}

/// A run of an aggregate: held already, or to be read.
enum Place {
    Held(Arc<Summary>),
    Unread(RunId),
}

impl Reading {
    /// A cursor gives the runs with the versions of their rows, in order and all of one moment; of those that are not held in this
    /// version the summaries are read.
    async fn all(&self, door: &Door, selection: Selection) -> Result<(), StoreError> {
        let sql = SelectionSql::of(selection);
        let (snapshot, []) = door.snapshot("summaries", self.tenant, []).await?;
        let declare = format!("DECLARE runs_of_aggregate NO SCROLL CURSOR FOR {}", sql.sql);
        snapshot.query(&declare, &sql.parameters()).await?;
        loop {
            let rows = snapshot.query(RUNS, &[]).await?;
            if rows.is_empty() {
                break;
            }
            let (mut places, mut bytes) = (Vec::new(), 0);
            for row in &rows {
                let run_id = read_run_id(row.try_get(0).map_err(DatabaseError::from)?)?;
                let held = self.runs.summary(self.tenant, &run_id, stored::version_of(row, 1)?);
                if held.is_none() {
                    bytes += row.try_get::<_, i64>(2).map_err(DatabaseError::from)?;
                }
                places.push(held.map_or(Place::Unread(run_id), Place::Held));
                if bytes >= BYTES && !self.give(&snapshot, std::mem::take(&mut places)).await? {
                    return Ok(());
                }
                bytes = if places.is_empty() { 0 } else { bytes };
            }
            if !self.give(&snapshot, places).await? {
                return Ok(());
            }
        }
        let [] = snapshot.finish([]).await?;
        Ok(())
    }

    /// Hands over the summaries of these runs; whether anybody took them.
    async fn give(&self, snapshot: &Snapshot<'_>, places: Vec<Place>) -> Result<bool, StoreError> {
        let unread: Vec<&str> = places
            .iter()
            .filter_map(|place| match place {
                Place::Held(_) => None,
                Place::Unread(run_id) => Some(run_id.as_str()),
            })
            .collect();
        let mut read = HashMap::new();
        if !unread.is_empty() {
            let sql = format!("SELECT {LISTED} FROM runs WHERE run_id = ANY ($1)");
            let rows = snapshot.query(&sql, &[(&unread, Type::TEXT_ARRAY)]).await?;
            let (runs, tenant) = (self.runs.clone(), self.tenant);
            // Many summaries are long to parse: away from the threads that serve requests.
            let parsed = tokio::task::spawn_blocking(move || parse(&runs, tenant, &rows));
            read = parsed.await.map_err(|error| StoreError::Failed(error.into()))??;
        }
        let mut summaries = Vec::with_capacity(places.len());
        for place in places {
            summaries.push(match place {
                Place::Held(summary) => summary,
                Place::Unread(run_id) => match read.remove(&run_id) {
                    Some(summary) => summary,
                    None => anew(&self.runs, self.tenant, snapshot, run_id.as_str()).await?,
                },
            });
        }
        Ok(self.found.send(Part::Of(Ok(summaries))).await.is_ok())
    }
}

fn parse(runs: &Runs, tenant: TenantId, rows: &[Row]) -> Result<HashMap<RunId, Arc<Summary>>, DatabaseError> {
    let mut parsed = HashMap::with_capacity(rows.len());
    for row in rows {
        if let Some(summary) = listed(runs, tenant, row)? {
            parsed.insert(summary.run_id.clone(), summary);
        }
    }
    Ok(parsed)
}
