//! GET /api/runs/{run_id}/diagnostics: what to look at in one run.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::answer;
use super::error::ApiError;
use super::held::{self, Question, finished_json, query};
use super::moment::{Asked, Moment, run_id};
use super::principal::authorize;
use crate::contract::{About, Principal, Scope};
use crate::domain::RunId;
use crate::insight::diagnostics::{Diagnostics, Finding, Look, diagnose};
use crate::memory::{Finished, Span};
use crate::services::Services;

pub(super) async fn diagnostics(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let run_id = run_id(&request)?;
    let answer = diagnostics_of(&services, (&who, &run_id), held::target(&request)).await?;
    Ok(held::send(&request, &answer))
}

/// What is answered to this target, the address of a run's diagnostics with its query.
pub(super) async fn diagnostics_of(
    services: &Services,
    (who, run_id): (&Principal, &RunId),
    target: &str,
) -> Result<Arc<Finished>, ApiError> {
    let question = Question::of(services, who, target, About::Run(run_id));
    if let Some((_, answer)) = question.held() {
        return Ok(answer);
    }
    let moment = Asked::of((who, run_id), query(target), question.now)?.moment(services).await?;
    let stall_after_ms = services.settings.stall_after_ms;
    let is_timeless = moment.is_timeless;
    let body = answer::computed(move || diagnostics_json(&moment, stall_after_ms)).await??;
    if is_timeless { Ok(question.hold_json(Span::ALWAYS, body)) } else { Ok(Arc::new(finished_json(body))) }
}

fn diagnostics_json(moment: &Moment, stall_after_ms: u64) -> Result<Vec<u8>, ApiError> {
    let look = Look { state: &moment.state, graph: moment.current.graph.as_deref(), now: moment.now, stall_after_ms };
    let Diagnostics { verdict, findings } = diagnose(&look);
    answer::to_json(&DiagnosticsView { at_seq: moment.at_seq(), verdict: &verdict, findings: &findings })
}

/// The verdict and the findings behind it.
#[derive(Debug, Serialize)]
struct DiagnosticsView<'a> {
    at_seq: Option<u64>,
    verdict: &'a str,
    findings: &'a [Finding<'a>],
}
