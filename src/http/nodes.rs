//! GET /api/runs/{run_id}/nodes/{node_id}: a node's spec, its attempts with their checks, its recent runs.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer;
use super::error::ApiError;
use super::moment::{Asked, Moment, REPLACED_AT_MOST, log_replaced};
use super::routes::node_segment;
use crate::contract::{Filter, GraphFile, ListPosition, ListQuery, Order, Principal, ReadLimit, Sort, StoreError};
use crate::domain::event::{Kind, NodeStatus, Obj};
use crate::domain::{Event, EventBody, RunId, Timestamp, Usage, parse_line};
use crate::insight::diagnostics::blocked_by;
use crate::reduce::{Attempt, NodeOutcome, Summary, UsageSum};
use crate::services::Services;

/// How many recent runs are told of.
const RECENT: usize = 20;
/// How many runs are looked at in one go to find them.
const RECENT_PAGE: usize = 100;
/// So many of the newest attempts come with their checks,
const ATTEMPTS_WITH_CHECKS: usize = 100;
/// up to the one whose line passes so many bytes.
const CHECKS_BYTES: usize = 8 * 1024 * 1024;
/// One line of the log.
const ONE_LINE: ReadLimit = ReadLimit { lines: 1, bytes: 1 };

pub(super) async fn node(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let asked = Asked::read(&request, &services).await?;
    let node_id = node_segment(&request);
    for _ in 0..REPLACED_AT_MOST {
        let moment = asked.moment(&services).await?;
        let has_node = moment.state.nodes.contains_key(node_id) || is_planned(&moment, node_id);
        if !has_node {
            return Err(unknown_node());
        }
        let graph = if is_planned(&moment, node_id) {
            services.store.graph(&asked.who, &asked.run_id).await?.flatten()
        } else {
            None
        };
        // One answer is of one log and one graph.
        if is_planned(&moment, node_id)
            && graph.as_ref().map(|graph| &graph.sha256) != moment.current.summary.graph_sha256.as_ref()
        {
            continue;
        }
        let attempts = moment.state.nodes.get(node_id).map_or(&[][..], |node| &node.attempts);
        let Some(lines) = lines_of(&services, &asked, &moment, attempts).await? else { continue };
        let recent = recent(&services, &asked.who, &moment, node_id).await?;
        let node_id = node_id.to_owned();
        let body = answer::computed(move || {
            let found = Found { moment: &moment, graph: graph.as_ref(), lines: &lines, recent: &recent };
            found.to_json(&node_id)
        });
        return Ok(answer::json_bytes(&request, body.await??));
    }
    Err(log_replaced())
}

fn unknown_node() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_node", "this run has no such node at this moment")
}

/// Whether the node is in the graph.
fn is_planned(moment: &Moment, node_id: &str) -> bool {
    moment.current.graph.as_ref().is_some_and(|graph| graph.nodes.iter().any(|node| node.id == node_id))
}

/// The lines of the newest attempts, by seq; `None` when the log is another one by now.
async fn lines_of(
    services: &Services,
    asked: &Asked,
    moment: &Moment,
    attempts: &[Attempt],
) -> Result<Option<BTreeMap<u64, Bytes>>, ApiError> {
    let mut lines = BTreeMap::new();
    let mut bytes = 0;
    for attempt in attempts.iter().rev().take(ATTEMPTS_WITH_CHECKS) {
        let page = services.store.read(&asked.who, &asked.run_id, attempt.seq, ONE_LINE).await?;
        let page = page.filter(|page| page.log_id == moment.state.log_id);
        let Some(line) = page.and_then(|page| page.lines.into_iter().next()) else { return Ok(None) };
        bytes += line.len();
        lines.insert(attempt.seq, line);
        if bytes > CHECKS_BYTES {
            break;
        }
    }
    Ok(Some(lines))
}

/// A run before this one in which the node came out.
struct RecentRun {
    run_id: RunId,
    result: NodeOutcome,
    attempts: u64,
    duration_s: f64,
}

/// The last runs before this one with a result for the node, oldest first. Runs are in order of start, then run_id; one
/// that has not started comes last.
async fn recent(
    services: &Services,
    who: &Principal,
    moment: &Moment,
    node_id: &str,
) -> Result<Vec<RecentRun>, StoreError> {
    type Place = (bool, Option<Timestamp>, RunId);
    fn place(run: &Summary) -> Place {
        (run.started.is_none(), run.started, run.run_id.clone())
    }
    let own = &moment.current.summary;
    let mut query = ListQuery {
        filter: Filter {
            now: moment.now,
            stall_after_ms: services.settings.stall_after_ms,
            without_agents: false,
            kind: Some(Kind::Ci),
            phase: None,
            outcome: None,
            agent_id: None,
            node_id: Some(node_id.to_owned()),
            parent: None,
            q: None,
            last_event_from: None,
            since: None,
            until: None,
            started_by: own.started,
        },
        sort: Sort::Started,
        order: Order::Desc,
        position: ListPosition::Offset(0),
        limit: RECENT_PAGE,
    };
    let mut found: Vec<(Place, RecentRun)> = Vec::new();
    loop {
        let page = services.store.list(who, &query).await?;
        for run in page.items.iter().filter(|run| place(run) < place(own)) {
            // Newest first, but runs that started together come by run_id rising: all of them are looked at.
            if found.len() >= RECENT && found.last().is_some_and(|((_, started, _), _)| *started != run.started) {
                return Ok(newest(found));
            }
            let result = run.node_outcomes().find(|(node, _)| node.node_id == node_id);
            found.extend(result.map(|(node, result)| {
                let run_id = run.run_id.clone();
                (place(run), RecentRun { run_id, result, attempts: node.attempts, duration_s: node.duration_s })
            }));
        }
        match page.items.last().filter(|_| page.more) {
            Some(last) => query.position = ListPosition::After(Sort::Started.key(last)),
            None => return Ok(newest(found)),
        }
    }

    fn newest(mut found: Vec<(Place, RecentRun)>) -> Vec<RecentRun> {
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let old = found.len().saturating_sub(RECENT);
        found.into_iter().skip(old).map(|(_, run)| run).collect()
    }
}

/// What an answer is made of.
struct Found<'a> {
    moment: &'a Moment,
    graph: Option<&'a GraphFile>,
    lines: &'a BTreeMap<u64, Bytes>,
    recent: &'a [RecentRun],
}

impl Found<'_> {
    fn to_json(&self, node_id: &str) -> Result<Vec<u8>, ApiError> {
        let events: BTreeMap<u64, Event<'_>> =
            self.lines.iter().filter_map(|(&seq, line)| Some((seq, parse_line(line).ok()?))).collect();
        let graph = self.moment.current.graph.as_deref();
        let state = self.moment.state.nodes.get(node_id);
        let planned = graph.map_or(&[][..], |graph| &graph.nodes);
        let needs = planned.iter().find(|node| node.id == node_id).map_or(&[][..], |node| &node.depends_on);
        let is_after = |needs: &[String]| needs.iter().any(|needed| needed == node_id);
        answer::to_json(&NodeView {
            node_id,
            status: state.map_or(NodeStatus::Pending, |state| state.status),
            reason: state.and_then(|state| state.reason.as_deref()),
            spec: self.graph.and_then(|file| spec(&file.bytes, node_id)),
            needs,
            unblocks: planned.iter().filter(|node| is_after(&node.depends_on)).map(|node| node.id.as_str()).collect(),
            blocked_by: blocked_by(&self.moment.state, graph, node_id),
            attempts: state
                .map_or(&[][..], |state| &state.attempts)
                .iter()
                .map(|attempt| AttemptView::of(attempt, events.get(&attempt.seq)))
                .collect(),
            recent: self.recent.iter().map(RecentView::of).collect(),
        })
    }
}

/// The node of graph.json as it is written there: of several with its id the one that is used.
fn spec<'a>(graph: &'a [u8], node_id: &str) -> Option<&'a RawValue> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(graph).ok()?;
    let nodes: Vec<&RawValue> = serde_json::from_str(members.get("nodes")?.get()).ok()?;
    nodes.into_iter().find(|node| {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(node.get()).unwrap_or_default();
        let id = members.get("id").and_then(|id| serde_json::from_str::<String>(id.get()).ok());
        id.as_deref() == Some(node_id)
    })
}

/// One node of one run.
#[derive(Debug, Serialize)]
struct NodeView<'a> {
    node_id: &'a str,
    status: NodeStatus,
    reason: Option<&'a str>,
    spec: Option<&'a RawValue>,
    needs: &'a [String],
    unblocks: Vec<&'a str>,
    blocked_by: Vec<&'a str>,
    attempts: Vec<AttemptView<'a>>,
    recent: Vec<RecentView<'a>>,
}

#[derive(Debug, Serialize)]
struct AttemptView<'a> {
    attempt: u64,
    seq: u64,
    started: Timestamp,
    duration_s: f64,
    converged: bool,
    backoff_s: Option<f64>,
    /// `None` of attempts too old to be read.
    checks: Option<Vec<CheckView<'a>>>,
    usage: Option<UsageSum>,
}

#[derive(Debug, Serialize)]
struct CheckView<'a> {
    cmd: &'a str,
    rc: i32,
    duration_s: f64,
    tail: Option<&'a str>,
    truncated: bool,
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &Attempt, event: Option<&'a Event<'_>>) -> Self {
        let told = event.and_then(|event| match &event.body {
            EventBody::NodeAttempt(told) => Some(told),
            _ => None,
        });
        Self {
            attempt: attempt.attempt,
            seq: attempt.seq,
            started: attempt.started,
            duration_s: attempt.duration_s,
            converged: attempt.converged,
            backoff_s: attempt.backoff_s,
            checks: told.map(|told| {
                let checks = told.done_when_results.iter().map(|Obj(check)| check);
                checks
                    .map(|check| {
                        let has_failed = check.rc != 0;
                        CheckView {
                            cmd: &check.cmd,
                            rc: check.rc,
                            duration_s: check.duration_s,
                            tail: check.tail.as_deref().filter(|_| has_failed),
                            truncated: has_failed && check.truncated.unwrap_or(false),
                        }
                    })
                    .collect()
            }),
            usage: told
                .and_then(|told| told.usage.as_ref())
                .and_then(|Obj(usage)| (*usage != Usage::default()).then(|| UsageSum::default().plus(usage))),
        }
    }
}

#[derive(Debug, Serialize)]
struct RecentView<'a> {
    run_id: &'a RunId,
    result: NodeOutcome,
    attempts: u64,
    duration_s: f64,
}

impl<'a> RecentView<'a> {
    fn of(run: &'a RecentRun) -> Self {
        Self { run_id: &run.run_id, result: run.result, attempts: run.attempts, duration_s: run.duration_s }
    }
}
