//! A list of runs: what is filtered, how it is ordered, where a page begins.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::domain::event::Kind;
use crate::domain::{RunId, Timestamp};
use crate::reduce::{RunOutcome, Summary, summary::Phase};

/// A question for a page of runs.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Which runs.
    pub filter: Filter,
    /// By what they are ordered.
    pub sort: Sort,
    /// In which direction. Ties are by run_id rising and nulls come last, in both directions.
    pub order: Order,
    /// Where the page begins.
    pub position: ListPosition,
    /// How many rows at the most, at least 1.
    pub limit: usize,
}

/// Which runs are in a list; every member that is given must fit.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The moment that stands for now.
    pub now: Timestamp,
    /// How long a live run may be silent before it counts as stalled, in milliseconds.
    pub stall_after_ms: u64,
    /// Agent runs are left out (agent views are off).
    pub without_agents: bool,
    /// The run's kind.
    pub kind: Option<Kind>,
    /// The run's phase at `now`.
    pub phase: Option<Phase>,
    /// The declared outcome.
    pub outcome: Option<RunOutcome>,
    /// The agent of the first start event.
    pub agent_id: Option<String>,
    /// The run has this node, in its graph or its log.
    pub node_id: Option<String>,
    /// The run_id of the run that started it.
    pub parent: Option<String>,
    /// A part of the run_id, case-sensitive, no wildcards; never holds a NUL.
    pub q: Option<String>,
    /// `last_event` is not before this (the window).
    pub last_event_from: Option<Timestamp>,
    /// `started` is not before this.
    pub since: Option<Timestamp>,
    /// `started` is before this.
    pub until: Option<Timestamp>,
    /// `started` is not after this, or null (pages by offset leave out runs that started later).
    pub started_by: Option<Timestamp>,
}

/// What a list is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Ts of the first event.
    Started,
    /// `duration_s`.
    Duration,
    /// The outcome's rank, best first when rising.
    Outcome,
}

/// The direction of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Falling.
    Desc,
    /// Rising.
    Asc,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq)]
pub enum ListPosition {
    /// After so many rows.
    Offset(u64),
    /// Behind the row with this key.
    After(SortKey),
}

/// A row's place in the order.
#[derive(Debug, Clone, PartialEq)]
pub struct SortKey {
    /// Milliseconds since the epoch, seconds, or rank, by [`Sort`]; null comes last.
    pub value: Option<f64>,
    /// The run.
    pub run_id: RunId,
}

/// A page of runs.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// The rows.
    pub items: Vec<Arc<Summary>>,
    /// How many rows fit the filter, on all pages.
    pub total: u64,
    /// Whether rows follow behind the last item.
    pub more: bool,
    /// The first moment after the query's now at which time alone may bring a run into the list or take one out; `None`:
    /// there is none. A store that does not know says now.
    pub changes_at: Option<Timestamp>,
}

/// When this run leaves a window that begins at `from` and ends at `now`, as now goes on; `None`: it is not in it.
pub fn leaves_window_at(run: &Summary, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let last = run.last_event.filter(|last| *last >= from)?;
    let length = now.millis().saturating_sub(from.millis());
    Some(Timestamp::from_millis(last.millis().saturating_add(length).saturating_add(1)))
}

/// Which runs an aggregate is made of; every member that is given must fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    /// The run's kind.
    pub kind: Option<Kind>,
    /// Whether the run has to name an agent.
    pub of_agents: bool,
    /// `last_event` is not before this (the window).
    pub last_event_from: Option<Timestamp>,
}

impl Selection {
    /// Whether this run is among them. SQL that selects must say the same.
    pub fn fits(&self, run: &Summary) -> bool {
        self.kind.is_none_or(|kind| run.kind == Some(kind))
            && !(self.of_agents && run.agent_id.is_none())
            && self.last_event_from.is_none_or(|from| run.last_event.is_some_and(|last| last >= from))
    }
}

impl Filter {
    /// Whether this run is in the list. SQL that filters must say the same.
    pub fn fits(&self, run: &Summary) -> bool {
        let eq =
            |wanted: &Option<String>, has: Option<&str>| wanted.as_deref().is_none_or(|wanted| has == Some(wanted));
        !(self.without_agents && run.kind == Some(Kind::Agent))
            && self.kind.is_none_or(|kind| run.kind == Some(kind))
            && self.phase.is_none_or(|phase| run.phase(self.now, self.stall_after_ms) == phase)
            && self.outcome.is_none_or(|outcome| run.outcome == Some(outcome))
            && eq(&self.agent_id, run.agent_id.as_deref())
            && eq(&self.parent, run.parent.as_ref().map(|parent| parent.run_id.as_str()))
            && self.node_id.as_deref().is_none_or(|node_id| run.has_node(node_id))
            && self.q.as_deref().is_none_or(|part| run.run_id.as_str().contains(part))
            && self.last_event_from.is_none_or(|from| run.last_event.is_some_and(|last| last >= from))
            && self.since.is_none_or(|since| run.started.is_some_and(|started| started >= since))
            && self.until.is_none_or(|until| run.started.is_some_and(|started| started < until))
            && self.started_by.is_none_or(|by| run.started.is_none_or(|started| started <= by))
    }
}

impl Filter {
    /// Whether now has a part in who is in the list.
    pub fn depends_on_now(&self) -> bool {
        self.last_event_from.is_some() || self.phase.is_some()
    }

    /// The first moment after now at which this run may come into the list or leave it by time alone.
    pub fn changes_at(&self, run: &Summary) -> Option<Timestamp> {
        let leaves = self.last_event_from.and_then(|from| leaves_window_at(run, from, self.now));
        let stalls = self.phase.and_then(|_| run.stalls_at(self.stall_after_ms));
        [leaves, stalls].into_iter().flatten().filter(|at| *at > self.now).min()
    }
}

impl Sort {
    /// The run's place in this order.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of years 0001 to 9999 are below 2^53")]
    pub fn key(self, run: &Summary) -> SortKey {
        let value = match self {
            Self::Started => run.started.map(|started| started.millis() as f64),
            Self::Duration => run.duration_s,
            Self::Outcome => run.outcome.map(|outcome| f64::from(outcome.rank())),
        };
        SortKey { value, run_id: run.run_id.clone() }
    }
}

impl SortKey {
    /// Which of two rows comes first in this direction.
    pub fn compare(&self, other: &Self, order: Order) -> Ordering {
        let values = match (self.value, other.value) {
            (Some(own), Some(others)) => {
                let rising = own.total_cmp(&others);
                if order == Order::Desc { rising.reverse() } else { rising }
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        values.then_with(|| self.run_id.cmp(&other.run_id))
    }
}
