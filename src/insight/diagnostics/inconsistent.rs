//! Where the log breaks the contract, or contradicts itself or the graph. Nothing of it stops a fold; all of it is told.

use super::evidence::{Evidence, Inconsistent, NodeTally};
use super::plan::Plan;
use super::words::{clipped, counted};
use super::{Finding, FindingKind, LISTED, Look, Severity};
use crate::domain::event::NodeStatus;
use crate::reduce::RunOutcome;

/// Everything that does not fit. Of one sort not more than [`LISTED`] are told one by one.
pub(super) fn inconsistent<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Vec<Finding<'a>> {
    let mut findings = graph_faults(look);
    findings.extend(unplanned(plan));
    findings.extend(breaches(look));
    findings.extend(unanswered(look, plan));
    findings.extend(outcome(look, plan));
    findings.extend(counts(look, plan));
    findings
}

/// A finding, without the full stop of its message.
fn finding<'a>(message: String, node_id: Option<&'a str>, seq: Option<u64>, about: Inconsistent<'a>) -> Finding<'a> {
    Finding {
        kind: FindingKind::Inconsistent,
        severity: Severity::Warning,
        message: message + ".",
        node_ids: node_id.into_iter().collect(),
        steps: Vec::new(),
        seq,
        evidence: Evidence::Inconsistent(about),
    }
}

/// The first of them, and how many more there are.
fn listed<'a>(mut findings: Vec<Finding<'a>>, all: u64, what: &str) -> Vec<Finding<'a>> {
    findings.truncate(LISTED);
    let count = all.saturating_sub(findings.len() as u64);
    if count > 0 {
        let message = format!("{} more {what}, beside those that are told one by one", count);
        findings.push(finding(message, None, None, Inconsistent::More { count }));
    }
    findings
}

fn graph_faults<'a>(look: &Look<'a>) -> Vec<Finding<'a>> {
    let Some(graph) = look.graph else { return Vec::new() };
    let told = graph.faults.iter().take(LISTED).map(|fault| {
        let message = format!("graph.json: {}; the rest of it is used", clipped(fault));
        finding(message, None, None, Inconsistent::Graph { fault })
    });
    listed(told.collect(), graph.fault_count, "faults of graph.json")
}

/// Nodes of the log that are not in the graph; without a graph there is nothing to be missing in.
fn unplanned<'a>(plan: &Plan<'a>) -> Vec<Finding<'a>> {
    if !plan.has_graph {
        return Vec::new();
    }
    let unplanned = || plan.nodes.iter().filter(|node| node.spec.is_none());
    let told = unplanned().take(LISTED).map(|node| {
        let seq = node.state.map(|state| state.first_seq);
        finding(format!("{} is not in graph.json", node.id), Some(node.id), seq, Inconsistent::Node)
    });
    listed(told.collect(), unplanned().count() as u64, "nodes are not in graph.json")
}

fn breaches<'a>(look: &Look<'a>) -> Vec<Finding<'a>> {
    let state = look.state;
    let told: Vec<Finding<'a>> = state
        .breaches
        .iter()
        .take(LISTED)
        .map(|breach| {
            let node_id = breach.node_id.as_deref();
            let node = node_id.map_or(String::new(), |node_id| format!("{node_id} "));
            let often = if breach.count > 1 { format!(", {} times so far", breach.count) } else { String::new() };
            let message = format!("Event {} does not fit: {node}{}{often}", breach.seq, breach.what);
            finding(message, node_id, Some(breach.seq), Inconsistent::Order { what: &breach.what, count: breach.count })
        })
        .collect();
    let told_of: u64 = state.breaches.iter().take(LISTED).map(|breach| breach.count).sum();
    let others = state.breach_count.saturating_sub(told_of) + told.len() as u64;
    listed(told, others, "events do not fit")
}

/// Moves to running that no attempt of the same number followed, once the log says that it is complete.
fn unanswered<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Vec<Finding<'a>> {
    let has_died = |outcome| matches!(outcome, RunOutcome::Catastrophic | RunOutcome::Aborted);
    if look.state.end.as_ref().is_none_or(|end| has_died(end.outcome)) {
        return Vec::new();
    }
    let mut moves: Vec<_> = plan
        .nodes
        .iter()
        .filter_map(|node| Some((node.id, node.state?)))
        .flat_map(|(id, state)| state.unanswered.iter().map(move |awaited| (awaited.seq, id, awaited.attempt)))
        .collect();
    moves.sort_unstable();
    let told = moves.iter().take(LISTED).map(|&(seq, id, attempt)| {
        let message = format!("{id} began attempt {attempt} at event {seq}, but no node_attempt of that number came");
        finding(message, Some(id), Some(seq), Inconsistent::Attempt { attempt })
    });
    listed(told.collect(), moves.len() as u64, "attempts were begun and never told of")
}

/// The outcome that the nodes show; `None` without nodes, of which nothing can be said.
pub(super) fn derived_outcome(plan: &Plan<'_>) -> Option<RunOutcome> {
    let done = plan.count(NodeStatus::Done);
    let is_flaky = plan.nodes.iter().any(|node| node.state.is_some_and(|state| state.flake_retries > 0));
    match plan.nodes.len() as u64 {
        0 => None,
        all if all == done && is_flaky => Some(RunOutcome::CleanWithFlake),
        all if all == done => Some(RunOutcome::Clean),
        _ if done == 0 => Some(RunOutcome::Stuck),
        _ => Some(RunOutcome::Partial),
    }
}

fn outcome<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    let end = look.state.end.as_ref()?;
    // Only a run_end declares how nodes came out; catastrophic is declared of the producer, not of them.
    let speaks_of_nodes =
        matches!(end.outcome, RunOutcome::Clean | RunOutcome::CleanWithFlake | RunOutcome::Partial | RunOutcome::Stuck);
    let derived = derived_outcome(plan).filter(|&derived| speaks_of_nodes && derived != end.outcome)?;
    let message = format!("The end event declares {}, but the nodes show {}", end.outcome.as_str(), derived.as_str());
    Some(finding(message, None, Some(end.seq), Inconsistent::Outcome { declared: end.outcome, derived }))
}

fn counts<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    let end = look.state.end.as_ref()?;
    let [done, failed, blocked] = end.declared_nodes?;
    let declared = NodeTally { done, failed, blocked };
    let counted_nodes = NodeTally {
        done: plan.count(NodeStatus::Done),
        failed: plan.count(NodeStatus::Failed),
        blocked: plan.count(NodeStatus::Blocked),
    };
    if declared == counted_nodes {
        return None;
    }
    let words = |tally: NodeTally| {
        format!("{} done, {} failed and {} blocked", counted(tally.done, "node"), tally.failed, tally.blocked)
    };
    let message = format!("The end event declares {}, but the log has {}", words(declared), words(counted_nodes));
    Some(finding(message, None, Some(end.seq), Inconsistent::Counts { declared, counted: counted_nodes }))
}
