//! Insight over one run.
//!
//! - `findings`: small runs by hand, one or a few for each finding and for each kind of verdict.
//! - `naive`: the same figures worked out the long way over random graphs and logs.
//! - `moments`: over HTTP, a moment of a log is the log cut there; a node's recent runs.

mod findings;
mod moments;
mod naive;

use kahn::domain::{Graph, Timestamp, parse_line};
use kahn::insight::diagnostics::{Look, diagnose};
use kahn::reduce::RunState;
use serde_json::{Value, json};

/// 2026-04-24T10:00:00.000Z.
const BEGIN: i64 = 1_777_024_800_000;

/// A log that a test writes; its clock is in milliseconds from the begin.
#[derive(Default)]
struct Log {
    run_id: String,
    clock: i64,
    lines: Vec<String>,
    graph: Option<Value>,
}

impl Log {
    fn of(run_id: &str) -> Self {
        Self { run_id: run_id.into(), ..Self::default() }
    }

    /// A CI run over these nodes: `(id, needs)`.
    fn ci(nodes: &[(&str, &[&str])]) -> Self {
        let mut log = Self::of("r");
        log.graph = Some(graph(nodes));
        log.event("run_start", json!({"total_nodes": nodes.len()}));
        log
    }

    fn agent() -> Self {
        let mut log = Self::of("r");
        log.event("agent_run_start", json!({"agent_id": "coder", "task": "Fix it"}));
        log
    }

    fn at(&mut self, seconds: i64) -> &mut Self {
        self.clock = seconds * 1000;
        self
    }

    /// The next event; its seq.
    fn event(&mut self, name: &str, fields: Value) -> u64 {
        let ts = Timestamp::from_millis(BEGIN + self.clock);
        let mut event = json!({"ts": ts, "run_id": self.run_id, "event": name});
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        self.lines.push(event.to_string());
        self.lines.len() as u64 - 1
    }

    fn moves(&mut self, node: &str, from: &str, to: &str) -> u64 {
        self.event("node_transition", json!({"node_id": node, "from": from, "to": to}))
    }

    fn blocked(&mut self, node: &str, by: &str) -> u64 {
        let reason = format!("ancestor_failed:{by}");
        self.event("node_transition", json!({"node_id": node, "from": "pending", "to": "blocked", "reason": reason}))
    }

    fn runs(&mut self, node: &str, attempt: u64) -> u64 {
        self.event("node_transition", json!({"node_id": node, "from": "ready", "to": "running", "attempt": attempt}))
    }

    /// An attempt with one check.
    fn attempt(&mut self, node: &str, attempt: u64, rc: i32, seconds: f64) -> u64 {
        let mut check = json!({"cmd": format!("test {node}"), "rc": rc, "duration_s": 1.0});
        if rc != 0 {
            check["tail"] = json!(format!("{node} is broken"));
        }
        let mut fields = json!({"node_id": node, "attempt": attempt, "duration_s": seconds, "converged": rc == 0,
            "done_when_results": [check]});
        if attempt > 1 {
            fields["backoff_s"] = json!(2.0);
        }
        self.event("node_attempt", fields)
    }

    /// From pending to running.
    fn starts(&mut self, node: &str) -> u64 {
        self.moves(node, "pending", "ready");
        self.runs(node, 1)
    }

    /// From pending to done, so many seconds long.
    fn done(&mut self, node: &str, seconds: i64) -> u64 {
        self.starts(node);
        self.clock += seconds * 1000;
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        self.attempt(node, 1, 0, seconds as f64);
        self.moves(node, "running", "done")
    }

    /// From pending to failed, with one attempt of 10 s that exits 101; the seq of the move to failed.
    fn fails(&mut self, node: &str) -> u64 {
        self.starts(node);
        self.clock += 10_000;
        self.attempt(node, 1, 101, 10.0);
        let reason = "max_ralph_iters_reached";
        self.event("node_transition", json!({"node_id": node, "from": "running", "to": "failed", "reason": reason}))
    }

    fn ends(&mut self, outcome: &str, [done, failed, blocked]: [u64; 3]) -> u64 {
        let fields =
            json!({"outcome": outcome, "done": done, "failed": failed, "blocked": blocked, "total_duration_s": 1.0});
        self.event("run_end", fields)
    }

    fn agent_ends(&mut self, outcome: &str) -> u64 {
        let fields = json!({"agent_id": "coder", "outcome": outcome, "total_steps": 0, "total_tool_calls": 0,
            "total_audit_checkpoints": 0, "audits_passed": 0, "audits_failed": 0, "total_duration_s": 1.0});
        self.event("agent_run_end", fields)
    }

    fn calls(&mut self, step: u64, tool: &str, input: Option<&str>, error: Option<&str>) -> u64 {
        let mut fields =
            json!({"agent_id": "coder", "step": step, "tool_name": tool, "duration_s": 0.5, "ok": error.is_none()});
        if let Some(input) = input {
            fields["input_summary"] = input.into();
        }
        if let Some(error) = error {
            fields["error"] = error.into();
        }
        self.event("tool_invocation", fields)
    }

    fn audit(&mut self, checkpoint: &str, result: &str, evidence: Value) -> u64 {
        let fields = json!({"checkpoint_id": checkpoint, "result": result, "duration_s": 0.1, "evidence": evidence});
        self.event("audit_checkpoint", fields)
    }

    fn state(&self) -> RunState {
        let mut state = RunState::default();
        for line in &self.lines {
            state.fold(&parse_line(line.as_bytes()).expect("a good line"), line.as_bytes());
        }
        state
    }

    fn graph(&self) -> Option<Graph> {
        let graph = self.graph.as_ref()?;
        Some(Graph::parse(graph.to_string().as_bytes()).expect("a graph"))
    }

    /// What is found at the clock's time.
    fn found(&self) -> Found {
        let (state, graph) = (self.state(), self.graph());
        let now = Timestamp::from_millis(BEGIN + self.clock);
        let now = state.end.as_ref().and(state.last_event).unwrap_or(now);
        let look = Look { state: &state, graph: graph.as_ref(), now, stall_after_ms: 900_000 };
        let found = diagnose(&look);
        let findings = serde_json::to_value(&found.findings).expect("findings print");
        let found = Found { verdict: found.verdict, findings: findings.as_array().expect("a list").clone() };
        found.assert_well_formed(&state);
        found
    }
}

/// A graph of nodes that touch nothing in common.
fn graph(nodes: &[(&str, &[&str])]) -> Value {
    let node = |(id, needs): &(&str, &[&str])| json!({"id": id, "deliverable": "it", "depends_on": needs, "touches": [format!("src/{id}.rs")], "done_when": ["true"]});
    json!({"version": 1, "nodes": nodes.iter().map(node).collect::<Vec<_>>()})
}

/// Findings as answers print them.
struct Found {
    verdict: String,
    findings: Vec<Value>,
}

const KINDS: [&str; 12] = [
    "failed_node",
    "blocked_chain",
    "critical_path",
    "slowest_node",
    "flaky_node",
    "waiting",
    "stalled",
    "agent_loop",
    "failing_tool",
    "failing_audit",
    "parallelism",
    "inconsistent",
];

impl Found {
    /// The findings of this kind, in order.
    fn of(&self, kind: &str) -> Vec<&Value> {
        assert!(KINDS.contains(&kind));
        self.findings.iter().filter(|finding| finding["kind"] == kind).collect()
    }

    /// The one finding of this kind.
    fn one(&self, kind: &str) -> &Value {
        let found = self.of(kind);
        assert_eq!(found.len(), 1, "{kind}: {:#?}", self.findings);
        found[0]
    }

    fn messages(&self, kind: &str) -> Vec<&str> {
        self.of(kind).into_iter().map(|finding| finding["message"].as_str().expect("a message")).collect()
    }

    /// What holds of every finding: its members, its severity, its place in the order, one sentence.
    fn assert_well_formed(&self, state: &RunState) {
        let sentence = |text: &str| {
            let is_one = text.ends_with('.') && !text.contains('\n') && text.len() > 10 && !text.contains("  ");
            assert!(is_one, "{text:?} is no sentence");
        };
        sentence(&self.verdict);
        let mut places = Vec::new();
        for finding in &self.findings {
            let members: Vec<&String> = finding.as_object().expect("an object").keys().collect();
            assert_eq!(members, ["evidence", "kind", "message", "node_ids", "seq", "severity", "steps"]);
            sentence(finding["message"].as_str().expect("a message"));
            let kind = KINDS.iter().position(|kind| finding["kind"] == *kind).expect("a known kind");
            let has_failed = finding["evidence"]["results"]["fail"].as_u64() > Some(0);
            let severity = match KINDS[kind] {
                "failed_node" => 0,
                "failing_audit" if has_failed => 0,
                "blocked_chain" | "stalled" | "agent_loop" | "failing_tool" | "failing_audit" | "flaky_node"
                | "inconsistent" => 1,
                _ => 2,
            };
            assert_eq!(finding["severity"], ["error", "warning", "info"][severity], "{finding}");
            let seq = finding["seq"].as_u64();
            assert!(seq.is_none_or(|seq| seq < state.next_seq), "{finding}");
            places.push((severity, kind, seq.unwrap_or(u64::MAX)));
        }
        assert!(places.is_sorted(), "{:#?}", self.findings);
    }
}
