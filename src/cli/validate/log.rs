//! The checks of one log: every line as it is read, and at the end what the run declared against what it shows.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use super::{Code, InFile};
use crate::archive_reader::{Judged, LogFile, LogReader};
use crate::cli::print::short;
use crate::domain::event::{AuditResult, NodeAttempt, NodeStatus, NodeTransition, Outcome};
use crate::domain::{Event, EventBody, Graph, RunId};
use crate::reduce::ci::KEPT_UNANSWERED;
use crate::reduce::{RunState, Summary};

/// The longest line that an emitter writes (domain.md section 4), in bytes.
const EMITTED_BYTES: usize = 64 * 1024;
/// The longest tail that an emitter writes, in characters.
const TAIL_CHARS: usize = 4096;
/// How many lines are read between two looks at the progress line.
const PROGRESS_LINES: u64 = 256;

/// Reads one log and checks it. Holds the run's state, one line, and a few numbers of each node.
pub(super) struct LogCheck<'a> {
    state: RunState,
    /// The graph's nodes and what each needs; `None` without a graph.
    planned: Option<HashMap<&'a str, &'a [String]>>,
    /// By node: the moves to running whose attempt has not come, in the order of the log, [`KEPT_UNANSWERED`] at the most.
    open: BTreeMap<String, Vec<OpenMove>>,
    start: Option<(u64, u64)>,
    end: Option<DeclaredEnd>,
}

/// A move to running whose attempt has not come.
#[derive(Clone, Copy)]
struct OpenMove {
    /// The number of the attempt that it began.
    attempt: u64,
    line: u64,
}

impl OpenMove {
    fn tell(self, node_id: &str, found: &mut InFile<'_>) {
        let reason = format!("node {node_id} began attempt {}, and no node_attempt of it follows", self.attempt);
        found.fault(Code::Inconsistent, Some(self.line), reason);
    }
}

/// What the last end event declares, each figure with its name.
struct DeclaredEnd {
    line: u64,
    figures: Vec<(&'static str, u64)>,
    /// The outcome of a CI run.
    outcome: Option<Outcome>,
}

impl<'a> LogCheck<'a> {
    pub(super) fn new(graph: Option<&'a Graph>) -> Self {
        Self {
            state: RunState::default(),
            planned: graph
                .map(|graph| graph.nodes.iter().map(|node| (node.id.as_str(), node.depends_on.as_slice())).collect()),
            open: BTreeMap::new(),
            start: None,
            end: None,
        }
    }

    /// What the log's events gave.
    pub(super) fn state(&self) -> &RunState {
        &self.state
    }

    /// Reads the log of this run to its end.
    pub(super) fn read(&mut self, run_id: &RunId, log: &LogFile, found: &mut InFile<'_>) {
        let mut reader = LogReader::new(run_id);
        let mut number = 0;
        let done = reader.read(log, |judged| {
            number += 1;
            found.report.lines += 1;
            match judged {
                Judged::Kept { line, event, .. } => self.take(number, line, &event, found),
                Judged::Skipped { reason, .. } => found.fault(Code::SkippedLine, Some(number), reason),
            }
            if number % PROGRESS_LINES == 0 {
                found.report.show_progress();
            }
            if found.report.lines_out.is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(error) = done {
            found.fault(Code::NotOpened, None, error.to_string());
        }
        let ledger = reader.ledger();
        if ledger.pending > 0 {
            found.report.lines += 1;
            found.fault(Code::TornLine, Some(ledger.lines), "no newline at the end: a torn write, or one under way");
        }
    }

    fn take(&mut self, number: u64, line: &[u8], event: &Event<'_>, found: &mut InFile<'_>) {
        let at = Some(number);
        if line.len() > EMITTED_BYTES {
            found.warning(Code::Form, at, format!("line of {} bytes; emitters keep to 64 KiB", line.len()));
        }
        match &event.body {
            EventBody::Unknown(name) => {
                found.warning(Code::UnknownEvent, at, format!("unknown event: {}", short(name)));
            }
            EventBody::RunStart(start) => self.start = self.start.or(Some((number, start.total_nodes))),
            EventBody::NodeTransition(moved) => self.moved(number, moved, found),
            EventBody::NodeAttempt(attempt) => self.attempted(number, attempt, found),
            EventBody::RunEnd(end) => {
                let figures = [
                    ("done", Some(end.done)),
                    ("failed", Some(end.failed)),
                    ("blocked", Some(end.blocked)),
                    ("total_attempts", end.total_attempts),
                    ("flake_retries", end.flake_retries),
                ];
                let figures = figures.into_iter().filter_map(|(name, figure)| Some((name, figure?))).collect();
                self.end = Some(DeclaredEnd { line: number, figures, outcome: Some(end.outcome) });
                if end.exit_code == Some(0) {
                    found.warning(Code::Form, at, "exit_code is 0; it is left out then");
                }
            }
            EventBody::AgentRunEnd(end) => {
                let figures = vec![
                    ("total_steps", end.total_steps),
                    ("total_tool_calls", end.total_tool_calls),
                    ("total_audit_checkpoints", end.total_audit_checkpoints),
                    ("audits_passed", end.audits_passed),
                    ("audits_failed", end.audits_failed),
                ];
                self.end = Some(DeclaredEnd { line: number, figures, outcome: None });
            }
            _ => {}
        }
        self.state.fold(event, line);
        // Taken out one by one, since a state keeps only the first of them.
        for breach in self.state.breaches.drain(..) {
            let what = breach.node_id.map_or_else(|| breach.what.clone(), |id| format!("node {id} {}", breach.what));
            found.fault(Code::Inconsistent, at, what);
        }
    }

    /// Before the event is folded: what it says of the node against what the log has said so far.
    fn moved(&mut self, number: u64, moved: &NodeTransition<'_>, found: &mut InFile<'_>) {
        let node_id: &str = &moved.node_id;
        self.appears(number, node_id, found);
        match (moved.to, moved.attempt) {
            (NodeStatus::Running, Some(attempt)) => {
                self.await_attempt(node_id, OpenMove { attempt, line: number }, found);
                self.waited(number, node_id, found);
            }
            (to, Some(_)) => {
                found.warning(
                    Code::Form,
                    Some(number),
                    format!("attempt with a move to {to}; only one to running has it"),
                );
            }
            _ => {}
        }
        let last = self.state.nodes.get(node_id).and_then(|node| node.attempts.last());
        if moved.to == NodeStatus::Done && last.is_some_and(|last| !last.converged) {
            found.warning(
                Code::Inconsistent,
                Some(number),
                format!("node {node_id} is done, but its last attempt failed"),
            );
        }
    }

    /// Keeps that an attempt was begun, until it comes.
    fn await_attempt(&mut self, node_id: &str, begun: OpenMove, found: &mut InFile<'_>) {
        let open = self.open.entry(node_id.to_owned()).or_default();
        open.retain(|earlier| earlier.attempt != begun.attempt);
        // So many at a time are no run that goes on: the oldest is told now, since what is kept has a bound.
        if open.len() == KEPT_UNANSWERED {
            open.remove(0).tell(node_id, found);
        }
        open.push(begun);
    }

    /// A node runs when what it needs is done.
    fn waited(&self, number: u64, node_id: &str, found: &mut InFile<'_>) {
        let needs = self.planned.as_ref().and_then(|planned| planned.get(node_id)).copied().unwrap_or_default();
        for needed in needs {
            let status = self.state.nodes.get(needed).map_or(NodeStatus::Pending, |node| node.status);
            if status != NodeStatus::Done {
                let reason = format!("node {node_id} runs, but {needed}, which it needs, is {status}");
                found.warning(Code::Inconsistent, Some(number), reason);
            }
        }
    }

    fn attempted(&mut self, number: u64, attempt: &NodeAttempt<'_>, found: &mut InFile<'_>) {
        let at = Some(number);
        let node_id: &str = &attempt.node_id;
        self.appears(number, node_id, found);
        if let Some(open) = self.open.get_mut(node_id) {
            open.retain(|begun| begun.attempt != attempt.attempt);
        }
        let before = self.state.nodes.get(node_id).and_then(|node| node.attempts.last()).map_or(0, |last| last.attempt);
        if attempt.attempt != before + 1 {
            let reason = format!("attempt {} of node {node_id} comes after attempt {before}", attempt.attempt);
            found.warning(Code::Inconsistent, at, reason);
        }
        if attempt.attempt == 1 && attempt.backoff_s.is_some() {
            found.warning(Code::Form, at, "backoff_s on attempt 1; nothing was waited for");
        }
        let checks = || attempt.done_when_results.iter().map(|check| &check.0);
        for check in checks() {
            let Some(tail) = &check.tail else { continue };
            if check.rc == 0 {
                found.warning(
                    Code::Form,
                    at,
                    format!("tail of `{}`, which exited 0; it is left out then", short(&check.cmd)),
                );
            }
            if tail.chars().nth(TAIL_CHARS).is_some() {
                found.warning(Code::Form, at, format!("tail of `{}` over {TAIL_CHARS} characters", short(&check.cmd)));
            }
        }
    }

    fn appears(&self, number: u64, node_id: &str, found: &mut InFile<'_>) {
        let is_planned = self.planned.as_ref().is_none_or(|planned| planned.contains_key(node_id));
        if !is_planned && !self.state.nodes.contains_key(node_id) {
            found.fault(Code::Inconsistent, Some(number), format!("node {node_id} is not in the graph"));
        }
    }

    /// What the run declared against what its events and its graph show.
    pub(super) fn finish(&self, counted: &Summary, found: &mut InFile<'_>) {
        let nodes = counted.nodes.unwrap_or_default();
        if let Some((line, declared)) = self.start {
            // A run without a graph shows its nodes as they appear; one that goes on may show more of them.
            let is_known = self.planned.is_some() || nodes.total > declared;
            if is_known && declared != nodes.total {
                let reason = format!("total_nodes is {declared}, counted {}", nodes.total);
                found.fault(Code::Declared, Some(line), reason);
            }
        }
        let Some(end) = &self.end else { return };
        let audits = counted.audits;
        for (name, declared) in &end.figures {
            let shown = match *name {
                "done" => nodes.done,
                "failed" => nodes.failed,
                "blocked" => nodes.blocked,
                "total_attempts" => counted.total_attempts,
                "flake_retries" => counted.flake_retries,
                "total_steps" => counted.steps.unwrap_or(0),
                "total_tool_calls" => counted.tool_calls.map_or(0, |calls| calls.total),
                "audits_passed" => self.state.agent.audit_count(AuditResult::Pass),
                "audits_failed" => self.state.agent.audit_count(AuditResult::Fail),
                _ => audits.map_or(0, |audits| audits.pass + audits.fail + audits.warn),
            };
            if *declared != shown {
                found.fault(Code::Declared, Some(end.line), format!("{name} is {declared}, counted {shown}"));
            }
        }
        // Catastrophic is only ever declared: the producer itself broke, so nodes stand where they stood.
        let Some(outcome) = end.outcome.filter(|outcome| *outcome != Outcome::Catastrophic) else { return };
        if let Some(derived) = counted.derived_outcome().filter(|derived| derived.as_str() != outcome.as_str()) {
            let reason = format!("outcome is {outcome}, but its nodes show {}", derived.as_str());
            found.fault(Code::Declared, Some(end.line), reason);
        }
        for (node_id, open) in &self.open {
            open.iter().for_each(|begun| begun.tell(node_id, found));
        }
    }
}
