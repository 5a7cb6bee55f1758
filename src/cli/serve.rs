//! `kahn serve`: the server.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BootError, Config, Typed};
use crate::services::{Services, SystemClock};
use crate::{backend, http};

/// Options of `kahn serve`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ServeOptions {
    #[command(flatten)]
    common: Typed,
    #[command(flatten)]
    pub(super) backend: backend::Options,
}

impl ServeOptions {
    /// What was typed, checked whole: a mistake adds its sentence, and a default stands in for it.
    pub(super) fn check(&self, mistakes: &mut Vec<String>) -> Config {
        let config = Config::check(&self.common, &backend::Options::defaults(), mistakes);
        mistakes.extend(self.backend.mistakes(&config));
        config
    }
}

pub(super) fn run(options: &ServeOptions) -> Result<ExitCode, BootError> {
    let mut mistakes = Vec::new();
    let config = options.check(&mut mistakes);
    if !mistakes.is_empty() {
        return Err(BootError::Configuration(mistakes));
    }
    actix_web::rt::System::new().block_on(async {
        let backend = backend::select_backend(&options.backend, &config).await?;
        let listener = bind(config.bind)?;
        let address = listener.local_addr().unwrap_or(config.bind);
        let services = Services::start(backend, Arc::new(SystemClock), backend::MODE, &config);
        announce(address);
        http::serve(listener, services, stopped())
            .await
            .map_err(|error| BootError::Failure(format!("the server stopped: {error}")))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn bind(address: SocketAddr) -> Result<TcpListener, BootError> {
    TcpListener::bind(address).map_err(|error| {
        let mends = match error.kind() {
            ErrorKind::AddrInUse => {
                "another program has this port; choose another with --bind (KAHN_BIND), such as --bind 127.0.0.1:8081"
                    .to_owned()
            }
            ErrorKind::PermissionDenied => {
                "this port needs more rights; choose one from 1024 with --bind (KAHN_BIND)".to_owned()
            }
            _ => format!("{error}; choose an address of this machine with --bind (KAHN_BIND)"),
        };
        BootError::Failure(format!("cannot listen on {address}: {mends}"))
    })
}

#[expect(clippy::print_stderr, reason = "the person who started the server wants its address, whatever the log level")]
fn announce(address: SocketAddr) {
    eprintln!("kahn {} ({}) listens on http://{address}", env!("CARGO_PKG_VERSION"), backend::MODE);
}

/// Done when the program is asked to stop: SIGTERM, or ctrl-c.
async fn stopped() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => {
                terminated.recv().await;
            }
            Err(error) => {
                log::warn!("SIGTERM cannot be heard: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    log::info!("stopping: no new connections, open requests get 30 s");
}
