//! GET /api/compare: what changed between two runs.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::answer;
use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use super::view::RowView;
use crate::contract::{Loaded, Principal, ReadLimit, Scope};
use crate::domain::event::NodeStatus;
use crate::domain::{RunId, Timestamp, parse_line};
use crate::insight::compare::{self, Comparison, FailingChecks, GraphChanges, NodeChange, Side};
use crate::reduce::NodeResult;
use crate::services::Services;

/// How often an answer is begun anew because another log came under one of the run_ids.
const REPLACED_AT_MOST: usize = 3;
/// Attempts that stand no further apart than this are read at once, the lines between them too,
const LINES_BETWEEN: u64 = 32;
/// and no more than this at a time.
const READ_AT_ONCE: ReadLimit = ReadLimit { lines: 1000, bytes: 1024 * 1024 };

pub(super) async fn compare(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let params = Params::parse(request.query_string(), &["base", "head", "as_of"])?;
    let now = params.ts("as_of", "invalid_as_of")?.unwrap_or_else(|| services.clock.now());
    let (base_id, head_id) = (named(&params, "base")?, named(&params, "head")?);
    for _ in 0..REPLACED_AT_MOST {
        let base = load(&services, &who, (&base_id, "base")).await?;
        let head = load(&services, &who, (&head_id, "head")).await?;
        let of_head = compare::failing_attempts(&head.state);
        let mut of_base = compare::failing_attempts(&base.state);
        // What does not fail in head is not asked of base.
        let failing_nodes: std::collections::HashSet<&str> = of_head.values().copied().collect();
        of_base.retain(|_, node_id| failing_nodes.contains(node_id));
        // Another log may have come under a run_id meanwhile: one answer is of one log each.
        let Some(head_failing) = failing_checks(&services, &who, &head, of_head).await? else { continue };
        let Some(base_failing) = failing_checks(&services, &who, &base, of_base).await? else { continue };
        let stall_after_ms = services.settings.stall_after_ms;
        let body = answer::computed(move || {
            let base = Side { summary: &base.summary, graph: base.graph.as_deref(), failing: &base_failing };
            let head = Side { summary: &head.summary, graph: head.graph.as_deref(), failing: &head_failing };
            comparison_json(base, head, now, stall_after_ms)
        });
        return Ok(answer::json_bytes(&request, body.await??));
    }
    Err(ApiError::overloaded("log_replaced", "a log is being replaced; ask again in a moment"))
}

/// The answer to a comparison of two runs, as JSON: what the route gives, and what `kahn diff` makes of two folders.
///
/// # Errors
///
/// When it cannot be written as JSON.
pub fn comparison_json(
    base: Side<'_>,
    head: Side<'_>,
    now: Timestamp,
    stall_after_ms: u64,
) -> Result<Vec<u8>, ApiError> {
    let compared = compare::compare(base, head);
    answer::to_json(&CompareView {
        base: RowView::of(base.summary, now, stall_after_ms),
        head: RowView::of(head.summary, now, stall_after_ms),
        regression: compared.regression,
        summary: &compared.summary,
        graph: GraphChangesView::of(&compared),
        nodes: compared.nodes.iter().map(NodeChangeView::of).collect(),
    })
}

/// The run that a parameter names. What cannot be a run_id names no run.
fn named(params: &Params, side: &'static str) -> Result<RunId, ApiError> {
    let Some(value) = params.get(side) else {
        let detail = format!("{side} is missing; name both runs, as in /api/compare?base=RUN&head=RUN");
        return Err(ApiError::bad_request("missing_parameter", detail));
    };
    RunId::parse(value).ok_or_else(|| unknown_run(side))
}

fn unknown_run(side: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_run", format!("{side}: there is no such run"))
}

async fn load(
    services: &Services,
    who: &Principal,
    (run_id, side): (&RunId, &'static str),
) -> Result<Loaded, ApiError> {
    services.store.load(who, run_id).await?.ok_or_else(|| unknown_run(side))
}

/// What failed in these attempts, read from the log; `None` when the log is another one by now.
async fn failing_checks(
    services: &Services,
    who: &Principal,
    run: &Loaded,
    mut attempts: BTreeMap<u64, &str>,
) -> Result<Option<FailingChecks>, ApiError> {
    let mut failing = FailingChecks::new();
    while let Some((&from_seq, _)) = attempts.first_key_value() {
        let mut last = from_seq;
        for &seq in attempts.keys() {
            if seq - last > LINES_BETWEEN {
                break;
            }
            last = seq;
        }
        let lines = usize::try_from(last - from_seq + 1).unwrap_or(usize::MAX).min(READ_AT_ONCE.lines);
        let limit = ReadLimit { lines, ..READ_AT_ONCE };
        let page = services.store.read(who, &run.summary.run_id, from_seq, limit).await?;
        let Some(page) = page.filter(|page| page.log_id == run.summary.log_id && !page.lines.is_empty()) else {
            return Ok(None);
        };
        for (seq, line) in (from_seq..).zip(&page.lines) {
            if let Some(node_id) = attempts.remove(&seq)
                && let Ok(event) = parse_line(line)
            {
                failing.insert(node_id.to_owned(), compare::failing_checks(&event));
            }
        }
    }
    Ok(Some(failing))
}

#[derive(Debug, Serialize)]
struct CompareView<'a> {
    base: RowView<'a>,
    head: RowView<'a>,
    regression: bool,
    summary: &'a str,
    graph: GraphChangesView<'a>,
    nodes: Vec<NodeChangeView<'a>>,
}

#[derive(Debug, Serialize)]
struct GraphChangesView<'a> {
    added: &'a [&'a str],
    removed: &'a [&'a str],
    changed: &'a [&'a str],
}

impl<'a> GraphChangesView<'a> {
    fn of(compared: &'a Comparison<'_>) -> Self {
        let GraphChanges { added, removed, changed } = &compared.graph;
        Self { added, removed, changed }
    }
}

#[derive(Debug, Serialize)]
struct NodeChangeView<'a> {
    node_id: &'a str,
    change: &'static str,
    base: Option<NodeFiguresView>,
    head: Option<NodeFiguresView>,
    newly_failing_checks: &'a [&'a str],
}

#[derive(Debug, Serialize)]
struct NodeFiguresView {
    status: NodeStatus,
    attempts: u64,
    duration_s: f64,
}

impl<'a> NodeChangeView<'a> {
    fn of(node: &'a NodeChange<'_>) -> Self {
        let figures = |result: &NodeResult| NodeFiguresView {
            status: result.status,
            attempts: result.attempts,
            duration_s: result.duration_s,
        };
        Self {
            node_id: node.node_id,
            change: node.change.as_str(),
            base: node.base.map(figures),
            head: node.head.map(figures),
            newly_failing_checks: &node.newly_failing_checks,
        }
    }
}
