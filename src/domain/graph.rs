//! The DAG as it was at run_start: graph.json, served as it is; what is valid in it is used.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::is_too_deep;
use super::{MAX_DEPTH, MAX_GRAPH_BYTES, MAX_GRAPH_NODES, MAX_INT, id};

/// How often a node is tried when its graph does not say.
pub const DEFAULT_MAX_RALPH_ITERS: u64 = 6;

/// What could be used of a graph.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The nodes, in the file's order, each id once.
    pub nodes: Vec<Node>,
    /// What was wrong with the rest, a sentence each: another version, a cycle, a dangling or duplicate id, an ill-typed field.
    pub faults: Vec<String>,
}

/// One prompt and the checks that say when it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// What it is to bring about.
    pub deliverable: String,
    /// The nodes that must be done before it. Only ids of this graph, and no edge that closes a cycle.
    pub depends_on: Vec<String>,
    /// Paths or globs that it may write.
    pub touches: Vec<String>,
    /// Whether it may run beside others.
    pub parallel_safe: bool,
    /// The commands that must exit 0.
    pub done_when: Vec<String>,
    /// How often it is tried.
    pub max_ralph_iters: u64,
    /// A guess at its size, in lines of code.
    pub estimated_loc: Option<u64>,
}

/// Why a graph.json counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Over the byte limit.
    #[error("graph.json is over 8 MiB")]
    TooLarge,
    /// Over the node limit.
    #[error("graph.json has more than 10,000 nodes")]
    TooManyNodes,
    /// Not one JSON object of text within the depth limit.
    #[error("graph.json is not one JSON object: {0}")]
    NotAnObject(String),
}

impl Graph {
    /// Reads graph.json's bytes.
    ///
    /// # Errors
    ///
    /// When the bytes are not one JSON object within the limits; any other fault is kept in [`Graph::faults`].
    pub fn parse(bytes: &[u8]) -> Result<Self, GraphError> {
        if bytes.len() > MAX_GRAPH_BYTES {
            return Err(GraphError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| GraphError::NotAnObject("not UTF-8".into()))?;
        if is_too_deep(bytes) {
            return Err(GraphError::NotAnObject(format!("nested deeper than {MAX_DEPTH}")));
        }
        let value: Value = serde_json::from_str(text).map_err(|e| GraphError::NotAnObject(e.to_string()))?;
        let Value::Object(object) = value else {
            return Err(GraphError::NotAnObject("it is another JSON value".into()));
        };
        let mut graph = Self::default();
        if object.get("version") != Some(&Value::from(1)) {
            graph.faults.push("version is not 1".into());
        }
        let items = match object.get("nodes") {
            Some(Value::Array(items)) => items.as_slice(),
            _ => {
                graph.faults.push("nodes is not a list".into());
                &[]
            }
        };
        if items.len() > MAX_GRAPH_NODES {
            return Err(GraphError::TooManyNodes);
        }
        graph.read_nodes(items);
        graph.drop_dangling();
        graph.drop_cycles();
        Ok(graph)
    }

    fn read_nodes(&mut self, items: &[Value]) {
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            let name = item.get("id").and_then(Value::as_str).filter(|name| id::is_node_id(name));
            let (Some(name), Value::Object(fields)) = (name, item) else {
                self.faults.push(format!("node {} has no valid id", at + 1));
                continue;
            };
            if !seen.insert(name.to_owned()) {
                self.faults.push(format!("node id {name} stands twice"));
                continue;
            }
            let mut reader = FieldReader { name, fields, faults: &mut self.faults };
            let node = Node {
                id: name.to_owned(),
                deliverable: reader.text("deliverable"),
                depends_on: reader.texts("depends_on"),
                touches: reader.texts("touches"),
                parallel_safe: reader.optional("parallel_safe", Value::as_bool).unwrap_or(true),
                done_when: reader.texts("done_when"),
                max_ralph_iters: reader.optional("max_ralph_iters", int).unwrap_or(DEFAULT_MAX_RALPH_ITERS),
                estimated_loc: reader.optional("estimated_loc", int),
            };
            if node.done_when.is_empty() {
                self.faults.push(format!("node {name} has no done_when command"));
            }
            self.nodes.push(node);
        }
    }

    fn drop_dangling(&mut self) {
        let ids: HashSet<String> = self.nodes.iter().map(|node| node.id.clone()).collect();
        for node in &mut self.nodes {
            let faults = &mut self.faults;
            let mut kept = HashSet::new();
            node.depends_on.retain(|needed| {
                if !ids.contains(needed) {
                    faults.push(format!("node {} depends on {needed}, which is not in the graph", node.id));
                    return false;
                }
                kept.insert(needed.clone())
            });
        }
    }

    /// Walks the edges depth first, in the file's order, and drops each edge that leads back to a node on the walk.
    fn drop_cycles(&mut self) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            OnWalk,
            Done,
        }
        let index: HashMap<&str, usize> =
            self.nodes.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
        let edges: Vec<Vec<usize>> = self
            .nodes
            .iter()
            .map(|node| node.depends_on.iter().filter_map(|id| index.get(id.as_str()).copied()).collect())
            .collect();
        let mut marks = vec![Mark::New; edges.len()];
        let mut closing = Vec::new();
        for root in 0..edges.len() {
            if marks[root] != Mark::New {
                continue;
            }
            marks[root] = Mark::OnWalk;
            let mut walk = vec![(root, 0_usize)];
            while let Some((at, next)) = walk.last_mut() {
                let at = *at;
                let Some(&to) = edges[at].get(*next) else {
                    marks[at] = Mark::Done;
                    walk.pop();
                    continue;
                };
                *next += 1;
                match marks[to] {
                    Mark::New => {
                        marks[to] = Mark::OnWalk;
                        walk.push((to, 0));
                    }
                    Mark::OnWalk => closing.push((at, to)),
                    Mark::Done => {}
                }
            }
        }
        for (at, to) in closing {
            let needed = self.nodes[to].id.clone();
            self.faults.push(format!("node {} depends on {needed}, which closes a cycle", self.nodes[at].id));
            self.nodes[at].depends_on.retain(|id| *id != needed);
        }
    }
}

/// An integer of the contract, as in events.
fn int(value: &Value) -> Option<u64> {
    value.as_u64().filter(|value| *value <= MAX_INT)
}

/// Reads the fields of one node and notes those that are missing or ill-typed.
struct FieldReader<'a> {
    name: &'a str,
    fields: &'a Map<String, Value>,
    faults: &'a mut Vec<String>,
}

impl FieldReader<'_> {
    fn fault(&mut self, field: &str) {
        self.faults.push(format!("node {} has no valid {field}", self.name));
    }

    fn text(&mut self, field: &str) -> String {
        match self.fields.get(field) {
            Some(Value::String(text)) => text.clone(),
            _ => {
                self.fault(field);
                String::new()
            }
        }
    }

    fn texts(&mut self, field: &str) -> Vec<String> {
        let Some(Value::Array(items)) = self.fields.get(field) else {
            self.fault(field);
            return Vec::new();
        };
        let texts: Vec<String> = items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
        if texts.len() != items.len() {
            self.fault(field);
        }
        texts
    }

    fn optional<T>(&mut self, field: &str, read: fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.fields.get(field)?;
        let read = read(value);
        if read.is_none() {
            self.fault(field);
        }
        read
    }
}
