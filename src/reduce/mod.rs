//! `state + event -> state`: a pure, incremental fold. No clock, no I/O, never fails; the same in both builds.

pub mod agent;
pub mod ci;
pub mod state;
pub mod summary;

pub use agent::{AgentState, Audit, Tool};
pub use ci::{Attempt, FailingCheck, NodeState};
pub use state::{Breach, End, ParentRef, RunState, Start, UsageSum};
pub use summary::{CheckpointResult, FirstFailure, NodeCounts, NodeOutcome, NodeResult, Phase, RunOutcome, Summary};
