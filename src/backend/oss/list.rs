//! Pages of runs from the index.

use std::sync::Arc;

use super::index::Listing;
use crate::contract::{Filter, ListPage, ListPosition, ListQuery, Order, Selection, Sort};
use crate::reduce::Summary;

/// Whether the page costs little however many runs there are.
pub(super) fn is_cheap(query: &ListQuery, listing: &Listing) -> bool {
    const FEW: usize = 2000;
    listing.newest_first().len() <= FEW || (is_newest_first(query) && takes_rest(&query.filter))
}

/// The page.
pub(super) fn page(listing: &Listing, query: &ListQuery) -> ListPage {
    let filter = &query.filter;
    let changes = |row: &Arc<Summary>| filter.changes_at(row);
    let changes_at =
        if filter.depends_on_now() { listing.newest_first().iter().filter_map(changes).min() } else { None };
    ListPage { changes_at, ..rows(listing, query) }
}

fn rows(listing: &Listing, query: &ListQuery) -> ListPage {
    let rows = listing.newest_first();
    if !is_newest_first(query) {
        let mut keyed: Vec<_> =
            rows.iter().filter(|row| query.filter.fits(row)).map(|row| (query.sort.key(row), row)).collect();
        keyed.sort_by(|(a, _), (b, _)| a.compare(b, query.order));
        let total = keyed.len() as u64;
        let from = match &query.position {
            ListPosition::Offset(skip) => usize::try_from(*skip).unwrap_or(usize::MAX).min(keyed.len()),
            ListPosition::After(after) => keyed.partition_point(|(key, _)| key.compare(after, query.order).is_le()),
        };
        return cut(keyed[from..].iter().map(|(_, row)| *row), query.limit, total);
    }
    let filter = &query.filter;
    // Rows that started too late stand before all others.
    let first = rows.partition_point(|row| filter.started_by.is_some_and(|by| row.started.is_some_and(|at| at > by)));
    let takes_rest = takes_rest(filter);
    let fits = |row: &&Arc<Summary>| takes_rest || filter.fits(row);
    let total = if takes_rest { rows.len() - first } else { rows.from(first).filter(fits).count() } as u64;
    match &query.position {
        ListPosition::Offset(skip) => {
            let skip = usize::try_from(*skip).unwrap_or(usize::MAX);
            if takes_rest {
                cut(rows.from(first.saturating_add(skip)), query.limit, total)
            } else {
                cut(rows.from(first).filter(fits).skip(skip), query.limit, total)
            }
        }
        ListPosition::After(after) => {
            let behind = rows.partition_point(|row| query.sort.key(row).compare(after, query.order).is_le());
            cut(rows.from(behind.max(first)).filter(fits), query.limit, total)
        }
    }
}

/// The summaries that are selected, in the order of aggregates.
pub(super) fn summaries(listing: &Listing, selection: Selection) -> Vec<Arc<Summary>> {
    let oldest_first = listing.newest_first().iter().rev();
    let mut selected: Vec<_> = oldest_first.filter(|row| selection.fits(row)).cloned().collect();
    // Sorted but for nulls and for runs that began in the same millisecond, which this sort makes cheap.
    selected
        .sort_by(|a, b| (a.started.is_none(), a.started, &a.run_id).cmp(&(b.started.is_none(), b.started, &b.run_id)));
    selected
}

fn cut<'a>(mut rows: impl Iterator<Item = &'a Arc<Summary>>, limit: usize, total: u64) -> ListPage {
    let items = rows.by_ref().take(limit).cloned().collect();
    ListPage { items, total, more: rows.next().is_some(), changes_at: None }
}

fn is_newest_first(query: &ListQuery) -> bool {
    query.sort == Sort::Started && query.order == Order::Desc
}

/// Whether the filter asks for nothing but when a run started at the latest.
fn takes_rest(filter: &Filter) -> bool {
    let Filter {
        now: _,
        stall_after_ms: _,
        without_agents: false,
        kind: None,
        phase: None,
        outcome: None,
        agent_id: None,
        node_id: None,
        parent: None,
        q: None,
        last_event_from: None,
        since: None,
        until: None,
        started_by: _,
    } = filter
    else {
        return false;
    };
    true
}
