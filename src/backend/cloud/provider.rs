//! The identity provider: what it says of itself, how it is asked, and the keys that it signs with.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ask::Asker;
use super::discovery::{Discovered, Discovery};
use super::jwks::Jwks;
use super::settings::ProviderSettings;
use crate::contract::Refusal;

/// Seconds after which a client may try again while the provider is away.
const RETRY_AFTER_S: u64 = 5;
/// The log has one line about trouble in so long a time.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The identity provider.
pub(super) struct Provider {
    settings: ProviderSettings,
    asker: Asker,
    discovery: Arc<Discovery>,
    jwks: Arc<Jwks>,
    trouble: Arc<Trouble>,
}

/// What a client is told while the provider does not answer.
pub(super) const UNAVAILABLE: Refusal = Refusal::ProviderUnavailable { retry_after_s: RETRY_AFTER_S };

/// Trouble with the provider, told now and then.
#[derive(Default)]
pub(super) struct Trouble {
    told: Mutex<Option<Instant>>,
}

impl Trouble {
    /// For the log, where none was told just now.
    pub(super) fn tell(&self, trouble: &impl Display) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            log::warn!("the identity provider is of no use: {trouble}");
        }
    }
}

impl Provider {
    pub(super) fn new(settings: ProviderSettings) -> Arc<Self> {
        let asker = Asker::new();
        let trouble = Arc::<Trouble>::default();
        let discovery = Arc::new(Discovery::new(&settings.issuer, asker.clone()));
        let jwks = Jwks::start(asker.clone(), Arc::clone(&discovery), Arc::clone(&trouble));
        Arc::new(Self { settings, asker, discovery, jwks, trouble })
    }

    /// How it is asked.
    pub(super) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// What it says of itself.
    pub(super) async fn discovered(&self) -> Result<Arc<Discovered>, Refusal> {
        self.discovery.get().await.map_err(|_| self.unavailable())
    }

    /// The keys that it signs with.
    pub(super) fn jwks(&self) -> &Arc<Jwks> {
        &self.jwks
    }

    /// How it is configured.
    pub(super) fn settings(&self) -> &ProviderSettings {
        &self.settings
    }

    /// Where trouble with it is told.
    pub(super) fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    /// What a client is told while it does not answer.
    pub(super) fn unavailable(&self) -> Refusal {
        UNAVAILABLE
    }
}
