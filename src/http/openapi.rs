//! GET /openapi.json: the description of every route, and GET /docs: the page to read it. Both builds have the same.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

use super::answer::{self, Answer};
use super::error::ApiError;
use super::pages::Ui;
use super::params::Params;
use crate::domain::id::sha256_hex;

/// Written by hand; a test holds routes, parameters, codes and answers against it.
const DOCUMENT: &[u8] = include_bytes!("openapi.json");
static HASH: LazyLock<String> = LazyLock::new(|| sha256_hex(DOCUMENT));

pub(super) async fn document(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    let answer = Answer { content_type: "application/json", etag_source: &HASH, headers: Vec::new() };
    Ok(answer::send(&request, answer, Bytes::from_static(DOCUMENT)))
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
