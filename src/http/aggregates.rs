//! What holds across runs: agents, audits, nodes.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::answer;
use super::error::ApiError;
use super::params::{Params, Window};
use super::principal::authorize;
use crate::contract::{Principal, Scope, Selection};
use crate::domain::event::{AuditResult, Kind};
use crate::domain::id::sha256_hex;
use crate::domain::{RunId, Timestamp};
use crate::insight::agents::{self, AgentOrder, AgentRow};
use crate::insight::flakiness::{self, AuditRow, NodeRow};
use crate::memory::HeldAnswer;
use crate::reduce::{NodeOutcome, Summary, UsageSum};
use crate::services::Services;

const ORDERS: &[(&str, AgentOrder)] = &[("severity", AgentOrder::Severity), ("busiest", AgentOrder::Busiest)];

pub(super) async fn agents(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = reader_of_agents(&services, &request).await?;
    let params = Params::parse(request.query_string(), &["window", "sort", "as_of"])?;
    let window = window(&params, &services)?;
    let order = params.choice("sort", "unknown_sort", ORDERS)?.unwrap_or(AgentOrder::Severity);
    let name = if order == AgentOrder::Busiest { "busiest agents" } else { "agents" };
    // All of history, whatever the window: a regression is measured by what came before.
    let selection = Selection { of_agents: true, ..Selection::default() };
    let question = Question { name, window, selection };
    answer(&request, (&services, &who), question, move |runs| {
        let rows = agents::agents(runs, window.from, order);
        view(window, rows.iter().map(AgentRowView::of))
    })
    .await
}

pub(super) async fn audits(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = reader_of_agents(&services, &request).await?;
    let params = Params::parse(request.query_string(), &["window", "as_of"])?;
    let window = window(&params, &services)?;
    let selection = Selection { last_event_from: window.from, ..Selection::default() };
    let question = Question { name: "audits", window, selection };
    answer(&request, (&services, &who), question, move |runs| {
        let rows = flakiness::audits(runs, window.from);
        view(window, rows.iter().map(AuditRowView::of))
    })
    .await
}

pub(super) async fn nodes(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let params = Params::parse(request.query_string(), &["window", "as_of"])?;
    let window = window(&params, &services)?;
    let selection = Selection { kind: Some(Kind::Ci), last_event_from: window.from, ..Selection::default() };
    let question = Question { name: "nodes", window, selection };
    answer(&request, (&services, &who), question, move |runs| {
        let rows = flakiness::nodes(runs, window.from);
        view(window, rows.iter().map(NodeRowView::of))
    })
    .await
}

/// What is asked of all runs.
struct Question {
    /// Tells it from the others.
    name: &'static str,
    window: Window,
    selection: Selection,
}

/// The answer that is held, if it still holds; else it is computed, by one request for all who ask at the same time.
async fn answer(
    request: &HttpRequest,
    (services, who): (&Services, &Principal),
    question: Question,
    rows: impl FnOnce(&[Arc<Summary>]) -> Result<Vec<u8>, ApiError> + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    let Question { name, window, selection } = question;
    let compute = |revision: u64| async move {
        let runs = services.store.summaries(who, selection).await?;
        answer::computed(move || {
            let body = rows(&runs)?;
            let in_window = runs.iter().filter_map(|run| run.last_event).filter(|last| Some(*last) >= window.from);
            let until = window.from.and_then(|_| in_window.min());
            let sha256 = sha256_hex(&body);
            Ok::<_, ApiError>(HeldAnswer { revision, from: window.from, until, body: body.into(), sha256 })
        })
        .await?
    };
    // Read before the runs: what changes meanwhile makes the answer newer than it says, never older.
    let Some(revision) = services.store.revision(who) else {
        let HeldAnswer { sha256, body, .. } = compute(0).await?;
        return Ok(answer::json_of(request, &sha256, body));
    };
    let slot = services.held.slot(who, &format!("{name} {}", window.name));
    let mut held = slot.lock().await;
    let answer = match held.take().filter(|held| held.holds(revision, window.from)) {
        Some(answer) => answer,
        None => compute(revision).await?,
    };
    let response = answer::json_of(request, &answer.sha256, answer.body.clone());
    *held = Some(answer);
    Ok(response)
}

fn view<T: Serialize>(window: Window, items: impl Iterator<Item = T>) -> Result<Vec<u8>, ApiError> {
    answer::to_json(&AggregateView { window: window.name, items: items.collect() })
}

/// A reader, where agents and audits are shown.
async fn reader_of_agents(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let who = authorize(services, request, Scope::Read).await?;
    if services.settings.agent_views { Ok(who) } else { Err(ApiError::agent_views_off()) }
}

fn window(params: &Params, services: &Services) -> Result<Window, ApiError> {
    let now = params.ts("as_of", "invalid_as_of")?.unwrap_or_else(|| services.clock.now());
    params.window(now)
}

/// Rows over a window.
#[derive(Debug, Serialize)]
struct AggregateView<T> {
    window: &'static str,
    items: Vec<T>,
}

#[derive(Debug, Serialize)]
struct AgentRowView<'a> {
    agent_id: &'a str,
    run_count: u64,
    outcomes: OutcomesView,
    duration_p50_s: Option<f64>,
    duration_p95_s: Option<f64>,
    mean_convergence_score: Option<f64>,
    convergence_scores: &'a [f64],
    last_seen: Option<Timestamp>,
    in_flight: u64,
    models: &'a [String],
    usage: Option<UsageSum>,
    regression: bool,
    severity: u64,
}

#[derive(Debug, Serialize)]
struct OutcomesView {
    converged: u64,
    partial: u64,
    escaped: u64,
    aborted: u64,
    unknown: u64,
}

impl<'a> AgentRowView<'a> {
    fn of(row: &'a AgentRow) -> Self {
        Self {
            agent_id: &row.agent_id,
            run_count: row.run_count,
            outcomes: OutcomesView {
                converged: row.outcomes.converged,
                partial: row.outcomes.partial,
                escaped: row.outcomes.escaped,
                aborted: row.outcomes.aborted,
                unknown: row.outcomes.unknown,
            },
            duration_p50_s: row.duration_p50_s,
            duration_p95_s: row.duration_p95_s,
            mean_convergence_score: row.mean_convergence_score,
            convergence_scores: &row.convergence_scores,
            last_seen: row.last_seen,
            in_flight: row.in_flight,
            models: &row.models,
            usage: row.usage,
            regression: row.regression,
            severity: row.severity,
        }
    }
}

#[derive(Debug, Serialize)]
struct AuditRowView<'a> {
    checkpoint_id: &'a str,
    pass: u64,
    fail: u64,
    warn: u64,
    total: u64,
    flakiness: f64,
    n: u64,
    transitions: u64,
    flip_rate: f64,
    p_low: Option<f64>,
    p_high: Option<f64>,
    verdict: &'static str,
    last_fail_run_id: Option<&'a RunId>,
    recent: &'a [AuditResult],
}

impl<'a> AuditRowView<'a> {
    fn of(row: &'a AuditRow) -> Self {
        Self {
            checkpoint_id: &row.checkpoint_id,
            pass: row.pass,
            fail: row.fail,
            warn: row.warn,
            total: row.pass + row.fail + row.warn,
            flakiness: row.flakiness,
            n: row.pass + row.fail,
            transitions: row.transitions,
            flip_rate: row.flip_rate,
            p_low: row.interval.map(|(low, _)| low),
            p_high: row.interval.map(|(_, high)| high),
            verdict: row.verdict.as_str(),
            last_fail_run_id: row.last_fail_run_id.as_ref(),
            recent: &row.recent,
        }
    }
}

#[derive(Debug, Serialize)]
struct NodeRowView<'a> {
    node_id: &'a str,
    runs: u64,
    done_first_try: u64,
    done_after_retry: u64,
    failed: u64,
    blocked: u64,
    flake_rate: f64,
    lost_s: f64,
    n: u64,
    transitions: u64,
    verdict: &'static str,
    last_flake_run_id: Option<&'a RunId>,
    recent: &'a [NodeOutcome],
}

impl<'a> NodeRowView<'a> {
    fn of(row: &'a NodeRow) -> Self {
        Self {
            node_id: &row.node_id,
            runs: row.runs,
            done_first_try: row.done_first_try,
            done_after_retry: row.done_after_retry,
            failed: row.failed,
            blocked: row.blocked,
            flake_rate: row.flake_rate,
            lost_s: row.lost_s,
            n: row.done_first_try + row.done_after_retry + row.failed,
            transitions: row.transitions,
            verdict: row.verdict.as_str(),
            last_flake_run_id: row.last_flake_run_id.as_ref(),
            recent: &row.recent,
        }
    }
}
