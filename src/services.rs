//! The services that every route uses: the same in both builds.

mod space;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

pub use self::space::{Asker, Claim, Space};
use crate::config::Config;
use crate::contract::{Access, Account, Backend, Principal, ReadLimit, Store, StoreError};
use crate::domain::{RunId, Timestamp, parse_line};
use crate::live::Live;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::reduce::RunState;

/// What the server is made of. Cheap to clone; every worker has one.
#[derive(Clone)]
pub struct Services {
    /// Where the logs are.
    pub store: Arc<dyn Store>,
    /// Who may ask.
    pub access: Arc<dyn Access>,
    /// What tenants agreed on and used, where there are tenants.
    pub account: Option<Arc<dyn Account>>,
    /// Who listens.
    pub live: Live,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What is held of finished answers.
    pub memory: Arc<Memory>,
    /// What is counted of all this.
    pub metrics: Arc<Metrics>,
    /// Whether each answer is told to the log.
    pub access_log: bool,
    /// What clients are told about this server.
    pub settings: Settings,
    /// Decoded ingest bytes that may be in flight, over all requests.
    pub ingest_bytes: Arc<Space>,
    /// Bytes of large answers that their readers have not taken yet, over all requests.
    pub answer_bytes: Arc<Space>,
    /// The same of what is served as it is stored (pages of events, graphs), from the moment that it is read.
    pub stored_bytes: Arc<Space>,
    /// Turns true when the server stops; every socket says goodbye then.
    closing: Arc<watch::Sender<bool>>,
}

/// What clients are told about this server.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `oss` or `cloud`: shown, never asked.
    pub mode: &'static str,
    /// Whether every write is refused.
    pub read_only: bool,
    /// Whether agents and audits are shown.
    pub agent_views: bool,
    /// Silence after which a live run counts as stalled, in milliseconds.
    pub stall_after_ms: u64,
}

/// What time it is: a parameter, so that answers can be asked for any moment.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one clock")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 counts as 1970.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Decoded ingest bytes in flight over all requests (api.md, limits).
const INGEST_BYTES_IN_FLIGHT: usize = 128 * 1024 * 1024;

/// Bytes of large answers in flight over all requests: those who do not read what they asked for hold no more of the memory.
const ANSWER_BYTES_IN_FLIGHT: usize = 48 * 1024 * 1024;

/// The same of pages of events and graphs, which are held twice while they are put together.
const STORED_BYTES_IN_FLIGHT: usize = 64 * 1024 * 1024;

/// How much of a log is read at a time when it is folded again: little enough not to hold up other requests.
const FOLD_PAGE: ReadLimit = ReadLimit { lines: 2000, bytes: 1024 * 1024 };

impl Services {
    /// The services over a backend whose checks have passed.
    pub fn start(backend: Backend, clock: Arc<dyn Clock>, mode: &'static str, config: &Config) -> Self {
        Self {
            live: Live::new(&backend, &clock, config),
            store: backend.store,
            access: backend.access,
            account: backend.account,
            clock,
            memory: Arc::new(Memory::new()),
            metrics: Arc::new(Metrics::new()),
            access_log: config.access_log,
            settings: Settings {
                mode,
                read_only: backend.read_only,
                agent_views: config.agent_views,
                stall_after_ms: config.stall_after_ms,
            },
            ingest_bytes: Arc::new(Space::new(INGEST_BYTES_IN_FLIGHT)),
            answer_bytes: Arc::new(Space::new(ANSWER_BYTES_IN_FLIGHT)),
            stored_bytes: Arc::new(Space::new(STORED_BYTES_IN_FLIGHT)),
            closing: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Tells every socket to say goodbye.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Turns true when the server stops.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The fold of events 0 to `at_seq` of a log, read again from its lines; `None` when the log is gone or shorter.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn state_at(&self, who: &Principal, run_id: &RunId, at_seq: u64) -> Result<Option<RunState>, StoreError> {
        let mut state = RunState::default();
        while state.next_seq <= at_seq {
            let Some(page) = self.store.read(who, run_id, state.next_seq, FOLD_PAGE).await? else { return Ok(None) };
            let is_other_log = state.log_id.is_some() && state.log_id != page.log_id;
            if page.lines.is_empty() || is_other_log {
                return Ok(None);
            }
            for line in &page.lines {
                if state.next_seq > at_seq {
                    break;
                }
                let event = parse_line(line).map_err(|reason| StoreError::Failed(reason.into()))?;
                state.fold(&event, line);
            }
        }
        Ok(Some(state))
    }
}
