//! Agents across runs: what became of their runs, and which agent to look at first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::{Gather, add, is_in_window, percentile, thousandths};
use crate::domain::Timestamp;
use crate::reduce::{RunOutcome, Summary, UsageSum};

/// How many scores a row shows.
pub const SHOWN_SCORES: usize = 20;
/// How many scores before the newest one it is measured by.
const SCORES_BEFORE: usize = 5;
/// How far below their median the newest score of a regression lies, in thousandths.
const SCORE_DROP: i64 = 150;

/// The runs of one agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRow {
    /// The agent.
    pub agent_id: String,
    /// Its runs: the sum of `outcomes`.
    pub run_count: u64,
    /// Its runs by outcome.
    pub outcomes: AgentOutcomes,
    /// The median duration of its ended runs, in seconds.
    pub duration_p50_s: Option<f64>,
    /// The 95th percentile of them.
    pub duration_p95_s: Option<f64>,
    /// The mean score of its ended runs that gave one.
    pub mean_convergence_score: Option<f64>,
    /// Their last [`SHOWN_SCORES`] scores, oldest first.
    pub convergence_scores: Vec<f64>,
    /// Ts of its newest event.
    pub last_seen: Option<Timestamp>,
    /// Runs without an end event.
    pub in_flight: u64,
    /// The models that its runs name, each once, sorted.
    pub models: Vec<String>,
    /// Tokens and cost of its runs.
    pub usage: Option<UsageSum>,
    /// Whether its newest ended run is worse than those before it, whatever the window.
    pub regression: bool,
    /// How urgently to look at it.
    pub severity: u64,
}

/// Runs of an agent by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentOutcomes {
    /// They did what they were asked.
    pub converged: u64,
    /// They did some of it.
    pub partial: u64,
    /// They left the bounds they were given.
    pub escaped: u64,
    /// They were stopped from outside.
    pub aborted: u64,
    /// Nothing was declared (yet).
    pub unknown: u64,
}

/// By what the rows are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentOrder {
    /// Severity, then number of runs, both falling, then agent_id.
    Severity,
    /// Number of runs, then severity, both falling, then agent_id.
    Busiest,
}

/// Agents, gathered of all of history.
#[derive(Debug)]
pub struct Agents {
    from: Option<Timestamp>,
    agents: HashMap<String, Agent>,
}

impl Agents {
    /// None yet. Rows count the runs whose last event is not before `from`.
    pub fn since(from: Option<Timestamp>) -> Self {
        Self { from, agents: HashMap::new() }
    }

    /// A row for each agent with a run in the window.
    pub fn rows(self, order: AgentOrder) -> Vec<AgentRow> {
        let seen = self.agents.into_iter().filter(|(_, agent)| agent.outcomes.count() > 0);
        let mut rows: Vec<AgentRow> = seen.map(|(agent_id, agent)| agent.row(agent_id)).collect();
        rows.sort_by(|a, b| {
            let key = |row: &AgentRow| match order {
                AgentOrder::Severity => Reverse((row.severity, row.run_count)),
                AgentOrder::Busiest => Reverse((row.run_count, row.severity)),
            };
            key(a).cmp(&key(b)).then_with(|| a.agent_id.cmp(&b.agent_id))
        });
        rows
    }
}

impl Gather for Agents {
    fn take(&mut self, run: &Summary) {
        if let Some(agent_id) = &run.agent_id {
            let from = self.from;
            add(&mut self.agents, agent_id, |agent| agent.take(run, from));
        }
    }
}

/// What is gathered of one agent, run by run.
#[derive(Debug, Default)]
struct Agent {
    outcomes: AgentOutcomes,
    durations_s: Vec<f64>,
    scores: Vec<f64>,
    last_seen: Option<Timestamp>,
    in_flight: u64,
    models: BTreeSet<String>,
    usage: Option<UsageSum>,
    history: History,
}

/// The newest ended runs, in a window or not.
#[derive(Debug, Default)]
struct History {
    /// Whether the last two converged.
    converged: Vec<bool>,
    /// The newest score and, before it, those it is measured by.
    scores: Vec<f64>,
}

impl Agent {
    fn take(&mut self, run: &Summary, from: Option<Timestamp>) {
        let is_ended = run.ended.is_some();
        if is_ended {
            self.history.take(run);
        }
        if !is_in_window(run, from) {
            return;
        }
        self.outcomes.take(run.outcome);
        self.in_flight += u64::from(!is_ended);
        if is_ended {
            self.durations_s.extend(run.duration_s);
            self.scores.extend(run.convergence_score);
        }
        self.last_seen = self.last_seen.max(run.last_event);
        if let Some(model) = run.model.as_ref().filter(|model| !self.models.contains(*model)) {
            self.models.insert(model.clone());
        }
        if let Some(usage) = run.usage {
            self.usage = Some(self.usage.unwrap_or_default().plus_sum(usage));
        }
    }

    fn row(self, agent_id: String) -> AgentRow {
        let regression = self.history.is_regression();
        let outcomes = self.outcomes;
        let severity = 1000 * u64::from(regression)
            + (10 * (outcomes.escaped + outcomes.aborted)).min(200)
            + outcomes.partial.min(200)
            + 5 * u64::from(self.in_flight > 0);
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 runs")]
        let count = self.scores.len() as f64;
        let sum: f64 = self.scores.iter().sum();
        AgentRow {
            agent_id,
            run_count: outcomes.count(),
            outcomes,
            duration_p50_s: percentile(&self.durations_s, 0.50),
            duration_p95_s: percentile(&self.durations_s, 0.95),
            mean_convergence_score: (count > 0.0).then(|| sum / count),
            convergence_scores: self.scores[self.scores.len().saturating_sub(SHOWN_SCORES)..].to_vec(),
            last_seen: self.last_seen,
            in_flight: self.in_flight,
            models: self.models.into_iter().collect(),
            usage: self.usage,
            regression,
            severity,
        }
    }
}

impl AgentOutcomes {
    fn take(&mut self, outcome: Option<RunOutcome>) {
        *match outcome {
            Some(RunOutcome::Converged) => &mut self.converged,
            Some(RunOutcome::Partial) => &mut self.partial,
            Some(RunOutcome::Escaped) => &mut self.escaped,
            Some(RunOutcome::Aborted) => &mut self.aborted,
            // The outcomes of a CI run say nothing of an agent.
            Some(RunOutcome::Clean | RunOutcome::CleanWithFlake | RunOutcome::Stuck | RunOutcome::Catastrophic)
            | None => &mut self.unknown,
        } += 1;
    }

    fn count(&self) -> u64 {
        self.converged + self.partial + self.escaped + self.aborted + self.unknown
    }
}

impl History {
    fn take(&mut self, run: &Summary) {
        self.converged.push(run.outcome == Some(RunOutcome::Converged));
        self.converged.drain(..self.converged.len().saturating_sub(2));
        self.scores.extend(run.convergence_score);
        self.scores.drain(..self.scores.len().saturating_sub(SCORES_BEFORE + 1));
    }

    fn is_regression(&self) -> bool {
        if self.converged == [true, false] {
            return true;
        }
        let Some((newest, before)) = self.scores.split_last() else { return false };
        percentile(before, 0.5).is_some_and(|median| thousandths(median - newest) > SCORE_DROP)
    }
}
