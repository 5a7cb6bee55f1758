//! The live feed. A client's position is a seq: the log is read from there whenever it may have grown, so that nothing
//! is missed between stored and live, and nothing comes twice. What the client has not taken yet stays in the store.

mod frames;
mod list;
mod socket;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use actix_http::ws::{CloseCode, CloseReason, Message};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, rt, web};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use self::frames::Frame;
use self::list::{ListOfClient, Pairs};
use self::socket::{Inbox, Incoming, Outbox};
use crate::contract::{Cost, Principal, Scope, StoreError};
use crate::domain::{LogId, RunId};
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::http::principal::{authorize, facts_of};
use crate::live::{Followed, JoinError, Page, Seat, Wanted};
use crate::services::Services;

/// Seconds between signs of life.
const HEARTBEAT_S: u64 = 5;
/// Silence after which a client counts as gone, and how long it may take none of its frames.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// A client that took none of its frames for so long, and has more than a page waiting then, is told that it was slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long a client that was told so may take to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
/// Runs that one client may follow at once.
const MAX_SUBSCRIPTIONS: usize = 100;
/// Messages that a client may send at once, and how many more a second.
const MESSAGES: f64 = 400.0;
const MESSAGES_A_SECOND: f64 = 50.0;
/// The code that a client that stays slow is closed with.
const TOO_SLOW: u16 = 4008;
const MESSAGES_ARE: &str = "a message is JSON: {\"type\":\"subscribe\",\"run_id\",\"log_id\"?,\"from_seq\"}, {\"type\":\"unsubscribe\",\"run_id\"}, \
                            {\"type\":\"subscribe_runs\",\"filters\"?} with the filters of /api/runs, or {\"type\":\"unsubscribe_runs\"}";
/// Seconds after which a client that found no place may try again.
const RETRY_AFTER_S: u64 = 5;

pub(super) async fn live(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    Params::parse(request.query_string(), &[])?;
    let (response, outbox, inbox) = socket::upgrade(&request, payload)?;
    let seat = services.live.join(&who, &facts_of(&request)).await?;
    let closing = services.closing();
    let client = Client {
        services: services.get_ref().clone(),
        who,
        seat,
        outbox,
        runs: BTreeMap::new(),
        list: None,
        last_read: None,
        reading: None,
        page: None,
        slow_since: None,
    };
    rt::spawn(client.run(inbox, closing));
    Ok(response)
}

impl From<JoinError> for ApiError {
    fn from(error: JoinError) -> Self {
        let detail = error.to_string();
        let limited = |status, limit: usize| {
            Self::new(status, "too_many_sockets", detail)
                .with("limit", limit)
                .with("retry_after_s", RETRY_AFTER_S)
                .header(actix_web::http::header::RETRY_AFTER, RETRY_AFTER_S.to_string())
        };
        match error {
            JoinError::Full(limit) => limited(StatusCode::SERVICE_UNAVAILABLE, limit),
            JoinError::TenantFull(limit) => limited(StatusCode::TOO_MANY_REQUESTS, limit),
            JoinError::Store(error) => error.into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Subscribe { run_id: String, log_id: Option<String>, from_seq: u64 },
    Unsubscribe { run_id: String },
    SubscribeRuns { filters: Option<Pairs> },
    UnsubscribeRuns,
}

/// A run that the client follows.
struct Position {
    followed: Followed,
    /// The log that its position is of; `None` until it has one.
    log_id: Option<LogId>,
    /// The generation of the lines before its position; `None` until a page told it.
    generation: Option<u64>,
    /// The seq of the next line it wants.
    next_seq: u64,
    /// The log may have grown since it was last read to its end.
    is_behind: bool,
    /// Why the client was told that it gets nothing for now.
    trouble: Option<&'static str>,
    /// The client took no frames for long since it was last told.
    was_stalled: bool,
}

/// A page, or `None` when there is no such run.
type Read = Result<Option<Arc<Page>>, StoreError>;
type Reading = (RunId, LocalBoxFuture<'static, Read>);

struct Client {
    services: Services,
    who: Principal,
    seat: Seat,
    outbox: Outbox,
    runs: BTreeMap<RunId, Position>,
    list: Option<ListOfClient>,
    /// The run whose turn was last.
    last_read: Option<RunId>,
    reading: Option<Reading>,
    /// Frames on their way into the outbox, and the first of them that is not in it.
    page: Option<(RunId, Arc<Page>, usize)>,
    /// Since when it is told that it is slow, until it has caught up.
    slow_since: Option<Instant>,
}

/// Why a client is not served any longer.
enum Parting {
    /// Its connection is gone.
    Gone,
    /// It is told why.
    Close(CloseReason),
}

impl Client {
    async fn run(mut self, inbox: Inbox, closing: watch::Receiver<bool>) {
        if let Err(Parting::Close(reason)) = self.talk(inbox, closing).await {
            if reason.code == CloseCode::Other(TOO_SLOW) {
                self.services.metrics.live.dropped.add(1);
            }
            self.outbox.close(Some(reason));
        }
    }

    async fn talk(&mut self, mut inbox: Inbox, mut closing: watch::Receiver<bool>) -> Result<(), Parting> {
        let now = self.services.clock.now();
        self.say(&Frame::Hello { version: env!("CARGO_PKG_VERSION"), now, heartbeat_s: HEARTBEAT_S });
        let mut beat = tokio::time::interval(Duration::from_secs(HEARTBEAT_S));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let mut last_heard = Instant::now();
        let mut blocked_since: Option<Instant> = None;
        let mut allowance = Allowance::full();
        loop {
            let has_room = self.outbox.has_room();
            if has_room {
                if let Some(since) = blocked_since.take() {
                    // Whoever takes what waited is there; until then it was not asked.
                    last_heard = Instant::now();
                    if since.elapsed() >= SLOW_AFTER {
                        self.put_page_back();
                        self.runs.values_mut().filter(|run| run.is_behind).for_each(|run| run.was_stalled = true);
                    }
                }
            } else {
                blocked_since.get_or_insert_with(Instant::now);
            }
            let list_is_behind = self.list.as_ref().is_some_and(ListOfClient::is_behind);
            let has_work =
                list_is_behind || self.page.is_some() || (self.reading.is_none() && self.next_run().is_some());
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return Err(close(CloseCode::Away, "the server stops")),
                () = self.seat.rights_ended() => {
                    return Err(close(CloseCode::Other(4401), "the right to listen has ended"));
                }
                _ = self.outbox.gone() => return Err(Parting::Gone),
                _ = beat.tick() => self.beat(blocked_since, last_heard)?,
                message = inbox.next(), if has_room => {
                    last_heard = Instant::now();
                    if !allowance.take() {
                        return Err(close(CloseCode::Policy, "too many messages"));
                    }
                    match message {
                        Ok(Incoming::Text(text)) => self.take(&text).await,
                        Ok(Incoming::Ping(bytes)) => self.outbox.push_message(Message::Pong(bytes)),
                        Ok(Incoming::Pong) => {}
                        Ok(Incoming::End) => return Err(close(CloseCode::Normal, "")),
                        Err(fault) => return Err(Parting::Close(fault.close_reason())),
                    }
                }
                () = self.seat.rung() => {
                    if self.seat.is_closed() {
                        return Err(close(CloseCode::Away, "the storage stopped"));
                    }
                    self.runs.values_mut().for_each(|run| run.is_behind |= run.followed.take_news());
                }
                read = read(&mut self.reading) => self.turn(read),
                room = self.outbox.room(), if !has_room => room.map_err(|_| Parting::Gone)?,
                () = std::future::ready(()), if has_room && has_work => self.send(),
            }
        }
    }

    /// A sign of life, and a look at the client's.
    fn beat(&mut self, blocked_since: Option<Instant>, last_heard: Instant) -> Result<(), Parting> {
        if self.slow_since.is_some_and(|since| since.elapsed() >= CATCH_UP_WITHIN) {
            return Err(slow());
        }
        if let Some(since) = blocked_since {
            if since.elapsed() >= DEAD_AFTER {
                return Err(slow());
            }
            // It holds on to nothing while it does not read.
            self.put_page_back();
            return Ok(());
        }
        if last_heard.elapsed() >= DEAD_AFTER {
            return Err(slow());
        }
        // What the storage could not give is asked for again.
        self.runs.values_mut().for_each(|run| run.is_behind |= run.trouble.is_some());
        let now = self.services.clock.now();
        self.say(&Frame::Heartbeat { now });
        self.outbox.push_message(Message::Ping(Bytes::new()));
        Ok(())
    }

    /// Does what a message asks for, or says why not.
    async fn take(&mut self, text: &str) {
        let refused = match serde_json::from_str(text) {
            Ok(request) => self.obey(request).await,
            Err(_) => Err((None, ApiError::bad_request("invalid_frame", MESSAGES_ARE))),
        };
        if let Err((run_id, error)) = refused {
            self.complain(&error, run_id.as_deref());
        }
    }

    /// What a subscription costs: one may lead to the storage, as a request does.
    async fn charge(&self) -> Result<(), ApiError> {
        self.services.access.charge(&self.who, Cost::Request).await?;
        Ok(())
    }

    async fn obey(&mut self, request: Request) -> Result<(), (Option<String>, ApiError)> {
        match request {
            Request::Unsubscribe { run_id } => {
                if let Some(run_id) = RunId::parse(&run_id) {
                    self.forget(&run_id);
                }
                Ok(())
            }
            Request::SubscribeRuns { filters } => {
                self.charge().await.map_err(|error| (None, error))?;
                let listed = || self.seat.list(frames::ROWS);
                let list = ListOfClient::read(&filters.unwrap_or_default(), &self.services, listed);
                self.list = Some(list.map_err(|error| (None, error))?);
                // Now what changes is told: a list that is read after this misses nothing.
                self.say(&Frame::Heartbeat { now: self.services.clock.now() });
                Ok(())
            }
            Request::UnsubscribeRuns => {
                self.list = None;
                Ok(())
            }
            Request::Subscribe { run_id: name, log_id, from_seq } => {
                let refuse = |error| (Some(name.clone()), error);
                let run_id = RunId::parse(&name).ok_or_else(|| refuse(ApiError::unknown_run()))?;
                if self.runs.len() >= MAX_SUBSCRIPTIONS && !self.runs.contains_key(&run_id) {
                    let detail = format!("one socket follows at most {MAX_SUBSCRIPTIONS} runs");
                    return Err(refuse(ApiError::bad_request("too_many_subscriptions", detail)));
                }
                self.charge().await.map_err(refuse)?;
                let found = self.services.store.summary(&self.who, &run_id).await;
                found.map_err(|error| refuse(error.into()))?.ok_or_else(|| refuse(ApiError::unknown_run()))?;
                self.forget(&run_id);
                let position = Position {
                    followed: self.seat.follow(&run_id),
                    log_id: log_id.as_deref().map(LogId::from_kept),
                    generation: None,
                    next_seq: from_seq,
                    is_behind: true,
                    trouble: None,
                    was_stalled: false,
                };
                self.runs.insert(run_id, position);
                Ok(())
            }
        }
    }

    /// Nothing that was read of this run for its old position is sent any more.
    fn forget(&mut self, run_id: &RunId) {
        self.runs.remove(run_id);
        self.reading.take_if(|(reading, _)| reading == run_id);
        self.page.take_if(|(paging, _, _)| paging == run_id);
    }

    /// The run whose turn it is, of those that are behind.
    fn next_run(&self) -> Option<&RunId> {
        let after = self.last_read.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.runs.range::<RunId, _>((after, Bound::Unbounded));
        later.chain(&self.runs).find(|(_, run)| run.is_behind).map(|(run_id, _)| run_id)
    }

    /// Lets go of the frames at hand; the run goes on from its position.
    fn put_page_back(&mut self) {
        if let Some((run_id, _, _)) = self.page.take()
            && let Some(run) = self.runs.get_mut(&run_id)
        {
            run.is_behind = true;
        }
    }

    /// Puts the frames at hand into the outbox, as far as it has room, or asks for more.
    fn send(&mut self) {
        while self.outbox.has_room()
            && let Some(frame) = self.list.as_mut().and_then(ListOfClient::next)
        {
            self.outbox.push(&frame);
        }
        if let Some((run_id, page, at)) = &mut self.page {
            let Some(run) = self.runs.get_mut(run_id) else { return self.page = None };
            while let Some(frame) = page.frames.get(*at) {
                if !self.outbox.has_room() {
                    return;
                }
                self.outbox.push(frame);
                *at += 1;
                run.next_seq += 1;
            }
            // A page that ends before its log is followed by the next one.
            run.is_behind |= run.next_seq < page.next_seq;
            self.page = None;
        } else if self.reading.is_none()
            && let Some(run_id) = self.next_run().cloned()
            && let Some(run) = self.runs.get_mut(&run_id)
        {
            run.is_behind = false;
            // Before the read: what changes from here on is read again.
            let _ = run.followed.take_news();
            self.last_read = Some(run_id.clone());
            let wanted = Wanted { from_seq: run.next_seq, generation: run.generation.unwrap_or_default() };
            let page = self.seat.page(&run.followed, wanted, frames::of_lines);
            self.reading = Some((run_id, Box::pin(page)));
        }
        if self.page.is_none() && self.reading.is_none() && self.next_run().is_none() {
            self.slow_since = None;
        }
    }

    /// What was read of a run, or why nothing was.
    fn turn(&mut self, (run_id, read): (RunId, Read)) {
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        let page = match read.map_err(ApiError::from).and_then(|page| page.ok_or_else(ApiError::unknown_run)) {
            Ok(page) => page,
            Err(error) => {
                // Its position is kept: it goes on from there when the run, or the storage, is back.
                let (code, _) = error.code_and_detail();
                if run.trouble.replace(code) != Some(code) {
                    self.complain(&error, Some(run_id.as_str()));
                }
                return;
            }
        };
        run.trouble = None;
        let is_other_log = run.log_id.is_some() && run.log_id != page.log_id;
        // It may begin with the same line. A client without lines has none that are wrong.
        let known = run.generation.replace(page.generation);
        let is_rewritten = run.next_seq > 0 && known.is_some_and(|known| known != page.generation);
        if is_other_log || is_rewritten || run.next_seq > page.next_seq {
            (run.log_id, run.next_seq, run.is_behind) = (page.log_id.clone(), 0, true);
            let reset = Frame::Reset { run_id: &run_id, log_id: page.log_id.as_ref() };
            return self.say(&reset);
        }
        if run.log_id.is_none() {
            run.log_id.clone_from(&page.log_id);
        }
        let fills_page = run.next_seq + (page.frames.len() as u64) < page.next_seq;
        if std::mem::take(&mut run.was_stalled) && fills_page {
            let from_seq = run.next_seq;
            self.slow_since.get_or_insert_with(Instant::now);
            self.services.metrics.live.resyncs.add(1);
            self.say(&Frame::Resync { run_id: Some(&run_id), from_seq: Some(from_seq) });
        }
        self.page = Some((run_id, page, 0));
    }

    fn complain(&self, error: &ApiError, run_id: Option<&str>) {
        let (code, detail) = error.code_and_detail();
        self.say(&Frame::Error { code, detail, run_id });
    }

    fn say(&self, frame: &Frame<'_>) {
        self.outbox.push(&frame.to_wire());
    }
}

/// Waits for the page that is being read; for ever when none is.
async fn read(reading: &mut Option<Reading>) -> (RunId, Read) {
    let Some((run_id, page)) = reading else { return std::future::pending().await };
    let read = (run_id.clone(), page.await);
    *reading = None;
    read
}

/// How many messages a client may send now.
struct Allowance {
    left: f64,
    since: Instant,
}

impl Allowance {
    fn full() -> Self {
        Self { left: MESSAGES, since: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + (now - self.since).as_secs_f64() * MESSAGES_A_SECOND).min(MESSAGES) - 1.0;
        self.since = now;
        self.left >= 0.0
    }
}

fn slow() -> Parting {
    close(CloseCode::Other(TOO_SLOW), "too slow")
}

fn close(code: CloseCode, words: &str) -> Parting {
    Parting::Close(CloseReason { code, description: (!words.is_empty()).then(|| words.to_owned()) })
}
