//! The one door to tenants' data: begin, set the tenant, work, commit. No other file here touches the pool.
//!
//! Three promises:
//! - The tenant is set inside the transaction (`set_config(..., true)`), so it ends with it: whoever gets the connection
//!   next starts with none, and sees no rows until it says who it is.
//! - A request may be dropped at any await. A read sends everything in one go, COMMIT included, so there is nothing to
//!   leave half done; a write runs in a task of its own, which nobody drops.
//! - A connection whose transaction did not end properly never goes back to the pool: it is closed.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{Object, Pool, PoolError};
use futures_util::future::{BoxFuture, join3, join4, try_join_all};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::pool::root_cause;

/// A tenant that somebody has been verified to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TenantId(pub(super) Uuid);

/// A parameter and its type. Types are said rather than asked for: asking costs a trip and breaks the pipeline.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Why the database gave no answer.
#[derive(Debug, thiserror::Error)]
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
}

const SET_TENANT: &str = "SELECT set_config('kahn.tenant_id', $1, true)";

impl Door {
    /// The only owner of the pool.
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Reads of one tenant, all of one moment, in one trip. Rows of each query, in order.
    pub(super) async fn read<const N: usize>(
        &self,
        tenant: TenantId,
        queries: [Query<'_>; N],
    ) -> Result<[Vec<Row>; N], DatabaseError> {
        let client = self.pool.get().await?;
        let tenant = tenant.0.to_string();
        // Polled in order, so sent in order, all at the first poll. Dropped after that, the server still runs to COMMIT.
        let (begun, set, rows, committed) = join4(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"),
            client.query_typed(SET_TENANT, &[(&tenant, Type::TEXT)]),
            try_join_all(queries.iter().map(|query| client.query_typed(query.sql, query.parameters))),
            client.batch_execute("COMMIT"),
        )
        .await;
        // COMMIT answers Ok to a failed transaction too, so every answer is looked at.
        begun?;
        set?;
        let rows = rows?;
        committed?;
        rows.try_into().map_err(|_| DatabaseError::Unreadable("a query without an answer".to_owned()))
    }

    /// A transaction of one tenant that writes. It runs to its end whatever becomes of the caller; `Ok` means that it is
    /// committed, any error of `work` that nothing is.
    pub(super) async fn write<T, E, W>(&self, tenant: TenantId, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        W: for<'a> FnOnce(&'a Transaction) -> BoxFuture<'a, Result<T, E>> + Send + 'static,
    {
        let pool = self.pool.clone();
        let task = tokio::spawn(async move {
            let transaction = Transaction::begin(&pool, tenant).await?;
            match work(&transaction).await {
                Ok(done) => transaction.commit().await.map(|()| done).map_err(E::from),
                Err(error) => {
                    transaction.roll_back().await;
                    Err(error)
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
    pub(super) async fn outside(&self, query: Query<'_>) -> Result<Vec<Row>, DatabaseError> {
        let client = self.pool.get().await?;
        Ok(client.query_typed(query.sql, query.parameters).await?)
    }
}

/// A transaction that writes, with its tenant set.
pub(super) struct Transaction {
    connection: Lease,
    /// A failed statement spoils the transaction, and COMMIT would then roll back and still say Ok.
    spoiled: AtomicBool,
}

impl Transaction {
    async fn begin(pool: &Pool, tenant: TenantId) -> Result<Self, DatabaseError> {
        let connection = Lease(Some(pool.get().await?));
        let transaction = Self { connection, spoiled: AtomicBool::new(false) };
        let client = transaction.connection.client()?;
        let tenant = tenant.0.to_string();
        let (begun, set, ()) = join3(
            client.batch_execute("BEGIN"),
            client.query_typed(SET_TENANT, &[(&tenant, Type::TEXT)]),
            std::future::ready(()),
        )
        .await;
        begun?;
        set?;
        Ok(transaction)
    }

    /// Rows of a statement.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        self.look(self.connection.client()?.query_typed(sql, parameters).await)
    }

    /// The number of rows that a statement wrote.
    pub(super) async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, DatabaseError> {
        self.look(self.connection.client()?.execute_typed(sql, parameters).await)
    }

    fn look<T>(&self, answer: Result<T, tokio_postgres::Error>) -> Result<T, DatabaseError> {
        if answer.is_err() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        Ok(answer?)
    }

    async fn commit(self) -> Result<(), DatabaseError> {
        if self.spoiled.load(Ordering::Relaxed) {
            self.roll_back().await;
            return Err(DatabaseError::Lost("a statement had failed before COMMIT".to_owned()));
        }
        match self.connection.client()?.batch_execute("COMMIT").await {
            Ok(()) => {
                self.connection.give_back();
                Ok(())
            }
            Err(error) if error.as_db_error().is_some_and(|refusal| !refusal.code().code().starts_with("57")) => {
                Err(error.into())
            }
            Err(error) => Err(DatabaseError::CommitUnknown(root_cause(&error))),
        }
    }

    async fn roll_back(self) {
        let rolled_back = match self.connection.client() {
            Ok(client) => client.batch_execute("ROLLBACK").await.is_ok(),
            Err(_) => false,
        };
        if rolled_back {
            self.connection.give_back();
        }
    }
}

/// A connection that is closed when it is dropped, unless it is given back.
struct Lease(Option<Object>);

impl Lease {
    fn client(&self) -> Result<&deadpool_postgres::ClientWrapper, DatabaseError> {
        match &self.0 {
            Some(object) => Ok(object.deref()),
            None => Err(DatabaseError::Lost("the connection was given back".to_owned())),
        }
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
