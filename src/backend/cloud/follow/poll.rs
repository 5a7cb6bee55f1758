//! The poll: once a second it asks what was committed since it asked before, and so finds what no notification told.
//!
//! Rows name the transaction that wrote them last, and a snapshot says which transactions had ended. What a snapshot did
//! not show yet was written by one that was open then, or began later: exactly these are asked for, however long some
//! transaction of somebody else's stays open.
//!
//! That holds as long as the database keeps its count. A crash, a failover to a replica or a restore may set it back, and
//! ids that were seen come again. No session outlives any of these, so the snapshots are all of one session, the
//! [`Witness`]; when it is lost, everybody is told to look once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Database, DatabaseError, Door, Followers, Query, Runs, TenantId, held, root_cause, wake, wake_all};
use crate::contract::Change;
use crate::domain::RunId;

const EVERY: Duration = Duration::from_secs(1);
/// Runs that one poll of a tenant names; more are one [`Change::All`].
const NAMED: usize = 1000;
/// Tenants that are asked about at once: the pool is there for requests.
const AT_ONCE: usize = 4;
/// How long the witness may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Which transactions had ended at some moment.
#[derive(Debug, PartialEq, Eq)]
struct Moment {
    /// None from this id on,
    next: String,
    /// and none of these.
    open: Vec<String>,
}

impl Moment {
    /// From Postgres' text of a snapshot, `xmin:xmax:xid,xid...`.
    fn parse(snapshot: &str) -> Option<Self> {
        let mut parts = snapshot.splitn(3, ':').skip(1);
        let (next, open) = (parts.next()?, parts.next()?);
        let open = open.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
        Some(Self { next: next.to_owned(), open })
    }
}

/// A session of its own, and the moment up to which everything was told.
pub(super) struct Witness {
    client: Client,
    told: Moment,
}

impl Witness {
    pub(super) async fn call(database: &Database) -> Result<Self, DatabaseError> {
        let client = in_time(async {
            let connected = database.client().await;
            connected.map_err(|error| DatabaseError::NoConnection(root_cause(&error)))
        });
        let client = client.await?;
        let told = now(&client).await?;
        Ok(Self { client, told })
    }
}

/// What the session sees now.
async fn now(client: &Client) -> Result<Moment, DatabaseError> {
    let row = in_time(async { Ok(client.query_typed("SELECT pg_current_snapshot()::text", &[]).await?) }).await?;
    let text: &str = row.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    Moment::parse(text).ok_or_else(|| DatabaseError::Unreadable(format!("the snapshot {text:?}")))
}

async fn in_time<T>(answer: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, DatabaseError> {
    let silent = |_| DatabaseError::Lost(format!("no answer within {} s", ANSWER.as_secs()));
    tokio::time::timeout(ANSWER, answer).await.map_err(silent)?
}

/// The poll over all tenants that have followers.
pub(super) struct Poll {
    database: Database,
    door: Door,
    followers: Followers,
    /// Held by versions, whose numbers may come again when the witness is lost.
    runs: Runs,
    /// Asks for a look at once.
    look: Arc<Notify>,
}

impl Poll {
    pub(super) fn new(database: Database, door: Door, (followers, runs): (Followers, Runs), look: Arc<Notify>) -> Self {
        Self { database, door, followers, runs, look }
    }

    pub(super) async fn run(self, witness: Witness) {
        let mut witness = Some(witness);
        let mut is_well = true;
        // From the beginning of one round to that of the next: with many tenants a round takes its time too.
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.look.notified() => {}
            }
            let done = match &mut witness {
                Some(known) => self.round(known).await,
                None => self.begin_again().await.map(|known| witness = Some(known)),
            };
            if witness.as_ref().is_some_and(|known| known.client.is_closed()) {
                witness = None;
            }
            match &done {
                Ok(()) if !is_well => log::info!("the poll for changes goes on"),
                // What was to be told stays to be told: the next round finds it.
                Err(error) if is_well => log::warn!("the poll for changes fails: {error}; it is tried every second"),
                _ => {}
            }
            is_well = done.is_ok();
        }
    }

    /// A new witness knows nothing of what the last one had not told, nor whether ids have come again since.
    async fn begin_again(&self) -> Result<Witness, DatabaseError> {
        let witness = Witness::call(&self.database).await?;
        self.runs.forget();
        wake_all(&self.followers);
        Ok(witness)
    }

    async fn round(&self, witness: &mut Witness) -> Result<(), DatabaseError> {
        // Before the tenants: who follows from here on has only changes behind it.
        let now = match now(&witness.client).await {
            Ok(now) => now,
            Err(error) => {
                // Perhaps a session that only seems to live: another one is called.
                *witness = self.begin_again().await.map_err(|_| error)?;
                return Ok(());
            }
        };
        if now == witness.told {
            return Ok(());
        }
        let told = &witness.told;
        stream::iter(self.followed())
            .map(|tenant| async move { Ok((tenant, self.changed_since(tenant, told).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|(tenant, changes)| async move {
                changes.into_iter().for_each(|change| wake(&self.followers, tenant, change));
                Ok::<_, DatabaseError>(())
            })
            .await?;
        witness.told = now;
        Ok(())
    }

    /// The tenants with followers; the others are forgotten.
    fn followed(&self) -> Vec<TenantId> {
        let mut map = held(&self.followers);
        map.retain(|_, sender| sender.receiver_count() > 0);
        map.keys().copied().collect()
    }

    async fn changed_since(&self, tenant: TenantId, told: &Moment) -> Result<Vec<Change>, DatabaseError> {
        // The upper bound keeps rows of a restored dump out, whose ids are another cluster's.
        let sql = "SELECT run_id FROM runs WHERE (changed >= $1::text::xid8 OR changed = ANY ($2::text[]::xid8[])) \
                   AND changed < pg_snapshot_xmax(pg_current_snapshot()) LIMIT $3";
        let limit = NAMED as i64 + 1;
        let parameters =
            [(&told.next as _, Type::TEXT), (&told.open as _, Type::TEXT_ARRAY), (&limit as _, Type::INT8)];
        let [rows] = self.door.read("changed", tenant, [Query { sql, parameters: &parameters }]).await?;
        if rows.len() > NAMED {
            return Ok(vec![Change::All]);
        }
        let run_ids: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(run_ids.iter().filter_map(|run_id| RunId::parse(run_id)).map(Change::Run).collect())
    }
}
