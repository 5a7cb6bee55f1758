//! What holds across runs: agents, audits, nodes.

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use serde::Serialize;

use super::answer;
use super::error::ApiError;
use super::held::{self, Question};
use super::params::{Params, Window};
use super::principal::authorize;
use crate::contract::{About, Principal, Scope, Selection, leaves_window_at};
use crate::domain::event::{AuditResult, Kind};
use crate::domain::{RunId, Timestamp};
use crate::insight::Gather;
use crate::insight::agents::{AgentOrder, AgentRow, Agents};
use crate::insight::flakiness::{AuditRow, Checkpoints, NodeRow, Nodes};
use crate::memory::Span;
use crate::reduce::{NodeOutcome, Summary, UsageSum};
use crate::services::Services;

const ORDERS: &[(&str, AgentOrder)] = &[("severity", AgentOrder::Severity), ("busiest", AgentOrder::Busiest)];

pub(super) async fn agents(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = reader_of_agents(&services, &request).await?;
    let question = Question::of(&services, &who, held::target(&request), About::Everything);
    if let Some((_, answer)) = question.held() {
        return Ok(held::send(&request, &answer));
    }
    let params = Params::parse(request.query_string(), &["window", "sort", "as_of"])?;
    let (window, sameness) = window(&params, question.now)?;
    let order = params.choice("sort", "unknown_sort", ORDERS)?.unwrap_or(AgentOrder::Severity);
    // All of history, whatever the window: a regression is measured by what came before.
    let selection = Selection { of_agents: true, ..Selection::default() };
    let agents = Agents::since(window.from);
    answer(&request, (&services, &who), (selection, sameness), agents, move |agents| {
        view(window, agents.rows(order).iter().map(AgentRowView::of))
    })
    .await
}

pub(super) async fn audits(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = reader_of_agents(&services, &request).await?;
    let question = Question::of(&services, &who, held::target(&request), About::Everything);
    if let Some((_, answer)) = question.held() {
        return Ok(held::send(&request, &answer));
    }
    let params = Params::parse(request.query_string(), &["window", "as_of"])?;
    let (window, sameness) = window(&params, question.now)?;
    let selection = Selection { last_event_from: window.from, ..Selection::default() };
    let checkpoints = Checkpoints::since(window.from);
    answer(&request, (&services, &who), (selection, sameness), checkpoints, move |checkpoints| {
        view(window, checkpoints.rows().iter().map(AuditRowView::of))
    })
    .await
}

pub(super) async fn nodes(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let question = Question::of(&services, &who, held::target(&request), About::Everything);
    if let Some((_, answer)) = question.held() {
        return Ok(held::send(&request, &answer));
    }
    let params = Params::parse(request.query_string(), &["window", "as_of"])?;
    let (window, sameness) = window(&params, question.now)?;
    let selection = Selection { kind: Some(Kind::Ci), last_event_from: window.from, ..Selection::default() };
    let nodes = Nodes::since(window.from);
    answer(&request, (&services, &who), (selection, sameness), nodes, move |nodes| {
        view(window, nodes.rows().iter().map(NodeRowView::of))
    })
    .await
}

/// The answer, made by one request for all who ask the same at the same time.
async fn answer<G: Gather + Send + 'static>(
    request: &HttpRequest,
    (services, who): (&Services, &Principal),
    (selection, mut sameness): (Selection, Sameness),
    mut gathered: G,
    rows: impl FnOnce(G) -> Result<Vec<u8>, ApiError> + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    let ask = || Question::of(services, who, held::target(request), About::Everything);
    let _turn = ask().turn().await;
    let question = ask();
    if let Some((_, answer)) = question.held() {
        return Ok(held::send(request, &answer));
    }
    let mut summaries = services.store.summaries(who, selection).await?;
    while let Some(some) = summaries.next().await {
        let some = some?;
        (gathered, sameness) = answer::computed(move || {
            for run in &some {
                gathered.take(run);
                sameness.take(run);
            }
            (gathered, sameness)
        })
        .await?;
    }
    let body = answer::computed(move || rows(gathered)).await??;
    Ok(held::send(request, &question.hold_json(sameness.span(), body)))
}

fn view<T: Serialize>(window: Window, items: impl Iterator<Item = T>) -> Result<Vec<u8>, ApiError> {
    answer::to_json(&AggregateView { window: window.name, items: items.collect() })
}

/// A reader, where agents and audits are shown.
async fn reader_of_agents(services: &Services, request: &HttpRequest) -> Result<Principal, ApiError> {
    let who = authorize(services, request, Scope::Read).await?;
    if services.settings.agent_views { Ok(who) } else { Err(ApiError::agent_views_off()) }
}

/// The window, and when the same runs are in it.
fn window(params: &Params, asked_now: Timestamp) -> Result<(Window, Sameness), ApiError> {
    let as_of = params.ts("as_of", "invalid_as_of")?;
    let window = params.window(as_of.unwrap_or(asked_now))?;
    let from = window.from.filter(|_| as_of.is_none());
    Ok((window, Sameness { from, now: asked_now, leaves_at: None }))
}

/// A window that moves with now; or none, or one that the request says where it ends.
#[derive(Debug, Clone, Copy)]
struct Sameness {
    from: Option<Timestamp>,
    now: Timestamp,
    /// When the first of the runs leaves the window.
    leaves_at: Option<Timestamp>,
}

impl Sameness {
    fn take(&mut self, run: &Summary) {
        let leaves_at = self.from.and_then(|from| leaves_window_at(run, from, self.now));
        self.leaves_at = self.leaves_at.into_iter().chain(leaves_at).min();
    }

    /// The span over which the same of the runs that were taken are in the window.
    fn span(self) -> Span {
        if self.from.is_none() { Span::ALWAYS } else { Span::from(self.now, self.leaves_at) }
    }
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
