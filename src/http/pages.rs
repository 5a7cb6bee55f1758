//! The UI's files, embedded in the binary.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use rust_embed::RustEmbed;

use super::answer::{self, Answer};
use super::error::ApiError;

#[derive(RustEmbed)]
#[folder = "src/ui/"]
struct Files;

pub(super) async fn index(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    file(&request, "index.html")
}

pub(super) async fn asset(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let name = request.match_info().get("file").unwrap_or("").to_owned();
    file(&request, &name)
}

fn file(request: &HttpRequest, name: &str) -> Result<HttpResponse, ApiError> {
    let nothing = || ApiError::of_status(StatusCode::NOT_FOUND);
    let file = Files::get(name).ok_or_else(nothing)?;
    let content_type = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => return Err(nothing()),
    };
    let etag = hex::encode(file.metadata.sha256_hash());
    let body = match file.data {
        std::borrow::Cow::Borrowed(bytes) => bytes::Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => bytes.into(),
    };
    Ok(answer::send(request, Answer { content_type, etag_source: &etag, headers: Vec::new() }, body))
}
