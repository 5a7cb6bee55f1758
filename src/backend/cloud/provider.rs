//! The identity provider: what it says of itself, and how it is asked.

use std::sync::Arc;

use super::ask::Asker;
use super::discovery::{Discovered, Discovery};
use super::settings::ProviderSettings;
use crate::contract::Refusal;

/// Seconds after which a client may try again while the provider is away.
const RETRY_AFTER_S: u64 = 5;

/// The identity provider.
pub(super) struct Provider {
    settings: ProviderSettings,
    asker: Asker,
    discovery: Discovery,
}

impl Provider {
    pub(super) fn new(settings: ProviderSettings) -> Arc<Self> {
        let asker = Asker::new();
        let discovery = Discovery::new(&settings.issuer, asker.clone());
        Arc::new(Self { settings, asker, discovery })
    }

    /// How it is asked.
    pub(super) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// What it says of itself.
    pub(super) async fn discovered(&self) -> Result<Arc<Discovered>, Refusal> {
        self.discovery.get().await.map_err(|_| self.unavailable())
    }

    /// How it is configured.
    pub(super) fn settings(&self) -> &ProviderSettings {
        &self.settings
    }

    /// What a client is told while it does not answer.
    pub(super) fn unavailable(&self) -> Refusal {
        Refusal::ProviderUnavailable { retry_after_s: RETRY_AFTER_S }
    }
}
