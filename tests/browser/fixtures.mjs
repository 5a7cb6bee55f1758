// Archives to look at, the same for the same seed (times are told from a given now), and a feeder for live runs.
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A small generator of numbers in [0, 1): mulberry32. */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

export const stamp = (ms) => new Date(Math.floor(ms)).toISOString();
const seconds = (ms) => Math.round(ms) / 1000;

/**
 * @typedef {{id: string, deliverable: string, depends_on: string[], touches: string[], parallel_safe?: boolean,
 *   done_when: string[], max_ralph_iters?: number, estimated_loc?: number}} Node
 * @typedef {{version: 1, nodes: Node[]}} Graph
 * @typedef {{ts: string, run_id: string, event: string, [field: string]: any}} Event
 */

/** @returns {Node} */
export const node = (id, depends_on = [], more = {}) => ({
  id, deliverable: `What ${id} delivers`, depends_on, touches: [`src/${id}/**`], done_when: [`check ${id}`, `test ${id}`], ...more,
});

/** Twelve nodes: one fails and blocks three, two pass after a retry. */
export const SMALL = /** @type {Graph} */ ({ version: 1, nodes: [
  node("plan"), node("schema", ["plan"]), node("pool", ["plan"]), node("parser", ["schema"]),
  node("store", ["schema", "pool"], { parallel_safe: false }), node("api", ["parser", "store"], { max_ralph_iters: 3 }),
  node("metrics", ["pool"]), node("client", ["api"]), node("pages", ["client"]), node("docs", ["api", "metrics"]),
  node("bench", ["store"]), node("ops", ["metrics"]),
] });

/**
 * Plays a graph through: what an orchestrator with so many workers would have written.
 * @param {{run_id: string, graph: Graph, start: number, fails?: Record<string, number>, seconds?: (id: string) => number,
 *   workers?: number, take?: number, seed?: number, tail?: (id: string, attempt: number) => string, parent?: object}} plan
 *   fails: failed attempts before a node passes; as many as max_ralph_iters: it fails. take: only so many events.
 * @returns {Event[]}
 */
export function play({ run_id, graph, start, fails = {}, seconds: lasts, workers = 4, take = Infinity, seed = 1, tail, parent }) {
  const draw = random(seed);
  const span = lasts ?? (() => 5 + Math.floor(draw() * 55));
  const events = /** @type {Event[]} */ ([]);
  let now = start;
  const tell = (event, fields) => events.push({ ts: stamp(now), run_id, event, ...fields });
  const nodes = new Map(graph.nodes.map((one) => [one.id, { ...one, status: "pending", attempt: 0 }]));
  const dependents = new Map(graph.nodes.map(({ id }) => [id, graph.nodes.filter((one) => one.depends_on.includes(id))]));
  const move = (id, to, more = {}) => {
    const one = nodes.get(id);
    tell("node_transition", { node_id: id, from: one.status, to, ...more });
    one.status = to;
  };
  const begun = (id) => move(id, "running", { attempt: ++nodes.get(id).attempt });
  const waits = graph.nodes.filter((one) => !one.depends_on.length).map((one) => one.id);
  const running = /** @type {{id: string, ends: number, lasts: number, back: number}[]} */ ([]);
  let attempts = 0, flakes = 0;
  tell("run_start", { total_nodes: graph.nodes.length, ...(parent ? { parent } : {}) });
  for (const id of waits) move(id, "ready");
  while ((waits.length || running.length) && events.length < take) {
    while (waits.length && running.length < workers) {
      const id = waits.shift();
      now += 3;
      begun(id);
      const lasts = span(id) * 1000;
      running.push({ id, ends: now + lasts, lasts, back: 0 });
    }
    running.sort((a, b) => a.ends - b.ends);
    const first = running.shift();
    now = Math.max(now + 1, first.ends);
    const one = nodes.get(first.id), bad = fails[first.id] ?? 0, converged = one.attempt > bad;
    attempts++;
    tell("node_attempt", {
      node_id: first.id, attempt: one.attempt, duration_s: seconds(first.lasts), converged,
      ...(first.back ? { backoff_s: first.back } : {}),
      done_when_results: one.done_when.map((cmd, index) => {
        const rc = !converged && index === one.done_when.length - 1 ? 101 : 0;
        const cut = tail?.(first.id, one.attempt);
        return { cmd, rc, duration_s: 0.5 + index,
          ...(rc ? { tail: cut ?? `${first.id} attempt ${one.attempt}: assertion failed\n  left: 1\n right: 2\n` } : {}) };
      }),
    });
    if (converged) {
      flakes += one.attempt - 1;
      move(first.id, "done");
      for (const next of dependents.get(first.id)) {
        if (nodes.get(next.id).status === "pending" && next.depends_on.every((id) => nodes.get(id).status === "done")) {
          move(next.id, "ready");
          waits.push(next.id);
        }
      }
    } else if (one.attempt >= (one.max_ralph_iters ?? 6)) {
      move(first.id, "failed", { reason: "max_ralph_iters_reached" });
      const reach = [first.id];
      for (const id of reach) {
        for (const next of dependents.get(id)) {
          if (!["pending", "ready"].includes(nodes.get(next.id).status)) continue;
          move(next.id, "blocked", { reason: `ancestor_failed:${first.id}` });
          const at = waits.indexOf(next.id);
          if (at >= 0) waits.splice(at, 1);
          reach.push(next.id);
        }
      }
    } else {
      move(first.id, "ready");
      const back = Math.min(2 ** one.attempt, 60);
      begun(first.id);
      const lasts = span(first.id) * 1000;
      running.push({ id: first.id, ends: now + back * 1000 + lasts, lasts, back });
    }
  }
  const count = (status) => [...nodes.values()].filter((one) => one.status === status).length;
  const done = count("done"), all = graph.nodes.length;
  const outcome = done === all ? (flakes ? "clean_with_flake" : "clean") : done ? "partial" : "stuck";
  tell("run_end", { outcome, done, failed: count("failed"), blocked: count("blocked"), total_duration_s: seconds(now - start),
    total_attempts: attempts, flake_retries: flakes });
  return events.slice(0, take);
}

/**
 * A run of one agent.
 * @param {{run_id: string, agent_id: string, start: number, outcome?: string | null, score?: number, task?: string, model?: string,
 *   tools?: {tool_name: string, ok: boolean, input_summary?: string, output_summary?: string, error?: string}[],
 *   audits?: {checkpoint_id: string, result: string, evidence?: object}[], lasts?: number, question?: string, parent?: object}} plan
 * @returns {Event[]}
 */
export function agentRun({ run_id, agent_id, start, outcome = "converged", score, task = "Fix the resume gap", model = "m-large",
  tools = [{ tool_name: "read_file", ok: true }, { tool_name: "cargo test", ok: true }], audits = [], lasts = 60, question, parent }) {
  const events = /** @type {Event[]} */ ([]);
  let now = start, step = 0, status = "thinking";
  const pause = (lasts * 1000) / (tools.length * 2 + audits.length + 2);
  const tell = (event, fields) => events.push({ ts: stamp(now), run_id, event, ...fields });
  const move = (to, more = {}) => {
    now += pause;
    tell("agent_transition", { agent_id, step: step++, from: status, to, ...more });
    status = to;
  };
  tell("agent_run_start", { agent_id, task, model, ...(parent ? { parent } : {}) });
  for (const tool of tools) {
    move("tool_call");
    now += pause;
    tell("tool_invocation", { agent_id, step, duration_s: seconds(pause), ...tool });
    move("tool_result");
    move("thinking");
  }
  if (question) move("blocked-on-clarification", { reason: question });
  for (const audit of audits) { now += pause; tell("audit_checkpoint", { agent_id, duration_s: 0.2, ...audit }); }
  if (outcome) {
    move(outcome === "converged" ? "converged" : "failed");
    tell("agent_run_end", {
      agent_id, outcome, total_steps: step, total_tool_calls: tools.length, total_audit_checkpoints: audits.length,
      audits_passed: audits.filter(({ result }) => result === "pass").length,
      audits_failed: audits.filter(({ result }) => result === "fail").length,
      total_duration_s: seconds(now - start), ...(score === undefined ? {} : { convergence_score: score }),
    });
  }
  return events;
}

/** Writes one run: its graph when there is one, its log when there are events. */
export function write(archive, run_id, { graph, events, lines }) {
  const folder = join(archive, "runs", run_id);
  mkdirSync(folder, { recursive: true });
  if (graph) writeFileSync(join(folder, "graph.json"), JSON.stringify(graph));
  if (events ?? lines) {
    writeFileSync(join(folder, "transitions.jsonl"), [...(events ?? []).map((one) => JSON.stringify(one)), ...(lines ?? [])]
      .map((line) => `${line}\n`).join(""));
  }
  return events;
}

/** Appends to a run's log as a producer does: one write an event. */
export class Feeder {
  constructor(archive, run_id) {
    this.run_id = run_id;
    this.path = join(archive, "runs", run_id, "transitions.jsonl");
    this.turns = new Map();
  }
  /** @param {Record<string, any>[]} events */
  append(...events) {
    for (const event of events) {
      appendFileSync(this.path, `${JSON.stringify({ ts: stamp(Date.now()), run_id: this.run_id, ...event })}\n`);
    }
  }
  /** So many events: the running nodes fail an attempt, turn to ready and run again, by turns; n is cut at a whole event. */
  churn(n, nodes) {
    const events = [];
    for (let i = 0; events.length < n; i++) {
      const node_id = nodes[i % nodes.length], attempt = this.turns.get(node_id) ?? 1;
      this.turns.set(node_id, attempt + 1);
      events.push(
        { event: "node_attempt", node_id, attempt, duration_s: 0.1, converged: false,
          done_when_results: [{ cmd: `test ${node_id}`, rc: 1, duration_s: 0.1, tail: `attempt ${attempt} failed\n` }] },
        { event: "node_transition", node_id, from: "running", to: "ready" },
        { event: "node_transition", node_id, from: "ready", to: "running", attempt: attempt + 1 },
      );
    }
    this.append(...events.slice(0, n));
  }
}

/** Strings that a page must show and nothing else. @type {Record<string, string>} */
export const HOSTILE = {
  img: '<img src=x onerror="window.__owned=1">',
  script: "</script><script>window.__owned=2</script>",
  attribute: '" onmouseover="window.__owned=3" autofocus onfocus="window.__owned=4',
  template: "${window.__owned=5} {{constructor.constructor('window.__owned=6')()}}",
  address: "javascript:window.__owned=7",
  ansi: "\u001b[31mred\u001b[0m and \u001b]8;;http://evil.invalid\u0007link\u001b]8;;\u0007",
  bidi: "\u202egpj.exe\u202c \u2066inside\u2069",
  hidden: "zero\u200bwidth\u200djoin\ufeff",
  nul: "a\u0000b\u0007c",
  emoji: "👩‍👩‍👧‍👦 🏳️‍🌈 مرحبا 你好",
  wide: "W".repeat(300),
};
export const ALL_HOSTILE = Object.values(HOSTILE).join(" | ");

const LONG = "a".repeat(64);
const MAX_ID = `n${"0123456789".repeat(6)}abc`;

/** @returns {Graph} */
export function layered(count, seed, width = 12) {
  const draw = random(seed);
  const nodes = [];
  for (let i = 0; i < count; i++) {
    const layer = Math.floor(i / width), needs = new Set();
    if (layer > 0) {
      const wanted = 1 + Math.floor(draw() * 2);
      while (needs.size < wanted) needs.add(`n${String((layer - 1) * width + Math.floor(draw() * width)).padStart(3, "0")}`);
    }
    nodes.push(node(`n${String(i).padStart(3, "0")}`, [...needs], { max_ralph_iters: 20, touches: [] }));
  }
  return { version: 1, nodes };
}

/** The runs that most checks look at. @returns what is known of them */
export function mainArchive(archive, now = Date.now()) {
  const ago = (minutes) => now - minutes * 60_000;
  const small = { graph: SMALL, fails: { api: 3, metrics: 1, pool: 2 } };
  const runs = {
    "small-1": play({ run_id: "small-1", ...small, fails: { pool: 1 }, start: ago(300), seed: 3 }),
    "small-2": play({ run_id: "small-2", ...small, start: ago(240), seed: 4 }),
    "clean-1": play({ run_id: "clean-1", graph: SMALL, start: ago(200), seed: 5 }),
  };
  for (const [run_id, events] of Object.entries(runs)) write(archive, run_id, { graph: SMALL, events });

  // Without a graph only the events tell which nodes there are.
  write(archive, "nograph-1", { events: play({ run_id: "nograph-1", ...small, start: ago(180), seed: 6 }) });
  write(archive, "planned-1", { graph: SMALL });
  const cyclic = { version: 1, nodes: [node("a", ["c"]), node("b", ["a"]), node("c", ["b"]), node("d", ["gone"]), node("e", ["d"]), node("f")] };
  write(archive, "cyclic-1", { graph: cyclic, events: [
    { ts: stamp(ago(170)), run_id: "cyclic-1", event: "run_start", total_nodes: 6 },
    { ts: stamp(ago(170) + 5), run_id: "cyclic-1", event: "node_transition", node_id: "f", from: "pending", to: "ready" },
    { ts: stamp(ago(170) + 9), run_id: "cyclic-1", event: "node_transition", node_id: "f", from: "ready", to: "running", attempt: 1 },
  ] });

  write(archive, "hostile-1", hostileRun("hostile-1", ago(160)));
  write(archive, "hostile-agent-1", { events: hostileAgent("hostile-agent-1", ago(150)) });
  write(archive, LONG, { graph: SMALL, events: play({ run_id: LONG, graph: SMALL, start: ago(140), seed: 8, take: 20 }) });

  // An agent's run with everything on it, and one that waits for an answer.
  write(archive, "agent-1", { events: agentRun({ run_id: "agent-1", agent_id: "coder", start: ago(90), score: 0.62, outcome: "partial",
    parent: { run_id: "small-2", node_id: "api", attempt: 2 }, lasts: 252,
    tools: [{ tool_name: "read_file", ok: true, input_summary: "src/a.rs", output_summary: "212 lines" },
      ...Array.from({ length: 6 }, () => ({ tool_name: "cargo test", ok: false, input_summary: "events::resume", error: "exit 101" })),
      { tool_name: "edit_file", ok: true, input_summary: "src/a.rs" }],
    audits: [{ checkpoint_id: "audit:tests-ran", result: "pass" }, { checkpoint_id: "audit:no-secrets", result: "warn", evidence: { file: "a.env", line: 3 } },
      { checkpoint_id: "audit:scope", result: "fail", evidence: { outside: ["/etc/hosts"] } }] }) });
  write(archive, "agent-2", { events: agentRun({ run_id: "agent-2", agent_id: "triage", start: ago(6), outcome: null, lasts: 30,
    question: "Which of the two schemas is the right one?" }) });

  // A skipped line and an unknown event are told, not hidden.
  write(archive, "damaged-1", { graph: SMALL, events: play({ run_id: "damaged-1", graph: SMALL, start: ago(130), seed: 9, take: 12 }),
    lines: ["not json at all", JSON.stringify({ ts: stamp(ago(120)), run_id: "damaged-1", event: "node_sneezed", node_id: "plan" })] });
  return { small: "small-2", previous: "small-1", long: LONG };
}

function hostileRun(run_id, start) {
  const all = ALL_HOSTILE;
  const graph = { version: 1, nodes: [
    node("first", [], { deliverable: all, touches: [all, "x".repeat(300)], done_when: [all, HOSTILE.img], max_ralph_iters: 2 }),
    node(MAX_ID, ["first"], { deliverable: HOSTILE.wide, done_when: [HOSTILE.script] }),
    node("constructor", ["first"], { deliverable: HOSTILE.bidi }), node("toString".toLowerCase(), ["constructor"], { deliverable: HOSTILE.emoji }),
  ] };
  const events = play({ run_id, graph, start, fails: { first: 2 }, tail: () => `${all}\n${"x".repeat(3000)}\n${HOSTILE.ansi}\n` });
  const last = events.pop();
  events.splice(1, 0,
    { ts: stamp(start + 1), run_id, event: all, node_id: all, note: all },
    // Nearly as long as a line may be.
    { ts: stamp(start + 2), run_id, event: "huge", note: `${HOSTILE.img}${"y".repeat(1_000_000)}` },
    { ts: stamp(start + 2), run_id, event: "audit_checkpoint", agent_id: null, checkpoint_id: "audit:hostile", result: "fail", duration_s: 1,
      evidence: { [all]: all, "<b>": [HOSTILE.img, { deep: all }] } });
  events.push({ ts: last.ts, run_id, event: "node_transition", node_id: "constructor", from: "blocked", to: "blocked", reason: all }, last);
  return { graph, events, lines: [`{"ts":"${all}","run_id":`, "\u0000\u0000\u0000", all] };
}

function hostileAgent(run_id, start) {
  const all = ALL_HOSTILE;
  return agentRun({ run_id, agent_id: `a${"b_c-".repeat(15)}d`, start, task: all, model: all, outcome: "escaped", score: 0,
    parent: { run_id: "hostile-1", node_id: "first", attempt: 1 }, question: all,
    tools: Object.values(HOSTILE).map((text) => ({ tool_name: text, ok: false, input_summary: text, output_summary: all, error: all })),
    audits: [{ checkpoint_id: `audit:${"z".repeat(110)}`, result: "fail", evidence: { text: all } }] });
}

/** A run that goes on: the first nodes are done, `running` of them run. @returns {{feeder: Feeder, running: string[]}} */
export function liveRun(archive, run_id, now = Date.now(), graph = SMALL, take = 14) {
  const events = play({ run_id, graph, start: now - 100_000, seconds: () => 10, take, workers: 3 });
  write(archive, run_id, { graph, events });
  const status = new Map();
  const feeder = new Feeder(archive, run_id);
  for (const one of events) {
    if (one.event === "node_transition") status.set(one.node_id, one.to);
    if (one.attempt && one.event === "node_transition") feeder.turns.set(one.node_id, one.attempt);
  }
  return { feeder, running: [...status].filter(([, to]) => to === "running").map(([id]) => id) };
}

/** 500 nodes and about 20,000 events: most attempts fail before one passes; three nodes never do. */
export function bigRun(archive, run_id = "big-1", now = Date.now(), take = Infinity) {
  const graph = layered(500, 7), draw = random(11);
  const fails = Object.fromEntries(graph.nodes.map(({ id }) => [id, 11 + Math.floor(draw() * 7)]));
  for (const id of ["n404", "n431", "n466"]) fails[id] = 20;
  const events = play({ run_id, graph, start: now - 8 * 3_600_000, fails, workers: 40, seconds: () => 4 + Math.floor(draw() * 20), take,
    tail: (id, attempt) => `${id}: ${attempt} failed\n` });
  write(archive, run_id, { graph, events });
  return { graph, events };
}

/** Runs of a few events, newest `list-00000`; the oldest ends the list. */
export function listArchive(archive, count = 10_000, now = Date.now()) {
  const draw = random(5);
  for (let i = 0; i < count; i++) listRun(archive, `list-${String(i).padStart(5, "0")}`, now - 60_000 - i * 45_000, draw);
}
export function listRun(archive, run_id, start, draw = random(6)) {
  const bad = draw() < 0.2, done = bad ? 0 : 1;
  const at = (ms) => stamp(start + ms);
  write(archive, run_id, { events: [
    { ts: at(0), run_id, event: "run_start", total_nodes: 1 },
    { ts: at(1), run_id, event: "node_transition", node_id: "only", from: "pending", to: "ready" },
    { ts: at(2), run_id, event: "node_transition", node_id: "only", from: "ready", to: "running", attempt: 1 },
    { ts: at(9000), run_id, event: "node_attempt", node_id: "only", attempt: 1, duration_s: 8.9, converged: !bad,
      done_when_results: [{ cmd: "make", rc: bad ? 2 : 0, duration_s: 8.5, ...(bad ? { tail: "make: no\n" } : {}) }] },
    { ts: at(9001), run_id, event: "node_transition", node_id: "only", from: "running", to: bad ? "failed" : "done" },
    { ts: at(9002), run_id, event: "run_end", outcome: bad ? "stuck" : "clean", done, failed: 1 - done, blocked: 0, total_duration_s: 9.002 },
  ] });
}

/**
 * Agents and checkpoints whose verdicts are known: one regressed, one noisy, one busy and well, one with few runs, one without an end;
 * a checkpoint for each verdict.
 */
export function fleetArchive(archive, now = Date.now(), random_agents = 0) {
  const draw = random(21);
  let serial = 0;
  const run = (agent_id, minutes, more) => {
    const run_id = `${agent_id}-${String(serial++).padStart(4, "0")}`;
    write(archive, run_id, { events: agentRun({ run_id, agent_id, start: now - minutes * 60_000, tools: [{ tool_name: "read_file", ok: true }],
      lasts: 20 + draw() * 100, ...more }) });
  };
  const verdicts = {
    "audit:stable": () => "pass", "audit:broken": () => "fail", "audit:regressed": (i) => (i < 20 ? "pass" : "fail"),
    "audit:recovered": (i) => (i < 20 ? "fail" : "pass"), "audit:flaky": (i) => (i % 3 ? "pass" : "fail"),
    "audit:warned": (i) => (i % 2 ? "pass" : "warn"),
  };
  for (let i = 0; i < 40; i++) {
    const audits = Object.entries(verdicts).map(([checkpoint_id, result]) => ({ checkpoint_id, result: result(i), evidence: { run: i } }));
    if (i < 3) audits.push({ checkpoint_id: "audit:new", result: "pass", evidence: { run: i } });
    run("coder", 1000 - i * 20, { score: i % 2, audits });
  }
  for (let i = 0; i < 12; i++) run("planner", 900 - i * 60, { outcome: i < 11 ? "converged" : "escaped", score: i < 11 ? 0.95 : 0.1 });
  for (let i = 0; i < 20; i++) run("triage", 900 - i * 30, { outcome: i % 2 ? "aborted" : "partial", score: 0.4 });
  for (let i = 0; i < 3; i++) run("rare", 500 - i * 30, { score: 0.7 });
  run("silent", 60, { outcome: null });
  for (let agent = 0; agent < random_agents; agent++) {
    const runs = 1 + Math.floor(draw() * 5);
    for (let i = 0; i < runs; i++) {
      const outcome = ["converged", "converged", "partial", "escaped", "aborted"][Math.floor(draw() * 5)];
      run(`agent${String(agent).padStart(3, "0")}`, 800 - i * 10, { outcome, score: Math.round(draw() * 100) / 100 });
    }
  }
}
