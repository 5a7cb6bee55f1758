//! Over HTTP, in both builds: a moment of a log is the log cut there, and what a node tells beside its state.

use std::path::Path;

use serde_json::{Value, json};

use super::{BEGIN, Log, graph};
use crate::backend;
use crate::support::Kitchen;
use kahn::domain::{LineSplitter, Piece, Timestamp, parse_line};

const LATER: &str = "as_of=2027-01-01T00:00:00.000Z";

fn post(kitchen: &Kitchen, from_seq: usize, lines: &[String]) {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = kitchen.post(&format!("/v1/ingest/transitions?from_seq={from_seq}"), body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn put_graph(kitchen: &Kitchen, run_id: &str, graph: &[u8]) {
    let answer = kitchen.put(&format!("/v1/ingest/runs/{run_id}/graph"), graph);
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// The kept lines of a sample, as text.
fn sample(run_id: &str) -> (Vec<String>, Option<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs").join(run_id);
    let log = std::fs::read(folder.join("transitions.jsonl")).expect("a log");
    let mut lines = Vec::new();
    LineSplitter::default().push(&log, |piece, _, _| {
        if let Piece::Line(line) = piece
            && parse_line(line).is_ok_and(|event| event.run_id == run_id)
        {
            lines.push(String::from_utf8(line.to_vec()).expect("text"));
        }
    });
    (lines, std::fs::read(folder.join("graph.json")).ok())
}

/// Every member that is of the moment.
fn of_the_moment(mut answer: Value) -> Value {
    for member in ["log_id", "next_seq", "graph_sha256", "recent"] {
        if let Some(object) = answer.as_object_mut() {
            object.remove(member);
        }
    }
    answer
}

#[test]
fn a_moment_of_a_log_is_the_log_cut_there_with_its_last_event_as_now() {
    let kitchen = backend::empty();
    for (run_id, step) in
        [("release-317", 5), ("nightly-0412", 4), ("migrate-docs-9", 6), ("torn-1", 2), ("hotfix-77", 5)]
    {
        let (lines, graph) = sample(run_id);
        if let Some(graph) = &graph {
            put_graph(&kitchen, run_id, graph);
        }
        let mut cuts = Vec::new();
        let mut sent = 0;
        while sent < lines.len() {
            let next = (sent + step).min(lines.len());
            post(&kitchen, sent, &lines[sent..next]);
            sent = next;
            let now = parse_line(lines[sent - 1].as_bytes()).expect("an event").ts;
            let state = kitchen.get(&format!("/api/runs/{run_id}?as_of={now}")).json();
            let mut routes = vec![format!("/api/runs/{run_id}"), format!("/api/runs/{run_id}/diagnostics")];
            let nodes = state["node_states"].as_array().expect("nodes").iter();
            let told =
                nodes.filter(|node| node["status"] != "pending").map(|node| node["node_id"].as_str().expect("an id"));
            routes.extend(told.take(6).map(|node_id| format!("/api/runs/{run_id}/nodes/{node_id}")));
            for route in routes {
                let cut = kitchen.get(&format!("{route}?as_of={now}"));
                assert_eq!(cut.status, 200, "{route}: {}", cut.text());
                cuts.push((format!("{route}?at_seq={}&{LATER}", sent - 1), of_the_moment(cut.json())));
            }
        }
        for (path, cut) in cuts {
            // The last one is of a log that goes on for all that is known, unless it has ended.
            if path.contains(&format!("at_seq={}&", lines.len() - 1)) && run_id == "torn-1" {
                continue;
            }
            assert_eq!(of_the_moment(kitchen.get(&path).json()), cut, "{path}");
        }
    }
}

#[test]
fn a_live_run_is_judged_by_now_and_its_past_by_its_own_time() {
    let kitchen = backend::empty();
    let mut log = Log::of("r");
    log.event("run_start", json!({"total_nodes": 1}));
    log.starts("a");
    post(&kitchen, 0, &log.lines);
    let kinds = |query: &str| -> Vec<String> {
        let answer = kitchen.get(&format!("/api/runs/r/diagnostics?{query}")).json();
        let findings = answer["findings"].as_array().expect("findings").iter();
        findings.map(|finding| finding["kind"].as_str().expect("a kind").to_owned()).collect()
    };
    let at = |millis: i64| format!("as_of={}", Timestamp::from_millis(BEGIN + millis));
    assert!(kinds(&at(899_999)).is_empty());
    assert_eq!(kinds(&at(900_000)), ["stalled"]);
    assert_eq!(kinds(&format!("at_seq=2&{}", at(900_000))), ["stalled"], "the last event is now");
    assert_eq!(kinds(&format!("at_seq=1&{}", at(900_000))), ["waiting"], "an earlier one is its own now");
    let empty = kitchen.get("/api/runs/r/diagnostics?at_seq=3");
    assert_eq!(empty.problem(), (400, "invalid_at_seq".into()));
}

/// A run of node `a` and its start in seconds; `result` is how `a` came out.
fn run_of_a(run_id: &str, start: i64, result: &str) -> Vec<String> {
    let mut log = Log { clock: start * 1000, ..Log::of(run_id) };
    log.event("run_start", json!({"total_nodes": 1}));
    match result {
        "done" => {
            log.done("a", 7);
        }
        "retry" => {
            log.starts("a");
            log.attempt("a", 1, 1, 1.0);
            log.attempt("a", 2, 0, 1.0);
            log.moves("a", "running", "done");
        }
        "failed" => {
            log.fails("a");
        }
        "blocked" => {
            log.blocked("a", "z");
        }
        _ => {
            log.starts("a");
        }
    }
    log.lines
}

#[test]
fn recent_are_the_twenty_runs_before_that_gave_a_result() {
    let kitchen = backend::empty();
    let mut runs: Vec<(i64, String, &str)> = Vec::new();
    // More runs without a result than one page of a list holds, all of them newer than those with one.
    for n in 0..130 {
        runs.push((1000 + n / 10, format!("live-{n}"), "running"));
    }
    for n in 0..18 {
        runs.push((
            100 + n,
            format!("old-{n}"),
            ["done", "retry", "failed", "blocked"][usize::try_from(n).unwrap() % 4],
        ));
    }
    // All at once, before and behind this one by run_id alone.
    for name in ["a", "m1", "m2", "z"] {
        runs.push((5000, format!("{name}-same"), "done"));
    }
    runs.push((5000, "m3".into(), "retry"));
    runs.push((6000, "later".into(), "failed"));
    // More at once than are told of: the last of them by run_id are.
    for n in 0..25 {
        runs.push((7000, format!("same-{n:02}"), "retry"));
    }
    runs.push((8000, "newest".into(), "failed"));
    let batch: String = runs
        .iter()
        .flat_map(|(start, run_id, result)| run_of_a(run_id, *start, result))
        .map(|line| line + "\n")
        .collect();
    assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status, 200);
    // An agent's run that walks nodes gives no result.
    let mut agent = Log { clock: 4_000_000, ..Log::of("agent") };
    agent.event("agent_run_start", json!({"agent_id": "coder", "task": "Fix it"}));
    agent.done("a", 1);
    post(&kitchen, 0, &agent.lines);
    put_graph(&kitchen, "planned", graph(&[("a", &[])]).to_string().as_bytes());

    let naive = |own: (i64, &str)| -> Vec<String> {
        let mut before: Vec<_> = runs
            .iter()
            .filter(|(start, run_id, result)| *result != "running" && (*start, run_id.as_str()) < own)
            .collect();
        before.sort();
        before[before.len().saturating_sub(20)..].iter().map(|(_, run_id, _)| run_id.clone()).collect()
    };
    let recent = |run_id: &str| -> Vec<Value> {
        let answer = kitchen.get(&format!("/api/runs/{run_id}/nodes/a?at_seq=0"));
        let answer = if answer.status == 200 { answer } else { kitchen.get(&format!("/api/runs/{run_id}/nodes/a")) };
        answer.json()["recent"].as_array().expect("recent").clone()
    };
    for (start, run_id) in [
        (5000, "m3"),
        (5000, "a-same"),
        (5000, "z-same"),
        (6000, "later"),
        (7000, "same-03"),
        (8000, "newest"),
        (105, "old-5"),
        (100, "old-0"),
    ] {
        let told: Vec<String> = recent(run_id).iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(told, naive((start, run_id)), "before {run_id}");
    }
    let before_all = recent("planned");
    assert_eq!(before_all.len(), 20);
    assert_eq!(before_all[19], json!({"run_id": "newest", "result": "failed", "attempts": 1, "duration_s": 10.0}));
    let results = |run: &Value| run["result"].as_str().unwrap().to_owned();
    assert_eq!(recent("old-4").iter().map(results).collect::<Vec<_>>(), ["done", "retry", "failed", "blocked"]);
    assert_eq!(recent("old-4")[0]["duration_s"], 7.0);
}

#[test]
fn a_node_tells_of_its_attempts_what_the_log_says() {
    let kitchen = backend::empty();
    let mut log = Log::of("r");
    log.event("run_start", json!({"total_nodes": 1}));
    log.starts("a");
    let checks = json!([
        {"cmd": "lint", "rc": 0, "duration_s": 0.5, "tail": "ignored", "truncated": true},
        {"cmd": "test", "rc": 137, "duration_s": 1e-7, "tail": "é\u{202e}\u{0}\nend", "truncated": true, "more": 1},
        {"cmd": "", "rc": -2, "duration_s": 0}]);
    let fields = json!({"node_id": "a", "attempt": 1, "duration_s": 0.30000000000000004, "converged": false, "backoff_s": 9.0,
        "done_when_results": checks, "usage": {"input_tokens": 5}});
    log.event("node_attempt", fields);
    log.clock += 60_000;
    let fields = json!({"node_id": "a", "attempt": 2, "duration_s": 10.0, "converged": true, "backoff_s": 2.0, "done_when_results": [], "usage": {}});
    log.event("node_attempt", fields);
    post(&kitchen, 0, &log.lines);
    let text = r#"{"version":1,"nodes":[{"id":"b","depends_on":["a"]},{ "id" : "\u0061", "depends_on":[], "x": 1e2, "big": 123456789012345678901234567890,
      "done_when": ["true"] },{"id":"a","deliverable":"the second"}]}"#;
    put_graph(&kitchen, "r", text.as_bytes());
    let answer = kitchen.get("/api/runs/r/nodes/a");
    let spec = "{ \"id\" : \"\\u0061\", \"depends_on\":[], \"x\": 1e2, \"big\": 123456789012345678901234567890,\n      \"done_when\": [\"true\"] }";
    assert!(answer.text().contains(&format!("\"spec\":{spec},\"needs\":[],\"unblocks\":[\"b\"]")), "{}", answer.text());
    let attempts = json!([
        {"attempt": 1, "seq": 3, "started": "2026-04-24T10:00:00.000Z", "duration_s": 0.30000000000000004, "converged": false, "backoff_s": null,
         "checks": [
            {"cmd": "lint", "rc": 0, "duration_s": 0.5, "tail": null, "truncated": false},
            {"cmd": "test", "rc": 137, "duration_s": 1e-7, "tail": "é\u{202e}\u{0}\nend", "truncated": true},
            {"cmd": "", "rc": -2, "duration_s": 0.0, "tail": null, "truncated": false}],
         "usage": {"input_tokens": 5, "output_tokens": null, "cost_usd": null}},
        {"attempt": 2, "seq": 4, "started": "2026-04-24T10:00:50.000Z", "duration_s": 10.0, "converged": true, "backoff_s": 2.0,
         "checks": [], "usage": null}]);
    assert_eq!(answer.json()["attempts"], attempts);
    let earlier = kitchen.get("/api/runs/r/nodes/a?at_seq=3").json();
    assert_eq!(earlier["attempts"], json!([attempts[0]]));
    assert_eq!(kitchen.get("/api/runs/r/nodes/b").json()["status"], "pending");
    assert_eq!(kitchen.get("/api/runs/r/nodes/c").problem(), (404, "unknown_node".into()));
    assert_eq!(kitchen.get("/api/runs/s/nodes/a").problem(), (404, "unknown_run".into()));
}

/// A node that is tried for ever is told of in full; only what its oldest checks said is left to the log.
#[test]
fn a_node_with_many_attempts_answers_in_bounds() {
    let kitchen = backend::empty();
    let mut log = Log::of("r");
    log.event("run_start", json!({"total_nodes": 1}));
    log.starts("a");
    for attempt in 1..=103 {
        log.attempt("a", attempt, 1, 1.0);
    }
    post(&kitchen, 0, &log.lines);
    let answer = kitchen.get("/api/runs/r/nodes/a").json();
    let attempts = answer["attempts"].as_array().expect("attempts");
    let with_checks: Vec<bool> = attempts.iter().map(|attempt| attempt["checks"].is_array()).collect();
    assert_eq!((attempts.len(), &with_checks[..4]), (103, &[false, false, false, true][..]));
    assert!(with_checks[3..].iter().all(|has| *has));
    assert_eq!(attempts[102]["checks"][0]["tail"], "a is broken");
}

#[test]
fn a_blocked_node_says_which_failed_nodes_are_behind_it() {
    let kitchen = backend::empty();
    let mut log = Log::ci(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &[])]);
    log.run_id = "r".into();
    let planned = log.graph.clone().expect("a graph").to_string();
    log.fails("d");
    log.fails("a");
    log.blocked("b", "a");
    log.blocked("c", "a,d");
    post(&kitchen, 0, &log.lines);
    let blocked_by = |node: &str| kitchen.get(&format!("/api/runs/r/nodes/{node}")).json()["blocked_by"].clone();
    // Without a graph by the reason, with one by the graph.
    assert_eq!([blocked_by("b"), blocked_by("c"), blocked_by("a")], [json!(["a"]), json!(["d", "a"]), json!([])]);
    put_graph(&kitchen, "r", planned.as_bytes());
    assert_eq!([blocked_by("b"), blocked_by("c"), blocked_by("a")], [json!(["a"]), json!(["a"]), json!([])]);
}
