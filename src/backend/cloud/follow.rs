//! Who wants to know that a run changed, and how they get to know: LISTEN/NOTIFY for speed, a poll for certainty.
//!
//! A notification holds a tenant's id and a run's, never data. It may be lost (a full queue, a broken connection, a
//! restart, a server killed behind its COMMIT): the poll finds every change within a second, so the worst is a second's
//! delay.

mod poll;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::AsyncMessage;
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::poll::{Poll, Witness};
use super::cache::Runs;
use super::pool::{Database, root_cause};
use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{Change, Changes};
use crate::domain::RunId;

const CHANNEL: &str = "kahn_runs";
/// Wake-ups that a follower may leave unread before they become one [`Change::All`].
const UNREAD: usize = 1024;
/// Notifications that wait to be sent; past that they are left to the poll.
const UNSENT: usize = 4096;
/// Between two NOTIFYs; what is written meanwhile is gathered into one.
const COALESCE: Duration = Duration::from_millis(5);
/// How long a connection may take to be made.
const CONNECTED_IN: Duration = Duration::from_secs(10);
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
    pub(super) async fn start(database: &Database, door: Door, runs: Runs) -> Result<Self, DatabaseError> {
        let followers = Followers::default();
        let (unsent, waiting) = mpsc::channel(UNSENT);
        // Before anybody can follow: whatever a follower has not seen was committed behind the moment that it knows.
        let witness = Witness::call(database).await?;
        let look = Arc::new(Notify::new());
        let poll = Poll::new(database.clone(), door.clone(), (Arc::clone(&followers), runs), Arc::clone(&look));
        let tasks = [
            tokio::spawn(listen(database.clone(), Arc::clone(&followers), look)),
            tokio::spawn(notify(door, waiting)),
            tokio::spawn(poll.run(witness)),
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

/// Hands a wake-up to everybody.
fn wake_all(followers: &Followers) {
    for sender in held(followers).values() {
        drop(sender.send(Change::All));
    }
}

/// Listens for ever: connects again, slower each time, when the connection ends. What was notified meanwhile is looked
/// for as soon as it listens again.
async fn listen(database: Database, followers: Followers, look: Arc<Notify>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match listen_once(&database, &followers, &look).await {
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
async fn listen_once(database: &Database, followers: &Followers, look: &Notify) -> Result<(), tokio_postgres::Error> {
    let Ok(connected) = tokio::time::timeout(CONNECTED_IN, database.connect()).await else {
        log::warn!("listening for changes: no connection within {} s; the poll goes on", CONNECTED_IN.as_secs());
        return Ok(());
    };
    let (client, mut driver) = connected?;
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
                look.notify_one();
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

/// Sends notifications: the first at once, then all that gather within [`COALESCE`] in one statement, each run once.
async fn notify(door: Door, mut waiting: mpsc::Receiver<(TenantId, RunId)>) {
    let mut next = Instant::now();
    while let Some(first) = waiting.recv().await {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + COALESCE;
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
