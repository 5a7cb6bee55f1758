//! Who did what with a tenant's keys and settings: in pages, or all of it as lines.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

use super::answer::{self, Answer};
use super::billing::account;
use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use crate::contract::{Account, Activity, ActivityPosition, ActivityQuery, Principal, Scope, StoreError};
use crate::domain::id::sha256_hex;
use crate::services::Services;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Lines,
}

pub(super) async fn activity(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Admin).await?;
    let params = Params::parse(request.query_string(), &["limit", "cursor", "format"])?;
    let limit = params.int("limit", "invalid_limit", (1, MAX_LIMIT.into()))?;
    let behind = params.get("cursor").map(position).transpose()?;
    let formats = [("json", Format::Json), ("ndjson", Format::Lines)];
    let format = params.choice("format", "unknown_format", &formats)?.unwrap_or(Format::Json);
    if format == Format::Lines {
        if limit.is_some() || behind.is_some() {
            let detail = "format=ndjson is the whole activity; leave out limit and cursor";
            return Err(ApiError::bad_request("whole_export", detail));
        }
        return export(Arc::clone(account(&services)?), who).await;
    }
    let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(DEFAULT_LIMIT);
    page(&request, account(&services)?, (&who, ActivityQuery { behind, limit })).await
}

async fn page(
    request: &HttpRequest,
    account: &Arc<dyn Account>,
    (who, wanted): (&Principal, ActivityQuery),
) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct PageView {
        items: Vec<Activity>,
        next_cursor: Option<String>,
    }
    let limit = wanted.limit;
    // One more than wanted tells whether there is another page.
    let mut items = account.activity(who, ActivityQuery { limit: limit + 1, ..wanted }).await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > wanted;
    items.truncate(wanted);
    let next_cursor = items.last().filter(|_| more).map(|last| cursor(&last.position)).transpose()?;
    let link = next_cursor.as_ref().map(|next| format!("</api/activity?cursor={next}&limit={limit}>; rel=\"next\""));
    let body = answer::to_json(&PageView { items, next_cursor })?;
    let etag = sha256_hex(&body);
    let headers = link.into_iter().map(|link| (header::LINK, link)).collect();
    Ok(answer::send(request, Answer { content_type: "application/json", etag_source: &etag, headers }, body.into()))
}

/// A cursor: base64url of a place as JSON. Nothing in it is secret, and it leads nowhere but into the tenant's own entries.
fn cursor(position: &ActivityPosition) -> Result<String, ApiError> {
    Ok(URL_SAFE_NO_PAD.encode(answer::to_json(position)?))
}

fn position(cursor: &str) -> Result<ActivityPosition, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice::<ActivityPosition>(&bytes).ok())
        .filter(is_place)
        .ok_or_else(|| ApiError::bad_request("invalid_cursor", "this is no cursor of this server; start without one"))
}

/// Whether an entry could be there: what a cursor holds is whatever somebody sent.
fn is_place(position: &ActivityPosition) -> bool {
    // The end of the year 9999.
    const LAST_US: u64 = 253_402_300_799_999_999;
    position.at_us <= LAST_US
        && position.id.len() == 36
        && position.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// What of an export comes next.
enum Next {
    Page(Vec<Activity>),
    Behind(ActivityPosition),
    Nothing,
}

/// All of it, newest first, an entry a line: a page at a time, read when the one before it is on its way.
async fn export(account: Arc<dyn Account>, who: Principal) -> Result<HttpResponse, ApiError> {
    // Before the answer begins, so that it can still be a problem.
    let first = account.activity(&who, ActivityQuery { behind: None, limit: MAX_LIMIT }).await?;
    let pages = stream::try_unfold(Next::Page(first), move |next| {
        let (account, who) = (Arc::clone(&account), who.clone());
        async move {
            let page = match next {
                Next::Page(page) => page,
                Next::Behind(place) => read_on(&account, &who, place).await.map_err(ApiError::from)?,
                Next::Nothing => Vec::new(),
            };
            let lines = lines(&page)?;
            let is_full = page.len() >= usize::try_from(MAX_LIMIT).unwrap_or(usize::MAX);
            let next = match page.into_iter().last() {
                // Nothing must be sent of it: an empty piece would end the answer by itself.
                None => return Ok::<_, actix_web::Error>(None),
                Some(last) if is_full => Next::Behind(last.position),
                Some(_) => Next::Nothing,
            };
            Ok(Some((lines, next)))
        }
    });
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"activity.ndjson\""))
        .streaming(pages))
}

async fn read_on(
    account: &Arc<dyn Account>,
    who: &Principal,
    behind: ActivityPosition,
) -> Result<Vec<Activity>, StoreError> {
    let wanted = ActivityQuery { behind: Some(behind), limit: MAX_LIMIT };
    account.activity(who, wanted).await.inspect_err(|error| {
        // The answer has begun, and ends here without its end.
        log::error!("an export of the activity was cut off: {error}");
    })
}

fn lines(page: &[Activity]) -> Result<Bytes, ApiError> {
    let mut lines = Vec::new();
    for entry in page {
        lines.extend(answer::to_json(entry)?);
        lines.push(b'\n');
    }
    Ok(lines.into())
}
