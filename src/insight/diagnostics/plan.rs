//! The nodes of graph and log by number, with their dependencies.

use std::collections::HashMap;

use crate::domain::Graph;
use crate::domain::event::NodeStatus;
use crate::domain::graph::Node;
use crate::reduce::{NodeState, RunState};

/// The nodes of a run: graph order, then by first appearance. A number is a place in `nodes`.
pub(super) struct Plan<'a> {
    pub(super) nodes: Vec<PlanNode<'a>>,
    /// Every node, its dependencies before it.
    pub(super) order: Vec<usize>,
    /// Whether there is a graph: without one nobody knows what depends on what.
    pub(super) has_graph: bool,
    numbers: HashMap<&'a str, usize>,
}

/// One of them.
pub(super) struct PlanNode<'a> {
    pub(super) id: &'a str,
    pub(super) status: NodeStatus,
    /// What its events gave, when there are any.
    pub(super) state: Option<&'a NodeState>,
    /// What the graph says, when it is in it.
    pub(super) spec: Option<&'a Node>,
    /// The nodes that must be done before it.
    pub(super) needs: Vec<usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(state: &'a RunState, graph: Option<&'a Graph>) -> Self {
        let named = state.nodes_in_order(graph);
        let numbers: HashMap<&str, usize> = named.iter().enumerate().map(|(at, (id, _))| (*id, at)).collect();
        // The graph's nodes come first, in its order.
        let specs = graph.map_or(&[][..], |graph| &graph.nodes);
        let nodes: Vec<PlanNode<'a>> = named
            .iter()
            .enumerate()
            .map(|(at, (id, state))| {
                let spec = specs.get(at);
                let needs = spec.map_or(&[][..], |spec| &spec.depends_on);
                PlanNode {
                    id,
                    status: state.map_or(NodeStatus::Pending, |state| state.status),
                    state: *state,
                    spec,
                    needs: needs.iter().filter_map(|id| numbers.get(id.as_str()).copied()).collect(),
                }
            })
            .collect();
        let order = dependencies_first(&nodes);
        Self { nodes, order, has_graph: graph.is_some(), numbers }
    }

    /// The number of this node.
    pub(super) fn number(&self, node_id: &str) -> Option<usize> {
        self.numbers.get(node_id).copied()
    }

    /// The nodes that stand there, in order.
    pub(super) fn with_status(&self, status: NodeStatus) -> impl Iterator<Item = (usize, &PlanNode<'a>)> {
        self.nodes.iter().enumerate().filter(move |(_, node)| node.status == status)
    }

    /// How many nodes stand there.
    pub(super) fn count(&self, status: NodeStatus) -> u64 {
        self.with_status(status).count() as u64
    }
}

/// A walk depth first, in order. A graph that can be used has no cycle; an edge back onto the walk would be left out.
fn dependencies_first(nodes: &[PlanNode<'_>]) -> Vec<usize> {
    let mut order = Vec::with_capacity(nodes.len());
    let mut is_seen = vec![false; nodes.len()];
    for root in 0..nodes.len() {
        if is_seen[root] {
            continue;
        }
        is_seen[root] = true;
        let mut walk = vec![(root, 0_usize)];
        while let Some((at, next)) = walk.last_mut() {
            let at = *at;
            match nodes[at].needs.get(*next) {
                Some(&needed) => {
                    *next += 1;
                    if !is_seen[needed] {
                        is_seen[needed] = true;
                        walk.push((needed, 0));
                    }
                }
                None => {
                    order.push(at);
                    walk.pop();
                }
            }
        }
    }
    order
}
