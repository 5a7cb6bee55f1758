/**
 * @file Agents: which one to look at first, in the server's order; and the runs of one agent.
 */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/ui-runtime.js";
import { Glyph, Problem, Time, href, keys, navigate, setQuery, setTitle } from "./app.js";
import { count, describe, duration, percent, plural, runState, score, visible } from "./fmt.js";
import {
  Bar, Choice, OUTCOME_MEANING, Rows, Skeleton, Spark, countWords, keep, leaveOnEscape, query, usageWords, useAnswer,
  useWidth, windowOf,
} from "./fleet.js";

/** Outcomes from left to right in a bar. */
const OUTCOMES = ["converged", "partial", "aborted", "escaped", "unknown"];
/** Below so many ended runs a 95th percentile says nothing. */
const FEWEST_FOR_P95 = 5;
/** From this severity on an agent without a regression is worth a card: ten failed runs, or a hundred partial ones. */
const NOISY = 100;
const MOST_CARDS = 4;
const WIDER = /** @type {Record<string, string[]>} */ ({ "24h": ["7d", "all"], "7d": ["all"] });

/** @param {{route: any}} props */
export function Page({ route }) {
  const agentId = route.params.agent_id;
  return agentId === undefined ? html`<${Agents} route=${route} />` : html`<${Agent} key=${agentId} route=${route} id=${agentId} />`;
}

// --- all agents ----------------------------------------------------------------------------------------------------

function Agents({ route }) {
  const window = windowOf(route);
  const sort = route.query.get("sort") ?? "severity";
  const isShare = route.query.get("view") === "share";
  const q = route.query.get("q") ?? "";
  const filter = useRef(/** @type {HTMLInputElement|null} */ (null));
  const list = useRef(/** @type {any} */ (null));
  const { data, error, retry } = useAnswer(`/api/agent-runs/aggregate?${query({ window, sort })}`, {
    filters: { kind: "agent" },
  });
  useEffect(() => setTitle("Agents"), []);
  const items = useMemo(() => (data?.items ?? []).filter((/** @type {any} */ row) => row.agent_id.includes(q)), [data, q]);
  const [host, space] = useWidth();
  useEffect(() => keys("Agents", {
    "/": { does: "filter agents", run: () => filter.current?.focus() },
    ".": { does: "apply the new order", run: () => list.current?.apply() },
  }), []);
  const busiest = useMemo(() => Math.max(1, ...items.map((/** @type {any} */ row) => row.run_count)), [items]);
  const longest = barRoom(space);
  const shape = useMemo(() => agentColumns({ longest, busiest, isShare }), [longest, busiest, isShare]);
  const open = (/** @type {any} */ item) => navigate(agentHref(item.agent_id, route));

  return html`<section class="ag-page" ref=${host}>
    <div class="ag-bar">
      <h1>Agents</h1>
      ${data === null && error !== null ? null : html`<input class="field ag-filter" type="search" placeholder="Filter agents ( / )" aria-label="Filter agents" ref=${filter}
        value=${q} onInput=${(/** @type {any} */ event) => setQuery({ q: event.target.value || null }, { replace: true })}
        onKeyDown=${leaveOnEscape} />
      <${Choice} label="Order" value=${sort} options=${[["severity", "Severity"], ["busiest", "Busiest"]]}
        choose=${(/** @type {string} */ value) => setQuery({ sort: value === "severity" ? null : value }, { replace: false })} />
      <${Choice} label="Bars" value=${isShare ? "share" : "runs"} options=${[["runs", "Runs"], ["share", "%"]]}
        choose=${(/** @type {string} */ value) => setQuery({ view: value === "share" ? value : null }, { replace: false })} />`}
      ${data === null ? null : html`<span class="muted ag-total">
        ${plural(items.length, "agent")}${data.window === "all" ? "" : ` in ${data.window}`}</span>`}
    </div>
    ${error === null ? null : html`<${Problem} what="the agents" error=${error} retry=${retry} />`}
    ${data === null ? (error === null ? html`<${Skeleton} />` : null)
      : data.items.length === 0 ? html`<${NoRuns} window=${window} route=${route} />`
      : items.length === 0 ? html`<p class="empty">No agent's name has “${q}” in it.
          ${" "}<button class="btn" onClick=${() => setQuery({ q: null }, { replace: false })}>Clear the filter</button></p>`
      : html`
        <${Attention} items=${data.items} route=${route} />
        <p class="ag-legend muted">${OUTCOMES.map((name) => html`<span key=${name} title=${OUTCOME_MEANING[name]}>
            <span class=${`fl-part fl-${name}`}></span> ${describe("agent", name).word.toLowerCase()}</span>`)}
          <span>${isShare ? "every bar is 100 % of its agent’s runs" : "bar length = runs, one scale for all rows"}; ≈ has parts too short for it</span></p>
        <${Rows} name="ag-rows" label="Agents" items=${items} keyOf=${agentKey} columns=${shape} rowHeight=${agentHeight}
          open=${open} href=${(/** @type {any} */ item) => agentHref(item.agent_id, route)}
          grip=${(/** @type {any} */ grip) => { list.current = grip; }} />`}
  </section>`;
}

/** The room of the text at a bar's end is kept free in every row, or the longest bar would have none. */
const NOTE_ROOM = 156;
/** What stands beside the bars, by the width of the page from which on it does (40-agents.css). */
const BESIDE = [[1280, 912], [1024, 798], [760, 582], [0, 24]];

/** How long the longest bar may be. @param {number} space  the width of the list */
function barRoom(space) {
  const beside = BESIDE.find(([from]) => innerWidth >= from)?.[1] ?? 0;
  return Math.max(60, space - beside - NOTE_ROOM);
}

const agentKey = (/** @type {any} */ item) => item.agent_id;
const agentHeight = (/** @type {number} */ width) => (width < 760 ? 92 : 40);

/** @param {{longest: number, busiest: number, isShare: boolean}} scale */
function agentColumns({ longest, busiest, isShare }) {
  return [
    { name: "agent", label: "Agent", className: "ag-id", cell: (/** @type {any} */ item) => html`
      <span class="mono" title=${item.agent_id}>${item.agent_id}</span>
      ${item.regression ? html`<span class="ag-new">new<span> regression</span></span>` : null}
      ${item.in_flight > 0 ? html`<span class="muted ag-flight">${count(item.in_flight)} in flight</span>` : null}` },
    { name: "runs", label: "Runs", className: "num ag-runs", cell: (/** @type {any} */ item) => html`
      ${count(item.run_count)}<span class="ag-unit"> runs</span>` },
    { name: "outcomes", label: "Outcomes", className: "ag-outcomes", cell: (/** @type {any} */ item) => html`
      <${OutcomeBar} item=${item} length=${isShare ? longest : (longest * item.run_count) / busiest} isShare=${isShare} />` },
    { name: "p50", label: "p50", className: "num ag-p50", cell: (/** @type {any} */ item) => duration(item.duration_p50_s) },
    { name: "p95", label: "p95", className: "num ag-p95", cell: p95 },
    { name: "mean", label: "Mean", className: "num ag-mean", cell: (/** @type {any} */ item) => html`
      <span title=${`Mean convergence; the last ${plural(item.convergence_scores.length, "score")} are drawn beside it`}>
        ${score(item.mean_convergence_score)}</span>` },
    { name: "scores", label: "Convergence 0 to 1", className: "ag-scores", cell: (/** @type {any} */ item) => html`
      <${Spark} scores=${item.convergence_scores} /> <span class="num">${score(item.convergence_scores.at(-1) ?? null)}</span>` },
    { name: "severity", label: "Severity", className: "num ag-severity", cell: (/** @type {any} */ item) => html`
      <span title=${severityWords(item)}>${count(item.severity)}</span>` },
    { name: "seen", label: "Last seen", className: "ag-seen", cell: (/** @type {any} */ item) =>
      (item.last_seen === null ? "–" : html`<${Time} ts=${item.last_seen} as="relative" />`) },
  ];
}

/** @param {any} item */
function p95(item) {
  const ended = item.run_count - item.in_flight;
  return html`<span title=${`95th percentile of ${plural(ended, "ended run")}`}>${
    ended < FEWEST_FOR_P95 ? html`<span class="muted">n=${ended}</span>` : duration(item.duration_p95_s)}</span>`;
}

/** The outcomes of an agent as one bar, with what went wrong as text at its end. */
function OutcomeBar({ item, length, isShare }) {
  const all = OUTCOMES.map((name) => ({ name, count: item.outcomes[name], set: "agent", value: name }));
  const sentence = `${plural(item.run_count, "run")}: ${all.filter((part) => part.count > 0).map((part) => isShare
    ? `${percent(part.count / item.run_count)} ${part.name} (${count(part.count)})` : `${count(part.count)} ${part.name}`).join(", ")}`;
  const bad = ["escaped", "aborted"].map((name) => ({ name, count: item.outcomes[name] }));
  const note = isShare ? bad.filter((part) => part.count > 0)
    .map((part) => `${percent(part.count / item.run_count)} ${part.name}`).join(" · ") : countWords(bad);
  return html`<${Bar} parts=${all} length=${length} sentence=${sentence} note=${note} />`;
}

/**
 * The server's severity with the parts it is made of (domain contract); the number alone should they not add up to it.
 * @param {any} item
 */
export function severityWords(item) {
  const { escaped, aborted, partial } = item.outcomes;
  const failed = escaped + aborted;
  const sums = [
    [item.regression ? 1000 : 0, "regression 1,000"],
    [Math.min(200, 10 * failed), failed > 20 ? `${count(failed)} escaped or aborted, at most 200` : `${failed} escaped or aborted × 10`],
    [Math.min(200, partial), partial > 200 ? `${count(partial)} partial, at most 200` : `${partial} partial × 1`],
    [item.in_flight > 0 ? 5 : 0, "runs in flight 5"],
  ].filter(([points]) => Number(points) > 0);
  const isWhole = sums.reduce((sum, [points]) => sum + Number(points), 0) === item.severity;
  return isWhole && sums.length > 0 ? `Severity ${count(item.severity)} = ${sums.map(([, words]) => words).join(" + ")}`
    : `Severity ${count(item.severity)}`;
}

/** The agents to look at first. */
function Attention({ items, route }) {
  const urgent = items.filter((/** @type {any} */ item) => item.regression || item.severity >= NOISY)
    .sort((/** @type {any} */ a, /** @type {any} */ b) => b.severity - a.severity);
  if (urgent.length === 0) return null;
  return html`<ul class="ag-attention" aria-label="Needs attention">
    ${urgent.slice(0, MOST_CARDS).map((/** @type {any} */ item) => html`<li key=${item.agent_id}
        class=${item.regression ? "ag-card bad" : "ag-card warn"}>
      <${Glyph} set="severity" value=${item.regression ? "error" : "warning"} />
      ${" "}<a href=${agentHref(item.agent_id, route)}><b><span class="mono">${item.agent_id}</span> ${item.regression ? "regressed" : "is noisy"}</b></a>
      ${" "}<details class="ag-parts"><summary class="muted">severity ${count(item.severity)}</summary>
        <span>${severityWords(item)}</span></details>
      <p>${attentionWords(item)}</p></li>`)}
    ${urgent.length > MOST_CARDS ? html`<li class="ag-more muted">${count(urgent.length - MOST_CARDS)} more in the list</li>` : null}
  </ul>`;
}

/** @param {any} item */
function attentionWords(item) {
  const parts = ["escaped", "aborted", "partial"].map((name) => ({ name, count: item.outcomes[name] }));
  const bad = countWords(parts).replaceAll(" · ", ", ");
  const last = item.convergence_scores.at(-1);
  const scores = last === undefined || item.mean_convergence_score === null ? ""
    : ` Last score ${score(last)}, mean ${score(item.mean_convergence_score)}.`;
  return `${bad === "" ? "No run" : bad} of ${plural(item.run_count, "run")}${bad === "" ? " failed" : ""}.${scores}`;
}

/** Nothing in this window: how many there are in a wider one, as a link to it. */
function NoRuns({ window, route }) {
  const wider = WIDER[window] ?? [];
  const first = useAnswer(wider.length > 0 ? `/api/runs?${query({ kind: "agent", window: wider[0], limit: 1 })}` : null);
  const isNothing = first.data?.total === 0 && wider.length > 1;
  const all = useAnswer(isNothing ? `/api/runs?${query({ kind: "agent", window: "all", limit: 1 })}` : null);
  const [found, total] = isNothing ? ["all", all.data?.total ?? 0] : [wider[0], first.data?.total ?? 0];
  return html`<p class="empty">${window === "all" || total === 0
    ? html`No agent runs ${window === "all" ? "yet" : `in ${window}`}. One appears here by itself as soon as its first event arrives.`
    : html`No agent runs in ${window}. <a href=${href(route.path, { window: found })}>${
      found === "all" ? `There are ${count(total)} in all` : `${found} has ${count(total)}`}.</a>`}</p>`;
}

// --- one agent -----------------------------------------------------------------------------------------------------

/** How many runs are asked for at first, with each press of the button, and at most. */
const RUNS = { first: 100, more: 100, most: 500 };

function Agent({ route, id }) {
  const window = windowOf(route);
  const [limit, setLimit] = useState(RUNS.first);
  const list = useRef(/** @type {any} */ (null));
  const filters = { agent_id: id };
  const fleet = useAnswer(`/api/agent-runs/aggregate?${query({ window })}`, { filters });
  const runs = useAnswer(`/api/runs?${query({ agent_id: id, window, limit })}`, { filters });
  const item = fleet.data?.items.find((/** @type {any} */ row) => row.agent_id === id);
  const error = runs.error ?? fleet.error;
  useEffect(() => setTitle(`${id} · Agents`), [id]);
  useEffect(() => keys("Agent", {
    ".": { does: "apply the new rows", run: () => list.current?.apply() },
  }), []);
  const total = runs.data?.total ?? 0;
  return html`<section class="ag-page">
    <nav class="ag-crumbs" aria-label="Breadcrumb"><a href=${href("/agents", keep(route))}>Agents</a> /</nav>
    <h1 class="mono ag-name">${id}</h1>
    ${error === null ? null : html`<${Problem} what=${`the runs of ${id}`} error=${error} retry=${() => { runs.retry(); fleet.retry(); }} />`}
    ${item === undefined ? null : html`<${AgentSummary} item=${item} />`}
    ${runs.data === null ? (error === null ? html`<${Skeleton} />` : null)
      : runs.data.items.length === 0 ? html`<p class="empty">No runs of ${id} in this window.
          ${window === "all" ? null : html` <a href=${href(route.path, { window: "all" })}>Look at all time</a>`}</p>`
      : html`<${Rows} name="ag-runs-of" label=${`Runs of ${id}`} items=${runs.data.items} keyOf=${runKey} columns=${RUN_COLUMNS}
          rowHeight=${runHeight} open=${(/** @type {any} */ run) => navigate(runHref(run.run_id))}
          href=${(/** @type {any} */ run) => runHref(run.run_id)} grip=${(/** @type {any} */ grip) => { list.current = grip; }} />
        <p class="ag-foot muted">${count(runs.data.items.length)} of ${plural(total, "run")}, newest start first.
          ${" "}${total > limit && limit < RUNS.most
            ? html`<button class="btn" onClick=${() => setLimit(limit + RUNS.more)}>Show ${RUNS.more} more</button>`
            : total > runs.data.items.length
              ? html`<a href=${href("/runs", { agent_id: id, window })}>See all of them in Runs</a>` : null}</p>`}
  </section>`;
}

/** The agent's row of the fleet, laid out as a header. */
function AgentSummary({ item }) {
  const [host, space] = useWidth();
  return html`<div class="ag-summary" ref=${host}>
    ${item.regression ? html`<p class="card bad"><b>New regression.</b> ${attentionWords(item)}
      ${" "}<span class="muted">The newest ended run did not converge and the one before it did, or its score lies more
      than 0.15 below the median of the scores before.</span></p>` : null}
    <div class="ag-outcomes"><${OutcomeBar} item=${item} length=${Math.max(60, Math.min(560, space - NOTE_ROOM))} isShare=${false} /></div>
    <dl class="ag-facts">
      ${fact("Runs", `${count(item.run_count)}${item.in_flight > 0 ? `, ${count(item.in_flight)} in flight` : ""}`)}
      ${fact("p50 / p95", `${duration(item.duration_p50_s)} / ${duration(item.duration_p95_s)}`)}
      ${fact("Mean score", score(item.mean_convergence_score))}
      ${fact("Last scores", html`<${Spark} scores=${item.convergence_scores} />`)}
      ${fact("Severity", severityWords(item).replace(/^Severity /, ""))}
      ${item.models.length > 0 ? fact("Models", visible(item.models.join(", "))) : null}
      ${item.usage === null ? null : fact("Usage", usageWords(item.usage))}
      ${item.last_seen === null ? null : fact("Last seen", html`<${Time} ts=${item.last_seen} as="relative" />`)}
    </dl>
  </div>`;
}

const fact = (/** @type {string} */ name, /** @type {any} */ value) => html`<div key=${name}><dt class="muted">${name}</dt><dd>${value}</dd></div>`;

const runKey = (/** @type {any} */ run) => run.run_id;
const runHref = (/** @type {string} */ runId) => href(`/runs/${encodeURIComponent(runId)}`, {});
const runHeight = (/** @type {number} */ width) => (width < 760 ? 72 : 32);

/** @type {import("./fleet.js").Column[]} */
const RUN_COLUMNS = [
  { name: "state", label: "State", className: "ag-state", cell: (run) => {
    const state = runState(run);
    return html`<span title=${OUTCOME_MEANING[state.value] ?? ""}><${Glyph} set=${state.set} value=${state.value} /> ${state.word}</span>`;
  } },
  { name: "run", label: "Run", className: "ag-run", cell: (run) => html`<span class="mono ag-cut" title=${run.run_id}>${run.run_id}</span>` },
  { name: "task", label: "Task", className: "ag-task", cell: (run) => html`<span title=${visible(run.task)}>${run.task === null ? "–" : visible(run.task)}</span>` },
  { name: "model", label: "Model", className: "ag-model", cell: (run) => html`<span class="mono muted">${run.model === null ? "–" : visible(run.model)}</span>` },
  { name: "score", label: "Score", className: "num ag-score", cell: (run) => score(run.convergence_score) },
  { name: "steps", label: "Steps", className: "num ag-steps", cell: (run) => (run.steps === null ? "–" : count(run.steps)) },
  { name: "tools", label: "Tool calls", className: "ag-tools", cell: (run) => toolWords(run) },
  { name: "audits", label: "Audits", className: "ag-audits", cell: (run) => auditWords(run) },
  { name: "took", label: "Took", className: "num ag-took", cell: (run) => duration(run.duration_s) },
  { name: "started", label: "Started", className: "ag-started", cell: (run) =>
    (run.started === null ? "–" : html`<${Time} ts=${run.started} as="relative" />`) },
];

function toolWords(run) {
  if (run.tool_calls === null) return "–";
  return `${count(run.tool_calls.total)}${run.tool_calls.failed > 0 ? `, ${count(run.tool_calls.failed)} failed` : ""}`;
}

function auditWords(run) {
  if (run.audits === null) return "–";
  const { pass, warn, fail } = run.audits;
  return [[fail, "fail"], [warn, "warn"], [pass, "pass"]].filter(([n]) => n > 0).map(([n, word]) => `${count(n)} ${word}`).join(", ") || "–";
}

const agentHref = (/** @type {string} */ id, /** @type {any} */ route) =>
  href(`/agents/${encodeURIComponent(id)}`, keep(route));
