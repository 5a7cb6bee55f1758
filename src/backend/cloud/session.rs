//! A person's way in with a browser: Authorization Code with PKCE, state and nonce, then a sealed cookie that says who it
//! is. Nothing is kept here of either but what was ended early.
//!
//! A cookie comes along with whatever asks, whoever wrote the page. So it counts only where the browser says that the page
//! is this server's own.

mod ended;
mod id_token;
mod return_to;
mod seal;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openidconnect::url::Url;
use openidconnect::{CsrfToken, Nonce, PkceCodeChallenge};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::ended::Ended;
use self::id_token::Wanted;
use self::return_to::return_to;
use self::seal::{Kept, Seal};
use super::account::activity::{Action, Actor, note};
use super::bearer::Bearer;
use super::failures::Failures;
use super::jwks::Verdict;
use super::jws::{self, Jws};
use super::provider::Provider;
use super::scope::{DatabaseError, Door};
use super::secret::Secret;
use super::settings::{Entry, ProviderSettings};
use super::store;
use super::tenants::Tenants;
use crate::contract::{Principal, PrincipalKind, Redirection, Refusal, RequestFacts, Scope, SignStep};
use crate::domain::id::sha256_hex;

/// How long a person may take at the provider.
const SIGN_IN_LASTS_S: u64 = 10 * 60;
/// How long a session lasts, whatever happens in it.
const SESSION_LASTS_S: u64 = 12 * 60 * 60;
/// How many sessions may be held as signed out before their end.
const MOST_ENDED: usize = 65_536;
/// How many codes may be on their way to becoming tokens at once: a provider that hangs takes no more threads than these.
const MOST_EXCHANGES: usize = 16;
/// How long a code waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// What a person is asked to grant; the provider gives what that person may have.
const SCOPES: &str = "openid kahn:read kahn:ingest kahn:admin";

/// People with browsers.
pub(super) struct Sessions {
    provider: Arc<Provider>,
    /// The origin that people see, without a slash at its end.
    origin: Arc<str>,
    seal: Seal,
    tenants: Tenants,
    door: Door,
    signed_out: Ended,
    used: Ended,
    exchanges: Semaphore,
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

/// What the provider gives for a code; of the rest nothing is used.
#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    token_type: String,
    id_token: String,
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
    pub(super) fn new(
        entry: &Entry,
        provider: Option<&Arc<Provider>>,
        (tenants, door): (&Tenants, &Door),
    ) -> Option<Self> {
        let (provider, origin, key) = (provider?, entry.public_url.as_ref()?, entry.session_key.as_ref()?);
        Some(Self {
            provider: Arc::clone(provider),
            origin: Arc::clone(origin),
            seal: Seal::new(key, provider.settings(), origin),
            tenants: tenants.clone(),
            door: door.clone(),
            signed_out: Ended::new(MOST_ENDED),
            used: Ended::new(MOST_ENDED),
            exchanges: Semaphore::new(MOST_EXCHANGES),
        })
    }

    /// Who a request's cookie says it comes from, where this server's own page sent it.
    pub(super) async fn holder(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        let session = self.session(request).ok_or(Refusal::NoCredentials)?;
        if !self.is_own_page(request) {
            return Err(Refusal::ForeignOrigin);
        }
        self.principal(&session).await
    }

    async fn principal(&self, session: &Session) -> Result<Principal, Refusal> {
        let org = session.org.as_deref().ok_or(Refusal::NoTenant)?;
        Ok(Principal {
            kind: PrincipalKind::User,
            tenant: Some(self.tenants.of_org(org).await?),
            user: session.user.clone(),
            scopes: session.scopes.iter().copied().map(Scope::from).collect(),
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
    pub(super) async fn step(
        &self,
        request: &RequestFacts,
        step: SignStep,
        (bearer, failures): (&Bearer, &Failures),
    ) -> Result<Redirection, Refusal> {
        match step {
            SignStep::In { return_to } => self.begin(return_to.as_deref()).await,
            SignStep::Back { answer } => {
                failures.screen_address(request)?;
                self.finish(request, &answer, (bearer, failures)).await
            }
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

    /// What the provider answered counts if this browser began it, once; then the code becomes tokens, and these say who
    /// it is and what they may do.
    async fn finish(
        &self,
        request: &RequestFacts,
        answer: &[(String, String)],
        (bearer, failures): (&Bearer, &Failures),
    ) -> Result<Redirection, Refusal> {
        let kept = self.seal.open::<SignIn>(Kept::SignIn, &request.cookies).map_err(|unfit| failed(&unfit))?;
        let sign_in = kept.ok_or_else(|| failed(&"this browser began none"))?;
        if sign_in.until <= now() {
            return Err(failed(&"it is over"));
        }
        let Some(code) = self.code(answer, &sign_in.state).await? else {
            return Ok(Redirection { location: "/".to_owned(), cookies: vec![self.seal.forget(Kept::SignIn)] });
        };
        // Before the code is sent: whatever becomes of it, one sign-in asks the provider once.
        if !self.used.add(&sign_in.state, sign_in.until, now()) {
            return Err(failed(&"it is over"));
        }
        let session = self.redeem(code, &sign_in, bearer).await.inspect_err(|refusal| {
            // Anybody may begin a sign-in and come back with a code that is none; each one is a question to the provider.
            if *refusal == Refusal::SignInFailed {
                failures.take(request);
            }
        })?;
        let cookie = self.seal.keep(Kept::Session, &session, SESSION_LASTS_S).map_err(|unfit| failed(&unfit))?;
        self.tell(&session, Action::SignedIn).await?;
        Ok(Redirection { location: sign_in.return_to, cookies: vec![cookie, self.seal.forget(Kept::SignIn)] })
    }

    /// The session of whom the provider knows by this code.
    async fn redeem(&self, code: &str, sign_in: &SignIn, bearer: &Bearer) -> Result<Session, Refusal> {
        let tokens = self.exchange(code, &sign_in.verifier).await?;
        let subject = self.subject(&tokens.id_token, &sign_in.nonce).await?;
        let grant = bearer.grant(&tokens.access_token).await.map_err(|refusal| match refusal {
            Refusal::BadToken => failed(&"the access token does not count"),
            other => other,
        })?;
        if grant.kind != PrincipalKind::User || grant.user != subject {
            return Err(failed(&"the two tokens are not about the same person"));
        }
        Ok(Session {
            id: CsrfToken::new_random().into_secret(),
            user: subject,
            org: grant.org.clone(),
            scopes: grant.scopes.iter().map(|scope| Granted::from(*scope)).collect(),
            until: now() + SESSION_LASTS_S,
        })
    }

    /// The code that the provider sent for this sign-in; `None`: the person thought better of it.
    async fn code<'a>(&self, answer: &'a [(String, String)], state: &str) -> Result<Option<&'a str>, Refusal> {
        let one = |name: &str| {
            let mut values = answer.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
            let first = values.next();
            if values.next().is_some() { Err(failed(&format!("{name} came twice"))) } else { Ok(first) }
        };
        if !one("state")?.is_some_and(|given| bool::from(given.as_bytes().ct_eq(state.as_bytes()))) {
            return Err(failed(&"its state is another one"));
        }
        // RFC 9207: an answer of another provider was meant for another client.
        let issuer = &self.provider.settings().issuer;
        match one("iss")? {
            Some(given) if given != issuer => return Err(failed(&"it comes from another provider")),
            None if self.provider.discovered().await?.authorization_response_iss_parameter_supported => {
                return Err(failed(&"it does not say which provider it comes from"));
            }
            Some(_) | None => {}
        }
        let code = one("code")?.filter(|code| !code.is_empty());
        if let Some(error) = one("error")? {
            if error == "access_denied" && code.is_none() {
                return Ok(None);
            }
            let shown: String = error.chars().take(40).collect();
            return Err(failed(&format!("the provider said {shown:?}")));
        }
        code.map(Some).ok_or_else(|| failed(&"it has no code"))
    }

    /// What the provider gives for a code.
    async fn exchange(&self, code: &str, verifier: &str) -> Result<Tokens, Refusal> {
        let discovered = self.provider.discovered().await?;
        let address = address(discovered.token_endpoint.as_deref(), &self.provider)?;
        let callback = self.callback();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &callback),
            ("code_verifier", verifier),
        ];
        let turn = timeout(TURN_WITHIN, self.exchanges.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or_else(|| self.provider.unavailable())?;
        let said = self.provider.asker().post(address.as_str(), self.provider.settings(), &form).await;
        let said = said.map_err(|error| {
            log::error!("a sign-in has to wait: {error}");
            self.provider.unavailable()
        })?;
        match said.status {
            200 => {}
            400 => return Err(failed(&"the provider does not take the code")),
            status => {
                log::error!(
                    "a sign-in has to wait: {address} answered {status}; were KAHN_OIDC_CLIENT_ID and its secret right?"
                );
                return Err(self.provider.unavailable());
            }
        }
        let tokens: Tokens =
            serde_json::from_slice(&said.body).map_err(|_| failed(&"the provider's tokens are none"))?;
        if tokens.token_type.eq_ignore_ascii_case("bearer") {
            Ok(tokens)
        } else {
            Err(failed(&"the access token is no bearer token"))
        }
    }

    /// Who an ID token is about: verified as strictly as any token.
    async fn subject(&self, token: &str, nonce: &str) -> Result<String, Refusal> {
        let jws = Jws::parse(token).map_err(|fault| failed(&fault))?;
        let keys = self.provider.jwks();
        let verdict = match keys.usable().await?.judge(&jws) {
            Verdict::UnknownKey => keys.after_unknown().await?.judge(&jws),
            verdict => verdict,
        };
        let payload = match verdict {
            Verdict::Signed(payload) => payload,
            Verdict::Refused(fault) => return Err(failed(&fault)),
            Verdict::UnknownKey => return Err(failed(&"the provider has no key of the ID token's")),
        };
        let claims = jws::object(&payload, "claims").map_err(|fault| failed(&fault))?;
        let settings = self.provider.settings();
        let wanted = Wanted { issuer: &settings.issuer, client_id: &settings.client_id, nonce, now: now() };
        id_token::subject(jws.typ(), &claims, &wanted).map_err(|misfit| failed(&misfit))
    }

    /// Notes in the tenant's activity that somebody came or went. Whoever belongs to no tenant is noted nowhere.
    async fn tell(&self, session: &Session, action: Action) -> Result<(), Refusal> {
        let who = match self.principal(session).await {
            Ok(who) => who,
            Err(Refusal::NoTenant) => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        let Ok(tenant) = store::tenant(&who) else { return Ok(()) };
        // Enough to tell sessions apart, and nothing that opens one.
        let target: String = sha256_hex(session.id.as_bytes()).chars().take(8).collect();
        let (who, target) = (Arc::new(who), Arc::<str>::from(target));
        let noted: Result<(), DatabaseError> = self
            .door
            .write("signed", tenant, move |transaction| {
                let (who, target) = (Arc::clone(&who), Arc::clone(&target));
                Box::pin(async move { note(transaction, (Actor::Principal(&who), action, &target)).await })
            })
            .await;
        noted.map_err(|error| {
            log::error!("that somebody signed in or out could not be noted: {error}");
            Refusal::Unavailable
        })
    }

    /// A session that was signed out counts no more, wherever its cookie still is. The person is sent on to sign out at the
    /// provider as well, where that can be done.
    async fn end(&self, request: &RequestFacts) -> Result<Redirection, Refusal> {
        if !self.is_own_page(request) {
            return Err(Refusal::ForeignOrigin);
        }
        let cookies = vec![self.seal.forget(Kept::Session), self.seal.forget(Kept::SignIn)];
        if let Some(session) = self.session(request)
            && self.signed_out.add(&session.id, session.until, now())
        {
            // Out is out, also where that cannot be noted.
            let _ = self.tell(&session, Action::SignedOut).await;
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

impl From<Scope> for Granted {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Ingest => Self::Ingest,
            Scope::Admin => Self::Admin,
        }
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
