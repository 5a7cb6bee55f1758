//! Being asked to end, for a command that works without a runtime: a thread hears the signals.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::config::BootError;

/// Whether, and since when, the program is asked to end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    since: Mutex<Option<Instant>>,
    bell: Condvar,
}

impl Stop {
    /// Asked by SIGINT or SIGTERM from now on. A second one ends the program at once.
    ///
    /// # Errors
    ///
    /// When signals cannot be heard.
    pub(super) fn on_signals() -> Result<Self, BootError> {
        let refused =
            |error: std::io::Error| BootError::Failure(format!("signals cannot be heard: {error}; try again"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt()).map_err(refused)?, signal(SignalKind::terminate()).map_err(refused)?)
        };
        let stop = Self::default();
        let told = stop.clone();
        let hear = move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if told.since().is_some() {
                        std::process::exit(1);
                    }
                    told.ask();
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(hear).map_err(refused)?;
        Ok(stop)
    }

    /// When the program was asked to end.
    pub(super) fn since(&self) -> Option<Instant> {
        *self.held()
    }

    /// Waits so long; being asked to end cuts it short, once.
    pub(super) fn wait(&self, pause: Duration) {
        let since = self.held();
        if since.is_some() {
            drop(since);
            std::thread::sleep(pause);
        } else {
            drop(self.0.bell.wait_timeout_while(since, pause, |since| since.is_none()));
        }
    }

    fn ask(&self) {
        self.held().get_or_insert_with(Instant::now);
        self.0.bell.notify_all();
    }

    /// Nothing panics while it holds the lock.
    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
