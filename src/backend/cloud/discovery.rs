//! What the identity provider says of itself: where it is asked for what.

use std::sync::Arc;
use std::time::Duration;

use openidconnect::url::Url;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ask::{AskError, Asker};
use super::settings::is_trustworthy;

/// How long after a failure nobody asks again.
const COOL_DOWN: Duration = Duration::from_secs(5);

/// The provider's addresses (OpenID Connect Discovery 1.0, section 3; RFC 8414), those that kahn asks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Discovered {
    issuer: String,
    /// Its keys.
    pub(super) jwks_uri: String,
    /// Where a browser is sent to sign in.
    pub(super) authorization_endpoint: Option<String>,
    /// Where a code becomes tokens.
    pub(super) token_endpoint: Option<String>,
    /// Where tokens are asked about (RFC 7662).
    pub(super) introspection_endpoint: Option<String>,
    /// Where a browser is sent to sign out there too.
    pub(super) end_session_endpoint: Option<String>,
    /// Whether it always says who it is when it sends a browser back (RFC 9207).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
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
    /// Not what discovery says.
    #[error("{address} is no discovery document: {reason}")]
    Unreadable {
        /// What was asked for.
        address: String,
        /// Why not.
        reason: String,
    },
    /// Somebody else's, or misconfigured by a slash.
    #[error(
        "the discovery document is of {found:?}, and KAHN_OIDC_ISSUER is {wanted:?}; they have to be the same, byte for byte"
    )]
    AnotherIssuer {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// An address that anybody on the way could answer for.
    #[error("the discovery document's {0} is no https address")]
    Untrustworthy(&'static str),
    /// It failed a moment ago.
    #[error("it failed less than 5 s ago")]
    CoolingDown,
}

/// The document, once it was read.
pub(super) struct Discovery {
    issuer: String,
    asker: Asker,
    state: Mutex<State>,
}

enum State {
    Unread { failed: Option<Instant> },
    Read(Arc<Discovered>),
}

impl Discovery {
    pub(super) fn new(issuer: &str, asker: Asker) -> Self {
        Self { issuer: issuer.to_owned(), asker, state: Mutex::new(State::Unread { failed: None }) }
    }

    /// The document; asked for until it was read once, by one at a time.
    pub(super) async fn get(&self) -> Result<Arc<Discovered>, DiscoveryError> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Read(known) => return Ok(Arc::clone(known)),
            State::Unread { failed: Some(failed) } if failed.elapsed() < COOL_DOWN => {
                return Err(DiscoveryError::CoolingDown);
            }
            State::Unread { .. } => {}
        }
        match self.read().await {
            Ok(read) => {
                let read = Arc::new(read);
                *state = State::Read(Arc::clone(&read));
                Ok(read)
            }
            Err(error) => {
                log::error!("the identity provider's discovery failed: {error}");
                *state = State::Unread { failed: Some(Instant::now()) };
                Err(error)
            }
        }
    }

    /// Asks again, where it was read before; that stays where asking fails.
    pub(super) async fn renew(&self) -> Result<(), DiscoveryError> {
        if !matches!(*self.state.lock().await, State::Read(_)) {
            return Ok(());
        }
        // Asked before the lock: nobody who has a use for the old one waits.
        let read = Arc::new(self.read().await?);
        *self.state.lock().await = State::Read(read);
        Ok(())
    }

    async fn read(&self) -> Result<Discovered, DiscoveryError> {
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let said = self.asker.get(&address).await?;
        if said.status != 200 {
            return Err(DiscoveryError::Status { address, status: said.status });
        }
        let read: Discovered = serde_json::from_slice(&said.body)
            .map_err(|error| DiscoveryError::Unreadable { address, reason: error.to_string() })?;
        if read.issuer != self.issuer {
            return Err(DiscoveryError::AnotherIssuer { found: read.issuer, wanted: self.issuer.clone() });
        }
        let addresses = [
            ("jwks_uri", Some(&read.jwks_uri)),
            ("authorization_endpoint", read.authorization_endpoint.as_ref()),
            ("token_endpoint", read.token_endpoint.as_ref()),
            ("introspection_endpoint", read.introspection_endpoint.as_ref()),
            ("end_session_endpoint", read.end_session_endpoint.as_ref()),
        ];
        for (name, address) in addresses {
            let is_fit = |address: &String| Url::parse(address).is_ok_and(|url| is_trustworthy(&url));
            if address.is_some_and(|address| !is_fit(address)) {
                return Err(DiscoveryError::Untrustworthy(name));
            }
        }
        Ok(read)
    }
}
