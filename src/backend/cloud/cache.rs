//! What is held in memory of runs: parsed summaries and hot states, so many bytes at the most. No answer depends on it: what is
//! held is of one version of a run's row, and counts only where the database says, in the same moment as all else of the answer,
//! that this version is the row's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use uuid::Uuid;

use super::scope::TenantId;
use crate::contract::CacheVitals;
use crate::domain::{Graph, RunId};
use crate::reduce::{FirstFailure, RunState, Summary};

/// A run as one version of its row has it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The transaction that wrote the row. One transaction leaves one version.
    pub(super) changed: u64,
    pub(super) summary: Arc<Summary>,
    /// The rest, where it was asked for.
    pub(super) run: Option<HotRun>,
}

/// What a run's page is made of.
#[derive(Debug, Clone)]
pub(super) struct HotRun {
    pub(super) state: Arc<RunState>,
    pub(super) graph: Option<Arc<Graph>>,
}

/// Runs of all tenants, each found under its tenant alone. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runs {
    held: Arc<Cache<(Uuid, RunId), Held, ByBytes>>,
    found: Arc<[AtomicU64; 2]>,
}

impl Runs {
    /// Room for so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        // A summary with its key and its place in the tables takes about this much.
        let about_so_many = usize::try_from(bytes / 2048).unwrap_or(usize::MAX).max(16);
        let options = OptionsBuilder::new().estimated_items_capacity(about_so_many).weight_capacity(bytes).build();
        let held = match options {
            Ok(options) => Cache::with_options(options, ByBytes, Default::default(), Default::default()),
            Err(_) => Cache::with_weighter(about_so_many, bytes, ByBytes),
        };
        Self { held: Arc::new(held), found: Arc::default() }
    }

    /// What is held of a run, whatever version of it.
    pub(super) fn get(&self, tenant: TenantId, run_id: &RunId) -> Option<Held> {
        let held = self.held.get(&(tenant.0, run_id.clone()));
        let [hits, misses] = &*self.found;
        if held.is_some() { hits } else { misses }.fetch_add(1, Ordering::Relaxed);
        held
    }

    /// How much is held, and how often it was there.
    pub(super) fn vitals(&self) -> CacheVitals {
        let [hits, misses] = &*self.found;
        CacheVitals {
            entries: self.held.len() as u64,
            bytes: self.held.weight(),
            hits: hits.load(Ordering::Relaxed),
            misses: misses.load(Ordering::Relaxed),
        }
    }

    /// Holds nothing any more: after a failover or a restore a version's number may come again.
    pub(super) fn forget(&self) {
        self.held.clear();
    }

    /// The summary of this version.
    pub(super) fn summary(&self, tenant: TenantId, run_id: &RunId, changed: u64) -> Option<Arc<Summary>> {
        self.get(tenant, run_id).filter(|held| held.changed == changed).map(|held| held.summary)
    }

    /// Holds a run. What is known of the same version already is kept.
    pub(super) fn hold(&self, tenant: TenantId, mut held: Held) {
        let key = (tenant.0, held.summary.run_id.clone());
        if held.run.is_none() {
            let known = self.held.get(&key).filter(|known| known.changed == held.changed);
            held.run = known.and_then(|known| known.run);
        }
        self.held.insert(key, held);
    }
}

/// Counts what the heap has of a run, about.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<(Uuid, RunId), Held> for ByBytes {
    fn weight(&self, (_, run_id): &(Uuid, RunId), held: &Held) -> u64 {
        let key = 64 + run_id.as_str().len() + size_of::<Held>();
        let run = held
            .run
            .as_ref()
            .map_or(0, |run| weight_of_state(&run.state) + run.graph.as_deref().map_or(0, Graph::weight));
        (key + weight_of_summary(&held.summary) + run) as u64
    }
}

/// What an allocation takes besides its bytes.
const BLOCK: usize = 16;

fn weight_of_summary(summary: &Summary) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() + BLOCK);
    let failure = |failure: &FirstFailure| match failure {
        FirstFailure::Node { node_id, cmd, .. } => node_id.len() + BLOCK + text(cmd),
        FirstFailure::Tool { tool_name, error } => tool_name.len() + BLOCK + text(error),
    };
    let nodes: usize = summary.node_results.iter().map(|node| size_of_val(node) + node.node_id.len() + BLOCK).sum();
    let checkpoints: usize = summary
        .checkpoints
        .iter()
        .map(|row| size_of_val(row) + row.checkpoint_id.len() + row.recent.len() + 2 * BLOCK)
        .sum();
    let flaky: usize = summary.flaky_nodes.iter().map(|id| size_of::<String>() + id.len() + BLOCK).sum();
    size_of::<Summary>()
        + 16 * BLOCK
        + text(&summary.agent_id)
        + text(&summary.task)
        + text(&summary.model)
        + text(&summary.graph_sha256)
        + summary.first_failure.as_ref().map_or(0, failure)
        + nodes
        + checkpoints
        + flaky
}

fn weight_of_state(state: &RunState) -> usize {
    let agent = &state.agent;
    let attempts: usize = state.nodes.values().map(|node| node.attempts.len()).sum();
    let calls: usize = agent.tools.values().map(|tool| tool.durations_s.capacity()).sum();
    4096 + 1024 * state.nodes.len()
        + 96 * attempts
        + state.text_bytes()
        + 8 * calls
        + (160 + BLOCK) * agent.audits.len()
        + 200 * agent.loops.len()
        + 160 * state.breaches.len()
}
