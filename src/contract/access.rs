//! Who may ask, and for whom.

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
}

/// What the door looks at, apart from any HTTP library. A header that is not visible ASCII stands as an empty string.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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
    /// Whether it asks for a WebSocket.
    pub is_websocket: bool,
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
    /// 503: who asks cannot be found out now.
    #[error("credentials cannot be checked right now")]
    Unavailable,
}
