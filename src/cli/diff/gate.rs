//! `--fail-on`: what turns a comparison into exit code 1.

use super::answer::{Answer, Figures, Node};
use crate::insight::compare::is_slower;

/// The names of the conditions, as they are written.
const NAMES: &str = "regression, new-failure, slower:20%";
/// More than this is no share of anything.
const MOST_PERCENT: f64 = 1_000_000.0;

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// A node that was done failed or is blocked, or the outcome got worse.
    Regression,
    /// A node failed that had not, or on a check that had not failed.
    NewFailure,
    /// A node, or the whole run, took more than so many thousandths, and more than 5 s, longer.
    Slower(i64),
}

/// The conditions of a list with commas; a mistake adds its sentence.
pub(super) fn read(list: &str, mistakes: &mut Vec<String>) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match condition(name) {
            Some(condition) => conditions.push(condition),
            None => mistakes.push(format!(
                "--fail-on (KAHN_DIFF_FAIL_ON) has {name:?}, which is no condition; write a list of {NAMES}, with commas"
            )),
        }
    }
    conditions
}

fn condition(name: &str) -> Option<Condition> {
    match name {
        "regression" => Some(Condition::Regression),
        "new-failure" => Some(Condition::NewFailure),
        _ => {
            let percent = name.strip_prefix("slower:")?.strip_suffix('%')?;
            let is_number = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let percent: f64 = percent.parse().ok().filter(|_| is_number)?;
            #[expect(clippy::cast_possible_truncation, reason = "it is bounded")]
            (percent <= MOST_PERCENT).then(|| Condition::Slower((percent * 10.0).round() as i64))
        }
    }
}

impl Condition {
    /// What holds, as a sentence; `None` when the condition does not.
    pub(super) fn held(self, answer: &Answer) -> Option<String> {
        match self {
            Self::Regression => answer.regression.then(|| format!("regression: {}", answer.summary)),
            Self::NewFailure => {
                let failed: Vec<&str> = named(answer, |node| {
                    let is_failed =
                        |figures: &Option<Figures>| figures.as_ref().is_some_and(|it| it.status == "failed");
                    is_failed(&node.head) && (!is_failed(&node.base) || !node.newly_failing_checks.is_empty())
                });
                (!failed.is_empty()).then(|| format!("new-failure: {}", failed.join(", ")))
            }
            Self::Slower(share) => {
                let mut slower: Vec<&str> = named(answer, |node| {
                    let Some((base, head)) = node.base.as_ref().zip(node.head.as_ref()) else { return false };
                    let is_over = |figures: &Figures| matches!(figures.status.as_str(), "done" | "failed");
                    is_over(base) && is_over(head) && is_slower(base.duration_s, head.duration_s, share)
                });
                if is_run_slower(answer, share) {
                    slower.push("the whole run");
                }
                #[expect(clippy::cast_precision_loss, reason = "it is bounded")]
                let percent = share as f64 / 10.0;
                (!slower.is_empty()).then(|| format!("slower:{percent}%: {}", slower.join(", ")))
            }
        }
    }
}

fn named(answer: &Answer, fits: impl Fn(&Node) -> bool) -> Vec<&str> {
    answer.nodes.iter().filter(|node| fits(node)).map(|node| node.node_id.as_str()).collect()
}

/// Whether both runs ended and head took longer; runs of different kinds do not compare.
fn is_run_slower(answer: &Answer, share: i64) -> bool {
    let (base, head) = (&answer.base, &answer.head);
    base.kind == head.kind
        && [base, head].into_iter().all(|run| run.phase == "ended")
        && base.duration_s.zip(head.duration_s).is_some_and(|(was, is)| is_slower(was, is, share))
}
