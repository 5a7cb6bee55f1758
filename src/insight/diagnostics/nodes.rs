//! What single nodes tell: those that gave up, those behind them, the slow ones and the flaky ones.

use std::cmp::Reverse;

use super::blocking::Blocking;
use super::evidence::{BlockedChain, Evidence, FailedNode, FlakyNode, SlowNode, SlowestNodes};
use super::plan::Plan;
use super::words::{clipped, counted, names, span};
use super::{Finding, FindingKind, LISTED, Look, Severity};
use crate::domain::event::NodeStatus;
use crate::reduce::{FailingCheck, NodeState};

/// How many slow nodes are told of.
const SLOWEST: usize = 5;

/// A finding for each node that gave up.
pub(super) fn failed<'a>(plan: &Plan<'a>, blocking: &Blocking) -> Vec<Finding<'a>> {
    let mut findings = Vec::new();
    for (at, blocks) in blocking.failed() {
        let node = &plan.nodes[at];
        let Some(state) = node.state else { continue };
        let attempts = state.attempts.len() as u64;
        let check = state.last_failing.as_ref();
        let why = match (check, &state.reason) {
            (Some(check), _) => check_words(check),
            (None, Some(reason)) => format!("no check failed, the reason is {}", clipped(reason)),
            (None, None) => "no check failed".to_owned(),
        };
        let behind =
            if blocks.count == 0 { String::new() } else { format!("; it blocks {}", counted(blocks.count, "node")) };
        findings.push(Finding {
            kind: FindingKind::FailedNode,
            severity: Severity::Error,
            message: format!("{} failed after {}: {why}{behind}.", node.id, counted(attempts, "attempt")),
            node_ids: vec![node.id],
            steps: Vec::new(),
            seq: state.since_seq,
            evidence: Evidence::FailedNode(FailedNode {
                attempts,
                reason: state.reason.as_deref(),
                check,
                blocks: blocks.count,
                blocked: blocks.listed.iter().map(|&blocked| plan.nodes[blocked].id).collect(),
            }),
        });
    }
    findings
}

fn check_words(check: &FailingCheck) -> String {
    format!("{} exited {} in attempt {}", clipped(&check.cmd), check.rc, check.attempt)
}

/// A finding for each blocked node: the failed ancestor at its root.
pub(super) fn blocked<'a>(plan: &Plan<'a>, blocking: &Blocking) -> Vec<Finding<'a>> {
    plan.with_status(NodeStatus::Blocked)
        .map(|(at, node)| {
            let roots: Vec<&str> = blocking.roots(at).into_iter().map(|root| plan.nodes[root].id).collect();
            let chain: Vec<&str> = blocking.chain(at).into_iter().map(|link| plan.nodes[link].id).collect();
            let over = match chain.len() {
                0..3 => String::new(),
                length => format!(", over {}", names(&chain[1..length - 1])),
            };
            let message = match roots.as_slice() {
                [] => format!("{} is blocked, but no failed node is known behind it.", node.id),
                [root] => format!("{} is blocked because {root} failed{over}; look at {root}.", node.id),
                [root, ..] => format!("{} is blocked because {} failed; look at {root} first.", node.id, names(&roots)),
            };
            Finding {
                kind: FindingKind::BlockedChain,
                severity: Severity::Warning,
                message,
                node_ids: chain,
                steps: Vec::new(),
                seq: node.state.and_then(|state| state.since_seq),
                evidence: Evidence::BlockedChain(BlockedChain {
                    root: roots.first().copied(),
                    root_count: roots.len() as u64,
                    roots: roots.iter().take(LISTED).copied().collect(),
                    reason: node.state.and_then(|state| state.reason.as_deref()),
                }),
            }
        })
        .collect()
}

/// Where most of the time went.
pub(super) fn slowest<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    let last = look.state.last_event;
    let running = |node: &NodeState| node.running_millis(last);
    let mut slow: Vec<_> = plan
        .nodes
        .iter()
        .filter_map(|node| node.state.filter(|state| running(state) > 0).map(|state| (node, state)))
        .collect();
    slow.sort_by_key(|(node, state)| (Reverse(running(state)), node.id));
    slow.truncate(SLOWEST);
    let (slowest, state) = slow.first()?;
    let next: Vec<String> = slow[1..]
        .iter()
        .take(2)
        .map(|(node, state)| format!("{} ({})", node.id, span(state.running_s(last))))
        .collect();
    let next = match next.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} comes next"),
        more => format!("; {} come next", more.join(" and ")),
    };
    let took = span(state.running_s(last));
    let attempts = match state.attempts.len() as u64 {
        0 => String::new(),
        attempts => format!(" in {}", counted(attempts, "attempt")),
    };
    Some(Finding {
        kind: FindingKind::SlowestNode,
        severity: Severity::Info,
        message: format!("{} ran longest: {took}{attempts}{next}.", slowest.id),
        node_ids: slow.iter().map(|(node, _)| node.id).collect(),
        steps: Vec::new(),
        seq: Some(state.first_seq),
        evidence: Evidence::SlowestNodes(SlowestNodes {
            nodes: slow
                .iter()
                .map(|(node, state)| SlowNode {
                    node_id: node.id,
                    status: node.status,
                    running_s: state.running_s(last),
                    attempts: state.attempts.len() as u64,
                })
                .collect(),
        }),
    })
}

/// A finding for each node that converged only after a failed attempt.
pub(super) fn flaky<'a>(plan: &Plan<'a>) -> Vec<Finding<'a>> {
    let mut findings = Vec::new();
    for node in &plan.nodes {
        let Some(state) = node.state.filter(|state| state.flake_retries > 0) else { continue };
        let first_failed = state.attempts.iter().position(|attempt| !attempt.converged).unwrap_or(0);
        let passed = state.attempts.iter().skip(first_failed).find(|attempt| attempt.converged);
        let check = state.last_failing.as_ref();
        let failed = check.map_or(String::new(), |check| format!("; before, {}", check_words(check)));
        let passed_at = passed.map(|attempt| attempt.attempt);
        findings.push(Finding {
            kind: FindingKind::FlakyNode,
            severity: Severity::Warning,
            message: format!(
                "{} passed only in attempt {}, and {} were lost in failed attempts and backoff{failed}.",
                node.id,
                passed_at.unwrap_or(state.attempts.len() as u64),
                span(state.lost_s()),
            ),
            node_ids: vec![node.id],
            steps: Vec::new(),
            seq: state.attempts.get(first_failed).map(|attempt| attempt.seq),
            evidence: Evidence::FlakyNode(FlakyNode {
                attempts: state.attempts.len() as u64,
                flake_retries: state.flake_retries,
                passed_at,
                lost_s: state.lost_s(),
                backoff_s: state.backoff_s(),
                check,
            }),
        });
    }
    findings
}
