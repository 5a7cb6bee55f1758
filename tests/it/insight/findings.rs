//! Each finding on a run made for it. If these fail, a person is sent to the wrong place, or not sent to the right one.

use serde_json::json;

use super::{Found, Log, graph};

/// Members of a finding beside its message.
fn facts(finding: &serde_json::Value) -> serde_json::Value {
    json!([finding["node_ids"], finding["steps"], finding["seq"]])
}

#[test]
fn a_failed_node_shows_the_check_that_failed_last_and_what_it_blocks() {
    let mut log = Log::ci(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["b"]), ("e", &["a"]), ("f", &["c"])]);
    log.done("a", 10);
    log.starts("b");
    log.attempt("b", 1, 2, 5.0);
    let last = log.event(
        "node_attempt",
        json!({"node_id": "b", "attempt": 2, "duration_s": 5.0, "converged": false, "done_when_results": [
            {"cmd": "lint", "rc": 3, "duration_s": 1.0, "tail": "first"}, {"cmd": "fine", "rc": 0, "duration_s": 1.0},
            {"cmd": "test\nb", "rc": -9, "duration_s": 1.0, "tail": "second", "truncated": true}]}),
    );
    let failed = log.moves("b", "running", "failed");
    log.blocked("c", "b");
    log.blocked("f", "b");
    let found = log.found();
    let finding = found.one("failed_node");
    // d depends on b and is not blocked yet; e does not.
    assert_eq!(finding["message"], "b failed after 2 attempts: test b exited -9 in attempt 2; it blocks 2 nodes.");
    assert_eq!(facts(finding), json!([["b"], [], failed]));
    let check = json!({"seq": last, "attempt": 2, "cmd": "test\nb", "rc": -9, "tail": "second", "truncated": true});
    let evidence = json!({"attempts": 2, "reason": null, "check": check, "blocks": 2, "blocked": ["c", "f"]});
    assert_eq!(finding["evidence"], evidence);
    assert_eq!(found.verdict, "1 node failed: b, test b (-9); it blocks 2 nodes.");
    assert_eq!(
        found.messages("blocked_chain"),
        ["c is blocked because b failed; look at b.", "f is blocked because b failed, over c; look at b.",]
    );
    assert_eq!(found.of("blocked_chain")[1]["node_ids"], json!(["f", "c", "b"]));
}

#[test]
fn a_node_may_fail_without_a_check_or_an_attempt() {
    let mut log = Log::ci(&[("a", &[])]);
    log.starts("a");
    log.event("node_transition", json!({"node_id": "a", "from": "running", "to": "failed", "reason": "killed:oom"}));
    let found = log.found();
    let finding = found.one("failed_node");
    assert_eq!(finding["message"], "a failed after 0 attempts: no check failed, the reason is killed:oom.");
    assert_eq!(finding["evidence"]["check"], json!(null));
    assert_eq!(found.verdict, "1 node failed: a.");
}

#[test]
fn a_node_that_came_back_from_failed_is_no_failed_node() {
    let mut log = Log::ci(&[("a", &[])]);
    log.fails("a");
    log.moves("a", "failed", "ready");
    log.runs("a", 2);
    assert!(log.found().of("failed_node").is_empty());
}

#[test]
fn behind_two_failed_nodes_the_one_that_failed_first_leads() {
    let mut log = Log::ci(&[("z", &[]), ("a", &[]), ("m", &["a", "z"]), ("n", &["m"])]);
    log.fails("z");
    log.fails("a");
    log.blocked("m", "a,z");
    log.blocked("n", "a,z");
    let found = log.found();
    let [m, n] = found.of("blocked_chain")[..] else { panic!("two are blocked") };
    assert_eq!(m["message"], "m is blocked because z and a failed; look at z first.");
    let evidence = json!({"root": "z", "root_count": 2, "roots": ["z", "a"], "reason": "ancestor_failed:a,z"});
    assert_eq!((&m["evidence"], &m["node_ids"]), (&evidence, &json!(["m", "z"])));
    assert_eq!((&n["evidence"], &n["node_ids"]), (&evidence, &json!(["n", "m", "z"])));
    assert_eq!(found.verdict, "2 nodes failed: z, test z (101); a, test a (101); they block 2 nodes.");
}

#[test]
fn without_a_graph_reasons_say_what_blocks() {
    let mut log = Log::ci(&[("a", &[])]);
    log.graph = None;
    log.fails("a");
    log.blocked("b", "a");
    log.blocked("c", "b");
    log.blocked("d", "nobody");
    // In a circle.
    log.blocked("e", "f");
    log.blocked("f", "e");
    log.event("node_transition", json!({"node_id": "g", "from": "pending", "to": "blocked", "reason": "tired"}));
    let found = log.found();
    assert_eq!(found.one("failed_node")["evidence"]["blocked"], json!(["b", "c"]));
    let chains: Vec<_> = found.of("blocked_chain").iter().map(|chain| chain["node_ids"].clone()).collect();
    let expected = [json!(["b", "a"]), json!(["c", "b", "a"]), json!(["d"]), json!(["e"]), json!(["f"]), json!(["g"])];
    assert_eq!(chains, expected);
    assert_eq!(found.messages("blocked_chain")[2], "d is blocked, but no failed node is known behind it.");
    // No graph, so nothing is known of paths, and nothing is missing in it.
    assert!(found.of("critical_path").is_empty() && found.of("inconsistent").is_empty());
    assert_eq!(found.one("parallelism")["evidence"]["most"], json!(null));
}

#[test]
fn a_long_chain_names_its_beginning_and_its_root() {
    let ids: Vec<String> = (0..60).map(|n| format!("n{n:02}")).collect();
    let needs: Vec<Vec<&str>> = (0..60).map(|n| ids[n.max(1) - 1..n].iter().map(String::as_str).collect()).collect();
    let nodes: Vec<(&str, &[&str])> = ids.iter().map(String::as_str).zip(needs.iter().map(Vec::as_slice)).collect();
    let mut log = Log::ci(&nodes);
    log.fails("n00");
    for id in &ids[1..] {
        log.blocked(id, "n00");
    }
    let found = log.found();
    let failed = found.one("failed_node");
    assert_eq!(
        (&failed["evidence"]["blocks"], failed["evidence"]["blocked"].as_array().unwrap().len()),
        (&json!(59), 20)
    );
    let chains = found.of("blocked_chain");
    let last = chains[58]["node_ids"].as_array().unwrap();
    assert_eq!((last.len(), &last[0], &last[1], &last[31]), (32, &json!("n59"), &json!("n58"), &json!("n00")));
}

#[test]
fn the_critical_path_goes_back_to_what_finished_last() {
    let nodes: &[(&str, &[&str])] =
        &[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"]), ("e", &["a"]), ("p", &["d"])];
    let mut log = Log::ci(nodes);
    log.done("a", 10);
    log.starts("b");
    log.starts("c");
    log.starts("e");
    log.at(20).attempt("c", 1, 0, 10.0);
    log.moves("c", "running", "done");
    log.at(30).attempt("b", 1, 0, 20.0);
    log.moves("b", "running", "done");
    log.moves("d", "pending", "ready");
    log.at(35).runs("d", 1);
    log.at(40).attempt("d", 1, 0, 5.0);
    log.moves("d", "running", "done");
    // e still runs: it finishes now, so the path ends in it.
    let found = log.found();
    assert_eq!(found.one("critical_path")["node_ids"], json!(["a", "e"]));
    log.attempt("e", 1, 0, 30.0);
    log.moves("e", "running", "done");
    // d and e finished together: e ran longer.
    assert_eq!(log.found().one("critical_path")["node_ids"], json!(["a", "e"]));
    log.at(41).event("heartbeat", json!({}));
    log.moves("p", "pending", "ready");
    log.at(50).runs("p", 1);
    log.at(52).attempt("p", 1, 1, 2.0);
    log.moves("p", "running", "failed");
    let found = log.found();
    let path = found.one("critical_path");
    assert_eq!(path["node_ids"], json!(["a", "b", "d", "p"]));
    let node = |id: &str, status: &str, running: f64, waiting: f64| json!({"node_id": id, "status": status, "running_s": running, "waiting_s": waiting});
    let nodes = [
        node("a", "done", 10.0, 0.0),
        node("b", "done", 20.0, 0.0),
        node("d", "done", 5.0, 5.0),
        node("p", "failed", 2.0, 9.0),
    ];
    assert_eq!(path["evidence"], json!({"work_s": 37.0, "waiting_s": 14.0, "nodes": nodes}));
    let words = "The critical path is 4 nodes long: 37 s of work and 14 s of waiting; b weighs most on it, with 20 s.";
    assert_eq!((&path["message"], &path["seq"]), (&json!(words), &json!(1)));
}

#[test]
fn ties_on_the_critical_path_go_to_the_longer_then_to_the_first_id() {
    let mut log = Log::ci(&[("d", &["c", "b", "a"]), ("c", &[]), ("b", &[]), ("a", &[])]);
    for node in ["c", "a", "b"] {
        log.starts(node);
    }
    log.at(10);
    for node in ["b", "c", "a"] {
        log.moves(node, "running", "done");
    }
    log.done("d", 1);
    assert_eq!(log.found().one("critical_path")["node_ids"], json!(["a", "d"]));
}

#[test]
fn the_slowest_nodes_come_slowest_first() {
    let mut log = Log::ci(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[]), ("e", &[]), ("f", &[]), ("g", &[])]);
    for (node, seconds) in [("a", 3), ("b", 70), ("c", 5), ("d", 3), ("e", 4), ("f", 0)] {
        log.done(node, seconds);
    }
    let found = log.found();
    let slowest = found.one("slowest_node");
    assert_eq!(slowest["node_ids"], json!(["b", "c", "e", "a", "d"]));
    assert_eq!(slowest["message"], "b ran longest: 1m 10s in 1 attempt; c (5.0 s) and e (4.0 s) come next.");
    assert_eq!(
        slowest["evidence"]["nodes"][0],
        json!({"node_id": "b", "status": "done", "running_s": 70.0, "attempts": 1})
    );
    assert_eq!(slowest["seq"], 5);
}

#[test]
fn a_flaky_node_tells_what_its_retries_cost() {
    let mut log = Log::ci(&[("a", &[]), ("b", &[])]);
    log.starts("a");
    let first = log.attempt("a", 1, 1, 20.0);
    log.attempt("a", 2, 7, 30.0);
    // Not flaky before it converged.
    assert!(log.found().of("flaky_node").is_empty());
    log.attempt("a", 3, 0, 25.0);
    log.moves("a", "running", "done");
    log.fails("b");
    let found = log.found();
    let flaky = found.one("flaky_node");
    let words = "a passed only in attempt 3, and 54 s were lost in failed attempts and backoff; before, test a exited 7 in attempt 2.";
    assert_eq!((&flaky["message"], facts(flaky)), (&json!(words), json!([["a"], [], first])));
    let evidence = &flaky["evidence"];
    assert_eq!(
        (&evidence["attempts"], &evidence["flake_retries"], &evidence["passed_at"]),
        (&json!(3), &json!(2), &json!(3))
    );
    assert_eq!((&evidence["lost_s"], &evidence["backoff_s"]), (&json!(54.0), &json!(4.0)));
    assert_eq!(evidence["check"]["rc"], 7);
}

/// A run with `w` ready, `r` and `s` running, and these touches; `w` or `r` may run alone.
fn waiting(touches: [&[&str]; 3], alone: Option<&str>) -> Found {
    let mut log = Log::ci(&[("w", &[]), ("r", &[]), ("s", &[]), ("x", &[])]);
    let nodes = log.graph.as_mut().unwrap()["nodes"].as_array_mut().unwrap();
    for (node, touches) in nodes.iter_mut().zip(touches) {
        node["touches"] = json!(touches);
        node["parallel_safe"] = json!(alone != node["id"].as_str());
    }
    log.starts("r");
    log.starts("s");
    log.moves("w", "pending", "ready");
    log.clock += 4000;
    log.event("heartbeat", json!({}));
    log.found()
}

#[test]
fn a_ready_node_says_what_it_waits_for() {
    let why = |touches, alone| {
        let found = waiting(touches, alone);
        let finding = found.one("waiting").clone();
        assert_eq!((&finding["seq"], &finding["evidence"]["waiting_s"]), (&json!(5), &json!(4.0)));
        let why = finding["message"].as_str().unwrap().strip_prefix("w is ready and has not started: ").unwrap();
        (why.to_owned(), finding["node_ids"].clone())
    };
    let free = "nothing in the graph holds it; the producer may have no room for it.";
    assert_eq!(why([&["src/w"], &["src/r"], &[]], None), (free.into(), json!(["w"])));
    assert_eq!(why([&["src/*.rs"], &["docs/**"], &["src2/a"]], None), (free.into(), json!(["w"])));
    let overlaps = "r is running and touches src/a.rs, which overlaps its own src/*.rs.";
    assert_eq!(why([&["x", "src/*.rs"], &["src/a.rs"], &["y"]], None), (overlaps.into(), json!(["w", "r"])));
    let overlaps = "s is running and touches [ab]/c, which overlaps its own src/a.rs.";
    assert_eq!(why([&["src/a.rs"], &["r"], &["[ab]/c"]], None), (overlaps.into(), json!(["w", "s"])));
    let overlaps = "s is running and touches src/{a,b}, which overlaps its own src/?.";
    assert_eq!(why([&["src/?"], &["r"], &["src/{a,b}"]], None), (overlaps.into(), json!(["w", "s"])));
    let both = "r and s are running and touch what it touches.";
    assert_eq!(why([&["src"], &["src/r"], &["src"]], None), (both.into(), json!(["w", "r", "s"])));
    assert_eq!(why([&["w"], &["r"], &["s"]], Some("r")), ("r runs alone.".into(), json!(["w", "r"])));
    let alone = "it runs alone, and r and s still run.";
    assert_eq!(why([&["w"], &["r"], &["s"]], Some("w")), (alone.into(), json!(["w", "r", "s"])));
    let found = waiting([&["a/b", "c"], &["c/d"], &["a"]], None);
    let evidence = &found.one("waiting")["evidence"];
    let waits_for = json!([
        {"node_id": "r", "why": "touches", "touches": ["c", "c/d"]}, {"node_id": "s", "why": "touches", "touches": ["a/b", "a"]}]);
    assert_eq!((&evidence["waits_for"], &evidence["waits_for_count"]), (&waits_for, &json!(2)));
}

#[test]
fn a_retry_waits_for_its_backoff_and_an_ended_run_for_nothing() {
    let mut log = Log::ci(&[("a", &[])]);
    log.starts("a");
    log.attempt("a", 1, 1, 3.0);
    log.attempt("a", 2, 1, 3.0);
    log.attempt("a", 3, 1, 3.0);
    log.moves("a", "running", "ready");
    let found = log.found();
    let words = "a is ready and has not started: nothing in the graph holds it; the backoff before attempt 4 is 8.0 s.";
    assert_eq!(found.messages("waiting"), [words]);
    assert_eq!(found.verdict, "Nothing has failed: its one node is not done; a is ready, and none is running.");
    log.ends("stuck", [0, 0, 0]);
    assert!(log.found().of("waiting").is_empty());
}

#[test]
fn silence_is_told_with_what_was_going_on() {
    let mut log = Log::ci(&[("a", &[]), ("b", &[])]);
    log.done("a", 130);
    let last = log.starts("b");
    log.clock += 899_999;
    assert!(log.found().of("stalled").is_empty());
    log.clock += 1;
    let found = log.found();
    let stalled = found.one("stalled");
    let words = "No event for 15m 00s, since 2026-04-24T10:02:10.000Z, while b is running: the producer may have died; look at event 6, the last one.";
    assert_eq!((&stalled["message"], facts(stalled)), (&json!(words), json!([["b"], [], last])));
    let evidence = json!({"silent_since": "2026-04-24T10:02:10.000Z", "silent_s": 900.0, "stall_after_s": 900.0, "running": ["b"],
        "slowest_attempt_s": 130.0, "agent_status": null, "agent_step": null});
    assert_eq!(stalled["evidence"], evidence);
    assert_eq!(found.verdict, "No event for 15m 00s, while b is running; the producer may have died.");
    log.fails("c");
    log.clock += 3_600_000;
    assert_eq!(log.found().verdict, "1 node failed: c, test c (101); no event for 1h 00m, while b is running.");
    let mut log = Log::agent();
    log.event("agent_transition", json!({"agent_id": "coder", "step": 4, "from": "thinking", "to": "tool_call"}));
    log.clock += 900_000;
    let found = log.found();
    let stalled = found.one("stalled");
    assert_eq!(facts(stalled), json!([[], [4], 1]));
    assert_eq!(
        (&stalled["evidence"]["agent_status"], &stalled["evidence"]["agent_step"]),
        (&json!("tool_call"), &json!(4))
    );
    let verdict = "No event for 15m 00s, while the agent was in tool_call at step 4; the producer may have died.";
    assert_eq!(found.verdict, verdict);
    // An ended run is silent by right.
    log.agent_ends("aborted");
    log.clock += 900_000;
    assert!(log.found().of("stalled").is_empty());
}

#[test]
fn five_equal_calls_in_a_row_are_a_loop() {
    let mut log = Log::agent();
    let first = log.calls(0, "grep", Some("x"), None);
    for step in [0, 1, 1] {
        log.calls(step, "grep", Some("x"), None);
    }
    assert!(log.found().of("agent_loop").is_empty());
    log.event("agent_transition", json!({"agent_id": "coder", "step": 2, "from": "thinking", "to": "tool_call"}));
    log.calls(2, "grep", Some("x"), None);
    let found = log.found();
    let row = found.one("agent_loop");
    assert_eq!(row["message"], "The agent called grep 5 times in a row with the same input, from event 1 on: x.");
    assert_eq!(facts(row), json!([[], [0, 1, 2], first]));
    assert_eq!(row["evidence"], json!({"tool_name": "grep", "input_summary": "x", "calls": 5}));
    assert_eq!(
        found.verdict,
        "The agent is in tool_call at step 2; it called grep 5 times in a row with the same input."
    );
    // Another input, another tool, or none ends the row.
    for (tool, input) in [("grep", Some("y")), ("grep", Some("x")), ("read", Some("x")), ("grep", None)] {
        log.calls(3, tool, input, None);
        for _ in 0..4 {
            log.calls(3, "grep", Some("x"), None);
        }
    }
    // `x` after `x` goes on, so the second of these is a row of five.
    assert_eq!(log.found().of("agent_loop").len(), 2);
    assert_eq!(log.found().of("agent_loop")[1]["evidence"]["calls"], 9);
}

#[test]
fn failing_calls_are_told_by_tool() {
    let mut log = Log::agent();
    log.calls(0, "read", None, None);
    let first = log.calls(1, "test", None, Some("exit 1"));
    log.calls(2, "test", None, None);
    log.calls(3, "test", None, Some("exit 2\nwith more"));
    log.calls(4, "push", None, Some(""));
    let found = log.found();
    let words = [
        "test failed in 2 of 3 calls; the last time it said: exit 2 with more.",
        "push failed in 1 of 1 call; the last time it said nothing.",
    ];
    assert_eq!(found.messages("failing_tool"), words);
    let test = found.of("failing_tool")[0];
    assert_eq!(facts(test), json!([[], [1, 3], first]));
    assert_eq!(
        test["evidence"],
        json!({"tool_name": "test", "calls": 3, "failed": 2, "last_error": "exit 2\nwith more"})
    );
    assert_eq!(found.verdict, "The agent has begun; 3 of 5 tool calls failed.");
}

#[test]
fn audits_that_fail_are_errors_and_those_that_warn_are_warnings() {
    let mut log = Log::agent();
    log.audit("audit:a", "pass", json!({}));
    let warned = log.audit("audit:a", "warn", json!({"z": 1, "a": [1.0]}));
    log.audit("audit:b", "pass", json!({}));
    let both = log.audit("audit:c", "warn", json!({"n": 1}));
    let failed = log.audit("audit:c", "fail", json!({"n": 2}));
    let found = log.found();
    let audits = found.of("failing_audit");
    let severities: Vec<_> = audits.iter().map(|audit| (&audit["severity"], &audit["seq"])).collect();
    assert_eq!(severities, [(&json!("error"), &json!(both)), (&json!("warning"), &json!(warned))]);
    assert_eq!(
        found.messages("failing_audit"),
        [
            "audit:c failed in 1 of 2 audits; look at its evidence in event 5.",
            "audit:a warned in 1 of 2 audits; look at its evidence in event 2.",
        ]
    );
    let evidence = json!({"checkpoint_id": "audit:c", "results": {"pass": 0, "fail": 1, "warn": 1}, "audits": [
        {"seq": both, "result": "warn", "evidence": {"n": 1}}, {"seq": failed, "result": "fail", "evidence": {"n": 2}}]});
    assert_eq!(audits[0]["evidence"], evidence);
    assert_eq!(found.verdict, "The agent has begun; audit:c failed.");
}

#[test]
fn parallelism_is_busy_time_over_wall_time_and_what_the_graph_allows() {
    let mut log = Log::ci(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["a"])]);
    log.done("a", 10);
    log.starts("b");
    log.starts("c");
    log.at(30).moves("b", "running", "done");
    log.moves("c", "running", "done");
    log.done("d", 10);
    let found = log.found();
    let parallelism = found.one("parallelism");
    // 10 + 20 + 20 + 10 s of work in 40 s; the longest chain is a, b.
    let evidence = json!({"busy_s": 60.0, "wall_s": 40.0, "average": 1.5, "longest_chain_s": 30.0, "most": 2.0});
    assert_eq!((&parallelism["evidence"], facts(parallelism)), (&evidence, json!([[], [], null])));
    let words = "1.5 nodes ran at a time, on average; by its dependencies the graph allows 2.0 at the most.";
    assert_eq!(parallelism["message"], words);
    assert!(Log::ci(&[("a", &[])]).found().of("parallelism").is_empty());
}

#[test]
fn breaches_of_order_and_illegal_moves_are_told_once_a_kind() {
    let mut log = Log::of("r");
    log.event("heartbeat", json!({}));
    log.event("run_start", json!({"total_nodes": 1}));
    let illegal = log.moves("a", "pending", "done");
    log.moves("a", "ready", "done");
    let again = log.event("run_start", json!({"total_nodes": 1}));
    log.ends("clean", [1, 0, 0]);
    let behind = log.event("heartbeat", json!({}));
    log.event("heartbeat", json!({}));
    let found = log.found();
    assert_eq!(
        found.messages("inconsistent"),
        [
            "Event 0 does not fit: the log does not begin with a start event.".to_owned(),
            format!("Event {illegal} does not fit: a moved from pending to done."),
            "Event 3 does not fit: a moved from ready, but was done.".to_owned(),
            format!("Event {again} does not fit: a second start event."),
            format!("Event {behind} does not fit: an event after the end event, 2 times so far."),
        ]
    );
    let evidence = json!({"about": "order", "what": "an event after the end event", "count": 2});
    assert_eq!(found.of("inconsistent")[4]["evidence"], evidence);
}

#[test]
fn a_flood_of_breaches_is_counted() {
    let mut log = Log::ci(&[]);
    log.graph = None;
    for n in 0..150 {
        log.moves(&format!("n{n}"), "done", "blocked");
        log.moves(&format!("n{n}"), "done", "blocked");
    }
    let found = log.found();
    let told = found.of("inconsistent");
    assert_eq!(told.len(), 21);
    assert_eq!(told[20]["evidence"], json!({"about": "more", "count": 280}));
    assert_eq!(told[20]["message"], "280 more events do not fit, beside those that are told one by one.");
}

#[test]
fn what_is_declared_is_held_against_the_nodes() {
    let ended = |outcome: &str, counts| {
        let mut log = Log::ci(&[("a", &[]), ("b", &["a"])]);
        log.done("a", 1);
        log.fails("b");
        log.ends(outcome, counts);
        log.found()
    };
    assert!(ended("partial", [1, 1, 0]).of("inconsistent").is_empty());
    assert!(ended("catastrophic", [1, 1, 0]).of("inconsistent").is_empty(), "it is only ever declared");
    let found = ended("clean", [2, 0, 0]);
    assert_eq!(
        found.messages("inconsistent"),
        [
            "The end event declares clean, but the nodes show partial.",
            "The end event declares 2 nodes done, 0 failed and 0 blocked, but the log has 1 node done, 1 failed and 0 blocked.",
        ]
    );
    let [outcome, counts] = found.of("inconsistent")[..] else { panic!("two findings") };
    assert_eq!(outcome["evidence"], json!({"about": "outcome", "declared": "clean", "derived": "partial"}));
    let declared = json!({"about": "counts", "declared": {"done": 2, "failed": 0, "blocked": 0}, "counted": {"done": 1, "failed": 1, "blocked": 0}});
    assert_eq!((&counts["evidence"], &counts["seq"]), (&declared, &outcome["seq"]));
    assert_eq!(found.verdict, "1 node failed: b, test b (101); the producer declared clean.");
    // A retry makes the difference between clean and clean_with_flake; no node done is stuck; no node at all is nothing.
    let one = |rcs: &[i32], outcome: &str| {
        let mut log = Log::ci(&[("a", &[])]);
        log.starts("a");
        for (number, rc) in (1..).zip(rcs) {
            log.attempt("a", number, *rc, 1.0);
        }
        let is_done = rcs.last() == Some(&0);
        log.moves("a", "running", if is_done { "done" } else { "failed" });
        log.ends(outcome, if is_done { [1, 0, 0] } else { [0, 1, 0] });
        log.found().of("inconsistent").len()
    };
    assert_eq!([one(&[0], "clean"), one(&[0], "clean_with_flake"), one(&[0], "partial")], [0, 1, 1]);
    assert_eq!([one(&[1, 0], "clean_with_flake"), one(&[1, 0], "clean")], [0, 1]);
    assert_eq!([one(&[1], "stuck"), one(&[1], "partial")], [0, 1]);
    let mut log = Log::ci(&[]);
    log.ends("stuck", [0, 0, 0]);
    assert!(log.found().of("inconsistent").is_empty());
    assert_eq!(log.found().verdict, "The run ended without a node.");
}

#[test]
fn a_move_to_running_wants_its_attempt_once_the_run_has_ended() {
    let mut log = Log::ci(&[("a", &[]), ("b", &[])]);
    log.done("a", 1);
    let begun = log.starts("b");
    log.moves("b", "running", "done");
    assert!(log.found().of("inconsistent").is_empty());
    let broken = log.lines.len();
    log.ends("catastrophic", [2, 0, 0]);
    assert!(log.found().of("inconsistent").is_empty());
    log.lines.truncate(broken);
    log.ends("clean", [2, 0, 0]);
    let found = log.found();
    let words = format!("b began attempt 1 at event {begun}, but no node_attempt of that number came.");
    assert_eq!(found.messages("inconsistent"), [words]);
    assert_eq!(facts(found.one("inconsistent")), json!([["b"], [], begun]));
    // One of another number does not stand for it.
    log.lines.truncate(broken);
    log.attempt("b", 2, 0, 1.0);
    log.ends("clean", [2, 0, 0]);
    assert_eq!(log.found().of("inconsistent").len(), 1);
    // It may come late.
    log.lines.truncate(broken);
    log.attempt("b", 1, 0, 1.0);
    log.ends("clean", [2, 0, 0]);
    assert!(log.found().of("inconsistent").is_empty());
}

#[test]
fn an_attempt_that_contradicts_its_checks_is_told() {
    let mut log = Log::ci(&[("a", &[])]);
    log.starts("a");
    for (attempt, converged, rc) in [(1, true, 3), (2, false, 0)] {
        let checks = json!([{"cmd": "check", "rc": rc, "duration_s": 1.0}]);
        let fields = json!({"node_id": "a", "attempt": attempt, "duration_s": 1.0, "converged": converged, "done_when_results": checks});
        log.event("node_attempt", fields);
    }
    assert_eq!(
        log.found().messages("inconsistent"),
        [
            "Event 3 does not fit: a converged in attempt 1, but `check` exited 3.",
            "Event 4 does not fit: a did not converge in attempt 2, but every check exited 0.",
        ]
    );
}

#[test]
fn faults_of_the_graph_and_nodes_outside_it_are_told() {
    let mut log = Log::ci(&[("a", &["b"]), ("b", &["a"]), ("c", &["nobody"]), ("c", &[])]);
    log.graph.as_mut().unwrap()["version"] = json!(2);
    let seq = log.moves("d", "pending", "ready");
    log.moves("d", "ready", "blocked");
    let found = log.found();
    assert_eq!(
        found.messages("inconsistent"),
        [
            "d is not in graph.json.",
            "graph.json: version is not 1; the rest of it is used.",
            "graph.json: node id c stands twice; the rest of it is used.",
            "graph.json: node c depends on nobody, which is not in the graph; the rest of it is used.",
            "graph.json: node b depends on a, which closes a cycle; the rest of it is used.",
        ]
    );
    assert_eq!(facts(found.of("inconsistent")[0]), json!([["d"], [], seq]));
    assert_eq!(found.of("inconsistent")[1]["evidence"], json!({"about": "graph", "fault": "version is not 1"}));
    // Of faults that a graph does not even keep the count is told.
    let mut log = Log::ci(&[("a", &["ghost"; 5000])]);
    log.starts("a");
    let found = log.found();
    let told = found.messages("inconsistent");
    assert_eq!(told.len(), 21);
    assert_eq!(told[20], "4980 more faults of graph.json, beside those that are told one by one.");
    // A whole log beside another graph is one line too many, not a thousand.
    let mut log = Log::ci(&[("a", &[])]);
    for n in 0..50 {
        log.moves(&format!("n{n}"), "pending", "ready");
    }
    let found = log.found();
    assert_eq!(found.of("inconsistent").len(), 21);
    assert_eq!(
        found.messages("inconsistent")[20],
        "30 more nodes are not in graph.json, beside those that are told one by one."
    );
}

#[test]
fn the_verdict_says_how_it_goes() {
    let mut log = Log::ci(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["a"])]);
    let mut verdicts = vec![log.found().verdict];
    log.starts("a");
    verdicts.push(log.found().verdict);
    log.attempt("a", 1, 0, 1.0);
    log.moves("a", "running", "done");
    verdicts.push(log.found().verdict);
    for node in ["b", "c", "d"] {
        log.moves(node, "pending", "ready");
    }
    verdicts.push(log.found().verdict);
    for node in ["b", "c", "d"] {
        log.runs(node, 1);
    }
    verdicts.push(log.found().verdict);
    log.attempt("b", 1, 1, 1.0);
    log.attempt("b", 2, 0, 1.0);
    log.attempt("c", 1, 0, 1.0);
    log.attempt("d", 1, 0, 1.0);
    for node in ["b", "c", "d"] {
        log.moves(node, "running", "done");
    }
    verdicts.push(log.found().verdict);
    log.audit("audit:x", "fail", json!({}));
    log.ends("clean_with_flake", [4, 0, 0]);
    verdicts.push(log.found().verdict);
    assert_eq!(
        verdicts,
        [
            "Nothing has failed: 0 of 4 nodes are done; none is running or ready.",
            "Nothing has failed: 0 of 4 nodes are done; a is running.",
            "Nothing has failed: 1 of 4 nodes is done; none is running or ready.",
            "Nothing has failed: 1 of 4 nodes is done; b, c and d are ready, and none is running.",
            "Nothing has failed: 1 of 4 nodes is done; b, c and d are running.",
            "All 4 nodes passed; the run has not ended.",
            "All 4 nodes passed; 1 needed a retry: b; audit:x failed.",
        ]
    );
}

#[test]
fn the_verdict_says_how_it_went() {
    let ended = |prepare: &dyn Fn(&mut Log), outcome: &str, counts| {
        let mut log = Log::ci(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
        prepare(&mut log);
        log.ends(outcome, counts);
        log.found().verdict
    };
    let all = |log: &mut Log| {
        for node in ["a", "b", "c"] {
            log.done(node, 1);
        }
    };
    assert_eq!(ended(&all, "clean", [3, 0, 0]), "All 3 nodes passed.");
    assert_eq!(ended(&all, "partial", [3, 0, 0]), "All 3 nodes passed; the producer declared partial.");
    let some = |log: &mut Log| {
        log.done("a", 1);
        log.starts("b");
    };
    assert_eq!(
        ended(&some, "catastrophic", [1, 0, 0]),
        "The producer broke with 1 node running (b): 1 of 3 nodes is done."
    );
    let left = "No node failed, but the run ended when 1 of 3 nodes is done: 1 running, 1 pending left.";
    assert_eq!(ended(&some, "partial", [1, 0, 0]), left);
    let failed = |log: &mut Log| {
        log.done("a", 1);
        log.fails("b");
        log.blocked("c", "b");
    };
    assert_eq!(ended(&failed, "partial", [1, 1, 1]), "1 node failed: b, test b (101); it blocks 1 node.");
    let broke = "1 node failed: b, test b (101); it blocks 1 node; the producer broke: 1 of 3 nodes is done.";
    assert_eq!(ended(&failed, "catastrophic", [1, 1, 1]), broke);
    let mut log = Log::ci(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[]), ("e", &["d"])]);
    for node in ["a", "b", "c", "d"] {
        log.fails(node);
    }
    log.blocked("e", "d");
    // The one that blocks most comes first.
    let most = "4 nodes failed: d, test d (101); a, test a (101); b, test b (101); and 1 more; they block 1 node.";
    assert_eq!(log.found().verdict, most);
    let planned = Log { graph: Some(graph(&[("a", &[]), ("b", &[])])), ..Log::of("r") };
    assert_eq!(planned.found().verdict, "Waiting for the first event: 2 nodes are planned.");
    assert_eq!(Log::of("r").found().verdict, "Waiting for the first event.");
    let mut begun = Log::ci(&[]);
    begun.graph = None;
    assert_eq!(begun.found().verdict, "The run has begun, and no node has moved.");
}

#[test]
fn the_verdict_of_an_agent_says_how_far_it_came() {
    let ended = |outcome: &str| {
        let mut log = Log::agent();
        log.event("agent_transition", json!({"agent_id": "coder", "step": 1, "from": "thinking", "to": "response"}));
        let live = log.found().verdict;
        log.agent_ends(outcome);
        (live, log.found().verdict)
    };
    let live = "The agent is in response at step 1; nothing has failed.".to_owned();
    let expected = [
        ("converged", "The agent converged after 2 steps."),
        ("partial", "The agent did only a part of its task after 2 steps."),
        ("escaped", "The agent left its bounds and was stopped after 2 steps."),
        ("aborted", "The agent was stopped or died after 2 steps, in response."),
    ];
    for (outcome, verdict) in expected {
        assert_eq!(ended(outcome), (live.clone(), verdict.to_owned()));
    }
}

/// A hostile command cannot turn a sentence around, break its line or make it long.
#[test]
fn texts_of_producers_are_made_harmless() {
    let mut log = Log::ci(&[("a", &[])]);
    log.starts("a");
    let cmd = format!(" \u{1b}[31mrm\r\n\u{202e}{}", "x".repeat(5000));
    let checks = json!([{"cmd": cmd, "rc": 1, "duration_s": 1.0}]);
    log.event(
        "node_attempt",
        json!({"node_id": "a", "attempt": 1, "duration_s": 1.0, "converged": false, "done_when_results": checks}),
    );
    log.moves("a", "running", "failed");
    let found = log.found();
    let shown = format!("[31mrm {}…", "x".repeat(110));
    assert_eq!(found.verdict, format!("1 node failed: a, {shown} (1)."));
    assert_eq!(found.one("failed_node")["evidence"]["check"]["cmd"], cmd.chars().take(4096).collect::<String>() + "…");
}
