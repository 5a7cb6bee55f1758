//! The store over Postgres: each method is one transaction of one tenant.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::append;
use super::cache::{Held, HotRun, Runs};
use super::follow::Feed;
use super::lines::{self, Chunk, Span};
use super::list::{LISTED, ListSql};
use super::retention;
use super::scope::{DatabaseError, Door, Parameter, Query, TenantId};
use super::stored::{self, Stored, one_run};
use super::summaries::{self, read_run_id};
use crate::contract::{
    About, Appended, Changes, GraphFile, GraphPut, Lines, ListPage, ListQuery, Loaded, Part, Principal, Problems,
    ReadLimit, Selection, Spawned, Store, StoreError, Summaries, Vitals,
};
use crate::domain::{Ledger, LogId, RunId};
use crate::reduce::Summary;

/// Runs of all tenants, each behind its wall.
pub(super) struct PostgresStore {
    door: Door,
    feed: Feed,
    /// What is held of them.
    runs: Runs,
}

impl PostgresStore {
    pub(super) fn new(door: Door, feed: Feed, runs: Runs) -> Self {
        Self { door, feed, runs }
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

    /// The run as it is now, out of memory where it is held, else out of its row and the lines that the row's state lacks: in one
    /// trip, unless that is not enough.
    async fn run(&self, tenant: TenantId, run_id: &RunId) -> Result<Option<Held>, StoreError> {
        let held = self.runs.get(tenant, run_id).filter(|held| held.run.is_some());
        let known = held.as_ref().map(|held| held.changed.to_string());
        let (row, tail) = (one_run("$2"), tail_of_one());
        let name = run_id.as_str();
        let of_row: [Parameter<'_>; 2] = [(&name, Type::TEXT), (&known, Type::TEXT)];
        let version = stored::fold_version();
        let of_tail: [Parameter<'_>; 4] =
            [(&name, Type::TEXT), (&version, Type::INT4), (&known, Type::TEXT), (&TAIL_BYTES, Type::INT8)];
        let queries = [Query { sql: &row, parameters: &of_row }, Query { sql: &tail, parameters: &of_tail }];
        let [rows, chunks] = self.door.read("load", tenant, queries).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mut stored = Stored::of(row).await?;
        if stored.is_known {
            return Ok(held);
        }
        if stored.snapshot.is_stale {
            return self.run_anew(tenant, run_id).await;
        }
        let mut tail = stored.tail();
        for chunk in &chunks {
            for line in Chunk::of(chunk, 1)?.lines_from(&tail)? {
                tail.from += 1;
                stored::fold(&mut stored.state, run_id, &line)?;
            }
        }
        if tail.from < tail.to {
            return self.run_anew(tenant, run_id).await;
        }
        let held = stored.held();
        self.runs.hold(tenant, held.clone());
        Ok(Some(held))
    }

    /// The same, with as many trips as it takes.
    async fn run_anew(&self, tenant: TenantId, run_id: &RunId) -> Result<Option<Held>, StoreError> {
        let row = one_run("NULL");
        let name = run_id.as_str();
        let parameters: [Parameter<'_>; 1] = [(&name, Type::TEXT)];
        let queries = [Query { sql: &row, parameters: &parameters }];
        let (snapshot, [rows]) = self.door.snapshot("load anew", tenant, queries).await?;
        let held = match rows.first() {
            Some(row) => Some(Stored::of(row).await?.whole(&snapshot).await?),
            None => None,
        };
        let [] = snapshot.finish([]).await?;
        if let Some(held) = &held {
            self.runs.hold(tenant, held.clone());
        }
        Ok(held)
    }
}

/// How much of a run's tail comes along with its row.
const TAIL_BYTES: i64 = 4 * 1024 * 1024;

/// The lines behind the state of that row, where the state is of this fold and not known.
fn tail_of_one() -> String {
    lines::chunks(
        "(SELECT run_id, state_seq, next_seq, 0::bigint FROM runs WHERE run_id = $1 AND deleted_at IS NULL \
          AND fold_version = $2 AND changed IS DISTINCT FROM $3::text::xid8) AS w (run_id, from_seq, to_seq, place)",
        "$4",
    )
}

#[async_trait]
impl Store for PostgresStore {
    async fn list(&self, who: &Principal, query: &ListQuery) -> Result<ListPage, StoreError> {
        let tenant = tenant(who)?;
        let sql = ListSql::of(query);
        let parameters = sql.parameters();
        let [rows, counted] = self.door.read("list", tenant, sql.queries(&parameters)).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.extend(summaries::listed(&self.runs, tenant, row)?);
        }
        if items.len() == rows.len() {
            return page_of(query, items, &counted);
        }
        // Some have to be made again from their lines, as they were at the moment of the list.
        let (snapshot, [rows, counted]) = self.door.snapshot("list anew", tenant, sql.queries(&parameters)).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push(match summaries::listed(&self.runs, tenant, row)? {
                Some(summary) => summary,
                None => summaries::anew(&self.runs, tenant, &snapshot, column(row, 0)?).await?,
            });
        }
        let [] = snapshot.finish([]).await?;
        page_of(query, items, &counted)
    }

    async fn summaries(&self, who: &Principal, selection: Selection) -> Result<Summaries, StoreError> {
        Ok(summaries::all(self.door.clone(), self.runs.clone(), tenant(who)?, selection))
    }

    /// Other servers write too, and asking the database would cost what it is to save.
    fn revision(&self, _who: &Principal, _of: About<'_>) -> Option<u64> {
        None
    }

    async fn summary(&self, who: &Principal, run_id: &RunId) -> Result<Option<Arc<Summary>>, StoreError> {
        let tenant = tenant(who)?;
        let Some(row) = self.row("summary", who, run_id, LISTED).await? else { return Ok(None) };
        match summaries::listed(&self.runs, tenant, &row)? {
            Some(summary) => Ok(Some(summary)),
            None => Ok(self.run_anew(tenant, run_id).await?.map(|held| held.summary)),
        }
    }

    async fn load(&self, who: &Principal, run_id: &RunId) -> Result<Option<Loaded>, StoreError> {
        let held = self.run(tenant(who)?, run_id).await?;
        Ok(held.and_then(|held| {
            let HotRun { state, graph } = held.run?;
            Some(Loaded { summary: held.summary, state, graph })
        }))
    }

    async fn spawned(&self, who: &Principal, run_id: &RunId) -> Result<Vec<Spawned>, StoreError> {
        let sql = "SELECT run_id, parent_node_id FROM runs WHERE parent_run_id = $1 AND deleted_at IS NULL \
                   ORDER BY started NULLS LAST, run_id";
        let parent = run_id.as_str();
        let [rows] =
            self.door.read("spawned", tenant(who)?, [Query { sql, parameters: &[(&parent, Type::TEXT)] }]).await?;
        let child = |row: &Row| Ok(Spawned { run_id: read_run_id(column(row, 0)?)?, node_id: column(row, 1)? });
        Ok(rows.iter().map(child).collect::<Result<Vec<_>, DatabaseError>>()?)
    }

    async fn read(
        &self,
        who: &Principal,
        run_id: &RunId,
        from_seq: u64,
        limit: ReadLimit,
    ) -> Result<Option<Lines>, StoreError> {
        let run = "SELECT log_id, next_seq FROM runs WHERE run_id = $1 AND deleted_at IS NULL";
        let chunks = lines::chunks(lines::SPANS, "$5");
        let name = run_id.as_str();
        // Past the range there is no line.
        let from = i64::try_from(from_seq).unwrap_or(i64::MAX);
        let to = from.saturating_add(i64::try_from(limit.lines).unwrap_or(i64::MAX));
        // Chunks hold an LF a line, which do not count: the page is cut below, where the other build cuts it.
        let bytes = i64::try_from(limit.bytes.saturating_add(limit.lines)).unwrap_or(i64::MAX);
        let (names, froms, tos, places) = ([name], [from], [to], [0_i64]);
        let of_chunks: [Parameter<'_>; 5] = [
            (&names.as_slice(), Type::TEXT_ARRAY),
            (&froms.as_slice(), Type::INT8_ARRAY),
            (&tos.as_slice(), Type::INT8_ARRAY),
            (&places.as_slice(), Type::INT8_ARRAY),
            (&bytes, Type::INT8),
        ];
        let queries =
            [Query { sql: run, parameters: &[(&name, Type::TEXT)] }, Query { sql: &chunks, parameters: &of_chunks }];
        let [runs, rows] = self.door.read("read", tenant(who)?, queries).await?;
        let Some(run) = runs.first() else { return Ok(None) };
        let log_id: Option<&str> = column(run, 0)?;
        let next_seq = u64::try_from(column::<i64>(run, 1)?).unwrap_or(0);
        let wanted = next_seq.min(from_seq.saturating_add(limit.lines as u64));
        let mut span = Span { run_id: run_id.clone(), from: from_seq, to: wanted };
        let mut kept = Vec::new();
        let mut before = 0;
        'page: for row in &rows {
            for line in Chunk::of(row, 1)?.lines_from(&span)? {
                // The line that passes the limit is the last.
                if before > limit.bytes {
                    break 'page;
                }
                before += line.len();
                span.from += 1;
                kept.push(line);
            }
        }
        if kept.is_empty() && span.from < span.to {
            return Err(lines::missing(&span).into());
        }
        Ok(Some(Lines { log_id: log_id.map(LogId::from_kept), next_seq, generation: 0, lines: kept }))
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
        let given = Arc::new((run_id.clone(), bytes));
        let (put, written) = retention::with_room(&self.door, tenant, || {
            let (given, runs) = (Arc::clone(&given), self.runs.clone());
            self.door.write("put_graph", tenant, move |transaction| {
                let (given, runs) = (Arc::clone(&given), runs.clone());
                Box::pin(async move {
                    let (run_id, bytes) = &*given;
                    append::put_graph(transaction, (tenant, &runs), run_id, bytes).await
                })
            })
        })
        .await?;
        written.into_iter().for_each(|held| self.runs.hold(tenant, held));
        if put == GraphPut::Created {
            self.feed.changed(tenant, run_id);
        }
        Ok(put)
    }

    async fn append(&self, who: &Principal, batch: Vec<Part>) -> Result<Appended, StoreError> {
        let tenant = tenant(who)?;
        let batch = Arc::new(batch);
        let (appended, written) = retention::with_room(&self.door, tenant, || {
            let (batch, runs) = (Arc::clone(&batch), self.runs.clone());
            self.door.write("append", tenant, move |transaction| {
                let (batch, runs) = (Arc::clone(&batch), runs.clone());
                Box::pin(async move { append::append(transaction, (tenant, &runs), &batch).await })
            })
        })
        .await?;
        for held in written {
            let run_id = held.summary.run_id.clone();
            self.runs.hold(tenant, held);
            self.feed.changed(tenant, &run_id);
        }
        Ok(appended)
    }

    async fn problems(&self, who: &Principal, run_id: &RunId) -> Result<Option<Problems>, StoreError> {
        let Some(loaded) = self.load(who, run_id).await? else { return Ok(None) };
        let state = loaded.state;
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

    fn vitals(&self) -> Vitals {
        Vitals { connections: Some(self.door.connections()), cache: Some(self.runs.vitals()), calls: self.door.calls() }
    }
}

/// Whose data a principal may see. One without a tenant gets nothing, not everything.
pub(super) fn tenant(who: &Principal) -> Result<TenantId, StoreError> {
    let tenant = who.tenant.as_ref().and_then(|tenant| Uuid::try_parse(&tenant.id).ok());
    tenant.map(TenantId).ok_or_else(|| StoreError::Failed("the principal has no tenant".into()))
}

/// A page of these rows, of which there may be one more than wanted.
fn page_of(query: &ListQuery, mut items: Vec<Arc<Summary>>, counted: &[Row]) -> Result<ListPage, StoreError> {
    let more = items.len() > query.limit;
    items.truncate(query.limit);
    let total: i64 = match counted.first() {
        Some(row) => column(row, 0)?,
        None => 0,
    };
    Ok(ListPage { items, total: u64::try_from(total).unwrap_or(0), more, changes_at: Some(query.filter.now) })
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
