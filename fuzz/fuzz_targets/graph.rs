//! A graph.json of any bytes, and (behind a byte 0xff, which is in no JSON) a log: no panic, and what is used of a graph
//! is sound: each id once, edges to its own nodes only, no cycle.
#![no_main]

use std::collections::{HashMap, HashSet};

use kahn::domain::{Graph, RunId, Timestamp};
use kahn::insight::compare::{FailingChecks, Side, compare};
use kahn::insight::diagnostics::{Look, blocked_by, diagnose};
use kahn::reduce::{RunState, Summary};
use kahn_fuzz::{fold_onto, lines_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0xff).unwrap_or(data.len());
    let (graph, log) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let graph = Graph::parse(graph).ok();
    if let Some(graph) = &graph {
        let ids: HashSet<&str> = graph.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids.len(), graph.nodes.len(), "each id once");
        let mut waits: HashMap<&str, usize> = HashMap::new();
        for node in &graph.nodes {
            assert!(node.depends_on.iter().all(|id| ids.contains(id.as_str())), "edges to its own nodes");
            waits.insert(&node.id, node.depends_on.len());
        }
        let mut free: Vec<&str> = waits.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
        let mut walked = 0;
        while let Some(id) = free.pop() {
            walked += 1;
            for node in graph.nodes.iter().filter(|node| node.depends_on.iter().any(|needed| needed == id)) {
                let count = waits.get_mut(node.id.as_str()).expect("a node");
                *count -= 1;
                if *count == 0 {
                    free.push(&node.id);
                }
            }
        }
        assert_eq!(walked, graph.nodes.len(), "no cycle");
        let json = serde_json::to_string(graph).expect("a graph prints");
        assert_eq!(serde_json::from_str::<Graph>(&json).expect("a graph reads back"), *graph);
    }
    let state = fold_onto(RunState::default(), &lines_of(log));
    let now = state.last_event.unwrap_or(Timestamp::from_millis(0));
    let look = Look { state: &state, graph: graph.as_ref(), now, stall_after_ms: 900_000 };
    let found = diagnose(&look);
    assert!(!found.verdict.is_empty());
    for node_id in state.nodes.keys() {
        let _ = blocked_by(&state, graph.as_ref(), node_id);
    }
    let run_id = RunId::parse("r").expect("a run_id");
    let summary = Summary::of(&run_id, &state, graph.as_ref().map(|graph| (graph, "00")));
    let bare = Summary::of(&run_id, &state, None);
    let failing = FailingChecks::new();
    let head = Side { summary: &summary, graph: graph.as_ref(), failing: &failing };
    let base = Side { summary: &bare, graph: None, failing: &failing };
    let _ = compare(base, head);
});
