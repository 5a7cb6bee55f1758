//! What is told of each run, and of all of them.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::cli::print::{Lines, Progress};
use crate::domain::{Problem, RunId};

/// How many left-out lines a report for people names.
const LINES_NAMED: usize = 3;

/// What became of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) run_id: RunId,
    pub(super) ok: bool,
    /// Lines that are new on the server.
    pub(super) sent: u64,
    /// Lines that it had.
    pub(super) already_there: u64,
    pub(super) graph: GraphReport,
    pub(super) left_out: LeftOut,
    /// Kept lines of the log.
    pub(super) lines: u64,
    /// Their SHA-256, each with LF.
    pub(super) lines_sha256: String,
    /// Whether the server has the same lines, none more and none less.
    pub(super) sha256_equal: bool,
    pub(super) error: Option<String>,
}

/// What became of graph.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GraphReport {
    None,
    Sent,
    AlreadyThere,
    LeftOut,
}

/// What of the folder was not sent.
#[derive(Debug, Default, Serialize)]
pub(super) struct LeftOut {
    /// Lines that are no events of this run.
    pub(super) lines: u64,
    /// The first of them, and why.
    pub(super) problems: Vec<Problem>,
    /// Whether the log ends in an unfinished line.
    pub(super) unfinished_line: bool,
    /// Why there is no log.
    pub(super) log: Option<String>,
    /// Why graph.json counts as absent.
    pub(super) graph: Option<String>,
}

impl Report {
    pub(super) fn new(run_id: RunId) -> Self {
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

    pub(super) fn not_tried(run_id: RunId) -> Self {
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
pub(super) struct Output {
    lines_out: Lines,
    pub(super) progress: Progress,
    json: bool,
    /// Whether each run arrived, as it was told last: by its archive's place among those that were named.
    arrived: BTreeSet<(usize, RunId)>,
    failed: BTreeSet<(usize, RunId)>,
    sent: u64,
    already_there: u64,
    left_out: u64,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self {
            lines_out: Lines::stdout(),
            progress: Progress::stderr(),
            json,
            arrived: BTreeSet::new(),
            failed: BTreeSet::new(),
            sent: 0,
            already_there: 0,
            left_out: 0,
        }
    }

    pub(super) fn tell(&mut self, place: usize, report: &Report) {
        let (into, from) =
            if report.ok { (&mut self.arrived, &mut self.failed) } else { (&mut self.failed, &mut self.arrived) };
        let key = (place, report.run_id.clone());
        from.remove(&key);
        into.insert(key);
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

    pub(super) fn sum_up(&mut self) {
        if self.json {
            return;
        }
        self.progress.clear();
        let Self { sent, already_there, left_out, .. } = self;
        let (arrived, runs) = (self.arrived.len(), self.arrived.len() + self.failed.len());
        self.lines_out.say(&format!(
            "{sent} events sent, {already_there} already there, {left_out} lines left out; sha256 equal in {arrived} of {runs} runs"
        ));
        self.lines_out.flush();
    }

    /// Whether every run that was told arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }
}
