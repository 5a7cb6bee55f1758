//! Fleets by chance, the same for the same seed. Spans, moments and counts lie where the formulas change their minds.

use serde_json::{Value, json};

use super::logs::{DAY, HOUR, Log, SECOND, Try, bad, epoch, good, graph};
use kahn::domain::Timestamp;

/// What usually becomes of the nodes and checkpoints of a fleet, so that some always pass and some always fail.
#[derive(Clone, Copy)]
struct Mood {
    /// How many of a hundred nodes and audits fail.
    fails: u64,
    /// How many of a hundred nodes are retried.
    retried: u64,
}

/// SplitMix64: the same numbers for the same seed, everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True so many times in a hundred.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("a place")]
    }
}

const NODES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const CHECKS: [&str; 3] = ["cargo test", "cargo clippy", "scripts/smoke.sh"];

/// A run of any kind; spans lie around the thresholds of 5 s and 20 %.
fn random_run(random: &mut Random, mood: Mood, run_id: &str) -> Log {
    let started = epoch() + random.pick(&[0, 0, HOUR, DAY, 5 * DAY, 6 * DAY, 7 * DAY, 12 * DAY, 20 * DAY]);
    match random.below(20) {
        0 => {
            let mut log = Log::empty(run_id, started);
            random_work(random, mood, &mut log);
            log
        }
        1..=10 => {
            let mut log = Log::ci(run_id, started);
            log.graph = random.chance(60).then(|| random_graph(random));
            random_work(random, mood, &mut log);
            if random.chance(75) {
                let outcome = random.pick(&["clean", "clean_with_flake", "partial", "stuck", "catastrophic"]);
                log.end_ci(outcome, random.below(3000) as f64 / 10.0);
            }
            log
        }
        _ => random_agent_run(random, mood, Log::agent(run_id, started, "")),
    }
}

fn random_agent_run(random: &mut Random, mood: Mood, mut log: Log) -> Log {
    log.events[0]["agent_id"] = json!(random.pick(&["coder", "planner", "reviewer"]));
    if random.chance(50) {
        log.events[0]["model"] = json!(random.pick(&["m-large", "m-small"]));
    }
    random_work(random, mood, &mut log);
    if random.chance(80) {
        let outcome = random.pick(&["converged", "converged", "partial", "escaped", "aborted"]);
        let score = random.chance(70).then(|| random.below(101) as f64 / 100.0);
        log.end_agent(outcome, random.below(3000) as f64 / 10.0, score);
        if random.chance(50)
            && let Some(end) = log.events.last_mut()
        {
            end["usage"] = json!({"input_tokens": random.below(1000), "cost_usd": random.below(1000) as f64 / 64.0});
        }
    }
    log
}

fn random_work(random: &mut Random, mood: Mood, log: &mut Log) {
    let is_agent = log.events.first().is_some_and(|first| first["event"] == "agent_run_start");
    // An agent's run may hold a node too, which then counts for nothing.
    if !is_agent || random.chance(10) {
        for node in NODES {
            if random.chance(80) {
                random_node(random, mood, log, node);
            }
        }
    }
    for _ in 0..random.below(4) {
        let checkpoint = random.pick(&["audit:license", "audit:secrets", "audit:size"]);
        let result = if random.chance(mood.fails) { "fail" } else { random.pick(&["pass", "pass", "warn"]) };
        log.audit(checkpoint, result);
    }
    log.wait(random.pick(&[0, 0, SECOND, HOUR, -HOUR, DAY]));
    log.push("heartbeat", json!({}));
}

fn random_node(random: &mut Random, mood: Mood, log: &mut Log, node: &str) {
    let span = |random: &mut Random| random.pick(&[4000, 5000, 10_000, 25_000, 30_000, 30_001, 36_000, 36_001]);
    let mut tries: Vec<Try> = Vec::new();
    if random.chance(mood.retried) {
        for _ in 0..1 + random.below(2) {
            let mut one = bad(random.pick(&[1000, 4000, 10_000]), random.pick(&CHECKS));
            if random.chance(40) {
                one.failing.push(random.pick(&CHECKS));
                one.failing.dedup();
            }
            tries.push(one);
        }
    }
    let status = if random.chance(15) {
        random.pick(&["blocked", "running", "ready", "pending"])
    } else if random.chance(mood.fails) {
        "failed"
    } else {
        "done"
    };
    if status == "done" || tries.is_empty() {
        tries.push(if status == "failed" { bad(span(random), CHECKS[0]) } else { good(span(random)) });
    }
    log.node(node, &tries, status);
}

fn random_graph(random: &mut Random) -> Value {
    let mut ids = NODES.to_vec();
    ids.rotate_left(usize::try_from(random.below(4)).expect("small"));
    ids.truncate(usize::try_from(1 + random.below(4)).expect("small"));
    let specs: Vec<(&str, &[&str])> =
        ids.into_iter().map(|id| (id, if random.chance(30) { &CHECKS[..1] } else { &CHECKS[..2] })).collect();
    graph(&specs)
}

/// Runs of all kinds, and a moment at which some of them are just in a window.
pub(crate) fn random_fleet(random: &mut Random, prefix: &str) -> (Vec<Log>, i64) {
    let mood = Mood { fails: random.pick(&[0, 5, 20, 50, 100]), retried: random.pick(&[0, 10, 40]) };
    let count = 1 + random.below(20);
    let mut logs: Vec<Log> =
        (0..count).map(|n| random_run(random, mood, &format!("{prefix}{}", (n * 7) % 25))).collect();
    // Where the windows begin and end is where a mistake would be.
    let newest = logs.iter().filter_map(|log| log.events.last()).filter_map(|event| event["ts"].as_str());
    let moments: Vec<i64> = newest.filter_map(Timestamp::parse).map(Timestamp::millis).collect();
    let now = random.pick(&moments) + random.pick(&[0, DAY, 7 * DAY]) + random.pick(&[-1, 0, 0, 1]);
    logs.retain(|log| !log.events.is_empty());
    (logs, now)
}
