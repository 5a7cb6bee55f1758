//! Insight across runs. Lost, and a page sends people to look at the wrong agent, check or node: every formula is held
//! against a second opinion over a thousand random fleets, and one fleet in which everything happens is kept as a snapshot.

mod logs;
mod naive;
mod random;
mod stories;

use std::sync::Arc;

use serde_json::{Value, json};

use self::logs::{DAY, Folded, HOUR, Log, SECOND, bad, epoch, good, ts};
use self::random::{Random, random_fleet};
use self::stories::{agents_at_work, before_and_after, nights};
use crate::backend;
use crate::support::{Answer, Kitchen};
use kahn::domain::{Timestamp, parse_line};
use kahn::insight::Gather;
use kahn::insight::agents::{AgentOrder, AgentRow, Agents};
use kahn::insight::compare::{FailingChecks, Side, compare, failing_attempts, failing_checks};
use kahn::insight::flakiness::{AuditRow, Checkpoints, NodeRow, Nodes};
use kahn::reduce::Summary;

const WINDOWS: [&str; 3] = ["24h", "7d", "all"];
const SORTS: [&str; 2] = ["severity", "busiest"];

// ---------------------------------------------------------------- a thousand random fleets

/// Two answers that differ by no more than floating point may.
fn assert_close(own: &Value, other: &Value, path: &str) {
    match (own, other) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{path}: {a} and {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}: {own} and {other}");
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| assert_close(a, b, &format!("{path}[{at}]")));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{path}: {own} and {other}");
            a.iter().for_each(|(key, value)| assert_close(value, &b[key], &format!("{path}.{key}")));
        }
        _ => assert_eq!(own, other, "{path}"),
    }
}

fn agent_json(row: &AgentRow) -> Value {
    let outcomes = row.outcomes;
    json!({
        "agent_id": row.agent_id, "run_count": row.run_count,
        "outcomes": {"converged": outcomes.converged, "partial": outcomes.partial, "escaped": outcomes.escaped,
                     "aborted": outcomes.aborted, "unknown": outcomes.unknown},
        "duration_p50_s": row.duration_p50_s, "duration_p95_s": row.duration_p95_s,
        "mean_convergence_score": row.mean_convergence_score, "convergence_scores": row.convergence_scores,
        "last_seen": row.last_seen, "in_flight": row.in_flight, "models": row.models, "usage": row.usage,
        "regression": row.regression, "severity": row.severity,
    })
}

fn audit_json(row: &AuditRow) -> Value {
    json!({
        "checkpoint_id": row.checkpoint_id, "pass": row.pass, "fail": row.fail, "warn": row.warn,
        "total": row.pass + row.fail + row.warn, "flakiness": row.flakiness, "n": row.pass + row.fail,
        "transitions": row.transitions, "flip_rate": row.flip_rate, "p_low": row.interval.map(|both| both.0),
        "p_high": row.interval.map(|both| both.1), "verdict": row.verdict.as_str(),
        "last_fail_run_id": row.last_fail_run_id, "recent": row.recent,
    })
}

fn node_json(row: &NodeRow) -> Value {
    json!({
        "node_id": row.node_id, "runs": row.runs, "done_first_try": row.done_first_try,
        "done_after_retry": row.done_after_retry, "failed": row.failed, "blocked": row.blocked,
        "flake_rate": row.flake_rate, "lost_s": row.lost_s, "n": row.done_first_try + row.done_after_retry + row.failed,
        "transitions": row.transitions, "verdict": row.verdict.as_str(),
        "last_flake_run_id": row.last_flake_run_id, "recent": row.recent,
    })
}

/// The summaries in the order that a store gives them in.
fn gathered<G: Gather>(mut gather: G, runs: &[Arc<Summary>]) -> G {
    runs.iter().for_each(|run| gather.take(run));
    gather
}

fn summaries(runs: &[Folded]) -> Vec<Arc<Summary>> {
    let mut summaries: Vec<Arc<Summary>> = runs.iter().map(|run| Arc::new(run.summary.clone())).collect();
    summaries.sort_by_key(|run| (run.started, run.run_id.clone()));
    summaries
}

#[test]
fn a_second_opinion_on_a_thousand_fleets() {
    let mut random = Random(20_260_424);
    let mut verdicts = std::collections::BTreeMap::new();
    let mut changes = std::collections::BTreeMap::new();
    let mut regressions = 0;
    for fleet in 0..1000 {
        let (logs, now) = random_fleet(&mut random, "r-");
        let folded: Vec<Folded> = logs.iter().map(Log::folded).collect();
        let runs = summaries(&folded);
        for window in WINDOWS {
            let place = format!("fleet {fleet} {window}");
            let length = [("24h", DAY), ("7d", 7 * DAY)].into_iter().find(|(name, _)| *name == window);
            let from = length.map(|(_, length)| Timestamp::from_millis(now - length));
            for (sort, order) in SORTS.into_iter().zip([AgentOrder::Severity, AgentOrder::Busiest]) {
                let rows = gathered(Agents::since(from), &runs).rows(order);
                regressions += rows.iter().filter(|row| row.regression).count();
                let own = json!({"window": window, "items": rows.iter().map(agent_json).collect::<Vec<_>>()});
                assert_close(&own, &naive::agents(&logs, now, window, sort), &format!("{place} agents"));
            }
            let rows = gathered(Checkpoints::since(from), &runs).rows();
            rows.iter().for_each(|row| *verdicts.entry(row.verdict.as_str()).or_insert(0) += 1);
            let own = json!({"window": window, "items": rows.iter().map(audit_json).collect::<Vec<_>>()});
            assert_close(&own, &naive::audits(&logs, now, window), &format!("{place} audits"));
            let rows = gathered(Nodes::since(from), &runs).rows();
            rows.iter().for_each(|row| *verdicts.entry(row.verdict.as_str()).or_insert(0) += 1);
            let own = json!({"window": window, "items": rows.iter().map(node_json).collect::<Vec<_>>()});
            assert_close(&own, &naive::nodes(&logs, now, window), &format!("{place} nodes"));
        }
        for _ in 0..4 {
            let pair = [0, 1].map(|_| usize::try_from(random.below(logs.len() as u64)).expect("a place"));
            let [base, head] = pair.map(|at| &logs[at]);
            let own = compared(pair.map(|at| &folded[at]));
            for node in own["nodes"].as_array().expect("nodes") {
                *changes.entry(node["change"].as_str().expect("a change").to_owned()).or_insert(0) += 1;
            }
            assert_close(&own, &naive::compare(base, head), &format!("fleet {fleet} {} {}", base.run_id, head.run_id));
        }
    }
    // An opinion on fleets in which nothing happens would be worth nothing.
    assert_eq!(verdicts.len(), 6, "{verdicts:?}");
    assert_eq!(changes.len(), 10, "{changes:?}");
    assert!(verdicts.values().chain(changes.values()).all(|seen| *seen >= 20), "{verdicts:?} {changes:?}");
    assert!(regressions >= 100, "{regressions}");
}

/// The comparison of two runs by the library, the failing checks read by seq.
fn compared(folded: [&Folded; 2]) -> Value {
    let failing: Vec<FailingChecks> = folded
        .iter()
        .map(|run| {
            let checks = failing_attempts(&run.state).into_iter().map(|(seq, node_id)| {
                let line = run.lines[usize::try_from(seq).expect("a place")].as_bytes();
                (node_id.to_owned(), failing_checks(&parse_line(line).expect("an event")))
            });
            checks.collect()
        })
        .collect();
    let side =
        |at: usize| Side { summary: &folded[at].summary, graph: folded[at].graph.as_ref(), failing: &failing[at] };
    let compared = compare(side(0), side(1));
    let figures = |node: Option<&kahn::reduce::NodeResult>| {
        node.map(|node| json!({"status": node.status, "attempts": node.attempts, "duration_s": node.duration_s}))
    };
    let nodes = compared.nodes.iter().map(|node| {
        json!({"node_id": node.node_id, "change": node.change.as_str(), "base": figures(node.base),
               "head": figures(node.head), "newly_failing_checks": node.newly_failing_checks})
    });
    let graph = &compared.graph;
    json!({"regression": compared.regression, "nodes": nodes.collect::<Vec<_>>(),
           "graph": {"added": graph.added, "removed": graph.removed, "changed": graph.changed}})
}

/// An answer that still holds is not computed again; one moment later it may be another one.
#[test]
fn windows_move_on_run_by_run() {
    let kitchen = backend::empty();
    let logs: Vec<Log> = [nights(), agents_at_work()].concat().into_iter().step_by(7).collect();
    logs.iter().for_each(|log| post(&kitchen, log));
    let last = |log: &Log| log.events.last().and_then(|event| event["ts"].as_str()).and_then(Timestamp::parse);
    let mut moments: Vec<i64> = logs.iter().filter_map(last).map(Timestamp::millis).collect();
    moments.sort_unstable();
    let edges = moments.iter().flat_map(|moment| [-1, 0, 1].map(|by| moment + DAY + by));
    // Forward as the clock goes, and then back, as a reader of the past may.
    let edges: Vec<i64> = edges.clone().chain(edges.rev().step_by(4)).collect();
    for now in edges {
        let get = |route: &str| kitchen.get(&format!("{route}?window=24h&as_of={}", ts(now))).json();
        let own = get("/api/agent-runs/aggregate");
        assert_close(&own, &naive::agents(&logs, now, "24h", "severity"), &format!("agents at {}", ts(now)));
        let own = get("/api/audit-checkpoints/flakiness");
        assert_close(&own, &naive::audits(&logs, now, "24h"), &format!("audits at {}", ts(now)));
        let own = get("/api/nodes/flakiness");
        assert_close(&own, &naive::nodes(&logs, now, "24h"), &format!("nodes at {}", ts(now)));
    }
}

/// Stores a run, as a producer would.
fn post(kitchen: &Kitchen, log: &Log) {
    let answer = kitchen.post("/v1/ingest/transitions?from_seq=0", &log.bytes());
    assert_eq!(answer.status, 200, "{}: {}", log.run_id, answer.text());
    if let Some(graph) = &log.graph {
        let answer = kitchen.put(&format!("/v1/ingest/runs/{}/graph", log.run_id), graph.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}: {}", log.run_id, answer.text());
    }
}

#[test]
fn a_second_opinion_on_what_a_server_says() {
    let kitchen = backend::empty();
    let mut random = Random(7);
    let mut logs: Vec<Log> = Vec::new();
    // Each fleet comes on top of those before, so every answer has to see what is new.
    for prefix in ["a-", "b-", "c-", "d-"] {
        let (fleet, now) = random_fleet(&mut random, prefix);
        fleet.iter().for_each(|log| post(&kitchen, log));
        logs.extend(fleet);
        let get = |path: String| kitchen.get(&path).json();
        for window in WINDOWS {
            let query = format!("window={window}&as_of={}", ts(now));
            for sort in SORTS {
                let own = get(format!("/api/agent-runs/aggregate?sort={sort}&{query}"));
                assert_close(&own, &naive::agents(&logs, now, window, sort), &format!("{prefix} {window} agents"));
            }
            let own = get(format!("/api/audit-checkpoints/flakiness?{query}"));
            assert_close(&own, &naive::audits(&logs, now, window), &format!("{prefix} {window} audits"));
            let own = get(format!("/api/nodes/flakiness?{query}"));
            assert_close(&own, &naive::nodes(&logs, now, window), &format!("{prefix} {window} nodes"));
        }
        for _ in 0..20 {
            let (base, head) = (random.below(logs.len() as u64), random.below(logs.len() as u64));
            let [base, head] = [base, head].map(|at| &logs[usize::try_from(at).expect("a place")]);
            let path = format!("/api/compare?base={}&head={}", base.run_id, head.run_id);
            let mut own = get(path.clone());
            for (side, log) in [("base", base), ("head", head)] {
                assert_eq!(own[side]["run_id"], json!(log.run_id), "{path}");
            }
            for member in ["base", "head", "summary"] {
                own.as_object_mut().expect("an object").remove(member).expect("it is there");
            }
            assert_close(&own, &naive::compare(base, head), &path);
        }
    }
}

/// CI runs of one node, one after the other; a letter is what became of it.
fn history(word: &str) -> Vec<Arc<Summary>> {
    let runs = word.chars().enumerate().map(|(at, letter)| {
        let mut log = Log::ci(&format!("r-{at}"), epoch() + i64::try_from(at).expect("small") * HOUR);
        match letter {
            'D' => log.node("n", &[good(SECOND)], "done"),
            'R' => log.node("n", &[bad(SECOND, "true"), good(SECOND)], "done"),
            _ => log.node("n", &[bad(SECOND, "true")], "failed"),
        }
        log
    });
    summaries(&runs.map(|log| log.folded()).collect::<Vec<_>>())
}

#[test]
fn a_node_is_flaky_from_one_retry_in_ten() {
    for (word, verdict) in [
        ("DDDDDDDDDR", "flaky"),
        ("DDDDDDDDDDR", "stable"),
        ("FDDDDDDDDDR", "flaky"),
        ("FDDDDDDDDDDR", "recovered"),
        ("RDDDF", "regressed"),
        ("RRRR", "insufficient_data"),
        ("RRRRR", "flaky"),
        ("RRRRF", "regressed"),
        ("FFFFF", "broken"),
    ] {
        let rows = gathered(Nodes::since(None), &history(word)).rows();
        assert_eq!(rows.iter().map(|row| row.verdict.as_str()).collect::<Vec<_>>(), [verdict], "{word}");
    }
}

// ---------------------------------------------------------------- one fleet in which everything happens

fn page(kitchen: &Kitchen, path: &str) -> String {
    let answer: Answer = kitchen.get(path);
    format!("GET {path}\n{}\netag: {}\n{}\n", answer.status, answer.header("etag"), answer.text())
}

#[test]
fn a_fleet_in_which_everything_happens() {
    let kitchen = backend::empty();
    let runs = [nights(), agents_at_work(), before_and_after()].concat();
    runs.iter().for_each(|log| post(&kitchen, log));
    let now = ts(epoch() + 8 * DAY);
    let mut pages = String::new();
    for window in WINDOWS {
        let query = format!("window={window}&as_of={now}");
        for sort in SORTS {
            pages += &page(&kitchen, &format!("/api/agent-runs/aggregate?sort={sort}&{query}"));
        }
        pages += &page(&kitchen, &format!("/api/audit-checkpoints/flakiness?{query}"));
        pages += &page(&kitchen, &format!("/api/nodes/flakiness?{query}"));
    }
    let pairs = [
        ("before", "after"),
        ("after", "before"),
        ("before", "before"),
        ("before", "after-without-graph"),
        ("after-without-graph", "after"),
        ("night-0", "before"),
        ("steady-0", "fell-2"),
        ("fell-2", "noisy-0"),
        ("noisy-0", "new-0"),
        ("flying-1", "steady-0"),
        ("steady-0", "night-0"),
    ];
    for (base, head) in pairs {
        pages += &page(&kitchen, &format!("/api/compare?base={base}&head={head}&as_of={now}"));
    }
    insta::assert_snapshot!(pages);
}

#[test]
fn without_agent_views_agents_and_audits_are_not_there() {
    let kitchen = backend::empty_with(&["--agent-views", "off"]);
    let log = nights().remove(0);
    post(&kitchen, &log);
    for path in ["/api/agent-runs/aggregate", "/api/audit-checkpoints/flakiness", "/api/runs?kind=agent"] {
        assert_eq!(kitchen.get(path).problem(), (404, "agent_views_off".into()), "{path}");
    }
    let nodes = kitchen.get("/api/nodes/flakiness").json();
    assert!(!nodes["items"].as_array().expect("items").is_empty(), "{nodes}");
    assert_eq!(kitchen.get("/api/compare?base=night-0&head=night-0").status, 200);
}
