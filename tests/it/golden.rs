//! The judge of both builds: the same requests over the sample archive give the same bytes. There is one set of
//! snapshots; a build that answers otherwise fails against them.

use std::collections::BTreeSet;

use crate::backend;
use crate::support::{Answer, Kitchen};

const AS_OF: &str = "as_of=2026-04-24T10:20:00.000Z";

/// Everything of an answer that the builds must agree on.
fn page(kitchen: &Kitchen, path: &str) -> String {
    let answer = kitchen.get(path);
    let link = answer.headers.get("link").map(|link| format!("link: {link}\n")).unwrap_or_default();
    format!(
        "GET {path}\n{}\ncontent-type: {}\netag: {}\n{link}\n{}\n",
        answer.status,
        answer.header("content-type"),
        answer.header("etag"),
        answer.text()
    )
}

fn pages(kitchen: &Kitchen, paths: &[String]) -> String {
    paths.iter().map(|path| page(kitchen, path)).collect::<Vec<_>>().join("\n")
}

#[test]
fn lists() {
    let kitchen = backend::with_samples();
    let queries = [
        "",
        "&limit=3",
        "&kind=ci&order=asc",
        "&kind=agent&sort=duration",
        "&sort=duration&order=asc&limit=4",
        "&sort=outcome",
        "&sort=outcome&order=asc",
        "&phase=live",
        "&phase=stalled",
        "&phase=ended&limit=2",
        "&outcome=partial",
        "&agent_id=coder",
        "&node_id=api-events",
        "&parent=release-318",
        "&q=release",
        "&q=%25",
        "&window=24h",
        "&window=7d",
        "&since=2026-04-20T00:00:00.000Z&until=2026-04-24T00:00:00.000Z",
        "&offset=2&limit=3",
        "&offset=500",
    ];
    let paths: Vec<String> = queries.iter().map(|query| format!("/api/runs?{AS_OF}{query}")).collect();
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

#[test]
fn a_walk_by_cursor_sees_every_run_once() {
    let kitchen = backend::with_samples();
    for sort in ["started", "duration", "outcome"] {
        for order in ["asc", "desc"] {
            let whole = kitchen.get(&format!("/api/runs?{AS_OF}&sort={sort}&order={order}&limit=500")).json();
            let mut path = format!("/api/runs?{AS_OF}&sort={sort}&order={order}&limit=3");
            let mut walked = Vec::new();
            loop {
                let page = kitchen.get(&path).json();
                walked.extend(page["items"].as_array().expect("items").clone());
                assert_eq!(page["total"], whole["total"]);
                match page["next_cursor"].as_str() {
                    Some(cursor) => path = format!("/api/runs?cursor={cursor}&limit=3"),
                    None => break,
                }
            }
            assert_eq!(&walked, whole["items"].as_array().expect("items"), "{sort} {order}");
        }
    }
}

#[test]
fn runs() {
    let kitchen = backend::with_samples();
    let rows = kitchen.get(&format!("/api/runs?{AS_OF}&limit=500")).json();
    let paths: Vec<String> = rows["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|row| format!("/api/runs/{}?{AS_OF}", row["run_id"].as_str().expect("a run_id")))
        .collect();
    assert_eq!(paths.len(), 14);
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

#[test]
fn moments_of_a_run() {
    let kitchen = backend::with_samples();
    let mut paths = Vec::new();
    for (run_id, seqs) in [
        ("release-318", &[0, 1, 40, 98, 116, 117, 118][..]),
        ("release-317", &[0, 30, 57]),
        ("fix-api-events-1", &[0, 1, 20, 85]),
        ("nightly-0414", &[37]),
        ("planned-1", &[0]),
        ("nightly-0412", &[9, 49, 59]),
        ("nightly-0413", &[8, 24]),
        ("migrate-docs-9", &[33, 59]),
        ("triage-201", &[40]),
        ("torn-1", &[10]),
        ("hotfix-77", &[13]),
        ("review-55", &[9]),
        ("summarize-3", &[8]),
        ("release-316", &[20]),
    ] {
        paths.extend(seqs.iter().map(|seq| format!("/api/runs/{run_id}?at_seq={seq}&{AS_OF}")));
    }
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

/// Every sample run, and moments of it: each third of its log, and now.
fn moments(kitchen: &Kitchen) -> Vec<(String, Vec<String>)> {
    let rows = kitchen.get(&format!("/api/runs?{AS_OF}&limit=500")).json();
    let moments_of = |row: &serde_json::Value| {
        let run_id = row["run_id"].as_str().expect("a run_id").to_owned();
        let last = row["next_seq"].as_u64().expect("a seq").checked_sub(1);
        let seqs: BTreeSet<u64> =
            last.map_or(BTreeSet::new(), |last| BTreeSet::from([0, last / 3, last * 2 / 3, last]));
        let mut queries: Vec<String> = seqs.iter().map(|seq| format!("at_seq={seq}&{AS_OF}")).collect();
        queries.push(AS_OF.into());
        (run_id, queries)
    };
    rows["items"].as_array().expect("items").iter().map(moments_of).collect()
}

#[test]
fn diagnostics() {
    let kitchen = backend::with_samples();
    let paths: Vec<String> = moments(&kitchen)
        .iter()
        .flat_map(|(run_id, queries)| {
            queries.iter().map(move |query| format!("/api/runs/{run_id}/diagnostics?{query}"))
        })
        .collect();
    assert!(paths.len() > 60);
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

#[test]
fn nodes() {
    let kitchen = backend::with_samples();
    let mut paths = Vec::new();
    for (run_id, queries) in moments(&kitchen) {
        let now = kitchen.get(&format!("/api/runs/{run_id}?{AS_OF}")).json();
        for node in now["node_states"].as_array().expect("nodes") {
            let node_id = node["node_id"].as_str().expect("a node_id");
            // Every node as it is now; of each run's past, the nodes with something to tell.
            let is_told = node["attempts"].as_u64() > Some(1) || node["status"] == "blocked";
            let told = if is_told { queries.as_slice() } else { &queries[queries.len() - 1..] };
            paths.extend(told.iter().map(|query| format!("/api/runs/{run_id}/nodes/{node_id}?{query}")));
        }
    }
    assert!(paths.len() > 150, "{}", paths.len());
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

/// Moments at which the windows hold the newest runs, some, all and none.
const MOMENTS: [&str; 4] =
    ["2026-04-24T10:20:00.000Z", "2026-04-26T15:00:00.000Z", "2026-04-13T10:00:00.000Z", "2027-01-01T00:00:00.000Z"];

#[test]
fn aggregates() {
    let kitchen = backend::with_samples();
    let routes = [
        "/api/agent-runs/aggregate?sort=severity&",
        "/api/agent-runs/aggregate?sort=busiest&",
        "/api/audit-checkpoints/flakiness?",
        "/api/nodes/flakiness?",
    ];
    let mut paths = Vec::new();
    for route in routes {
        for window in ["24h", "7d", "all"] {
            paths.extend(MOMENTS.map(|moment| format!("{route}window={window}&as_of={moment}")));
        }
        paths.push(format!("{route}{AS_OF}"));
    }
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

#[test]
fn comparisons() {
    let kitchen = backend::with_samples();
    let pairs = [
        ("release-317", "release-318"),
        ("release-318", "release-317"),
        ("release-316", "release-317"),
        ("nightly-0412", "nightly-0413"),
        ("nightly-0413", "nightly-0412"),
        ("nightly-0413", "nightly-0414"),
        ("review-55", "fix-api-events-1"),
        ("fix-api-events-1", "migrate-docs-9"),
        ("triage-201", "hotfix-77"),
        ("hotfix-77", "release-316"),
        ("release-318", "release-318"),
        ("planned-1", "torn-1"),
        ("summarize-3", "planned-1"),
    ];
    let paths = pairs.map(|(base, head)| format!("/api/compare?base={base}&head={head}&{AS_OF}"));
    insta::assert_snapshot!(pages(&kitchen, &paths));
}

#[test]
fn logs_and_graphs() {
    let kitchen = backend::with_samples();
    let paths = [
        "/api/runs/release-316/events",
        "/api/runs/torn-1/events",
        "/api/runs/release-318/events?from_seq=100&limit=5",
        "/api/runs/release-318/events?from_seq=117",
        "/api/runs/release-318/events?from_seq=118",
        "/api/runs/release-318/events?from_seq=9999",
        "/api/runs/planned-1/events",
        "/api/runs/planned-1/graph",
        "/api/runs/hotfix-77/graph",
    ];
    insta::assert_snapshot!(pages(&kitchen, &paths.map(str::to_owned)));
}

#[test]
fn positions() {
    let kitchen = backend::with_samples();
    let paths = [
        "/v1/ingest/runs/release-318",
        "/v1/ingest/runs/release-318?digest=true",
        "/v1/ingest/runs/torn-1?digest=true",
        "/v1/ingest/runs/planned-1?digest=true",
        "/v1/ingest/runs/planned-1?digest=yes",
        "/v1/ingest/runs/nobody",
    ];
    insta::assert_snapshot!(pages(&kitchen, &paths.map(str::to_owned)));
}

#[test]
fn refusals() {
    let kitchen = backend::with_samples();
    let cursor = kitchen.get(&format!("/api/runs?{AS_OF}&limit=1")).json()["next_cursor"].clone();
    let cursor = cursor.as_str().expect("a cursor");
    let paths = [
        "/api/runs?window=1h".to_owned(),
        "/api/runs?kind=CI".into(),
        "/api/runs?phase=done".into(),
        "/api/runs?outcome=unknown".into(),
        "/api/runs?sort=name".into(),
        "/api/runs?order=up".into(),
        "/api/runs?limit=0".into(),
        "/api/runs?limit=501".into(),
        "/api/runs?limit=+5".into(),
        "/api/runs?limit=5&limit=6".into(),
        "/api/runs?as_of=yesterday".into(),
        "/api/runs?since=2026-04-24".into(),
        "/api/runs?agent_id=%2e%2e".into(),
        "/api/runs?node_id=A".into(),
        "/api/runs?parent=%00".into(),
        "/api/runs?q=%00".into(),
        "/api/runs?offset=1".into(),
        "/api/runs?runid=x".into(),
        "/api/runs?cursor=".into(),
        "/api/runs?cursor=e30".into(),
        format!("/api/runs?cursor={cursor}&kind=ci"),
        format!("/api/runs?cursor={cursor}&offset=1"),
        format!("/api/runs?cursor={cursor}&order=asc"),
        "/api/runs/nobody".into(),
        "/api/runs/..%2f..%2fetc%2fpasswd".into(),
        "/api/runs/%00".into(),
        "/api/runs/-x".into(),
        "/api/runs/release-318?at_seq=118".into(),
        "/api/runs/release-318?at_seq=-1".into(),
        "/api/runs/release-318?at=1".into(),
        "/api/runs/nobody/events".into(),
        "/api/runs/release-318/events?limit=5001".into(),
        "/api/runs/release-318/events?from_seq=1.5".into(),
        "/api/runs/nobody/graph".into(),
        "/api/agent-runs/aggregate?window=1h".into(),
        "/api/agent-runs/aggregate?sort=name".into(),
        "/api/agent-runs/aggregate?order=asc".into(),
        "/api/agent-runs/aggregate?as_of=now".into(),
        "/api/audit-checkpoints/flakiness?window=".into(),
        "/api/audit-checkpoints/flakiness?sort=severity".into(),
        "/api/nodes/flakiness?window=ALL".into(),
        "/api/nodes/flakiness?window=7d&window=7d".into(),
        "/api/nodes/flakiness?node_id=backup".into(),
        "/api/compare".into(),
        "/api/compare?base=release-317".into(),
        "/api/compare?head=release-317".into(),
        "/api/compare?base=nobody&head=release-317".into(),
        "/api/compare?base=release-317&head=nobody".into(),
        "/api/compare?base=release-317&head=%2e%2e".into(),
        "/api/compare?base=release-317&head=".into(),
        "/api/compare?base=release-317&head=release-318&as_of=x".into(),
        "/api/compare?base=release-317&head=release-318&window=7d".into(),
        "/api/runs/nobody/diagnostics".into(),
        "/api/runs/release-318/diagnostics?at_seq=118".into(),
        "/api/runs/release-318/diagnostics?seq=1".into(),
        "/api/runs/release-318/diagnostics?as_of=now".into(),
        "/api/runs/nobody/nodes/api-events".into(),
        "/api/runs/release-318/nodes/nobody".into(),
        "/api/runs/release-318/nodes/API".into(),
        "/api/runs/release-318/nodes/%00".into(),
        "/api/runs/hotfix-77/nodes/rollout?at_seq=16".into(),
        "/api/runs/fix-api-events-1/nodes/api-events".into(),
        "/api/runs/release-318/nodes/api-events?at_seq=118".into(),
        "/api/nothing".into(),
        "/api/runs/".into(),
        "/a/..%2f..%2fCargo.toml".into(),
    ];
    insta::assert_snapshot!(pages(&kitchen, &paths));
    assert_eq!(kitchen.send("DELETE", "/api/runs", &[], None).problem(), (405, "method_not_allowed".into()));
}

#[test]
fn an_answer_that_the_client_has_is_not_sent_again() {
    let kitchen = backend::with_samples();
    for path in [
        format!("/api/runs?{AS_OF}"),
        "/api/runs/release-317".into(),
        "/api/runs/release-317/events".into(),
        "/api/runs/release-317/graph".into(),
        "/api/agent-runs/aggregate".into(),
        "/api/audit-checkpoints/flakiness".into(),
        "/api/nodes/flakiness".into(),
        "/api/compare?base=release-316&head=release-317".into(),
        "/".into(),
    ] {
        let first = kitchen.get(&path);
        let known = |tag: &str| kitchen.send("GET", &path, &[("if-none-match", tag)], None);
        let again: Answer = known(first.header("etag"));
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), first.header("etag"), "{path}");
        assert_eq!(known("W/\"0000000000000000\"").status, 200, "{path}");
        let head = kitchen.send("HEAD", &path, &[], None);
        assert_eq!((head.status, head.header("etag"), head.body.len()), (200, first.header("etag"), 0), "{path}");
    }
}

#[test]
fn an_answer_that_nobody_accepts_is_a_problem_too() {
    let kitchen = backend::empty();
    let answer = kitchen.send("GET", "/api/runs", &[("accept-encoding", "identity;q=0, *;q=0")], None);
    assert_eq!(answer.problem(), (406, "not_acceptable".into()));
    assert_eq!(answer.json()["request_id"], "golden");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let kitchen = backend::empty();
    let long = format!("/api/runs?q={}", "a".repeat(9000));
    assert_eq!(kitchen.get(&long).problem(), (414, "target_too_long".into()));
    let wide = kitchen.send("GET", "/healthz", &[("x-wide", &"a".repeat(17_000))], None);
    assert_eq!(wide.problem(), (431, "headers_too_large".into()));
}

#[test]
fn every_answer_carries_the_request_id_and_the_guarding_headers() {
    let kitchen = backend::empty();
    for path in ["/healthz", "/readyz", "/api/config", "/api/me", "/api/runs", "/", "/nowhere"] {
        let answer = kitchen.get(path);
        assert_eq!(answer.header("x-request-id"), "golden", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"), "{path}");
        assert!(!answer.headers.keys().any(|name| name.starts_with("access-control-")), "{path}");
    }
    let made = kitchen.send("GET", "/nowhere", &[("x-request-id", "not fit: é")], None);
    assert_eq!(made.header("x-request-id").len(), 16);
    assert_eq!(made.json()["request_id"], made.header("x-request-id"));
    let me = kitchen.get("/api/me").json();
    assert!(me["scopes"].as_array().expect("scopes").contains(&"read".into()), "{me}");
}
