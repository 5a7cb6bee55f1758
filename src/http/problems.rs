//! GET /problems/{code}: what an error code means, and what mends it. `type` of every problem leads here.

mod table;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use self::table::TABLE;
use super::answer::{self, Answer};
use super::error::{ApiError, title_of};
use super::pages::Ui;
use crate::domain::id::sha256_hex;

/// A code, the statuses that it comes with, what it means, what mends it.
type Meaning = (&'static str, &'static [u16], &'static str, &'static str);

/// Every code that a problem may have, in the order of the alphabet.
pub fn problem_codes() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(code, ..)| *code)
}

/// A page for a browser, JSON for all else.
pub(super) async fn problem(request: HttpRequest, named: web::Path<String>) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct MeaningView<'a> {
        code: &'a str,
        title: String,
        status: &'a [u16],
        means: &'a str,
        mends: &'a str,
    }
    let fits = |code: &str| code.replace('_', "-") == *named;
    let (code, status, means, mends) =
        TABLE.iter().find(|(code, ..)| fits(code)).ok_or_else(|| ApiError::of_status(StatusCode::NOT_FOUND))?;
    let title = title_of(code);
    let headers = vec![(header::VARY, "Accept".to_owned())];
    if !wants_page(&request) {
        let body = answer::to_json(&MeaningView { code, title, status, means, mends })?;
        let etag = sha256_hex(&body);
        let answer = Answer { content_type: "application/json", etag_source: &etag, headers };
        return Ok(answer::send(&request, answer, body.into()));
    }
    let statuses: Vec<String> = status.iter().map(u16::to_string).collect();
    let main = format!(
        "<h1>{title}</h1>\n<p>{}</p>\n<p>{}</p>\n<p><code>{code}</code>, status {}. <a href=\"/docs\">The API</a></p>",
        escaped(means),
        escaped(mends),
        statuses.join(" or "),
    );
    let page = Ui::get().plain_page(&title, "", &main);
    let etag = sha256_hex(page.as_bytes());
    let answer = Answer { content_type: "text/html; charset=utf-8", etag_source: &etag, headers };
    Ok(answer::send(&request, answer, page.into()))
}

/// The client names HTML among what it takes.
pub(super) fn wants_page(request: &HttpRequest) -> bool {
    let taken = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    taken
        .flat_map(|value| value.split(','))
        .any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/html")
}

/// A text within HTML, outside of attributes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
