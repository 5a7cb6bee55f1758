//! GET /api/runs: filters, sorts, pages.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::answer;
use super::error::ApiError;
use super::held::{self, Question};
use super::params::Params;
use super::principal::authorize;
use super::view::{ListEndView, ListView, RowView};
use crate::contract::{About, Filter, ListPosition, ListQuery, Order, Scope, Sort, SortKey};
use crate::domain::event::Kind;
use crate::domain::id::{is_agent_id, is_node_id, is_run_id};
use crate::domain::{RunId, Timestamp};
use crate::memory::{Finished, Moment, Span};
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
    let question = Question::of(&services, &who, held::target(&request), About::Everything);
    if let Some((span, answer)) = question.held() {
        return match answer.moment.as_ref().filter(|moment| moment.at != question.now) {
            None => Ok(held::send(&request, &answer)),
            Some(moment) => {
                let later = at_moment(&answer, moment, question.now)?;
                Ok(held::send(&request, &question.hold(span, later)))
            }
        };
    }
    let params = Params::parse(request.query_string(), KNOWN)?;
    let page = Page::read(&params, &services, question.now)?;
    let found = services.store.list(&who, &page.query).await?;
    let now = page.query.filter.now;
    let stall_after_ms = services.settings.stall_after_ms;
    let rows = found.items.iter().map(|run| RowView::of(run, now, stall_after_ms)).collect();
    let mut head = answer::to_json(&ListView { items: rows })?;
    // The rest of the object follows.
    head.pop();
    let last = found.items.last().filter(|_| found.more);
    let next_cursor = last.map(|run| page.cursor_behind(page.query.sort.key(run)));
    let limit = page.query.limit;
    let link = next_cursor.as_ref().map(|next| format!("</api/runs?cursor={next}&limit={limit}>; rel=\"next\""));
    let end = ListEndView { next_cursor, total: found.total, as_of: None };
    let mut finished = finish((&head, Sha256::new_with_prefix(&head)), end, link, now)?;
    let is_pinned = params.get("as_of").is_some() || params.get("cursor").is_some();
    let span = if is_pinned {
        finished.moment = None;
        Span::ALWAYS
    } else {
        let stalls = found.items.iter().filter_map(|run| run.stalls_at(stall_after_ms)).filter(|at| *at > now);
        Span::from(now, stalls.chain(found.changes_at).min())
    };
    Ok(held::send(&request, &question.hold(span, finished)))
}

/// A page: its rows, which are hashed already, then what is of the moment. The ETag is that of everything but `as_of`.
fn finish(
    (head, hashed): (&[u8], Sha256),
    mut end: ListEndView,
    link: Option<String>,
    now: Timestamp,
) -> Result<Finished, ApiError> {
    let rest = |end: &ListEndView| -> Result<Vec<u8>, ApiError> {
        let mut rest = answer::to_json(end)?;
        // It goes on where the head stops.
        rest[0] = b',';
        Ok(rest)
    };
    let etag = answer::etag(&hex::encode(hashed.clone().chain_update(rest(&end)?).finalize())).into();
    end.as_of = Some(now);
    let body = [head, &rest(&end)?].concat().into();
    Ok(Finished { body, etag, link, moment: Some(Moment { at: now, behind: head.len(), hashed }) })
}

/// The same page at another moment: nothing but its own `as_of` and the one that its cursor pins differs.
fn at_moment(page: &Finished, moment: &Moment, now: Timestamp) -> Result<Finished, ApiError> {
    let (head, end) = page.body.split_at(moment.behind);
    let end = [b"{", end.get(1..).unwrap_or_default()].concat();
    let mut end: ListEndView = serde_json::from_slice(&end).map_err(|error| answer::broken(&error))?;
    let mut link = page.link.clone();
    if let Some(before) = end.next_cursor.take() {
        let bytes = URL_SAFE_NO_PAD.decode(&before).map_err(|error| answer::broken(&error))?;
        let mut cursor: Cursor = serde_json::from_slice(&bytes).map_err(|error| answer::broken(&error))?;
        cursor.pinned.insert("as_of".into(), now.to_string());
        let next = cursor.encode();
        link = link.map(|link| link.replace(&before, &next));
        end.next_cursor = Some(next);
    }
    end.as_of = None;
    finish((head, moment.hashed.clone()), end, link, now)
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
    fn read(params: &Params, services: &Services, now: Timestamp) -> Result<Self, ApiError> {
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
            pin_defaults(&mut pinned, now);
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
        let pinned_now = || pinned.get("as_of").and_then(|text| Timestamp::parse(text));
        let Some(now) = params.ts("as_of", "invalid_as_of")?.or_else(pinned_now) else {
            return Err(ApiError::bad_request("invalid_as_of", "as_of must be a moment"));
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
        cursor.encode()
    }
}

impl Cursor {
    fn encode(&self) -> String {
        // Strings, a bool and a finite number always print.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
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
