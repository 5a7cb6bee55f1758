//! A producer of CI runs, without the work: walks a DAG as a real one does, and notes the events and their times.
//!
//! A node starts when what it needs is done, no running node may write where it writes, and a worker is free. It is tried
//! until its checks pass or its attempts are used up; then everything behind it is blocked.

use std::collections::BTreeMap;

use super::agent;
use super::dice::Dice;
use super::event::{Body, Check, Evidence, Node, Parent, SummaryFile};
use crate::domain::event::{AuditResult, NodeStatus, Outcome};
use crate::domain::timestamp::millis_to_seconds;

/// How many nodes run at a time.
const WORKERS: usize = 3;
/// The longest silence of a producer; past it comes a heartbeat.
const HEARTBEAT_MS: u64 = 8000;

/// A run that is to be.
pub(super) struct Plan {
    pub(super) run_id: String,
    pub(super) nodes: &'static [Node],
    /// How a node fares; those that are not named converge at once.
    pub(super) fates: Vec<(&'static str, Fate)>,
    /// Audits, each when a node is done.
    pub(super) audits: Vec<(&'static str, Audit)>,
    /// Agents, each started by an attempt of a node.
    pub(super) agents: Vec<Spawn>,
    /// All times are multiplied by it.
    pub(super) pace: f64,
}

/// How a node fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// So many attempts fail, and the next converges.
    Converges(u64),
    /// Every attempt fails.
    GivesUp,
}

/// An audit that is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audit {
    pub(super) checkpoint_id: &'static str,
    pub(super) result: AuditResult,
    pub(super) evidence: Evidence,
}

/// An agent that an attempt starts.
pub(super) struct Spawn {
    pub(super) run_id: String,
    pub(super) node_id: &'static str,
    pub(super) attempt: u64,
    pub(super) role: &'static agent::Role,
}

/// An event and when it happens, in milliseconds since the round began.
#[derive(Debug)]
pub(super) struct Beat {
    pub(super) at_ms: u64,
    /// Which of the round's runs.
    pub(super) run: usize,
    pub(super) body: Body,
}

/// One of the runs of a round.
#[derive(Debug)]
pub(super) struct RunFiles {
    pub(super) run_id: String,
    /// The nodes of its graph.json.
    pub(super) nodes: Option<&'static [Node]>,
    /// Its summary.json; the times are filled in when it is written.
    pub(super) summary: Option<SummaryFile>,
}

/// A CI run and the agent runs that it started, in the order of time.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) runs: Vec<RunFiles>,
    pub(super) beats: Vec<Beat>,
}

/// The CI run's place among a round's runs.
const CI: usize = 0;

/// Walks the plan to its end.
pub(super) fn walk(plan: Plan, dice: &mut Dice) -> Round {
    let count = plan.nodes.len();
    let mut walk = Walk {
        dice,
        at_ms: 0,
        beats: Vec::new(),
        spawned: Vec::new(),
        status: vec![NodeStatus::Pending; count],
        attempts: vec![0; count],
        busy: Vec::new(),
        flake_retries: 0,
        plan,
    };
    walk.put(Body::RunStart { total_nodes: count });
    loop {
        walk.start_what_can();
        let Some(next) = walk.busy.iter().map(|busy| busy.until_ms).min() else { break };
        walk.keep_alive(next);
        walk.at_ms = walk.at_ms.max(next);
        if let Some(at) = walk.busy.iter().position(|busy| busy.until_ms == next) {
            let busy = walk.busy.remove(at);
            walk.go_on(&busy);
        }
    }
    walk.finish()
}

/// A node that has a worker.
struct Busy {
    node: usize,
    since_ms: u64,
    until_ms: u64,
    /// It waits for its next attempt.
    is_backoff: bool,
    /// The wait before this attempt.
    backoff_ms: Option<u64>,
}

struct Walk<'a> {
    plan: Plan,
    dice: &'a mut Dice,
    at_ms: u64,
    beats: Vec<Beat>,
    spawned: Vec<RunFiles>,
    status: Vec<NodeStatus>,
    attempts: Vec<u64>,
    busy: Vec<Busy>,
    flake_retries: u64,
}

impl Walk<'_> {
    /// Notes an event of the CI run; the next one comes a moment later.
    fn put(&mut self, body: Body) {
        self.beats.push(Beat { at_ms: self.at_ms, run: CI, body });
        self.at_ms += self.paced(0.004);
    }

    /// So many seconds at the plan's pace, in milliseconds.
    fn paced(&self, seconds: f64) -> u64 {
        paced(seconds, self.plan.pace)
    }

    fn turn(&mut self, node: usize, to: NodeStatus, attempt: Option<u64>, reason: Option<String>) {
        let from = std::mem::replace(&mut self.status[node], to);
        self.put(Body::NodeTransition { node_id: self.plan.nodes[node].id, from, to, attempt, reason });
    }

    /// The places of the nodes that a node needs.
    fn needs(&self, node: usize) -> Vec<usize> {
        let nodes = self.plan.nodes;
        nodes[node].depends_on.iter().filter_map(|id| nodes.iter().position(|other| other.id == *id)).collect()
    }

    fn start_what_can(&mut self) {
        for node in 0..self.plan.nodes.len() {
            let is_free = self.needs(node).into_iter().all(|need| self.status[need] == NodeStatus::Done);
            if self.status[node] == NodeStatus::Pending && is_free {
                self.turn(node, NodeStatus::Ready, None, None);
            }
        }
        for node in 0..self.plan.nodes.len() {
            let has_worker = self.busy.iter().any(|busy| busy.node == node);
            if self.status[node] == NodeStatus::Ready && !has_worker && self.fits(node) {
                self.begin_attempt(node, None);
            }
        }
    }

    /// Whether a node may run beside those that have a worker.
    fn fits(&self, node: usize) -> bool {
        let own = &self.plan.nodes[node];
        let mut others = self.busy.iter().map(|busy| &self.plan.nodes[busy.node]);
        if self.busy.is_empty() {
            return true;
        }
        self.busy.len() < WORKERS
            && own.parallel_safe
            && others.all(|other| other.parallel_safe && !overlap(own.touches, other.touches))
    }

    fn begin_attempt(&mut self, node: usize, backoff_ms: Option<u64>) {
        let attempt = self.attempts[node] + 1;
        let since_ms = self.at_ms;
        self.turn(node, NodeStatus::Running, Some(attempt), None);
        let seconds = self.plan.nodes[node].seconds * self.dice.between(0.85, 1.15);
        self.busy.push(Busy {
            node,
            since_ms,
            until_ms: since_ms + self.paced(seconds),
            is_backoff: false,
            backoff_ms,
        });
        let id = self.plan.nodes[node].id;
        let (mine, rest): (Vec<Spawn>, Vec<Spawn>) = std::mem::take(&mut self.plan.agents)
            .into_iter()
            .partition(|spawn| (spawn.node_id, spawn.attempt) == (id, attempt));
        self.plan.agents = rest;
        for spawn in mine {
            let parent = Parent { run_id: self.plan.run_id.clone(), node_id: id, attempt };
            let begins = since_ms + self.paced(0.4);
            self.spawned.push(RunFiles { run_id: spawn.run_id, nodes: None, summary: None });
            let run = self.spawned.len();
            let story = agent::play(spawn.role, parent, self.plan.pace, self.dice);
            self.beats.extend(story.into_iter().map(|(at_ms, body)| Beat { at_ms: begins + at_ms, run, body }));
        }
    }

    /// A node's attempt or wait is over.
    fn go_on(&mut self, busy: &Busy) {
        let node = busy.node;
        if busy.is_backoff {
            return self.begin_attempt(node, Some(busy.until_ms - busy.since_ms));
        }
        self.attempts[node] += 1;
        let attempt = self.attempts[node];
        let spec = &self.plan.nodes[node];
        let fate = self.plan.fates.iter().find(|(id, _)| *id == spec.id).map_or(Fate::Converges(0), |(_, fate)| *fate);
        let converged = matches!(fate, Fate::Converges(failures) if attempt > failures);
        let duration_ms = busy.until_ms - busy.since_ms;
        let usage = self.dice.usage(6);
        self.put(Body::NodeAttempt {
            node_id: spec.id,
            attempt,
            duration_s: millis_to_seconds(duration_ms),
            converged,
            backoff_s: busy.backoff_ms.map(millis_to_seconds),
            done_when_results: checks(spec, duration_ms, converged),
            usage,
        });
        if converged {
            self.flake_retries += attempt - 1;
            self.turn(node, NodeStatus::Done, None, None);
            self.audit(spec.id);
        } else if attempt < spec.max_ralph_iters {
            // It keeps its worker while it waits.
            self.turn(node, NodeStatus::Ready, None, None);
            let seconds = f64::from(1_u32 << attempt.min(5)).min(60.0);
            let (since_ms, until_ms) = (self.at_ms, self.at_ms + self.paced(seconds));
            self.busy.push(Busy { node, since_ms, until_ms, is_backoff: true, backoff_ms: None });
        } else {
            self.turn(node, NodeStatus::Failed, None, Some("max_ralph_iters_reached".into()));
            self.block_behind(node);
        }
    }

    fn audit(&mut self, node_id: &str) {
        let due: Vec<Audit> =
            self.plan.audits.iter().filter(|(after, _)| *after == node_id).map(|(_, audit)| *audit).collect();
        for Audit { checkpoint_id, result, evidence } in due {
            let took = self.paced(0.3);
            self.at_ms += took;
            let duration_s = millis_to_seconds(took);
            self.put(Body::AuditCheckpoint { agent_id: None, checkpoint_id, result, duration_s, evidence });
        }
    }

    fn block_behind(&mut self, failed: usize) {
        let reason = format!("ancestor_failed:{}", self.plan.nodes[failed].id);
        let mut behind = vec![failed];
        while let Some(at) = behind.pop() {
            for node in 0..self.plan.nodes.len() {
                let waits = matches!(self.status[node], NodeStatus::Pending | NodeStatus::Ready);
                if waits && self.needs(node).contains(&at) {
                    self.turn(node, NodeStatus::Blocked, None, Some(reason.clone()));
                    behind.push(node);
                }
            }
        }
    }

    /// A sign of life in each long silence until the next event.
    fn keep_alive(&mut self, next: u64) {
        let every = paced(millis_to_seconds(HEARTBEAT_MS), self.plan.pace.max(0.001));
        let mut at_ms = self.at_ms + every;
        while at_ms < next {
            self.beats.push(Beat { at_ms, run: CI, body: Body::Heartbeat });
            at_ms += every;
        }
    }

    fn finish(mut self) -> Round {
        self.at_ms += self.paced(0.2);
        let nodes = self.plan.nodes;
        let count = |status: NodeStatus| self.status.iter().filter(|own| **own == status).count();
        let (done, failed, blocked) = (count(NodeStatus::Done), count(NodeStatus::Failed), count(NodeStatus::Blocked));
        let outcome = match (done, self.flake_retries) {
            (0, _) => Outcome::Stuck,
            (done, _) if done < nodes.len() => Outcome::Partial,
            (_, 0) => Outcome::Clean,
            _ => Outcome::CleanWithFlake,
        };
        let exit_code = u64::from(done < nodes.len());
        let summary = SummaryFile {
            run_id: self.plan.run_id.clone(),
            started: None,
            ended: None,
            duration_s: millis_to_seconds(self.at_ms),
            outcome,
            total_nodes: nodes.len(),
            done,
            failed,
            blocked,
            total_attempts: self.attempts.iter().sum(),
            flake_retries: self.flake_retries,
            exit_code,
            failed_nodes: (0..nodes.len())
                .filter(|node| self.status[*node] == NodeStatus::Failed)
                .map(|node| nodes[node].id)
                .collect(),
            node_attempts: nodes
                .iter()
                .zip(&self.attempts)
                .filter(|(_, attempts)| **attempts > 0)
                .map(|(node, attempts)| (node.id, *attempts))
                .collect::<BTreeMap<_, _>>(),
        };
        self.put(Body::RunEnd {
            outcome,
            done,
            failed,
            blocked,
            total_duration_s: summary.duration_s,
            total_attempts: summary.total_attempts,
            flake_retries: summary.flake_retries,
            exit_code: (exit_code != 0).then_some(exit_code),
        });
        let mut runs = vec![RunFiles { run_id: self.plan.run_id, nodes: Some(nodes), summary: Some(summary) }];
        runs.append(&mut self.spawned);
        // Stable: events of one run at one millisecond keep their order.
        self.beats.sort_by_key(|beat| beat.at_ms);
        Round { runs, beats: self.beats }
    }
}

fn checks(node: &Node, duration_ms: u64, converged: bool) -> Vec<Check> {
    let each = duration_ms / node.done_when.len().max(1) as u64;
    let check = |(at, cmd): (usize, &&'static str)| {
        let fails = !converged && at == node.breaks.check;
        Check {
            cmd,
            rc: if fails { node.breaks.rc } else { 0 },
            duration_s: millis_to_seconds(each),
            tail: fails.then_some(node.breaks.tail),
        }
    };
    node.done_when.iter().enumerate().map(check).collect()
}

/// Whether two nodes may write to the same place: one literal prefix is a prefix of the other.
fn overlap(own: &[&str], other: &[&str]) -> bool {
    let literal = |path: &str| path.split(['*', '?', '[', '{']).next().unwrap_or_default().to_owned();
    own.iter().any(|a| {
        other.iter().any(|b| {
            let (a, b) = (literal(a), literal(b));
            a.starts_with(&b) || b.starts_with(&a)
        })
    })
}

/// So many seconds at this pace, in milliseconds.
pub(super) fn paced(seconds: f64, pace: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates; no story is that long"
    )]
    let millis = (seconds * pace * 1000.0).round() as u64;
    millis
}
