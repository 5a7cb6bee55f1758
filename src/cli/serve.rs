//! `kahn serve`: the server.

use std::process::ExitCode;

use clap::Args;

use crate::backend;
use crate::config::{BootError, Config, Typed};

/// Options of `kahn serve`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ServeOptions {
    #[command(flatten)]
    common: Typed,
    #[command(flatten)]
    backend: backend::Options,
}

pub(super) fn run(options: &ServeOptions) -> Result<ExitCode, BootError> {
    let mut mistakes = Vec::new();
    let config = Config::check(&options.common, &backend::Options::defaults(), &mut mistakes);
    mistakes.extend(options.backend.mistakes(&config));
    if !mistakes.is_empty() {
        return Err(BootError::Configuration(mistakes));
    }
    actix_web::rt::System::new().block_on(async {
        let _backend = backend::select_backend(&options.backend, &config).await?;
        Ok(ExitCode::SUCCESS)
    })
}
