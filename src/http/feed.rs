//! The live feed. A client's position is a seq: the log is read from there whenever it may have grown, so that nothing
//! is missed between stored and live, and nothing comes twice. What the client has not taken yet stays in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, rt, web};
use actix_ws::{CloseCode, CloseReason, Closed, Message, MessageStream, Session};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use crate::contract::{Change, Changes, Principal, ReadLimit, Scope};
use crate::domain::{LogId, RunId, Timestamp};
use crate::services::Services;

/// Seconds between signs of life.
const HEARTBEAT_S: u64 = 5;
/// Silence after which a client counts as gone.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// How long a client may take to accept one frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest frame that a client may send.
const MAX_INCOMING: usize = 4 * 1024;
/// The largest frame that a client gets; longer lines are fetched over HTTP.
const MAX_OUTGOING: usize = 256 * 1024;
/// Runs that one client may follow at once.
const MAX_SUBSCRIPTIONS: usize = 100;
/// How much is read of one log before other runs and the client's own messages get their turn.
const READ_PAGE: ReadLimit = ReadLimit { lines: 256, bytes: 1024 * 1024 };

pub(super) async fn live(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    Params::parse(request.query_string(), &[])?;
    let not_a_websocket = || ApiError::bad_request("not_a_websocket", "this address speaks WebSocket only");
    // The library would shake hands over any word that holds this one, and then frame the answer as plain HTTP.
    if !request.headers().get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(not_a_websocket());
    }
    let changes = services.store.follow(&who).await?;
    let (response, session, messages) = actix_ws::handle(&request, payload).map_err(|_| not_a_websocket())?;
    let closing = services.closing();
    let client = Client { services: services.get_ref().clone(), who, session, runs: BTreeMap::new() };
    rt::spawn(client.run(messages.max_frame_size(MAX_INCOMING), changes, closing));
    Ok(response)
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Hello {
        version: &'static str,
        now: Timestamp,
        heartbeat_s: u64,
    },
    Heartbeat {
        now: Timestamp,
    },
    Event {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
        seq: u64,
        line: Option<&'a str>,
    },
    #[serde(rename = "event")]
    LongEvent {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
        seq: u64,
        line: Option<&'a str>,
        bytes: usize,
    },
    Reset {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
    },
    Error {
        code: &'static str,
        detail: &'a str,
        run_id: Option<&'a str>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Subscribe { run_id: String, log_id: Option<String>, from_seq: u64 },
    Unsubscribe { run_id: String },
}

/// A run that the client follows.
struct Followed {
    /// The log that its position is of; `None` until it has one.
    log_id: Option<LogId>,
    /// The seq of the next line it wants.
    next_seq: u64,
    /// The log may have grown since it was last read to its end.
    is_behind: bool,
}

struct Client {
    services: Services,
    who: Principal,
    session: Session,
    runs: BTreeMap<RunId, Followed>,
}

/// Why a client is not served any longer.
enum Parting {
    /// It is gone, or does not take its frames.
    Gone,
    /// It is told why.
    Close(CloseReason),
}

impl From<Closed> for Parting {
    fn from(_: Closed) -> Self {
        Self::Gone
    }
}

impl Client {
    async fn run(mut self, messages: MessageStream, changes: Changes, closing: watch::Receiver<bool>) {
        if let Err(Parting::Close(reason)) = self.talk(messages, changes, closing).await {
            let _ = tokio::time::timeout(SEND_TIMEOUT, self.session.close(Some(reason))).await;
        }
    }

    async fn talk(
        &mut self,
        mut messages: MessageStream,
        mut changes: Changes,
        mut closing: watch::Receiver<bool>,
    ) -> Result<(), Parting> {
        let now = self.services.clock.now();
        self.send(&Frame::Hello { version: env!("CARGO_PKG_VERSION"), now, heartbeat_s: HEARTBEAT_S }).await?;
        let mut beat = tokio::time::interval(Duration::from_secs(HEARTBEAT_S));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let mut last_heard = Instant::now();
        loop {
            let is_behind = self.runs.values().any(|followed| followed.is_behind);
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return Err(close(CloseCode::Away, "the server stops")),
                _ = beat.tick() => {
                    if last_heard.elapsed() > DEAD_AFTER {
                        return Err(Parting::Gone);
                    }
                    let now = self.services.clock.now();
                    self.send(&Frame::Heartbeat { now }).await?;
                    self.within(Step::Ping).await?;
                }
                message = messages.recv() => {
                    last_heard = Instant::now();
                    match message {
                        None | Some(Ok(Message::Close(_))) => return Err(close(CloseCode::Normal, "")),
                        Some(Err(_)) => return Err(close(CloseCode::Protocol, "a frame is at most 4 KiB of text")),
                        Some(Ok(message)) => self.take(message).await?,
                    }
                }
                change = changes.next() => match change {
                    Some(Change::Run(run_id)) => {
                        if let Some(followed) = self.runs.get_mut(&run_id) {
                            followed.is_behind = true;
                        }
                    }
                    Some(Change::All) => self.runs.values_mut().for_each(|followed| followed.is_behind = true),
                    None => return Err(close(CloseCode::Away, "the storage stopped")),
                },
                () = std::future::ready(()), if is_behind => self.catch_up().await?,
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Parting> {
        match message {
            Message::Ping(bytes) => self.within(Step::Pong(bytes)).await,
            Message::Text(text) => match self.obey(&text).await {
                Ok(()) => Ok(()),
                Err((run_id, error)) => self.complain(&error, run_id.as_deref()).await,
            },
            Message::Binary(_) | Message::Continuation(_) => {
                Err(close(CloseCode::Unsupported, "frames are JSON text, in one piece"))
            }
            Message::Pong(_) | Message::Nop | Message::Close(_) => Ok(()),
        }
    }

    /// Does what a frame asks for.
    async fn obey(&mut self, text: &str) -> Result<(), (Option<String>, ApiError)> {
        let request: Request = serde_json::from_str(text).map_err(|_| {
            let detail = "a frame is {\"type\":\"subscribe\",\"run_id\",\"log_id\"?,\"from_seq\"} or {\"type\":\"unsubscribe\",\"run_id\"}";
            (None, ApiError::bad_request("invalid_frame", detail))
        })?;
        match request {
            Request::Unsubscribe { run_id } => {
                self.runs.retain(|followed, _| followed.as_str() != run_id);
                Ok(())
            }
            Request::Subscribe { run_id: name, log_id, from_seq } => {
                let refuse = |error| (Some(name.clone()), error);
                let run_id = RunId::parse(&name).ok_or_else(|| refuse(ApiError::unknown_run()))?;
                if self.runs.len() >= MAX_SUBSCRIPTIONS && !self.runs.contains_key(&run_id) {
                    let detail = format!("one socket follows at most {MAX_SUBSCRIPTIONS} runs");
                    return Err(refuse(ApiError::bad_request("too_many_subscriptions", detail)));
                }
                let found = self.services.store.summary(&self.who, &run_id).await;
                found.map_err(|error| refuse(error.into()))?.ok_or_else(|| refuse(ApiError::unknown_run()))?;
                let log_id = log_id.as_deref().map(LogId::from_kept);
                self.runs.insert(run_id, Followed { log_id, next_seq: from_seq, is_behind: true });
                Ok(())
            }
        }
    }

    /// Sends a page of the first run that is behind.
    async fn catch_up(&mut self) -> Result<(), Parting> {
        let Some((run_id, followed)) = self.runs.iter().find(|(_, followed)| followed.is_behind) else { return Ok(()) };
        let (run_id, mut log_id, mut next_seq) = (run_id.clone(), followed.log_id.clone(), followed.next_seq);
        let page = match self.services.store.read(&self.who, &run_id, next_seq, READ_PAGE).await {
            Ok(Some(page)) => page,
            Ok(None) => {
                self.runs.remove(&run_id);
                return self.complain(&ApiError::unknown_run(), Some(run_id.as_str())).await;
            }
            Err(error) => {
                // Its position is kept: it subscribes again from there when the storage is back.
                self.runs.remove(&run_id);
                return self.complain(&error.into(), Some(run_id.as_str())).await;
            }
        };
        let is_other_log = log_id.is_some() && log_id != page.log_id;
        if is_other_log || next_seq > page.next_seq {
            self.send(&Frame::Reset { run_id: &run_id, log_id: page.log_id.as_ref() }).await?;
            if let Some(followed) = self.runs.get_mut(&run_id) {
                *followed = Followed { log_id: page.log_id, next_seq: 0, is_behind: true };
            }
            return Ok(());
        }
        log_id = log_id.or(page.log_id.clone());
        for line in &page.lines {
            self.send_line(&run_id, log_id.as_ref(), next_seq, line).await?;
            next_seq += 1;
        }
        let is_behind = next_seq < page.next_seq;
        if let Some(followed) = self.runs.get_mut(&run_id) {
            *followed = Followed { log_id, next_seq, is_behind };
        }
        Ok(())
    }

    async fn send_line(
        &mut self,
        run_id: &RunId,
        log_id: Option<&LogId>,
        seq: u64,
        line: &Bytes,
    ) -> Result<(), Parting> {
        let whole = Frame::Event { run_id, log_id, seq, line: std::str::from_utf8(line).ok() };
        let text = to_text(&whole);
        if text.len() <= MAX_OUTGOING {
            return self.within(Step::Text(text)).await;
        }
        self.send(&Frame::LongEvent { run_id, log_id, seq, line: None, bytes: line.len() }).await
    }

    async fn complain(&mut self, error: &ApiError, run_id: Option<&str>) -> Result<(), Parting> {
        let (code, detail) = error.code_and_detail();
        self.send(&Frame::Error { code, detail, run_id }).await
    }

    async fn send(&mut self, frame: &Frame<'_>) -> Result<(), Parting> {
        self.within(Step::Text(to_text(frame))).await
    }

    /// A client that does not take its frames is let go; what it missed is in the log.
    async fn within(&mut self, step: Step) -> Result<(), Parting> {
        let sent = async {
            match step {
                Step::Text(text) => self.session.text(text).await,
                Step::Ping => self.session.ping(b"").await,
                Step::Pong(bytes) => self.session.pong(&bytes).await,
            }
        };
        Ok(tokio::time::timeout(SEND_TIMEOUT, sent).await.map_err(|_| slow())??)
    }
}

/// One thing that goes out.
enum Step {
    Text(String),
    Ping,
    Pong(Bytes),
}

fn to_text(frame: &Frame<'_>) -> String {
    // Strings and integers always print.
    serde_json::to_string(frame).unwrap_or_default()
}

fn slow() -> Parting {
    close(CloseCode::Other(4008), "too slow")
}

fn close(code: CloseCode, words: &str) -> Parting {
    Parting::Close(CloseReason { code, description: (!words.is_empty()).then(|| words.to_owned()) })
}
