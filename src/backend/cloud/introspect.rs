//! Opaque tokens: the provider is asked who bears one (RFC 7662), and its answer is believed for less than a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::access::refused;
use super::bearer::TokenHash;
use super::claims::{self, Grant};
use super::jws;
use super::provider::{Provider, UNAVAILABLE};
use crate::contract::Refusal;

/// How long an answer is believed without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// How long it is believed at the most, which is while the provider is away. With the pace at which sockets are asked again
/// (every 3 s), a revoked token is dead within 60 s everywhere.
const TRUSTED: Duration = Duration::from_secs(50);
const REMEMBERED: usize = 4096;
/// How long a token that did not count is refused unasked, and how many of them.
const REFUSED: Duration = Duration::from_secs(10);
const REMEMBERED_REFUSALS: usize = 1024;
/// Calls at once: a provider that hangs must not use up what other requests need.
const MOST_CALLS: usize = 64;

type Call = Shared<BoxFuture<'static, Result<Arc<Grant>, Refusal>>>;

/// The provider's word on opaque tokens.
pub(super) struct Introspection {
    provider: Arc<Provider>,
    /// By the token's hash, never the token.
    known: Cache<TokenHash, Known>,
    dead: Cache<TokenHash, Instant>,
    /// One call a token, for all who ask meanwhile.
    under_way: Mutex<HashMap<TokenHash, Call>>,
    room: Arc<Semaphore>,
}

#[derive(Clone)]
struct Known {
    grant: Arc<Grant>,
    /// Before the provider was asked.
    asked: Instant,
    /// The end of it on the clock that nobody turns.
    until: Instant,
}

impl Introspection {
    pub(super) fn new(provider: Arc<Provider>) -> Arc<Self> {
        Arc::new(Self {
            provider,
            known: Cache::new(REMEMBERED),
            dead: Cache::new(REMEMBERED_REFUSALS),
            under_way: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST_CALLS)),
        })
    }

    /// Who bears this token.
    pub(super) async fn grant(self: &Arc<Self>, token: &str, hash: TokenHash) -> Result<Arc<Grant>, Refusal> {
        if self.dead.get(&hash).is_some_and(|refused| refused.elapsed() < REFUSED) {
            return Err(Refusal::BadToken);
        }
        let known = self.known.get(&hash).filter(|known| Instant::now() < known.until);
        if let Some(known) = known.as_ref().filter(|known| known.asked.elapsed() < FRESH) {
            return Ok(Arc::clone(&known.grant));
        }
        match (self.call(token, hash)?.await, known) {
            // A hiccup of the provider ends nothing that it vouched for a moment ago.
            (Err(Refusal::ProviderUnavailable { .. }), Some(known)) if Instant::now() < known.until => Ok(known.grant),
            (answer, _) => answer,
        }
    }

    fn call(self: &Arc<Self>, token: &str, hash: TokenHash) -> Result<Call, Refusal> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = under_way.get(&hash) {
            return Ok(call.clone());
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            self.provider.trouble().tell(&format!("{MOST_CALLS} tokens are being asked about, and no answer comes"));
            return self.known.get(&hash).filter(|known| Instant::now() < known.until).map_or_else(
                || Err(UNAVAILABLE),
                |known| Ok(futures_util::future::ready(Ok(known.grant)).boxed().shared()),
            );
        };
        let (own, token) = (Arc::clone(self), token.to_owned());
        // A task of its own: a client that goes away must not end what others wait for.
        let task = tokio::spawn(async move {
            let answer = own.ask(&token, hash).await;
            own.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
            drop(room);
            answer
        });
        let call = task.map(|ended| ended.unwrap_or(Err(UNAVAILABLE))).boxed().shared();
        under_way.insert(hash, call.clone());
        Ok(call)
    }

    async fn ask(&self, token: &str, hash: TokenHash) -> Result<Arc<Grant>, Refusal> {
        let discovered = self.provider.discovered().await?;
        let Some(address) = &discovered.introspection_endpoint else {
            return Err(refused("it is opaque, and the provider cannot be asked about such tokens", token));
        };
        let asked = Instant::now();
        let form = [("token", token), ("token_type_hint", "access_token")];
        let answer = self.provider.asker().post(address, self.provider.settings(), &form).await;
        let answer = answer.map_err(|error| self.failed(&error))?;
        let judged = match answer.status {
            200 => {
                let said =
                    jws::object(&answer.body, "body").map_err(|fault| self.failed(&format!("{address}: {fault}")))?;
                claims::of_introspection(self.provider.settings(), &said, super::bearer::now())
                    .map_err(|fault| refused(&format!("the provider was asked: {fault}"), token))
            }
            400 => Err(refused("the provider does not take it for a token", token)),
            401 | 403 => {
                log::error!(
                    "the identity provider refuses this server's own client ({}), so no opaque token can be checked; \
                     correct KAHN_OIDC_CLIENT_ID and KAHN_OIDC_CLIENT_SECRET_FILE",
                    answer.status
                );
                return Err(UNAVAILABLE);
            }
            other => return Err(self.failed(&format!("{address} answered {other}"))),
        };
        match judged {
            Ok(grant) => {
                let left = grant.expires.map_or(f64::MAX, |end| (end - super::bearer::now()).max(0.0));
                let until = asked + Duration::try_from_secs_f64(left).unwrap_or(TRUSTED).min(TRUSTED);
                let grant = Arc::new(grant);
                self.known.insert(hash, Known { grant: Arc::clone(&grant), asked, until });
                Ok(grant)
            }
            Err(refusal) => {
                self.known.remove(&hash);
                self.dead.insert(hash, Instant::now());
                Err(refusal)
            }
        }
    }

    fn failed(&self, fault: &impl std::fmt::Display) -> Refusal {
        self.provider.trouble().tell(fault);
        UNAVAILABLE
    }
}
