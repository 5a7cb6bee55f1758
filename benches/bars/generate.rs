//! Archives to measure on: the same seed gives the same bytes. CI and agent runs mixed, some unfinished, some torn, with graphs,
//! parents, retries, failures and audits.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kahn::domain::Timestamp;

/// 2026-01-01T00:00:00.000Z: the first run starts then, and one every four minutes.
const FIRST_START_MS: i64 = 1_767_225_600_000;
const BETWEEN_STARTS_MS: i64 = 4 * 60 * 1000;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Runs.
    pub(crate) runs: usize,
    /// Long runs have about a hundred events, short ones about five.
    pub(crate) length: Length,
    /// The same seed gives the same archive.
    pub(crate) seed: u64,
}

/// How long runs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// About a hundred events, 20 KB.
    Usual,
    /// About five events, 1 KB, no graph.
    Short,
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// Writes the archive, on all cores.
pub(crate) fn archive(root: &Path, plan: Plan) -> Made {
    let runs = root.join("runs");
    fs::create_dir_all(&runs).expect("a folder for the archive");
    let (next, events, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut text = String::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= plan.runs {
                break;
            }
            text.clear();
            let run = Run::new(plan, at);
            let folder = runs.join(&run.run_id);
            let graph = run.write(&mut text);
            fs::create_dir_all(&folder).expect("a run folder");
            fs::write(folder.join("transitions.jsonl"), &text).expect("a log");
            if let Some(graph) = &graph {
                fs::write(folder.join("graph.json"), graph).expect("a graph");
            }
            events.fetch_add(text.lines().count() as u64, Ordering::Relaxed);
            bytes.fetch_add((text.len() + graph.map_or(0, |graph| graph.len())) as u64, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
    Made { events: events.into_inner(), bytes: bytes.into_inner() }
}

/// Writes one run of about so many events: `big-ci` (1,000 nodes) or `big-agent`.
pub(crate) fn big_runs(root: &Path, events: usize) -> [&'static str; 2] {
    for (run_id, is_agent) in [("big-ci", false), ("big-agent", true)] {
        let plan = Plan { runs: 1, length: Length::Usual, seed: 7 };
        let mut run = Run { run_id: run_id.into(), ..Run::new(plan, 0) };
        run.fate = Fate::Whole;
        let mut text = String::new();
        let graph = if is_agent {
            run.agent_run(&mut text, events / 4);
            None
        } else {
            run.pipeline = Pipeline { nodes: 1000, name: "big" };
            run.attempts_at_most = (events / 1000 - 3) as u64;
            run.ci_run(&mut text);
            Some(run.pipeline.graph())
        };
        let folder = root.join("runs").join(run_id);
        fs::create_dir_all(&folder).expect("a run folder");
        fs::write(folder.join("transitions.jsonl"), &text).expect("a log");
        if let Some(graph) = graph {
            fs::write(folder.join("graph.json"), graph).expect("a graph");
        }
    }
    ["big-ci", "big-agent"]
}

/// A line of a live run, with room for what the measurement needs to find again in the frame.
pub(crate) fn heartbeat(run_id: &str, seq: u64, mark: &str, padding: usize) -> String {
    let ts = Timestamp::from_millis(FIRST_START_MS + seq as i64);
    let pad = "x".repeat(padding);
    format!(
        "{{\"ts\":\"{ts}\",\"run_id\":\"{run_id}\",\"event\":\"heartbeat\",\"mark\":\"{mark}\",\"pad\":\"{pad}\"}}\n"
    )
}

/// The first line of a CI run.
pub(crate) fn run_start(run_id: &str) -> String {
    let ts = Timestamp::from_millis(FIRST_START_MS);
    format!("{{\"ts\":\"{ts}\",\"run_id\":\"{run_id}\",\"event\":\"run_start\",\"total_nodes\":1}}\n")
}

/// Lines of one agent run, for ingest: a start event, then so many others.
pub(crate) fn agent_lines(run_id: &str, events: usize) -> Vec<String> {
    let plan = Plan { runs: 1, length: Length::Usual, seed: 11 };
    let mut run = Run { run_id: run_id.into(), ..Run::new(plan, 1) };
    run.fate = Fate::Unfinished;
    let mut text = String::new();
    run.agent_run(&mut text, events / 3);
    text.lines().take(events).map(|line| format!("{line}\n")).collect()
}

/// splitmix64: a few lines, and the same numbers for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Whether it happens, so many times in a thousand.
    fn often(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    Unfinished,
    Torn,
    /// A line in the middle that is no event.
    Damaged,
}

#[derive(Debug, Clone, Copy)]
struct Pipeline {
    name: &'static str,
    nodes: usize,
}

const PIPELINES: [Pipeline; 6] = [
    Pipeline { name: "release", nodes: 32 },
    Pipeline { name: "nightly", nodes: 40 },
    Pipeline { name: "hotfix", nodes: 8 },
    Pipeline { name: "docs", nodes: 10 },
    Pipeline { name: "migrate", nodes: 22 },
    Pipeline { name: "api", nodes: 26 },
];
const AGENTS: [&str; 12] = [
    "coder",
    "reviewer",
    "triage",
    "summarizer",
    "planner",
    "tester",
    "fixer",
    "porter",
    "namer",
    "splitter",
    "ranker",
    "closer",
];
const TOOLS: [&str; 6] = ["grep", "read", "edit", "cargo test", "cargo check", "web"];
const AUDITS: [&str; 8] =
    ["no-secrets", "licences", "diff-size", "tests-ran", "scope", "budget", "no-todo", "public-api"];
const OUTCOMES: [&str; 4] = ["converged", "partial", "escaped", "aborted"];

impl Pipeline {
    fn node_id(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    /// Each node needs the one before its half and, often, its neighbour: wide and some levels deep.
    fn needs(at: usize) -> Vec<usize> {
        match at {
            0 => Vec::new(),
            1 | 2 => vec![0],
            _ if at.is_multiple_of(3) => vec![at / 2, at - 1],
            _ => vec![at / 2],
        }
    }

    fn graph(&self) -> String {
        let mut text = String::from("{\"version\":1,\"nodes\":[");
        for at in 0..self.nodes {
            let needs: Vec<String> =
                Self::needs(at).iter().map(|need| format!("\"{}\"", self.node_id(*need))).collect();
            let _ = write!(
                text,
                "{}\n{{\"id\":\"{}\",\"deliverable\":\"Part {at} of {} and what belongs to it\",\"depends_on\":[{}],\
                 \"touches\":[\"src/{}/{at}.rs\"],\"done_when\":[\"cargo check\",\"cargo test part_{at}\"],\"estimated_loc\":{}}}",
                if at == 0 { "" } else { "," },
                self.node_id(at),
                self.name,
                needs.join(","),
                self.name,
                40 + at * 3
            );
        }
        text + "\n]}\n"
    }
}

/// One run in the making.
struct Run {
    run_id: String,
    random: Random,
    now_ms: i64,
    length: Length,
    fate: Fate,
    is_agent: bool,
    pipeline: Pipeline,
    attempts_at_most: u64,
    parent: Option<String>,
}

impl Run {
    fn new(plan: Plan, at: usize) -> Self {
        let mut random = Random(plan.seed.wrapping_mul(0x1234_5678_9abc_def1) ^ at as u64);
        let fate = match random.below(1000) {
            0..12 => Fate::Unfinished,
            12..20 => Fate::Torn,
            20..28 => Fate::Damaged,
            _ => Fate::Whole,
        };
        let is_agent = Self::is_agent(at);
        // The CI run before it started it, at a node that every pipeline has.
        let parent = (is_agent && at > 0 && random.often(700)).then(|| {
            let parent = (0..at).rev().find(|before| !Self::is_agent(*before)).unwrap_or(0);
            let pipeline = PIPELINES[parent % PIPELINES.len()];
            format!(
                ",\"parent\":{{\"run_id\":\"{}\",\"node_id\":\"{}\",\"attempt\":1}}",
                Self::name(parent),
                pipeline.node_id(3)
            )
        });
        Self {
            run_id: Self::name(at),
            random,
            now_ms: FIRST_START_MS + at as i64 * BETWEEN_STARTS_MS,
            length: plan.length,
            fate,
            is_agent,
            pipeline: PIPELINES[at % PIPELINES.len()],
            attempts_at_most: 3,
            parent,
        }
    }

    fn is_agent(at: usize) -> bool {
        at % 5 >= 3
    }

    fn name(at: usize) -> String {
        if Self::is_agent(at) {
            format!("{}-{at}", AGENTS[at % AGENTS.len()])
        } else {
            format!("{}-{at}", PIPELINES[at % PIPELINES.len()].name)
        }
    }

    /// Writes the log; the graph where it has one.
    fn write(mut self, text: &mut String) -> Option<String> {
        let graph = if self.is_agent {
            let steps = match self.length {
                Length::Short => 1,
                Length::Usual => 12 + self.random.below(24) as usize,
            };
            self.agent_run(text, steps);
            None
        } else {
            if self.length == Length::Short {
                self.pipeline.nodes = 1;
            }
            self.ci_run(text);
            (self.length == Length::Usual).then(|| self.pipeline.graph())
        };
        match self.fate {
            Fate::Torn => text.truncate(text.len() - 30),
            Fate::Damaged => text.push_str("{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\n"),
            Fate::Whole | Fate::Unfinished => {}
        }
        graph
    }

    fn event(&mut self, text: &mut String, event: &str, after_ms: u64, fields: std::fmt::Arguments<'_>) {
        self.now_ms += (after_ms / 2 + self.random.below(after_ms + 1)) as i64;
        let ts = Timestamp::from_millis(self.now_ms);
        let _ = writeln!(text, "{{\"ts\":\"{ts}\",\"run_id\":\"{}\",\"event\":\"{event}\"{fields}}}", self.run_id);
    }

    fn ci_run(&mut self, text: &mut String) {
        let nodes = self.pipeline.nodes;
        let parent = self.parent.take().unwrap_or_default();
        let begun_ms = self.now_ms;
        self.event(text, "run_start", 10, format_args!(",\"total_nodes\":{nodes}{parent}"));
        let fails_at = self.random.often(120).then(|| 1 + self.random.below(nodes as u64) as usize);
        let stops_at = if self.fate == Fate::Unfinished { nodes * 2 / 3 } else { nodes };
        let mut lost: Vec<Option<usize>> = vec![None; nodes];
        let (mut done, mut failed, mut blocked, mut flakes) = (0_u64, 0_u64, 0_u64, 0_u64);
        for at in 0..stops_at {
            let node_id = self.pipeline.node_id(at);
            if let Some(root) = Pipeline::needs(at).into_iter().find_map(|need| lost[need]) {
                lost[at] = Some(root);
                blocked += 1;
                let root = self.pipeline.node_id(root);
                self.event(
                    text,
                    "node_transition",
                    5,
                    format_args!(",\"node_id\":\"{node_id}\",\"from\":\"pending\",\"to\":\"blocked\",\"reason\":\"ancestor_failed:{root}\""),
                );
                continue;
            }
            let is_lost = fails_at == Some(at);
            let attempts = match () {
                () if is_lost || self.attempts_at_most > 3 => self.attempts_at_most,
                () if self.random.often(60) => 2,
                () => 1,
            };
            flakes += if is_lost { 0 } else { attempts - 1 };
            self.node(text, &node_id, attempts, is_lost);
            if is_lost {
                lost[at] = Some(at);
                failed += 1;
            } else {
                done += 1;
            }
        }
        for _ in 0..self.random.below(3) {
            self.audit(text, "null");
        }
        if self.fate == Fate::Unfinished {
            return;
        }
        let outcome = match (failed, flakes) {
            (0, 0) => "clean",
            (0, _) => "clean_with_flake",
            _ if done == 0 => "stuck",
            _ => "partial",
        };
        let total = (self.now_ms - begun_ms) as f64 / 1000.0;
        let exit = if failed > 0 { ",\"exit_code\":1" } else { "" };
        self.event(
            text,
            "run_end",
            20,
            format_args!(
                ",\"outcome\":\"{outcome}\",\"done\":{done},\"failed\":{failed},\"blocked\":{blocked},\"total_duration_s\":{total}{exit}"
            ),
        );
    }

    fn node(&mut self, text: &mut String, node_id: &str, attempts: u64, is_lost: bool) {
        let step = |from: &str, to: &str, more: &str| {
            format!(",\"node_id\":\"{node_id}\",\"from\":\"{from}\",\"to\":\"{to}\"{more}")
        };
        self.event(text, "node_transition", 5, format_args!("{}", step("pending", "ready", "")));
        self.event(text, "node_transition", 400, format_args!("{}", step("ready", "running", ",\"attempt\":1")));
        for attempt in 1..=attempts {
            let converged = attempt == attempts && !is_lost;
            let backoff =
                if attempt > 1 { format!(",\"backoff_s\":{}", 1 << (attempt - 1).min(6)) } else { String::new() };
            let seconds = 2.0 + self.random.below(30_000) as f64 / 1000.0;
            let failing = if converged {
                format!(",\"rc\":0,\"duration_s\":{}", seconds / 2.0)
            } else {
                let tail = "assertion `left == right` failed\\n  left: 1043\\n right: 1044\\n"
                    .repeat(1 + self.random.below(8) as usize);
                format!(",\"rc\":101,\"duration_s\":{},\"tail\":\"{tail}\"", seconds / 2.0)
            };
            self.event(
                text,
                "node_attempt",
                20_000,
                format_args!(
                    ",\"node_id\":\"{node_id}\",\"attempt\":{attempt},\"duration_s\":{seconds},\"converged\":{converged}{backoff},\
                     \"done_when_results\":[{{\"cmd\":\"cargo check\",\"rc\":0,\"duration_s\":{}}},{{\"cmd\":\"cargo test {node_id}\"{failing}}}]",
                    seconds / 3.0
                ),
            );
            if attempts > 3 {
                self.event(text, "heartbeat", 100, format_args!(""));
            }
        }
        let (to, why) = if is_lost { ("failed", ",\"reason\":\"max_ralph_iters_reached\"") } else { ("done", "") };
        self.event(text, "node_transition", 10, format_args!("{}", step("running", to, why)));
    }

    fn audit(&mut self, text: &mut String, agent: &str) {
        let name = AUDITS[self.random.below(AUDITS.len() as u64) as usize];
        let result = match self.random.below(100) {
            0..6 => "fail",
            6..12 => "warn",
            _ => "pass",
        };
        self.event(
            text,
            "audit_checkpoint",
            50,
            format_args!(
                ",\"agent_id\":{agent},\"checkpoint_id\":\"audit:{name}\",\"result\":\"{result}\",\"duration_s\":0.2,\"evidence\":{{\"files\":3,\"rule\":\"{name}\"}}"
            ),
        );
    }

    fn agent_run(&mut self, text: &mut String, steps: usize) {
        let agent = AGENTS[self.random.below(AGENTS.len() as u64) as usize];
        let parent = self.parent.take().unwrap_or_default();
        let begun_ms = self.now_ms;
        self.event(
            text,
            "agent_run_start",
            10,
            format_args!(
                ",\"agent_id\":\"{agent}\",\"task\":\"Make the failing check pass: the resumed stream skips an event.\",\"model\":\"{}\"{parent}",
                if self.is_agent { "m-large" } else { "m-small" }
            ),
        );
        let (mut calls, mut audits) = (0_u64, 0_u64);
        for step in 0..steps {
            let moved = |from: &str, to: &str, usage: &str| {
                format!(",\"agent_id\":\"{agent}\",\"step\":{step},\"from\":\"{from}\",\"to\":\"{to}\"{usage}")
            };
            let usage = format!(
                ",\"usage\":{{\"input_tokens\":{},\"output_tokens\":{},\"cost_usd\":{}}}",
                4000 + self.random.below(9000),
                100 + self.random.below(900),
                (1 + self.random.below(5000)) as f64 / 1e5
            );
            self.event(text, "agent_transition", 3000, format_args!("{}", moved("thinking", "tool_call", &usage)));
            for _ in 0..=u64::from(self.random.often(300)) {
                calls += 1;
                let tool = TOOLS[self.random.below(TOOLS.len() as u64) as usize];
                let seconds = self.random.below(9000) as f64 / 1000.0;
                let input = self.random.below(4000);
                let verdict = if self.random.often(60) {
                    "\"ok\":false,\"error\":\"exit code 101: 1 test failed\""
                } else {
                    "\"ok\":true"
                };
                self.event(
                    text,
                    "tool_invocation",
                    4000,
                    format_args!(
                        ",\"agent_id\":\"{agent}\",\"step\":{step},\"tool_name\":\"{tool}\",\"duration_s\":{seconds},{verdict},\
                         \"input_summary\":\"src/api/events.rs:{input}\",\"output_summary\":\"3 matches in src/api/events.rs, src/api/cursor.rs\""
                    ),
                );
            }
            self.event(text, "agent_transition", 20, format_args!("{}", moved("tool_call", "tool_result", "")));
            if self.random.often(80) {
                audits += 1;
                self.audit(text, &format!("\"{agent}\""));
            }
            self.event(text, "agent_transition", 20, format_args!("{}", moved("tool_result", "thinking", "")));
        }
        if self.fate == Fate::Unfinished {
            return;
        }
        let outcome = OUTCOMES[if self.random.often(850) { 0 } else { 1 + self.random.below(3) as usize }];
        let total = (self.now_ms - begun_ms) as f64 / 1000.0;
        let score = 0.4 + self.random.below(600) as f64 / 1000.0;
        self.event(
            text,
            "agent_run_end",
            20,
            format_args!(
                ",\"agent_id\":\"{agent}\",\"outcome\":\"{outcome}\",\"total_steps\":{steps},\"total_tool_calls\":{calls},\
                 \"total_audit_checkpoints\":{audits},\"audits_passed\":{audits},\"audits_failed\":0,\"total_duration_s\":{total},\"convergence_score\":{score}"
            ),
        );
    }
}
