//! kahn shows what fleets of AI agents and prompt-DAG runs really did, live and afterwards.
//!
//! The path of one event:
//!
//! ```text
//! a line of transitions.jsonl, or of a batch over HTTP
//!   domain    parse_line: bytes -> event, or the reason why not
//!   backend   keeps the line byte for byte (a file, or a row), and feeds it to
//!   reduce    state + event -> state, and the summary that lists show
//!   insight   pure questions over states and summaries
//!   memory    answers that were finished before, while they hold
//!   services  what every route uses
//!   http      JSON, NDJSON, frames of the live feed
//!   ui        the files that a browser gets
//! ```
//!
//! The rooms, in that order; each knows only what stands above it in this list, and [`backend`] alone knows which of
//! the two builds this is:
//!
//! - [`domain`]: facts. Events, lines, graphs, ids. No I/O, no clock.
//! - [`reduce`]: the fold.
//! - [`insight`]: figures made of states.
//! - [`archive_reader`]: run folders, opened beneath a handle and read by bounded lines.
//! - [`config`]: what both builds configure.
//! - [`contract`]: what a backend must give, with the laws written beside it.
//! - [`backend`]: the one switch, and its twins `oss` and `cloud`.
//! - [`live`]: who listens, and what is made once for all of them.
//! - [`memory`]: finished answers, held while they are still the answer.
//! - [`metrics`]: what the process counted of itself.
//! - [`services`]: what the server is made of.
//! - [`http`]: the app factory, the routes, the live feed.
//! - [`cli`]: the command line.

pub mod archive_reader;
pub mod backend;
pub mod cli;
pub mod config;
pub mod contract;
pub mod domain;
pub mod http;
pub mod insight;
pub mod live;
pub mod memory;
pub mod metrics;
pub mod reduce;
pub mod services;
