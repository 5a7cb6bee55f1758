//! The figures of insight against the same figures worked out the long way, over random graphs and random logs. If these
//! fail, a person is told a wrong critical path, a wrong root, or a wrong reason to wait.

use std::collections::{BTreeMap, BTreeSet};

use kahn::insight::percentile;
use serde_json::{Value, json};

use super::{Found, Log};

/// Random numbers from a seed, the same on every machine (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A node as the naive side keeps it: every span on its own.
#[derive(Default, Clone)]
struct Node {
    needs: Vec<String>,
    touches: Vec<String>,
    runs_alone: bool,
    in_graph: bool,
    status: &'static str,
    since: i64,
    /// When it came to stand where it stands, as a place in the log.
    moved: usize,
    reason: Vec<String>,
    spans: Vec<(&'static str, i64, i64)>,
}

/// A run as the naive side keeps it.
struct Run {
    log: Log,
    nodes: BTreeMap<String, Node>,
    has_graph: bool,
    ended: bool,
    /// The last event's time.
    last: i64,
}

const TOUCHES: &[&str] =
    &["src/a", "src/a.rs", "src/*.rs", "src", "docs/**", "docs/x", "**", "ui/[ab].js", "ui/", "ops/{x,y}"];

impl Run {
    fn random(dice: &mut Dice) -> Self {
        let count = 1 + dice.below(9);
        let mut ids: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
        for at in (1..count).rev() {
            ids.swap(at, dice.below(at + 1));
        }
        let has_graph = !dice.one_in(4);
        let mut nodes = BTreeMap::new();
        for (at, id) in ids.iter().enumerate() {
            let needs = ids[..at].iter().filter(|_| dice.one_in(3)).cloned().collect();
            let touches = (0..dice.below(3)).map(|_| (*dice.pick(TOUCHES)).to_owned()).collect();
            let runs_alone = dice.one_in(8);
            let node = Node { needs, touches, runs_alone, in_graph: has_graph, status: "pending", ..Node::default() };
            nodes.insert(id.clone(), node);
        }
        // The file's order is another one.
        let order: Vec<&String> = if dice.one_in(2) { nodes.keys().collect() } else { nodes.keys().rev().collect() };
        let specs: Vec<Value> = order
            .into_iter()
            .map(|id| {
                let node = &nodes[id];
                json!({"id": id, "deliverable": "", "depends_on": node.needs, "touches": node.touches,
                    "parallel_safe": !node.runs_alone, "done_when": ["true"]})
            })
            .collect();
        let mut log = Log::of("r");
        log.graph = has_graph.then(|| json!({"version": 1, "nodes": specs}));
        log.event("run_start", json!({"total_nodes": count}));
        let mut run = Self { log, nodes, has_graph, ended: false, last: 0 };
        for _ in 0..dice.below(60) {
            run.step(dice);
        }
        if dice.one_in(4) {
            run.tick(dice);
            run.log.ends("partial", [0, 0, 0]);
            run.ended = true;
        }
        // Silence, up to far beyond what counts as stalled.
        run.log.clock = run.last + i64::try_from(dice.below(2_000_000)).unwrap();
        run
    }

    fn tick(&mut self, dice: &mut Dice) {
        let forward = i64::try_from(dice.below(20_000)).unwrap();
        // Clocks step back, and two events may share a ts.
        let step = if dice.one_in(15) {
            -forward / 2
        } else if dice.one_in(4) {
            0
        } else {
            forward
        };
        self.log.clock = self.last + step;
        self.last = self.log.clock;
    }

    fn step(&mut self, dice: &mut Dice) {
        let ids: Vec<String> = self.nodes.keys().cloned().collect();
        let id = dice.pick(&ids).clone();
        let node = &self.nodes[&id];
        let from = node.status;
        let stands =
            |status: &str| node.needs.iter().filter(|need| self.nodes[*need].status == status).cloned().collect();
        let failed: Vec<String> = stands("failed");
        let blocked: Vec<String> = stands("blocked");
        let done: Vec<String> = stands("done");
        let mut reason = Vec::new();
        let to = match from {
            _ if dice.one_in(25) => *dice.pick(&["pending", "ready", "running", "done", "failed", "blocked"]),
            "pending" | "ready" if !failed.is_empty() || (!blocked.is_empty() && dice.one_in(2)) => {
                // The producer names what failed, or only what stands before the node.
                reason = if failed.is_empty() { blocked } else { failed };
                "blocked"
            }
            "pending" if done.len() == node.needs.len() => "ready",
            "ready" => "running",
            "running" => *dice.pick(&["done", "done", "done", "failed", "ready"]),
            _ => return,
        };
        self.tick(dice);
        let mut event = json!({"node_id": id, "from": from, "to": to});
        if to == "running" {
            event["attempt"] = json!(1);
        }
        if !reason.is_empty() {
            event["reason"] = json!(format!("ancestor_failed:{}", reason.join(",")));
        }
        let seq = self.log.event("node_transition", event);
        let now = self.last;
        let node = self.nodes.get_mut(&id).unwrap();
        node.reason = reason;
        if to != from {
            if node.moved > 0 {
                node.spans.push((from, node.since, now));
            }
            (node.status, node.since, node.moved) = (to, now, usize::try_from(seq).unwrap());
        }
    }

    /// The nodes that the run has: without a graph only those that moved, in order of their first event.
    fn known(&self) -> Vec<&String> {
        self.nodes
            .iter()
            .filter(|(id, node)| node.in_graph || self.first_event(id).is_some())
            .map(|(id, _)| id)
            .collect()
    }

    fn first_event(&self, id: &str) -> Option<usize> {
        self.log.lines.iter().position(|line| line.contains(&format!("\"node_id\":\"{id}\"")))
    }

    /// Milliseconds in a status, the open span counted to the last event.
    fn millis(&self, id: &str, status: &str) -> i64 {
        let node = &self.nodes[id];
        let closed =
            node.spans.iter().filter(|(of, ..)| *of == status).map(|(_, from, to)| (to - from).max(0)).sum::<i64>();
        let is_open = node.status == status && node.moved > 0;
        closed + if is_open { (self.last - node.since).max(0) } else { 0 }
    }

    fn now(&self) -> i64 {
        if self.ended { self.last } else { self.log.clock }
    }

    fn finished(&self, id: &str) -> Option<i64> {
        match self.nodes[id].status {
            "done" | "failed" => Some(self.nodes[id].since),
            "running" => Some(self.now()),
            _ => None,
        }
    }

    fn last_of<'a>(&'a self, of: impl Iterator<Item = &'a String>) -> Option<&'a String> {
        let mut best: Option<&String> = None;
        for id in of.filter(|id| self.finished(id).is_some()) {
            let is_better = best.is_none_or(|best| {
                let (own, other) = (self.finished(id).unwrap(), self.finished(best).unwrap());
                let (own_ran, other_ran) = (self.millis(id, "running"), self.millis(best, "running"));
                own > other || (own == other && (own_ran > other_ran || (own_ran == other_ran && id < best)))
            });
            if is_better {
                best = Some(id);
            }
        }
        best
    }

    fn critical_path(&self) -> Vec<String> {
        fn back(run: &Run, id: &String, path: &mut Vec<String>) {
            if let Some(before) = run.last_of(run.nodes[id].needs.iter()) {
                back(run, before, path);
            }
            path.push(id.clone());
        }
        let mut path = Vec::new();
        if let Some(last) = self.last_of(self.nodes.keys()).filter(|_| self.has_graph) {
            back(self, last, &mut path);
        }
        path
    }

    /// Every chain of dependencies there is, from each node on.
    fn chains(&self) -> Vec<Vec<&str>> {
        fn extend<'a>(run: &'a Run, chain: Vec<&'a str>, all: &mut Vec<Vec<&'a str>>) {
            for needed in &run.nodes[*chain.last().unwrap()].needs {
                let mut longer = chain.clone();
                longer.push(needed);
                extend(run, longer, all);
            }
            all.push(chain);
        }
        let mut all = Vec::new();
        for id in self.nodes.keys() {
            extend(self, vec![id], &mut all);
        }
        all
    }

    /// The chains from this node to a failed one over nodes that are not done.
    fn chains_to_failed<'a>(&'a self, id: &str, all: &'a [Vec<&'a str>]) -> Vec<&'a Vec<&'a str>> {
        let status = |id: &str| self.nodes[id].status;
        let is_open = |chain: &&Vec<&str>| chain[1..].iter().all(|link| status(link) != "done");
        let leads = |chain: &&Vec<&str>| chain.len() > 1 && chain[0] == id && status(chain.last().unwrap()) == "failed";
        if self.has_graph { all.iter().filter(leads).filter(is_open).collect() } else { Vec::new() }
    }

    /// Failed nodes that a blocked one is behind, and those of them at the root, in the order in which they failed.
    fn behind(&self, id: &str, all: &[Vec<&str>]) -> (BTreeSet<String>, Vec<String>) {
        let order = |roots: BTreeSet<String>| {
            let mut roots: Vec<String> = roots.into_iter().collect();
            roots.sort_by_key(|root| self.nodes[root].moved);
            roots
        };
        let ancestors: BTreeSet<String> =
            self.chains_to_failed(id, all).iter().map(|chain| (*chain.last().unwrap()).to_owned()).collect();
        if !ancestors.is_empty() {
            let is_root = |id: &&String| self.chains_to_failed(id, all).is_empty();
            let roots = ancestors.iter().filter(is_root).cloned().collect();
            return (ancestors, order(roots));
        }
        self.behind_by_reason(id, all, &mut BTreeSet::new(), order)
    }

    fn behind_by_reason(
        &self,
        id: &str,
        all: &[Vec<&str>],
        seen: &mut BTreeSet<String>,
        order: impl Fn(BTreeSet<String>) -> Vec<String> + Copy,
    ) -> (BTreeSet<String>, Vec<String>) {
        if !seen.insert(id.to_owned()) {
            return Default::default();
        }
        let reason = &self.nodes[id].reason;
        let stands = |status: &'static str| {
            reason.iter().filter(move |named| self.nodes[*named].status == status && *named != id)
        };
        let named: BTreeSet<String> = stands("failed").cloned().collect();
        if !named.is_empty() {
            return (named.clone(), order(named));
        }
        let Some(next) = stands("blocked").next() else { return Default::default() };
        let (ancestors, roots) = if self.chains_to_failed(next, all).is_empty() {
            self.behind_by_reason(next, all, seen, order)
        } else {
            self.behind(next, all)
        };
        drop(ancestors);
        let first: Vec<String> = roots.into_iter().take(1).collect();
        (first.iter().cloned().collect(), first)
    }

    /// The running nodes that a ready one waits for.
    fn waits_for(&self, id: &str) -> BTreeSet<String> {
        let own = &self.nodes[id];
        let literal = |touched: &str| touched.split(['*', '?', '[', '{']).next().unwrap().to_owned();
        let overlap = |other: &Node| {
            own.touches.iter().any(|a| {
                other.touches.iter().any(|b| literal(a).starts_with(&literal(b)) || literal(b).starts_with(&literal(a)))
            })
        };
        let is_in_the_way = |other: &Node| self.has_graph && (own.runs_alone || other.runs_alone || overlap(other));
        let running = self.nodes.iter().filter(|(_, other)| other.status == "running");
        running.filter(|(_, other)| is_in_the_way(other)).map(|(id, _)| id.clone()).collect()
    }

    fn check(&self, found: &Found) {
        let ids = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).expect("ids") };
        let seconds = |millis: i64| json!(f64::from(i32::try_from(millis).unwrap()) / 1000.0);
        let all = self.chains();

        let path = self.critical_path();
        let told = found.of("critical_path");
        assert_eq!(told.first().map_or(Vec::new(), |path| ids(&path["node_ids"])), path);
        for path_told in told {
            let sum = |status: &str| seconds(path.iter().map(|id| self.millis(id, status)).sum());
            assert_eq!(
                (&path_told["evidence"]["work_s"], &path_told["evidence"]["waiting_s"]),
                (&sum("running"), &sum("ready"))
            );
        }

        let busy: i64 = self.known().iter().map(|id| self.millis(id, "running")).sum();
        if busy > 0 && self.last > 0 {
            let evidence = &found.one("parallelism")["evidence"];
            assert_eq!((&evidence["busy_s"], &evidence["wall_s"]), (&seconds(busy), &seconds(self.last)));
            let longest = all.iter().map(|chain| chain.iter().map(|id| self.millis(id, "running")).sum::<i64>()).max();
            let longest = if self.has_graph { seconds(longest.unwrap()) } else { Value::Null };
            assert_eq!(evidence["longest_chain_s"], longest);
            let most = evidence["most"].as_f64();
            assert!(most.is_none_or(|most| most >= 1.0 - 1e-9), "{most:?}");
        } else {
            assert!(found.of("parallelism").is_empty());
        }

        let mut blocks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let blocked: Vec<&String> = self.known().into_iter().filter(|id| self.nodes[*id].status == "blocked").collect();
        let chains = found.of("blocked_chain");
        assert_eq!(chains.len(), blocked.len());
        for id in blocked {
            let (ancestors, roots) = self.behind(id, &all);
            for ancestor in ancestors {
                blocks.entry(ancestor).or_default().insert(id.clone());
            }
            let chain = chains.iter().find(|chain| chain["node_ids"][0] == **id).expect("a chain");
            assert_eq!(ids(&chain["evidence"]["roots"]), roots, "{id}");
            let told = ids(&chain["node_ids"]);
            let shortest = self
                .chains_to_failed(id, &all)
                .into_iter()
                .filter(|chain| Some(*chain.last().unwrap()) == roots.first().map(String::as_str));
            match (shortest.map(Vec::len).min(), roots.first()) {
                (Some(length), _) => {
                    assert_eq!(told.len(), length, "{told:?}");
                    assert!(all.iter().any(|chain| *chain == told), "{told:?}");
                    assert!(told[1..].iter().all(|link| self.nodes[link].status != "done"), "{told:?}");
                }
                (None, Some(root)) => assert_eq!(told.last(), Some(root)),
                (None, None) => assert_eq!(told.len(), 1),
            }
        }
        let failed: Vec<&String> = self.known().into_iter().filter(|id| self.nodes[*id].status == "failed").collect();
        let told = found.of("failed_node");
        assert_eq!(told.len(), failed.len());
        for finding in told {
            let id = finding["node_ids"][0].as_str().unwrap();
            let behind = blocks.get(id).cloned().unwrap_or_default();
            assert_eq!(finding["evidence"]["blocks"], behind.len(), "{id}");
            assert_eq!(ids(&finding["evidence"]["blocked"]).into_iter().collect::<BTreeSet<_>>(), behind, "{id}");
            assert_eq!(finding["seq"], self.nodes[id].moved, "{id}");
        }

        let ready: Vec<&String> =
            self.known().into_iter().filter(|id| self.nodes[*id].status == "ready" && !self.ended).collect();
        let told = found.of("waiting");
        assert_eq!(told.len(), ready.len());
        for id in ready {
            let finding = told.iter().find(|finding| finding["node_ids"][0] == **id).expect("it waits");
            let others: BTreeSet<String> = ids(&finding["node_ids"]).into_iter().skip(1).collect();
            assert_eq!(others, self.waits_for(id), "{id}");
        }

        let is_stalled = !self.ended && self.log.clock - self.last >= 900_000;
        assert_eq!(found.of("stalled").len(), usize::from(is_stalled));

        let mut slowest: Vec<&String> = self.known().into_iter().filter(|id| self.millis(id, "running") > 0).collect();
        slowest.sort_by_key(|id| (-self.millis(id, "running"), *id));
        slowest.truncate(5);
        let told = found.of("slowest_node").first().map_or(Vec::new(), |finding| ids(&finding["node_ids"]));
        assert_eq!(told, slowest.into_iter().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn random_runs_are_told_as_the_long_way_tells_them() {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 1..=1000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let run = Run::random(&mut dice);
        let found = run.log.found();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(&found)));
        if let Err(failure) = checked {
            println!("seed {seed}\n{:#}\n{}", run.log.graph.clone().unwrap_or_default(), run.log.lines.join("\n"));
            std::panic::resume_unwind(failure);
        }
        for finding in &found.findings {
            *kinds.entry(finding["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    // The runs are not so tame that nothing is looked at.
    for kind in ["failed_node", "blocked_chain", "critical_path", "slowest_node", "waiting", "stalled", "parallelism"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 150), "{kinds:?}");
    }
}

/// Linear interpolation between closest ranks, in whole hundredths of a rank.
fn by_hundredths(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let hundredths = percent * values.len().checked_sub(1)?;
    let (at, rest) = (hundredths / 100, hundredths % 100);
    let next = sorted.get(at + 1).unwrap_or(&sorted[at]);
    Some(
        (sorted[at] * f64::from(u32::try_from(100 - rest).unwrap()) + next * f64::from(u32::try_from(rest).unwrap()))
            / 100.0,
    )
}

#[test]
fn percentiles_lie_between_the_closest_ranks() {
    assert_eq!(percentile(&[], 0.5), None);
    assert_eq!(percentile(&[7.0], 0.95), Some(7.0));
    assert_eq!(percentile(&[4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
    let mut dice = Dice(42);
    for _ in 0..1000 {
        let values: Vec<f64> =
            (0..1 + dice.below(40)).map(|_| f64::from(u32::try_from(dice.below(100_000)).unwrap()) / 7.0).collect();
        for (p, percent) in [(0.0, 0), (0.05, 5), (0.5, 50), (0.95, 95), (1.0, 100)] {
            let (own, naive) = (percentile(&values, p).unwrap(), by_hundredths(&values, percent).unwrap());
            assert!((own - naive).abs() < 1e-6, "p{percent} of {values:?}: {own}, {naive}");
        }
    }
}
