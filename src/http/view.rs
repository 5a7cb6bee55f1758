//! The JSON of every answer (answers.md): key names, nesting and order are the contract.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::moment::Moment;
use crate::contract::{Spawned, WrittenTo};
use crate::domain::event::{AgentStatus, AuditResult, Kind, NodeStatus};
use crate::domain::timestamp::millis_to_seconds;
use crate::domain::{Graph, Ledger, LogId, Problem, RunId, Timestamp};
use crate::insight::percentile;
use crate::reduce::summary::{AuditCounts, FirstFailure, NodeCounts, Phase, RunOutcome, ToolCalls};
use crate::reduce::{NodeState, ParentRef, RunState, Summary, UsageSum};

/// A row of the list of runs.
#[derive(Debug, Serialize)]
pub(super) struct RowView<'a> {
    run_id: &'a RunId,
    log_id: Option<&'a LogId>,
    kind: Option<Kind>,
    phase: Phase,
    outcome: Option<RunOutcome>,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    last_event: Option<Timestamp>,
    duration_s: Option<f64>,
    next_seq: u64,
    agent_id: Option<&'a str>,
    task: Option<&'a str>,
    model: Option<&'a str>,
    convergence_score: Option<f64>,
    nodes: Option<NodeCounts>,
    total_attempts: u64,
    flake_retries: u64,
    flaky_nodes: &'a [String],
    steps: Option<u64>,
    tool_calls: Option<ToolCalls>,
    audits: Option<AuditCounts>,
    usage: Option<UsageSum>,
    parent: Option<&'a ParentRef>,
    graph_sha256: Option<&'a str>,
    first_failure: Option<&'a FirstFailure>,
}

impl<'a> RowView<'a> {
    /// The row of this run at `now`.
    pub(super) fn of(run: &'a Summary, now: Timestamp, stall_after_ms: u64) -> Self {
        Self {
            run_id: &run.run_id,
            log_id: run.log_id.as_ref(),
            kind: run.kind,
            phase: run.phase(now, stall_after_ms),
            outcome: run.outcome,
            started: run.started,
            ended: run.ended,
            last_event: run.last_event,
            duration_s: run.duration_s,
            next_seq: run.next_seq,
            agent_id: run.agent_id.as_deref(),
            task: run.task.as_deref(),
            model: run.model.as_deref(),
            convergence_score: run.convergence_score,
            nodes: run.nodes,
            total_attempts: run.total_attempts,
            flake_retries: run.flake_retries,
            flaky_nodes: &run.flaky_nodes,
            steps: run.steps,
            tool_calls: run.tool_calls,
            audits: run.audits,
            usage: run.usage,
            parent: run.parent.as_ref(),
            graph_sha256: run.graph_sha256.as_deref(),
            first_failure: run.first_failure.as_ref(),
        }
    }
}

/// A page of runs: its members up to those of [`ListEndView`].
#[derive(Debug, Serialize)]
pub(super) struct ListView<'a> {
    pub(super) items: Vec<RowView<'a>>,
}

/// The rest of a page of runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListEndView {
    pub(super) next_cursor: Option<String>,
    pub(super) total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_of: Option<Timestamp>,
}

/// A run's page: its row at a moment, its nodes, its agent.
#[derive(Debug, Serialize)]
pub(super) struct RunView<'a> {
    #[serde(flatten)]
    row: RowView<'a>,
    at_seq: Option<u64>,
    node_states: Vec<NodeStateView<'a>>,
    agent: Option<AgentView<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeStateView<'a> {
    node_id: &'a str,
    status: NodeStatus,
    attempts: u64,
    reason: Option<&'a str>,
    ready_at: Option<Timestamp>,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    running_s: f64,
    waiting_s: f64,
    lost_s: f64,
    usage: Option<UsageSum>,
    spawned: Vec<&'a RunId>,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
}

#[derive(Debug, Serialize)]
struct AgentView<'a> {
    status: Option<AgentStatus>,
    step: Option<u64>,
    seconds_by_status: BTreeMap<AgentStatus, f64>,
    tools: Vec<ToolView<'a>>,
    audits: Vec<AuditView<'a>>,
}

#[derive(Debug, Serialize)]
struct ToolView<'a> {
    tool_name: &'a str,
    calls: u64,
    failed: u64,
    p50_s: Option<f64>,
    p95_s: Option<f64>,
    last_error: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct AuditView<'a> {
    seq: u64,
    checkpoint_id: &'a str,
    result: AuditResult,
    duration_s: f64,
    evidence: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence_bytes: Option<usize>,
}

impl<'a> RunView<'a> {
    /// The run at this moment, `summary` being the moment's own.
    pub(super) fn of(moment: &'a Moment, summary: &'a Summary, spawned: &'a [Spawned], stall_after_ms: u64) -> Self {
        let mut row = RowView::of(summary, moment.now, stall_after_ms);
        let current = &moment.current.summary;
        row.log_id = current.log_id.as_ref();
        row.next_seq = current.next_seq;
        row.graph_sha256 = current.graph_sha256.as_deref();
        let state = &moment.state;
        let graph = moment.current.graph.as_deref();
        Self {
            row,
            at_seq: moment.at_seq(),
            node_states: node_states(state, graph, spawned),
            agent: state.agent.seen.then(|| agent(state)),
        }
    }
}

fn node_states<'a>(state: &'a RunState, graph: Option<&'a Graph>, spawned: &'a [Spawned]) -> Vec<NodeStateView<'a>> {
    let mut children: HashMap<&str, Vec<&RunId>> = HashMap::new();
    for child in spawned {
        if let Some(node_id) = child.node_id.as_deref() {
            children.entry(node_id).or_default().push(&child.run_id);
        }
    }
    let last = state.last_event;
    state
        .nodes_in_order(graph)
        .into_iter()
        .map(|(node_id, node)| NodeStateView {
            node_id,
            status: node.map_or(NodeStatus::Pending, |node| node.status),
            attempts: node.map_or(0, |node| node.attempts.len() as u64),
            reason: node.and_then(|node| node.reason.as_deref()),
            ready_at: node.and_then(|node| node.ready_at),
            started: node.and_then(|node| node.started),
            ended: node.and_then(|node| node.ended),
            running_s: node.map_or(0.0, |node| node.running_s(last)),
            waiting_s: node.map_or(0.0, |node| node.waiting_s(last)),
            lost_s: node.map_or(0.0, NodeState::lost_s),
            usage: node.and_then(|node| node.usage),
            spawned: children.remove(node_id).unwrap_or_default(),
            first_seq: node.map(|node| node.first_seq),
            last_seq: node.map(|node| node.last_seq),
        })
        .collect()
}

fn agent(state: &RunState) -> AgentView<'_> {
    let agent = &state.agent;
    let mut tools: Vec<_> = agent.tools.iter().collect();
    tools.sort_by_key(|(_, tool)| tool.first_seq);
    AgentView {
        status: agent.status,
        step: agent.step,
        seconds_by_status: agent
            .status_ms_until(state.last_event)
            .into_iter()
            .map(|(status, millis)| (status, millis_to_seconds(millis)))
            .collect(),
        tools: tools
            .into_iter()
            .map(|(tool_name, tool)| ToolView {
                tool_name,
                calls: tool.durations_s.len() as u64,
                failed: tool.failed,
                p50_s: percentile(&tool.durations_s, 0.50),
                p95_s: percentile(&tool.durations_s, 0.95),
                last_error: tool.last_error.as_deref(),
            })
            .collect(),
        audits: agent
            .audits
            .iter()
            .map(|audit| AuditView {
                seq: audit.seq,
                checkpoint_id: &audit.checkpoint_id,
                result: audit.result,
                duration_s: audit.duration_s,
                evidence: audit.evidence.as_deref(),
                evidence_bytes: audit.evidence_bytes,
            })
            .collect(),
    }
}

/// The ledger and the skipped lines.
#[derive(Debug, Serialize)]
pub(super) struct ProblemsView<'a> {
    pub(super) ledger: Ledger,
    pub(super) items: &'a [Problem],
    pub(super) truncated: bool,
}

/// What became of a batch.
#[derive(Debug, Serialize)]
pub(super) struct AppendedView {
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    pub(super) runs: BTreeMap<RunId, WrittenTo>,
    pub(super) warnings: Vec<Problem>,
}

/// Where a push goes on.
#[derive(Debug, Serialize)]
pub(super) struct PositionView<'a> {
    pub(super) next_seq: u64,
    pub(super) log_id: Option<&'a LogId>,
    pub(super) graph_sha256: Option<&'a str>,
    pub(super) lines_sha256: Option<String>,
}

/// What a client must know first.
#[derive(Debug, Serialize)]
pub(super) struct ConfigView {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) commit: &'static str,
    pub(super) mode: &'static str,
    pub(super) read_only: bool,
    pub(super) agent_views: bool,
    pub(super) windows: [&'static str; 3],
    pub(super) stall_after_s: u64,
    pub(super) limits: LimitsView,
    pub(super) now: Timestamp,
    /// Whether a person can sign in (at /auth/login).
    pub(super) sign_in: bool,
}

/// The limits of ingest.
#[derive(Debug, Serialize)]
pub(super) struct LimitsView {
    pub(super) batch_events: usize,
    pub(super) batch_bytes: usize,
    pub(super) line_bytes: usize,
}
