//! The figures behind the findings, as answers print them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::Timestamp;
use crate::domain::event::{AgentStatus, AuditResult, NodeStatus};
use crate::reduce::{FailingCheck, RunOutcome};

/// The figures behind one finding; its kind says which.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each is named after its kind, and says there what it is")]
pub enum Evidence<'a> {
    FailedNode(FailedNode<'a>),
    BlockedChain(BlockedChain<'a>),
    CriticalPath(CriticalPath<'a>),
    SlowestNodes(SlowestNodes<'a>),
    FlakyNode(FlakyNode<'a>),
    Waiting(Waiting<'a>),
    Stalled(Stalled<'a>),
    AgentLoop(AgentLoop<'a>),
    FailingTool(FailingTool<'a>),
    FailingAudit(FailingAudit<'a>),
    Parallelism(Parallelism),
    Inconsistent(Inconsistent<'a>),
}

/// A node that gave up.
#[derive(Debug, Clone, Serialize)]
pub struct FailedNode<'a> {
    /// Its attempts.
    pub attempts: u64,
    /// Why it gave up, as the producer says.
    pub reason: Option<&'a str>,
    /// The check that failed last, with its exit code and the end of its output.
    pub check: Option<&'a FailingCheck>,
    /// How many blocked nodes stand behind it.
    pub blocks: u64,
    /// The first of them.
    pub blocked: Vec<&'a str>,
}

/// A blocked node and what is at its root.
#[derive(Debug, Clone, Serialize)]
pub struct BlockedChain<'a> {
    /// The failed node at its root; of several the one that failed first.
    pub root: Option<&'a str>,
    /// How many failed nodes it stands behind.
    pub root_count: u64,
    /// The first of them, in the order in which they failed.
    pub roots: Vec<&'a str>,
    /// What the producer says.
    pub reason: Option<&'a str>,
}

/// The chain of nodes that the run's length hangs on, first node first.
#[derive(Debug, Clone, Serialize)]
pub struct CriticalPath<'a> {
    /// Seconds that its nodes ran.
    pub work_s: f64,
    /// Seconds that its nodes were ready and did not run.
    pub waiting_s: f64,
    /// Its nodes.
    pub nodes: Vec<PathNode<'a>>,
}

/// A node of the critical path.
#[derive(Debug, Clone, Serialize)]
pub struct PathNode<'a> {
    /// The node.
    pub node_id: &'a str,
    /// Where it stands.
    pub status: NodeStatus,
    /// Seconds that it ran.
    pub running_s: f64,
    /// Seconds that it was ready and did not run.
    pub waiting_s: f64,
}

/// The nodes that ran longest.
#[derive(Debug, Clone, Serialize)]
pub struct SlowestNodes<'a> {
    /// Them, the slowest first.
    pub nodes: Vec<SlowNode<'a>>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct SlowNode<'a> {
    /// The node.
    pub node_id: &'a str,
    /// Where it stands.
    pub status: NodeStatus,
    /// Seconds that it ran.
    pub running_s: f64,
    /// Its attempts.
    pub attempts: u64,
}

/// A node that was done only after a retry.
#[derive(Debug, Clone, Serialize)]
pub struct FlakyNode<'a> {
    /// Its attempts.
    pub attempts: u64,
    /// Those that failed before one converged.
    pub flake_retries: u64,
    /// The number of the attempt that converged first after a failed one.
    pub passed_at: Option<u64>,
    /// Seconds lost in failed attempts and backoff.
    pub lost_s: f64,
    /// Those of them that were backoff.
    pub backoff_s: f64,
    /// The check that failed last, with its exit code and the end of its output.
    pub check: Option<&'a FailingCheck>,
}

/// A ready node that has not started.
#[derive(Debug, Clone, Serialize)]
pub struct Waiting<'a> {
    /// Seconds that it was ready and did not run.
    pub waiting_s: f64,
    /// How many running nodes it waits for, as far as they were looked at (200 for each path that it touches).
    pub waits_for_count: u64,
    /// The first of them, in order.
    pub waits_for: Vec<WaitsFor<'a>>,
    /// The attempt that it is about to begin.
    pub next_attempt: u64,
    /// Seconds of backoff before that attempt.
    pub backoff_s: f64,
}

/// A running node that another one waits for.
#[derive(Debug, Clone, Serialize)]
pub struct WaitsFor<'a> {
    /// The running node.
    pub node_id: &'a str,
    /// `runs_alone`: the running one runs alone; `to_run_alone`: the waiting one does; `touches`: they overlap.
    pub why: &'static str,
    /// What the waiting node touches and what the running one does, where they overlap.
    pub touches: Option<[&'a str; 2]>,
}

/// A silent run.
#[derive(Debug, Clone, Serialize)]
pub struct Stalled<'a> {
    /// When its last event was.
    pub silent_since: Timestamp,
    /// Seconds since then.
    pub silent_s: f64,
    /// Seconds of silence after which a run counts as stalled.
    pub stall_after_s: f64,
    /// The nodes that were running, the first of them.
    pub running: Vec<&'a str>,
    /// Seconds of the longest attempt so far.
    pub slowest_attempt_s: Option<f64>,
    /// Where the agent stood.
    pub agent_status: Option<AgentStatus>,
    /// At which step.
    pub agent_step: Option<u64>,
}

/// The same call again and again.
#[derive(Debug, Clone, Serialize)]
pub struct AgentLoop<'a> {
    /// The tool.
    pub tool_name: &'a str,
    /// What it was given each time.
    pub input_summary: &'a str,
    /// How many calls in a row.
    pub calls: u64,
}

/// A tool whose calls failed.
#[derive(Debug, Clone, Serialize)]
pub struct FailingTool<'a> {
    /// The tool.
    pub tool_name: &'a str,
    /// All its calls.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// What the last failed one said.
    pub last_error: Option<&'a str>,
}

/// A checkpoint whose audits failed or warned.
#[derive(Debug, Clone, Serialize)]
pub struct FailingAudit<'a> {
    /// The checkpoint.
    pub checkpoint_id: &'a str,
    /// Audits by result.
    pub results: BTreeMap<AuditResult, u64>,
    /// Those that failed or warned, the first of them in log order.
    pub audits: Vec<AuditFound<'a>>,
}

/// An audit that failed or warned.
#[derive(Debug, Clone, Serialize)]
pub struct AuditFound<'a> {
    /// Its seq.
    pub seq: u64,
    /// What it found.
    pub result: AuditResult,
    /// What it rests on, as it was written, where the state keeps it.
    pub evidence: Option<&'a RawValue>,
    /// How many bytes it has in the log, where the state does not keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_bytes: Option<usize>,
}

/// How many nodes ran at a time.
#[derive(Debug, Clone, Serialize)]
pub struct Parallelism {
    /// Seconds that nodes ran, added up.
    pub busy_s: f64,
    /// Seconds from the first event to the last.
    pub wall_s: f64,
    /// The one over the other: how many nodes ran at a time, on average.
    pub average: f64,
    /// Seconds of work on the longest chain of dependencies; `None` without a graph.
    pub longest_chain_s: Option<f64>,
    /// All work over that chain: the most that the graph allows, on average.
    pub most: Option<f64>,
}

/// What does not fit.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Inconsistent<'a> {
    /// An event that the contract does not allow where it stands.
    Order {
        /// What is wrong with it.
        what: &'a str,
        /// How often.
        count: u64,
    },
    /// A move to running that no attempt followed.
    Attempt {
        /// The number of the attempt that it began.
        attempt: u64,
    },
    /// The declared outcome is not the one that the nodes show.
    Outcome {
        /// What the end event says.
        declared: RunOutcome,
        /// What the nodes show.
        derived: RunOutcome,
    },
    /// The declared counts are not those of the nodes.
    Counts {
        /// What the end event says.
        declared: NodeTally,
        /// What the nodes show.
        counted: NodeTally,
    },
    /// A node that is not in the graph.
    Node,
    /// A fault of the graph.
    Graph {
        /// What is wrong with it.
        fault: &'a str,
    },
    /// Further ones that are not listed.
    More {
        /// How many.
        count: u64,
    },
}

/// Nodes by how they came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NodeTally {
    /// Nodes done.
    pub done: u64,
    /// Nodes that gave up.
    pub failed: u64,
    /// Nodes behind a failed one.
    pub blocked: u64,
}
