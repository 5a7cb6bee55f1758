//! The one door to tenants' data: begin, set the tenant, work, commit. No other file here touches the pool.
//!
//! Four promises:
//! - The tenant is set inside the transaction (`set_config(..., true)`), so it ends with it: whoever gets the connection
//!   next starts with none, and sees no rows until it says who it is.
//! - A request may be dropped at any await. A read sends everything in one go, COMMIT included, so there is nothing to
//!   leave half done; a write runs in a task of its own, which nobody drops.
//! - A connection goes back to the pool once it has answered all that it was asked and no transaction is open on it; until then
//!   it counts as taken, also when nobody waits for it any more. One that falls silent is closed.
//! - A transaction that lost a conflict is run again; one whose COMMIT got no answer never is.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError};
use futures_util::future::{BoxFuture, join, join3, join4, try_join_all};
use tokio::runtime::Handle;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::pool::root_cause;
use super::tally::{Call, Tally};
use crate::contract::{CallVitals, Connections};

/// A connection that is silent for so long is given up. Longer than any statement may take: the database says so itself first.
const SILENCE: Duration = Duration::from_secs(20);

/// How often a transaction that lost a conflict is run again, and the longest first pause before that; it doubles each time.
const AGAIN: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A tenant that somebody has been verified to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TenantId(pub(super) Uuid);

/// A parameter and its type. Types are said rather than asked for: asking costs a trip and breaks the pipeline.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Why the database gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// No connection could be had: all are busy, or the database is away.
    #[error("no database connection: {0}")]
    NoConnection(String),
    /// The connection broke or the statement was given up on.
    #[error("the database did not answer: {0}")]
    Lost(String),
    /// The database refused a statement: a fault of ours, or a wall doing its work.
    #[error("the database refused a statement: {code}: {message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What it said, for the log only.
        message: String,
    },
    /// The transaction was in another one's way and lost; nothing of it is stored.
    #[error("the transaction stood in another one's way: {0}")]
    Conflict(String),
    /// COMMIT was sent and no answer came: it may or may not have happened. Sending the same again settles it.
    #[error("whether the transaction was committed is not known: {0}")]
    CommitUnknown(String),
    /// What is stored cannot be read back.
    #[error("stored data cannot be read: {0}")]
    Unreadable(String),
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal)
                if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(refusal.code()) =>
            {
                Self::Conflict(format!("{}: {}", refusal.code().code(), refusal.message()))
            }
            // Shutting down, starting up, cut off by an administrator, out of time or memory: all of these pass.
            Some(refusal) if matches!(&refusal.code().code()[..2], "57" | "53" | "08" | "55" | "40") => {
                Self::Lost(format!("{}: {}", refusal.code().code(), refusal.message()))
            }
            Some(refusal) => {
                Self::Refused { code: refusal.code().code().to_owned(), message: refusal.message().to_owned() }
            }
            None => Self::Lost(root_cause(&error)),
        }
    }
}

impl From<PoolError> for DatabaseError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::NoConnection(root_cause(&error)),
            other => Self::NoConnection(other.to_string()),
        }
    }
}

/// One statement of a read.
pub(super) struct Query<'a> {
    /// SQL with `$1`...
    pub(super) sql: &'a str,
    /// Its parameters.
    pub(super) parameters: &'a [Parameter<'a>],
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub(super) struct Door {
    pool: Pool,
    tally: Arc<Tally>,
}

const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

impl Door {
    /// The only owner of the pool.
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, tally: Arc::default() }
    }

    /// How the calls went by now.
    pub(super) fn calls(&self) -> Vec<CallVitals> {
        self.tally.vitals()
    }

    /// What the pool's connections are doing.
    pub(super) fn connections(&self) -> Connections {
        let status = self.pool.status();
        Connections {
            busy: status.size.saturating_sub(status.available) as u64,
            idle: status.available as u64,
            most: status.max_size as u64,
            waiting: status.waiting as u64,
        }
    }

    /// Reads of one tenant, all of one moment, in one trip. Rows of each query, in order. The name is what the call
    /// is counted under, as with all calls here.
    pub(super) async fn read<const N: usize>(
        &self,
        name: &'static str,
        tenant: TenantId,
        queries: [Query<'_>; N],
    ) -> Result<[Vec<Row>; N], DatabaseError> {
        let call = self.tally.call(name);
        counted(call, self.read_at_once(tenant, queries).await)
    }

    async fn read_at_once<const N: usize>(
        &self,
        tenant: TenantId,
        queries: [Query<'_>; N],
    ) -> Result<[Vec<Row>; N], DatabaseError> {
        let lease = Lease::from(&self.pool).await?;
        let client = lease.client()?;
        // Polled in order, so sent in order, all at the first poll. Dropped after that, the server still runs to COMMIT.
        let trip = join4(
            client.batch_execute(BEGIN_READING),
            set_tenant(client, tenant),
            rows_of(client, queries),
            client.batch_execute("COMMIT"),
        );
        let Some((begun, set, rows, committed)) = in_time(trip).await else { return Err(lease.silent()) };
        // COMMIT is the last to be answered, and answers Ok to a failed transaction too: so every answer is looked at.
        if committed.is_ok() {
            lease.give_back();
        }
        begun?;
        set?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    /// Reads of one moment where some can be asked only once others are answered: the first trip. The snapshot has the
    /// second one; dropped before that, its transaction is rolled back.
    pub(super) async fn snapshot<const N: usize>(
        &self,
        name: &'static str,
        tenant: TenantId,
        queries: [Query<'_>; N],
    ) -> Result<(Snapshot<'_>, [Vec<Row>; N]), DatabaseError> {
        let call = self.tally.call(name);
        let lease = match Lease::from(&self.pool).await {
            Ok(lease) => lease.with_open_transaction(),
            Err(error) => return counted(call, Err(error)),
        };
        let first = async {
            let client = lease.client()?;
            let trip = join3(client.batch_execute(BEGIN_READING), set_tenant(client, tenant), rows_of(client, queries));
            let Some((begun, set, rows)) = in_time(trip).await else { return Ok(None) };
            begun?;
            set?;
            rows.map(Some)
        };
        match first.await {
            Ok(Some(rows)) => Ok((Snapshot { lease, call }, rows)),
            Ok(None) => counted(call, Err(lease.silent())),
            Err(error) => counted(call, Err(error)),
        }
    }

    /// A transaction of one tenant that writes. It runs to its end whatever becomes of the caller; `Ok` means that it is
    /// committed, any error of `work` that nothing is. After a conflict `work` is called again, from the beginning.
    pub(super) async fn write<T, E, W>(&self, name: &'static str, tenant: TenantId, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        W: for<'a> Fn(&'a Transaction) -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'static,
    {
        let Self { pool, tally } = self.clone();
        let task = tokio::spawn(async move {
            let mut call = tally.call(name);
            let mut pauses = pauses();
            loop {
                match attempt(&pool, tenant, &work).await {
                    Ok(done) => {
                        call.answered();
                        return Ok(done);
                    }
                    Err((_, Some(reason @ DatabaseError::Conflict(_)))) if pauses.len() > 0 => {
                        call.retried(&reason);
                        tokio::time::sleep(pauses.next().unwrap_or(FIRST_PAUSE)).await;
                    }
                    Err((error, None)) => {
                        call.answered();
                        return Err(error);
                    }
                    Err((error, Some(reason))) => {
                        call.failed(&reason);
                        return Err(error);
                    }
                }
            }
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(DatabaseError::Lost(format!("the transaction's task ended: {error}")).into()),
        }
    }

    /// A statement that belongs to no tenant: one of the lookup functions, a notification, a sign of life. Tenant tables
    /// have no rows for it.
    pub(super) async fn outside(&self, name: &'static str, query: Query<'_>) -> Result<Vec<Row>, DatabaseError> {
        let call = self.tally.call(name);
        let asked = async {
            let lease = Lease::from(&self.pool).await?;
            let answer = in_time(lease.client()?.query_typed(query.sql, query.parameters)).await;
            let Some(answer) = answer else { return Err(lease.silent()) };
            lease.give_back();
            Ok(answer?)
        };
        counted(call, asked.await)
    }
}

/// The outcome, once it is counted.
fn counted<T>(call: Call<'_>, outcome: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    match &outcome {
        Ok(_) => call.answered(),
        Err(reason) => call.failed(reason),
    }
    outcome
}

/// The answer, unless the connection is silent for too long.
async fn in_time<T>(answer: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(SILENCE, answer).await.ok()
}

/// Says whose transaction this is, until it ends.
async fn set_tenant(client: &ClientWrapper, tenant: TenantId) -> Result<(), tokio_postgres::Error> {
    let tenant = tenant.0.to_string();
    client.query_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant, Type::TEXT)]).await?;
    Ok(())
}

/// The rows of all queries, sent together at the first poll.
async fn rows_of<const N: usize>(
    client: &ClientWrapper,
    queries: [Query<'_>; N],
) -> Result<[Vec<Row>; N], DatabaseError> {
    let rows = try_join_all(queries.iter().map(|query| client.query_typed(query.sql, query.parameters))).await?;
    rows.try_into().map_err(|_| DatabaseError::Unreadable("a query without an answer".to_owned()))
}

/// How long to wait before each further attempt, at random, so that those who met do not meet again.
fn pauses() -> impl ExactSizeIterator<Item = Duration> {
    (0..AGAIN).map(|attempt| {
        let longest = FIRST_PAUSE * (1 << attempt);
        longest.mul_f64(f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX))
    })
}

/// One attempt at a transaction. The error, and the database's own where that is the reason for it.
async fn attempt<T, E: From<DatabaseError>>(
    pool: &Pool,
    tenant: TenantId,
    work: &(impl for<'a> Fn(&'a Transaction) -> BoxFuture<'a, Result<T, E>> + Sync),
) -> Result<T, (E, Option<DatabaseError>)> {
    let own = |error: DatabaseError| (E::from(error.clone()), Some(error));
    let transaction = Transaction::of(Lease::from(pool).await.map_err(own)?, tenant);
    match work(&transaction).await {
        Ok(done) => transaction.commit().await.map(|()| done).map_err(own),
        Err(error) => Err((error, transaction.roll_back().await)),
    }
}

/// A transaction that reads, after its first trip.
pub(super) struct Snapshot<'a> {
    lease: Lease,
    call: Call<'a>,
}

impl Snapshot<'_> {
    /// A trip in between.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let answer = in_time(self.lease.client()?.query_typed(sql, parameters)).await;
        Ok(answer.ok_or_else(silence)??)
    }

    /// The last trip, and the end.
    pub(super) async fn finish<const N: usize>(self, queries: [Query<'_>; N]) -> Result<[Vec<Row>; N], DatabaseError> {
        let Self { lease, call } = self;
        let last = async {
            let client = lease.client()?;
            let Some((rows, committed)) = in_time(join(rows_of(client, queries), client.batch_execute("COMMIT"))).await
            else {
                return Err(lease.silent());
            };
            if committed.is_ok() {
                lease.give_back();
            }
            let rows = rows?;
            committed?;
            Ok(rows)
        };
        counted(call, last.await)
    }
}

/// A transaction that writes, with its tenant set. It begins with its first statement, in the same trip.
pub(super) struct Transaction {
    lease: Lease,
    tenant: TenantId,
    begun: AtomicBool,
    /// Statements that failed or whose answer nobody waited for. Any of them spoils the transaction: COMMIT would then roll back and
    /// still say Ok.
    unsettled: AtomicUsize,
    /// The first failure.
    trouble: Mutex<Option<DatabaseError>>,
    silent: AtomicBool,
}

/// A transaction of one tenant, whoever's role it has: for what the server and the owner's commands do alike. Names of
/// tables are qualified in it, since the owner's own settings count there.
#[async_trait]
pub(super) trait OfTenant: Sync {
    /// Whose it is.
    fn tenant(&self) -> TenantId;

    /// Rows of a statement.
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError>;
}

#[async_trait]
impl OfTenant for Transaction {
    fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        self.query(sql, parameters).await
    }
}

impl Transaction {
    fn of(lease: Lease, tenant: TenantId) -> Self {
        Self {
            lease: lease.with_open_transaction(),
            tenant,
            begun: AtomicBool::new(false),
            unsettled: AtomicUsize::new(0),
            trouble: Mutex::default(),
            silent: AtomicBool::new(false),
        }
    }

    /// Rows of a statement.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let client = self.lease.client()?;
        self.ask(client, client.query_typed(sql, parameters)).await
    }

    /// The number of rows that a statement wrote.
    pub(super) async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, DatabaseError> {
        let client = self.lease.client()?;
        self.ask(client, client.execute_typed(sql, parameters)).await
    }

    async fn ask<T>(
        &self,
        client: &ClientWrapper,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DatabaseError> {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        let answer = if self.begun.swap(true, Ordering::Relaxed) {
            in_time(statement).await
        } else {
            let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE");
            in_time(join3(begin, set_tenant(client, self.tenant), statement))
                .await
                .map(|(begun, set, answer)| begun.and(set).and(answer))
        };
        let error = match answer {
            Some(Ok(answer)) => {
                self.unsettled.fetch_sub(1, Ordering::Relaxed);
                return Ok(answer);
            }
            Some(Err(error)) => error.into(),
            None => {
                self.silent.store(true, Ordering::Relaxed);
                silence()
            }
        };
        // The first one is the reason for those that follow.
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        Err(trouble.get_or_insert(error).clone())
    }

    async fn commit(self) -> Result<(), DatabaseError> {
        if self.unsettled.load(Ordering::Relaxed) > 0 {
            let unheard = || DatabaseError::Lost("a statement's answer was not waited for".to_owned());
            return Err(self.roll_back().await.unwrap_or_else(unheard));
        }
        match in_time(self.lease.client()?.batch_execute("COMMIT")).await {
            Some(Ok(())) => {
                self.lease.give_back();
                Ok(())
            }
            Some(Err(error)) if error.as_db_error().is_some_and(|refusal| !refusal.code().code().starts_with("57")) => {
                Err(error.into())
            }
            Some(Err(error)) => Err(DatabaseError::CommitUnknown(root_cause(&error))),
            None => Err(DatabaseError::CommitUnknown(self.lease.silent().to_string())),
        }
    }

    /// Ends it without a trace; what had failed, if anything had.
    async fn roll_back(self) -> Option<DatabaseError> {
        let Self { lease, silent, trouble, .. } = self;
        if silent.into_inner() {
            lease.silent();
        } else if let Ok(client) = lease.client() {
            match in_time(client.batch_execute("ROLLBACK")).await {
                Some(Ok(())) => lease.give_back(),
                Some(Err(_)) | None => drop(lease.silent()),
            }
        }
        trouble.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silence() -> DatabaseError {
    DatabaseError::Lost(format!("nothing was heard from it for {} s", SILENCE.as_secs()))
}

/// A connection in use. It goes back clean, or not at all: one that is dropped while it works is waited for first.
struct Lease {
    connection: Option<Connection>,
    /// Whether a transaction may be open that has to be ended.
    open: bool,
}

impl Lease {
    async fn from(pool: &Pool) -> Result<Self, DatabaseError> {
        Ok(Self { connection: Some(Connection(Some(pool.get().await?))), open: false })
    }

    fn with_open_transaction(mut self) -> Self {
        self.open = true;
        self
    }

    fn client(&self) -> Result<&ClientWrapper, DatabaseError> {
        self.connection.as_ref().ok_or_else(silence)?.client()
    }

    /// All is answered, and no transaction is open.
    fn give_back(mut self) {
        if let Some(Connection(object)) = &mut self.connection {
            drop(object.take());
        }
        self.connection = None;
    }

    /// Closes it; the error that this is.
    fn silent(mut self) -> DatabaseError {
        self.connection = None;
        silence()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            // Without a runtime the connection is closed.
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(connection.tidy(self.open));
        }
    }
}

/// A connection that is closed when it is dropped.
struct Connection(Option<Object>);

impl Connection {
    fn client(&self) -> Result<&ClientWrapper, DatabaseError> {
        self.0.as_deref().ok_or_else(silence)
    }

    /// Waits until everything is answered, ends the transaction if there is one, and gives the connection back.
    async fn tidy(mut self, open: bool) {
        let Ok(client) = self.client() else { return };
        let tidied = if open {
            in_time(client.batch_execute("ROLLBACK")).await
        } else {
            in_time(client.check_connection()).await
        };
        if let Some(Ok(())) = tidied {
            drop(self.0.take());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
