//! Two runs beside each other: what changed from base to head.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::thousandths;
use crate::domain::event::{NodeStatus, Obj};
use crate::domain::{Event, EventBody, Graph};
use crate::reduce::{NodeResult, RunOutcome, RunState, Summary};

/// A difference in time counts when it is more than this, in milliseconds,
const LEAST_DIFFERENCE_MS: i64 = 5000;
/// and more than this share of base's time, in thousandths.
const LEAST_DIFFERENCE: i64 = 200;
/// How many nodes a sentence names.
const NAMED: usize = 3;

/// Outcomes from best to worst; those of one step are equally bad.
const CI_OUTCOMES: &[&[RunOutcome]] = &[
    &[RunOutcome::Clean],
    &[RunOutcome::CleanWithFlake],
    &[RunOutcome::Partial],
    &[RunOutcome::Stuck],
    &[RunOutcome::Catastrophic],
];
const AGENT_OUTCOMES: &[&[RunOutcome]] =
    &[&[RunOutcome::Converged], &[RunOutcome::Partial], &[RunOutcome::Escaped, RunOutcome::Aborted]];

/// The commands that failed in a node's last attempt, by node_id.
pub type FailingChecks = BTreeMap<String, Vec<String>>;

/// One of the two runs.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The run.
    pub summary: &'a Summary,
    /// Its graph, as far as it can be used.
    pub graph: Option<&'a Graph>,
    /// What failed in the last attempts of its nodes. Of base, nodes without failing checks in head may be missing.
    pub failing: &'a FailingChecks,
}

/// What changed from base to head.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison<'a> {
    /// Whether head is worse: a node that was done is failed or blocked, or the outcome got worse.
    pub regression: bool,
    /// It all in a few sentences.
    pub summary: String,
    /// What became of the graph.
    pub graph: GraphChanges<'a>,
    /// The nodes: those of head in its order, then those that only base has.
    pub nodes: Vec<NodeChange<'a>>,
}

/// What became of the graph; nothing is known of it unless both runs have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphChanges<'a> {
    /// Nodes that only head's graph has, in its order.
    pub added: Vec<&'a str>,
    /// Nodes that only base's graph has, in its order.
    pub removed: Vec<&'a str>,
    /// Nodes that say something else in head's graph, in its order.
    pub changed: Vec<&'a str>,
}

/// A node in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeChange<'a> {
    /// The node.
    pub node_id: &'a str,
    /// What became of it.
    pub change: Change,
    /// How it stands in base; `None` when base does not have it.
    pub base: Option<&'a NodeResult>,
    /// How it stands in head; `None` when head does not have it.
    pub head: Option<&'a NodeResult>,
    /// Checks that failed in head's last attempt and not in base's.
    pub newly_failing_checks: Vec<&'a str>,
}

/// What became of a node: the first of these that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Only head has it.
    Added,
    /// Only base has it.
    Removed,
    /// Failed in head and not in base.
    NewlyFailed,
    /// Blocked in head and not in base.
    NewlyBlocked,
    /// Done in head, failed or blocked in base.
    Fixed,
    /// Another status in another way, or another node in graph.json.
    Changed,
    /// It took more than 20 % and more than 5 s longer.
    Slower,
    /// It took more than 20 % and more than 5 s less.
    Faster,
    /// Done in both, after more attempts.
    Flakier,
    /// None of these.
    Same,
}

impl Change {
    /// Every change, in the order in which they are tried.
    pub const ALL: [Self; 10] = [
        Self::Added,
        Self::Removed,
        Self::NewlyFailed,
        Self::NewlyBlocked,
        Self::Fixed,
        Self::Changed,
        Self::Slower,
        Self::Faster,
        Self::Flakier,
        Self::Same,
    ];

    /// The name as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::NewlyFailed => "newly_failed",
            Self::NewlyBlocked => "newly_blocked",
            Self::Fixed => "fixed",
            Self::Changed => "changed",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Flakier => "flakier",
            Self::Same => "same",
        }
    }
}

/// The attempts whose checks have to be read from the log: of each node whose last attempt has a failing check, that
/// attempt's seq.
pub fn failing_attempts(state: &RunState) -> BTreeMap<u64, &str> {
    let nodes = state.nodes.iter();
    nodes.filter_map(|(node_id, node)| node.first_failing.as_ref().map(|check| (check.seq, node_id.as_str()))).collect()
}

/// The commands of a `node_attempt` that did not exit 0, each once, in its order.
pub fn failing_checks(event: &Event<'_>) -> Vec<String> {
    let EventBody::NodeAttempt(attempt) = &event.body else { return Vec::new() };
    let mut failing: Vec<String> = Vec::new();
    for Obj(check) in &attempt.done_when_results {
        if check.rc != 0 && !failing.iter().any(|cmd| **cmd == *check.cmd) {
            failing.push(check.cmd.to_string());
        }
    }
    failing
}

/// Whether `head_s` is slower than `base_s` by more than 5 s and by more than so many thousandths of base.
pub fn is_slower(base_s: f64, head_s: f64, share: i64) -> bool {
    let (base, more) = (i128::from(thousandths(base_s)), i128::from(thousandths(head_s - base_s)));
    more > i128::from(LEAST_DIFFERENCE_MS) && more * 1000 > base * i128::from(share)
}

/// Whether `head_s` is faster than `base_s` by more than 5 s and by more than 20 % of base.
fn is_faster(base_s: f64, head_s: f64) -> bool {
    let (base, less) = (i128::from(thousandths(base_s)), i128::from(thousandths(base_s - head_s)));
    less > i128::from(LEAST_DIFFERENCE_MS) && less * 1000 > base * i128::from(LEAST_DIFFERENCE)
}

/// Compares two runs.
pub fn compare<'a>(base: Side<'a>, head: Side<'a>) -> Comparison<'a> {
    let graph = graph_changes(base.graph, head.graph);
    let mut left: HashMap<&str, &NodeResult> =
        base.summary.node_results.iter().map(|node| (node.node_id.as_str(), node)).collect();
    let changed: std::collections::HashSet<&str> = graph.changed.iter().copied().collect();
    let mut nodes: Vec<NodeChange<'a>> = Vec::with_capacity(head.summary.node_results.len());
    for node in &head.summary.node_results {
        let node_id = node.node_id.as_str();
        let was = left.remove(node_id);
        let change = match was {
            None => Change::Added,
            Some(was) => change(was, node, changed.contains(node_id)),
        };
        let newly_failing_checks = newly_failing(base.failing.get(node_id), head.failing.get(node_id));
        nodes.push(NodeChange { node_id, change, base: was, head: Some(node), newly_failing_checks });
    }
    let removed = base.summary.node_results.iter().filter(|node| left.contains_key(node.node_id.as_str()));
    nodes.extend(removed.map(|node| NodeChange {
        node_id: &node.node_id,
        change: Change::Removed,
        base: Some(node),
        head: None,
        newly_failing_checks: Vec::new(),
    }));
    let regression = is_worse(base.summary, head.summary) || nodes.iter().any(is_regression);
    let summary = summary(base.summary, head.summary, &nodes);
    Comparison { regression, summary, graph, nodes }
}

fn graph_changes<'a>(base: Option<&'a Graph>, head: Option<&'a Graph>) -> GraphChanges<'a> {
    let Some((base, head)) = base.zip(head) else { return GraphChanges::default() };
    let mut left: HashMap<&str, _> = base.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut changes = GraphChanges::default();
    for node in &head.nodes {
        match left.remove(node.id.as_str()) {
            None => changes.added.push(&node.id),
            Some(was) if was != node => changes.changed.push(&node.id),
            Some(_) => {}
        }
    }
    let only_in_base = base.nodes.iter().map(|node| node.id.as_str());
    changes.removed = only_in_base.filter(|node_id| left.contains_key(node_id)).collect();
    changes
}

/// What became of a node that both runs have.
fn change(base: &NodeResult, head: &NodeResult, is_other_spec: bool) -> Change {
    use NodeStatus::{Blocked, Done, Failed};
    let is_new = base.status != head.status;
    // What is not over yet has no time to compare.
    let is_over = matches!(head.status, Done | Failed);
    match head.status {
        Failed if is_new => Change::NewlyFailed,
        Blocked if is_new => Change::NewlyBlocked,
        Done if matches!(base.status, Failed | Blocked) => Change::Fixed,
        _ if is_new || is_other_spec => Change::Changed,
        _ if is_over && is_slower(base.duration_s, head.duration_s, LEAST_DIFFERENCE) => Change::Slower,
        _ if is_over && is_faster(base.duration_s, head.duration_s) => Change::Faster,
        Done if head.attempts > base.attempts => Change::Flakier,
        _ => Change::Same,
    }
}

fn newly_failing<'a>(base: Option<&'a Vec<String>>, head: Option<&'a Vec<String>>) -> Vec<&'a str> {
    let before = base.map_or(&[][..], Vec::as_slice);
    head.into_iter().flatten().filter(|cmd| !before.contains(cmd)).map(String::as_str).collect()
}

fn is_regression(node: &NodeChange<'_>) -> bool {
    let status = |result: Option<&NodeResult>| result.map(|result| result.status);
    status(node.base) == Some(NodeStatus::Done)
        && matches!(status(node.head), Some(NodeStatus::Failed | NodeStatus::Blocked))
}

/// Whether the outcome got worse. Runs of different kinds, and runs without an outcome, do not compare.
fn is_worse(base: &Summary, head: &Summary) -> bool {
    let Some((was, is)) = base.outcome.zip(head.outcome).filter(|_| base.kind == head.kind) else { return false };
    [CI_OUTCOMES, AGENT_OUTCOMES].into_iter().any(|order| {
        let place = |outcome: RunOutcome| order.iter().position(|step| step.contains(&outcome));
        place(was).zip(place(is)).is_some_and(|(was, is)| is > was)
    })
}

/// How the nodes of a sentence are named behind their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Not,
    ById,
    /// With how much longer they took, the most first.
    ByDelay,
}

/// A sentence: its words, the nodes that it counts, and how they are named.
type Group = (&'static str, fn(&NodeChange<'_>) -> bool, Named);

/// What is told of nodes, what matters most first.
const GROUPS: &[Group] = &[
    ("newly failed", |node| node.change == Change::NewlyFailed, Named::ById),
    ("newly blocked", |node| node.change == Change::NewlyBlocked, Named::Not),
    ("failing on other checks", fails_otherwise, Named::ById),
    ("fixed", |node| node.change == Change::Fixed, Named::ById),
    ("slower", |node| node.change == Change::Slower, Named::ByDelay),
    ("flakier", |node| node.change == Change::Flakier, Named::ById),
    ("faster", |node| node.change == Change::Faster, Named::Not),
    ("changed", |node| node.change == Change::Changed, Named::Not),
    ("added", |node| node.change == Change::Added, Named::ById),
    ("removed", |node| node.change == Change::Removed, Named::ById),
];

/// Failed in both runs, and not on the same checks.
fn fails_otherwise(node: &NodeChange<'_>) -> bool {
    let is_failed = |result: Option<&NodeResult>| result.is_some_and(|result| result.status == NodeStatus::Failed);
    is_failed(node.base) && is_failed(node.head) && !node.newly_failing_checks.is_empty()
}

/// The sentences of a comparison, what matters most first.
fn summary(base: &Summary, head: &Summary, nodes: &[NodeChange<'_>]) -> String {
    if base.run_id == head.run_id {
        return "The same run twice.".to_owned();
    }
    let mut sentences = Vec::new();
    for (words, of_these, named) in GROUPS {
        let fitting: Vec<&NodeChange<'_>> = nodes.iter().filter(|node| of_these(node)).collect();
        if fitting.is_empty() {
            continue;
        }
        // The first sentence says what is counted.
        let noun = match (sentences.is_empty(), fitting.len()) {
            (false, _) => "",
            (true, 1) => "node ",
            (true, _) => "nodes ",
        };
        sentences.push(format!("{} {noun}{words}{}.", fitting.len(), names(*named, fitting)));
    }
    if base.kind.zip(head.kind).is_some_and(|(was, is)| was != is) {
        sentences.push("The runs are of different kinds.".to_owned());
    } else {
        if !nodes.is_empty() && nodes.iter().all(|node| node.base.is_none() || node.head.is_none()) {
            sentences.push("They have no node in common.".to_owned());
        }
        sentences.extend(results(base, head));
    }
    if sentences.is_empty() {
        sentences.push("Nothing changed.".to_owned());
    }
    for (run, name) in [(base, "Base"), (head, "Head")] {
        if run.next_seq == 0 {
            sentences.push(format!("{name} has not begun."));
        } else if run.ended.is_none() {
            sentences.push(format!("{name} has not ended."));
        }
    }
    sentences.join(" ")
}

/// The sentences on what the runs declare of themselves.
fn results(base: &Summary, head: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some((was, is)) = base.outcome.zip(head.outcome).filter(|(was, is)| was != is) {
        sentences.push(format!("Outcome {}, was {}.", is.as_str(), was.as_str()));
    }
    if let Some((was, is)) = base.convergence_score.zip(head.convergence_score)
        && thousandths(was) != thousandths(is)
    {
        sentences.push(format!("Score {is:.3}, was {was:.3}."));
    }
    if let Some((was, is)) = base.duration_s.zip(head.duration_s).filter(|_| base.ended.and(head.ended).is_some()) {
        if is_slower(was, is, LEAST_DIFFERENCE) {
            sentences.push(format!("The run took {} longer.", seconds(is - was)));
        } else if is_faster(was, is) {
            sentences.push(format!("The run took {} less.", seconds(was - is)));
        }
    }
    sentences
}

/// The names of the first nodes of a sentence, in brackets.
fn names(named: Named, mut nodes: Vec<&NodeChange<'_>>) -> String {
    if named == Named::Not {
        return String::new();
    }
    let longer =
        |node: &NodeChange<'_>| node.base.zip(node.head).map_or(0.0, |(base, head)| head.duration_s - base.duration_s);
    if named == Named::ByDelay {
        nodes.sort_by(|a, b| longer(b).total_cmp(&longer(a)));
    }
    let mut text = " (".to_owned();
    for (at, node) in nodes.iter().take(NAMED).enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{}", node.node_id);
        if named == Named::ByDelay {
            let _ = write!(text, " +{}", seconds(longer(node)));
        }
    }
    if nodes.len() > NAMED {
        let _ = write!(text, " and {} more", nodes.len() - NAMED);
    }
    text + ")"
}

/// A span for people: tenths below ten seconds, else whole seconds.
fn seconds(span_s: f64) -> String {
    if span_s < 10.0 { format!("{span_s:.1} s") } else { format!("{span_s:.0} s") }
}
