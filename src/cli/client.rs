//! How the command line talks to a server: the address, the key, bounded waiting, and trying again.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, Uri, header};

use super::stop::Stop;
use crate::config::{self, BootError};

/// How long one request of a person who waits for the answer is sent again.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How long requests are still sent again once the program was asked to end.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(10);
/// How long a server is asked again that says it failed (500), however patient the purpose.
const LONGEST_FAULT: Duration = Duration::from_secs(120);
/// The most of the first pause; each further one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The most that a pause grows to.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// How often it is told that a server is waited for.
const TELL_EVERY: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a server's own deadline for a request.
const TIMEOUT: Duration = Duration::from_secs(90);
/// How much of a server's own words is shown.
const MAX_DETAIL_CHARS: usize = 300;
/// More than any key.
const MAX_KEY_BYTES: u64 = 8 * 1024;

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is to take events: `--to`.
    Push,
    /// It is to compare two runs: `--from`.
    Diff,
}

impl Purpose {
    /// The flag that names the server.
    fn flag(self) -> &'static str {
        match self {
            Self::Push => "--to",
            Self::Diff => "--from",
        }
    }

    /// What the key must be allowed to do.
    fn right(self) -> &'static str {
        match self {
            Self::Push => "ingest",
            Self::Diff => "read",
        }
    }

    /// What to do once the trouble has passed.
    fn later(self) -> &'static str {
        match self {
            Self::Push => "push again later, it goes on where it stopped",
            Self::Diff => "try again later",
        }
    }

    /// More than any answer.
    fn most_bytes(self) -> u64 {
        match self {
            Self::Push => 1024 * 1024,
            // 10,000 nodes in both runs, each with checks that fail.
            Self::Diff => 64 * 1024 * 1024,
        }
    }
}

/// How long a request is sent again to a server that is away, or too busy to take it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// So long.
    For(Duration),
    /// Until it takes it.
    Endless,
}

impl Patience {
    fn at_most(self, longest: Duration) -> Self {
        match self {
            Self::For(patience) => Self::For(patience.min(longest)),
            Self::Endless => Self::For(longest),
        }
    }
}

/// A server, and the key that it is shown.
pub(super) struct Client {
    purpose: Purpose,
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
    patience: Patience,
    stop: Stop,
    /// When it was told last that the server is waited for.
    told: Cell<Option<Instant>>,
}

/// Why there is no answer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nothing came back.
    #[error(
        "{base} does not answer ({source}; tried for {} s); check the address and that the server runs",
        .tried.as_secs()
    )]
    Unreachable {
        /// The server.
        base: String,
        /// How long it was tried.
        tried: Duration,
        /// What happened on the last try.
        source: Box<ureq::Error>,
    },
    /// The server said no.
    #[error("{}", .0.sentence())]
    Refused(Refusal),
    /// An answer that a kahn server does not give.
    #[error(
        "{base} gave an answer that kahn does not give ({what}); check that {} is the address of a kahn server",
        .purpose.flag()
    )]
    Strange {
        /// What it was asked for.
        purpose: Purpose,
        /// The server.
        base: String,
        /// What is strange in it.
        what: String,
    },
}

/// A refusal: what the problem document said.
#[derive(Debug)]
pub(super) struct Refusal {
    purpose: Purpose,
    /// How long the request was sent again, when the refusal may pass.
    tried: Option<Duration>,
    /// The status.
    pub(super) status: u16,
    /// What of the document matters here.
    pub(super) problem: Problem,
}

/// The members of a problem document that are used.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    /// The machine's word for it.
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    detail: String,
    /// Where the log goes on, for `gap`.
    pub(super) next_seq: Option<u64>,
    /// The first line that differs, for `conflict`.
    pub(super) seq: Option<u64>,
}

impl Refusal {
    /// Whether every further request would be refused too. 500 may be about this one alone.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.status, 401 | 403 | 421) || (self.tried.is_some() && self.status != 500)
    }

    fn sentence(&self) -> String {
        let said =
            format!("the server answered {} {}: {}", self.status, self.problem.code, shown(&self.problem.detail));
        match (self.status, self.tried) {
            // Which of these it is, only whoever started it can tell.
            (403, _) if self.problem.code == "read_only" => format!(
                "{said}; where it was started with --fixture-dir, start it with --archive; where another server has the archive, push to that one, or end it and start this one again; where its user may not write to the folder, let it"
            ),
            (401 | 403, _) => {
                format!("{said}; give a key that may {} with --key-file, or in KAHN_KEY", self.purpose.right())
            }
            (_, Some(tried)) => format!("{said} (tried for {} s; {})", tried.as_secs(), self.purpose.later()),
            _ => said,
        }
    }
}

/// A server's own words, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}

impl Client {
    /// A client of the server at `to`.
    ///
    /// # Errors
    ///
    /// When `to` is no address, or the key would cross a network in the clear.
    pub(super) fn new(purpose: Purpose, to: &str, key: Option<String>) -> Result<Self, BootError> {
        let flag = purpose.flag();
        let no_address = |why: &str| {
            BootError::configuration(format!("{flag} is {to:?}, {why}; write it as {flag} https://kahn.example.org"))
        };
        let uri: Uri = to.parse().map_err(|_| no_address("which is no address"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(no_address("which is no http:// or https:// address"));
        };
        if !matches!(scheme, "http" | "https") {
            return Err(no_address("which is no http:// or https:// address"));
        }
        if authority.as_str().contains('@') {
            // Not repeated: what stands before the @ may be a secret.
            return Err(BootError::configuration(format!(
                "{flag} holds a user or password; leave it out, and give the key with --key-file, or in KAHN_KEY"
            )));
        }
        if uri.query().is_some() || to.contains('#') {
            return Err(no_address("which has more than a host and a path"));
        }
        let is_near = is_loopback(authority.host());
        if key.is_some() && scheme == "http" && !is_near {
            return Err(BootError::configuration(format!(
                "the key would cross the network in the clear: {flag} {to} is plain http to another machine; use its https:// address"
            )));
        }
        let mut settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would turn a write into a read, or show the key to another host.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("kahn/", env!("CARGO_PKG_VERSION")));
        if is_near {
            // A proxy's own loopback is another machine.
            settings = settings.proxy(None);
        }
        Ok(Self {
            purpose,
            agent: settings.build().new_agent(),
            base: to.trim_end_matches('/').to_owned(),
            authorization: key.map(|key| format!("Bearer {key}")),
            patience: Patience::For(SHORT_PATIENCE),
            stop: Stop::default(),
            told: Cell::new(None),
        })
    }

    /// The same client with this much patience, which ends soon after the program was asked to.
    pub(super) fn with_patience(self, patience: Patience, stop: Stop) -> Self {
        Self { patience, stop, ..self }
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// When there is no answer of use.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        self.send(|| {
            let request = self.request(&Method::GET, path).body(())?;
            self.agent.run(request)
        })
    }

    /// Writes. It may be sent more than once: only for requests that settle to the same result.
    ///
    /// # Errors
    ///
    /// When there is no answer of use.
    pub(super) fn write(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        self.send(|| {
            let request = self.request(method, path).header(header::CONTENT_TYPE, content_type).body(body)?;
            self.agent.run(request)
        })
    }

    /// The error for an answer that is not a kahn server's.
    pub(super) fn strange(&self, what: impl Into<String>) -> ClientError {
        ClientError::Strange { purpose: self.purpose, base: self.base.clone(), what: what.into() }
    }

    fn request(&self, method: &Method, path: &str) -> Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Sends until there is an answer that will not be another one a moment later, or patience ends; the body of a success.
    fn send(&self, once: impl Fn() -> Result<Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>, ClientError> {
        let begun = Instant::now();
        let mut most = FIRST_PAUSE;
        loop {
            let reply = once().and_then(|response| Reply::read(response, self.purpose.most_bytes()));
            let (may_pass, asked) = match &reply {
                Ok(reply) => (is_passing(reply.status), reply.retry_after),
                Err(error) => (is_passing_error(error), None),
            };
            if !may_pass {
                return self.settle(reply, None);
            }
            // One run that a server cannot read does not keep all others waiting for ever.
            let is_fault = reply.as_ref().is_ok_and(|reply| reply.status == 500);
            let patience = if is_fault { self.patience.at_most(LONGEST_FAULT) } else { self.patience };
            let Some(pause) = self.pause((begun, patience), asked, most) else {
                return self.settle(reply, Some(begun.elapsed()));
            };
            self.tell(&reply);
            self.stop.wait(pause);
            most = (most * 2).min(LONGEST_PAUSE);
        }
    }

    /// How long to wait before the next try; `None` when it would come too late. What a server asks for is kept to, with a
    /// little more, so that all who were refused at one moment do not come back at one.
    fn pause(
        &self,
        (begun, patience): (Instant, Patience),
        asked: Option<Duration>,
        most: Duration,
    ) -> Option<Duration> {
        let at_the_end = self.stop.since().map(|since| since + PATIENCE_AT_THE_END);
        let deadline = match patience {
            Patience::For(patience) => Some(at_the_end.unwrap_or(begun + patience).min(begun + patience)),
            Patience::Endless => at_the_end,
        };
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        match asked.filter(|asked| !asked.is_zero()) {
            Some(asked) if asked < left => Some((asked.min(LONGEST_ASKED) + part_of(most)).min(left)),
            Some(_) => None,
            None if left.is_zero() => None,
            None => Some((most / 2 + part_of(most / 2)).min(left)),
        }
    }

    /// Says that the server is waited for, at most once a minute.
    fn tell(&self, reply: &Result<Reply, ureq::Error>) {
        if self.told.get().is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told.set(Some(Instant::now()));
        let why = match reply {
            Ok(reply) => {
                let code = serde_json::from_slice::<Problem>(&reply.body).unwrap_or_default().code;
                format!("it answered {} {}", reply.status, shown(&code))
            }
            Err(error) => error.to_string(),
        };
        log::warn!("{} is asked again and again ({})", self.base, why.trim_end());
    }

    fn settle(&self, reply: Result<Reply, ureq::Error>, tried: Option<Duration>) -> Result<Vec<u8>, ClientError> {
        let reply = reply.map_err(|source| ClientError::Unreachable {
            base: self.base.clone(),
            tried: tried.unwrap_or_default(),
            source: Box::new(source),
        })?;
        if (200..300).contains(&reply.status) {
            return Ok(reply.body);
        }
        match serde_json::from_slice::<Problem>(&reply.body) {
            Ok(problem) if !problem.code.is_empty() => {
                Err(ClientError::Refused(Refusal { purpose: self.purpose, tried, status: reply.status, problem }))
            }
            // No server of kahn's, or a proxy that speaks for one that is away.
            _ => Err(self.strange(format!("status {}", reply.status))),
        }
    }
}

/// A random part of this, so that clients which failed together do not try again together.
fn part_of(whole: Duration) -> Duration {
    // Without randomness the middle will do.
    whole.mul_f64(getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX)))
}

/// An answer, read whole.
struct Reply {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Reply {
    fn read(mut response: Response<ureq::Body>, most_bytes: u64) -> Result<Self, ureq::Error> {
        let body = response.body_mut().with_config().limit(most_bytes).read_to_vec()?;
        // Its other form, a date, is not used by kahn.
        let seconds =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Self { status: response.status().as_u16(), retry_after: seconds.map(Duration::from_secs), body })
    }
}

/// Whether the same request may be answered otherwise a moment later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

fn is_passing_error(error: &ureq::Error) -> bool {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
    matches!(error, Io(_) | Timeout(_) | ConnectionFailed | HostNotFound | Protocol(_))
}

/// The key for a server: from the file, else from `KAHN_KEY`; never from an argument, which every user of the machine
/// can read.
///
/// # Errors
///
/// When the file cannot be read, or holds no key.
pub(super) fn read_key(file: Option<&Path>) -> Result<Option<String>, BootError> {
    let (source, text) = match file {
        None => match config::env("KAHN_KEY") {
            None => return Ok(None),
            Some(text) => ("KAHN_KEY".to_owned(), text),
        },
        Some(path) => {
            let name = format!("--key-file {}", path.display());
            let text = read_bounded(path)
                .map_err(|error| BootError::configuration(format!("{name} cannot be read: {error}; check the path")))?;
            (name, text)
        }
    };
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BootError::configuration(format!("{source} holds no key; it must hold the key and nothing else")));
    }
    Ok(Some(key.to_owned()))
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_KEY_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
