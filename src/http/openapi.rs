//! GET /openapi.json: the description of every route, and GET /docs: the page to read it. Both builds have the same.

use std::io::Read as _;
use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use flate2::read::GzDecoder;

use super::answer::{self, Answer};
use super::error::ApiError;
use super::pages::Ui;
use super::params::Params;
use crate::domain::id::sha256_hex;

/// Written by hand; a test holds routes, parameters, codes and answers against it.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

/// The document and its hash.
static DOCUMENT: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let mut document = Vec::new();
    if let Err(error) = GzDecoder::new(PACKED).read_to_end(&mut document) {
        log::error!("the description of the API cannot be unpacked: {error}");
    }
    let hash = sha256_hex(&document);
    (document.into(), hash)
});

pub(super) async fn document(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    let (document, hash) = &*DOCUMENT;
    let answer = Answer { content_type: "application/json", etag_source: hash, headers: Vec::new() };
    Ok(answer::send(&request, answer, document.clone()))
}

pub(super) async fn docs(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    const MAIN: &str = "<h1>The API of kahn</h1>\n<p id=\"docs-state\" role=\"status\">Reads <a href=\"/openapi.json\">/openapi.json</a>.</p>\n\
                        <noscript><p>This page needs JavaScript; the document itself is at <a href=\"/openapi.json\">/openapi.json</a>.</p></noscript>\n\
                        <div id=\"docs\"></div>";
    let page = Ui::get().plain_page("API", "docs", MAIN);
    let etag = sha256_hex(page.as_bytes());
    let answer = Answer { content_type: "text/html; charset=utf-8", etag_source: &etag, headers: Vec::new() };
    Ok(answer::send(&request, answer, page.into()))
}
