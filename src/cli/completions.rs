//! `kahn completions`: what a shell completes, made from the definitions that `--help` prints.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

/// Options of `kahn completions`.
#[derive(Debug, Clone, Args)]
pub(super) struct CompletionsOptions {
    /// The shell, as in `kahn completions bash > /etc/bash_completion.d/kahn`
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(options: &CompletionsOptions, command: &mut clap::Command) -> ExitCode {
    // Into memory first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, command, "kahn", &mut script);
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&script).and_then(|()| out.flush());
    ExitCode::SUCCESS
}
