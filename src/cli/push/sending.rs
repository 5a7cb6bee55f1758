//! One run on its way: its log is read once, in turns, and what the server lacks goes there.

use std::ops::ControlFlow;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::Method;

use super::report::{GraphReport, Report};
use crate::archive_reader::{Archive, Found, GRAPH, Identity, Judged, LOG, LogFile, LogReader, ReaderError, RunFolder};
use crate::cli::client::{Client, ClientError};
use crate::cli::print::Progress;
use crate::domain::id::sha256_hex;
use crate::domain::line::written;
use crate::domain::{EventBody, LogId, MAX_LINE_BYTES, RunId};

/// A batch holds no more lines than this, and
const BATCH_LINES: usize = 500;
/// no more bytes than this (4 MiB).
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches of one turn; then it is another run's.
const BATCHES_A_TURN: usize = 16;
/// How often a run is begun again because the server's log turned out shorter than it had said.
const RESTARTS: u32 = 5;

/// Why a run did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error(transparent)]
    Folder(#[from] ReaderError),
    #[error(transparent)]
    Server(#[from] ClientError),
    #[error("its folder is gone; push again")]
    Gone,
    #[error("the server has another log under this run_id ({theirs}, here {own}); push under another run_id")]
    OtherLog { own: LogId, theirs: LogId },
    #[error("the server has another line at seq {seq}; history is never rewritten: push under another run_id")]
    Conflict { seq: u64 },
    #[error(
        "the server has another history of this run: its first {lines} lines are not the ones that stand here; none were sent, \
         push under another run_id"
    )]
    OtherHistory { lines: u64 },
    #[error("the server has {theirs} lines of this log and this folder {own}: it is an older copy")]
    OlderCopy { own: u64, theirs: u64 },
    #[error("the server's log kept getting shorter while it was sent; push again")]
    Shrinking,
    #[error("the server has another graph.json of this run, which is written once; push under another run_id")]
    OtherGraph,
    #[error("the server has deleted this run; restore it there, or push under another run_id")]
    Deleted,
    #[error(
        "the server's lines are not the ones that were sent (SHA-256 {theirs}, here {own}); do not rely on its copy"
    )]
    Differs { own: String, theirs: String },
}

impl PushError {
    /// Whether every further run would fail the same way.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Server(ClientError::Refused(refusal)) => refusal.is_final(),
            Self::Server(ClientError::Unreachable { .. } | ClientError::Strange { .. }) => true,
            _ => false,
        }
    }

    /// What a refusal says of this run, where it is about the run.
    fn of(error: ClientError) -> Self {
        let ClientError::Refused(refusal) = error else { return Self::Server(error) };
        match (refusal.status, refusal.problem.code.as_str(), refusal.problem.seq) {
            (410, ..) => Self::Deleted,
            (_, "graph_conflict", _) => Self::OtherGraph,
            (_, "conflict", Some(seq)) => Self::Conflict { seq },
            _ => Self::Server(ClientError::Refused(refusal)),
        }
    }
}

/// Where a run's log goes on: the answer of GET /v1/ingest/runs/{run_id}.
#[derive(Debug, Default, Deserialize)]
struct Position {
    next_seq: u64,
    log_id: Option<LogId>,
    graph_sha256: Option<String>,
    lines_sha256: Option<String>,
}

/// The answer to a batch, as far as it is used.
#[derive(Debug, Deserialize)]
struct Accepted {
    accepted: u64,
    duplicates: u64,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// What was there when it began is sent.
    Done,
    /// There is more.
    More,
}

/// One run on its way. Between turns it holds no file open and no line.
pub(super) struct Sending {
    report: Report,
    course: Option<Course>,
}

impl Sending {
    pub(super) fn new(run_id: RunId) -> Self {
        Self { report: Report::new(run_id), course: None }
    }

    /// Whether its log has an end event.
    pub(super) fn has_ended(&self) -> bool {
        self.course.as_ref().is_some_and(|course| course.has_ended)
    }

    /// What became of it.
    pub(super) fn into_report(mut self, pushed: Result<(), PushError>) -> Report {
        self.report.error = pushed.err().map(|error| error.to_string());
        self.report.ok = self.report.error.is_none();
        self.report
    }

    /// Sends what the server lacks, up to a turn's worth.
    pub(super) fn turn(
        &mut self,
        client: &Client,
        archive: &Archive,
        progress: &mut Progress,
    ) -> Result<Turn, PushError> {
        let folder = archive.run(&self.report.run_id)?.ok_or(PushError::Gone)?;
        let log = match folder.log()? {
            Found::File(log) => Some(log),
            Found::Nothing => None,
            Found::NotRegular => {
                self.report.left_out.log = Some(format!("{LOG} is a link or no file"));
                None
            }
        };
        let first = log.as_ref().map(|log| first_line(&self.report.run_id, log)).transpose()?.flatten();
        let mut course = match self.course.take().filter(|course| course.goes_on_in(log.as_ref(), first.as_ref())) {
            Some(course) => course,
            None => Course::begin(client, &mut self.report, first.clone())?,
        };
        course.first = first;
        course.send_graph(client, archive, &folder, &mut self.report)?;
        let turn = match &log {
            Some(log) => course.send_lines(client, log, &mut self.report, progress)?,
            None => Turn::Done,
        };
        course.account(&mut self.report);
        self.course = Some(course);
        Ok(turn)
    }

    /// Holds the server's lines against those that were read.
    pub(super) fn verify(&mut self, client: &Client) -> Result<(), PushError> {
        let report = &mut self.report;
        let now = position(client, &report.run_id, "?digest=true")?;
        if now.next_seq > report.lines {
            return Err(PushError::OlderCopy { own: report.lines, theirs: now.next_seq });
        }
        report.sha256_equal = now.next_seq == report.lines
            && (report.lines == 0 || now.lines_sha256.as_ref() == Some(&report.lines_sha256));
        if report.sha256_equal {
            Ok(())
        } else {
            let theirs = now.lines_sha256.unwrap_or_else(|| format!("of {} lines", now.next_seq));
            Err(PushError::Differs { own: report.lines_sha256.clone(), theirs })
        }
    }
}

/// How far one log is read, and where the server goes on.
struct Course {
    /// The log's id and file, once it has them.
    first: Option<LogId>,
    file: Option<Identity>,
    reader: LogReader,
    /// Of every line that was read.
    digest: Sha256,
    has_ended: bool,
    /// The server's, and the hash of all lines before it until it was held against what stands here.
    next_seq: u64,
    unproven: Option<String>,
    restarts: u32,
    /// The server's graph, and the file as it was when it was looked at.
    graph_sha256: Option<String>,
    graph: Option<Identity>,
}

impl Course {
    /// Asks the server where the log goes on. Nothing is sent to a run that is another one.
    fn begin(client: &Client, report: &mut Report, own: Option<LogId>) -> Result<Self, PushError> {
        let there = position(client, &report.run_id, "?digest=true")?;
        match (own, there.log_id) {
            (None, Some(_)) => return Err(PushError::OlderCopy { own: 0, theirs: there.next_seq }),
            (Some(own), Some(theirs)) if own != theirs => return Err(PushError::OtherLog { own, theirs }),
            _ => {}
        }
        report.already_there = there.next_seq.saturating_sub(report.sent);
        Ok(Self {
            first: None,
            file: None,
            reader: LogReader::new(&report.run_id),
            digest: Sha256::new(),
            has_ended: false,
            next_seq: there.next_seq,
            unproven: there.lines_sha256.filter(|_| there.next_seq > 0),
            restarts: 0,
            graph_sha256: there.graph_sha256,
            graph: None,
        })
    }

    /// Whether the log that stands there now is the one that was read so far: neither replaced nor cut.
    fn goes_on_in(&self, log: Option<&LogFile>, first: Option<&LogId>) -> bool {
        match (&self.file, log) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(file), Some(log)) => {
                let now = log.identity();
                now.is_same_file(file)
                    && now.size >= self.reader.end()
                    && (self.first.is_none() || self.first.as_ref() == first)
            }
        }
    }

    fn send_graph(
        &mut self,
        client: &Client,
        archive: &Archive,
        folder: &RunFolder,
        report: &mut Report,
    ) -> Result<(), PushError> {
        let identity = archive.graph_identity(&report.run_id)?;
        if identity.is_none() || identity == self.graph {
            return Ok(());
        }
        let graph = match folder.graph()? {
            Found::Nothing => return Ok(()),
            Found::NotRegular => Err(format!("{GRAPH} is a link or no file")),
            Found::File(graph) => graph.graph.map(|_| graph.bytes),
        };
        // As it was before it was read, so that what came meanwhile is looked at the next time.
        self.graph = identity;
        let bytes = match graph {
            Ok(bytes) => bytes,
            Err(reason) => {
                report.graph = GraphReport::LeftOut;
                report.left_out.graph = Some(reason);
                return Ok(());
            }
        };
        report.left_out.graph = None;
        let sha256 = sha256_hex(&bytes);
        if self.graph_sha256.as_ref() == Some(&sha256) {
            if report.graph != GraphReport::Sent {
                report.graph = GraphReport::AlreadyThere;
            }
            return Ok(());
        }
        let path = format!("/v1/ingest/runs/{}/graph", report.run_id);
        client.write(&Method::PUT, &path, "application/json", &bytes).map_err(PushError::of)?;
        self.graph_sha256 = Some(sha256);
        report.graph = GraphReport::Sent;
        Ok(())
    }

    /// Reads on and sends the lines from the server's `next_seq` on.
    fn send_lines(
        &mut self,
        client: &Client,
        log: &LogFile,
        report: &mut Report,
        progress: &mut Progress,
    ) -> Result<Turn, PushError> {
        let size = log.identity().size;
        self.file = Some(log.identity());
        for _ in 0..BATCHES_A_TURN {
            let batch = self.read_batch(log)?;
            if batch.lines == 0 {
                return Ok(Turn::Done);
            }
            if let Some(from) = send_batch(client, &batch, report)? {
                self.restarts += 1;
                if self.restarts > RESTARTS {
                    return Err(PushError::Shrinking);
                }
                let (restarts, graph, first) = (self.restarts, self.graph, self.first.take());
                let known = report.already_there;
                *self = Self { restarts, graph, ..Self::begin(client, report, first)? };
                report.already_there = known.min(from);
                return Ok(Turn::More);
            }
            self.next_seq = batch.from_seq + batch.lines as u64;
            let done = self.reader.offset();
            progress.show(|| format!("{}: {} events sent, {} %", report.run_id, report.sent, done * 100 / size.max(1)));
            // What is appended meanwhile is for the next turn: a log may grow as fast as it is sent.
            if done >= size {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    /// The next lines that the server lacks; none at the end of the log.
    ///
    /// # Errors
    ///
    /// [`PushError::OtherHistory`] before the first of them is given, when those that the server has are not the ones here.
    fn read_batch(&mut self, log: &LogFile) -> Result<Batch, PushError> {
        let mut batch = Batch { from_seq: self.next_seq, lines: 0, bytes: Vec::new() };
        let mut is_other = false;
        let Self { reader, digest, has_ended, next_seq, unproven, .. } = self;
        reader.read(log, |judged| {
            let Judged::Kept { seq, line, event, .. } = judged else { return ControlFlow::Continue(()) };
            if seq == *next_seq
                && let Some(theirs) = unproven.take()
            {
                is_other = hex::encode(digest.clone().finalize()) != theirs;
                if is_other {
                    return ControlFlow::Break(());
                }
            }
            digest.update(line);
            digest.update(b"\n");
            *has_ended |= matches!(event.body, EventBody::RunEnd(_) | EventBody::AgentRunEnd(_));
            if seq >= *next_seq {
                batch.push(line);
            }
            if batch.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if is_other { Err(PushError::OtherHistory { lines: self.next_seq }) } else { Ok(batch) }
    }

    /// Writes down what became of the lines so far.
    fn account(&mut self, report: &mut Report) {
        let ledger = self.reader.ledger();
        report.left_out.lines = ledger.skipped;
        report.left_out.unfinished_line = ledger.pending > 0;
        report.left_out.problems = self.reader.problems().to_vec();
        report.lines = ledger.kept;
        report.lines_sha256 = hex::encode(self.digest.clone().finalize());
        report.sha256_equal = false;
        self.reader.release();
    }
}

/// The id of the log, once it has a line that counts.
fn first_line(run_id: &RunId, log: &LogFile) -> Result<Option<LogId>, ReaderError> {
    let mut own = None;
    LogReader::new(run_id).read(log, |judged| match judged {
        Judged::Kept { line, .. } => {
            own = Some(LogId::of_first_line(line));
            ControlFlow::Break(())
        }
        Judged::Skipped { .. } => ControlFlow::Continue(()),
    })?;
    Ok(own)
}

fn position(client: &Client, run_id: &RunId, query: &str) -> Result<Position, PushError> {
    match client.get(&format!("/v1/ingest/runs/{run_id}{query}")) {
        Ok(body) => Ok(parse(client, &body)?),
        // A run that nobody has begins at 0.
        Err(ClientError::Refused(refusal)) if refusal.status == 404 => Ok(Position::default()),
        Err(error) => Err(PushError::of(error)),
    }
}

fn parse<'de, T: Deserialize<'de>>(client: &Client, body: &'de [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| client.strange(error.to_string()))
}

/// Sends the batch. `Some` says that the server's log is shorter than it had said, and goes on at this seq.
fn send_batch(client: &Client, batch: &Batch, report: &mut Report) -> Result<Option<u64>, PushError> {
    let path = format!("/v1/ingest/transitions?from_seq={}", batch.from_seq);
    match client.write(&Method::POST, &path, "application/x-ndjson", &batch.bytes) {
        Ok(body) => {
            let answer = parse::<Accepted>(client, &body)?;
            report.sent += answer.accepted;
            report.already_there += answer.duplicates;
            Ok(None)
        }
        Err(ClientError::Refused(refusal)) => match (refusal.problem.code.as_str(), refusal.problem.next_seq) {
            ("gap", Some(from)) if from < batch.from_seq => Ok(Some(from)),
            _ => Err(PushError::of(ClientError::Refused(refusal))),
        },
        Err(error) => Err(PushError::of(error)),
    }
}

/// Lines on their way.
struct Batch {
    from_seq: u64,
    lines: usize,
    bytes: Vec<u8>,
}

impl Batch {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(&written(line));
        self.bytes.push(b'\n');
        self.lines += 1;
    }

    /// Whether another line might not fit.
    fn is_full(&self) -> bool {
        self.lines == BATCH_LINES || self.bytes.len() + MAX_LINE_BYTES + 2 > BATCH_BYTES
    }
}
