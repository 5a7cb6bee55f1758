//! Which failed nodes stand behind a blocked one: by the graph, else by the reason that the producer gave.

use std::collections::HashSet;

use super::LISTED;
use super::plan::Plan;
use crate::domain::event::NodeStatus;

/// How many nodes a chain from a blocked node to its root lists.
const CHAIN: usize = 32;

/// The kind of reason that names failed ancestors.
const ANCESTOR_FAILED: &str = "ancestor_failed:";

/// What failed nodes block.
///
/// By the graph a node is behind a failed one when a chain of dependencies leads back to it over nodes that are not
/// done. A blocked node without such an ancestor (no graph, or not in it) goes by its reason: the failed nodes that it
/// names, else the root of the first blocked one that it names.
pub(super) struct Blocking {
    /// The failed nodes, in the order in which they failed. A set of them has a bit for each.
    failed: Vec<usize>,
    /// What each of them blocks.
    blocks: Vec<Blocks>,
    /// The failed ancestors of each node by the graph.
    ancestors: Vec<Bits>,
    /// Those failed nodes that have no failed ancestor themselves.
    roots: Bits,
    /// By the graph: the dependency that leads to a node's first root the shortest way.
    via: Vec<Option<usize>>,
    /// By reasons: what is known of a blocked node.
    reasons: Vec<Reason>,
}

/// What one failed node blocks.
#[derive(Default, Clone)]
pub(super) struct Blocks {
    /// How many nodes.
    pub(super) count: u64,
    /// The first [`LISTED`], in order.
    pub(super) listed: Vec<usize>,
}

/// What a reason says.
#[derive(Default, Clone)]
struct Reason {
    /// The failed nodes that it names, as places in `failed`, rising.
    named: Vec<usize>,
    /// The first blocked node that it names, when it names no failed one.
    follows: Option<usize>,
    /// The node at the end of such a chain that names failed ones or has some by the graph.
    leads_to: Option<usize>,
}

impl Blocking {
    pub(super) fn of(plan: &Plan<'_>) -> Self {
        let mut failed: Vec<usize> = plan.with_status(NodeStatus::Failed).map(|(at, _)| at).collect();
        failed.sort_by_key(|&at| (plan.nodes[at].state.and_then(|node| node.since_seq), at));
        let mut places = vec![None; plan.nodes.len()];
        for (place, &at) in failed.iter().enumerate() {
            places[at] = Some(place);
        }
        let mut blocking = Self {
            blocks: vec![Blocks::default(); failed.len()],
            ancestors: vec![Bits::default(); plan.nodes.len()],
            roots: Bits::default(),
            via: vec![None; plan.nodes.len()],
            reasons: vec![Reason::default(); plan.nodes.len()],
            failed,
        };
        if !blocking.failed.is_empty() {
            blocking.walk_graph(plan, &places);
            blocking.read_reasons(plan, &places);
            blocking.count(plan);
        }
        blocking
    }

    /// The failed nodes, in the order in which they failed, and what each blocks.
    pub(super) fn failed(&self) -> impl Iterator<Item = (usize, &Blocks)> {
        self.failed.iter().copied().zip(&self.blocks)
    }

    fn walk_graph(&mut self, plan: &Plan<'_>, places: &[Option<usize>]) {
        let mut distance = vec![0_usize; plan.nodes.len()];
        for &at in &plan.order {
            let mut behind = Bits::default();
            let open = || plan.nodes[at].needs.iter().filter(|&&needed| plan.nodes[needed].status != NodeStatus::Done);
            for &needed in open() {
                behind.add_all(&self.ancestors[needed]);
                if let Some(place) = places[needed] {
                    behind.add(place);
                }
            }
            if behind.is_empty() {
                if let Some(place) = places[at] {
                    self.roots.add(place);
                }
                continue;
            }
            // Whatever a dependency is behind, this node is behind; so the first root of a dependency that is behind
            // this node's first root is the same, and chains go on from node to node.
            let root = behind.first_of(&self.roots);
            let leading = open().filter(|&&needed| {
                places[needed].is_some_and(|place| Some(place) == root)
                    || root.is_some_and(|root| self.ancestors[needed].has(root))
            });
            let nearest = leading.min_by_key(|&&needed| distance[needed]).copied();
            distance[at] = nearest.map_or(0, |needed| distance[needed] + 1);
            self.via[at] = nearest;
            self.ancestors[at] = behind;
        }
    }

    fn read_reasons(&mut self, plan: &Plan<'_>, places: &[Option<usize>]) {
        for (at, node) in plan.with_status(NodeStatus::Blocked) {
            if !self.ancestors[at].is_empty() {
                continue;
            }
            let reason = node.state.and_then(|node| node.reason.as_deref()).unwrap_or_default();
            let names = reason.strip_prefix(ANCESTOR_FAILED).unwrap_or_default();
            let numbers = || names.split(',').filter_map(|name| plan.number(name.trim()));
            let mut named: Vec<usize> = numbers().filter_map(|number| places[number]).collect();
            named.sort_unstable();
            named.dedup();
            let is_blocked = |&number: &usize| number != at && plan.nodes[number].status == NodeStatus::Blocked;
            let follows = if named.is_empty() { numbers().find(is_blocked) } else { None };
            self.reasons[at] = Reason { named, follows, leads_to: None };
        }
        for (at, _) in plan.with_status(NodeStatus::Blocked) {
            self.follow(at);
        }
    }

    /// Follows the names from blocked node to blocked node, and notes on the whole way where it leads.
    fn follow(&mut self, from: usize) {
        let mut way = Vec::new();
        let mut on_way = HashSet::new();
        let mut at = from;
        let end = loop {
            if !self.ancestors[at].is_empty() || !self.reasons[at].named.is_empty() {
                break Some(at);
            }
            if let Some(end) = self.reasons[at].leads_to {
                break Some(end);
            }
            way.push(at);
            match self.reasons[at].follows {
                Some(next) if on_way.insert(at) && !on_way.contains(&next) => at = next,
                _ => break None,
            }
        };
        for at in way {
            self.reasons[at].leads_to = end;
            if end.is_none() {
                self.reasons[at].follows = None;
            }
        }
    }

    fn count(&mut self, plan: &Plan<'_>) {
        for (at, _) in plan.with_status(NodeStatus::Blocked) {
            let behind = if self.ancestors[at].is_empty() {
                let named = &self.reasons[at].named;
                if named.is_empty() { self.first_root(at).into_iter().collect() } else { named.clone() }
            } else {
                self.ancestors[at].iter().collect()
            };
            for place in behind {
                let blocks = &mut self.blocks[place];
                blocks.count += 1;
                if blocks.listed.len() < LISTED {
                    blocks.listed.push(at);
                }
            }
        }
    }

    /// The place of the failed node at the root of a blocked one: of several the one that failed first.
    fn first_root(&self, at: usize) -> Option<usize> {
        if !self.ancestors[at].is_empty() {
            return self.ancestors[at].first_of(&self.roots);
        }
        let reason = &self.reasons[at];
        match reason.named.first() {
            Some(place) => Some(*place),
            None => reason.leads_to.filter(|&next| next != at).and_then(|next| self.first_root(next)),
        }
    }

    /// The failed node at the root of a blocked one: of several the one that failed first.
    pub(super) fn root(&self, at: usize) -> Option<usize> {
        self.first_root(at).map(|place| self.failed[place])
    }

    /// All failed nodes at the root of a blocked one, in the order in which they failed.
    pub(super) fn roots(&self, at: usize) -> Vec<usize> {
        if !self.ancestors[at].is_empty() {
            let roots = self.ancestors[at].iter().filter(|&place| self.roots.has(place));
            return roots.map(|place| self.failed[place]).collect();
        }
        let reason = &self.reasons[at];
        if reason.named.is_empty() {
            return self.root(at).into_iter().collect();
        }
        reason.named.iter().map(|&place| self.failed[place]).collect()
    }

    /// The nodes from a blocked one back to its root, both included; of a long chain the first ones and the root.
    pub(super) fn chain(&self, at: usize) -> Vec<usize> {
        let mut chain = vec![at];
        let Some(root) = self.root(at) else { return chain };
        let mut at = at;
        while chain.len() < CHAIN - 1 && at != root {
            let next = if self.ancestors[at].is_empty() {
                let reason = &self.reasons[at];
                if reason.named.is_empty() { reason.follows } else { Some(root) }
            } else {
                self.via[at]
            };
            let Some(next) = next else { break };
            chain.push(next);
            at = next;
        }
        if at != root {
            chain.push(root);
        }
        chain
    }
}

/// A set of small numbers.
#[derive(Default, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn add(&mut self, place: usize) {
        if self.0.len() <= place / 64 {
            self.0.resize(place / 64 + 1, 0);
        }
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn add_all(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        for (own, other) in self.0.iter_mut().zip(&others.0) {
            *own |= other;
        }
    }

    fn has(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, &word): (usize, &u64)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }

    /// The smallest number that both have.
    fn first_of(&self, others: &Self) -> Option<usize> {
        let both = self.0.iter().zip(&others.0).enumerate();
        both.map(|(at, (own, other))| (at, own & other))
            .find(|(_, word)| *word != 0)
            .map(|(at, word)| at * 64 + word.trailing_zeros() as usize)
    }
}
