//! The answer of `/api/compare`, as far as it is shown.

use serde::Deserialize;

/// Two runs beside each other.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) base: Row,
    pub(super) head: Row,
    pub(super) regression: bool,
    pub(super) summary: String,
    pub(super) graph: Graph,
    pub(super) nodes: Vec<Node>,
}

/// A run's row.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) run_id: String,
    pub(super) kind: Option<String>,
    pub(super) phase: String,
    pub(super) outcome: Option<String>,
    pub(super) duration_s: Option<f64>,
    pub(super) convergence_score: Option<f64>,
    pub(super) nodes: Option<Counts>,
    pub(super) tool_calls: Option<Calls>,
}

/// Nodes by status.
#[derive(Debug, Deserialize)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) blocked: u64,
}

/// Tool calls.
#[derive(Debug, Deserialize)]
pub(super) struct Calls {
    pub(super) total: u64,
    pub(super) failed: u64,
}

/// What became of the graph.
#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) changed: Vec<String>,
}

/// What became of a node.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) node_id: String,
    pub(super) change: String,
    pub(super) base: Option<Figures>,
    pub(super) head: Option<Figures>,
    pub(super) newly_failing_checks: Vec<String>,
}

/// How a node stands in one run.
#[derive(Debug, Deserialize)]
pub(super) struct Figures {
    pub(super) status: String,
    pub(super) attempts: u64,
    pub(super) duration_s: f64,
}
