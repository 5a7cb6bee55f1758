//! Logs made for a test: written event by event, as a producer would, and kept as JSON, so that a second opinion can be
//! formed without the library.

use serde_json::{Value, json};

use kahn::domain::{Graph, RunId, Timestamp, parse_line};
use kahn::reduce::{RunState, Summary};

pub(crate) const SECOND: i64 = 1000;
pub(crate) const HOUR: i64 = 3600 * SECOND;
pub(crate) const DAY: i64 = 24 * HOUR;

/// 2026-03-01T00:00:00.000Z.
pub(crate) fn epoch() -> i64 {
    Timestamp::parse("2026-03-01T00:00:00.000Z").expect("a ts").millis()
}

pub(crate) fn ts(millis: i64) -> String {
    Timestamp::from_millis(millis).to_string()
}

/// One run: its events, and its graph if it has one.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) run_id: String,
    pub(crate) events: Vec<Value>,
    pub(crate) graph: Option<Value>,
    at: i64,
}

/// One attempt of a node: how long it takes, and what fails in it.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    pub(crate) millis: i64,
    pub(crate) failing: Vec<&'static str>,
}

/// An attempt that converges.
pub(crate) fn good(millis: i64) -> Try {
    Try { millis, failing: Vec::new() }
}

/// An attempt in which this check fails.
pub(crate) fn bad(millis: i64, check: &'static str) -> Try {
    Try { millis, failing: vec![check] }
}

impl Log {
    /// A log without an event.
    pub(crate) fn empty(run_id: &str, started: i64) -> Self {
        Self { run_id: run_id.to_owned(), events: Vec::new(), graph: None, at: started }
    }

    pub(crate) fn ci(run_id: &str, started: i64) -> Self {
        let mut log = Self::empty(run_id, started);
        log.push("run_start", json!({"total_nodes": 1}));
        log
    }

    pub(crate) fn agent(run_id: &str, started: i64, agent_id: &str) -> Self {
        let mut log = Self::empty(run_id, started);
        log.push("agent_run_start", json!({"agent_id": agent_id, "task": "try"}));
        log
    }

    /// Time passes; it may step back.
    pub(crate) fn wait(&mut self, millis: i64) {
        self.at += millis;
    }

    pub(crate) fn push(&mut self, name: &str, fields: Value) {
        let mut event = json!({"ts": ts(self.at), "run_id": self.run_id, "event": name});
        let (Some(event_fields), Value::Object(fields)) = (event.as_object_mut(), fields) else { panic!("fields") };
        event_fields.extend(fields);
        self.events.push(event);
    }

    pub(crate) fn moves(&mut self, node: &str, from: &str, to: &str) {
        let mut fields = json!({"node_id": node, "from": from, "to": to});
        if to == "running" {
            fields["attempt"] = json!(1);
        }
        self.push("node_transition", fields);
    }

    /// A node from pending to where it stands in the end, in running between its attempts.
    pub(crate) fn node(&mut self, node: &str, tries: &[Try], status: &str) {
        if status == "pending" {
            return;
        }
        if status == "blocked" {
            self.moves(node, "pending", "blocked");
            return;
        }
        self.moves(node, "pending", "ready");
        if status == "ready" {
            return;
        }
        self.moves(node, "ready", "running");
        for (number, one) in (1..).zip(tries) {
            let backoff_s = (number > 1).then(|| (1_i64 << (number - 1)).min(60));
            self.wait(backoff_s.unwrap_or(0) * SECOND + one.millis);
            let mut checks = vec![json!({"cmd": "true", "rc": 0, "duration_s": 0.1})];
            checks.extend(one.failing.iter().map(|cmd| json!({"cmd": cmd, "rc": 1, "duration_s": 0.1, "tail": "no"})));
            let mut fields = json!({
                "node_id": node, "attempt": number, "duration_s": one.millis as f64 / 1000.0,
                "converged": one.failing.is_empty(), "done_when_results": checks,
            });
            if let Some(backoff_s) = backoff_s {
                fields["backoff_s"] = json!(backoff_s);
            }
            self.push("node_attempt", fields);
        }
        if status != "running" {
            self.moves(node, "running", status);
        }
    }

    pub(crate) fn audit(&mut self, checkpoint: &str, result: &str) {
        self.push(
            "audit_checkpoint",
            json!({"agent_id": null, "checkpoint_id": checkpoint, "result": result, "duration_s": 0.2}),
        );
    }

    pub(crate) fn end_ci(&mut self, outcome: &str, seconds: f64) {
        self.push(
            "run_end",
            json!({"outcome": outcome, "done": 0, "failed": 0, "blocked": 0, "total_duration_s": seconds}),
        );
    }

    pub(crate) fn end_agent(&mut self, outcome: &str, seconds: f64, score: Option<f64>) {
        let mut fields = json!({
            "agent_id": "whoever", "outcome": outcome, "total_steps": 0, "total_tool_calls": 0,
            "total_audit_checkpoints": 0, "audits_passed": 0, "audits_failed": 0, "total_duration_s": seconds,
        });
        if let Some(score) = score {
            fields["convergence_score"] = json!(score);
        }
        self.push("agent_run_end", fields);
    }

    /// The log's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.events.iter().flat_map(|event| format!("{event}\n").into_bytes()).collect()
    }

    /// What the library makes of it.
    pub(crate) fn folded(&self) -> Folded {
        let mut state = RunState::default();
        let lines: Vec<String> = self.events.iter().map(Value::to_string).collect();
        for line in &lines {
            state.fold(
                &parse_line(line.as_bytes()).unwrap_or_else(|reason| panic!("{reason}: {line}")),
                line.as_bytes(),
            );
        }
        let graph = self.graph.as_ref().map(|graph| Graph::parse(graph.to_string().as_bytes()).expect("a graph"));
        let run_id = RunId::parse(&self.run_id).expect("a run_id");
        let summary = Summary::of(&run_id, &state, graph.as_ref().map(|graph| (graph, "0")));
        Folded { state, lines, graph, summary }
    }
}

/// A run as the library sees it.
pub(crate) struct Folded {
    pub(crate) state: RunState,
    pub(crate) lines: Vec<String>,
    pub(crate) graph: Option<Graph>,
    pub(crate) summary: Summary,
}

/// graph.json of nodes with the commands of their checks.
pub(crate) fn graph(nodes: &[(&str, &[&str])]) -> Value {
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|(id, done_when)| {
            json!({"id": id, "deliverable": "it", "depends_on": [], "touches": [], "parallel_safe": true,
                   "done_when": done_when, "max_ralph_iters": 6})
        })
        .collect();
    json!({"version": 1, "nodes": nodes})
}
