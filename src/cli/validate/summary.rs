//! summary.json against the log: the producer wrote it once, so every figure must be the one that its events show.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Code, InFile};
use crate::cli::print::short;
use crate::domain::event::{Kind, NodeStatus};
use crate::reduce::{RunState, Summary};

/// Floats are equal within a thousandth of a second; a rounding error of the last digit is not a difference.
const TOLERANCE: f64 = 0.001 + 1e-9;

pub(super) fn compare(bytes: &[u8], state: &RunState, counted: &Summary, found: &mut InFile<'_>) {
    let fields = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return found.fault(Code::Summary, None, "summary.json is not a JSON object"),
        Err(error) => return found.fault(Code::Summary, None, format!("summary.json is not JSON: {error}")),
    };
    if counted.ended.is_none() {
        return found.fault(Code::Summary, None, "summary.json stands here, but the log has no end event");
    }
    let mut comparison = Comparison { fields: &fields, found };
    comparison.text("run_id", Some(counted.run_id.as_str()));
    comparison.text("started", counted.started.map(|ts| ts.to_string()).as_deref());
    comparison.text("ended", counted.ended.map(|ts| ts.to_string()).as_deref());
    comparison.number("duration_s", counted.duration_s.unwrap_or(0.0));
    comparison.text("outcome", counted.outcome.map(|outcome| outcome.as_str()));
    if counted.kind == Some(Kind::Ci) {
        comparison.nodes(state, counted);
    }
}

struct Comparison<'a, 'b> {
    fields: &'a Map<String, Value>,
    found: &'a mut InFile<'b>,
}

impl Comparison<'_, '_> {
    fn nodes(&mut self, state: &RunState, counted: &Summary) {
        let nodes = counted.nodes.unwrap_or_default();
        let declared = state.start.as_ref().and_then(|start| start.total_nodes);
        self.integer("total_nodes", declared.unwrap_or(nodes.total));
        self.integer("done", nodes.done);
        self.integer("failed", nodes.failed);
        self.integer("blocked", nodes.blocked);
        self.integer("total_attempts", counted.total_attempts);
        self.integer("flake_retries", counted.flake_retries);
        let exit_code = state.end.as_ref().and_then(|end| end.exit_code).unwrap_or(0);
        // Absent, it is 0, as in the log.
        if exit_code != 0 || self.fields.contains_key("exit_code") {
            self.integer("exit_code", exit_code);
        }
        let results = || counted.node_results.iter();
        self.failed_nodes(
            results().filter(|node| node.status == NodeStatus::Failed).map(|node| node.node_id.as_str()).collect(),
        );
        self.node_attempts(
            results().filter(|node| node.attempts > 0).map(|node| (node.node_id.as_str(), node.attempts)).collect(),
        );
    }

    fn differs(&mut self, name: &str, log: &str) {
        let reason = match self.fields.get(name) {
            None => format!("no {name}; the log shows {log}"),
            Some(value) => format!("{name} is {}, the log shows {log}", short(&value.to_string())),
        };
        self.found.fault(Code::Summary, None, reason);
    }

    fn text(&mut self, name: &str, log: Option<&str>) {
        if self.fields.get(name).and_then(Value::as_str) != log {
            self.differs(name, log.unwrap_or("nothing"));
        }
    }

    fn integer(&mut self, name: &str, log: u64) {
        if self.fields.get(name).and_then(Value::as_u64) != Some(log) {
            self.differs(name, &log.to_string());
        }
    }

    fn number(&mut self, name: &str, log: f64) {
        let is_near = |number: f64| (number - log).abs() <= TOLERANCE;
        if !self.fields.get(name).and_then(Value::as_f64).is_some_and(is_near) {
            self.differs(name, &log.to_string());
        }
    }

    fn failed_nodes(&mut self, log: BTreeSet<&str>) {
        let items = self.fields.get("failed_nodes").and_then(Value::as_array);
        let said: Option<BTreeSet<&str>> = items.and_then(|items| items.iter().map(Value::as_str).collect());
        if said.as_ref() != Some(&log) {
            let log: Vec<&str> = log.into_iter().collect();
            self.differs("failed_nodes", &short(&format!("[{}]", log.join(", "))));
        }
    }

    fn node_attempts(&mut self, log: BTreeMap<&str, u64>) {
        let Some(said) = self.fields.get("node_attempts").and_then(Value::as_object) else {
            return self.differs("node_attempts", &format!("{} nodes with attempts", log.len()));
        };
        let names: BTreeSet<&str> = said.keys().map(String::as_str).chain(log.keys().copied()).collect();
        for name in names {
            let shown = log.get(name).copied().unwrap_or(0);
            // A node without attempts is left out; one that is written as 0 says the same.
            let written = said.get(name).map_or(Some(0), Value::as_u64);
            if written != Some(shown) {
                let written = said.get(name).map_or("left out".to_owned(), |value| short(&value.to_string()));
                let name = short(name);
                let reason = format!("node_attempts of {name} is {written}, the log shows {shown}");
                self.found.fault(Code::Summary, None, reason);
            }
        }
    }
}
