//! The oss build: its options, its commands, its backend.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::config::{BootError, Config, Defaults};
use crate::contract::Backend;

/// The mode that this binary was built for.
pub const MODE: &str = "oss";

/// Options of `kahn serve` that only this build has, as they were typed.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {}

impl Options {
    /// What holds where nothing was typed.
    pub fn defaults() -> Defaults {
        Defaults { bind: "127.0.0.1:8080".into(), agent_views: true }
    }

    /// A sentence for each mistake in these options, given the rest of the configuration.
    pub fn mistakes(&self, _config: &Config) -> Vec<String> {
        Vec::new()
    }
}

/// Subcommands that only this build has.
#[derive(Debug, Subcommand)]
pub enum Command {}

impl Command {
    /// Does the work; the exit code is 0 when it is done and 1 when the work found a fault.
    ///
    /// # Errors
    ///
    /// When it could not be done.
    pub fn run(self) -> Result<ExitCode, BootError> {
        match self {}
    }
}

/// Makes the backend; it exists only once its checks have passed.
///
/// # Errors
///
/// The refusal, as one sentence that says what mends it.
pub async fn select_backend(_options: &Options, _config: &Config) -> Result<Backend, BootError> {
    Err(BootError::Failure("there is no backend".into()))
}
