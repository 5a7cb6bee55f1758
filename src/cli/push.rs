//! `kahn push`: sends the runs of an archive to a server, and proves that they arrived.
//!
//! The server says where a run's log goes on there; the lines from that seq follow in batches, each placed by its seq,
//! so that a batch which is sent twice is stored once. At the end both sides hash all lines.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ureq::http::Method;

use super::client::{self, Client, ClientError, Purpose};
use super::named::open_all;
use super::print::{Lines, Progress};
use crate::archive_reader::{Archive, Found, GRAPH, Judged, LOG, LogReader, ReaderError, RunFolder};
use crate::config::BootError;
use crate::domain::id::sha256_hex;
use crate::domain::{LogId, MAX_LINE_BYTES, Problem, RunId};

/// A batch holds no more lines than this, and
const BATCH_LINES: usize = 500;
/// no more bytes than this (4 MiB).
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a run is begun again because the server's log turned out shorter than it had said.
const RESTARTS: u32 = 5;
/// How many left-out lines a report for people names.
const LINES_NAMED: usize = 3;

/// Options of `kahn push`.
#[derive(Debug, Clone, Args)]
pub(super) struct PushOptions {
    /// Archives (folders with runs/) and run folders
    #[arg(required = true, value_name = "RUN_OR_ARCHIVE_DIR")]
    paths: Vec<PathBuf>,
    #[arg(long, env = "KAHN_TO", value_name = "URL", help = "The server's address, as in https://kahn.example.org")]
    to: String,
    /// A file that holds the key; without it the key is KAHN_KEY of the environment
    #[arg(long, env = "KAHN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print one JSON object a run
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// What became of one run.
#[derive(Debug, Serialize)]
struct Report {
    run_id: RunId,
    ok: bool,
    /// Lines that are new on the server.
    sent: u64,
    /// Lines that it had.
    already_there: u64,
    graph: GraphReport,
    left_out: LeftOut,
    /// Kept lines of the log.
    lines: u64,
    /// Their SHA-256, each with LF.
    lines_sha256: String,
    /// Whether the server has the same lines, none more and none less.
    sha256_equal: bool,
    error: Option<String>,
}

/// What became of graph.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum GraphReport {
    None,
    Sent,
    AlreadyThere,
    LeftOut,
}

/// What of the folder was not sent.
#[derive(Debug, Default, Serialize)]
struct LeftOut {
    /// Lines that are no events of this run.
    lines: u64,
    /// The first of them, and why.
    problems: Vec<Problem>,
    /// Whether the log ends in an unfinished line.
    unfinished_line: bool,
    /// Why there is no log.
    log: Option<String>,
    /// Why graph.json counts as absent.
    graph: Option<String>,
}

/// Why a run did not arrive.
#[derive(Debug, thiserror::Error)]
enum PushError {
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
    #[error("the server has {theirs} lines of this log and this folder {own}: it is an older copy")]
    OlderCopy { own: u64, theirs: u64 },
    #[error("the server's log kept getting shorter while it was sent; push again")]
    Shrinking,
    #[error(
        "the server's lines are not the ones that were sent (SHA-256 {theirs}, here {own}); do not rely on its copy"
    )]
    Differs { own: String, theirs: String },
}

impl PushError {
    /// Whether every further run would fail the same way.
    fn is_final(&self) -> bool {
        match self {
            Self::Server(ClientError::Refused(refusal)) => refusal.is_final(),
            Self::Server(ClientError::Unreachable { .. } | ClientError::Strange { .. }) => true,
            _ => false,
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

pub(super) fn run(options: &PushOptions) -> Result<ExitCode, BootError> {
    let client = Client::new(Purpose::Push, &options.to, client::read_key(options.key_file.as_deref())?)?;
    let archives = open_all(&options.paths, Archive::open_archive_or_run)?;
    let mut output = Output {
        lines_out: Lines::stdout(),
        progress: Progress::stderr(),
        json: options.json,
        runs: 0,
        failed: 0,
        sent: 0,
        already_there: 0,
        left_out: 0,
    };
    let mut stopped = false;
    for archive in &archives {
        for run_id in archive.run_ids().map_err(|error| BootError::Failure(error.to_string()))? {
            if stopped {
                output.tell(&Report::not_tried(run_id));
                continue;
            }
            let mut report = Report::new(run_id);
            if let Err(error) = push(&client, archive, &mut report, &mut output.progress) {
                stopped = error.is_final();
                report.error = Some(error.to_string());
            }
            report.ok = report.error.is_none();
            output.tell(&report);
        }
    }
    output.sum_up();
    Ok(if output.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends one run; the report is filled as far as it goes.
fn push(client: &Client, archive: &Archive, report: &mut Report, progress: &mut Progress) -> Result<(), PushError> {
    let folder = archive.run(&report.run_id)?.ok_or(PushError::Gone)?;
    let there = position(client, &report.run_id, "")?;
    check_log(&folder, &there)?;
    report.already_there = there.next_seq;
    send_graph(client, &folder, &there, report)?;
    let mut next_seq = there.next_seq;
    let mut restarts = 0;
    while let Pass::Restart(from) = send_lines(client, &folder, next_seq, report, progress)? {
        restarts += 1;
        if restarts > RESTARTS {
            return Err(PushError::Shrinking);
        }
        next_seq = from;
    }
    let now = position(client, &report.run_id, "?digest=true")?;
    if now.next_seq > report.lines {
        return Err(PushError::OlderCopy { own: report.lines, theirs: now.next_seq });
    }
    report.sha256_equal =
        now.next_seq == report.lines && (report.lines == 0 || now.lines_sha256.as_ref() == Some(&report.lines_sha256));
    if report.sha256_equal {
        Ok(())
    } else {
        let theirs = now.lines_sha256.unwrap_or_else(|| format!("of {} lines", now.next_seq));
        Err(PushError::Differs { own: report.lines_sha256.clone(), theirs })
    }
}

fn position(client: &Client, run_id: &RunId, query: &str) -> Result<Position, PushError> {
    match client.get(&format!("/v1/ingest/runs/{run_id}{query}")) {
        Ok(body) => Ok(parse(client, &body)?),
        // A run that nobody has begins at 0.
        Err(ClientError::Refused(refusal)) if refusal.status == 404 => Ok(Position::default()),
        Err(error) => Err(error.into()),
    }
}

fn parse<'de, T: Deserialize<'de>>(client: &Client, body: &'de [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| client.strange(error.to_string()))
}

/// Nothing is sent to a run that is another one.
fn check_log(folder: &RunFolder, there: &Position) -> Result<(), PushError> {
    let Some(theirs) = &there.log_id else { return Ok(()) };
    let mut own = None;
    if let Found::File(log) = folder.log()? {
        LogReader::new(folder.run_id()).read(&log, |judged| match judged {
            Judged::Kept { line, .. } => {
                own = Some(LogId::of_first_line(line));
                ControlFlow::Break(())
            }
            Judged::Skipped { .. } => ControlFlow::Continue(()),
        })?;
    }
    match own {
        None => Err(PushError::OlderCopy { own: 0, theirs: there.next_seq }),
        Some(own) if own != *theirs => Err(PushError::OtherLog { own, theirs: theirs.clone() }),
        Some(_) => Ok(()),
    }
}

fn send_graph(client: &Client, folder: &RunFolder, there: &Position, report: &mut Report) -> Result<(), PushError> {
    let graph = match folder.graph()? {
        Found::Nothing => return Ok(()),
        Found::NotRegular => Err(format!("{GRAPH} is a link or no file")),
        Found::File(graph) => graph.graph.map(|_| graph.bytes),
    };
    let bytes = match graph {
        Ok(bytes) => bytes,
        Err(reason) => {
            report.graph = GraphReport::LeftOut;
            report.left_out.graph = Some(reason);
            return Ok(());
        }
    };
    if there.graph_sha256.as_deref() == Some(&sha256_hex(&bytes)) {
        report.graph = GraphReport::AlreadyThere;
        return Ok(());
    }
    let path = format!("/v1/ingest/runs/{}/graph", report.run_id);
    client.write(&Method::PUT, &path, "application/json", &bytes)?;
    report.graph = GraphReport::Sent;
    Ok(())
}

/// How one reading of the log ended.
enum Pass {
    /// At the end of the log.
    Done,
    /// The server's log is shorter than it had said, and goes on at this seq.
    Restart(u64),
}

/// Reads the log from its start and sends the lines from `next_seq` on.
fn send_lines(
    client: &Client,
    folder: &RunFolder,
    next_seq: u64,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<Pass, PushError> {
    let mut reader = LogReader::new(folder.run_id());
    let mut digest = Sha256::new();
    let mut batch = Batch { from_seq: next_seq, lines: 0, bytes: Vec::new() };
    match folder.log()? {
        Found::Nothing => {}
        Found::NotRegular => report.left_out.log = Some(format!("{LOG} is a link or no file")),
        Found::File(log) => loop {
            reader.read(&log, |judged| {
                let Judged::Kept { seq, line, .. } = judged else { return ControlFlow::Continue(()) };
                digest.update(line);
                digest.update(b"\n");
                if seq >= next_seq {
                    batch.push(line);
                }
                if batch.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if batch.lines == 0 {
                break;
            }
            if let Pass::Restart(from) = send_batch(client, &mut batch, report)? {
                return Ok(Pass::Restart(from));
            }
            let (done, size) = (reader.offset(), log.identity().size.max(1));
            progress.show(|| format!("{}: {} events sent, {} %", report.run_id, report.sent, done * 100 / size));
        },
    }
    let ledger = reader.ledger();
    report.left_out.lines = ledger.skipped;
    report.left_out.unfinished_line = ledger.pending > 0;
    report.left_out.problems = reader.problems().to_vec();
    report.lines = ledger.kept;
    report.lines_sha256 = hex::encode(digest.finalize());
    Ok(Pass::Done)
}

/// Sends the batch and empties it; it then goes on behind its lines.
fn send_batch(client: &Client, batch: &mut Batch, report: &mut Report) -> Result<Pass, PushError> {
    let path = format!("/v1/ingest/transitions?from_seq={}", batch.from_seq);
    let answer = match client.write(&Method::POST, &path, "application/x-ndjson", &batch.bytes) {
        Ok(body) => parse::<Accepted>(client, &body)?,
        Err(ClientError::Refused(refusal)) => {
            return match (refusal.problem.code.as_str(), refusal.problem.next_seq, refusal.problem.seq) {
                ("gap", Some(from), _) if from < batch.from_seq => Ok(Pass::Restart(from)),
                ("conflict", _, Some(seq)) => Err(PushError::Conflict { seq }),
                _ => Err(ClientError::Refused(refusal).into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    report.sent += answer.accepted;
    report.already_there += answer.duplicates;
    batch.from_seq += batch.lines as u64;
    batch.lines = 0;
    batch.bytes.clear();
    Ok(Pass::Done)
}

/// Lines on their way.
struct Batch {
    from_seq: u64,
    lines: usize,
    bytes: Vec<u8>,
}

impl Batch {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.lines += 1;
    }

    /// Whether another line might not fit.
    fn is_full(&self) -> bool {
        self.lines == BATCH_LINES || self.bytes.len() + MAX_LINE_BYTES + 1 > BATCH_BYTES
    }
}

impl Report {
    fn new(run_id: RunId) -> Self {
        Self {
            run_id,
            ok: false,
            sent: 0,
            already_there: 0,
            graph: GraphReport::None,
            left_out: LeftOut::default(),
            lines: 0,
            lines_sha256: String::new(),
            sha256_equal: false,
            error: None,
        }
    }

    fn not_tried(run_id: RunId) -> Self {
        Self { error: Some("not tried, since it would fail like the one before".into()), ..Self::new(run_id) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {} sent, {} already there", self.run_id.as_str(), self.sent, self.already_there)?;
        f.write_str(match self.graph {
            GraphReport::None | GraphReport::LeftOut => "",
            GraphReport::Sent => ", graph sent",
            GraphReport::AlreadyThere => ", graph already there",
        })?;
        if self.sha256_equal {
            f.write_str(", sha256 equal")?;
        }
        let left_out = self.left_out.parts();
        if !left_out.is_empty() {
            write!(f, "; left out: {}", left_out.join(", "))?;
        }
        match &self.error {
            Some(error) => write!(f, "; FAILED: {error}"),
            None => Ok(()),
        }
    }
}

impl LeftOut {
    fn parts(&self) -> Vec<String> {
        let named = self.problems.iter().take(LINES_NAMED);
        let mut parts: Vec<String> =
            named.map(|problem| format!("line {} ({})", problem.line.unwrap_or_default(), problem.reason)).collect();
        let unnamed = self.lines.saturating_sub(parts.len() as u64);
        match unnamed {
            0 => {}
            1 => parts.push("1 more line".into()),
            _ => parts.push(format!("{unnamed} more lines")),
        }
        if self.unfinished_line {
            parts.push("an unfinished last line".into());
        }
        parts.extend(self.log.clone());
        parts.extend(self.graph.clone());
        parts
    }
}

/// Tells a person or a program, and counts.
struct Output {
    lines_out: Lines,
    progress: Progress,
    json: bool,
    runs: u64,
    failed: u64,
    sent: u64,
    already_there: u64,
    left_out: u64,
}

impl Output {
    fn tell(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(!report.ok);
        self.sent += report.sent;
        self.already_there += report.already_there;
        self.left_out += report.left_out.lines + u64::from(report.left_out.unfinished_line);
        self.progress.clear();
        if self.json {
            self.lines_out.json(report);
        } else {
            self.lines_out.say(&report.to_string());
        }
        // A reader that went away does not stop the sending.
        self.lines_out.flush();
    }

    fn sum_up(&mut self) {
        if self.json {
            return;
        }
        let arrived = self.runs - self.failed;
        let Self { sent, already_there, left_out, runs, .. } = self;
        self.lines_out.say(&format!(
            "{sent} events sent, {already_there} already there, {left_out} lines left out; sha256 equal in {arrived} of {runs} runs"
        ));
        self.lines_out.flush();
    }
}
