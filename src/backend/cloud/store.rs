//! The store over Postgres: each method is one transaction of one tenant.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::append::{self, read_state};
use super::follow::Feed;
use super::list::{ListSql, SelectionSql};
use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{
    About, Appended, Changes, GraphFile, GraphPut, Lines, ListPage, ListQuery, Loaded, Part, Principal, Problems,
    ReadLimit, Selection, Spawned, Store, StoreError,
};
use crate::domain::{Graph, Ledger, LogId, RunId};
use crate::reduce::Summary;

/// Runs of all tenants, each behind its wall.
pub(super) struct PostgresStore {
    door: Door,
    feed: Feed,
}

impl PostgresStore {
    pub(super) fn new(door: Door, feed: Feed) -> Self {
        Self { door, feed }
    }

    /// The row of one run that is not deleted, with these columns.
    async fn row(
        &self,
        name: &'static str,
        who: &Principal,
        run_id: &RunId,
        columns: &str,
    ) -> Result<Option<Row>, StoreError> {
        let sql = format!("SELECT {columns} FROM runs WHERE run_id = $1 AND deleted_at IS NULL");
        let parameters = [(&run_id.as_str() as _, Type::TEXT)];
        let [rows] = self.door.read(name, tenant(who)?, [Query { sql: &sql, parameters: &parameters }]).await?;
        Ok(rows.into_iter().next())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn list(&self, who: &Principal, query: &ListQuery) -> Result<ListPage, StoreError> {
        let sql = ListSql::of(query);
        let parameters = sql.parameters();
        let [rows, counted] = self.door.read("list", tenant(who)?, sql.queries(&parameters)).await?;
        let mut items = rows.iter().map(|row| read_summary(row, 0)).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        let total: i64 = match counted.first() {
            Some(row) => column(row, 0)?,
            None => 0,
        };
        Ok(ListPage { items, total: u64::try_from(total).unwrap_or(0), more, changes_at: Some(query.filter.now) })
    }

    async fn summaries(&self, who: &Principal, selection: Selection) -> Result<Vec<Arc<Summary>>, StoreError> {
        let sql = SelectionSql::of(selection);
        let parameters = sql.parameters();
        let [rows] =
            self.door.read("summaries", tenant(who)?, [Query { sql: &sql.sql, parameters: &parameters }]).await?;
        // Many summaries are long to read: away from the threads that serve requests.
        let read = tokio::task::spawn_blocking(move || rows.into_iter().map(|row| read_summary(&row, 0)).collect());
        let summaries: Result<Vec<_>, DatabaseError> = read.await.map_err(|error| StoreError::Failed(error.into()))?;
        Ok(summaries?)
    }

    /// Other servers write too, and asking the database would cost what it is to save.
    fn revision(&self, _who: &Principal, _of: About<'_>) -> Option<u64> {
        None
    }

    async fn summary(&self, who: &Principal, run_id: &RunId) -> Result<Option<Arc<Summary>>, StoreError> {
        let row = self.row("summary", who, run_id, "summary").await?;
        Ok(row.map(|row| read_summary(&row, 0)).transpose()?)
    }

    async fn load(&self, who: &Principal, run_id: &RunId) -> Result<Option<Loaded>, StoreError> {
        let Some(row) = self.row("load", who, run_id, "summary, state, graph").await? else { return Ok(None) };
        let graph: Option<&[u8]> = column(&row, 2)?;
        let graph = graph
            .map(Graph::parse)
            .transpose()
            .map_err(|error| DatabaseError::Unreadable(format!("the graph of run {run_id}: {error}")))?;
        Ok(Some(Loaded {
            summary: read_summary(&row, 0)?,
            state: Arc::new(read_state(column(&row, 1)?)?),
            graph: graph.map(Arc::new),
        }))
    }

    async fn spawned(&self, who: &Principal, run_id: &RunId) -> Result<Vec<Spawned>, StoreError> {
        let sql = "SELECT summary FROM runs WHERE parent_run_id = $1 AND deleted_at IS NULL ORDER BY started NULLS LAST, run_id";
        let parent = run_id.as_str();
        let [rows] =
            self.door.read("spawned", tenant(who)?, [Query { sql, parameters: &[(&parent, Type::TEXT)] }]).await?;
        let mut spawned = Vec::with_capacity(rows.len());
        for row in &rows {
            let child = read_summary(row, 0)?;
            let node_id = child.parent.as_ref().and_then(|parent| parent.node_id.clone());
            spawned.push(Spawned { run_id: child.run_id.clone(), node_id });
        }
        Ok(spawned)
    }

    async fn read(
        &self,
        who: &Principal,
        run_id: &RunId,
        from_seq: u64,
        limit: ReadLimit,
    ) -> Result<Option<Lines>, StoreError> {
        let run = "SELECT log_id, next_seq FROM runs WHERE run_id = $1 AND deleted_at IS NULL";
        // A line comes along while the ones before it have not passed the limit of bytes, so the first always does.
        let lines = "SELECT line FROM ( \
               SELECT t.seq, t.line, sum(octet_length(t.line)) OVER (ORDER BY t.seq) - octet_length(t.line) AS before \
               FROM transitions t JOIN runs r USING (tenant_id, run_id) \
               WHERE t.run_id = $1 AND r.deleted_at IS NULL AND t.seq >= $2 AND t.seq < $3) AS numbered \
             WHERE before <= $4 ORDER BY seq";
        let name = run_id.as_str();
        // Past the range there is no line.
        let from = i64::try_from(from_seq).unwrap_or(i64::MAX);
        let to = from.saturating_add(i64::try_from(limit.lines).unwrap_or(i64::MAX));
        let bytes = i64::try_from(limit.bytes).unwrap_or(i64::MAX);
        let [runs, rows] = self
            .door
            .read(
                "read",
                tenant(who)?,
                [
                    Query { sql: run, parameters: &[(&name, Type::TEXT)] },
                    Query {
                        sql: lines,
                        parameters: &[
                            (&name, Type::TEXT),
                            (&from, Type::INT8),
                            (&to, Type::INT8),
                            (&bytes, Type::INT8),
                        ],
                    },
                ],
            )
            .await?;
        let Some(run) = runs.first() else { return Ok(None) };
        let log_id: Option<&str> = column(run, 0)?;
        let next_seq: i64 = column(run, 1)?;
        let lines = rows.iter().map(|row| column(row, 0).map(Bytes::copy_from_slice)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Lines { log_id: log_id.map(LogId::from_kept), next_seq: u64::try_from(next_seq).unwrap_or(0), lines }))
    }

    async fn graph(&self, who: &Principal, run_id: &RunId) -> Result<Option<Option<GraphFile>>, StoreError> {
        let Some(row) = self.row("graph", who, run_id, "graph, graph_sha256").await? else { return Ok(None) };
        let bytes: Option<&[u8]> = column(&row, 0)?;
        let sha256: Option<String> = column(&row, 1)?;
        let file = bytes.zip(sha256).map(|(bytes, sha256)| GraphFile { bytes: Bytes::copy_from_slice(bytes), sha256 });
        Ok(Some(file))
    }

    async fn put_graph(&self, who: &Principal, run_id: &RunId, bytes: Bytes) -> Result<GraphPut, StoreError> {
        let tenant = tenant(who)?;
        let run = run_id.clone();
        let put = self
            .door
            .write("put_graph", tenant, move |transaction| {
                // Called again after a conflict, so each call has its own.
                let (run, bytes) = (run.clone(), bytes.clone());
                Box::pin(async move { append::put_graph(transaction, tenant, &run, &bytes).await })
            })
            .await?;
        if put == GraphPut::Created {
            self.feed.changed(tenant, run_id);
        }
        Ok(put)
    }

    async fn append(&self, who: &Principal, batch: Vec<Part>) -> Result<Appended, StoreError> {
        let tenant = tenant(who)?;
        let changed: Vec<RunId> = batch.iter().map(|part| part.run_id.clone()).collect();
        let batch = Arc::new(batch);
        let appended = self
            .door
            .write("append", tenant, move |transaction| {
                let batch = Arc::clone(&batch);
                Box::pin(async move { append::append(transaction, tenant, &batch).await })
            })
            .await?;
        if appended.accepted > 0 {
            changed.iter().for_each(|run_id| self.feed.changed(tenant, run_id));
        }
        Ok(appended)
    }

    async fn problems(&self, who: &Principal, run_id: &RunId) -> Result<Option<Problems>, StoreError> {
        let Some(row) = self.row("problems", who, run_id, "state").await? else { return Ok(None) };
        let state = read_state(column(&row, 0)?)?;
        // A batch with a malformed line is refused as a whole: whatever is stored was kept.
        let ledger =
            Ledger { lines: state.next_seq, kept: state.next_seq, unknown: state.unknown, ..Ledger::default() };
        Ok(Some(Problems { ledger, items: Vec::new(), truncated: false }))
    }

    async fn follow(&self, who: &Principal) -> Result<Changes, StoreError> {
        Ok(self.feed.follow(tenant(who)?))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.door.outside("ready", Query { sql: "SELECT 1", parameters: &[] }).await?;
        Ok(())
    }
}

/// Whose data a principal may see. One without a tenant gets nothing, not everything.
fn tenant(who: &Principal) -> Result<TenantId, StoreError> {
    let tenant = who.tenant.as_ref().and_then(|tenant| Uuid::try_parse(&tenant.id).ok());
    tenant.map(TenantId).ok_or_else(|| StoreError::Failed("the principal has no tenant".into()))
}

fn read_summary(row: &Row, place: usize) -> Result<Arc<Summary>, DatabaseError> {
    let text: &str = column(row, place)?;
    serde_json::from_str(text)
        .map(Arc::new)
        .map_err(|error| DatabaseError::Unreadable(format!("a run's summary: {error}")))
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, DatabaseError> {
    Ok(row.try_get(place)?)
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            // A retry settles these, the lost COMMIT among them.
            DatabaseError::NoConnection(_)
            | DatabaseError::Lost(_)
            | DatabaseError::Conflict(_)
            | DatabaseError::CommitUnknown(_) => Self::Unavailable(error.into()),
            DatabaseError::Refused { .. } | DatabaseError::Unreadable(_) => Self::Failed(error.into()),
        }
    }
}
