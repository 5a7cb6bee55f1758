//! Who asks: the facts of a request, and the door's verdict on it.

use std::sync::Arc;

use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::{HttpMessage as _, HttpRequest, dev::RequestHead};

use super::error::ApiError;
use crate::contract::{Principal, RequestFacts, Scope};
use crate::services::Services;

/// What the door looks at.
pub(super) fn facts(head: &RequestHead) -> RequestFacts {
    let headers = head.headers();
    // As loosely as the library that shakes hands.
    let is_websocket =
        all(headers, &header::UPGRADE).iter().any(|value| value.to_ascii_lowercase().contains("websocket"));
    let offered = offered_bearer(headers).filter(|_| is_websocket).map(|token| format!("Bearer {token}"));
    RequestFacts {
        method: head.method.as_str().to_owned(),
        target_authority: head.uri.authority().map(|authority| authority.as_str().to_owned()),
        hosts: all(headers, &header::HOST),
        origins: all(headers, &header::ORIGIN),
        fetch_site: Some(all(headers, &HeaderName::from_static("sec-fetch-site")).join(", "))
            .filter(|site| !site.is_empty()),
        authorizations: all(headers, &header::AUTHORIZATION).into_iter().chain(offered).collect(),
        is_websocket,
    }
}

/// The protocol under which a page offers its token with the handshake: a browser's WebSocket takes no Authorization.
pub(super) const BEARER_PROTOCOL: &str = "kahn.bearer";

/// The token behind [`BEARER_PROTOCOL`] (security.md, bearer tokens: sockets).
pub(super) fn offered_bearer(headers: &HeaderMap) -> Option<String> {
    let offered = all(headers, &header::SEC_WEBSOCKET_PROTOCOL).join(",");
    let (protocol, token) = offered.split_once(',')?;
    (protocol.trim() == BEARER_PROTOCOL).then(|| token.trim().to_owned())
}

fn all(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers.get_all(name).map(|value| value.to_str().unwrap_or("").to_owned()).collect()
}

/// The principal, if it may do this.
pub(super) async fn authorize(services: &Services, request: &HttpRequest, scope: Scope) -> Result<Principal, ApiError> {
    let principal = authenticate(services, request).await?;
    principal.require(scope)?;
    Ok(principal)
}

/// The principal, whatever it may do.
pub(super) async fn authenticate(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    // The door looked already, where there is one.
    let seen = request.extensions().get::<Arc<RequestFacts>>().map(Arc::clone);
    let facts = seen.unwrap_or_else(|| Arc::new(facts(request.head())));
    Ok(services.access.authenticate(&facts).await?)
}
