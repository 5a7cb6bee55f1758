//! Lists: SQL says the same as `Filter::fits` and `SortKey::compare`, for every filter, order and page.

use std::path::Path;
use std::sync::Arc;

use kahn::contract::{Filter, ListPosition, ListQuery, Order, Part, Sort};
use kahn::domain::Timestamp;
use kahn::domain::event::Kind;
use kahn::reduce::summary::Phase;
use kahn::reduce::{RunOutcome, Summary};

use super::cluster::{Database, runtime};
use super::library::{open, part, run_id, somebody};
use crate::support::everything;

fn ts(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a ts")
}

/// The kept lines of the samples, a part a run.
fn samples() -> Vec<Part> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs");
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the samples").map(|entry| entry.expect("a folder")) {
        let name = entry.file_name().into_string().expect("a name");
        let lines: Vec<_> = super::kept_lines(&entry.path()).into_iter().map(Into::into).collect();
        if !lines.is_empty() {
            parts.push(Part { run_id: run_id(&name), from_seq: 0, lines });
        }
    }
    parts
}

/// Many filters: none, each alone with values that do and do not fit, and some together.
fn filters(runs: &[Arc<Summary>]) -> Vec<Filter> {
    let mut filters = vec![everything().filter];
    let mut with = |change: &dyn Fn(&mut Filter)| {
        let mut filter = everything().filter;
        change(&mut filter);
        filters.push(filter);
    };
    for kind in [Kind::Ci, Kind::Agent] {
        with(&|filter| filter.kind = Some(kind));
    }
    with(&|filter| filter.without_agents = true);
    for now in
        ["2026-04-01T00:00:00.000Z", "2026-04-24T10:17:00.000Z", "2026-04-24T10:31:50.000Z", "2027-01-01T00:00:00.000Z"]
    {
        for phase in Phase::ALL {
            with(&|filter| (filter.phase, filter.now) = (Some(phase), ts(now)));
        }
    }
    for outcome in RunOutcome::ALL {
        with(&|filter| filter.outcome = Some(outcome));
    }
    for text in ["1", "release", "-", "R", "%", "_", "", "nightly-0412"] {
        with(&|filter| filter.q = Some(text.to_owned()));
    }
    for run in runs {
        with(&|filter| filter.agent_id.clone_from(&run.agent_id));
        with(&|filter| filter.parent = run.parent.as_ref().map(|parent| parent.run_id.clone()));
        with(&|filter| filter.node_id = run.node_results.last().map(|node| node.node_id.clone()));
        // At, just before and just after a moment that a run has.
        for step in [-1, 0, 1] {
            let near = |moment: Option<Timestamp>| moment.map(|moment| Timestamp::from_millis(moment.millis() + step));
            with(&|filter| filter.last_event_from = near(run.last_event));
            with(&|filter| filter.since = near(run.started));
            with(&|filter| filter.until = near(run.started));
            with(&|filter| filter.started_by = near(run.started));
            with(&|filter| {
                filter.phase = Some(Phase::Stalled);
                filter.now = near(run.last_event.map(|last| Timestamp::from_millis(last.millis() + 900_000)))
                    .unwrap_or(filter.now);
            });
            with(&|filter| {
                (filter.since, filter.kind, filter.q) = (near(run.started), Some(Kind::Ci), Some("e".into()))
            });
        }
    }
    filters
}

#[test]
fn sql_filters_orders_counts_and_pages_as_the_contract_does() {
    let database = Database::fresh();
    let (a, b) = (somebody(&database, "a"), somebody(&database, "b"));
    runtime().block_on(async {
        let backend = open(&database, 2).await;
        let store = &backend.store;
        store.append(&a, samples()).await.expect("stored");
        // Ties, and byte order where a locale would have another.
        store
            .append(&a, ["B", "a", "Z", "b-1", "b_1", "b"].map(|name| part(name, 0, 1)).to_vec())
            .await
            .expect("stored");
        // Without a line: null in every order.
        for name in ["planned-a", "planned-B"] {
            let graph =
                r#"{"version":1,"nodes":[{"id":"only-here","done_when":["true"]},{"id":"null","done_when":["true"]}]}"#;
            store.put_graph(&a, &run_id(name), graph.into()).await.expect("kept");
        }
        // Another tenant's rows are in nobody's count.
        store.append(&b, vec![part("of-b", 0, 1)]).await.expect("stored");

        let runs = store.list(&a, &everything()).await.expect("a page").items;
        assert!(runs.len() >= 20, "{}", runs.len());
        let mut asked = 0;
        for filter in filters(&runs) {
            for sort in [Sort::Started, Sort::Duration, Sort::Outcome] {
                for order in [Order::Asc, Order::Desc] {
                    let mut wanted: Vec<_> = runs.iter().filter(|run| filter.fits(run)).collect();
                    wanted.sort_by(|x, y| sort.key(x).compare(&sort.key(y), order));
                    let names: Vec<_> = wanted.iter().map(|run| run.run_id.as_str()).collect();
                    let query = ListQuery { filter: filter.clone(), sort, order, ..everything() };
                    let page = store.list(&a, &query).await.expect("a page");
                    let got: Vec<_> = page.items.iter().map(|run| run.run_id.as_str()).collect();
                    assert_eq!(got, names, "{query:?}");
                    assert_eq!((page.total, page.more), (names.len() as u64, false), "{query:?}");
                    asked += 1;
                }
            }
        }
        assert!(asked > 1000, "{asked}");

        for sort in [Sort::Started, Sort::Duration, Sort::Outcome] {
            for order in [Order::Asc, Order::Desc] {
                let query = ListQuery { sort, order, ..everything() };
                let whole = store.list(&a, &query).await.expect("a page").items;
                for limit in [1, 3, whole.len() - 1, whole.len()] {
                    for (at, run) in whole.iter().enumerate() {
                        for position in [ListPosition::After(sort.key(run)), ListPosition::Offset(at as u64 + 1)] {
                            let query = ListQuery { limit, position, ..query.clone() };
                            let page = store.list(&a, &query).await.expect("a page");
                            let end = whole.len().min(at + 1 + limit);
                            assert_eq!(page.items, whole[at + 1..end], "{query:?}");
                            assert_eq!((page.total, page.more), (whole.len() as u64, end < whole.len()), "{query:?}");
                        }
                    }
                }
            }
        }
    });
}
