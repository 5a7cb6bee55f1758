//! What lists and aggregates need of a run: its row, and one result per node and per checkpoint.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize, Serializer};

use super::ci::NodeState;
use super::state::{ParentRef, RunState, UsageSum};
use crate::domain::event::{AgentOutcome, AuditResult, Kind, NodeStatus, Outcome};
use crate::domain::{Graph, LogId, RunId, Timestamp};

/// Everything about a run that does not depend on now. A store keeps it beside the log; it can be rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run.
    pub run_id: RunId,
    /// Its log.
    pub log_id: Option<LogId>,
    /// `ci` or `agent`.
    pub kind: Option<Kind>,
    /// The declared outcome.
    pub outcome: Option<RunOutcome>,
    /// Ts of the first event.
    pub started: Option<Timestamp>,
    /// Ts of the end event.
    pub ended: Option<Timestamp>,
    /// Ts of the last event.
    pub last_event: Option<Timestamp>,
    /// Seconds, see [`RunState::duration_s`].
    pub duration_s: Option<f64>,
    /// The number of kept events.
    pub next_seq: u64,
    /// The agent.
    pub agent_id: Option<String>,
    /// Its task.
    pub task: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// How far it converged, 0 to 1.
    pub convergence_score: Option<f64>,
    /// Nodes by status; `None` without a graph or a node event.
    pub nodes: Option<NodeCounts>,
    /// Attempts, counted.
    pub total_attempts: u64,
    /// Failed attempts of nodes that converged later, counted.
    pub flake_retries: u64,
    /// The nodes that have some, in graph order, then by appearance.
    pub flaky_nodes: Vec<String>,
    /// Highest step + 1; `None` without an agent event.
    pub steps: Option<u64>,
    /// Tool calls; `None` without an agent event.
    pub tool_calls: Option<ToolCalls>,
    /// Audits by result; `None` without an audit.
    pub audits: Option<AuditCounts>,
    /// Tokens and cost.
    pub usage: Option<UsageSum>,
    /// What started the run.
    pub parent: Option<ParentRef>,
    /// SHA-256 of graph.json's bytes.
    pub graph_sha256: Option<String>,
    /// What failed first.
    pub first_failure: Option<FirstFailure>,
    /// One result a node, in graph order, then by appearance.
    pub node_results: Vec<NodeResult>,
    /// One row a checkpoint, by id.
    pub checkpoints: Vec<CheckpointResult>,
}

/// A declared outcome of either kind, from best to worst (the order of `sort=outcome`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// An agent did what it was asked.
    Converged,
    /// Every node done, no retry.
    Clean,
    /// Every node done, at least one after a retry.
    CleanWithFlake,
    /// Some of it done.
    Partial,
    /// No node done.
    Stuck,
    /// An agent left the bounds it was given.
    Escaped,
    /// An agent was stopped from outside.
    Aborted,
    /// The producer itself broke.
    Catastrophic,
}

impl RunOutcome {
    /// Every outcome, best first.
    pub const ALL: [Self; 8] = [
        Self::Converged,
        Self::Clean,
        Self::CleanWithFlake,
        Self::Partial,
        Self::Stuck,
        Self::Escaped,
        Self::Aborted,
        Self::Catastrophic,
    ];

    /// The name as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Converged => AgentOutcome::Converged.as_str(),
            Self::Clean => Outcome::Clean.as_str(),
            Self::CleanWithFlake => Outcome::CleanWithFlake.as_str(),
            Self::Partial => Outcome::Partial.as_str(),
            Self::Stuck => Outcome::Stuck.as_str(),
            Self::Escaped => AgentOutcome::Escaped.as_str(),
            Self::Aborted => AgentOutcome::Aborted.as_str(),
            Self::Catastrophic => Outcome::Catastrophic.as_str(),
        }
    }

    /// The outcome of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == name)
    }

    /// Its place from best (0) to worst.
    pub fn rank(self) -> u8 {
        self as u8
    }
}

impl From<Outcome> for RunOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Clean => Self::Clean,
            Outcome::CleanWithFlake => Self::CleanWithFlake,
            Outcome::Partial => Self::Partial,
            Outcome::Stuck => Self::Stuck,
            Outcome::Catastrophic => Self::Catastrophic,
        }
    }
}

impl From<AgentOutcome> for RunOutcome {
    fn from(outcome: AgentOutcome) -> Self {
        match outcome {
            AgentOutcome::Converged => Self::Converged,
            AgentOutcome::Partial => Self::Partial,
            AgentOutcome::Escaped => Self::Escaped,
            AgentOutcome::Aborted => Self::Aborted,
        }
    }
}

/// Nodes by status, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCounts {
    /// All nodes of graph and log.
    pub total: u64,
    /// Nodes that wait for others.
    pub pending: u64,
    /// Nodes that may start.
    pub ready: u64,
    /// Nodes at work.
    pub running: u64,
    /// Nodes done.
    pub done: u64,
    /// Nodes that gave up.
    pub failed: u64,
    /// Nodes behind a failed one.
    pub blocked: u64,
}

/// Tool calls, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCalls {
    /// All calls.
    pub total: u64,
    /// Calls that failed.
    pub failed: u64,
}

/// Audits by result, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCounts {
    /// Audits that passed.
    pub pass: u64,
    /// Audits that failed.
    pub fail: u64,
    /// Audits that warned.
    pub warn: u64,
}

/// What failed first in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FirstFailure {
    /// The first node that moved to failed, with the first failing check of its last attempt.
    Node {
        /// The node.
        node_id: String,
        /// The check's command.
        cmd: Option<String>,
        /// Its exit code.
        rc: Option<i32>,
    },
    /// The first tool call that failed.
    Tool {
        /// The tool.
        tool_name: String,
        /// What it said.
        error: Option<String>,
    },
}

/// A node's result in one run. A run has many, so they are written without the names of their members, in this order.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeResult {
    /// The node.
    pub node_id: String,
    /// Its last status.
    pub status: NodeStatus,
    /// Its attempts.
    pub attempts: u64,
    /// Seconds spent running.
    pub duration_s: f64,
    /// Seconds lost in failed attempts and backoff, see [`NodeState::lost_s`].
    pub lost_s: f64,
    /// Those of them that were backoff.
    pub backoff_s: f64,
}

impl Serialize for NodeResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { node_id, status, attempts, duration_s, lost_s, backoff_s } = self;
        (node_id, status, attempts, duration_s, lost_s, backoff_s).serialize(serializer)
    }
}

/// How a node came out of a run (domain contract, node flakiness).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOutcome {
    /// Done at the first attempt.
    Done,
    /// Done after more than one attempt.
    Retry,
    /// It gave up.
    Failed,
    /// An ancestor failed.
    Blocked,
}

impl NodeResult {
    fn outcome(&self) -> Option<NodeOutcome> {
        match self.status {
            NodeStatus::Done if self.attempts > 1 => Some(NodeOutcome::Retry),
            NodeStatus::Done => Some(NodeOutcome::Done),
            NodeStatus::Failed => Some(NodeOutcome::Failed),
            NodeStatus::Blocked => Some(NodeOutcome::Blocked),
            NodeStatus::Pending | NodeStatus::Ready | NodeStatus::Running => None,
        }
    }
}

impl Summary {
    /// The nodes that came out of the run, ended or not; none of a run that is not of kind `ci`. What is told of a node
    /// across runs (flakiness, recent) is made of these alone.
    pub fn node_outcomes(&self) -> impl Iterator<Item = (&NodeResult, NodeOutcome)> {
        let nodes = if self.kind == Some(Kind::Ci) { self.node_results.as_slice() } else { &[] };
        nodes.iter().filter_map(|node| node.outcome().map(|outcome| (node, outcome)))
    }
}

/// A checkpoint's results in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointResult {
    /// The checkpoint.
    pub checkpoint_id: String,
    /// Audits that passed.
    pub pass: u64,
    /// Audits that failed.
    pub fail: u64,
    /// Audits that warned.
    pub warn: u64,
    /// The first result that is not a warning.
    pub first_decided: Option<AuditResult>,
    /// The last result that is not a warning.
    pub last_decided: Option<AuditResult>,
    /// How often a decided result differs from the one before it.
    pub flips: u64,
    /// The last [`RECENT_RESULTS`] results, oldest first.
    pub recent: Vec<AuditResult>,
}

/// How many results of a checkpoint a summary keeps.
pub const RECENT_RESULTS: usize = 30;

impl Summary {
    /// The summary of a run in this state, with this graph and the SHA-256 of its bytes.
    pub fn of(run_id: &RunId, state: &RunState, graph: Option<(&Graph, &str)>) -> Self {
        let nodes = state.nodes_in_order(graph.map(|(graph, _)| graph));
        let has_nodes = graph.is_some() || !state.nodes.is_empty();
        let agent = &state.agent;
        let start = state.start.as_ref();
        let end = state.end.as_ref();
        Self {
            run_id: run_id.clone(),
            log_id: state.log_id.clone(),
            kind: state.kind,
            outcome: end.map(|end| end.outcome),
            started: state.started,
            ended: end.map(|end| end.ts),
            last_event: state.last_event,
            duration_s: state.duration_s(),
            next_seq: state.next_seq,
            agent_id: start.and_then(|start| start.agent_id.clone()),
            task: start.and_then(|start| start.task.clone()),
            model: start.and_then(|start| start.model.clone()),
            convergence_score: end.and_then(|end| end.convergence_score),
            nodes: has_nodes.then(|| NodeCounts::of(&nodes)),
            total_attempts: state.nodes.values().map(|node| node.attempts.len() as u64).sum(),
            flake_retries: state.nodes.values().map(|node| node.flake_retries).sum(),
            flaky_nodes: nodes
                .iter()
                .filter(|(_, node)| node.is_some_and(|node| node.flake_retries > 0))
                .map(|(id, _)| (*id).to_owned())
                .collect(),
            steps: agent.seen.then(|| agent.highest_step.map_or(0, |step| step + 1)),
            tool_calls: agent.seen.then_some(ToolCalls { total: agent.tool_calls, failed: agent.tool_failures }),
            audits: (!agent.audits.is_empty()).then(|| AuditCounts {
                pass: agent.audit_count(AuditResult::Pass),
                fail: agent.audit_count(AuditResult::Fail),
                warn: agent.audit_count(AuditResult::Warn),
            }),
            usage: state.total_usage(),
            parent: start.and_then(|start| start.parent.clone()),
            graph_sha256: graph.map(|(_, sha256)| sha256.to_owned()),
            first_failure: first_failure(state),
            node_results: nodes
                .iter()
                .map(|(id, node)| NodeResult {
                    node_id: (*id).to_owned(),
                    status: node.map_or(NodeStatus::Pending, |node| node.status),
                    attempts: node.map_or(0, |node| node.attempts.len() as u64),
                    duration_s: node.map_or(0.0, |node| node.running_s(state.last_event)),
                    lost_s: node.map_or(0.0, NodeState::lost_s),
                    backoff_s: node.map_or(0.0, NodeState::backoff_s),
                })
                .collect(),
            checkpoints: checkpoints(state),
        }
    }

    /// The outcome that the nodes show, to compare with the declared one; `None` without nodes.
    pub fn derived_outcome(&self) -> Option<RunOutcome> {
        let nodes = self.nodes.filter(|nodes| nodes.total > 0)?;
        Some(if nodes.done == 0 {
            RunOutcome::Stuck
        } else if nodes.done < nodes.total {
            RunOutcome::Partial
        } else if self.flake_retries > 0 {
            RunOutcome::CleanWithFlake
        } else {
            RunOutcome::Clean
        })
    }

    /// Whether the run has this node, in its graph or in its log.
    pub fn has_node(&self, node_id: &str) -> bool {
        self.node_results.iter().any(|node| node.node_id == node_id)
    }
}

impl RunState {
    /// The nodes of graph and log: graph order, then by first appearance. A node only in the graph has no state.
    pub fn nodes_in_order<'a>(&'a self, graph: Option<&'a Graph>) -> Vec<(&'a str, Option<&'a NodeState>)> {
        let planned = graph.map_or(&[][..], |graph| &graph.nodes);
        let mut nodes: Vec<_> = planned.iter().map(|node| (node.id.as_str(), self.nodes.get(&node.id))).collect();
        let in_graph: HashSet<&str> = planned.iter().map(|node| node.id.as_str()).collect();
        let mut others: Vec<_> = self.nodes.iter().filter(|(id, _)| !in_graph.contains(id.as_str())).collect();
        others.sort_by_key(|(_, node)| node.first_seq);
        nodes.extend(others.into_iter().map(|(id, node)| (id.as_str(), Some(node))));
        nodes
    }
}

impl NodeCounts {
    fn of(nodes: &[(&str, Option<&NodeState>)]) -> Self {
        let mut counts = Self { total: nodes.len() as u64, ..Self::default() };
        for (_, node) in nodes {
            let count = match node.map_or(NodeStatus::Pending, |node| node.status) {
                NodeStatus::Pending => &mut counts.pending,
                NodeStatus::Ready => &mut counts.ready,
                NodeStatus::Running => &mut counts.running,
                NodeStatus::Done => &mut counts.done,
                NodeStatus::Failed => &mut counts.failed,
                NodeStatus::Blocked => &mut counts.blocked,
            };
            *count += 1;
        }
        counts
    }
}

fn first_failure(state: &RunState) -> Option<FirstFailure> {
    let node = || {
        let node_id = state.first_failed_node.as_ref()?;
        let check = state.nodes.get(node_id)?.first_failing.as_ref();
        Some(FirstFailure::Node {
            node_id: node_id.clone(),
            cmd: check.map(|check| check.cmd.clone()),
            rc: check.map(|check| check.rc),
        })
    };
    let tool = || {
        let call = state.agent.first_failed_call.as_ref()?;
        Some(FirstFailure::Tool { tool_name: call.tool_name.clone(), error: call.error.clone() })
    };
    match state.kind {
        Some(Kind::Ci) => node(),
        Some(Kind::Agent) => tool(),
        None => node().or_else(tool),
    }
}

fn checkpoints(state: &RunState) -> Vec<CheckpointResult> {
    let mut rows: BTreeMap<&str, CheckpointResult> = BTreeMap::new();
    for audit in &state.agent.audits {
        let row = rows.entry(&audit.checkpoint_id).or_insert_with(|| CheckpointResult {
            checkpoint_id: audit.checkpoint_id.clone(),
            pass: 0,
            fail: 0,
            warn: 0,
            first_decided: None,
            last_decided: None,
            flips: 0,
            recent: Vec::new(),
        });
        match audit.result {
            AuditResult::Pass => row.pass += 1,
            AuditResult::Fail => row.fail += 1,
            AuditResult::Warn => row.warn += 1,
        }
        if audit.result != AuditResult::Warn {
            row.flips += u64::from(row.last_decided.is_some_and(|last| last != audit.result));
            row.first_decided.get_or_insert(audit.result);
            row.last_decided = Some(audit.result);
        }
        row.recent.push(audit.result);
    }
    rows.into_values()
        .map(|mut row| {
            row.recent.drain(..row.recent.len().saturating_sub(RECENT_RESULTS));
            row
        })
        .collect()
}

/// Whether a run still goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No end event.
    Live,
    /// No end event, and silent for long: an inference.
    Stalled,
    /// It has an end event.
    Ended,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Live, Self::Stalled, Self::Ended];

    /// The name as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stalled => "stalled",
            Self::Ended => "ended",
        }
    }
}

impl Summary {
    /// The run's phase at `now`; it is stalled when its last event is at least `stall_after_ms` back.
    pub fn phase(&self, now: Timestamp, stall_after_ms: u64) -> Phase {
        phase(self.ended, self.last_event, now, stall_after_ms)
    }

    /// When a run that goes on counts as stalled, unless more comes; `None` when it never does.
    pub fn stalls_at(&self, stall_after_ms: u64) -> Option<Timestamp> {
        let last = self.last_event.filter(|_| self.ended.is_none())?;
        let after = i64::try_from(stall_after_ms).unwrap_or(i64::MAX);
        Some(Timestamp::from_millis(last.millis().saturating_add(after)))
    }
}

impl RunState {
    /// The same of a state, see [`Summary::phase`].
    pub fn phase(&self, now: Timestamp, stall_after_ms: u64) -> Phase {
        phase(self.end.as_ref().map(|end| end.ts), self.last_event, now, stall_after_ms)
    }
}

fn phase(ended: Option<Timestamp>, last_event: Option<Timestamp>, now: Timestamp, stall_after_ms: u64) -> Phase {
    match (ended, last_event) {
        (Some(_), _) => Phase::Ended,
        (None, Some(last)) if now.millis() >= last.millis() && now.millis_since(last) >= stall_after_ms => {
            Phase::Stalled
        }
        (None, _) => Phase::Live,
    }
}
