//! What every server does by itself, one of them at a time.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Database, Door, RetentionError, run};

/// The first time comes soon: a server that is started again every day would else never get to it.
const FIRST: Duration = Duration::from_secs(5 * 60);

/// The server's own job; it stops with this value. What a transaction had begun then is not done.
pub(crate) struct Job(JoinHandle<()>);

impl Job {
    /// Does the work once every so often.
    pub(crate) fn start(database: Database, door: Door, every: Duration) -> Self {
        Self(tokio::spawn(async move {
            tokio::time::sleep(FIRST.min(every)).await;
            loop {
                let done = run(&database, &door, |went| {
                    if !went.is_empty() {
                        log::info!("retention: {}", went.done());
                    }
                    Ok(())
                });
                match done.await {
                    Ok(()) => {}
                    Err(RetentionError::Busy) => log::debug!("retention: another server is at it"),
                    Err(error) => log::error!("{error}"),
                }
                tokio::time::sleep(every).await;
            }
        }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}
