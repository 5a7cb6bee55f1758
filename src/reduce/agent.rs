//! The agent family: statuses, steps, tools and audits. Audits may stand in a CI run too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::state::{RunState, UsageSum, add_usage, first_chars, kept_text};
use crate::domain::Timestamp;
use crate::domain::event::{AgentStatus, AgentTransition, AuditCheckpoint, AuditResult, ToolInvocation};
use crate::domain::id::sha256_hex;

/// What agent events and audits gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// Whether any agent event other than an audit was seen.
    pub seen: bool,
    /// Where the agent stands; `None` before its first move.
    pub status: Option<AgentStatus>,
    /// When it came to stand there (before its first move: when it started).
    pub since: Option<Timestamp>,
    /// The step of its last event.
    pub step: Option<u64>,
    /// The highest step of all.
    pub highest_step: Option<u64>,
    /// Closed spans by status, in milliseconds.
    pub status_ms: BTreeMap<AgentStatus, u64>,
    /// Its tools, by name. The order of first use is that of `first_seq`.
    pub tools: BTreeMap<String, Tool>,
    /// Calls of all tools.
    pub tool_calls: u64,
    /// Calls that failed.
    pub tool_failures: u64,
    /// The first call that failed.
    pub first_failed_call: Option<FailedCall>,
    /// The same tool with the same input, again and again: the row of calls that is under way.
    pub streak: Option<Streak>,
    /// Rows of [`LOOP_LENGTH`] calls or more.
    pub loops: Vec<Streak>,
    /// Audits, in log order.
    pub audits: Vec<Audit>,
    /// How many bytes of evidence they hold, at most [`KEPT_EVIDENCE_BYTES`].
    pub evidence_bytes: usize,
    /// So many of the first of them hold none any more.
    pub without_evidence: usize,
    /// Tokens and cost of the agent's events.
    pub usage: Option<UsageSum>,
}

/// How many equal calls in a row are a loop (domain contract, `agent_loop`).
pub const LOOP_LENGTH: u64 = 5;

/// How much of a repeated input a state keeps, in characters.
pub const SHOWN_INPUT_CHARS: usize = 1000;

/// How large the evidence of one audit may be, in bytes, for a state to keep it.
pub const KEPT_EVIDENCE_BYTES_EACH: usize = 16 * 1024;

/// How much evidence a state keeps, in bytes; the newest stays.
pub const KEPT_EVIDENCE_BYTES: usize = 1024 * 1024;

/// How many steps a state keeps of a row of calls, or of a tool's failures.
pub const KEPT_STEPS: usize = 100;

/// One tool and its calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Seq of its first call.
    pub first_seq: u64,
    /// How many calls failed.
    pub failed: u64,
    /// How long each call took, in seconds, in log order.
    pub durations_s: Vec<f64>,
    /// What the last failed call said.
    pub last_error: Option<String>,
    /// Seq of the first failed call.
    pub first_failed_seq: Option<u64>,
    /// Steps with a failed call, the first [`KEPT_STEPS`].
    pub failed_steps: Vec<u64>,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCall {
    /// The tool.
    pub tool_name: String,
    /// What it said.
    pub error: Option<String>,
}

/// Equal calls in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// The tool.
    pub tool_name: String,
    /// What it was given each time, its first [`SHOWN_INPUT_CHARS`] characters.
    pub input_summary: String,
    /// SHA-256 of all of it: calls are equal when this is.
    pub input_sha256: String,
    /// How many calls.
    pub calls: u64,
    /// Seq of the first call.
    pub first_seq: u64,
    /// Steps of the calls, the first [`KEPT_STEPS`].
    pub steps: Vec<u64>,
}

/// One audit result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Audit {
    /// Its seq.
    pub seq: u64,
    /// The audit.
    pub checkpoint_id: String,
    /// What it found.
    pub result: AuditResult,
    /// How long it took, in seconds.
    pub duration_s: f64,
    /// What it rests on: the object as it was written, where the state keeps it.
    pub evidence: Option<Box<RawValue>>,
    /// How many bytes its evidence has in the log, where the state does not keep it.
    pub evidence_bytes: Option<usize>,
}

impl PartialEq for Audit {
    fn eq(&self, other: &Self) -> bool {
        let raw = |audit: &Self| audit.evidence.as_ref().map(|raw| raw.get().to_owned());
        (self.seq, &self.checkpoint_id, self.result) == (other.seq, &other.checkpoint_id, other.result)
            && self.duration_s.to_bits() == other.duration_s.to_bits()
            && (raw(self), self.evidence_bytes) == (raw(other), other.evidence_bytes)
    }
}

impl AgentState {
    /// Milliseconds by status, the open span counted to `last_event`.
    pub fn status_ms_until(&self, last_event: Option<Timestamp>) -> BTreeMap<AgentStatus, u64> {
        let mut spans = self.status_ms.clone();
        if let (Some(status), Some(since), Some(last)) = (self.status, self.since, last_event) {
            *spans.entry(status).or_default() += last.millis_since(since);
        }
        spans
    }

    /// How many audits gave this result.
    pub fn audit_count(&self, result: AuditResult) -> u64 {
        self.audits.iter().filter(|audit| audit.result == result).count() as u64
    }

    fn at_step(&mut self, step: u64) {
        self.seen = true;
        self.step = Some(step);
        self.highest_step = self.highest_step.max(Some(step));
    }
}

pub(super) fn start(state: &mut RunState, ts: Timestamp) {
    state.agent.seen = true;
    state.agent.since.get_or_insert(ts);
}

pub(super) fn transition(state: &mut RunState, seq: u64, ts: Timestamp, moved: &AgentTransition<'_>) {
    let agent = &mut state.agent;
    agent.at_step(moved.step);
    // Before its first move an agent stood where that move says it came from.
    let was = agent.status.unwrap_or(moved.from);
    let span = agent.since.map_or(0, |since| ts.millis_since(since));
    let sum = agent.status_ms.entry(was).or_default();
    *sum = sum.saturating_add(span);
    agent.status = Some(moved.to);
    agent.since = Some(ts);
    add_usage(&mut agent.usage, moved.usage.as_ref());
    state.spend(moved.usage.as_ref());
    if moved.from != was {
        state.breach(seq, None, format!("the agent moved from {}, but was {was}", moved.from));
    }
}

pub(super) fn tool(state: &mut RunState, seq: u64, call: &ToolInvocation<'_>) {
    let agent = &mut state.agent;
    agent.at_step(call.step);
    agent.tool_calls += 1;
    let tool_name = kept_text(&call.tool_name);
    if !agent.tools.contains_key(&tool_name) {
        let unused = Tool {
            first_seq: seq,
            failed: 0,
            durations_s: Vec::new(),
            last_error: None,
            first_failed_seq: None,
            failed_steps: Vec::new(),
        };
        agent.tools.insert(tool_name.clone(), unused);
    }
    if let Some(tool) = agent.tools.get_mut(&tool_name) {
        tool.durations_s.push(call.duration_s);
        if !call.ok {
            tool.failed += 1;
            tool.last_error = call.error.as_deref().map(kept_text);
            tool.first_failed_seq.get_or_insert(seq);
            keep_step(&mut tool.failed_steps, call.step);
        }
    }
    if !call.ok {
        agent.tool_failures += 1;
        agent.first_failed_call.get_or_insert_with(|| FailedCall {
            tool_name: tool_name.clone(),
            error: call.error.as_deref().map(kept_text),
        });
    }
    agent.extend_streak(seq, &tool_name, call);
    add_usage(&mut agent.usage, call.usage.as_ref());
    state.spend(call.usage.as_ref());
}

impl AgentState {
    /// A call without an input_summary proves nothing about its input and ends the row.
    fn extend_streak(&mut self, seq: u64, tool_name: &str, call: &ToolInvocation<'_>) {
        let Some(input) = call.input_summary.as_deref() else {
            self.streak = None;
            return;
        };
        let input_sha256 = sha256_hex(input.as_bytes());
        match &mut self.streak {
            Some(streak) if *streak.tool_name == *tool_name && streak.input_sha256 == input_sha256 => {
                streak.calls += 1;
                keep_step(&mut streak.steps, call.step);
            }
            streak => {
                *streak = Some(Streak {
                    tool_name: tool_name.to_owned(),
                    input_summary: first_chars(input, SHOWN_INPUT_CHARS).to_owned(),
                    input_sha256,
                    calls: 1,
                    first_seq: seq,
                    steps: vec![call.step],
                });
            }
        }
        if let Some(streak) = self.streak.as_ref().filter(|streak| streak.calls >= LOOP_LENGTH) {
            match self.loops.last_mut().filter(|last| last.first_seq == streak.first_seq) {
                Some(last) => last.clone_from(streak),
                None => self.loops.push(streak.clone()),
            }
        }
    }
}

fn keep_step(steps: &mut Vec<u64>, step: u64) {
    if steps.len() < KEPT_STEPS && steps.last() != Some(&step) {
        steps.push(step);
    }
}

pub(super) fn audit(state: &mut RunState, seq: u64, audit: &AuditCheckpoint<'_>) {
    let (kept, large) = match audit.evidence {
        Some(raw) if raw.get().len() > KEPT_EVIDENCE_BYTES_EACH => (None, Some(raw.get().len())),
        raw => (raw, None),
    };
    let agent = &mut state.agent;
    agent.audits.push(Audit {
        seq,
        checkpoint_id: audit.checkpoint_id.to_string(),
        result: audit.result,
        duration_s: audit.duration_s,
        evidence: kept.map(ToOwned::to_owned),
        evidence_bytes: large,
    });
    agent.evidence_bytes += kept.map_or(0, |raw| raw.get().len());
    while agent.evidence_bytes > KEPT_EVIDENCE_BYTES
        && let Some(oldest) = agent.audits.get_mut(agent.without_evidence)
    {
        if let Some(raw) = oldest.evidence.take() {
            agent.evidence_bytes -= raw.get().len();
            oldest.evidence_bytes = Some(raw.get().len());
        }
        agent.without_evidence += 1;
    }
}
