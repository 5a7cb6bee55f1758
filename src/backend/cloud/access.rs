//! Who asks: a bearer token, told apart by its shape.

use async_trait::async_trait;

use super::bearer::{Bearer, Use};
use super::failures::Failures;
use super::provider::Provider;
use super::rate_limit::RateLimits;
use super::scope::Door;
use super::scrape::ScrapeToken;
use super::session::Sessions;
use super::settings::Entry;
use super::tenants::Tenants;
use crate::contract::{Access, Budget, Cost, Principal, Redirection, Refusal, RequestFacts, SignStep};

/// The longest Authorization field that is looked at.
const LONGEST_FIELD: usize = 8 * 1024;

/// The door of all tenants.
pub(super) struct TenantAccess {
    bearer: Bearer,
    limits: RateLimits,
    failures: Failures,
    /// People with browsers, where they can sign in.
    sessions: Option<Sessions>,
    /// What reads /metrics, where anything may.
    scrape: Option<ScrapeToken>,
}

impl TenantAccess {
    pub(super) fn new(door: Door, entry: Entry, scrape: Option<ScrapeToken>) -> Self {
        let provider = entry.provider.clone().map(Provider::new);
        let limits = RateLimits::new(door.clone());
        let tenants = Tenants::new(door.clone());
        let sessions = Sessions::new(&entry, provider.as_ref(), (&tenants, &door));
        let failures = Failures::new(entry.failures, entry.trusted_proxies);
        let bearer = Bearer::new(door, provider.map(|provider| (provider, tenants)));
        Self { bearer, limits, failures, sessions, scrape }
    }

    /// Who asks, whatever became of others from the same address.
    async fn identify(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        let field = match request.authorizations.as_slice() {
            [] => match &self.sessions {
                Some(sessions) => return sessions.holder(request).await,
                None => return Err(Refusal::NoCredentials),
            },
            [field] if field.len() <= LONGEST_FIELD => field,
            _ => return Err(Refusal::BadToken),
        };
        let Some((scheme, token)) = field.split_once(' ') else { return Err(Refusal::BadToken) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::NoCredentials);
        }
        let token = token.trim_matches(' ');
        let purpose = if request.is_websocket { Use::Socket } else { Use::Request };
        self.bearer.holder(token, purpose).await
    }
}

#[async_trait]
impl Access for TenantAccess {
    /// Behind the platform's TLS any host name may be right. That no page borrows a person's cookie is looked at where
    /// cookies are.
    fn screen(&self, _request: &RequestFacts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn authenticate(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        self.failures.screen(request)?;
        let outcome = self.identify(request).await;
        self.failures.note(request, &outcome);
        outcome
    }

    async fn charge(&self, who: &Principal, cost: Cost) -> Result<Option<Budget>, Refusal> {
        self.limits.charge(who, cost).await
    }

    fn may_scrape(&self, request: &RequestFacts) -> bool {
        self.scrape.as_ref().is_some_and(|token| token.is_held_by(request))
    }

    fn offers_sign_in(&self) -> bool {
        self.sessions.is_some()
    }

    async fn sign(&self, request: &RequestFacts, step: SignStep) -> Result<Redirection, Refusal> {
        match &self.sessions {
            Some(sessions) => sessions.step(request, step, (&self.bearer, &self.failures)).await,
            None => Err(Refusal::NoSignIn),
        }
    }
}

/// The answer is the same for every reason; the log has the reason and enough of a hash to tell tokens apart.
pub(super) fn refused(reason: &str, token: &str) -> Refusal {
    let hash = crate::domain::id::sha256_hex(token.as_bytes());
    log::info!("a token was refused: {reason} (sha256 {})", hash.get(..8).unwrap_or_default());
    Refusal::BadToken
}
