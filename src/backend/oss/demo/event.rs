//! The events that the demo's producers write, as their JSON stands in a log.

use serde::Serialize;

use crate::domain::Timestamp;
use crate::domain::event::{AgentOutcome, AgentStatus, AuditResult, NodeStatus, Outcome};

/// One line of a log.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) ts: Timestamp,
    pub(super) run_id: &'a str,
    #[serde(flatten)]
    pub(super) body: &'a Body,
}

/// What an event says, in the contract's words.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Body {
    RunStart {
        total_nodes: usize,
    },
    NodeTransition {
        node_id: &'static str,
        from: NodeStatus,
        to: NodeStatus,
        #[serde(skip_serializing_if = "Option::is_none")]
        attempt: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    NodeAttempt {
        node_id: &'static str,
        attempt: u64,
        duration_s: f64,
        converged: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        backoff_s: Option<f64>,
        done_when_results: Vec<Check>,
        usage: Usage,
    },
    RunEnd {
        outcome: Outcome,
        done: usize,
        failed: usize,
        blocked: usize,
        total_duration_s: f64,
        total_attempts: u64,
        flake_retries: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<u64>,
    },
    AgentRunStart {
        agent_id: &'static str,
        task: &'static str,
        model: &'static str,
        parent: Parent,
    },
    AgentTransition {
        agent_id: &'static str,
        step: u64,
        from: AgentStatus,
        to: AgentStatus,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    ToolInvocation {
        agent_id: &'static str,
        step: u64,
        tool_name: &'static str,
        duration_s: f64,
        ok: bool,
        input_summary: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        output_summary: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'static str>,
    },
    AuditCheckpoint {
        agent_id: Option<&'static str>,
        checkpoint_id: &'static str,
        result: AuditResult,
        duration_s: f64,
        evidence: Evidence,
    },
    AgentRunEnd {
        agent_id: &'static str,
        outcome: AgentOutcome,
        total_steps: u64,
        total_tool_calls: u64,
        total_audit_checkpoints: u64,
        audits_passed: u64,
        audits_failed: u64,
        total_duration_s: f64,
        convergence_score: f64,
        usage: Usage,
    },
    Heartbeat,
}

/// One `done_when` command and how it ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) cmd: &'static str,
    pub(super) rc: i32,
    pub(super) duration_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tail: Option<&'static str>,
}

/// Tokens and cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Usage {
    input_tokens: u64,
    output_tokens: u64,
    cost_usd: f64,
}

impl Usage {
    /// So many tokens, at 3 and 15 dollars a million.
    pub(super) fn of(input_tokens: u64, output_tokens: u64) -> Self {
        let micro_usd = u32::try_from(input_tokens * 3 + output_tokens * 15).unwrap_or(u32::MAX);
        Self { input_tokens, output_tokens, cost_usd: f64::from(micro_usd) / 1e6 }
    }

    /// Both together; the cost is that of all tokens, so that no rounding adds up.
    pub(super) fn plus(self, more: Self) -> Self {
        Self::of(self.input_tokens + more.input_tokens, self.output_tokens + more.output_tokens)
    }
}

/// The attempt that an agent was started for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Parent {
    pub(super) run_id: String,
    pub(super) node_id: &'static str,
    pub(super) attempt: u64,
}

/// What an audit rests on.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Evidence {
    pub(super) looked_at: &'static str,
    pub(super) found: &'static str,
}

/// summary.json, as a producer writes it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SummaryFile {
    pub(super) run_id: String,
    pub(super) started: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
    pub(super) duration_s: f64,
    pub(super) outcome: Outcome,
    pub(super) total_nodes: usize,
    pub(super) done: usize,
    pub(super) failed: usize,
    pub(super) blocked: usize,
    pub(super) total_attempts: u64,
    pub(super) flake_retries: u64,
    pub(super) exit_code: u64,
    pub(super) failed_nodes: Vec<&'static str>,
    pub(super) node_attempts: std::collections::BTreeMap<&'static str, u64>,
}

/// graph.json.
#[derive(Debug, Serialize)]
pub(super) struct GraphFile {
    pub(super) version: u64,
    pub(super) nodes: &'static [Node],
}

/// A node of graph.json, and what the demo needs to walk it.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) id: &'static str,
    pub(super) deliverable: &'static str,
    pub(super) depends_on: &'static [&'static str],
    pub(super) touches: &'static [&'static str],
    pub(super) parallel_safe: bool,
    pub(super) done_when: &'static [&'static str],
    pub(super) max_ralph_iters: u64,
    /// How long an attempt takes at speed 1.
    #[serde(skip)]
    pub(super) seconds: f64,
    /// How its checks fail when they do.
    #[serde(skip)]
    pub(super) breaks: Break,
}

/// A check that fails.
#[derive(Debug)]
pub(super) struct Break {
    /// Which of the node's checks.
    pub(super) check: usize,
    pub(super) rc: i32,
    pub(super) tail: &'static str,
}
