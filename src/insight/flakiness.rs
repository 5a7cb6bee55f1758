//! Checks and nodes across runs: which of them flips, which broke, and since when.

use std::collections::{HashMap, VecDeque};

use super::{Gather, add, is_in_window, thousandths};
use crate::domain::event::AuditResult;
use crate::domain::{RunId, Timestamp};
use crate::reduce::summary::RECENT_RESULTS;
use crate::reduce::{NodeOutcome, Summary};

/// How many results a node's row shows.
pub const RECENT_NODE_RESULTS: usize = 20;
/// Fewer decided results say nothing.
const FEWEST: u64 = 5;
/// The share of retried runs from which a node that never fails counts as flaky, in thousandths.
const FLAKY_RATE: i64 = 100;
/// The 97.5th percentile of the normal distribution: 95 % lie within it on both sides.
const Z: f64 = 1.959_963_984_540_054;

/// What a sequence of results says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passed, then failed ever since.
    Regressed,
    /// It goes back and forth.
    Flaky,
    /// It always fails.
    Broken,
    /// It failed, then passed ever since.
    Recovered,
    /// Too few results.
    InsufficientData,
    /// It always passes.
    Stable,
}

impl Verdict {
    /// Every verdict, in the order of rows.
    pub const ALL: [Self; 6] =
        [Self::Regressed, Self::Flaky, Self::Broken, Self::Recovered, Self::InsufficientData, Self::Stable];

    /// The name as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regressed => "regressed",
            Self::Flaky => "flaky",
            Self::Broken => "broken",
            Self::Recovered => "recovered",
            Self::InsufficientData => "insufficient_data",
            Self::Stable => "stable",
        }
    }
}

/// The results of one checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// The checkpoint.
    pub checkpoint_id: String,
    /// Audits that passed.
    pub pass: u64,
    /// Audits that failed.
    pub fail: u64,
    /// Audits that warned; they decide nothing.
    pub warn: u64,
    /// How near to one half the share of passes is, 0 to 1; 0 without a decided result.
    pub flakiness: f64,
    /// How often a decided result differs from the one before it.
    pub transitions: u64,
    /// `transitions` over the most there could be; 0 with fewer than two decided results.
    pub flip_rate: f64,
    /// The 95 % Wilson interval of the share of passes; `None` without a decided result.
    pub interval: Option<(f64, f64)>,
    /// What it comes to.
    pub verdict: Verdict,
    /// The newest run in which it failed.
    pub last_fail_run_id: Option<RunId>,
    /// The last [`RECENT_RESULTS`] results, oldest first.
    pub recent: Vec<AuditResult>,
}

/// Checkpoints, gathered of the runs whose last event is not before a moment.
#[derive(Debug)]
pub struct Checkpoints {
    from: Option<Timestamp>,
    gathered: HashMap<String, Audits>,
}

impl Checkpoints {
    /// None yet, of runs since this moment.
    pub fn since(from: Option<Timestamp>) -> Self {
        Self { from, gathered: HashMap::new() }
    }

    /// A row for each checkpoint.
    pub fn rows(self) -> Vec<AuditRow> {
        let mut rows: Vec<AuditRow> =
            self.gathered.into_iter().map(|(checkpoint_id, audits)| audits.row(checkpoint_id)).collect();
        sort(&mut rows, |row| (row.verdict, row.flip_rate, &row.checkpoint_id));
        rows
    }
}

impl Gather for Checkpoints {
    fn take(&mut self, run: &Summary) {
        if !is_in_window(run, self.from) {
            return;
        }
        for checkpoint in &run.checkpoints {
            add(&mut self.gathered, &checkpoint.checkpoint_id, |audits: &mut Audits| {
                audits.warn += checkpoint.warn;
                audits.decided.append(&Sequence {
                    passes: checkpoint.pass,
                    fails: checkpoint.fail,
                    transitions: checkpoint.flips,
                    ends: checkpoint.first_decided.zip(checkpoint.last_decided).map(|(first, last)| {
                        let passed = |result| result == AuditResult::Pass;
                        (passed(first), passed(last))
                    }),
                });
                if checkpoint.fail > 0 {
                    audits.last_fail = Some(run.run_id.clone());
                }
                keep_last(&mut audits.recent, checkpoint.recent.iter().copied(), RECENT_RESULTS);
            });
        }
    }
}

#[derive(Debug, Default)]
struct Audits {
    decided: Sequence,
    warn: u64,
    last_fail: Option<RunId>,
    recent: VecDeque<AuditResult>,
}

impl Audits {
    fn row(self, checkpoint_id: String) -> AuditRow {
        let decided = self.decided;
        AuditRow {
            checkpoint_id,
            pass: decided.passes,
            fail: decided.fails,
            warn: self.warn,
            flakiness: decided.pass_share().map_or(0.0, |share| 1.0 - (share - 0.5).abs() * 2.0),
            transitions: decided.transitions,
            flip_rate: decided.flip_rate(),
            interval: wilson_interval(decided.passes, decided.fails),
            verdict: decided.verdict(),
            last_fail_run_id: self.last_fail,
            recent: self.recent.into(),
        }
    }
}

/// The results of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// The node.
    pub node_id: String,
    /// Runs that it came out of.
    pub runs: u64,
    /// Done at the first attempt.
    pub done_first_try: u64,
    /// Done after more than one.
    pub done_after_retry: u64,
    /// Given up.
    pub failed: u64,
    /// Behind a failed one; that decides nothing about this node.
    pub blocked: u64,
    /// The share of retried runs among those that got it done; 0 when none did.
    pub flake_rate: f64,
    /// Seconds lost in the failed attempts of runs that got it done, and in backoff.
    pub lost_s: f64,
    /// How often a decided result differs from the one before it.
    pub transitions: u64,
    /// `transitions` over the most there could be; 0 with fewer than two decided results.
    pub flip_rate: f64,
    /// What it comes to.
    pub verdict: Verdict,
    /// The newest run that got it done after a retry.
    pub last_flake_run_id: Option<RunId>,
    /// The last [`RECENT_NODE_RESULTS`] results, oldest first.
    pub recent: Vec<NodeOutcome>,
}

/// Nodes, gathered of the CI runs whose last event is not before a moment.
#[derive(Debug)]
pub struct Nodes {
    from: Option<Timestamp>,
    gathered: HashMap<String, Results>,
}

impl Nodes {
    /// None yet, of runs since this moment.
    pub fn since(from: Option<Timestamp>) -> Self {
        Self { from, gathered: HashMap::new() }
    }

    /// A row for each node that came out of a run.
    pub fn rows(self) -> Vec<NodeRow> {
        let mut rows: Vec<NodeRow> = self.gathered.into_iter().map(|(node_id, node)| node.row(node_id)).collect();
        sort(&mut rows, |row| (row.verdict, row.flip_rate, &row.node_id));
        rows
    }
}

impl Gather for Nodes {
    fn take(&mut self, run: &Summary) {
        if !is_in_window(run, self.from) {
            return;
        }
        for (result, outcome) in run.node_outcomes() {
            add(&mut self.gathered, &result.node_id, |node: &mut Results| {
                match outcome {
                    NodeOutcome::Done => node.first_try += 1,
                    NodeOutcome::Retry => {
                        node.after_retry += 1;
                        node.last_flake = Some(run.run_id.clone());
                    }
                    NodeOutcome::Failed => {}
                    NodeOutcome::Blocked => node.blocked += 1,
                }
                let lost_s = match outcome {
                    NodeOutcome::Done | NodeOutcome::Retry => result.lost_s,
                    // It never converged: its attempts are its result, and only the waits between them are lost.
                    NodeOutcome::Failed | NodeOutcome::Blocked => result.backoff_s,
                };
                node.lost_s = (node.lost_s + lost_s).min(f64::MAX);
                if outcome != NodeOutcome::Blocked {
                    node.decided.append(&Sequence::one(outcome != NodeOutcome::Failed));
                }
                keep_last(&mut node.recent, std::iter::once(outcome), RECENT_NODE_RESULTS);
            });
        }
    }
}

#[derive(Debug, Default)]
struct Results {
    decided: Sequence,
    first_try: u64,
    after_retry: u64,
    blocked: u64,
    lost_s: f64,
    last_flake: Option<RunId>,
    recent: VecDeque<NodeOutcome>,
}

impl Results {
    fn row(self, node_id: String) -> NodeRow {
        let decided = self.decided;
        let flake_rate = share(self.after_retry, self.first_try + self.after_retry).unwrap_or(0.0);
        let verdict = match decided.verdict() {
            Verdict::Stable | Verdict::Recovered if thousandths(flake_rate) >= FLAKY_RATE => Verdict::Flaky,
            verdict => verdict,
        };
        NodeRow {
            node_id,
            runs: decided.count() + self.blocked,
            done_first_try: self.first_try,
            done_after_retry: self.after_retry,
            failed: decided.fails,
            blocked: self.blocked,
            flake_rate,
            lost_s: self.lost_s,
            transitions: decided.transitions,
            flip_rate: decided.flip_rate(),
            verdict,
            last_flake_run_id: self.last_flake,
            recent: self.recent.into(),
        }
    }
}

/// Passes and fails in order.
#[derive(Debug, Clone, Copy, Default)]
struct Sequence {
    passes: u64,
    fails: u64,
    transitions: u64,
    /// Whether the first and the last one passed.
    ends: Option<(bool, bool)>,
}

impl Sequence {
    fn one(passed: bool) -> Self {
        Self { passes: u64::from(passed), fails: u64::from(!passed), transitions: 0, ends: Some((passed, passed)) }
    }

    /// Puts another sequence behind this one.
    fn append(&mut self, next: &Self) {
        self.passes += next.passes;
        self.fails += next.fails;
        self.transitions += next.transitions;
        self.ends = match (self.ends, next.ends) {
            (Some((first, last)), Some((next_first, next_last))) => {
                self.transitions += u64::from(last != next_first);
                Some((first, next_last))
            }
            (own, next) => own.or(next),
        };
    }

    fn count(&self) -> u64 {
        self.passes + self.fails
    }

    fn pass_share(&self) -> Option<f64> {
        share(self.passes, self.count())
    }

    fn flip_rate(&self) -> f64 {
        share(self.transitions, self.count().saturating_sub(1)).unwrap_or(0.0)
    }

    fn verdict(&self) -> Verdict {
        match (self.transitions, self.ends) {
            (_, None) => Verdict::InsufficientData,
            _ if self.count() < FEWEST => Verdict::InsufficientData,
            (0, Some((true, _))) => Verdict::Stable,
            (0, Some((false, _))) => Verdict::Broken,
            (1, Some((true, _))) => Verdict::Regressed,
            (1, Some((false, _))) => Verdict::Recovered,
            _ => Verdict::Flaky,
        }
    }
}

/// The 95 % Wilson interval of the share of passes; `None` of nothing.
pub fn wilson_interval(passes: u64, fails: u64) -> Option<(f64, f64)> {
    let p = share(passes, passes + fails)?;
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 results")]
    let n = (passes + fails) as f64;
    let z2 = Z * Z;
    let centre = p + z2 / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At its ends the interval touches 0 or 1, which floating point misses by a hair.
    let low = if passes == 0 { 0.0 } else { ((centre - spread) / scale).max(0.0) };
    let high = if fails == 0 { 1.0 } else { ((centre + spread) / scale).min(1.0) };
    Some((low, high))
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 results")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn keep_last<T>(kept: &mut VecDeque<T>, more: impl Iterator<Item = T>, most: usize) {
    kept.extend(more);
    kept.drain(..kept.len().saturating_sub(most));
}

/// By verdict; flaky ones by flip rate, falling; then by id.
fn sort<T>(rows: &mut [T], key: impl Fn(&T) -> (Verdict, f64, &str)) {
    rows.sort_by(|a, b| {
        let ((verdict, rate, id), (other_verdict, other_rate, other_id)) = (key(a), key(b));
        let rates = if verdict == Verdict::Flaky { other_rate.total_cmp(&rate) } else { std::cmp::Ordering::Equal };
        verdict.cmp(&other_verdict).then(rates).then_with(|| id.cmp(other_id))
    });
}
