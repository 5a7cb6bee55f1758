//! The state of one run and the fold that makes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::agent::AgentState;
use super::ci::{FailingCheck, NodeState};
use super::summary::RunOutcome;
use super::{agent, ci};
use crate::domain::event::{Kind, Obj, Parent};
use crate::domain::{Event, EventBody, LogId, MAX_INT, Timestamp, Usage};

/// What is known of a run after so many events of its log. Prints as JSON and reads back to the same state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Tells this log from another under the same run_id; `None` before the first event.
    pub log_id: Option<LogId>,
    /// How many events were folded: the seq of the next one.
    pub next_seq: u64,
    /// How many of them have a name that is not known.
    pub unknown: u64,
    /// `ci` or `agent`, by the first start event.
    pub kind: Option<Kind>,
    /// Ts of the first event.
    pub started: Option<Timestamp>,
    /// Ts of the last event in log order.
    pub last_event: Option<Timestamp>,
    /// What the first start event says.
    pub start: Option<Start>,
    /// What the last end event declares.
    pub end: Option<End>,
    /// The nodes that events named, by id. The order of appearance is that of `first_seq`.
    pub nodes: BTreeMap<String, NodeState>,
    /// The first node that moved to failed.
    pub first_failed_node: Option<String>,
    /// What agent events and audits gave.
    pub agent: AgentState,
    /// Tokens and cost of all events that carry usage.
    pub usage: Option<UsageSum>,
    /// Breaches of order and illegal moves, each kind once a node, the first [`MAX_BREACHES`].
    pub breaches: Vec<Breach>,
    /// How many breaches there were, those that are not kept included.
    pub breach_count: u64,
}

/// How many breaches a state keeps.
pub const MAX_BREACHES: usize = 100;

/// How much of a producer's text a state keeps, in characters: a line may hold a million of them, and a state has to fit in
/// memory, in a row and in an answer. All of it stands in the log, in the event that a state names.
pub const KEPT_TEXT_CHARS: usize = 4096;

/// The text, cut where a state keeps no more of it.
pub(super) fn kept_text(text: &str) -> String {
    let kept = first_chars(text, KEPT_TEXT_CHARS);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}

pub(super) fn first_chars(text: &str, most: usize) -> &str {
    // Most texts have fewer bytes than that.
    let end = if text.len() <= most { None } else { text.char_indices().nth(most) };
    end.map_or(text, |(at, _)| &text[..at])
}

/// What the first start event says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Its seq.
    pub seq: u64,
    /// Nodes that the producer means to walk (`run_start`).
    pub total_nodes: Option<u64>,
    /// The agent (`agent_run_start`).
    pub agent_id: Option<String>,
    /// Its task.
    pub task: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// What started the run.
    pub parent: Option<ParentRef>,
}

/// What started a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    /// The run.
    pub run_id: String,
    /// Its node.
    pub node_id: Option<String>,
    /// The node's attempt.
    pub attempt: Option<u64>,
    /// The agent's step.
    pub step: Option<u64>,
}

/// What the last end event declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Its seq.
    pub seq: u64,
    /// Its ts.
    pub ts: Timestamp,
    /// The declared outcome.
    pub outcome: RunOutcome,
    /// The declared duration, in seconds.
    pub total_duration_s: f64,
    /// Nodes done, failed and blocked, as declared (`run_end`).
    pub declared_nodes: Option<[u64; 3]>,
    /// The producer's exit code (`run_end`).
    pub exit_code: Option<u64>,
    /// How far the agent converged, 0 to 1 (`agent_run_end`).
    pub convergence_score: Option<f64>,
    /// Usage of the whole run (`agent_run_end`): each field wins over the sum of its parts.
    pub usage: Option<UsageSum>,
}

/// A sum of tokens and cost; a member is null until an event gave it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageSum {
    /// Tokens read by the model; saturates at [`MAX_INT`].
    pub input_tokens: Option<u64>,
    /// Tokens written by the model; saturates at [`MAX_INT`].
    pub output_tokens: Option<u64>,
    /// US dollars, added in log order.
    pub cost_usd: Option<f64>,
}

/// An event that the contract does not allow where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// The event.
    pub seq: u64,
    /// The node it is about.
    pub node_id: Option<String>,
    /// What is wrong, as one clause.
    pub what: String,
    /// How often the same is wrong with the same node; seq is of the first time.
    pub count: u64,
}

impl RunState {
    /// Takes the next event of the log; `line` is the event's bytes (the first one names the log).
    pub fn fold(&mut self, event: &Event<'_>, line: &[u8]) {
        let seq = self.next_seq;
        self.next_seq += 1;
        if seq == 0 {
            self.log_id = Some(LogId::of_first_line(line));
            self.started = Some(event.ts);
            if !event.body.is_start() {
                self.breach(seq, None, "the log does not begin with a start event".into());
            }
        }
        if self.end.is_some() {
            self.breach(seq, None, "an event after the end event".into());
        }
        self.last_event = Some(event.ts);
        match &event.body {
            EventBody::RunStart(start) => {
                let parent = start.parent.as_ref();
                self.begin(
                    seq,
                    Kind::Ci,
                    Start { seq, total_nodes: Some(start.total_nodes), parent: parent_ref(parent), ..Start::default() },
                );
            }
            EventBody::AgentRunStart(start) => {
                let begun = Start {
                    seq,
                    total_nodes: None,
                    agent_id: Some(start.agent_id.to_string()),
                    task: Some(kept_text(&start.task)),
                    model: start.model.as_deref().map(kept_text),
                    parent: parent_ref(start.parent.as_ref()),
                };
                self.begin(seq, Kind::Agent, begun);
                agent::start(self, event.ts);
            }
            EventBody::NodeTransition(moved) => ci::transition(self, seq, event.ts, moved),
            EventBody::NodeAttempt(attempt) => ci::attempt(self, seq, event.ts, attempt),
            EventBody::AgentTransition(moved) => agent::transition(self, seq, event.ts, moved),
            EventBody::ToolInvocation(call) => agent::tool(self, seq, call),
            EventBody::AuditCheckpoint(audit) => agent::audit(self, seq, audit),
            EventBody::RunEnd(end) => self.end(End {
                seq,
                ts: event.ts,
                outcome: end.outcome.into(),
                total_duration_s: end.total_duration_s,
                declared_nodes: Some([end.done, end.failed, end.blocked]),
                exit_code: Some(end.exit_code.unwrap_or(0)),
                convergence_score: None,
                usage: None,
            }),
            EventBody::AgentRunEnd(end) => {
                self.agent.seen = true;
                self.end(End {
                    seq,
                    ts: event.ts,
                    outcome: end.outcome.into(),
                    total_duration_s: end.total_duration_s,
                    declared_nodes: None,
                    exit_code: None,
                    convergence_score: end.convergence_score,
                    usage: end.usage.as_ref().map(|usage| UsageSum::default().plus(&usage.0)),
                });
            }
            EventBody::Heartbeat => {}
            EventBody::Unknown(_) => self.unknown += 1,
        }
    }

    /// The first start event says what the run is; a later one adds only what no earlier one said.
    fn begin(&mut self, seq: u64, kind: Kind, start: Start) {
        let Some(first) = &mut self.start else {
            self.kind = Some(kind);
            self.start = Some(start);
            return;
        };
        first.total_nodes = first.total_nodes.or(start.total_nodes);
        if first.agent_id.is_none() {
            (first.agent_id, first.task, first.model) = (start.agent_id, start.task, start.model);
        }
        first.parent = first.parent.take().or(start.parent);
        self.breach(seq, None, "a second start event".into());
    }

    /// The last end event declares the outcome; what it leaves unsaid stays as an earlier one said it.
    fn end(&mut self, mut end: End) {
        if let Some(earlier) = self.end.take() {
            end.declared_nodes = end.declared_nodes.or(earlier.declared_nodes);
            end.exit_code = end.exit_code.or(earlier.exit_code);
            end.convergence_score = end.convergence_score.or(earlier.convergence_score);
            end.usage = UsageSum::declared_over(earlier.usage, end.usage);
        }
        self.end = Some(end);
    }

    pub(super) fn breach(&mut self, seq: u64, node_id: Option<&str>, what: String) {
        self.breach_count += 1;
        let is_same = |known: &&mut Breach| known.node_id.as_deref() == node_id && known.what == what;
        if let Some(known) = self.breaches.iter_mut().find(is_same) {
            known.count += 1;
        } else if self.breaches.len() < MAX_BREACHES {
            self.breaches.push(Breach { seq, node_id: node_id.map(str::to_owned), what, count: 1 });
        }
    }

    pub(super) fn spend(&mut self, usage: Option<&Obj<Usage>>) {
        add_usage(&mut self.usage, usage);
    }

    /// Tokens and cost of the run: what the end event says wins, field by field.
    pub fn total_usage(&self) -> Option<UsageSum> {
        UsageSum::declared_over(self.usage, self.end.as_ref().and_then(|end| end.usage))
    }

    /// How many bytes of producers' texts and evidence it holds, for whoever bounds memory.
    pub fn text_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let start = self.start.as_ref().map_or(0, |start| text(&start.task) + text(&start.model));
        let check = |check: &FailingCheck| check.cmd.len() + text(&check.tail);
        let nodes = self.nodes.values().map(|node| {
            let checks = [&node.first_failing, &node.last_failing];
            text(&node.reason) + checks.into_iter().flatten().map(check).sum::<usize>()
        });
        let agent = &self.agent;
        let tools = agent.tools.iter().map(|(name, tool)| name.len() + text(&tool.last_error));
        let failed = agent.first_failed_call.as_ref().map_or(0, |call| call.tool_name.len() + text(&call.error));
        let loops =
            agent.loops.iter().chain(&agent.streak).map(|streak| streak.tool_name.len() + streak.input_summary.len());
        start + nodes.sum::<usize>() + tools.sum::<usize>() + failed + loops.sum::<usize>() + agent.evidence_bytes
    }

    /// Seconds: the declared duration of an ended run, else from the first event to the last, at least 0.
    pub fn duration_s(&self) -> Option<f64> {
        match &self.end {
            Some(end) => Some(end.total_duration_s),
            None => Some(self.last_event?.seconds_since(self.started?)),
        }
    }
}

impl UsageSum {
    /// What was declared wins, field by field.
    fn declared_over(summed: Option<Self>, declared: Option<Self>) -> Option<Self> {
        match (summed, declared) {
            (summed, None) => summed,
            (None, declared) => declared,
            (Some(summed), Some(declared)) => Some(Self {
                input_tokens: declared.input_tokens.or(summed.input_tokens),
                output_tokens: declared.output_tokens.or(summed.output_tokens),
                cost_usd: declared.cost_usd.or(summed.cost_usd),
            }),
        }
    }

    /// This sum and one more part.
    #[must_use]
    pub fn plus(self, part: &Usage) -> Self {
        let Usage { input_tokens, output_tokens, cost_usd } = *part;
        self.plus_sum(Self { input_tokens, output_tokens, cost_usd })
    }

    /// This sum and another.
    #[must_use]
    pub fn plus_sum(mut self, part: Self) -> Self {
        let tokens = |sum: Option<u64>, more: Option<u64>| match (sum, more) {
            (sum, None) => sum,
            (None, more) => more,
            (Some(sum), Some(more)) => Some(sum.saturating_add(more).min(MAX_INT)),
        };
        self.input_tokens = tokens(self.input_tokens, part.input_tokens);
        self.output_tokens = tokens(self.output_tokens, part.output_tokens);
        if let Some(cost) = part.cost_usd {
            let sum = self.cost_usd.unwrap_or(0.0) + cost;
            // A sum of finite costs can pass the largest f64, which JSON cannot print.
            self.cost_usd = Some(sum.clamp(f64::MIN, f64::MAX));
        }
        self
    }
}

/// Adds a part to a sum that is null until a part gave something.
pub(super) fn add_usage(sum: &mut Option<UsageSum>, part: Option<&Obj<Usage>>) {
    if let Some(Obj(part)) = part
        && *part != Usage::default()
    {
        *sum = Some(sum.unwrap_or_default().plus(part));
    }
}

fn parent_ref(parent: Option<&Obj<Parent<'_>>>) -> Option<ParentRef> {
    parent.map(|Obj(parent)| ParentRef {
        run_id: parent.run_id.to_string(),
        node_id: parent.node_id.as_deref().map(str::to_owned),
        attempt: parent.attempt,
        step: parent.step,
    })
}
