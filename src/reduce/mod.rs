//! `state + event -> state`: a pure, incremental fold. No clock, no I/O, never fails; the same in both builds.

pub mod agent;
pub mod ci;
pub mod state;
pub mod summary;

pub use agent::{AgentState, Audit, Streak, Tool};
pub use ci::{Attempt, FailingCheck, NodeState, Unanswered};
pub use state::{Breach, End, ParentRef, RunState, Start, UsageSum};
pub use summary::{CheckpointResult, FirstFailure, NodeCounts, NodeOutcome, NodeResult, Phase, RunOutcome, Summary};

/// Which shape states and summaries have, and by which rules they were made. It rises with any change of either: what is
/// kept of an older one is made again from the log.
pub const REDUCER_VERSION: u32 = 2;
