//! Lines, graphs and the fold. If these fail, a producer's evidence is lost, or the same log gives two states.

use std::fs;
use std::path::PathBuf;

use kahn::domain::{Graph, LineSplitter, MAX_LINE_BYTES, Piece, RunId, Timestamp, parse_line};
use kahn::reduce::{RunState, Summary};
use proptest::prelude::*;

/// Every log of the sample archive, with its run_id.
fn sample_logs() -> Vec<(String, Vec<u8>)> {
    let runs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/runs");
    let mut logs: Vec<_> = fs::read_dir(runs)
        .expect("data/runs")
        .map(|entry| entry.expect("an entry"))
        .filter_map(|entry| {
            let log = fs::read(entry.path().join("transitions.jsonl")).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), log))
        })
        .collect();
    logs.sort();
    assert!(logs.len() >= 10, "the sample archive is there");
    logs
}

fn lines_of(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut lines = Vec::new();
    LineSplitter::default().push(bytes, |piece, _, _| match piece {
        Piece::Line(line) => lines.push(Some(line.to_vec())),
        Piece::TooLong => lines.push(None),
    });
    lines
}

fn kept_of(run_id: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let is_kept = |line: &Vec<u8>| parse_line(line).is_ok_and(|event| event.run_id == run_id);
    lines_of(bytes).into_iter().flatten().filter(is_kept).collect()
}

fn fold_onto(mut state: RunState, lines: &[Vec<u8>]) -> RunState {
    for line in lines {
        state.fold(&parse_line(line).expect("a kept line"), line);
    }
    state
}

#[test]
fn the_fold_of_a_log_is_the_fold_of_a_prefix_and_then_the_rest() {
    for (run_id, log) in sample_logs() {
        let lines = kept_of(&run_id, &log);
        let whole = fold_onto(RunState::default(), &lines);
        for cut in 0..=lines.len() {
            let prefix = fold_onto(RunState::default(), &lines[..cut]);
            // Kept as JSON in between, as a store keeps it.
            let json = serde_json::to_string(&prefix).expect("a state prints");
            let kept: RunState = serde_json::from_str(&json).expect("a state reads back");
            assert_eq!(kept, prefix, "{run_id} at {cut} survives a round trip");
            assert_eq!(fold_onto(kept, &lines[cut..]), whole, "{run_id} cut at {cut}");
        }
    }
}

#[test]
fn a_summary_survives_a_round_trip() {
    for (run_id, log) in sample_logs() {
        let state = fold_onto(RunState::default(), &kept_of(&run_id, &log));
        let summary = Summary::of(&RunId::parse(&run_id).expect("a run_id"), &state, None);
        let json = serde_json::to_string(&summary).expect("a summary prints");
        assert_eq!(serde_json::from_str::<Summary>(&json).expect("a summary reads back"), summary, "{run_id}");
    }
}

#[test]
fn a_log_torn_at_every_byte_keeps_every_whole_line() {
    for (run_id, log) in sample_logs() {
        let whole = lines_of(&log);
        for torn in (0..=log.len()).step_by(if log.len() > 20_000 { 37 } else { 1 }) {
            let mut lines = Vec::new();
            let mut splitter = LineSplitter::default();
            let mut take = |piece: Piece<'_>, _: u64, _: u64| {
                lines.push(match piece {
                    Piece::Line(line) => Some(line.to_vec()),
                    Piece::TooLong => None,
                });
            };
            splitter.push(&log[..torn], &mut take);
            let before = memchr_count(&log[..torn]);
            assert_eq!(splitter.end(), torn as u64);
            assert_eq!(splitter.has_pending(), torn > 0 && log[torn - 1] != b'\n', "{run_id} at {torn}");
            splitter.push(&log[torn..], &mut take);
            assert_eq!(lines, whole, "{run_id} torn at {torn} and continued");
            assert_eq!(lines[..before], whole[..before], "{run_id} torn at {torn}");
        }
    }
}

fn memchr_count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn a_line_is_bounded_without_being_held() {
    let mut log = vec![b'\xEF', b'\xBB', b'\xBF'];
    log.extend(std::iter::repeat_n(b'a', MAX_LINE_BYTES));
    log.extend_from_slice(b"\r\n");
    log.extend(std::iter::repeat_n(b'b', MAX_LINE_BYTES + 1));
    log.extend_from_slice(b"\nshort\n");
    for step in [1 << 12, 1 << 16, log.len()] {
        let mut lengths = Vec::new();
        let mut splitter = LineSplitter::default();
        for chunk in log.chunks(step) {
            splitter.push(chunk, |piece, start, end| {
                lengths.push(match piece {
                    Piece::Line(line) => (Some(line.len()), start, end),
                    Piece::TooLong => (None, start, end),
                });
            });
        }
        let first_end = MAX_LINE_BYTES as u64 + 5;
        let second_end = first_end + MAX_LINE_BYTES as u64 + 2;
        let expected = [
            (Some(MAX_LINE_BYTES), 0, first_end),
            (None, first_end, second_end),
            (Some(5), second_end, second_end + 6),
        ];
        assert_eq!(lengths, expected, "read in steps of {step}");
    }
}

const BASE: &str = r#""ts":"2026-04-24T10:00:00.000Z","run_id":"r","event""#;

#[test]
fn what_is_malformed_is_refused_with_its_reason() {
    let nested = |depth: usize| format!("{{{BASE}:\"x\",\"v\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let with = |rest: &str| format!("{{{BASE}:{rest}}}");
    let refused: Vec<(String, &str)> = vec![
        (String::new(), "empty line"),
        ("\0\0".into(), "NUL byte"),
        ("{".into(), "not JSON: EOF while parsing an object at column 1"),
        ("[1]".into(), "not an object"),
        ("\"x\"".into(), "not an object"),
        ("{} {}".into(), "not JSON: trailing characters at column 4"),
        ("nope".into(), "not JSON: expected ident at column 2"),
        (nested(64), "nested deeper than 64"),
        (with("\"x\",\"ts\":\"2026-04-24T10:00:00.000Z\""), "duplicate field: ts"),
        (with("\"x\",\"event\":\"y\""), "duplicate field: event"),
        (with("7"), "no valid event"),
        (with("\"\""), "no valid event"),
        (r#"{"run_id":"r","event":"x"}"#.into(), "no valid ts"),
        (r#"{"ts":"2026-02-30T10:00:00.000Z","run_id":"r","event":"x"}"#.into(), "no valid ts"),
        (r#"{"ts":"2026-04-24T10:00:00Z","run_id":"r","event":"x"}"#.into(), "no valid ts"),
        (r#"{"ts":"2026-04-24T10:00:60.000Z","run_id":"r","event":"x"}"#.into(), "no valid ts"),
        (r#"{"ts":"0000-04-24T10:00:00.000Z","run_id":"r","event":"x"}"#.into(), "no valid ts"),
        (r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"../r","event":"x"}"#.into(), "no valid run_id"),
        (with("\"run_start\""), "run_start: missing field `total_nodes` at column"),
        (with("\"run_start\",\"total_nodes\":1.0"), "run_start: invalid type: floating point `1.0`, expected u64"),
        (with("\"run_start\",\"total_nodes\":-1"), "run_start: invalid value: integer `-1`, expected u64"),
        (with("\"run_start\",\"total_nodes\":9007199254740992"), "run_start: an integer over 2^53 - 1"),
        (with("\"run_start\",\"total_nodes\":1,\"parent\":null"), "run_start: invalid type: null, expected an object"),
        (with("\"run_start\",\"total_nodes\":1,\"parent\":[\"r\"]"), "run_start: invalid type: sequence"),
        (with("\"run_start\",\"total_nodes\":1,\"total_nodes\":2"), "run_start: duplicate field `total_nodes`"),
        (
            with("\"node_transition\",\"node_id\":\"A\",\"from\":\"ready\",\"to\":\"done\""),
            "node_transition: not a valid node_id",
        ),
        (
            with("\"node_transition\",\"node_id\":\"a\",\"from\":\"ready\",\"to\":\"gone\""),
            "node_transition: unknown variant `gone`",
        ),
        (
            with("\"node_transition\",\"node_id\":\"a\",\"from\":\"ready\",\"to\":{\"done\":null}"),
            "node_transition: invalid type: map",
        ),
        (
            with(
                "\"node_attempt\",\"node_id\":\"a\",\"attempt\":0,\"duration_s\":1,\"converged\":true,\"done_when_results\":[]",
            ),
            "node_attempt: must be at least 1",
        ),
        (
            with(
                "\"node_attempt\",\"node_id\":\"a\",\"attempt\":1,\"duration_s\":-1,\"converged\":true,\"done_when_results\":[]",
            ),
            "node_attempt: a duration below 0",
        ),
        (
            with(
                "\"node_attempt\",\"node_id\":\"a\",\"attempt\":1,\"duration_s\":1e999,\"converged\":true,\"done_when_results\":[]",
            ),
            "node_attempt: number out of range",
        ),
        (
            with(
                "\"audit_checkpoint\",\"checkpoint_id\":\"audit:x\",\"result\":\"pass\",\"duration_s\":1,\"evidence\":[]",
            ),
            "audit_checkpoint: evidence must be an object",
        ),
    ];
    for (line, reason) in refused {
        let said = parse_line(line.as_bytes()).err().unwrap_or_else(|| panic!("accepted: {line}"));
        assert!(said.starts_with(reason), "{line}\n  said {said}\n  wanted {reason}");
    }
    assert!(parse_line(b"\xff{}").unwrap_err().starts_with("not UTF-8"));
}

#[test]
fn what_is_odd_but_whole_is_kept() {
    for rest in [
        "\"deploy_marker\",\"attempt\":\"any type\",\"attempt\":2",
        "\"heartbeat\",\"step\":null",
        "\"run_start\",\"total_nodes\":0,\"big\":123456789012345678901234567890,\"text\":\"\\u0000\\ud83d\\ude00\"",
        "\"audit_checkpoint\",\"agent_id\":null,\"checkpoint_id\":\"audit:x\",\"result\":\"warn\",\"duration_s\":0",
    ] {
        let line = format!(" {{ {BASE} : {rest} }} ");
        parse_line(line.as_bytes()).unwrap_or_else(|reason| panic!("{line}: {reason}"));
    }
    let deepest = format!("{{{BASE}:\"x\",\"v\":{}{},\"s\":\"{}\"}}", "[".repeat(63), "]".repeat(63), "[".repeat(99));
    parse_line(deepest.as_bytes()).expect("64 levels, and brackets in strings");
}

#[test]
fn a_graph_with_faults_is_used_as_far_as_it_is_valid() {
    let node = |id: &str, needs: &str| {
        format!(r#"{{"id":"{id}","deliverable":"d","depends_on":[{needs}],"touches":[],"done_when":["true"]}}"#)
    };
    let nodes =
        [node("a", "\"c\""), node("b", "\"a\",\"ghost\""), node("c", "\"b\""), node("a", ""), node("A", "")].join(",");
    let graph = Graph::parse(format!(r#"{{"version":2,"nodes":[{nodes}]}}"#).as_bytes()).expect("an object");
    let edges: Vec<_> = graph.nodes.iter().map(|node| (node.id.as_str(), node.depends_on.join(","))).collect();
    assert_eq!(edges, [("a", "c".into()), ("b", String::new()), ("c", "b".into())]);
    assert_eq!(
        graph.faults,
        [
            "version is not 1",
            "node id a stands twice",
            "node 5 has no valid id",
            "node b depends on ghost, which is not in the graph",
            "node b depends on a, which closes a cycle",
        ]
    );
    for absent in ["", "[]", "{", "7"] {
        assert!(Graph::parse(absent.as_bytes()).is_err(), "{absent:?} counts as absent");
    }
}

/// What goes on and on in one graph is counted, told a hundred times, and used once.
#[test]
fn a_graph_of_many_faults_is_told_of_by_the_first_and_their_count() {
    let node = |id: &str, needs: &str| {
        format!(r#"{{"id":"{id}","deliverable":"d","depends_on":[{needs}],"touches":[],"done_when":["true"]}}"#)
    };
    let parse = |nodes: &[String]| {
        Graph::parse(format!(r#"{{"version":1,"nodes":[{}]}}"#, nodes.join(",")).as_bytes()).expect("an object")
    };
    let graph = parse(&[node("a", &vec!["\"b\""; 200_000].join(","))]);
    assert_eq!((graph.faults.len(), graph.fault_count), (100, 200_000));
    assert!(graph.faults.iter().all(|fault| fault == "node a depends on b, which is not in the graph"));
    assert_eq!(graph.nodes[0].depends_on, [""; 0]);
    // Each node depends on all, twice: each closes a cycle with itself and with those before it.
    let ids: Vec<String> = (0..300).map(|at| format!("n{at}")).collect();
    let all = [&ids[..], &ids[..]].concat().iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let graph = parse(&ids.iter().map(|id| node(id, &all)).collect::<Vec<_>>());
    assert_eq!((graph.faults.len(), graph.fault_count), (100, 300 * 301 / 2));
    for (at, node) in graph.nodes.iter().enumerate() {
        assert_eq!(node.depends_on, ids[at + 1..], "{}", node.id);
    }
    let graph = parse(&[node("a", ""), node("b", r#""a","c","a","b","a","c","b""#)]);
    assert_eq!(graph.nodes[1].depends_on, ["a"]);
    let of_b = ["c, which is not in the graph", "c, which is not in the graph", "b, which closes a cycle"];
    assert_eq!(graph.faults, of_b.map(|rest| format!("node b depends on {rest}")));
    assert_eq!(graph.fault_count, 3);
}

#[test]
fn what_no_graph_has_is_left_out_and_of_two_members_the_last_one_counts() {
    let text = r#"{"nodes":7,"version":1.0,"x":{"nodes":[{"id":"y"}]},"nodes":[1,{"id":"z","id":"a","deliverable":"\u0064",
        "depends_on":[{"id":"b"},"b",[null]],"touches":{},"parallel_safe":0,"done_when":["t\"",""],"max_ralph_iters":-1,
        "estimated_loc":9007199254740991,"more":[[["deep"]]]},{"id":"b","deliverable":"","depends_on":[],"touches":["t","t"],
        "done_when":["x"],"max_ralph_iters":2}],"version":1}"#;
    let graph = Graph::parse(text.as_bytes()).expect("an object");
    let [a, b] = &graph.nodes[..] else { panic!("{graph:?}") };
    assert_eq!((a.id.as_str(), a.deliverable.as_str(), a.parallel_safe, a.max_ralph_iters), ("a", "d", true, 6));
    assert_eq!((&a.depends_on[..], &a.done_when[..]), (&["b".to_owned()][..], &["t\"".to_owned(), String::new()][..]));
    assert_eq!(
        (a.estimated_loc, b.max_ralph_iters, &b.touches[..]),
        (Some(9_007_199_254_740_991), 2, &["t".to_owned(), "t".to_owned()][..])
    );
    let of_a = ["depends_on", "touches", "parallel_safe", "max_ralph_iters"]
        .map(|field| format!("node a has no valid {field}"));
    assert_eq!(graph.faults, [&["node 1 has no valid id".to_owned()][..], &of_a[..]].concat());
    // What is left out has to be JSON all the same.
    for bad in [r#"{"x":"\ud800"}"#, r#"{"x":1e999}"#, r#"{"x":[1,]}"#, r#"{"x":1} 2"#, r#"{"x":"\q"}"#] {
        assert!(Graph::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_line(&bytes);
        let _ = Graph::parse(&bytes);
        let mut state = RunState::default();
        for line in lines_of(&bytes).into_iter().flatten() {
            if let Ok(event) = parse_line(&line) {
                state.fold(&event, &line);
            }
        }
    }

    #[test]
    fn a_sample_line_with_damage_never_panics(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let logs = sample_logs();
        let lines: Vec<Vec<u8>> = logs.iter().flat_map(|(_, log)| lines_of(log)).flatten().filter(|line| !line.is_empty()).collect();
        let mut line = pick.get(&lines).clone();
        let at = at.index(line.len());
        line[at] ^= 1 << bit;
        if let Ok(event) = parse_line(&line) {
            let mut state = RunState::default();
            state.fold(&event, &line);
            state.fold(&event, &line);
        }
    }

    #[test]
    fn events_in_any_order_still_give_a_state(order in proptest::collection::vec(any::<prop::sample::Index>(), 1..80)) {
        let logs = sample_logs();
        let lines: Vec<Vec<u8>> = logs.iter().flat_map(|(run_id, log)| kept_of(run_id, log)).collect();
        let shuffled: Vec<Vec<u8>> = order.iter().map(|at| at.get(&lines).clone()).collect();
        let state = fold_onto(RunState::default(), &shuffled);
        let summary = Summary::of(&RunId::parse("r").expect("a run_id"), &state, None);
        prop_assert_eq!(summary.next_seq, shuffled.len() as u64);
        prop_assert!(summary.duration_s.is_none_or(|seconds| seconds >= 0.0));
    }

    #[test]
    fn a_ts_prints_as_it_was_read(millis in -62_135_596_800_000_i64..=253_402_300_799_999) {
        let ts = Timestamp::from_millis(millis);
        prop_assert_eq!(Timestamp::parse(&ts.to_string()), Some(ts));
        prop_assert_eq!(ts.millis(), millis);
    }
}

fn state_of(lines: &[&str]) -> (RunState, Summary) {
    let lines: Vec<Vec<u8>> = lines.iter().map(|rest| format!("{{{BASE}:{rest}}}").into_bytes()).collect();
    let state = fold_onto(RunState::default(), &lines);
    let summary = Summary::of(&RunId::parse("r").expect("a run_id"), &state, None);
    (state, summary)
}

#[test]
fn both_families_are_reduced_whatever_came_first() {
    let (_, run) = state_of(&[
        "\"run_start\",\"total_nodes\":1",
        "\"agent_run_start\",\"agent_id\":\"coder\",\"task\":\"mend it\",\"model\":\"m\"",
        "\"agent_run_end\",\"agent_id\":\"coder\",\"outcome\":\"converged\",\"total_steps\":1,\"total_tool_calls\":0,\"total_audit_checkpoints\":0,\
         \"audits_passed\":0,\"audits_failed\":0,\"total_duration_s\":2,\"convergence_score\":0.5,\"usage\":{\"input_tokens\":7}",
        "\"run_end\",\"outcome\":\"clean\",\"done\":0,\"failed\":0,\"blocked\":0,\"total_duration_s\":3",
    ]);
    assert_eq!(run.kind.map(|kind| kind.as_str()), Some("ci"), "by the first start event");
    assert_eq!(
        (run.agent_id.as_deref(), run.task.as_deref(), run.model.as_deref()),
        (Some("coder"), Some("mend it"), Some("m"))
    );
    assert_eq!(
        (run.outcome.map(|outcome| outcome.as_str()), run.duration_s),
        (Some("clean"), Some(3.0)),
        "the last end event declares"
    );
    assert_eq!(run.convergence_score, Some(0.5), "and unsays nothing");
    assert_eq!(run.usage.and_then(|usage| usage.input_tokens), Some(7));
}

#[test]
fn what_an_agent_declares_wins_over_the_sum_of_its_parts_field_by_field() {
    let most = 9_007_199_254_740_991_u64;
    let step = |tokens: u64| {
        format!(
            "\"agent_transition\",\"agent_id\":\"a\",\"step\":0,\"from\":\"thinking\",\"to\":\"thinking\",\"usage\":{{\"input_tokens\":{tokens},\"cost_usd\":0.25}}"
        )
    };
    let end = "\"agent_run_end\",\"agent_id\":\"a\",\"outcome\":\"partial\",\"total_steps\":1,\"total_tool_calls\":0,\"total_audit_checkpoints\":0,\
               \"audits_passed\":0,\"audits_failed\":0,\"total_duration_s\":2,\"usage\":{\"cost_usd\":9.5}";
    let (_, run) = state_of(&[&step(most), &step(5), end]);
    let usage = run.usage.expect("usage");
    assert_eq!(
        (usage.input_tokens, usage.output_tokens, usage.cost_usd),
        (Some(most), None, Some(9.5)),
        "sums saturate"
    );
}

#[test]
fn a_move_to_running_names_its_attempt_and_a_move_to_where_a_node_stands_is_none() {
    let nameless = format!("{{{BASE}:\"node_transition\",\"node_id\":\"a\",\"from\":\"ready\",\"to\":\"running\"}}");
    let said = parse_line(nameless.as_bytes()).expect_err("no attempt");
    assert_eq!(said, "node_transition: missing field `attempt` of a move to running");
    let at = |second: u32, from: &str, to: &str, attempt: &str| {
        format!("{{\"ts\":\"2026-04-24T10:00:{second:02}.000Z\",\"run_id\":\"r\",\"event\":\"node_transition\",\"node_id\":\"a\",\"from\":\"{from}\",\"to\":\"{to}\"{attempt}}}").into_bytes()
    };
    let running = ",\"attempt\":1";
    let lines = [
        at(0, "pending", "ready", ""),
        at(1, "ready", "running", running),
        // A clock that steps back, and a move that is none: the span goes on.
        at(0, "running", "running", running),
        at(9, "running", "done", ""),
    ];
    let state = fold_onto(RunState::default(), &lines);
    let node = &state.nodes["a"];
    assert_eq!((node.running_s(state.last_event), node.waiting_s(state.last_event)), (8.0, 1.0));
    assert_eq!(
        state.breaches.iter().map(|breach| breach.seq).collect::<Vec<_>>(),
        [0, 2],
        "no start event; no legal move"
    );
}
