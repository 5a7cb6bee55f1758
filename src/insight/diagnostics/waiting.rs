//! Why nothing moves: ready nodes that have not started, and a run that has fallen silent.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::evidence::{Evidence, Stalled, Waiting, WaitsFor};
use super::plan::Plan;
use super::words::{counted, names, span};
use super::{Finding, FindingKind, LISTED, Look, Severity};
use crate::domain::event::NodeStatus;
use crate::domain::timestamp::millis_to_seconds;
use crate::reduce::Phase;

/// Where the literal part of a glob ends.
const GLOB: &[char] = &['*', '?', '[', '{'];

/// How many running nodes are looked at for each path of a waiting one; a producer that keeps to the graph runs none.
const OVERLAPS: usize = 200;

/// The most a producer waits before an attempt, in seconds.
const MOST_BACKOFF_S: u32 = 60;

/// A finding for each ready node of a run that goes on: what it waits for.
pub(super) fn waiting<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Vec<Finding<'a>> {
    if look.state.end.is_some() {
        return Vec::new();
    }
    let running = Running::of(plan);
    let mut findings = Vec::new();
    for (at, node) in plan.with_status(NodeStatus::Ready) {
        let Some(state) = node.state else { continue };
        let waits_for = running.in_the_way_of(at, plan);
        let next_attempt = state.attempts.last().map_or(1, |attempt| attempt.attempt.saturating_add(1));
        let backoff_s = backoff_s(next_attempt);
        let why = match waits_for.first() {
            Some(first) => {
                let ids: Vec<&str> = waits_for.iter().map(|other| other.node_id).collect();
                match (first.why, first.touches) {
                    ("to_run_alone", _) => format!("it runs alone, and {} still {}", names(&ids), run_words(&ids)),
                    ("runs_alone", _) => format!("{} runs alone", first.node_id),
                    (_, Some([own, other])) if ids.len() == 1 => {
                        format!("{} is running and touches {other}, which overlaps its own {own}", first.node_id)
                    }
                    _ => format!("{} {} running and touch what it touches", names(&ids), are_words(&ids)),
                }
            }
            None if next_attempt > 1 => {
                format!(
                    "nothing in the graph holds it; the backoff before attempt {next_attempt} is {}",
                    span(backoff_s)
                )
            }
            None if node.spec.is_none() => "it is in no graph that could say why".to_owned(),
            None => "nothing in the graph holds it; the producer may have no room for it".to_owned(),
        };
        let mut node_ids = vec![node.id];
        node_ids.extend(waits_for.iter().take(LISTED).map(|other| other.node_id));
        findings.push(Finding {
            kind: FindingKind::Waiting,
            severity: Severity::Info,
            message: format!("{} is ready and has not started: {why}.", node.id),
            node_ids,
            steps: Vec::new(),
            seq: state.since_seq,
            evidence: Evidence::Waiting(Waiting {
                waiting_s: state.waiting_s(look.state.last_event),
                waits_for_count: waits_for.len() as u64,
                waits_for: waits_for.into_iter().take(LISTED).collect(),
                next_attempt,
                backoff_s,
            }),
        });
    }
    findings
}

fn run_words(ids: &[&str]) -> &'static str {
    if ids.len() == 1 { "runs" } else { "run" }
}

fn are_words(ids: &[&str]) -> &'static str {
    if ids.len() == 1 { "is" } else { "are" }
}

/// Seconds of backoff before an attempt: none before the first, then min(2^(i-1), 60).
fn backoff_s(attempt: u64) -> f64 {
    match attempt {
        0 | 1 => 0.0,
        _ => {
            let doublings = u32::try_from(attempt - 1).unwrap_or(u32::MAX).min(6);
            f64::from((1_u32 << doublings).min(MOST_BACKOFF_S))
        }
    }
}

/// The running nodes, by what they touch.
struct Running<'a> {
    all: Vec<usize>,
    /// Those that run alone.
    alone: Vec<usize>,
    /// By literal prefix: the node, and the path or glob.
    touching: BTreeMap<&'a [u8], Vec<(usize, &'a str)>>,
}

impl<'a> Running<'a> {
    fn of(plan: &Plan<'a>) -> Self {
        let mut running = Self { all: Vec::new(), alone: Vec::new(), touching: BTreeMap::new() };
        for (at, node) in plan.with_status(NodeStatus::Running) {
            running.all.push(at);
            let Some(spec) = node.spec else { continue };
            if !spec.parallel_safe {
                running.alone.push(at);
            }
            for touched in &spec.touches {
                running.touching.entry(literal(touched)).or_default().push((at, touched));
            }
        }
        running
    }

    /// The running nodes beside which this one may not run, each once, in order: those that run alone, all when this
    /// one does, and those whose touches overlap. Of each sort, and for each path, the first [`OVERLAPS`] are looked at.
    fn in_the_way_of(&self, at: usize, plan: &Plan<'a>) -> Vec<WaitsFor<'a>> {
        let Some(spec) = plan.nodes[at].spec else { return Vec::new() };
        let mut found: BTreeMap<usize, WaitsFor<'a>> = BTreeMap::new();
        let mut add = |other: usize, why, touches| {
            let node_id = plan.nodes[other].id;
            found.entry(other).or_insert(WaitsFor { node_id, why, touches });
        };
        self.alone.iter().take(OVERLAPS).for_each(|&other| add(other, "runs_alone", None));
        if !spec.parallel_safe {
            self.all.iter().take(OVERLAPS).for_each(|&other| add(other, "to_run_alone", None));
        }
        for own in &spec.touches {
            for &(other, touched) in self.overlapping(literal(own)).take(OVERLAPS) {
                add(other, "touches", Some([own.as_str(), touched]));
            }
        }
        found.into_values().collect()
    }

    /// What goes on where this prefix ends, or ends where it goes on.
    fn overlapping(&self, prefix: &'a [u8]) -> impl Iterator<Item = &(usize, &'a str)> {
        let longer = self.touching.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let longer = longer.take_while(move |(other, _)| other.starts_with(prefix)).map(|(_, touching)| touching);
        // A prefix of this one stands before it: from there back, each step to what is left in common.
        let mut rest = prefix.split_last().map(|(_, rest)| rest);
        let shorter = std::iter::from_fn(move || {
            loop {
                let (other, touching) =
                    self.touching.range::<[u8], _>((Bound::Unbounded, Bound::Included(rest?))).next_back()?;
                let common = other.iter().zip(rest?).take_while(|(a, b)| a == b).count();
                if common == other.len() {
                    rest = other.split_last().map(|(_, rest)| rest);
                    return Some(touching);
                }
                rest = prefix.get(..common);
            }
        });
        longer.chain(shorter).flatten()
    }
}

/// The part of a path or glob before its first glob character.
fn literal(touched: &str) -> &[u8] {
    touched.find(GLOB).map_or(touched, |end| &touched[..end]).as_bytes()
}

/// The run's silence, when it has lasted too long. It is an inference: the producer may only be slow.
pub(super) fn stalled<'a>(look: &Look<'a>, plan: &Plan<'a>) -> Option<Finding<'a>> {
    let silent_since = look.state.last_event?;
    if look.phase() != Phase::Stalled {
        return None;
    }
    let silent_s = look.now.seconds_since(silent_since);
    let running: Vec<&str> = plan.with_status(NodeStatus::Running).map(|(_, node)| node.id).collect();
    let agent = &look.state.agent;
    let attempts = plan.nodes.iter().filter_map(|node| node.state).flat_map(|state| &state.attempts);
    let slowest_attempt_s = attempts.map(|attempt| attempt.duration_s).max_by(f64::total_cmp);
    let seq = look.state.next_seq.checked_sub(1);
    let last = seq.map_or(String::new(), |seq| format!("; look at event {seq}, the last one"));
    Some(Finding {
        kind: FindingKind::Stalled,
        severity: Severity::Warning,
        message: format!(
            "No event for {}, since {silent_since}{}: the producer may have died{last}.",
            span(silent_s),
            while_words(look, plan)
        ),
        node_ids: running.clone(),
        steps: agent.step.filter(|_| agent.status.is_some()).into_iter().collect(),
        seq,
        evidence: Evidence::Stalled(Stalled {
            silent_since,
            silent_s,
            stall_after_s: millis_to_seconds(look.stall_after_ms),
            running: running.into_iter().take(LISTED).collect(),
            slowest_attempt_s,
            agent_status: agent.status,
            agent_step: agent.step,
        }),
    })
}

/// What went on when the run fell silent: `, while a and b are running`, or nothing.
pub(super) fn while_words(look: &Look<'_>, plan: &Plan<'_>) -> String {
    let running: Vec<&str> = plan.with_status(NodeStatus::Running).map(|(_, node)| node.id).collect();
    if !running.is_empty() {
        return format!(", while {} {} running", names(&running), are_words(&running));
    }
    let ready = plan.count(NodeStatus::Ready);
    if ready > 0 {
        return format!(", while {} ready and none is running", ready_words(ready));
    }
    match (look.state.agent.status, look.state.agent.step) {
        (Some(status), Some(step)) => format!(", while the agent was in {status} at step {step}"),
        _ => String::new(),
    }
}

fn ready_words(ready: u64) -> String {
    format!("{} {}", counted(ready, "node"), if ready == 1 { "is" } else { "are" })
}
