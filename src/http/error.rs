//! Every refusal as an RFC 9457 problem. A 5xx says fixed words; its cause goes to the log once.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Value, json};

use crate::contract::{AccountError, Refusal, StoreError};
use crate::domain::GraphError;

/// What a client is told when it does not get what it asked for.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: Box<str>,
    members: Vec<(&'static str, Value)>,
    headers: Vec<(header::HeaderName, String)>,
    /// Known where the problem is not written again further out.
    request_id: Box<str>,
    /// What is sent instead of the problem, to a person.
    page: Option<Box<str>>,
}

/// Seconds after which a 503 may be tried again.
const RETRY_AFTER_S: u64 = 1;

impl ApiError {
    /// A problem with this status, code and one clear sentence.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into().into(),
            members: Vec::new(),
            headers: Vec::new(),
            request_id: Box::default(),
            page: None,
        }
    }

    /// A 400.
    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A 413 that names the limit.
    pub(super) fn too_large(code: &'static str, detail: impl Into<String>, limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail).with("limit", limit)
    }

    /// The 404 of a run that is not there, or not there for this principal.
    pub(super) fn unknown_run() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_run", "there is no such run")
    }

    /// The 404 of what shows agents or audits where they are not shown.
    pub(super) fn agent_views_off() -> Self {
        let detail = "agents and audits are not shown here; start the server with --agent-views on (KAHN_AGENT_VIEWS)";
        Self::new(StatusCode::NOT_FOUND, "agent_views_off", detail)
    }

    /// The 404 of what only a build with tenants has.
    pub(super) fn only_in_cloud() -> Self {
        let detail = "this build serves one person and has no tenants; the cloud build has this";
        Self::new(StatusCode::NOT_FOUND, "only_in_cloud", detail).with("only_in", "cloud")
    }

    /// A 503 that may be tried again.
    pub(super) fn overloaded(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).after(RETRY_AFTER_S)
    }

    /// Says when it may be tried again.
    fn after(self, seconds: u64) -> Self {
        self.with("retry_after_s", seconds).header(header::RETRY_AFTER, seconds.to_string())
    }

    /// Adds a member.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: header::HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same as a page of HTML, with its status and header fields.
    pub(super) fn with_page(mut self, page: String) -> Self {
        self.page = Some(page.into());
        self
    }

    /// A problem that is the answer to this request, whatever happens further out.
    pub(super) fn answering(mut self, request_id: &str) -> Self {
        self.request_id = request_id.into();
        self.header(header::HeaderName::from_static("x-request-id"), request_id.to_owned())
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The code.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The code and the sentence, for places that are no HTTP answer.
    pub(super) fn code_and_detail(&self) -> (&'static str, &str) {
        (self.code, &self.detail)
    }

    /// The answer, with the id of the request that it answers.
    pub(super) fn to_response(&self, request_id: &str) -> HttpResponse {
        let mut body = String::new();
        let mut push = |name: &str, value: Value| {
            body.push(if body.is_empty() { '{' } else { ',' });
            body.push_str(&format!("{}:{value}", Value::from(name)));
        };
        push("type", format!("/problems/{}", self.code.replace('_', "-")).into());
        push("title", title_of(self.code).into());
        push("status", self.status.as_u16().into());
        push("detail", (*self.detail).into());
        push("code", self.code.into());
        for (name, value) in &self.members {
            push(name, value.clone());
        }
        push("request_id", request_id.into());
        body.push('}');
        let mut response = HttpResponseBuilder::new(self.status);
        let (content_type, body) = match &self.page {
            Some(page) => ("text/html; charset=utf-8", page.clone().into_string()),
            None => ("application/problem+json", body),
        };
        response.content_type(content_type).insert_header((header::CACHE_CONTROL, "no-store"));
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.as_str()));
        }
        response.body(body)
    }

    /// The problem of an answer that the HTTP library made by itself.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this address"),
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too large"),
            StatusCode::NOT_ACCEPTABLE => ("not_acceptable", "answers are sent as they are, or as br or gzip"),
            StatusCode::URI_TOO_LONG => ("target_too_long", "the address is too long"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "a body of this kind is not taken here"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("headers_too_large", "the header fields are too large"),
            StatusCode::REQUEST_TIMEOUT => ("body_timeout", "the body did not come in time"),
            status if status.is_client_error() => ("bad_request", "the request could not be read"),
            _ => ("internal", "something went wrong here; the log has the request_id"),
        };
        Self::new(status, code, detail)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// The outermost layer writes it again with the request's id, where it can.
    fn error_response(&self) -> HttpResponse {
        self.to_response(&self.request_id)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let challenge = |error: Self, value: &str| error.header(header::WWW_AUTHENTICATE, value.to_owned());
        match refusal {
            Refusal::BadHost => Self::bad_request("bad_host", detail),
            Refusal::ForeignHost => Self::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail),
            Refusal::ForeignOrigin => Self::new(StatusCode::FORBIDDEN, "foreign_origin", detail),
            Refusal::NoCredentials => {
                challenge(Self::new(StatusCode::UNAUTHORIZED, "no_credentials", detail), "Bearer")
            }
            Refusal::BadToken => challenge(
                Self::new(StatusCode::UNAUTHORIZED, "invalid_token", detail),
                "Bearer error=\"invalid_token\"",
            ),
            Refusal::InsufficientScope(scope) => challenge(
                Self::new(StatusCode::FORBIDDEN, "insufficient_scope", detail).with("scope", scope.as_str()),
                &format!("Bearer error=\"insufficient_scope\", scope=\"kahn:{}\"", scope.as_str()),
            ),
            // RFC 6750 has one word for whoever is known and may not: so has the challenge.
            Refusal::NoTenant => challenge(
                Self::new(StatusCode::FORBIDDEN, "insufficient_scope", detail),
                "Bearer error=\"insufficient_scope\"",
            ),
            Refusal::RateLimited { retry_after_s, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).after(retry_after_s)
            }
            Refusal::NeverFits { limit } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail).with("limit", limit)
            }
            Refusal::TooManyFailures { retry_after_s } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail).after(retry_after_s)
            }
            Refusal::OnlyInCloud => Self::only_in_cloud(),
            Refusal::NoSignIn => Self::new(StatusCode::NOT_FOUND, "no_sign_in", detail),
            Refusal::SignInFailed => Self::bad_request("sign_in_failed", detail),
            Refusal::Unavailable => Self::overloaded("credentials_unavailable", detail),
            Refusal::ProviderUnavailable { retry_after_s } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", detail).after(retry_after_s)
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, detail.clone());
        match error {
            StoreError::Conflict { seq, .. } => conflict("conflict").with("seq", seq),
            StoreError::Gap { next_seq, .. } => conflict("gap").with("next_seq", next_seq),
            StoreError::ForeignLog { .. } => conflict("foreign_log"),
            StoreError::GraphConflict { .. } => conflict("graph_conflict"),
            StoreError::Gone { .. } => Self::new(StatusCode::GONE, "gone", detail),
            StoreError::TooMuch { limit } => Self::too_large("batch_too_large", detail, limit),
            StoreError::ReadOnly => Self::new(StatusCode::FORBIDDEN, "read_only", detail),
            StoreError::NoSpace(cause) => {
                log::error!("a write failed: {cause}");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", detail)
            }
            StoreError::Unavailable(cause) => {
                log::error!("the storage does not answer: {cause}");
                Self::overloaded("storage_unavailable", detail)
            }
            StoreError::Failed(cause) => {
                log::error!("the storage failed: {cause}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_failed", detail)
            }
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let detail = error.to_string();
        match error {
            AccountError::UnknownKey => Self::new(StatusCode::NOT_FOUND, "unknown_key", detail),
            AccountError::DeadKey { .. } => Self::new(StatusCode::CONFLICT, "dead_key", detail),
            AccountError::TooManyKeys { key_ids, .. } => {
                Self::new(StatusCode::CONFLICT, "too_many_keys", detail).with("key_ids", key_ids)
            }
            AccountError::Store(error) => error.into(),
        }
    }
}

impl From<GraphError> for ApiError {
    fn from(error: GraphError) -> Self {
        let detail = error.to_string();
        match error {
            GraphError::TooLarge => Self::too_large("graph_too_large", detail, crate::domain::MAX_GRAPH_BYTES),
            GraphError::TooManyNodes => Self::too_large("graph_too_large", detail, crate::domain::MAX_GRAPH_NODES),
            GraphError::NotAnObject(_) => Self::bad_request("invalid_graph", detail),
        }
    }
}

/// A code as words.
pub(super) fn title_of(code: &str) -> String {
    let mut words = code.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

/// A list of names as the `allowed` member of a problem.
pub(super) fn allowed(names: &[&str]) -> Value {
    json!(names)
}
