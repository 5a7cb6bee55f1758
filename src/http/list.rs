//! GET /api/runs: filters, sorts, pages.

use std::collections::BTreeMap;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::answer::{self, Answer};
use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use super::view::{ListView, RowView};
use crate::contract::{Filter, ListPosition, ListQuery, Order, Scope, Sort, SortKey};
use crate::domain::event::Kind;
use crate::domain::id::{is_agent_id, is_node_id, is_run_id, sha256_hex};
use crate::domain::{RunId, Timestamp};
use crate::reduce::{Phase, RunOutcome};
use crate::services::{Services, Settings};

/// Those that say which runs are in the list.
pub(super) const FILTERS: &[&str] =
    &["kind", "phase", "outcome", "agent_id", "node_id", "parent", "q", "window", "since", "until"];
const KNOWN: &[&str] = &[
    "kind", "phase", "outcome", "agent_id", "node_id", "parent", "q", "window", "since", "until", "sort", "order",
    "limit", "cursor", "offset", "as_of",
];
/// Parameters that a cursor does not pin.
const FREE: &[&str] = &["limit", "cursor", "offset"];
const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 500;

pub(super) async fn runs(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Read).await?;
    let params = Params::parse(request.query_string(), KNOWN)?;
    let page = Page::read(&params, &services)?;
    let found = services.store.list(&who, &page.query).await?;
    let now = page.query.filter.now;
    let last = found.items.last().filter(|_| found.more);
    let next_cursor = last.map(|run| page.cursor_behind(page.query.sort.key(run)));
    let mut view = ListView {
        items: found.items.iter().map(|run| RowView::of(run, now, services.settings.stall_after_ms)).collect(),
        next_cursor,
        total: found.total,
        as_of: None,
    };
    let etag = sha256_hex(&answer::to_json(&view)?);
    view.as_of = Some(now);
    let headers = view
        .next_cursor
        .iter()
        .map(|cursor| {
            let limit = page.query.limit;
            (header::LINK, format!("</api/runs?cursor={cursor}&limit={limit}>; rel=\"next\""))
        })
        .collect();
    let body = answer::to_json(&view)?;
    Ok(answer::send(&request, Answer { content_type: "application/json", etag_source: &etag, headers }, body.into()))
}

/// A question and what a cursor has to pin of it.
struct Page {
    query: ListQuery,
    /// Filters, sort, order and now, by parameter name.
    pinned: BTreeMap<String, String>,
    /// Pages by offset leave out runs that started after now; a cursor made there goes on doing so.
    by_offset: bool,
}

/// A cursor: base64url of this as JSON. Nothing in it is secret, and it is checked like parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    pinned: BTreeMap<String, String>,
    by_offset: bool,
    value: Option<f64>,
    run_id: RunId,
}

impl Page {
    fn read(params: &Params, services: &Services) -> Result<Self, ApiError> {
        let limit = params.int("limit", "invalid_limit", (1, MAX_LIMIT))?.unwrap_or(DEFAULT_LIMIT);
        let offset = params.int("offset", "invalid_offset", (0, crate::domain::MAX_INT))?;
        let Some(text) = params.get("cursor") else {
            if offset.is_some() && params.get("as_of").is_none() {
                return Err(ApiError::bad_request(
                    "as_of_required",
                    "offset needs as_of, so that pages fit each other",
                ));
            }
            let given = params.iter().filter(|(name, _)| !FREE.contains(name));
            let mut pinned: BTreeMap<String, String> = given.map(|(name, value)| (name.into(), value.into())).collect();
            pin_defaults(&mut pinned, services.clock.now());
            let position = ListPosition::Offset(offset.unwrap_or(0));
            return Self::of(params, pinned, position, limit, services).map(|page| page.bounded(offset.is_some()));
        };
        if offset.is_some() {
            return Err(differing("offset"));
        }
        let invalid = || ApiError::bad_request("invalid_cursor", "this is no cursor of this server; start without one");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let cursor: Cursor = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        if let Some((name, _)) = params
            .iter()
            .find(|(name, value)| !FREE.contains(name) && cursor.pinned.get(*name).is_none_or(|own| own != value))
        {
            return Err(differing(name));
        }
        let pairs: Vec<(&String, &String)> = cursor.pinned.iter().collect();
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let pinned_params = Params::parse(&query, KNOWN).map_err(|_| invalid())?;
        if FREE.iter().any(|name| pinned_params.get(name).is_some()) || pinned_params.get("as_of").is_none() {
            return Err(invalid());
        }
        let position = ListPosition::After(SortKey { value: cursor.value, run_id: cursor.run_id });
        Self::of(&pinned_params, cursor.pinned, position, limit, services)
            .map(|page| page.bounded(cursor.by_offset))
            .map_err(|_| invalid())
    }

    fn of(
        params: &Params,
        pinned: BTreeMap<String, String>,
        position: ListPosition,
        limit: u64,
        services: &Services,
    ) -> Result<Self, ApiError> {
        let settings = services.settings;
        // What the client did not say is pinned, so that all pages of a list agree.
        let now = match params.ts("as_of", "invalid_as_of")? {
            Some(as_of) => as_of,
            None => pinned.get("as_of").and_then(|text| Timestamp::parse(text)).unwrap_or_else(|| services.clock.now()),
        };
        let filter = filter(params, now, settings)?;
        let sorts = [("started", Sort::Started), ("duration", Sort::Duration), ("outcome", Sort::Outcome)];
        let orders = [("desc", Order::Desc), ("asc", Order::Asc)];
        let query = ListQuery {
            filter,
            sort: params.choice("sort", "unknown_sort", &sorts)?.unwrap_or(Sort::Started),
            order: params.choice("order", "unknown_order", &orders)?.unwrap_or(Order::Desc),
            position,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        };
        Ok(Self { query, pinned, by_offset: false })
    }

    fn bounded(mut self, by_offset: bool) -> Self {
        self.by_offset = by_offset;
        self.query.filter.started_by = by_offset.then_some(self.query.filter.now);
        self
    }

    fn cursor_behind(&self, key: SortKey) -> String {
        let cursor =
            Cursor { pinned: self.pinned.clone(), by_offset: self.by_offset, value: key.value, run_id: key.run_id };
        // Strings, a bool and a finite number always print.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
    }
}

/// Which runs are in the list at `now`.
pub(super) fn filter(params: &Params, now: Timestamp, settings: Settings) -> Result<Filter, ApiError> {
    let window = params.window(now)?;
    let kind = params.choice("kind", "unknown_kind", &named(Kind::ALL, Kind::as_str))?;
    if kind == Some(Kind::Agent) && !settings.agent_views {
        return Err(ApiError::agent_views_off());
    }
    Ok(Filter {
        now,
        stall_after_ms: settings.stall_after_ms,
        without_agents: !settings.agent_views,
        kind,
        phase: params.choice("phase", "unknown_phase", &named(&Phase::ALL, Phase::as_str))?,
        outcome: params.choice("outcome", "unknown_outcome", &named(&RunOutcome::ALL, RunOutcome::as_str))?,
        agent_id: params.fitting("agent_id", "invalid_agent_id", is_agent_id)?,
        node_id: params.fitting("node_id", "invalid_node_id", is_node_id)?,
        parent: params.fitting("parent", "invalid_parent", is_run_id)?,
        q: params.fitting("q", "invalid_q", |text| !text.chars().any(char::is_control))?,
        last_event_from: window.from,
        since: params.ts("since", "invalid_since")?,
        until: params.ts("until", "invalid_until")?,
        started_by: None,
    })
}

fn pin_defaults(pinned: &mut BTreeMap<String, String>, now: Timestamp) {
    for (name, value) in [("window", "all"), ("sort", "started"), ("order", "desc"), ("as_of", &now.to_string())] {
        pinned.entry(name.into()).or_insert_with(|| value.into());
    }
}

fn differing(name: &str) -> ApiError {
    ApiError::bad_request("cursor_mismatch", format!("the cursor pins filters, sort and now; {name} differs from it"))
}

fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> Vec<(&'static str, T)> {
    all.iter().map(|value| (name(*value), *value)).collect()
}
