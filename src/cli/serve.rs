//! `kahn serve`: the server.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BootError, Config, Serving, Typed};
use crate::domain::Timestamp;
use crate::services::{Clock, Services, SystemClock};
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
        check(&self.common, &self.backend, mistakes)
    }
}

fn check(typed: &Typed, options: &backend::Options, mistakes: &mut Vec<String>) -> Config {
    let config = Config::check(typed, &backend::Options::defaults(), mistakes);
    mistakes.extend(options.mistakes(&config));
    config
}

pub(super) fn run(options: &ServeOptions) -> Result<ExitCode, BootError> {
    serve(Serving {
        typed: options.common.clone(),
        options: options.backend.clone(),
        is_ended_by_hangup: false,
        listening: Box::new(|| {}),
    })
}

/// The time, for commands that need it.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// Serves until it is asked to stop.
pub(super) fn serve(serving: Serving<'_, backend::Options>) -> Result<ExitCode, BootError> {
    let Serving { typed, options, is_ended_by_hangup, listening } = serving;
    let mut mistakes = Vec::new();
    let config = check(&typed, &options, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(BootError::Configuration(mistakes));
    }
    actix_web::rt::System::new().block_on(async {
        let backend = backend::select_backend(&options, &config).await?;
        let listener = bind(config.bind)?;
        let address = listener.local_addr().unwrap_or(config.bind);
        let services = Services::start(backend, Arc::new(SystemClock), backend::MODE, &config);
        // Heard from here on: whoever reads the address may ask for the end at once.
        let mut ends = vec![SignalKind::terminate(), SignalKind::interrupt()];
        ends.extend(is_ended_by_hangup.then(SignalKind::hangup));
        let stopped = stopped(&ends);
        announce(address);
        listening();
        http::serve(listener, services, most_connections(), stopped)
            .await
            .map_err(|error| BootError::Failure(format!("the server stopped: {error}")))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Descriptors that are left for files, whatever connections do.
const DESCRIPTORS_FOR_FILES: usize = 64;

/// How many connections may be open at once. The soft limit on descriptors is meant for programs of another kind, so it is
/// raised as far as it goes; a quarter of what there is stays for files.
fn most_connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, what there is has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let descriptors = descriptors.unwrap_or(usize::MAX);
    descriptors.saturating_sub((descriptors / 4).max(DESCRIPTORS_FOR_FILES))
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

/// Done when one of these signals comes; they are heard from now on.
fn stopped(signals: &[SignalKind]) -> impl Future<Output = ()> + use<> {
    let heard: Vec<_> = signals
        .iter()
        .filter_map(|kind| {
            let heard = signal(*kind);
            heard.inspect_err(|error| log::warn!("signal {} cannot be heard: {error}", kind.as_raw_value())).ok()
        })
        .collect();
    async move {
        let waits = heard.into_iter().map(|mut signal| Box::pin(async move { signal.recv().await }));
        if waits.len() == 0 {
            return std::future::pending().await;
        }
        futures_util::future::select_all(waits).await;
        log::info!("stopping: no new connections, open requests get 30 s");
    }
}
