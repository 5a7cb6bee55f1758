//! What the run's length hangs on, and how much of the graph's freedom was used.

use std::cmp::Reverse;

use super::evidence::{CriticalPath, Evidence, Parallelism, PathNode};
use super::plan::Plan;
use super::words::{counted, span};
use super::{Finding, FindingKind, Look, Severity};
use crate::domain::event::NodeStatus;
use crate::domain::timestamp::millis_to_seconds;

/// From the node that finished last back to the dependency that finished last each time; a running node counts as
/// finishing now. Without a graph nobody knows what a node waited for, and there is no path.
pub(super) fn critical_path<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    if !plan.has_graph {
        return None;
    }
    let last = look.state.last_event;
    let running_millis = |at: usize| plan.nodes[at].state.map_or(0, |state| state.running_millis(last));
    let finished = |at: usize| {
        let node = &plan.nodes[at];
        match node.status {
            NodeStatus::Done | NodeStatus::Failed => node.state?.ended,
            NodeStatus::Running => Some(look.now),
            NodeStatus::Pending | NodeStatus::Ready | NodeStatus::Blocked => None,
        }
    };
    let last_of = |nodes: &mut dyn Iterator<Item = usize>| {
        nodes
            .filter_map(|at| Some((finished(at)?, running_millis(at), Reverse(plan.nodes[at].id), at)))
            .max()
            .map(|(.., at)| at)
    };
    let mut path = vec![last_of(&mut (0..plan.nodes.len()))?];
    while let Some(before) = path.last().and_then(|&at| last_of(&mut plan.nodes[at].needs.iter().copied())) {
        path.push(before);
    }
    path.reverse();
    let waiting_millis = |at: usize| plan.nodes[at].state.map_or(0, |state| state.waiting_millis(last));
    let sum = |millis: &dyn Fn(usize) -> u64| path.iter().fold(0_u64, |sum, &at| sum.saturating_add(millis(at)));
    let work_s = millis_to_seconds(sum(&running_millis));
    let waiting_s = millis_to_seconds(sum(&waiting_millis));
    let nodes: Vec<PathNode<'_>> = path
        .iter()
        .map(|&at| PathNode {
            node_id: plan.nodes[at].id,
            status: plan.nodes[at].status,
            running_s: millis_to_seconds(running_millis(at)),
            waiting_s: millis_to_seconds(waiting_millis(at)),
        })
        .collect();
    let longest = path.iter().copied().max_by_key(|&at| (running_millis(at), Reverse(at)))?;
    Some(Finding {
        kind: FindingKind::CriticalPath,
        severity: Severity::Info,
        message: format!(
            "The critical path is {} long: {} of work and {} of waiting; {} weighs most on it, with {}.",
            counted(path.len() as u64, "node"),
            span(work_s),
            span(waiting_s),
            plan.nodes[longest].id,
            span(millis_to_seconds(running_millis(longest))),
        ),
        node_ids: nodes.iter().map(|node| node.node_id).collect(),
        steps: Vec::new(),
        seq: path.iter().filter_map(|&at| plan.nodes[at].state).map(|state| state.first_seq).min(),
        evidence: Evidence::CriticalPath(CriticalPath { work_s, waiting_s, nodes }),
    })
}

/// How many nodes ran at a time, and the most that the graph allows: all work over the longest chain of it.
pub(super) fn parallelism<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    let last = look.state.last_event;
    let running: Vec<u64> =
        plan.nodes.iter().map(|node| node.state.map_or(0, |state| state.running_millis(last))).collect();
    let busy_s = millis_to_seconds(running.iter().fold(0_u64, |sum, &millis| sum.saturating_add(millis)));
    let wall_s = last?.seconds_since(look.state.started?);
    if busy_s <= 0.0 || wall_s <= 0.0 {
        return None;
    }
    let longest_chain_s = plan.has_graph.then(|| millis_to_seconds(longest_chain(plan, &running)));
    let average = busy_s / wall_s;
    let most = longest_chain_s.filter(|&chain| chain > 0.0).map(|chain| busy_s / chain);
    let on_average = format!("{average:.1} nodes ran at a time, on average");
    let message = match most {
        Some(most) => format!("{on_average}; by its dependencies the graph allows {most:.1} at the most."),
        None => format!("{on_average}."),
    };
    Some(Finding {
        kind: FindingKind::Parallelism,
        severity: Severity::Info,
        message,
        node_ids: Vec::new(),
        steps: Vec::new(),
        seq: None,
        evidence: Evidence::Parallelism(Parallelism { busy_s, wall_s, average, longest_chain_s, most }),
    })
}

/// Of all chains of dependencies the one with the most work, in milliseconds.
fn longest_chain(plan: &Plan<'_>, running: &[u64]) -> u64 {
    let mut chains = vec![0_u64; plan.nodes.len()];
    for &at in &plan.order {
        let before = plan.nodes[at].needs.iter().map(|&needed| chains[needed]).max().unwrap_or(0);
        chains[at] = running[at].saturating_add(before);
    }
    chains.into_iter().max().unwrap_or(0)
}
