//! Who wants to know that a run changed, and how they get to know: LISTEN/NOTIFY for speed, a poll for certainty.
//!
//! A notification holds a tenant's id and a run's, never data. It may be lost (a full queue, a broken connection, a
//! restart): the poll finds every change within a second, so the worst is a second's delay.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::pool::{Database, root_cause};
use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{Change, Changes};
use crate::domain::RunId;

const CHANNEL: &str = "kahn_runs";
/// Wake-ups that a follower may leave unread before they become one [`Change::All`].
const UNREAD: usize = 1024;
/// Notifications that wait to be sent; past that they are left to the poll.
const UNSENT: usize = 4096;
/// So long writes are gathered into one NOTIFY.
const COALESCE: Duration = Duration::from_millis(5);
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Runs that one poll names; more are one [`Change::All`].
const NAMED: usize = 1000;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

type Followers = Arc<Mutex<HashMap<TenantId, broadcast::Sender<Change>>>>;

/// The way from writers to followers. Its tasks end with it, and so do all streams that it gave.
pub(super) struct Feed {
    followers: Followers,
    unsent: mpsc::Sender<(TenantId, RunId)>,
    tasks: [JoinHandle<()>; 3],
}

impl Feed {
    pub(super) async fn start(database: &Database, door: Door) -> Result<Self, DatabaseError> {
        let followers = Followers::default();
        let (unsent, waiting) = mpsc::channel(UNSENT);
        // Taken before anybody can follow: whatever a follower has not seen is at or past it.
        let horizon = horizon(&door).await?;
        let tasks = [
            tokio::spawn(listen(database.clone(), Arc::clone(&followers))),
            tokio::spawn(notify(door.clone(), waiting)),
            tokio::spawn(poll(door, Arc::clone(&followers), horizon)),
        ];
        Ok(Self { followers, unsent, tasks })
    }

    /// Every change of this tenant's runs from now on.
    pub(super) fn follow(&self, tenant: TenantId) -> Changes {
        let receiver = held(&self.followers).entry(tenant).or_insert_with(|| broadcast::channel(UNREAD).0).subscribe();
        stream::unfold(receiver, |mut receiver| async move {
            let change = match receiver.recv().await {
                Ok(change) => change,
                Err(broadcast::error::RecvError::Lagged(_)) => Change::All,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((change, receiver))
        })
        .boxed()
    }

    /// Tells everybody, other processes too, that this run changed. Called after COMMIT; never waits.
    pub(super) fn changed(&self, tenant: TenantId, run_id: &RunId) {
        if self.unsent.try_send((tenant, run_id.clone())).is_err() {
            log::debug!("the queue of notifications is full; the poll will find the change");
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Nothing panics while it holds the lock, and a map of senders is never half changed.
fn held(followers: &Followers) -> MutexGuard<'_, HashMap<TenantId, broadcast::Sender<Change>>> {
    followers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands a wake-up to the tenant's followers, if it has any.
fn wake(followers: &Followers, tenant: TenantId, change: Change) {
    if let Some(sender) = held(followers).get(&tenant) {
        // An error says that the last follower has just left.
        drop(sender.send(change));
    }
}

/// Listens for ever: connects again, slower each time, when the connection ends.
async fn listen(database: Database, followers: Followers) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match listen_once(&database, &followers).await {
            Ok(()) => pause = SHORTEST_PAUSE,
            Err(error) => {
                log::warn!("listening for changes: {}; the poll goes on", root_cause(&error));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// One connection's life. `Ok` when it ended after it had listened.
async fn listen_once(database: &Database, followers: &Followers) -> Result<(), tokio_postgres::Error> {
    let (client, mut driver) = database.connect().await?;
    let mut messages = stream::poll_fn(move |context| driver.poll_message(context));
    let statement = format!("LISTEN {CHANNEL}");
    let mut listening = Box::pin(client.batch_execute(&statement));
    let mut heard = false;
    loop {
        // The driver has to run for LISTEN to be answered.
        let message = tokio::select! {
            answer = &mut listening, if !heard => {
                answer?;
                heard = true;
                continue;
            }
            message = messages.next() => message,
        };
        match message {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if let Some((tenant, run_id)) = read_payload(notification.payload()) {
                    wake(followers, tenant, Change::Run(run_id));
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) if !heard => return Err(error),
            Some(Err(_)) | None => return Ok(()),
        }
    }
}

fn read_payload(payload: &str) -> Option<(TenantId, RunId)> {
    let (tenant, run_id) = payload.split_once(':')?;
    Some((TenantId(Uuid::try_parse(tenant).ok()?), RunId::parse(run_id)?))
}

/// Sends notifications, all that gather within [`COALESCE`] in one statement, each run once.
async fn notify(door: Door, mut waiting: mpsc::Receiver<(TenantId, RunId)>) {
    while let Some(first) = waiting.recv().await {
        tokio::time::sleep(COALESCE).await;
        let mut changed = HashSet::from([first]);
        while let Ok(next) = waiting.try_recv() {
            changed.insert(next);
        }
        let payloads: Vec<String> = changed.iter().map(|(tenant, run_id)| format!("{}:{run_id}", tenant.0)).collect();
        let sent = door
            .outside(
                "notify",
                Query {
                    sql: "SELECT pg_notify($1, payload) FROM unnest($2) AS payload",
                    parameters: &[(&CHANNEL, Type::TEXT), (&payloads, Type::TEXT_ARRAY)],
                },
            )
            .await;
        if let Err(error) = sent {
            log::warn!("notifications were not sent ({error}); the poll will find the changes");
        }
    }
}

/// Looks every second at each followed tenant for rows written since the second before.
///
/// Whatever a look does not see yet was written by a transaction that had not ended when the look began: its id is at
/// or past the oldest open one of a snapshot taken before. So each round asks from the horizon of the round before.
async fn poll(door: Door, followers: Followers, mut horizon_before: String) {
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let round = async {
            // Before the list: who follows from here on has changes only at or past this horizon.
            let next = horizon(&door).await?;
            for tenant in followed(&followers) {
                for change in changed_since(&door, tenant, &horizon_before).await? {
                    wake(&followers, tenant, change);
                }
            }
            Ok::<_, DatabaseError>(next)
        };
        match round.await {
            Ok(next) => horizon_before = next,
            // The horizon stays, so the next round that succeeds finds what this one did not.
            Err(error) => log::warn!("the poll for changes failed: {error}"),
        }
    }
}

/// The tenants with followers; the others are forgotten.
fn followed(followers: &Followers) -> Vec<TenantId> {
    let mut map = held(followers);
    map.retain(|_, sender| sender.receiver_count() > 0);
    map.keys().copied().collect()
}

async fn horizon(door: &Door) -> Result<String, DatabaseError> {
    let rows = door
        .outside("horizon", Query { sql: "SELECT pg_snapshot_xmin(pg_current_snapshot())::text", parameters: &[] })
        .await?;
    let row = rows.first().ok_or_else(|| DatabaseError::Unreadable("no snapshot".to_owned()))?;
    Ok(row.try_get(0)?)
}

async fn changed_since(door: &Door, tenant: TenantId, horizon: &str) -> Result<Vec<Change>, DatabaseError> {
    // The upper bound keeps rows of a restored dump out, whose ids are another cluster's.
    let sql = "SELECT run_id FROM runs WHERE changed >= $1::text::xid8 AND changed < pg_snapshot_xmax(pg_current_snapshot()) LIMIT $2";
    let limit = NAMED as i64 + 1;
    let [rows] = door
        .read("changed", tenant, [Query { sql, parameters: &[(&horizon, Type::TEXT), (&limit, Type::INT8)] }])
        .await?;
    if rows.len() > NAMED {
        return Ok(vec![Change::All]);
    }
    let run_ids: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(run_ids.iter().filter_map(|run_id| RunId::parse(run_id)).map(Change::Run).collect())
}
