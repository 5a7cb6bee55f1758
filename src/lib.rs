//! kahn shows what fleets of AI agents and prompt-DAG runs really did.
pub mod archive_reader;
pub mod backend;
pub mod cli;
pub mod config;
pub mod contract;
pub mod domain;
pub mod reduce;
