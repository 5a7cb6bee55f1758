//! How an answer is sent: bytes, ETag, 304.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use serde::Serialize;

use super::error::ApiError;
use super::principal::asker;
use super::room::{Held, Room, Roomy};
use crate::domain::id::sha256_hex;
use crate::services::Services;

/// A JSON answer whose ETag is that of its own bytes.
pub(super) fn json(request: &HttpRequest, body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    Ok(json_bytes(request, to_json(body)?))
}

/// A JSON answer that is written already; its ETag is that of its own bytes.
pub(super) fn json_bytes(request: &HttpRequest, body: impl Into<Bytes>) -> HttpResponse {
    let body = body.into();
    let etag = sha256_hex(&body);
    send(request, Answer { content_type: "application/json", etag_source: &etag, headers: Vec::new() }, body)
}

/// Does what takes long away from the threads that serve requests.
pub(super) async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    web::block(work).await.map_err(|error| {
        log::error!("an answer was not computed: {error}");
        ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR)
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

/// The ETag of what has this hash, in hex.
pub(super) fn etag(source: &str) -> String {
    format!("W/\"{}\"", source.get(..16).unwrap_or(source))
}

/// A 200 with this body, or a 304 when the client has it.
pub(super) fn send(request: &HttpRequest, answer: Answer<'_>, body: Bytes) -> HttpResponse {
    match roomy(request, body) {
        Ok(body) => send_held(request, answer, body),
        Err(busy) => HttpResponse::from_error(busy),
    }
}

/// The same with a body that has its room already.
pub(super) fn send_held(request: &HttpRequest, answer: Answer<'_>, body: Held) -> HttpResponse {
    let mut response = head(request, etag(answer.etag_source).into());
    for (name, value) in answer.headers {
        response.insert_header((name, value));
    }
    finish(response, answer.content_type, body)
}

/// A body with the room that it takes.
pub(super) fn roomy(request: &HttpRequest, bytes: Bytes) -> Result<Held, ApiError> {
    let Some(services) = request.app_data::<web::Data<Services>>().filter(|_| bytes.len() > SMALL) else {
        return Ok(Held::Small(bytes));
    };
    let mut room = Room::of_answers(services, asker(request));
    room.take(bytes.len())?;
    Ok(Roomy::new(bytes, room).into())
}

/// Status, ETag and Cache-Control: 304 when the client has what this ETag names, else 200.
pub(super) fn head(request: &HttpRequest, etag: Bytes) -> HttpResponseBuilder {
    let bare = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let known = request.headers().get_all(header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || bare(tag.trim().as_bytes()) == bare(&etag));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    // Quotes and hex digits are a header's value.
    if let Ok(etag) = HeaderValue::from_maybe_shared(etag) {
        response.insert_header((header::ETAG, etag));
    }
    response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")));
    response
}

/// The rest of an answer that was begun with [`head`].
pub(super) fn finish(mut response: HttpResponseBuilder, content_type: &'static str, body: Held) -> HttpResponse {
    let mut response = response.finish();
    if response.status() == StatusCode::NOT_MODIFIED {
        return response;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.set_body(BoxBody::new(body))
}

/// A JSON answer with this status, never cached: the answer of a write.
pub(super) fn written(mut response: HttpResponseBuilder, body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    let body = to_json(body)?;
    Ok(response.insert_header((header::CACHE_CONTROL, "no-store")).content_type("application/json").body(body))
}

/// The bytes of a JSON answer.
pub(super) fn to_json(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|error| broken(&error))
}

/// An answer that could not be written: the log says why.
pub(super) fn broken(error: &dyn std::fmt::Display) -> ApiError {
    log::error!("an answer could not be written: {error}");
    ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR)
}
