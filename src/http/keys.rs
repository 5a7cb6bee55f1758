//! A tenant's API keys. A key itself is in one answer, the one to its making, and nowhere else.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::answer;
use super::app::MAX_BODY_BYTES;
use super::billing::account;
use super::error::ApiError;
use super::ingest::{read_body, require_content_type};
use super::params::Params;
use super::principal::authorize;
use super::room::Room;
use crate::contract::{Key, KeyScope, Principal, Scope, WantedKey};
use crate::services::Services;

/// The most characters of a label.
const LONGEST_LABEL: usize = 64;

pub(super) async fn keys(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct KeysView {
        items: Vec<Key>,
    }
    let who = admin(&services, &request).await?;
    answer::json(&request, &KeysView { items: account(&services)?.keys(&who).await? })
}

pub(super) async fn make(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&services, &request).await?;
    let account = account(&services)?;
    require_content_type(&request, "application/json")?;
    let wanted = wanted(&body(&request, (&services, &who), payload).await?)?;
    answer::written(HttpResponse::Created(), &account.make_key(&who, wanted).await?)
}

pub(super) async fn rotate(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&services, &request).await?;
    let account = account(&services)?;
    nothing(&body(&request, (&services, &who), payload).await?)?;
    answer::written(HttpResponse::Created(), &account.rotate_key(&who, key_id(&request)).await?)
}

pub(super) async fn revoke(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&services, &request).await?;
    let account = account(&services)?;
    nothing(&body(&request, (&services, &who), payload).await?)?;
    account.revoke_key(&who, key_id(&request)).await?;
    Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish())
}

/// The admin; these addresses take no parameter.
async fn admin(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let who = authorize(services, request, Scope::Admin).await?;
    Params::parse(request.query_string(), &[])?;
    Ok(who)
}

fn key_id(request: &HttpRequest) -> &str {
    request.match_info().get("key_id").unwrap_or_default()
}

async fn body(
    request: &HttpRequest,
    (services, who): (&Services, &Principal),
    payload: web::Payload,
) -> Result<Bytes, ApiError> {
    read_body(request, payload, &mut Room::of_ingest(services, who), ("body_too_large", MAX_BODY_BYTES)).await
}

/// The address says all: a body would be a wish that nobody reads.
fn nothing(body: &Bytes) -> Result<(), ApiError> {
    if body.is_empty() { Ok(()) } else { Err(ApiError::bad_request("unexpected_body", "this is asked without a body")) }
}

fn wanted(body: &Bytes) -> Result<WantedKey, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        label: String,
        scope: KeyScope,
    }
    let invalid = |detail: String| ApiError::bad_request("invalid_key", detail);
    // The parser's words are about the body alone, and short: names that it does not know are its longest part.
    let Wanted { label, scope } = serde_json::from_slice(body).map_err(|error| {
        let reason: String = error.to_string().chars().take(200).collect();
        invalid(format!(
            "the body is {{\"label\": TEXT, \"scope\": \"ingest\" or \"read\"}} and nothing else ({reason})"
        ))
    })?;
    let label = label.trim();
    let length = label.chars().count();
    if !(1..=LONGEST_LABEL).contains(&length) || !label.chars().all(is_printable) {
        return Err(invalid(format!("a label has 1 to {LONGEST_LABEL} printable characters")));
    }
    Ok(WantedKey { label: label.to_owned(), scope })
}

/// Neither a control character nor one that turns the direction of a text or hides in it.
fn is_printable(character: char) -> bool {
    let is_hidden = matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e007f}');
    !character.is_control() && !is_hidden
}
