//! The run in one sentence: what failed, which check, what it blocks; else what goes on, or how it went.

use std::cmp::Reverse;

use super::Look;
use super::blocking::Blocking;
use super::inconsistent::derived_outcome;
use super::plan::Plan;
use super::waiting::while_words;
use super::words::{clipped, counted, names, span};
use crate::domain::event::{AuditResult, Kind, NodeStatus};
use crate::reduce::{Phase, RunOutcome};

/// How many failed nodes it names.
const NAMED: usize = 3;

/// The sentence.
pub(super) fn verdict(look: &Look<'_>, plan: &Plan<'_>, blocking: &Blocking) -> String {
    let state = look.state;
    let clauses = if state.next_seq == 0 {
        vec![match plan.nodes.len() as u64 {
            0 => "Waiting for the first event".to_owned(),
            planned => format!("Waiting for the first event: {} planned", are(planned, "node")),
        }]
    } else if state.kind == Some(Kind::Agent) || (state.kind.is_none() && state.agent.seen && state.nodes.is_empty()) {
        of_agent(look, plan)
    } else {
        of_nodes(look, plan, blocking)
    };
    clauses.join("; ") + "."
}

/// `1 node is`, `2 nodes are`.
fn are(count: u64, noun: &str) -> String {
    format!("{} {}", counted(count, noun), if count == 1 { "is" } else { "are" })
}

fn of_nodes(look: &Look<'_>, plan: &Plan<'_>, blocking: &Blocking) -> Vec<String> {
    let failures = failures(plan, blocking);
    let has_failed = !failures.is_empty();
    let mut clauses = failures;
    match &look.state.end {
        Some(end) => {
            if end.outcome == RunOutcome::Catastrophic {
                clauses.push(broken(plan, if has_failed { "the" } else { "The" }));
            } else if !has_failed {
                clauses.extend(ended(plan));
            }
            let is_said_otherwise = derived_outcome(plan).is_some_and(|derived| derived != end.outcome);
            if is_said_otherwise && end.outcome != RunOutcome::Catastrophic {
                clauses.push(format!("the producer declared {}", end.outcome.as_str()));
            }
        }
        None if look.phase() == Phase::Stalled => {
            let no = if has_failed { "no" } else { "No" };
            clauses.push(format!("{no} event for {}{}", silence(look), while_words(look, plan)));
            if !has_failed {
                clauses.push("the producer may have died".to_owned());
            }
        }
        None if !has_failed => clauses.extend(going_on(plan)),
        None => {}
    }
    clauses.extend(failing_audits(look));
    clauses
}

fn silence(look: &Look<'_>) -> String {
    span(look.state.last_event.map_or(0.0, |last| look.now.seconds_since(last)))
}

/// `1 node failed: api-events, cargo test events::resume (101); it blocks 2 nodes`, most blocking first.
fn failures(plan: &Plan<'_>, blocking: &Blocking) -> Vec<String> {
    let mut failed: Vec<_> = blocking.failed().collect();
    failed.sort_by_key(|(_, blocks)| Reverse(blocks.count));
    let count = failed.len();
    if count == 0 {
        return Vec::new();
    }
    let mut named: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|&(at, _)| {
            let node = &plan.nodes[at];
            match node.state.and_then(|state| state.last_failing.as_ref()) {
                Some(check) => format!("{}, {} ({})", node.id, clipped(&check.cmd), check.rc),
                None => node.id.to_owned(),
            }
        })
        .collect();
    if count > NAMED {
        named.push(format!("and {} more", count - NAMED));
    }
    let mut clauses = vec![format!("{} failed: {}", counted(count as u64, "node"), named.join("; "))];
    let is_behind = |&(at, _): &(usize, _)| blocking.root(at).is_some();
    let blocked = plan.with_status(NodeStatus::Blocked).filter(is_behind).count() as u64;
    if blocked > 0 {
        let they = if count == 1 { "it blocks" } else { "they block" };
        clauses.push(format!("{they} {}", counted(blocked, "node")));
    }
    clauses
}

fn done_of(plan: &Plan<'_>) -> String {
    let done = plan.count(NodeStatus::Done);
    match plan.nodes.len() as u64 {
        1 => if done == 1 { "its one node is done" } else { "its one node is not done" }.to_owned(),
        all => format!("{done} of {all} nodes {} done", if done == 1 { "is" } else { "are" }),
    }
}

fn broken(plan: &Plan<'_>, the: &str) -> String {
    let running: Vec<&str> = plan.with_status(NodeStatus::Running).map(|(_, node)| node.id).collect();
    let with = match running.len() as u64 {
        0 => String::new(),
        count => format!(" with {} running ({})", counted(count, "node"), names(&running)),
    };
    if plan.nodes.is_empty() {
        format!("{the} producer broke")
    } else {
        format!("{the} producer broke{with}: {}", done_of(plan))
    }
}

/// A run that ended without a failed node.
fn ended(plan: &Plan<'_>) -> Vec<String> {
    let all = plan.nodes.len() as u64;
    if all == 0 {
        return vec!["The run ended without a node".to_owned()];
    }
    if plan.count(NodeStatus::Done) < all {
        let left = [NodeStatus::Running, NodeStatus::Ready, NodeStatus::Pending, NodeStatus::Blocked];
        let left: Vec<String> = left
            .into_iter()
            .map(|status| (plan.count(status), status))
            .filter(|(count, _)| *count > 0)
            .map(|(count, status)| format!("{count} {status}"))
            .collect();
        return vec![format!("No node failed, but the run ended when {}: {} left", done_of(plan), left.join(", "))];
    }
    let mut clauses = vec![passed(all)];
    let flaky: Vec<&str> = plan
        .nodes
        .iter()
        .filter(|node| node.state.is_some_and(|state| state.flake_retries > 0))
        .map(|node| node.id)
        .collect();
    if !flaky.is_empty() {
        clauses.push(format!("{} needed a retry: {}", flaky.len(), names(&flaky)));
    }
    clauses
}

fn passed(all: u64) -> String {
    if all == 1 { "The one node passed".to_owned() } else { format!("All {all} nodes passed") }
}

/// A live run without a failed node.
fn going_on(plan: &Plan<'_>) -> Vec<String> {
    let all = plan.nodes.len() as u64;
    if all == 0 {
        return vec!["The run has begun, and no node has moved".to_owned()];
    }
    if plan.count(NodeStatus::Done) == all {
        return vec![passed(all), "the run has not ended".to_owned()];
    }
    let mut clauses = vec![format!("Nothing has failed: {}", done_of(plan))];
    let named = |status| plan.with_status(status).map(|(_, node)| node.id).collect::<Vec<_>>();
    let (running, ready) = (named(NodeStatus::Running), named(NodeStatus::Ready));
    let be = |ids: &[&str]| if ids.len() == 1 { "is" } else { "are" };
    if !running.is_empty() {
        clauses.push(format!("{} {} running", names(&running), be(&running)));
    } else if !ready.is_empty() {
        clauses.push(format!("{} {} ready, and none is running", names(&ready), be(&ready)));
    } else {
        clauses.push("none is running or ready".to_owned());
    }
    clauses
}

fn of_agent(look: &Look<'_>, plan: &Plan<'_>) -> Vec<String> {
    let agent = &look.state.agent;
    let steps = agent.highest_step.map(|step| step.saturating_add(1));
    let after = steps.map_or(String::new(), |steps| format!(" after {}", counted(steps, "step")));
    let stands = || agent.status.map_or(String::new(), |status| format!(", in {status}"));
    let mut clauses = vec![match &look.state.end {
        Some(end) => {
            let score = end.convergence_score.map_or(String::new(), |score| format!(", with a score of {score}"));
            match end.outcome {
                RunOutcome::Converged => format!("The agent converged{after}{score}"),
                RunOutcome::Partial => format!("The agent did only a part of its task{after}{score}"),
                RunOutcome::Escaped => format!("The agent left its bounds and was stopped{after}{score}"),
                RunOutcome::Aborted => format!("The agent was stopped or died{after}{}", stands()),
                other => format!("The run ended as {}{after}", other.as_str()),
            }
        }
        None if look.phase() == Phase::Stalled => {
            format!("No event for {}{}", silence(look), while_words(look, plan))
        }
        None => match (agent.status, agent.step) {
            (Some(status), Some(step)) => format!("The agent is in {status} at step {step}"),
            _ => "The agent has begun".to_owned(),
        },
    }];
    if look.phase() == Phase::Stalled {
        clauses.push("the producer may have died".to_owned());
    }
    let calm = clauses.len();
    if let Some(row) = agent.loops.iter().max_by_key(|row| (row.calls, Reverse(row.first_seq))) {
        clauses.push(format!("it called {} {} times in a row with the same input", clipped(&row.tool_name), row.calls));
    }
    clauses.extend(failing_audits(look));
    if agent.tool_failures > 0 {
        clauses.push(format!("{} of {} failed", agent.tool_failures, counted(agent.tool_calls, "tool call")));
    }
    if clauses.len() == calm && look.phase() == Phase::Live {
        clauses.push("nothing has failed".to_owned());
    }
    clauses
}

/// Checkpoints of which an audit failed.
fn failing_audits(look: &Look<'_>) -> Option<String> {
    let audits = look.state.agent.audits.iter();
    let mut failed: Vec<&str> =
        audits.filter(|audit| audit.result == AuditResult::Fail).map(|audit| audit.checkpoint_id.as_str()).collect();
    failed.sort_unstable();
    failed.dedup();
    (!failed.is_empty()).then(|| format!("{} failed", names(&failed)))
}
