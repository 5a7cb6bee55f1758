//! What to look at in one run: the findings, and the verdict that leads them.
//!
//! Pure questions over the state of a moment, the graph and now. Spans of time count to the last folded event; now only
//! says whether the run is silent for too long, and when a running node would finish.

mod agent;
mod blocking;
mod critical_path;
mod evidence;
mod inconsistent;
mod nodes;
mod plan;
mod verdict;
mod waiting;
mod words;

use serde::Serialize;

pub use evidence::{
    AgentLoop, BlockedChain, CriticalPath, Evidence, FailedNode, FailingAudit, FailingTool, FlakyNode, Inconsistent,
    NodeTally, Parallelism, PathNode, SlowNode, SlowestNodes, Stalled, Waiting, WaitsFor,
};

use blocking::Blocking;
use plan::Plan;

use crate::domain::{Graph, Timestamp};
use crate::reduce::{Phase, RunState};

/// How many ids, seqs or results a finding lists; it counts them all.
pub const LISTED: usize = 20;

/// A run at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The fold of its events up to that moment.
    pub state: &'a RunState,
    /// Its graph, as far as it can be used.
    pub graph: Option<&'a Graph>,
    /// What stands for now.
    pub now: Timestamp,
    /// Silence after which a run without an end event counts as stalled, in milliseconds.
    pub stall_after_ms: u64,
}

/// What a look at a run finds.
#[derive(Debug, Clone)]
pub struct Diagnostics<'a> {
    /// The run in one sentence.
    pub verdict: String,
    /// What to look at, the worst first.
    pub findings: Vec<Finding<'a>>,
}

/// One thing to look at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding<'a> {
    /// What it is.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence that says what to look at.
    pub message: String,
    /// The nodes that it is about.
    pub node_ids: Vec<&'a str>,
    /// The agent's steps that it is about.
    pub steps: Vec<u64>,
    /// The first event that it rests on; `None` when it rests on the run as a whole.
    pub seq: Option<u64>,
    /// The figures behind the message.
    pub evidence: Evidence<'a>,
}

/// What a finding tells, in the order in which findings of one severity stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A node gave up.
    FailedNode,
    /// A node is blocked behind a failed one.
    BlockedChain,
    /// The chain of nodes that the run's length hangs on.
    CriticalPath,
    /// Where most of the time went.
    SlowestNode,
    /// A node was done only after a retry.
    FlakyNode,
    /// A ready node has not started.
    Waiting,
    /// The run is silent.
    Stalled,
    /// An agent does the same again and again.
    AgentLoop,
    /// Calls of a tool failed.
    FailingTool,
    /// An audit failed or warned.
    FailingAudit,
    /// How many nodes ran at a time.
    Parallelism,
    /// The log breaks the contract, or contradicts itself or the graph.
    Inconsistent,
}

/// How bad a finding is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something is likely to be wrong.
    Warning,
    /// Good to know.
    Info,
}

/// Everything that a look at a run finds.
pub fn diagnose<'a>(look: &Look<'a>) -> Diagnostics<'a> {
    let plan = Plan::of(look.state, look.graph);
    let blocking = Blocking::of(&plan);
    let mut findings = nodes::failed(&plan, &blocking);
    findings.extend(nodes::blocked(&plan, &blocking));
    findings.extend(critical_path::critical_path(look, &plan));
    findings.extend(nodes::slowest(look, &plan));
    findings.extend(nodes::flaky(&plan));
    findings.extend(waiting::waiting(look, &plan));
    findings.extend(waiting::stalled(look, &plan));
    findings.extend(agent::loops(&look.state.agent));
    findings.extend(agent::failing_tools(&look.state.agent));
    findings.extend(agent::failing_audits(&look.state.agent));
    findings.extend(critical_path::parallelism(look, &plan));
    findings.extend(inconsistent::inconsistent(look, &plan));
    findings.sort_by_key(|finding| (finding.severity, finding.kind, finding.seq.is_none(), finding.seq));
    Diagnostics { verdict: verdict::verdict(look, &plan, &blocking), findings }
}

/// The failed nodes at the root of why this node is blocked, in the order in which they failed; none when it is not.
pub fn blocked_by<'a>(state: &'a RunState, graph: Option<&'a Graph>, node_id: &str) -> Vec<&'a str> {
    let plan = Plan::of(state, graph);
    let Some(node) = plan.number(node_id) else { return Vec::new() };
    let roots = Blocking::of(&plan).roots(node);
    roots.into_iter().map(|root| plan.nodes[root].id).collect()
}

impl Look<'_> {
    fn phase(&self) -> Phase {
        self.state.phase(self.now, self.stall_after_ms)
    }
}
