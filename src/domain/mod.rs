//! Facts: what an event, a line, a graph and an id are. No I/O, no clock.

pub mod event;
pub mod graph;
pub mod id;
pub mod line;
pub mod timestamp;

pub use event::{Event, EventBody, Usage, parse_line};
pub use graph::{Graph, GraphError};
pub use id::{LogId, RunId};
pub use line::{Ledger, LineSplitter, Piece, Problem};
pub use timestamp::Timestamp;

/// The longest line that is kept, in bytes without its newline (1 MiB).
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The deepest nesting of arrays and objects that is read; the outermost object counts as 1.
pub const MAX_DEPTH: usize = 64;

/// The largest integer that JSON readers agree on: 2^53 - 1.
pub const MAX_INT: u64 = (1 << 53) - 1;

/// The largest graph.json that is read, in bytes (8 MiB).
pub const MAX_GRAPH_BYTES: usize = 8 * 1024 * 1024;

/// The most nodes a graph may have.
pub const MAX_GRAPH_NODES: usize = 10_000;
