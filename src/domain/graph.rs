//! The DAG as it was at run_start: graph.json, served as it is; what is valid in it is used.

mod raw;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use self::raw::{Fields, List, Part};
use super::event::is_too_deep;
use super::{MAX_DEPTH, MAX_GRAPH_BYTES, MAX_GRAPH_NODES, MAX_INT, id};

/// How often a node is tried when its graph does not say.
pub const DEFAULT_MAX_RALPH_ITERS: u64 = 6;

/// So many faults of a graph are kept as sentences: a file of 8 MiB may have millions.
pub const MAX_GRAPH_FAULTS: usize = 100;

/// What could be used of a graph.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The nodes, in the file's order, each id once.
    pub nodes: Vec<Node>,
    /// What was wrong with the rest, a sentence each: another version, a cycle, a dangling or duplicate id, an ill-typed field.
    /// The first [`MAX_GRAPH_FAULTS`].
    pub faults: Vec<String>,
    /// How many faults there are in all.
    pub fault_count: u64,
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
        let part: Part<'_> = serde_json::from_str(text).map_err(|e| GraphError::NotAnObject(e.to_string()))?;
        let Part::Object(mut object) = part else {
            return Err(GraphError::NotAnObject("it is another JSON value".into()));
        };
        let mut faults = Faults::default();
        if !matches!(object.take("version"), Some(Part::Int(1))) {
            faults.add(|| "version is not 1".into());
        }
        let items = match object.take("nodes") {
            Some(Part::List(items)) => items,
            _ => {
                faults.add(|| "nodes is not a list".into());
                List::default()
            }
        };
        if items.len > MAX_GRAPH_NODES {
            return Err(GraphError::TooManyNodes);
        }
        let (mut nodes, needs) = read_nodes(items, &mut faults);
        let mut edges = edges(&nodes, needs, &mut faults);
        drop_cycles(&nodes, &mut edges, &mut faults);
        let needs: Vec<Vec<String>> = edges
            .into_iter()
            .map(|needs| needs.into_iter().flatten().map(|to| nodes[to].id.clone()).collect())
            .collect();
        for (node, needs) in nodes.iter_mut().zip(needs) {
            node.depends_on = needs;
        }
        Ok(Self { nodes, faults: faults.told, fault_count: faults.count })
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        // What an allocation takes besides its bytes.
        const BLOCK: usize = 16;
        let texts = |texts: &[String]| texts.iter().map(|text| size_of::<String>() + text.len() + BLOCK).sum::<usize>();
        let nodes: usize = self
            .nodes
            .iter()
            .map(|node| {
                size_of_val(node)
                    + node.id.len()
                    + node.deliverable.len()
                    + texts(&node.depends_on)
                    + texts(&node.touches)
                    + texts(&node.done_when)
            })
            .sum();
        nodes + texts(&self.faults)
    }
}

/// What is wrong so far: the first sentences, and how many there would be.
#[derive(Default)]
struct Faults {
    told: Vec<String>,
    count: u64,
}

impl Faults {
    fn add(&mut self, sentence: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < MAX_GRAPH_FAULTS {
            self.told.push(sentence());
        }
    }
}

/// The nodes, each id once, and beside them what each says that it depends on.
fn read_nodes<'a>(items: List<'a>, faults: &mut Faults) -> (Vec<Node>, Vec<Vec<Cow<'a, str>>>) {
    let (mut nodes, mut all_needs, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let mut objects = items.objects.into_iter().peekable();
    for at in 0..items.len {
        let mut fields = objects.next_if(|(of, _)| *of == at).map(|(_, fields)| fields).unwrap_or_default();
        let Some(name) = fields.take("id").and_then(Part::text).filter(|name| id::is_node_id(name)) else {
            faults.add(|| format!("node {} has no valid id", at + 1));
            continue;
        };
        if !seen.insert(name.clone()) {
            faults.add(|| format!("node id {name} stands twice"));
            continue;
        }
        let mut reader = FieldReader { name: &name, fields, faults };
        let deliverable = reader.text("deliverable");
        let needs = reader.texts("depends_on");
        let node = Node {
            id: name.to_string(),
            deliverable,
            depends_on: Vec::new(),
            touches: owned(reader.texts("touches")),
            parallel_safe: reader.optional("parallel_safe", Part::bool).unwrap_or(true),
            done_when: owned(reader.texts("done_when")),
            max_ralph_iters: reader.optional("max_ralph_iters", int).unwrap_or(DEFAULT_MAX_RALPH_ITERS),
            estimated_loc: reader.optional("estimated_loc", int),
        };
        if node.done_when.is_empty() {
            faults.add(|| format!("node {name} has no done_when command"));
        }
        nodes.push(node);
        all_needs.push(needs);
    }
    (nodes, all_needs)
}

fn owned(texts: Vec<Cow<'_, str>>) -> Vec<String> {
    let mut texts: Vec<String> = texts.into_iter().map(Cow::into_owned).collect();
    texts.shrink_to_fit();
    texts
}

/// By its place, what each node depends on, once each and in the file's order. What closes a cycle is taken out later.
type Edges = Vec<Vec<Option<usize>>>;

fn edges(nodes: &[Node], needs: Vec<Vec<Cow<'_, str>>>, faults: &mut Faults) -> Edges {
    let index: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
    // Which node named it last: that it is named again by the same one changes nothing.
    let mut named_by = vec![None; nodes.len()];
    let mut of_node = |(at, needs): (usize, Vec<Cow<'_, str>>)| {
        let mut edges = Vec::new();
        for needed in needs {
            match index.get(&*needed) {
                None => {
                    faults.add(|| format!("node {} depends on {needed}, which is not in the graph", nodes[at].id));
                }
                Some(&to) if named_by[to].replace(at) != Some(at) => edges.push(Some(to)),
                Some(_) => {}
            }
        }
        edges
    };
    needs.into_iter().enumerate().map(&mut of_node).collect()
}

/// Walks the edges depth first, in the file's order, and drops each edge that leads back to a node on the walk.
fn drop_cycles(nodes: &[Node], edges: &mut Edges, faults: &mut Faults) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnWalk,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for root in 0..edges.len() {
        if marks[root] != Mark::New {
            continue;
        }
        marks[root] = Mark::OnWalk;
        let mut walk = vec![(root, 0_usize)];
        while let Some((at, next)) = walk.last_mut() {
            let at = *at;
            let Some(edge) = edges[at].get_mut(*next) else {
                marks[at] = Mark::Done;
                walk.pop();
                continue;
            };
            *next += 1;
            let Some(to) = *edge else { continue };
            match marks[to] {
                Mark::New => {
                    marks[to] = Mark::OnWalk;
                    walk.push((to, 0));
                }
                Mark::OnWalk => {
                    *edge = None;
                    let (node, needed) = (&nodes[at].id, &nodes[to].id);
                    faults.add(|| format!("node {node} depends on {needed}, which closes a cycle"));
                }
                Mark::Done => {}
            }
        }
    }
}

/// An integer of the contract, as in events.
fn int(part: Part<'_>) -> Option<u64> {
    match part {
        Part::Int(value) => Some(value).filter(|value| *value <= MAX_INT),
        _ => None,
    }
}

/// Reads the fields of one node and notes those that are missing or ill-typed.
struct FieldReader<'a, 'b> {
    name: &'b str,
    fields: Fields<'a>,
    faults: &'b mut Faults,
}

impl<'a> FieldReader<'a, '_> {
    fn fault(&mut self, field: &str) {
        self.faults.add(|| format!("node {} has no valid {field}", self.name));
    }

    fn text(&mut self, field: &str) -> String {
        match self.fields.take(field).and_then(Part::text) {
            Some(text) => text.into_owned(),
            None => {
                self.fault(field);
                String::new()
            }
        }
    }

    fn texts(&mut self, field: &str) -> Vec<Cow<'a, str>> {
        let Some(Part::List(list)) = self.fields.take(field) else {
            self.fault(field);
            return Vec::new();
        };
        if list.texts.len() != list.len {
            self.fault(field);
        }
        list.texts
    }

    fn optional<T>(&mut self, field: &str, read: fn(Part<'a>) -> Option<T>) -> Option<T> {
        let read = read(self.fields.take(field)?);
        if read.is_none() {
            self.fault(field);
        }
        read
    }
}
