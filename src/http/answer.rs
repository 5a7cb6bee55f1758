//! How an answer is sent: bytes, ETag, 304.

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use serde::Serialize;

use super::error::ApiError;
use super::room::{Held, Room};
use crate::domain::id::sha256_hex;
use crate::services::Services;

/// A JSON answer whose ETag is that of its own bytes.
pub(super) fn json(request: &HttpRequest, body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    Ok(json_bytes(request, to_json(body)?))
}

/// A JSON answer that is written already; its ETag is that of its own bytes.
pub(super) fn json_bytes(request: &HttpRequest, body: impl Into<Bytes>) -> HttpResponse {
    let body = body.into();
    let sha256 = sha256_hex(&body);
    json_of(request, &sha256, body)
}

/// A JSON answer whose SHA-256 is known already.
pub(super) fn json_of(request: &HttpRequest, sha256: &str, body: Bytes) -> HttpResponse {
    send(request, Answer { content_type: "application/json", etag_source: sha256, headers: Vec::new() }, body)
}

/// Does what takes long away from the threads that serve requests.
pub(super) async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    web::block(work).await.map_err(|error| {
        log::error!("an answer was not computed: {error}");
        ApiError::of_status(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// What is sent besides the body.
pub(super) struct Answer<'a> {
    /// The media type.
    pub(super) content_type: &'static str,
    /// A hash, in hex, of what the body is made of; the ETag is its first 16 digits.
    pub(super) etag_source: &'a str,
    /// Further headers.
    pub(super) headers: Vec<(HeaderName, String)>,
}

/// Answers up to this size count as nothing.
const SMALL: usize = 64 * 1024;

/// A 200 with this body, or a 304 when the client has it.
pub(super) fn send(request: &HttpRequest, answer: Answer<'_>, body: Bytes) -> HttpResponse {
    let Some(services) = request.app_data::<web::Data<Services>>().filter(|_| body.len() > SMALL) else {
        return send_held(request, answer, Held { bytes: body, room: None });
    };
    let mut room = Room::of_answers(services);
    match room.take(body.len()) {
        Ok(()) => send_held(request, answer, Held { bytes: body, room: Some(room) }),
        Err(busy) => HttpResponse::from_error(busy),
    }
}

/// The same with a body that has its room already.
pub(super) fn send_held(request: &HttpRequest, answer: Answer<'_>, body: Held) -> HttpResponse {
    let etag = format!("W/\"{}\"", answer.etag_source.get(..16).unwrap_or(answer.etag_source));
    let is_known = request
        .headers()
        .get_all(header::IF_NONE_MATCH)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag.trim_start_matches("W/"));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, etag)).insert_header((header::CACHE_CONTROL, "private, no-cache"));
    for (name, value) in answer.headers {
        response.insert_header((name, value));
    }
    if is_known { response.finish() } else { response.content_type(answer.content_type).body(body) }
}

/// A JSON answer with this status, never cached: the answer of a write.
pub(super) fn written(mut response: HttpResponseBuilder, body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    let body = to_json(body)?;
    Ok(response.insert_header((header::CACHE_CONTROL, "no-store")).content_type("application/json").body(body))
}

/// The bytes of a JSON answer.
pub(super) fn to_json(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|error| {
        log::error!("an answer could not be written as JSON: {error}");
        ApiError::of_status(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR)
    })
}
