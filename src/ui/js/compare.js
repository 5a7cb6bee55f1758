/**
 * @file Two runs beside each other: what changed from the base (A) to the head (B), in the server's words.
 */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/ui-runtime.js";
import { Glyph, Problem, Time, href, keys, setQuery, setTitle, styled } from "./app.js";
import { count, describe, duration, parse, plural, runState, score, visible } from "./fmt.js";
import { Choice, Rows, Skeleton, leaveOnEscape, query, useAnswer } from "./fleet.js";

await Promise.all([styled("audits"), styled("compare")]);

/** How often a comparison with a live run is asked for anew. */
const LIVE_EVERY = 1000;
const PICKED_FROM = 500;
const OFFERED = 20;
/** Changes in the order of their buttons, each with its words. */
const CHANGES = /** @type {[string, string][]} */ ([
  ["newly_failed", "Newly failed"], ["newly_blocked", "Newly blocked"], ["fixed", "Fixed"], ["slower", "Slower"],
  ["faster", "Faster"], ["flakier", "Flakier"], ["changed", "Changed otherwise"], ["added", "Only in B"],
  ["removed", "Only in A"], ["same", "About the same"],
]);
const CHANGE_WORDS = Object.fromEntries(CHANGES);
const CHANGE_TONES = /** @type {Record<string, string>} */ ({
  newly_failed: "red", newly_blocked: "amber", fixed: "green", slower: "amber", flakier: "lime",
});
/** Members of a node in graph.json, as they are told. */
const SPEC = /** @type {[string, string][]} */ ([
  ["depends_on", "dependencies"], ["deliverable", "deliverable"], ["done_when", "checks"], ["touches", "touches"],
  ["parallel_safe", "parallel_safe"], ["max_ralph_iters", "max_ralph_iters"], ["estimated_loc", "estimated_loc"],
]);

/** @param {{route: any}} props */
export function Page({ route }) {
  const base = route.query.get("base");
  const head = route.query.get("head");
  useEffect(() => setTitle(base && head ? `${base} vs ${head} · Compare` : "Compare"), [base, head]);
  return base && head ? html`<${Comparison} key=${`${base} ${head}`} base=${base} head=${head} route=${route} />`
    : html`<${Picker} base=${base} head=${head} route=${route} />`;
}

// --- choosing ------------------------------------------------------------------------------------------------------

/** Chooses the base, then the head: the last runs of the other one's graph, else the last ones. */
function Picker({ base, head, route }) {
  const q = route.query.get("q") ?? "";
  const chosen = base ?? head;
  const filter = useRef(/** @type {HTMLInputElement|null} */ (null));
  const other = useAnswer(chosen === null ? null : `/api/runs/${encodeURIComponent(chosen)}`);
  const runs = useAnswer(`/api/runs?${query({ q: q || null, limit: PICKED_FROM })}`, { filters: {} });
  useEffect(() => keys("Compare", { "/": { does: "filter the runs", run: () => filter.current?.focus() } }), []);
  const { items, words } = useMemo(() => offered(runs.data?.items ?? [], other.data), [runs.data, other.data]);
  const slot = base === null ? "base" : "head";
  const error = runs.error ?? other.error;
  return html`<section class="ag-page cp-page">
    <div class="ag-bar"><h1>Compare</h1>
      <input class="field ag-filter" type="search" placeholder="Filter runs ( / )" aria-label="Filter runs" ref=${filter} value=${q}
        onInput=${(/** @type {any} */ event) => setQuery({ q: event.target.value || null }, { replace: true })} onKeyDown=${leaveOnEscape} /></div>
    <p>${base === null ? html`Choose the <b>base (A)</b>, the run to compare with` : html`Base (A) is <b class="mono">${base}</b>. Now choose the <b>head (B)</b>`}${
      head === null ? "" : html`; the head (B) is <b class="mono">${head}</b>`}. <span class="muted">${words}</span></p>
    ${error === null ? null : html`<${Problem} what="the runs" error=${error} retry=${() => { runs.retry(); other.retry(); }} />`}
    ${runs.data === null ? (error === null ? html`<${Skeleton} height=${32} />` : null)
      : items.length === 0 ? html`<p class="empty">${q === "" ? "There is no other run to compare with yet." : `No run has “${q}” in its name.`}</p>`
      : html`<${Rows} name="cp-pick" label="Runs to choose from" items=${items} keyOf=${runKey} columns=${PICK_COLUMNS} rowHeight=${pickHeight}
          open=${(/** @type {any} */ run) => setQuery({ [slot]: run.run_id, q: null }, { replace: false })} />`}
  </section>`;
}

/**
 * What to choose from: runs of the same graph where there are any, else the last ones of the same kind.
 * @param {any[]} runs
 * @param {any} other
 */
function offered(runs, other) {
  if (other === null) return { items: runs.slice(0, OFFERED), words: `The last ${plural(Math.min(OFFERED, runs.length), "run")}.` };
  const rest = runs.filter((run) => run.run_id !== other.run_id);
  const alike = other.graph_sha256 === null ? [] : rest.filter((run) => run.graph_sha256 === other.graph_sha256);
  if (alike.length > 0) return { items: alike.slice(0, OFFERED), words: `The last ${plural(Math.min(OFFERED, alike.length), "run")} of the same graph.` };
  const kin = rest.filter((run) => run.kind === other.kind && (other.agent_id === null || run.agent_id === other.agent_id));
  const items = (kin.length > 0 ? kin : rest).slice(0, OFFERED);
  const why = other.graph_sha256 === null ? "" : "No other run has the same graph; ";
  return { items, words: `${why}${why ? "these are the" : "The"} last ${plural(items.length, "run")}${
    kin.length === 0 ? "" : other.agent_id === null ? " of its kind" : ` of ${other.agent_id}`}.` };
}

const runKey = (/** @type {any} */ run) => run.run_id;
const runHref = (/** @type {string} */ runId, /** @type {Record<string, any>} */ members = {}) => href(`/runs/${encodeURIComponent(runId)}`, members);
const pickHeight = (/** @type {number} */ width) => (width < 760 ? 60 : 32);

/** @type {import("./fleet.js").Column[]} */
const PICK_COLUMNS = [
  { name: "state", label: "State", className: "cp-state", cell: (run) => html`<${State} run=${run} />` },
  { name: "run", label: "Run", className: "mono cp-run", cell: (run) => html`<b>${run.run_id}</b>` },
  { name: "graph", label: "Graph", className: "mono cp-graph", cell: (run) => (run.graph_sha256 === null
    ? html`<span class="muted">${run.agent_id ?? "none"}</span>` : run.graph_sha256.slice(0, 8)) },
  { name: "nodes", label: "Nodes", className: "cp-nodes", cell: (run) => (run.nodes === null ? "–" : `${count(run.nodes.done)} of ${count(run.nodes.total)} done`) },
  { name: "took", label: "Took", className: "num", cell: (run) => duration(run.duration_s) },
  { name: "started", label: "Started", className: "cp-started", cell: (run) => (run.started === null ? "–" : html`<${Time} ts=${run.started} as="relative" />`) },
];

function State({ run }) {
  const { set, value, word } = runState(run);
  return html`<span class="status"><${Glyph} set=${set} value=${value} /> ${word}</span>`;
}

// --- comparing -----------------------------------------------------------------------------------------------------

function Comparison({ base, head, route }) {
  const path = `/api/compare?${query({ base, head })}`;
  // Which of the two still grow is only known from the answer itself.
  const growing = useRef(/** @type {object|null} */ (null));
  const { data, error, retry } = useAnswer(path, { filters: growing.current, every: LIVE_EVERY });
  growing.current = data === null ? null : growth(data.base, data.head);
  const list = useRef(/** @type {any} */ (null));
  const f = route.query.get("f") ?? "all";
  const chosen = route.query.get("node");
  const isByNode = route.query.get("align") === "node";
  const isSame = base === head;
  const common = data?.nodes.some((/** @type {any} */ node) => node.base !== null && node.head !== null) ?? false;
  const isTold = data !== null && !isSame && common;
  // The states move with the comparison: their paths carry how far it has read.
  const states = [data?.base, data?.head].map((run) => useAnswer(isTold ? statePath(run) : null, { keeps: true }));
  const places = useMemo(() => place(states[0].data, states[1].data, isByNode), [states[0].data, states[1].data, isByNode]);
  const nodes = data?.nodes ?? [];
  const items = useMemo(() => nodes.filter((/** @type {any} */ node) => isOf(node, f)), [data, f]);
  const columns = useMemo(() => nodeColumns(places), [places]);
  const swap = () => setQuery({ base: head, head: base }, { replace: false });
  const close = () => {
    setQuery({ node: null }, { replace: false });
    if (chosen !== null) list.current?.focus(chosen);
  };
  useEffect(() => keys("Compare", {
    ".": { does: "apply the new order", run: () => list.current?.apply() },
    Escape: { does: "close the node", run: () => { if (chosen !== null) close(); } },
  }), [chosen]);
  const node = nodes.find((/** @type {any} */ one) => one.node_id === chosen);

  return html`<section class="ag-page cp-page">
    <div class="ag-bar"><h1>Compare</h1>
      <button class="btn" onClick=${swap}>Swap A and B</button>
      ${data?.regression ? html`<span class="chip cp-regression"><${Glyph} set="node" value="failed" /> Regression</span>` : null}
    </div>
    ${error === null ? null : html`<${Problem} what="the comparison" error=${error} retry=${retry} />
      <p class="empty"><button class="btn" onClick=${() => setQuery({ base: null }, { replace: false })}>Choose another base (A)</button>
        ${" "}<button class="btn" onClick=${() => setQuery({ head: null }, { replace: false })}>Choose another head (B)</button></p>`}
    ${data === null ? (error === null ? html`<${Skeleton} />` : null) : html`
      <div class="cp-sides"><${Side} letter="A" role="base" run=${data.base} /><${Side} letter="B" role="head" run=${data.head} /></div>
      <p class="cp-summary" role="status">${visible(data.summary)}</p>
      ${isSame ? html`<p class="empty">A and B are the same run. <button class="btn" onClick=${() => setQuery({ base: null }, { replace: false })}>Choose another base</button></p>`
        : data.base.kind === "agent" && data.head.kind === "agent" ? html`<${AgentFacts} base=${data.base} head=${data.head} />`
        : !common ? html`<p class="empty">The two runs have no node in common, so there is nothing to set side by side.</p>`
        : html`
          <${Graphs} data=${data} />
          <${CriticalPaths} base=${data.base} head=${data.head} />
          <div class="cp-tools">
            <${Choice} label="Nodes" value=${f} options=${filterOptions(nodes)} choose=${(/** @type {string} */ value) =>
              setQuery({ f: value === "all" ? null : value }, { replace: false })} />
            <${Choice} label="Bars begin at" value=${isByNode ? "node" : "run"} options=${[["run", "From run start"], ["node", "From node start"]]}
              choose=${(/** @type {string} */ value) => setQuery({ align: value === "node" ? value : null }, { replace: false })} />
            <span class="muted">bars: one axis, 0 to ${duration(places.axis_s)}</span>
          </div>
          <div class="au-body">
            ${items.length === 0 ? html`<p class="empty">No node of this kind. <button class="btn" onClick=${() => setQuery({ f: null }, { replace: false })}>Show all nodes</button></p>`
              : html`<${Rows} name="cp-rows" label="Nodes of both runs" items=${items} keyOf=${nodeKey} columns=${columns} rowHeight=${nodeHeight}
                  selected=${chosen} open=${(/** @type {any} */ one) => setQuery({ node: one.node_id }, { replace: false })}
                  href=${(/** @type {any} */ one) => runHref(one.head === null ? base : head, { node: one.node_id })}
                  grip=${(/** @type {any} */ grip) => { list.current = grip; }} />`}
            ${node === undefined ? null : html`<${NodePanel} key=${chosen} node=${node} data=${data} close=${close} />`}
          </div>`}`}
  </section>`;
}

/** By which changes of runs a comparison is asked for anew; null when neither run grows. */
function growth(/** @type {any} */ base, /** @type {any} */ head) {
  const open = [base, head].filter((run) => run.ended === null);
  if (open.length === 0) return null;
  return open.length === 1 ? { q: open[0].run_id } : {};
}

const statePath = (/** @type {any} */ run) => (run.next_seq === 0 ? null
  : `/api/runs/${encodeURIComponent(run.run_id)}?${query({ at_seq: run.next_seq - 1 })}`);

function Side({ letter, role, run }) {
  const nodes = run.nodes;
  return html`<article class="card cp-side" aria-label=${`${letter}, the ${role}`}>
    <p><b class="cp-letter">${letter}</b> <a class="mono" href=${runHref(run.run_id)}>${run.run_id}</a>
      ${" "}<${State} run=${run} />
      ${" "}<button class="btn cp-change" onClick=${() => setQuery({ [role]: null }, { replace: false })}>Change</button></p>
    <p class="muted">${duration(run.duration_s)}${run.started === null ? "" : html` · started <${Time} ts=${run.started} as="relative" />`}${
      nodes === null ? "" : ` · ${count(nodes.done)} of ${plural(nodes.total, "node")} done${nodes.failed > 0 ? `, ${count(nodes.failed)} failed` : ""}${
        nodes.blocked > 0 ? `, ${count(nodes.blocked)} blocked` : ""}`}${
      run.flaky_nodes.length > 0 ? ` · ${plural(run.flaky_nodes.length, "node")} retried` : ""}${
      run.graph_sha256 === null ? "" : html` · graph <span class="mono">${run.graph_sha256.slice(0, 8)}</span>`}</p>
  </article>`;
}

/** Whether a node is of a filter: any change, or the one that it names ("other" is the change called "changed"). */
function isOf(/** @type {any} */ node, /** @type {string} */ f) {
  if (f === "all") return true;
  return f === "changed" ? node.change !== "same" : node.change === (f === "other" ? "changed" : f);
}

/** @param {any[]} nodes */
function filterOptions(nodes) {
  const of = (/** @type {string} */ change) => nodes.filter((node) => node.change === change).length;
  return [["all", `All ${count(nodes.length)}`], ["changed", `Changed ${count(nodes.length - of("same"))}`],
    ...CHANGES.filter(([change]) => of(change) > 0).map(([change, words]) => [change === "changed" ? "other" : change, `${words} ${count(of(change))}`])];
}

// --- nodes ---------------------------------------------------------------------------------------------------------

const nodeKey = (/** @type {any} */ node) => node.node_id;
const nodeHeight = (/** @type {number} */ width) => (width < 760 ? 88 : 40);

/**
 * Where each node's bars begin, in seconds after the start of its run (or at 0), and how long the axis is.
 * @param {any} base
 * @param {any} head
 * @param {boolean} isByNode
 */
function place(base, head, isByNode) {
  /** @type {{base: Map<string, number>, head: Map<string, number>, axis_s: number}} */
  const places = { base: new Map(), head: new Map(), axis_s: 1 };
  for (const [side, state] of /** @type {["base"|"head", any][]} */ ([["base", base], ["head", head]])) {
    for (const node of state?.node_states ?? []) {
      if (node.started === null) continue;
      const from = isByNode ? 0 : Math.max(0, (parse(node.started) - parse(state.started)) / 1000);
      places[side].set(node.node_id, from);
      places.axis_s = Math.max(places.axis_s, from + node.running_s);
    }
  }
  return places;
}

/** @param {ReturnType<typeof place>} places @returns {import("./fleet.js").Column[]} */
function nodeColumns(places) {
  return [
    { name: "node", label: "Node", className: "mono cp-node", cell: (node) => html`<b title=${node.node_id}>${node.node_id}</b>` },
    { name: "base", label: "A", className: "cp-a", cell: (node) => html`<${Result} letter="A" result=${node.base} />` },
    { name: "head", label: "B", className: "cp-b", cell: (node) => html`<${Result} letter="B" result=${node.head} />` },
    { name: "change", label: "Change", className: "cp-what", cell: (node) => html`
      ${node.change in CHANGE_TONES ? html`<span class=${`cp-mark tone-${CHANGE_TONES[node.change]}`} aria-hidden="true"></span>` : null}
      <span class=${node.change === "same" ? "muted" : ""} title=${node.newly_failing_checks.join("\n")}>${changeWords(node)}</span>` },
    { name: "bars", label: "A over B", className: "cp-bars", cell: (node) => html`<${Bars} node=${node} places=${places} />` },
  ];
}

/** @param {any} node */
function changeWords(node) {
  const words = CHANGE_WORDS[node.change] ?? node.change;
  const checks = node.newly_failing_checks;
  if (checks.length > 0) return `${words}: ${visible(checks[0])}${checks.length > 1 ? ` and ${checks.length - 1} more` : ""}`;
  return words;
}

function Result({ letter, result }) {
  if (result === null) return html`<span class="muted"><span class="ag-unit">${letter} </span>not there</span>`;
  const { word } = describe("node", result.status);
  return html`<span class="ag-unit">${letter} </span><${Glyph} set="node" value=${result.status} /> ${word}${
    result.attempts > 1 ? ` ×${result.attempts}` : ""}${result.duration_s > 0 ? html` <span class="muted">${duration(result.duration_s)}</span>` : null}`;
}

function Bars({ node, places }) {
  const bar = (/** @type {"base"|"head"} */ side) => {
    const result = node[side];
    const from = places[side].get(node.node_id);
    if (result === null || from === undefined) return html`<span class="cp-lane"></span>`;
    const style = {
      insetInlineStart: `${((100 * from) / places.axis_s).toFixed(3)}%`,
      inlineSize: `${((100 * result.duration_s) / places.axis_s).toFixed(3)}%`,
    };
    return html`<span class="cp-lane"><span class=${`cp-bar cp-${side} tone-${describe("node", result.status).tone}`} style=${style}></span></span>`;
  };
  const said = [["A", node.base], ["B", node.head]].map(([letter, result]) => `${letter} ${result === null ? "not there" : duration(result.duration_s)}`).join(", ");
  return html`<span class="cp-pair" role="img" aria-label=${said} title=${said}>${bar("base")}${bar("head")}</span>`;
}

function NodePanel({ node, data, close }) {
  const heading = useRef(/** @type {HTMLElement|null} */ (null));
  // A link to the open node takes no focus; whoever opened it goes on reading there.
  useEffect(() => {
    if (document.activeElement !== document.body) heading.current?.focus();
  }, []);
  const isOther = data.graph.changed.includes(node.node_id);
  return html`<aside class="au-panel" aria-labelledby="cp-node-name">
    <header><h2 id="cp-node-name" class="mono" tabindex="-1" ref=${heading}>${node.node_id}</h2>
      <button class="btn" onClick=${close} title="Close (Esc)">Close</button></header>
    <p><b>${changeWords(node)}</b></p>
    ${node.newly_failing_checks.length === 0 ? null : html`<h3>Newly failing checks</h3>
      <ul class="cp-checks">${node.newly_failing_checks.map((/** @type {string} */ cmd) => html`<li key=${cmd} class="mono">${visible(cmd)}</li>`)}</ul>`}
    ${[["A", node.base, data.base], ["B", node.head, data.head]].map(([letter, result, run]) => html`
      <h3 key=${letter}>${letter}: <a class="mono" href=${runHref(run.run_id, { node: node.node_id })}>${run.run_id}</a></h3>
      ${result === null ? html`<p class="muted">Not there.</p>` : html`<p><${Result} letter="" result=${result} />
        ${" "}<span class="muted">${plural(result.attempts, "attempt")}</span></p>`}`)}
    ${isOther ? html`<h3>In graph.json</h3><${SpecChanges} base=${data.base} head=${data.head} nodeIds=${[node.node_id]} />` : null}
  </aside>`;
}

// --- graphs --------------------------------------------------------------------------------------------------------

/** What became of the graph, first what is new, gone and other. */
function Graphs({ data }) {
  const { added, removed, changed } = data.graph;
  const isSame = data.base.graph_sha256 === data.head.graph_sha256;
  if (data.base.graph_sha256 === null || data.head.graph_sha256 === null) {
    return html`<p class="muted cp-line">${isSame ? "Neither run has" : "Only one of the runs has"} a graph.json; nodes are matched by id.</p>`;
  }
  if (added.length + removed.length + changed.length === 0) {
    return html`<p class="muted cp-line">${isSame ? "Same graph." : "The graphs differ in nothing that a node says."}</p>`;
  }
  const counts = [[added, "added"], [removed, "removed"], [changed, "changed"]].filter(([ids]) => ids.length > 0);
  return html`<details class="cp-line"><summary>Other graph: ${counts.map(([ids, word]) => `${count(ids.length)} ${word}`).join(", ")}</summary>
    <div class="cp-graphs">
      ${counts.slice(0, 2).filter(([, word]) => word !== "changed").map(([ids, word]) => html`<p key=${word}><b>${word === "added" ? "Only in B" : "Only in A"}:</b>
        ${" "}<span class="mono">${ids.join(", ")}</span></p>`)}
      ${changed.length === 0 ? null : html`<${SpecChanges} base=${data.base} head=${data.head} nodeIds=${changed} />`}
    </div></details>`;
}

/** What a node says in one graph.json and not in the other, member by member. */
function SpecChanges({ base, head, nodeIds }) {
  const graphs = [useAnswer(graphPath(base)), useAnswer(graphPath(head))];
  const error = graphs[0].error ?? graphs[1].error;
  const specs = useMemo(() => graphs.map(({ data }) => new Map((data?.nodes ?? []).map((/** @type {any} */ node) => [node.id, node]))),
    [graphs[0].data, graphs[1].data]);
  if (error !== null) return html`<${Problem} what="the graphs" error=${error} retry=${() => graphs.forEach((one) => one.retry())} />`;
  if (graphs.some(({ data }) => data === null)) return html`<p class="muted" role="status">Reading both graphs …</p>`;
  return html`<ul class="cp-specs">${nodeIds.map((/** @type {string} */ id) => {
    const [was, is] = specs.map((spec) => spec.get(id) ?? {});
    const other = SPEC.filter(([member]) => JSON.stringify(was[member]) !== JSON.stringify(is[member]));
    return html`<li key=${id}><b class="mono">${id}</b> ${other.map(([member, words]) => html`
      <span key=${member} class="cp-spec">${words}: ${difference(was[member], is[member])}</span>`)}</li>`;
  })}</ul>`;
}

const graphPath = (/** @type {any} */ run) => `/api/runs/${encodeURIComponent(run.run_id)}/graph`;

/** Lists by what came and went, all else as it was and is. */
function difference(/** @type {any} */ was, /** @type {any} */ is) {
  if (Array.isArray(was) && Array.isArray(is)) {
    const gone = was.filter((one) => !is.includes(one));
    const come = is.filter((one) => !was.includes(one));
    if (gone.length + come.length === 0) return "in another order";
    return html`${come.map((one) => html`<ins key=${`+${one}`} class="mono">+ ${visible(one)}</ins> `)}${
      gone.map((one) => html`<del key=${`-${one}`} class="mono">− ${visible(one)}</del> `)}`;
  }
  return html`<del>${told(was)}</del> → <ins>${told(is)}</ins>`;
}

const told = (/** @type {any} */ value) => (value === undefined ? "not given" : visible(typeof value === "string" ? value : JSON.stringify(value)));

/** The critical path of each run, and where they part; read once they are asked for. */
function CriticalPaths({ base, head }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details class="cp-line" onToggle=${(/** @type {any} */ event) => setOpen(event.currentTarget.open)}>
    <summary>Critical paths, and where they part</summary>${isOpen ? html`<${Paths} base=${base} head=${head} />` : null}</details>`;
}

function Paths({ base, head }) {
  const answers = [base, head].map((run) => useAnswer(run.next_seq === 0 ? null
    : `/api/runs/${encodeURIComponent(run.run_id)}/diagnostics?${query({ at_seq: run.next_seq - 1 })}`, { keeps: true }));
  const error = answers[0].error ?? answers[1].error;
  if (error !== null) return html`<${Problem} what="the critical paths" error=${error} retry=${() => answers.forEach((one) => one.retry())} />`;
  if (answers.some(({ data }) => data === null)) return html`<p class="muted" role="status">Reading both runs …</p>`;
  const paths = answers.map(({ data }) => data.findings.find((/** @type {any} */ one) => one.kind === "critical_path") ?? null);
  if (paths.some((path) => path === null)) return html`<p class="muted">Not both runs have a critical path yet.</p>`;
  const [was, is] = paths.map((path) => path.node_ids);
  const parts = [...was, null].findIndex((id, at) => id !== is[at]);
  const words = was.length === is.length && parts === was.length ? "The same nodes in both."
    : parts === 0 ? "They share no beginning." : html`They part after <span class="mono">${was[parts - 1]}</span>.`;
  return html`<p>${words}</p>
    ${[["A", was, paths[0]], ["B", is, paths[1]]].map(([letter, ids, path]) => html`<p key=${letter}><b>${letter}:</b>
      ${" "}<span class="mono">${ids.map((/** @type {string} */ id, /** @type {number} */ at) => html`${at === 0 ? "" : " → "}<span key=${id}
        class=${at < parts ? "muted" : "cp-parted"}>${id}</span>`)}</span> <span class="muted">${visible(path.message)}</span></p>`)}`;
}

// --- agents --------------------------------------------------------------------------------------------------------

/** Two agent runs have no nodes: their figures stand beside each other. */
function AgentFacts({ base, head }) {
  const facts = /** @type {[string, (run: any) => any][]} */ ([
    ["Agent", (run) => run.agent_id ?? "–"], ["Task", (run) => (run.task === null ? "–" : visible(run.task))], ["Model", (run) => (run.model === null ? "–" : visible(run.model))],
    ["Outcome", (run) => html`<${State} run=${run} />`], ["Score", (run) => score(run.convergence_score)],
    ["Took", (run) => duration(run.duration_s)], ["Steps", (run) => (run.steps === null ? "–" : count(run.steps))],
    ["Tool calls", (run) => (run.tool_calls === null ? "–" : `${count(run.tool_calls.total)}, ${count(run.tool_calls.failed)} failed`)],
    ["Audits", (run) => (run.audits === null ? "–" : `${count(run.audits.pass)} pass, ${count(run.audits.warn)} warn, ${count(run.audits.fail)} fail`)],
    ["Cost", (run) => (run.usage?.cost_usd == null ? "–" : `${run.usage.cost_usd.toFixed(2)} USD`)],
    ["First failure", (run) => (run.first_failure === null ? "–" : visible(`${run.first_failure.tool_name}: ${run.first_failure.error ?? ""}`))],
  ]);
  return html`<table class="cp-facts" aria-label="The two runs"><thead><tr><td></td><th scope="col">A</th><th scope="col">B</th></tr></thead>
    <tbody>${facts.map(([name, of]) => html`<tr key=${name}><th scope="row">${name}</th><td>${of(base)}</td><td>${of(head)}</td></tr>`)}</tbody></table>`;
}
