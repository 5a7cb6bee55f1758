//! The schemas for producers against the parser. If these fail, a producer that was checked by a schema has its lines
//! skipped, or one that kahn reads is told that it is wrong.

use boon::{Compiler, SchemaIndex, Schemas};
use kahn::domain::{Graph, MAX_INT, parse_line};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A schema of producers/schema.
pub(crate) struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    pub(crate) fn load(name: &str) -> Self {
        let mut schemas = Schemas::new();
        let path = format!("{}/producers/schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        let index = Compiler::new().compile(&path, &mut schemas).unwrap_or_else(|error| panic!("{path}: {error:#}"));
        Self { schemas, index }
    }

    /// Whether the value is as it says.
    pub(crate) fn takes(&self, value: &Value) -> bool {
        self.schemas.validate(value, self.index).is_ok()
    }
}

fn parses(value: &Value) -> bool {
    parse_line(value.to_string().as_bytes()).is_ok()
}

fn is_faultless(value: &Value) -> bool {
    Graph::parse(value.to_string().as_bytes()).is_ok_and(|graph| graph.faults.is_empty())
}

fn base(event: &str, fields: Value) -> Value {
    let mut line = json!({"ts": "2026-04-24T10:00:00.123Z", "run_id": "r-1", "event": event});
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    line
}

/// Every event with every field that the contract knows.
fn whole_events() -> Vec<Value> {
    let usage = json!({"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25});
    let parent = json!({"run_id": "R_1", "node_id": "n-1", "attempt": 1, "step": 0});
    let check = json!({"cmd": "make", "rc": 2, "duration_s": 0.5, "tail": "no", "truncated": false});
    vec![
        base("run_start", json!({"total_nodes": 2, "parent": parent})),
        base(
            "node_transition",
            json!({"node_id": "a", "from": "ready", "to": "running", "attempt": 1, "reason": "because"}),
        ),
        base("node_transition", json!({"node_id": "a", "from": "running", "to": "done"})),
        base(
            "node_attempt",
            json!({"node_id": "a", "attempt": 2, "duration_s": 1, "converged": false, "backoff_s": 2.0,
                   "done_when_results": [check, {"cmd": "", "rc": 0, "duration_s": 0}], "usage": usage}),
        ),
        base(
            "run_end",
            json!({"outcome": "partial", "done": 1, "failed": 1, "blocked": 0, "total_duration_s": 9.5,
                   "total_attempts": 3, "flake_retries": 0, "exit_code": 1}),
        ),
        base("agent_run_start", json!({"agent_id": "coder", "task": "mend it", "model": "m", "parent": parent})),
        base(
            "agent_transition",
            json!({"agent_id": "coder", "step": 0, "from": "thinking", "to": "blocked-on-clarification",
                   "reason": "?", "usage": usage}),
        ),
        base(
            "tool_invocation",
            json!({"agent_id": "coder", "step": 3, "tool_name": "grep", "duration_s": 0.1, "ok": false,
                   "input_summary": "i", "output_summary": "o", "error": "e", "usage": usage}),
        ),
        base(
            "audit_checkpoint",
            json!({"agent_id": null, "checkpoint_id": "audit:x.y", "result": "warn", "duration_s": 0, "evidence": {"a": [1]}}),
        ),
        base(
            "agent_run_end",
            json!({"agent_id": "coder", "outcome": "escaped", "total_steps": 4, "total_tool_calls": 5,
                   "total_audit_checkpoints": 2, "audits_passed": 1, "audits_failed": 1, "total_duration_s": 60,
                   "convergence_score": 0.5, "usage": usage}),
        ),
        base("heartbeat", json!({})),
        base("deploy_marker", json!({"anything": {"goes": [null]}, "node_id": 7})),
    ]
}

fn whole_graph() -> Value {
    json!({"version": 1, "note": "unknown fields pass", "nodes": [
        {"id": "a", "deliverable": "A", "depends_on": [], "touches": ["src/**"], "parallel_safe": false,
         "done_when": ["true", "make"], "max_ralph_iters": 3, "estimated_loc": 40, "owner": null},
        {"id": "b-2", "deliverable": "", "depends_on": ["a"], "touches": [], "done_when": ["true"]},
    ]})
}

/// What may come to stand anywhere: every type, and the edges of every range. 1.0 is not among them (see the exceptions).
fn probes() -> Vec<Value> {
    let long = |length: usize| Value::from("a".repeat(length));
    let mut probes = vec![
        Value::Null,
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([7]),
        json!(["a"]),
        json!([null]),
        json!({"run_id": "r"}),
        json!(["2026-04-24T10:00:00.123Z"]),
        long(64),
        long(65),
        long(128),
        long(129),
    ];
    let numbers: [Value; 15] = [
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(-0.5),
        json!(1.5),
        json!(MAX_INT),
        json!(MAX_INT + 1),
        json!(u64::MAX),
        json!(i32::MAX),
        json!(i64::from(i32::MAX) + 1),
        json!(i32::MIN),
        json!(i64::from(i32::MIN) - 1),
        json!(1.5e300),
        json!(0.999_999_999),
    ];
    probes.extend(numbers);
    let texts = [
        "",
        " ",
        "a",
        "A",
        "1",
        "-",
        "_",
        "a_b",
        "a-b",
        "a.b",
        "a:b",
        "a b",
        "a\n",
        "\u{e9}",
        "pending",
        "running",
        "done",
        "clean",
        "Clean",
        "thinking",
        "converged",
        "aborted",
        "pass",
        "run_start",
        "heartbeat",
        "0000-04-24T10:00:00.123Z",
        "0001-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z",
        "2026-13-01T00:00:00.000Z",
        "2026-00-10T00:00:00.000Z",
        "2026-04-00T10:00:00.123Z",
        "2026-04-32T10:00:00.123Z",
        "2026-04-24T24:00:00.000Z",
        "2026-04-24T10:60:00.000Z",
        "2026-04-24T10:00:60.000Z",
        "2026-04-24T10:00:00.12Z",
        "2026-04-24T10:00:00Z",
        "2026-04-24 10:00:00.123Z",
        "2026-04-24T10:00:00.123+00:00",
        "2026-04-24T10:00:00.123Z ",
    ];
    probes.extend(texts.map(Value::from));
    probes
}

/// Where anything stands: a path of names and places.
type Path = Vec<String>;

fn paths(value: &Value) -> Vec<Path> {
    let below = |name: String, item: &Value| {
        let mut found = vec![vec![name.clone()]];
        found.extend(paths(item).into_iter().map(|path| [vec![name.clone()], path].concat()));
        found
    };
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(name, item)| below(name.clone(), item)).collect(),
        Value::Array(items) => items.iter().enumerate().flat_map(|(at, item)| below(at.to_string(), item)).collect(),
        _ => Vec::new(),
    }
}

/// The value with another one at that path, or, for `None`, with nothing there.
fn changed(value: &Value, path: &[String], to: Option<&Value>) -> Value {
    let mut value = value.clone();
    let Some((last, above)) = path.split_last() else { return to.cloned().unwrap_or_default() };
    let pointer: String = above.iter().map(|name| format!("/{name}")).collect();
    match (value.pointer_mut(&pointer), to) {
        (Some(Value::Object(fields)), Some(to)) => {
            fields.insert(last.clone(), to.clone());
        }
        (Some(Value::Object(fields)), None) => {
            fields.remove(last);
        }
        (Some(Value::Array(items)), to) => {
            let at: usize = last.parse().unwrap_or(0);
            match to {
                Some(to) if at < items.len() => items[at] = to.clone(),
                Some(to) => items.push(to.clone()),
                None if at < items.len() => drop(items.remove(at)),
                None => {}
            }
        }
        _ => {}
    }
    value
}

/// Each field missing, and each holding each probe: the schema and the parser must say the same of all of them.
fn agree_on_all(whole: &Value, schema: &Schema, parser: fn(&Value) -> bool) -> (u32, u32) {
    let (mut taken, mut refused) = (0, 0);
    let mut agree = |value: &Value| {
        let (said, by_parser) = (schema.takes(value), parser(value));
        assert_eq!(said, by_parser, "schema (left) and parser of {value}");
        if said { taken += 1 } else { refused += 1 }
    };
    agree(whole);
    let probes = probes();
    for probe in &probes {
        agree(probe);
    }
    for path in paths(whole) {
        agree(&changed(whole, &path, None));
        for probe in &probes {
            agree(&changed(whole, &path, Some(probe)));
        }
    }
    (taken, refused)
}

#[test]
fn the_schema_of_events_and_the_parser_agree_on_each_field_missing_ill_typed_and_out_of_range() {
    let schema = Schema::load("event");
    for whole in whole_events() {
        assert!(schema.takes(&whole), "{whole}");
        let (taken, refused) = agree_on_all(&whole, &schema, parses);
        assert!(taken > 10 && refused > 100, "{taken} taken, {refused} refused of {whole}");
    }
}

#[test]
fn the_schema_of_graphs_and_the_parser_agree_on_each_field_missing_ill_typed_and_out_of_range() {
    let schema = Schema::load("graph");
    let whole = whole_graph();
    assert!(schema.takes(&whole), "{whole}");
    // One id is what the schema cannot judge: that it stands twice, or is in no node.
    let parser = |value: &Value| {
        let faults = match Graph::parse(value.to_string().as_bytes()) {
            Ok(graph) => graph.faults,
            Err(error) => vec![error.to_string()],
        };
        let about_others = ["is not in the graph", "stands twice", "closes a cycle"];
        faults.iter().all(|fault| about_others.iter().any(|end| fault.ends_with(end)) && !names_no_id(fault))
    };
    let (taken, refused) = agree_on_all(&whole, &schema, parser);
    assert!(taken > 50 && refused > 500, "{taken} taken, {refused} refused");
    let many = |count: usize| {
        let node = |at: usize| json!({"id": format!("n{at}"), "deliverable": "", "depends_on": [], "touches": [], "done_when": ["true"]});
        json!({"version": 1, "nodes": (0..count).map(node).collect::<Vec<_>>()})
    };
    for (count, is_fine) in [(10_000, true), (10_001, false)] {
        assert_eq!((schema.takes(&many(count)), is_faultless(&many(count))), (is_fine, is_fine), "{count} nodes");
    }
}

/// Whether the node that it depends on could never be one.
fn names_no_id(fault: &str) -> bool {
    let needed =
        fault.split_once(" depends on ").and_then(|(_, rest)| rest.strip_suffix(", which is not in the graph"));
    needed.is_some_and(|needed| !kahn::domain::id::is_node_id(needed))
}

#[test]
fn what_a_schema_cannot_say_is_this_and_nothing_else() {
    let (events, graphs) = (Schema::load("event"), Schema::load("graph"));
    let line = |rest: &str| format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r",{rest}}}"#);
    let nested = |depth: usize| line(&format!(r#""event":"x","v":{}{}"#, "[".repeat(depth - 1), "]".repeat(depth - 1)));
    for (what, line) in [
        ("a base field stands twice", line(r#""event":"x","run_id":"r""#)),
        ("a field that the event defines stands twice", line(r#""event":"run_start","total_nodes":1,"total_nodes":1"#)),
        ("the date of ts is none", line(r#""event":"x""#).replace("04-24", "02-30")),
        ("an integer is written as a fraction", line(r#""event":"run_start","total_nodes":1.0"#)),
        ("an integer is written with an exponent", line(r#""event":"run_start","total_nodes":1e0"#)),
        ("deeper than 64", nested(65)),
    ] {
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert!(events.takes(&value), "{what}: {line}");
        assert!(parse_line(line.as_bytes()).is_err(), "{what}: {line}");
    }
    assert!(parse_line(nested(64).as_bytes()).is_ok());
    let node = |id: &str, needs: &str| {
        format!(r#"{{"id":"{id}","deliverable":"","depends_on":[{needs}],"touches":[],"done_when":["true"]}}"#)
    };
    let graph = |version: &str, nodes: &[String]| format!(r#"{{"version":{version},"nodes":[{}]}}"#, nodes.join(","));
    for (what, graph) in [
        ("an id stands twice", graph("1", &[node("a", ""), node("a", "")])),
        ("a dependency is not in the graph", graph("1", &[node("a", "\"b\"")])),
        ("a cycle", graph("1", &[node("a", "\"b\""), node("b", "\"a\"")])),
        ("the version is written as a fraction", graph("1.0", &[node("a", "")])),
    ] {
        let value: Value = serde_json::from_str(&graph).expect("JSON");
        assert!(graphs.takes(&value), "{what}: {graph}");
        let parsed = Graph::parse(graph.as_bytes()).expect("an object");
        assert_eq!(parsed.faults.len(), 1, "{what}: {:?}", parsed.faults);
    }
}

#[test]
fn the_sample_archive_keeps_to_the_schemas_where_the_parser_keeps_it() {
    let (events, graphs) = (Schema::load("event"), Schema::load("graph"));
    let (mut lines, mut graph_files) = (0, 0);
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/data/runs")).expect("data/runs") {
        let folder = entry.expect("an entry").path();
        for line in std::fs::read(folder.join("transitions.jsonl")).unwrap_or_default().split(|byte| *byte == b'\n') {
            let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            if parse_line(line).is_ok() {
                let value: Value = serde_json::from_slice(line).expect("a kept line is JSON");
                assert!(events.takes(&value), "{folder:?}: {value}");
                lines += 1;
            }
        }
        if let Ok(bytes) = std::fs::read(folder.join("graph.json")) {
            let value: Value = serde_json::from_slice(&bytes).expect("a graph is JSON");
            assert_eq!(graphs.takes(&value), is_faultless(&value), "{folder:?}");
            graph_files += 1;
        }
    }
    assert!(lines > 500 && graph_files > 5, "{lines} lines and {graph_files} graphs were looked at");
}

proptest! {
    /// Several fields wrong at once, fields of other events among them.
    #[test]
    fn the_schema_of_events_and_the_parser_agree_on_lines_with_several_changes(
        pick in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()),
            1..5,
        ),
    ) {
        thread_local!(static SCHEMA: Schema = Schema::load("event"));
        let wholes = whole_events();
        let probes = probes();
        let mut value = pick.get(&wholes).clone();
        for (of, path, probe, is_gone) in changes {
            let found = paths(of.get(&wholes));
            let path = path.get(&found);
            let to = if is_gone { None } else { Some(probe.get(&probes)) };
            value = changed(&value, path, to);
        }
        prop_assert_eq!(SCHEMA.with(|schema| schema.takes(&value)), parses(&value), "{}", value);
    }
}
