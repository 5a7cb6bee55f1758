//! Who may ask, and for whom.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

/// The door. In oss it lets the one operator in and keeps foreign pages out; in cloud it asks for credentials.
#[async_trait]
pub trait Access: Send + Sync {
    /// Judges a request before routing, files included.
    ///
    /// # Errors
    ///
    /// The refusal that the request gets.
    fn screen(&self, request: &RequestFacts) -> Result<(), Refusal>;

    /// Who asks.
    ///
    /// # Errors
    ///
    /// The refusal that the request gets.
    async fn authenticate(&self, request: &RequestFacts) -> Result<Principal, Refusal>;

    /// Takes what a request costs from what the principal's tenant may ask for; `None`: nothing is limited here.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`], [`Refusal::NeverFits`], or [`Refusal::Unavailable`]. Nothing is taken then.
    async fn charge(&self, _who: &Principal, _cost: Cost) -> Result<Option<Budget>, Refusal> {
        Ok(None)
    }

    /// Whether the request may read what this process counted of itself (GET /metrics).
    fn may_scrape(&self, _request: &RequestFacts) -> bool {
        false
    }

    /// Whether a person can sign in with a browser.
    fn offers_sign_in(&self) -> bool {
        false
    }

    /// A step of a person's way in or out with a browser.
    ///
    /// # Errors
    ///
    /// The refusal that the request gets.
    async fn sign(&self, _request: &RequestFacts, _step: SignStep) -> Result<Redirection, Refusal> {
        Err(Refusal::OnlyInCloud)
    }
}

/// What the door looks at, apart from any HTTP library. A header that is not visible ASCII stands as an empty string.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RequestFacts {
    /// The method, in upper case.
    pub method: String,
    /// The authority of an absolute target.
    pub target_authority: Option<String>,
    /// All Host fields.
    pub hosts: Vec<String>,
    /// All Origin fields.
    pub origins: Vec<String>,
    /// Sec-Fetch-Site; several fields stand with commas between them.
    pub fetch_site: Option<String>,
    /// All Authorization fields.
    pub authorizations: Vec<String>,
    /// All Cookie fields.
    pub cookies: Vec<String>,
    /// Whether it asks for a WebSocket.
    pub is_websocket: bool,
    /// Who holds the connection; `None` where nobody is to be held to account for it.
    pub peer: Option<IpAddr>,
    /// All X-Forwarded-For fields, in order: what proxies say, and whoever else.
    pub forwarded_for: Vec<String>,
}

/// Without what anybody holds who is let in for it: credentials and cookies.
impl fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFacts").field("method", &self.method).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl RequestFacts {
    /// The same without where it came from: what is asked again of somebody who was let in.
    pub fn without_origin_of_connection(&self) -> Self {
        Self { peer: None, forwarded_for: Vec::new(), ..self.clone() }
    }
}

/// What is taken for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// One request.
    Request,
    /// So many events.
    Events(u64),
    /// At least so many events, of which the body was not read yet: looked at, not taken.
    AnnouncedEvents(u64),
}

/// What is left to a tenant, as the answer's RateLimit fields say it (draft-ietf-httpapi-ratelimit-headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What is counted: `requests` or `events`.
    pub policy: &'static str,
    /// The most that may be had at once.
    pub burst: u64,
    /// Seconds in which all of it comes back.
    pub window_s: u64,
    /// What may be had now.
    pub remaining: u64,
    /// Seconds for which a client does well to ask for no more than that: until all of it is back, or, after a refusal, until the
    /// same may be asked again.
    pub reset_s: u64,
}

/// A step of signing in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignStep {
    /// On to the provider. `return_to` is where the person wanted to go: a path of this server, or what is refused.
    In {
        /// The path and query.
        return_to: Option<String>,
    },
    /// Back from the provider, with what its answer says.
    Back {
        /// The query's names and values, decoded.
        answer: Vec<(String, String)>,
    },
    /// Out.
    Out,
}

/// Where a browser goes on, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    /// The address.
    pub location: String,
    /// Set-Cookie values, whole.
    pub cookies: Vec<String>,
}

/// Who asks. Every store method takes it; in cloud it is the only way to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What kind of caller.
    pub kind: PrincipalKind,
    /// Its name.
    pub user: String,
    /// Whose data it may see; `None` where there are no tenants.
    pub tenant: Option<Tenant>,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// What kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// The one operator of this machine.
    Localhost,
    /// A person.
    User,
    /// A machine with a client of its own.
    Client,
    /// An API key.
    ApiKey,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Append events.
    Ingest,
    /// Manage keys and the plan.
    Admin,
}

impl Scope {
    /// The short form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Admin => "admin",
        }
    }
}

impl Principal {
    /// Whether it may do this.
    ///
    /// # Errors
    ///
    /// [`Refusal::InsufficientScope`].
    pub fn require(&self, scope: Scope) -> Result<(), Refusal> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(Refusal::InsufficientScope(scope)) }
    }
}

/// Why a request was turned away at the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: not exactly one Host, or a target of another authority.
    #[error("a request names its host once, and the same in target and Host")]
    BadHost,
    /// 421: the host is not one that this server answers for.
    #[error("this server answers only for localhost, 127.0.0.1 and [::1]; start it with --allowed-host to add a name")]
    ForeignHost,
    /// 403: another site's page asks.
    #[error("requests from pages of another origin are refused")]
    ForeignOrigin,
    /// 401: no credentials.
    #[error("send a key as Authorization: Bearer")]
    NoCredentials,
    /// 401: credentials that do not count; the same words for every reason.
    #[error("the bearer token is not valid")]
    BadToken,
    /// 403: the principal may not do this.
    #[error("this needs the scope {}", .0.as_str())]
    InsufficientScope(Scope),
    /// 403: whoever this is belongs to no tenant.
    #[error(
        "this account belongs to no tenant here; whoever runs this server adds one with kahn tenant provision NAME --org ORG_ID"
    )]
    NoTenant,
    /// 429: the tenant has asked for all it may have.
    #[error("the plan's {} are used up for now; try again in {retry_after_s} s", .budget.policy)]
    RateLimited {
        /// What is left.
        budget: Budget,
        /// Seconds after which the same request would be let in.
        retry_after_s: u64,
    },
    /// 413: more than could ever be had at once.
    #[error("a batch of the plan holds at most {limit} events; send fewer at once")]
    NeverFits {
        /// The bucket's size.
        limit: u64,
    },
    /// 429: too many bad credentials came from this address.
    #[error("too many bad credentials came from this address; try again in {retry_after_s} s")]
    TooManyFailures {
        /// Seconds.
        retry_after_s: u64,
    },
    /// 404: a build without sign-in.
    #[error("this build serves one person and has no tenants; the cloud build has this")]
    OnlyInCloud,
    /// 404: no provider is configured.
    #[error("nobody signs in here: this server takes API keys only (KAHN_AUTH=keys-only)")]
    NoSignIn,
    /// 400: what came back from the provider does not belong to a sign-in that this browser began, or it was refused there.
    #[error("signing in did not work; begin again at /auth/login")]
    SignInFailed,
    /// 503: who asks cannot be found out now.
    #[error("credentials cannot be checked right now")]
    Unavailable,
    /// 503: the identity provider does not answer, and what it said before is too old.
    #[error("the identity provider cannot be reached right now")]
    ProviderUnavailable {
        /// Seconds after which it is worth trying again.
        retry_after_s: u64,
    },
}
