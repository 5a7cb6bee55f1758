//! The CI family: nodes, their moves and their attempts.

use serde::{Deserialize, Serialize};

use super::state::{RunState, UsageSum, add_usage, kept_text};
use crate::domain::event::{NodeAttempt, NodeStatus, NodeTransition, Obj};
use crate::domain::{Timestamp, timestamp::millis_to_seconds};

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Seq of the first event that named it.
    pub first_seq: u64,
    /// Seq of the last event that named it.
    pub last_seq: u64,
    /// Where it stands.
    pub status: NodeStatus,
    /// Why, from its last move; null when that gave no reason.
    pub reason: Option<String>,
    /// When it first became ready.
    pub ready_at: Option<Timestamp>,
    /// When it first ran.
    pub started: Option<Timestamp>,
    /// When it became done, failed or blocked.
    pub ended: Option<Timestamp>,
    /// When it last moved.
    pub since: Option<Timestamp>,
    /// Seq of that move.
    pub since_seq: Option<u64>,
    /// Closed spans of running, in milliseconds.
    pub running_ms: u64,
    /// Closed spans of ready, in milliseconds.
    pub waiting_ms: u64,
    /// The number of the attempt that its last move to running began.
    pub running_attempt: Option<u64>,
    /// Moves to running whose `node_attempt` has not come yet, the last [`KEPT_UNANSWERED`].
    pub unanswered: Vec<Unanswered>,
    /// Its attempts, in log order.
    pub attempts: Vec<Attempt>,
    /// Failed attempts since the last converged one.
    pub failed_since_converged: u64,
    /// Failed attempts before an attempt that converged.
    pub flake_retries: u64,
    /// The first failing check of its last attempt.
    pub first_failing: Option<FailingCheck>,
    /// The check that failed last, of any attempt.
    pub last_failing: Option<FailingCheck>,
    /// Tokens and cost of its attempts.
    pub usage: Option<UsageSum>,
}

/// How many moves to running without an attempt a state keeps; a legal log has one at a time.
pub const KEPT_UNANSWERED: usize = 8;

/// A move to running without a `node_attempt` of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// The attempt that it began.
    pub attempt: u64,
    /// Its seq.
    pub seq: u64,
}

/// One attempt; its checks and tails are read from the log by seq.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which attempt, from 1, as the producer counts.
    pub attempt: u64,
    /// Seq of its `node_attempt`.
    pub seq: u64,
    /// When it began: the move to running of the same number, else its event's ts less its duration.
    pub started: Timestamp,
    /// How long it took, in seconds.
    pub duration_s: f64,
    /// Whether every check exited 0.
    pub converged: bool,
    /// The wait before it, in seconds; nothing is waited for before the first.
    pub backoff_s: Option<f64>,
}

/// How much of a check's output a state keeps, in characters: as much as a producer may send.
pub const KEPT_TAIL_CHARS: usize = 4096;

/// How much of a check's command a breach names, in characters.
const SHOWN_CMD_CHARS: usize = 100;

/// A check that did not exit 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingCheck {
    /// Seq of the `node_attempt` that holds it.
    pub seq: u64,
    /// The attempt's number.
    pub attempt: u64,
    /// The command.
    pub cmd: String,
    /// Its exit code.
    pub rc: i32,
    /// The end of its output, at most [`KEPT_TAIL_CHARS`] characters.
    pub tail: Option<String>,
    /// Whether the tail was cut further.
    pub truncated: bool,
}

impl NodeState {
    /// A node as it is before any event named it; `seq` is that of the first one.
    fn appearing(seq: u64) -> Self {
        Self {
            first_seq: seq,
            last_seq: seq,
            status: NodeStatus::Pending,
            reason: None,
            ready_at: None,
            started: None,
            ended: None,
            since: None,
            since_seq: None,
            running_ms: 0,
            waiting_ms: 0,
            running_attempt: None,
            unanswered: Vec::new(),
            attempts: Vec::new(),
            failed_since_converged: 0,
            flake_retries: 0,
            first_failing: None,
            last_failing: None,
            usage: None,
        }
    }

    /// Seconds spent running, an open span counted to `last_event`.
    pub fn running_s(&self, last_event: Option<Timestamp>) -> f64 {
        millis_to_seconds(self.running_millis(last_event))
    }

    /// The same in milliseconds, for sums.
    pub fn running_millis(&self, last_event: Option<Timestamp>) -> u64 {
        self.running_ms.saturating_add(self.open_span(NodeStatus::Running, last_event))
    }

    /// Seconds spent ready, an open span counted to `last_event`.
    pub fn waiting_s(&self, last_event: Option<Timestamp>) -> f64 {
        millis_to_seconds(self.waiting_millis(last_event))
    }

    /// The same in milliseconds, for sums.
    pub fn waiting_millis(&self, last_event: Option<Timestamp>) -> u64 {
        self.waiting_ms.saturating_add(self.open_span(NodeStatus::Ready, last_event))
    }

    /// Seconds lost: failed attempts that another attempt followed, and every backoff.
    pub fn lost_s(&self) -> f64 {
        let last = self.attempts.len().saturating_sub(1);
        self.attempts
            .iter()
            .enumerate()
            .map(|(at, attempt)| {
                let failed = if attempt.converged || at == last { 0.0 } else { attempt.duration_s };
                failed + attempt.backoff_s.unwrap_or(0.0)
            })
            .fold(0.0, |sum, lost| (sum + lost).min(f64::MAX))
    }

    /// Seconds of waiting before attempts, as they say.
    pub fn backoff_s(&self) -> f64 {
        let waits = self.attempts.iter().map(|attempt| attempt.backoff_s.unwrap_or(0.0));
        waits.fold(0.0, |sum, wait| (sum + wait).min(f64::MAX))
    }

    /// Closes the span of the status that it leaves.
    fn leave(&mut self, was: NodeStatus, ts: Timestamp) {
        let span = self.since.map_or(0, |since| ts.millis_since(since));
        match was {
            NodeStatus::Running => self.running_ms = self.running_ms.saturating_add(span),
            NodeStatus::Ready => self.waiting_ms = self.waiting_ms.saturating_add(span),
            _ => {}
        }
    }

    fn enter(&mut self, status: NodeStatus, seq: u64, ts: Timestamp) {
        self.status = status;
        self.since = Some(ts);
        self.since_seq = Some(seq);
        match status {
            NodeStatus::Ready => {
                self.ready_at.get_or_insert(ts);
            }
            NodeStatus::Running => {
                self.started.get_or_insert(ts);
            }
            _ => {}
        }
        let is_over = matches!(status, NodeStatus::Done | NodeStatus::Failed | NodeStatus::Blocked);
        self.ended = is_over.then_some(ts);
    }

    /// Keeps that an attempt was begun, until it comes.
    fn await_attempt(&mut self, attempt: Option<u64>, seq: u64) {
        let Some(attempt) = attempt else { return };
        self.unanswered.retain(|awaited| awaited.attempt != attempt);
        if self.unanswered.len() == KEPT_UNANSWERED {
            self.unanswered.remove(0);
        }
        self.unanswered.push(Unanswered { attempt, seq });
    }

    fn open_span(&self, status: NodeStatus, last_event: Option<Timestamp>) -> u64 {
        match (self.since, last_event) {
            (Some(since), Some(last)) if self.status == status => last.millis_since(since),
            _ => 0,
        }
    }
}

/// Whether the contract allows this move.
pub fn is_legal_move(from: NodeStatus, to: NodeStatus) -> bool {
    use NodeStatus::{Blocked, Done, Failed, Pending, Ready, Running};
    matches!(
        (from, to),
        (Pending, Ready) | (Ready, Running) | (Running, Ready | Done | Failed) | (Pending | Ready, Blocked)
    )
}

pub(super) fn transition(state: &mut RunState, seq: u64, ts: Timestamp, moved: &NodeTransition<'_>) {
    let node_id: &str = &moved.node_id;
    let node = node_mut(state, node_id, seq);
    let was = node.status;
    node.reason = moved.reason.as_deref().map(kept_text);
    // A move to where it stands is no move: the span goes on.
    if moved.to != was {
        node.leave(was, ts);
        node.enter(moved.to, seq, ts);
    }
    if moved.to == NodeStatus::Running {
        node.running_attempt = moved.attempt;
        node.await_attempt(moved.attempt, seq);
    }
    if moved.from != was {
        state.breach(seq, Some(node_id), format!("moved from {}, but was {was}", moved.from));
    } else if !is_legal_move(moved.from, moved.to) {
        state.breach(seq, Some(node_id), format!("moved from {} to {}", moved.from, moved.to));
    }
    if moved.to == NodeStatus::Failed && state.first_failed_node.is_none() {
        state.first_failed_node = Some(node_id.to_owned());
    }
}

pub(super) fn attempt(state: &mut RunState, seq: u64, ts: Timestamp, event: &NodeAttempt<'_>) {
    let node = node_mut(state, &event.node_id, seq);
    let started = match node.since {
        Some(since) if node.status == NodeStatus::Running && node.running_attempt == Some(event.attempt) => since,
        _ => before(ts, event.duration_s),
    };
    node.unanswered.retain(|awaited| awaited.attempt != event.attempt);
    node.attempts.push(Attempt {
        attempt: event.attempt,
        seq,
        started,
        duration_s: event.duration_s,
        converged: event.converged,
        backoff_s: event.backoff_s.filter(|_| event.attempt > 1),
    });
    if event.converged {
        node.flake_retries += node.failed_since_converged;
        node.failed_since_converged = 0;
    } else {
        node.failed_since_converged += 1;
    }
    let failing: Vec<FailingCheck> = event
        .done_when_results
        .iter()
        .map(|Obj(check)| check)
        .filter(|check| check.rc != 0)
        .map(|check| FailingCheck {
            seq,
            attempt: event.attempt,
            cmd: kept_text(&check.cmd),
            rc: check.rc,
            tail: check.tail.as_deref().map(last_chars),
            truncated: check.truncated.unwrap_or(false),
        })
        .collect();
    // Its tail is nobody's: answers show the tail of the check that failed last.
    node.first_failing = failing.first().map(|check| FailingCheck { tail: None, ..check.clone() });
    if let Some(last) = failing.into_iter().next_back() {
        node.last_failing = Some(last);
    }
    add_usage(&mut node.usage, event.usage.as_ref());
    let what = match &node.first_failing {
        Some(check) if event.converged => {
            let cmd: String = check.cmd.chars().take(SHOWN_CMD_CHARS).collect();
            Some(format!("converged in attempt {}, but `{cmd}` exited {}", event.attempt, check.rc))
        }
        None if !event.converged && !event.done_when_results.is_empty() => {
            Some(format!("did not converge in attempt {}, but every check exited 0", event.attempt))
        }
        _ => None,
    };
    if let Some(what) = what {
        state.breach(seq, Some(&event.node_id), what);
    }
    state.spend(event.usage.as_ref());
}

fn node_mut<'a>(state: &'a mut RunState, node_id: &str, seq: u64) -> &'a mut NodeState {
    if !state.nodes.contains_key(node_id) {
        state.nodes.insert(node_id.to_owned(), NodeState::appearing(seq));
    }
    let node = state.nodes.entry(node_id.to_owned()).or_insert_with(|| NodeState::appearing(seq));
    node.last_seq = seq;
    node
}

fn last_chars(text: &str) -> String {
    let start = text.char_indices().rev().nth(KEPT_TAIL_CHARS - 1).map_or(0, |(at, _)| at);
    text.get(start..).unwrap_or_default().to_owned()
}

/// The moment so many seconds before `ts`.
fn before(ts: Timestamp, seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates, and from_millis clamps")]
    let millis = (seconds * 1000.0).round() as i64;
    Timestamp::from_millis(ts.millis().saturating_sub(millis))
}
