//! A person's way in with a browser: Authorization Code with PKCE, state and nonce, then a sealed cookie that says who it
//! is. Nothing is kept here of either but what was ended early.
//!
//! A cookie comes along with whatever asks, whoever wrote the page. So it counts only where the browser says that the page
//! is this server's own.

mod ended;
mod return_to;
mod seal;

use std::sync::Arc;
use std::time::SystemTime;

use openidconnect::url::Url;
use openidconnect::{CsrfToken, Nonce, PkceCodeChallenge};
use serde::{Deserialize, Serialize};

use self::ended::Ended;
use self::return_to::return_to;
use self::seal::{Kept, Seal};
use super::provider::Provider;
use super::settings::{Entry, ProviderSettings, Secret};
use super::tenants::Tenants;
use crate::contract::{Principal, PrincipalKind, Redirection, Refusal, RequestFacts, Scope, SignStep};

/// How long a person may take at the provider.
const SIGN_IN_LASTS_S: u64 = 10 * 60;
/// How long a session lasts, whatever happens in it.
const SESSION_LASTS_S: u64 = 12 * 60 * 60;
/// How many sessions may be held as signed out before their end.
const MOST_ENDED: usize = 65_536;
/// What a person is asked to grant; the provider gives what that person may have.
const SCOPES: &str = "openid kahn:read kahn:ingest kahn:admin";

/// People with browsers.
pub(super) struct Sessions {
    provider: Arc<Provider>,
    /// The origin that people see, without a slash at its end.
    origin: Arc<str>,
    seal: Seal,
    tenants: Tenants,
    signed_out: Ended,
    used: Ended,
}

/// Who somebody is, as the provider said it when they signed in.
#[derive(Serialize, Deserialize)]
struct Session {
    id: String,
    user: String,
    /// `None`: whoever it is belongs to no org.
    org: Option<String>,
    scopes: Vec<Granted>,
    until: u64,
}

/// A scope, as a cookie holds it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Granted {
    Read,
    Ingest,
    Admin,
}

/// What a browser keeps until its person is back from the provider.
#[derive(Serialize, Deserialize)]
struct SignIn {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    until: u64,
}

impl Sessions {
    /// `None` where nobody can sign in: no provider, no address that people see, or no key.
    pub(super) fn new(entry: &Entry, provider: Option<&Arc<Provider>>, tenants: &Tenants) -> Option<Self> {
        let (provider, origin, key) = (provider?, entry.public_url.as_ref()?, entry.session_key.as_ref()?);
        Some(Self {
            provider: Arc::clone(provider),
            origin: Arc::clone(origin),
            seal: Seal::new(key, provider.settings(), origin),
            tenants: tenants.clone(),
            signed_out: Ended::new(MOST_ENDED),
            used: Ended::new(MOST_ENDED),
        })
    }

    /// Who a request's cookie says it comes from, where this server's own page sent it.
    pub(super) async fn holder(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        let session = self.session(request).ok_or(Refusal::NoCredentials)?;
        if !self.is_own_page(request) {
            return Err(Refusal::ForeignOrigin);
        }
        let org = session.org.as_deref().ok_or(Refusal::NoTenant)?;
        Ok(Principal {
            kind: PrincipalKind::User,
            tenant: Some(self.tenants.of_org(org).await?),
            user: session.user,
            scopes: session.scopes.into_iter().map(Scope::from).collect(),
        })
    }

    /// The session that still counts.
    fn session(&self, request: &RequestFacts) -> Option<Session> {
        let found = self.seal.open::<Session>(Kept::Session, &request.cookies);
        let session = found.inspect_err(|unfit| log::info!("a session's cookie does not count: {unfit}")).ok()??;
        (session.until > now() && !self.signed_out.has(&session.id)).then_some(session)
    }

    /// Browsers say where a page is from with everything that is not a plain link, form or image; and what those fetch, no
    /// foreign page can read.
    fn is_own_page(&self, request: &RequestFacts) -> bool {
        let is_plain_read = matches!(request.method.as_str(), "GET" | "HEAD") && !request.is_websocket;
        let is_own_origin = match request.origins.as_slice() {
            [] => is_plain_read,
            [origin] => **origin == *self.origin,
            _ => false,
        };
        // Of a handshake, Origin alone tells in every browser.
        let site = request.fetch_site.as_deref().filter(|_| !request.is_websocket);
        is_own_origin && matches!(site, None | Some("same-origin" | "none"))
    }

    /// A step of the way in or out.
    pub(super) async fn step(&self, request: &RequestFacts, step: SignStep) -> Result<Redirection, Refusal> {
        match step {
            SignStep::In { return_to } => self.begin(return_to.as_deref()).await,
            SignStep::Back { .. } => Err(failed(&"it is not built yet")),
            SignStep::Out => self.end(request).await,
        }
    }

    async fn begin(&self, wanted: Option<&str>) -> Result<Redirection, Refusal> {
        let discovered = self.provider.discovered().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let sign_in = SignIn {
            state: CsrfToken::new_random().into_secret(),
            nonce: Nonce::new_random().secret().clone(),
            verifier: verifier.into_secret(),
            return_to: return_to(wanted),
            until: now() + SIGN_IN_LASTS_S,
        };
        let mut address = address(discovered.authorization_endpoint.as_deref(), &self.provider)?;
        let settings = self.provider.settings();
        address
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &settings.client_id)
            .append_pair("redirect_uri", &self.callback())
            .append_pair("scope", SCOPES)
            // Not of OAuth, and passed over by whoever does not know it; some providers give tokens for no API without it.
            .append_pair("audience", &settings.audience)
            .append_pair("state", &sign_in.state)
            .append_pair("nonce", &sign_in.nonce)
            .append_pair("code_challenge", challenge.as_str())
            .append_pair("code_challenge_method", challenge.method().as_str());
        let cookie = self.seal.keep(Kept::SignIn, &sign_in, SIGN_IN_LASTS_S).map_err(|unfit| failed(&unfit))?;
        Ok(Redirection { location: address.into(), cookies: vec![cookie] })
    }

    /// A session that was signed out counts no more, wherever its cookie still is. The person is sent on to sign out at the
    /// provider as well, where that can be done.
    async fn end(&self, request: &RequestFacts) -> Result<Redirection, Refusal> {
        if !self.is_own_page(request) {
            return Err(Refusal::ForeignOrigin);
        }
        let cookies = vec![self.seal.forget(Kept::Session), self.seal.forget(Kept::SignIn)];
        if let Some(session) = self.session(request) {
            self.signed_out.add(&session.id, session.until, now());
        }
        let discovered = self.provider.discovered().await.ok();
        let address = discovered.and_then(|known| Url::parse(known.end_session_endpoint.as_deref()?).ok());
        let location = address.map_or_else(
            || "/".to_owned(),
            |mut address| {
                let back = format!("{}/", self.origin);
                let pairs =
                    [("client_id", self.provider.settings().client_id.as_str()), ("post_logout_redirect_uri", &back)];
                address.query_pairs_mut().extend_pairs(pairs);
                address.into()
            },
        );
        Ok(Redirection { location, cookies })
    }

    fn callback(&self) -> String {
        format!("{}/auth/callback", self.origin)
    }
}

impl From<Granted> for Scope {
    fn from(granted: Granted) -> Self {
        match granted {
            Granted::Read => Self::Read,
            Granted::Ingest => Self::Ingest,
            Granted::Admin => Self::Admin,
        }
    }
}

/// The provider's address for this, which discovery found to be sound.
fn address(found: Option<&str>, provider: &Provider) -> Result<Url, Refusal> {
    found.and_then(|found| Url::parse(found).ok()).ok_or_else(|| {
        log::error!("the identity provider's discovery names no address for signing in");
        provider.unavailable()
    })
}

/// The answer is the same for every reason; the log has it.
fn failed(reason: &dyn std::fmt::Display) -> Refusal {
    log::info!("a sign-in failed: {reason}");
    Refusal::SignInFailed
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "sessions outlive this process, so their ends are the calendar's")]
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
