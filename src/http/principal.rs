//! Who asks: the facts of a request, and the door's verdict on it.

use std::sync::Arc;

use actix_web::dev::{Extensions, RequestHead};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest};

use super::error::ApiError;
use crate::contract::{Budget, Cost, Principal, Refusal, RequestFacts, Scope};
use crate::services::{Asker, Services};

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
        cookies: all(headers, &header::COOKIE),
        is_websocket,
        peer: head.peer_addr.map(|peer| peer.ip()),
        forwarded_for: all(headers, &HeaderName::from_static("x-forwarded-for")),
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

/// The principal, if it may do this; it costs one request.
pub(super) async fn authorize(services: &Services, request: &HttpRequest, scope: Scope) -> Result<Principal, ApiError> {
    let principal = authenticate(services, request).await?;
    principal.require(scope)?;
    Ok(principal)
}

/// The principal, whatever it may do; it costs one request.
pub(super) async fn authenticate(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let principal = identify(services, request).await?;
    charge(services, request, (&principal, Cost::Request)).await?;
    Ok(principal)
}

/// The principal, if it may bring events; what they cost is taken when they are counted.
pub(super) async fn authorize_ingest(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let principal = identify(services, request).await?;
    principal.require(Scope::Ingest)?;
    Ok(principal)
}

async fn identify(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let who = services.access.authenticate(&facts_of(request)).await?;
    request.extensions_mut().insert(Asker::from(&who));
    Ok(who)
}

/// Whose share of the room for answers a request takes from.
pub(super) fn asker(request: &HttpRequest) -> Asker {
    request.extensions().get::<Asker>().cloned().unwrap_or(Asker::STRANGER)
}

/// Asks again about somebody who was let in to write a while ago: a right that ended meanwhile stores nothing.
pub(super) async fn still_may(
    services: &Services,
    request: &HttpRequest,
    (who, scope): (&Principal, Scope),
) -> Result<(), ApiError> {
    let now = services.access.authenticate(&facts_of(request).without_origin_of_connection()).await?;
    now.require(scope)?;
    if now.tenant == who.tenant { Ok(()) } else { Err(Refusal::BadToken.into()) }
}

/// What the door looked at, or would.
pub(super) fn facts_of(request: &HttpRequest) -> Arc<RequestFacts> {
    let seen = request.extensions().get::<Arc<RequestFacts>>().map(Arc::clone);
    seen.unwrap_or_else(|| Arc::new(facts(request.head())))
}

/// Takes what a request costs. What is left then goes into the answer's head ([`budget_fields`]), whatever the answer is.
pub(super) async fn charge(
    services: &Services,
    request: &HttpRequest,
    (who, cost): (&Principal, Cost),
) -> Result<(), ApiError> {
    let charged = services.access.charge(who, cost).await;
    let left = match &charged {
        Ok(left) => *left,
        Err(Refusal::RateLimited { budget, .. }) => Some(*budget),
        Err(_) => None,
    };
    if let Some(left) = left {
        request.extensions_mut().insert(left);
    }
    charged?;
    Ok(())
}

/// RateLimit-Policy and RateLimit of what is left, where anything is limited.
pub(super) fn budget_fields(extensions: &Extensions) -> Option<[(HeaderName, HeaderValue); 2]> {
    let Budget { policy, burst, window_s, remaining, reset_s } = *extensions.get::<Budget>()?;
    // What is not counted in requests says so.
    let unit = if policy == "requests" { String::new() } else { format!(";qu=\"{policy}\"") };
    let policy_field = HeaderValue::try_from(format!("\"{policy}\";q={burst}{unit};w={window_s}")).ok()?;
    let left = HeaderValue::try_from(format!("\"{policy}\";r={remaining};t={reset_s}")).ok()?;
    Some([(HeaderName::from_static("ratelimit-policy"), policy_field), (HeaderName::from_static("ratelimit"), left)])
}
