//! The provider's keys: fetched ahead of time, held through an outage, and never waited for by a token whose key is known.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ask::{AskError, Asker};
use super::discovery::{Discovery, DiscoveryError};
use super::jws::{self, Fault, Jws, Key};
use super::provider::{Trouble, UNAVAILABLE};
use crate::contract::Refusal;

/// How often the keys are fetched, whether or not anybody asks.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// How soon it is tried again after that failed; until there are any keys, sooner.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);
/// Keys older than this are fetched before they are used, where that can be done.
const OLD: Duration = Duration::from_secs(600);
/// Keys older than this are not used at all.
const TOO_OLD: Duration = Duration::from_secs(24 * 60 * 60);
/// After a fetch that requests asked for, none asks for another in so long a time.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Keys that are held at the most.
const MOST_KEYS: usize = 64;

/// Why there are no new keys; the old ones stay.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    /// Where they are is not known.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// No answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Not 200.
    #[error("{address} answered {status}")]
    Status {
        /// What was asked for.
        address: String,
        /// The status.
        status: u16,
    },
    /// Not a set of keys.
    #[error("{0} answered something that is no set of keys")]
    Unreadable(String),
    /// None that could be used.
    #[error("{0} has no key that can be used")]
    Empty(String),
}

/// Keys of one moment.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Before they were asked for.
    asked: Instant,
    /// Another number for another set of keys.
    pub(super) generation: u64,
}

/// What a signature is worth.
pub(super) enum Verdict {
    /// These are the claims.
    Signed(Vec<u8>),
    /// It does not count.
    Refused(Fault),
    /// No key has this name.
    UnknownKey,
}

impl KeySet {
    /// Judges a token by the keys of its name; there may be one for each kind.
    pub(super) fn judge(&self, token: &Jws<'_>) -> Verdict {
        let mut verdict = Verdict::UnknownKey;
        for key in self.keys.iter().filter(|key| key.kid() == Some(token.kid())) {
            match token.verify(key) {
                Ok(claims) => return Verdict::Signed(claims.to_vec()),
                Err(fault) => verdict = Verdict::Refused(fault),
            }
        }
        verdict
    }
}

/// The provider's keys.
pub(super) struct Jwks {
    asker: Asker,
    discovery: Arc<Discovery>,
    trouble: Arc<Trouble>,
    current: RwLock<Option<Arc<KeySet>>>,
    /// Whoever fetches holds it.
    fetching: Mutex<Fetches>,
}

/// What came of fetches.
#[derive(Default)]
struct Fetches {
    /// How many there were.
    ended: u64,
    /// When the last one ended, and whether it brought keys.
    last: Option<(Instant, bool)>,
    /// The same of the last one that requests asked for.
    on_demand: Option<(Instant, bool)>,
}

impl Jwks {
    /// Fetches the keys now, and again and again.
    pub(super) fn start(asker: Asker, discovery: Arc<Discovery>, trouble: Arc<Trouble>) -> Arc<Self> {
        let (current, fetching) = (RwLock::default(), Mutex::default());
        let jwks = Arc::new(Self { asker, discovery, trouble, current, fetching });
        tokio::spawn(refresh(Arc::downgrade(&jwks)));
        jwks
    }

    fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keys that may be used now.
    ///
    /// # Errors
    ///
    /// [`Refusal::ProviderUnavailable`] where there are none that are young enough.
    pub(super) async fn usable(self: &Arc<Self>) -> Result<Arc<KeySet>, Refusal> {
        let current = self.current();
        if let Some(keys) = current.as_ref().filter(|keys| keys.asked.elapsed() < OLD) {
            return Ok(Arc::clone(keys));
        }
        self.fetch_on_demand().await;
        // Old ones are better than none while the provider is away, for a day.
        let usable = self.current().filter(|keys| keys.asked.elapsed() < TOO_OLD);
        usable.ok_or(UNAVAILABLE)
    }

    /// The keys after a token came with the name of one that these have not.
    ///
    /// # Errors
    ///
    /// [`Refusal::ProviderUnavailable`] where it cannot be known whether the provider has such a key.
    pub(super) async fn after_unknown(self: &Arc<Self>) -> Result<Arc<KeySet>, Refusal> {
        let is_known = self.fetch_on_demand().await;
        self.current().filter(|_| is_known).ok_or(UNAVAILABLE)
    }

    /// One fetch for all who ask while it is under way, then none for a while. Whether the last one brought keys.
    async fn fetch_on_demand(self: &Arc<Self>) -> bool {
        let (jwks, asked) = (Arc::clone(self), Instant::now());
        // A task of its own: a client that goes away must not end what others wait for.
        let fetch = tokio::spawn(async move {
            let mut fetches = jwks.fetching.lock().await;
            let meanwhile = fetches.last.filter(|(ended, _)| *ended >= asked);
            let just_now = fetches.on_demand.filter(|(ended, _)| ended.elapsed() < COOL_DOWN);
            if let Some((_, brought_keys)) = meanwhile.or(just_now) {
                return brought_keys;
            }
            let brought_keys = jwks.fetch(&mut fetches).await;
            fetches.on_demand = fetches.last;
            brought_keys
        });
        fetch.await.unwrap_or(false)
    }

    async fn fetch(&self, fetches: &mut Fetches) -> bool {
        let asked = Instant::now();
        let fetched = self.fetch_keys().await;
        fetches.ended += 1;
        fetches.last = Some((Instant::now(), fetched.is_ok()));
        match fetched {
            Ok(keys) => {
                self.take(keys, asked, fetches.ended);
                true
            }
            Err(fault) => {
                self.trouble.tell(&fault);
                false
            }
        }
    }

    async fn fetch_keys(&self) -> Result<Vec<Key>, KeysError> {
        let address = &self.discovery.get().await?.jwks_uri;
        let said = self.asker.get(address).await?;
        if said.status != 200 {
            return Err(KeysError::Status { address: address.clone(), status: said.status });
        }
        let keys = read(&said.body).map_err(|_| KeysError::Unreadable(address.clone()))?;
        if keys.is_empty() { Err(KeysError::Empty(address.clone())) } else { Ok(keys) }
    }

    fn take(&self, keys: Vec<Key>, asked: Instant, number: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = match current.as_ref() {
            Some(before) if before.keys == keys => before.generation,
            before => {
                log::info!(
                    "the identity provider has {} keys {}",
                    keys.len(),
                    if before.is_some() { "now" } else { "" }
                );
                number
            }
        };
        *current = Some(Arc::new(KeySet { keys, asked, generation }));
    }
}

/// Fetches keys for as long as anybody has a use for them.
async fn refresh(jwks: Weak<Jwks>) {
    loop {
        let Some(jwks) = jwks.upgrade() else { return };
        let brought_keys = {
            let mut fetches = jwks.fetching.lock().await;
            // Each time it is asked anew where its keys are; a provider that does not say is believed a while longer.
            if let Err(fault) = jwks.discovery.renew().await {
                jwks.trouble.tell(&fault);
            }
            jwks.fetch(&mut fetches).await
        };
        let pause = match (brought_keys, jwks.current()) {
            (true, _) => REFRESH_EVERY,
            (false, Some(_)) => REFRESH_AGAIN,
            (false, None) => COOL_DOWN,
        };
        drop(jwks);
        tokio::time::sleep(pause).await;
    }
}

/// The keys of a set, without those that nobody should use.
fn read(body: &[u8]) -> Result<Vec<Key>, Fault> {
    #[derive(Deserialize)]
    struct Published<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let published: Published<'_> = serde_json::from_slice(body).map_err(|_| Fault::NotAnObject("body"))?;
    let mut keys = Vec::new();
    for entry in published.keys {
        match read_entry(entry) {
            Ok(key) if keys.len() < MOST_KEYS => keys.push(key),
            Ok(_) => log::warn!("the identity provider has more than {MOST_KEYS} keys; the rest is left out"),
            Err(fault) => log::info!("a key of the identity provider is left out: {fault}"),
        }
    }
    Ok(keys)
}

fn read_entry(entry: &RawValue) -> Result<Key, Fault> {
    let jwk = jws::object(entry.get().as_bytes(), "key")?;
    // Whoever publishes the private half lets everybody sign.
    if jwk.contains_key("d") {
        return Err(Fault::Key("d"));
    }
    let key = Key::read(&jwk)?;
    if key.kid().is_none() { Err(Fault::Key("kid")) } else { Ok(key) }
}
