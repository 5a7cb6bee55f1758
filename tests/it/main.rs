//! The tests, through the public surface: HTTP, files, the binary. One binary, for link time.
//!
//! - `facts`: lines, graphs and the fold, as properties.
//! - `pages`: how the UI reaches a browser.
//! - `golden`: same events, same requests, same bytes; the snapshots are shared by both builds.
//! - `across`: agents, audits, nodes and comparisons, held against a second opinion.
//! - `ingest`: exactly once, all or nothing, durable.
//! - `insight`: what one run tells: each finding, the verdict, moments, a node's recent runs.
//! - `metrics`: what is counted of requests, and the line that each answer has in the log, where it is wanted.
//! - `openapi`: the description of the API, held against routes, parameters, codes and answers; the pages to read it.
//! - `every_route`: the guards that no address is without.
//! - `hostile`: bodies, cursors and clients that mean harm.
//! - `feed`: nothing is missed between stored and live, nothing comes twice.
//! - `push`: `kahn push` against a server that can misbehave.
//! - `cli`: what all commands have in common; `kahn mode`, completions, exit codes.
//! - `producers`: what the emitters of producers/python write is read as it was meant.
//! - `schema`: the schemas for producers say what the parser says.
//! - `validate`: `kahn validate` names every fault with file and line.
//! - `diff`: `kahn diff` of a folder and of a server, and its exit codes.
//! - `man`: the manual pages are those of the definitions.
//! - `card`: the other mode is refused; a container is reached from its own machine alone.
//! - `imports`: which room of src may use which; one switch; files of a readable length.
//! - `backend`: the twin of the switch: how each build is started for a test, and what only it has.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod across;
mod backend;
mod card;
mod cli;
mod diff;
mod every_route;
mod facts;
mod feed;
mod golden;
mod hostile;
mod imports;
mod ingest;
mod insight;
mod man;
mod metrics;
mod openapi;
mod pages;
mod producers;
mod push;
mod schema;
mod support;
mod validate;
mod wire;
