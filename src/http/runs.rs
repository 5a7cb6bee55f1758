//! One run: its state, its log, its graph, what could not be read of it.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{BufMut, BytesMut};
use futures_util::future::try_join;

use super::answer::{self, Answer};
use super::error::ApiError;
use super::held::{self, Question, query};
use super::moment::{Asked, run_id};
use super::params::Params;
use super::principal::authorize;
use super::room::{Room, Roomy};
use super::view::{ProblemsView, RunView};
use crate::contract::{About, Principal, ReadLimit, Scope};
use crate::domain::id::sha256_hex;
use crate::domain::{MAX_GRAPH_BYTES, MAX_INT, MAX_LINE_BYTES, RunId};
use crate::memory::{Finished, Span};
use crate::services::Services;

const DEFAULT_EVENTS: u64 = 500;
const MAX_EVENTS: u64 = 5000;
/// A page of events ends with the line that passes this, however many were asked for; Kahn-Next-Seq goes on.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

pub(super) async fn state(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let run_id = run_id(&request)?;
    let answer = state_of(&services, (&who, &run_id), held::target(&request)).await?;
    Ok(held::send(&request, &answer))
}

/// What is answered to this target, a run's own address with its query.
pub(super) async fn state_of(
    services: &Services,
    (who, run_id): (&Principal, &RunId),
    target: &str,
) -> Result<Arc<Finished>, ApiError> {
    let question = Question::of(services, who, target, About::Run(run_id));
    if let Some((_, answer)) = question.held() {
        return Ok(answer);
    }
    let asked = Asked::of((who, run_id), query(target), question.now)?;
    // At the same time: each is a way to the storage and back.
    let (spawned, moment) =
        try_join(async { Ok(services.store.spawned(who, run_id).await?) }, asked.moment(services)).await?;
    let summary = moment.summary();
    let stall_after_ms = services.settings.stall_after_ms;
    // Of now the page has only whether the run is stalled.
    let span = if moment.is_timeless {
        Span::ALWAYS
    } else {
        Span::from(moment.now, summary.stalls_at(stall_after_ms).filter(|at| *at > moment.now))
    };
    let body = answer::to_json(&RunView::of(&moment, &summary, &spawned, stall_after_ms))?;
    Ok(question.hold_json(span, body))
}

pub(super) async fn events(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let params = Params::parse(request.query_string(), &["from_seq", "limit", "as_of"])?;
    params.ts("as_of", "invalid_as_of")?;
    let from_seq = params.int("from_seq", "invalid_from_seq", (0, MAX_INT))?.unwrap_or(0);
    let limit = params.int("limit", "invalid_limit", (1, MAX_EVENTS))?.unwrap_or(DEFAULT_EVENTS);
    let run_id = run_id(&request)?;
    let read_limit = ReadLimit { lines: usize::try_from(limit).unwrap_or(usize::MAX), bytes: MAX_EVENT_BYTES };
    let most = (MAX_EVENT_BYTES + MAX_LINE_BYTES).min(read_limit.lines.saturating_mul(MAX_LINE_BYTES + 1));
    let mut room = Room::of_stored(&services, &who);
    // The lines, and the body that is made of them.
    room.wait(2 * most).await?;
    let page = services.store.read(&who, &run_id, from_seq, read_limit).await?.ok_or_else(ApiError::unknown_run)?;
    let next = from_seq.min(page.next_seq) + page.lines.len() as u64;
    let log_id = page.log_id.as_ref().map_or("", |log_id| log_id.as_str());
    let mut body = BytesMut::with_capacity(page.lines.iter().map(|line| line.len() + 1).sum());
    for line in &page.lines {
        body.put_slice(line);
        body.put_u8(b'\n');
    }
    let mut headers = vec![(HeaderName::from_static("kahn-next-seq"), next.to_string())];
    headers.extend(page.log_id.iter().map(|log_id| (HeaderName::from_static("kahn-log-id"), log_id.to_string())));
    if next < page.next_seq {
        let link = format!("</api/runs/{run_id}/events?from_seq={next}&limit={limit}>; rel=\"next\"");
        headers.push((header::LINK, link));
    }
    let etag = sha256_hex(format!("{log_id}:{from_seq}:{next}").as_bytes());
    room.shrink_to(body.len());
    let answer = Answer { content_type: "application/x-ndjson", etag_source: &etag, headers };
    Ok(answer::send_held(&request, answer, Roomy::new(body.freeze(), room).into()))
}

pub(super) async fn graph(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    Params::parse(request.query_string(), &["as_of"])?.ts("as_of", "invalid_as_of")?;
    let (graph, sha256) = graph_of(&services, &who, &run_id(&request)?).await?;
    let answer = Answer { content_type: "application/json", etag_source: &sha256, headers: Vec::new() };
    Ok(answer::send_held(&request, answer, graph.into()))
}

/// The bytes of a run's graph.json, and their hash.
pub(super) async fn graph_of(
    services: &Services,
    who: &Principal,
    run_id: &RunId,
) -> Result<(Roomy, String), ApiError> {
    let mut room = Room::of_stored(services, who);
    room.wait(MAX_GRAPH_BYTES).await?;
    let graph = services.store.graph(who, run_id).await?.ok_or_else(ApiError::unknown_run)?;
    let graph = graph.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "no_graph", "this run has no graph.json"))?;
    room.shrink_to(graph.bytes.len());
    Ok((Roomy::new(graph.bytes, room), graph.sha256))
}

pub(super) async fn problems(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    Params::parse(request.query_string(), &["as_of"])?.ts("as_of", "invalid_as_of")?;
    let run_id = run_id(&request)?;
    let found = services.store.problems(&who, &run_id).await?.ok_or_else(ApiError::unknown_run)?;
    let view = ProblemsView { ledger: found.ledger, items: &found.items, truncated: found.truncated };
    answer::json(&request, &view)
}
