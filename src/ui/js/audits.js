/**
 * @file Audits and CI nodes across runs: the verdict first, then the figures it rests on; a panel with the results.
 */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/ui-runtime.js";
import { Glyph, Problem, Time, href, keys, setQuery, setTitle, styled } from "./app.js";
import { api } from "./net.js";
import { count, describe, duration, percent, plural, visible } from "./fmt.js";
import {
  Bar, Choice, Evidence, Rows, Skeleton, Strip, keep, leaveOnEscape, query, resultWord, useAnswer, useWidth,
  windowOf,
} from "./fleet.js";

await styled("audits");

/** How many runs are read for their evidence at a time, and how many of them at once. */
const RUNS_A_TIME = 16;
const AT_ONCE = 4;
const LISTED_RUNS = 500;
/** What the panel takes of a wide page (42-audits.css), in px. */
const PANEL = 396;
/** What a verdict says (domain contract). */
const MEANING = /** @type {Record<string, string>} */ ({
  stable: "Every decided result passed.",
  recovered: "It failed, and passes since one flip.",
  flaky: "It flips between pass and fail, or passes only after retries.",
  regressed: "It passed, and fails since one flip.",
  broken: "Every decided result failed.",
  insufficient_data: "Fewer than 5 decided results: too few to judge.",
});

/** @typedef {{name: string, title: string, path: string, member: string, filters: object, label: string, one: string,
 *   noun: string, columns: (room: number, all: any[]) => import("./fleet.js").Column[], panel: any,
 *   foot: string}} Form */

/** @param {{route: any}} props */
export const AuditsPage = ({ route }) => html`<${FlakinessPage} form=${AUDITS} route=${route} />`;

/** @param {{route: any}} props */
export const NodesPage = ({ route }) => html`<${FlakinessPage} form=${NODES} route=${route} />`;

/** @param {{form: Form, route: any}} props */
function FlakinessPage({ form, route }) {
  const window = windowOf(route);
  const q = route.query.get("q") ?? "";
  const chosen = route.query.get("c");
  const verdict = route.query.get("f");
  const [host, space] = useWidth();
  const filter = useRef(/** @type {HTMLInputElement|null} */ (null));
  const list = useRef(/** @type {any} */ (null));
  const { data, error, retry } = useAnswer(`${form.path}?${query({ window })}`, { filters: form.filters });
  useEffect(() => setTitle(form.title), [form]);

  const key = (/** @type {any} */ item) => item[form.member];
  const all = data?.items ?? [];
  const items = useMemo(() => all.filter((/** @type {any} */ item) =>
    key(item).includes(q) && (verdict === null || item.verdict === verdict)), [data, q, verdict]);
  const verdicts = useMemo(() => countVerdicts(all), [data]);
  const open = (/** @type {any} */ item) => setQuery({ c: key(item) }, { replace: false });
  const close = () => {
    setQuery({ c: null }, { replace: false });
    if (chosen !== null) list.current?.focus(chosen);
  };
  useEffect(() => keys(form.title, {
    "/": { does: "filter the list", run: () => filter.current?.focus() },
    ".": { does: "apply the new order", run: () => list.current?.apply() },
    Escape: { does: "close the panel", run: () => { if (chosen !== null) close(); } },
  }), [form, chosen]);

  const columns = useMemo(() => form.columns(chosen === null || space < 1240 ? space : space - PANEL, all), [form, space, data, chosen === null]);
  const item = all.find((/** @type {any} */ candidate) => key(candidate) === chosen);

  return html`<section class="ag-page au-page" ref=${host}>
    <div class="ag-bar">
      <h1>${form.title}</h1>
      ${data === null && error !== null ? null : html`<input class="field ag-filter" type="search" placeholder=${`Filter ${form.noun}s ( / )`} aria-label=${`Filter ${form.noun}s`}
        ref=${filter} value=${q} onKeyDown=${leaveOnEscape}
        onInput=${(/** @type {any} */ event) => setQuery({ q: event.target.value || null }, { replace: true })} />`}
      ${verdicts.length > 1 || verdict !== null ? html`<${Choice} label="Verdict" value=${verdict ?? ""}
        options=${[["", `All ${count(all.length)}`], ...verdicts]}
        choose=${(/** @type {string} */ value) => setQuery({ f: value || null }, { replace: false })} />` : null}
    </div>
    ${error === null ? null : html`<${Problem} what=${`${form.title.toLowerCase()}`} error=${error} retry=${retry} />`}
    ${data === null ? (error === null ? html`<${Skeleton} height=${36} />` : null)
      : all.length === 0 ? html`<${Nothing} form=${form} window=${window} route=${route} />`
      : html`<div class="au-body">
          ${items.length === 0 ? html`<p class="empty">No ${form.noun} fits.
              ${" "}<button class="btn" onClick=${() => setQuery({ q: null, f: null }, { replace: false })}>Clear the filters</button></p>`
            : html`<${Rows} name=${form.name} label=${form.title} items=${items} keyOf=${key} columns=${columns} selected=${chosen}
                rowHeight=${rowHeight} open=${open}
                href=${(/** @type {any} */ one) => href(route.path, { ...keep(route), c: key(one) })}
                grip=${(/** @type {any} */ grip) => { list.current = grip; }} />`}
          ${chosen === null ? null : html`<${Panel} key=${chosen} form=${form} id=${chosen} item=${item} window=${window}
            close=${close} />`}
        </div>
        <p class="ag-foot muted">${form.foot}</p>`}
  </section>`;
}

const rowHeight = (/** @type {number} */ width) => (width < 760 ? 84 : 36);

/** The verdicts there are, in the order of the list, each with its number. @param {any[]} items */
function countVerdicts(items) {
  const counts = new Map();
  for (const { verdict } of items) counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
  return [...counts].map(([verdict, n]) => [verdict, `${describe("verdict", verdict).word} ${count(n)}`]);
}

/** @param {{form: Form, window: string, route: any}} props */
function Nothing({ form, window, route }) {
  const all = useAnswer(window === "all" ? null : `${form.path}?${query({ window: "all" })}`);
  const total = all.data?.items.length ?? 0;
  return html`<p class="empty">${window === "all" || total === 0
    ? html`No ${form.noun}s ${window === "all" ? "yet" : `in ${window}`}. ${form.one}`
    : html`No ${form.noun}s in ${window}. <a href=${href(route.path, { window: "all" })}>There are ${count(total)} in all.</a>`}</p>`;
}

/** A figure that says what it is where no header stands above it. */
const labelled = (/** @type {string} */ label, /** @type {any} */ value) => html`<span class="ag-unit">${label} </span>${value}`;

function Verdict({ item }) {
  const { word } = describe("verdict", item.verdict);
  return html`<span class="status" title=${MEANING[item.verdict] ?? ""}>
    <${Glyph} set="verdict" value=${item.verdict} /> ${word}${item.verdict === "insufficient_data" ? ` (n=${item.n})` : ""}</span>`;
}

function RunLink({ runId }) {
  if (runId === null) return html`<span class="muted">–</span>`;
  return html`<a class="mono ag-cut" href=${runHref(runId)} title=${runId}>${runId}</a>`;
}

const runHref = (/** @type {string} */ runId, /** @type {Record<string, any>} */ members = {}) => href(`/runs/${encodeURIComponent(runId)}`, members);

// --- audits --------------------------------------------------------------------------------------------------------

const passRate = (/** @type {any} */ item) => (item.n === 0 ? "–" : percent(item.pass / item.n));
const interval = (/** @type {any} */ item) => (item.p_low === null ? "" : `${percent(item.p_low)} to ${percent(item.p_high)}`);

/** Where the pass rate may lie, on an axis from 0 to 1. */
function Interval({ item }) {
  if (item.p_low === null) return null;
  return html`<svg class="au-interval" width="56" height="14" viewBox="0 0 56 14" aria-hidden="true">
    <line class="fl-axis" x1="2" x2="54" y1="7" y2="7" />
    <line class="au-span" x1=${2 + 52 * item.p_low} x2=${2 + 52 * item.p_high} y1="7" y2="7" />
    <line class="au-rate" x1=${2 + (52 * item.pass) / item.n} x2=${2 + (52 * item.pass) / item.n} y1="2" y2="12" />
  </svg>`;
}

/** @type {Form} */
const AUDITS = {
  name: "au-audits",
  title: "Audits",
  path: "/api/audit-checkpoints/flakiness",
  member: "checkpoint_id",
  filters: {},
  label: "Audits",
  noun: "checkpoint",
  one: "A checkpoint appears here with its first audit.",
  foot: "Warn stands in the strip and in the total, never in the pass rate. The range is the 95 % interval of the pass rate.",
  columns: () => [
    { name: "id", label: "Checkpoint", className: "mono au-id", cell: (item) => html`<span title=${item.checkpoint_id}>${item.checkpoint_id}</span>` },
    { name: "verdict", label: "Verdict", cell: (item) => html`<${Verdict} item=${item} />` },
    { name: "flakiness", label: "Flakiness", className: "num", cell: (item) => labelled("flakiness", item.flakiness.toFixed(2)) },
    { name: "pass", label: "Pass rate", className: "au-pass", cell: (item) => html`
      <span class="num">${labelled("pass", passRate(item))}</span> <${Interval} item=${item} /> <span class="muted">${interval(item)}</span>` },
    { name: "recent", label: "Last 30, newest right", className: "au-recent", cell: (item) => html`<${Strip} results=${item.recent} room=${30} />` },
    { name: "total", label: "Results", className: "num", cell: (item) => html`${count(item.total)}<span class="ag-unit"> results</span>` },
    { name: "last", label: "Last fail", className: "au-last", cell: (item) => html`<${RunLink} runId=${item.last_fail_run_id} />` },
  ],
  panel: AuditPanel,
};

/** @param {{item: any, id: string, window: string}} props */
function AuditPanel({ item, id, window }) {
  const [pages, setPages] = useState(1);
  const evidence = useEvidence(id, window, pages, item?.total);
  return html`
    ${item === undefined ? html`<p class="muted">No results in this window.</p>` : html`
      <${Strip} results=${item.recent} room=${30} />
      <dl class="au-facts">
        <div><dt>Decided</dt><dd>${count(item.pass)} pass, ${count(item.fail)} fail</dd></div>
        <div><dt>Warnings</dt><dd>${count(item.warn)}</dd></div>
        <div><dt>Pass rate</dt><dd>${passRate(item)}${item.p_low === null ? "" : `, 95 % interval ${interval(item)}`}</dd></div>
        <div><dt>Flakiness</dt><dd>${item.flakiness.toFixed(2)}</dd></div>
        <div><dt>Flips</dt><dd>${count(item.transitions)} in ${plural(item.n, "decided result")}, rate ${item.flip_rate.toFixed(2)}</dd></div>
        <div><dt>Last fail</dt><dd><${RunLink} runId=${item.last_fail_run_id} /></dd></div>
      </dl>`}
    <${ByAgent} results=${evidence.results} />
    <h3>Results by run, newest first</h3>
    ${evidence.error === null ? null : html`<${Problem} what="the results" error=${evidence.error} retry=${evidence.retry} />`}
    <ol class="au-results">${evidence.results.map((/** @type {any} */ result) => html`<li key=${`${result.run_id} ${result.seq}`}>
      <p><${Glyph} set="audit" value=${result.result} /> ${describe("audit", result.result).word}
        ${" "}<a class="mono" href=${runHref(result.run_id, { at: result.seq })}>${result.run_id}</a>
        ${" "}<span class="muted">${result.agent_id ?? "CI run"} · event ${result.seq}${
          result.started === null ? null : html` · <${Time} ts=${result.started} as="relative" />`}</span></p>
      <${Evidence} evidence=${result.evidence} bytes=${result.evidence_bytes} /></li>`)}</ol>
    ${evidence.isReading ? html`<p class="muted" role="status">Reading the runs …</p>`
      : evidence.results.length === 0 ? html`<p class="muted">None in the ${plural(evidence.read, "run")} read.</p>` : null}
    ${evidence.skipped === 0 ? null
      : html`<p class="muted">Of ${plural(evidence.skipped, "CI run")} only failures and warnings are listed.</p>`}
    ${evidence.isReading || evidence.left === 0 ? null : html`<button class="btn" onClick=${() => setPages(pages + 1)}>
      Read ${Math.min(RUNS_A_TIME, evidence.left)} earlier runs</button>`}`;
}

/** The listed results by the agent that gave them. */
function ByAgent({ results }) {
  /** @type {Map<string, {pass: number, warn: number, fail: number}>} */
  const agents = new Map();
  for (const { agent_id: agentId, result } of results) {
    const name = agentId ?? "CI runs";
    const counts = agents.get(name) ?? { pass: 0, warn: 0, fail: 0 };
    if (result in counts) counts[/** @type {"pass"} */ (result)] += 1;
    agents.set(name, counts);
  }
  if (agents.size < 2) return null;
  return html`<h3>By agent, of the results below</h3>
    <table class="au-agents" aria-label="Results by agent"><thead><tr><th scope="col">Agent</th><th scope="col" class="num">Pass</th>
      <th scope="col" class="num">Warn</th><th scope="col" class="num">Fail</th></tr></thead>
    <tbody>${[...agents].map(([name, counts]) => html`<tr key=${name}><th scope="row" class="mono">${name}</th>
      <td class="num">${counts.pass}</td><td class="num">${counts.warn}</td><td class="num">${counts.fail}</td></tr>`)}</tbody></table>`;
}

/**
 * The results of one checkpoint out of the runs that carry audits, newest run first. The list of runs is read first,
 * then so many of them as `pages` asks for.
 */
function useEvidence(/** @type {string} */ id, /** @type {string} */ window, /** @type {number} */ pages, /** @type {number|undefined} */ total) {
  const [tries, setTries] = useState(0);
  const [held, setHeld] = useState({ results: /** @type {any[]} */ ([]), read: 0, left: 0, skipped: 0, isReading: true, error: /** @type {any} */ (null) });
  // Runs that were read stay read: the button only adds to them.
  const known = useRef(/** @type {Map<string, {size: number, results: any[]}>} */ (new Map()));
  useEffect(() => {
    const gone = new AbortController();
    const { signal } = gone;
    const read = async () => {
      setHeld((was) => ({ ...was, isReading: true, error: null }));
      const list = await api(`/api/runs?${query({ window, limit: LISTED_RUNS })}`, { signal });
      const runs = list.items.filter((/** @type {any} */ run) => run.audits !== null && run.audits.pass + run.audits.warn + run.audits.fail > 0);
      const wanted = runs.slice(0, pages * RUNS_A_TIME);
      const show = (/** @type {boolean} */ isReading) => setHeld({
        results: wanted.flatMap((/** @type {any} */ run) => known.current.get(run.run_id)?.results ?? []),
        read: wanted.length, left: runs.length - wanted.length, isReading, error: null,
        skipped: wanted.filter((/** @type {any} */ run) => run.kind === "ci").length,
      });
      const missing = wanted.filter((/** @type {any} */ run) => known.current.get(run.run_id)?.size !== run.next_seq);
      for (let from = 0; from < missing.length; from += AT_ONCE) {
        const some = missing.slice(from, from + AT_ONCE);
        const results = await Promise.all(some.map((/** @type {any} */ run) => resultsOf(run, id, signal)));
        some.forEach((/** @type {any} */ run, /** @type {number} */ at) =>
          known.current.set(run.run_id, { size: run.next_seq, results: results[at] }));
        show(true);
      }
      show(false);
    };
    read().catch((error) => {
      if (!signal.aborted) setHeld((was) => ({ ...was, isReading: false, error }));
    });
    return () => gone.abort();
  }, [id, window, pages, total, tries]);
  return { ...held, retry: () => setTries((was) => was + 1) };
}

/** The results of a checkpoint in one run, newest first. The state of a CI run lists no audits; its findings do. */
async function resultsOf(/** @type {any} */ run, /** @type {string} */ id, /** @type {AbortSignal} */ signal) {
  const path = `/api/runs/${encodeURIComponent(run.run_id)}`;
  const audits = run.kind === "agent" ? (await api(path, { signal })).agent?.audits ?? []
    : (await api(`${path}/diagnostics`, { signal })).findings
      .filter((/** @type {any} */ finding) => finding.kind === "failing_audit")
      .flatMap((/** @type {any} */ finding) => (finding.evidence.audits ?? []).map((/** @type {any} */ audit) =>
        ({ checkpoint_id: finding.evidence.checkpoint_id, ...audit })));
  return audits.filter((/** @type {any} */ audit) => audit.checkpoint_id === id)
    .map((/** @type {any} */ audit) => ({ ...audit, run_id: run.run_id, agent_id: run.agent_id, started: run.started }))
    .sort((/** @type {any} */ a, /** @type {any} */ b) => b.seq - a.seq);
}

// --- nodes ---------------------------------------------------------------------------------------------------------

const NODE_PARTS = /** @type {const} */ ([
  ["first", "done_first_try", "done at first try"], ["retry", "done_after_retry", "done after a retry"],
  ["failed", "failed", "failed"], ["blocked", "blocked", "blocked"],
]);

/** What became of a node in its runs. */
function NodeBar({ item, length }) {
  const all = NODE_PARTS.map(([name, member]) => ({ name, count: item[member] }));
  const sentence = `${plural(item.runs, "run")}: ${NODE_PARTS.filter(([, member]) => item[member] > 0)
    .map(([, member, words]) => `${count(item[member])} ${words}`).join(", ")}`;
  const bad = [[item.failed, "failed"], [item.blocked, "blocked"]].filter(([n]) => n > 0).map(([n, word]) => `${count(n)} ${word}`);
  return html`<${Bar} parts=${all} length=${length} sentence=${sentence} note=${bad.join(" · ")} />`;
}

/** All bars have one scale: the longest is that of the node with most runs. */
function nodeLength(/** @type {any} */ item, /** @type {number} */ room, /** @type {any[]} */ all) {
  const most = all.reduce((/** @type {number} */ so, /** @type {any} */ other) => Math.max(so, other.runs), 1);
  return (Math.max(40, Math.min(180, (room - 760) / 2 - 60)) * item.runs) / most;
}

/** @type {Form} */
const NODES = {
  name: "au-nodes",
  title: "Nodes",
  path: "/api/nodes/flakiness",
  member: "node_id",
  filters: { kind: "ci" },
  label: "Nodes",
  noun: "node",
  one: "A node appears here with its first result.",
  foot: "Flake rate: done after a retry, of all that got done. Time lost: failed attempts of nodes that converged, and backoff.",
  columns: (room, all) => [
    { name: "id", label: "Node", className: "mono au-id", cell: (item) => html`<span title=${item.node_id}>${item.node_id}</span>` },
    { name: "verdict", label: "Verdict", cell: (item) => html`<${Verdict} item=${item} />` },
    { name: "results", label: "Results", className: "au-bar", cell: (item) => html`
      <${NodeBar} item=${item} length=${nodeLength(item, room, all)} />` },
    { name: "rate", label: "Flake rate", className: "num", cell: (item) => labelled("flake rate", item.flake_rate === 0 ? html`<span class="muted">0%</span>` : percent(item.flake_rate)) },
    { name: "lost", label: "Time lost", className: "num", cell: (item) => labelled("lost", item.lost_s === 0 ? "–" : duration(item.lost_s)) },
    { name: "recent", label: "Last 20, newest right", className: "au-recent", cell: (item) => html`<${Strip} results=${item.recent} room=${20} />` },
    { name: "runs", label: "Runs", className: "num", cell: (item) => html`${count(item.runs)}<span class="ag-unit"> runs</span>` },
    { name: "last", label: "Last flake", className: "au-last", cell: (item) => html`<${RunLink} runId=${item.last_flake_run_id} />` },
  ],
  panel: NodePanel,
};

/** @param {{item: any, id: string, window: string}} props */
function NodePanel({ item, id, window }) {
  const newest = useAnswer(`/api/runs?${query({ node_id: id, window, limit: 1 })}`, { filters: { node_id: id } });
  const run = newest.data?.items[0];
  const node = useAnswer(run === undefined ? null : `/api/runs/${encodeURIComponent(run.run_id)}/nodes/${encodeURIComponent(id)}`);
  const error = newest.error ?? node.error;
  const attempts = node.data?.attempts ?? [];
  return html`
    ${item === undefined ? html`<p class="muted">No results in this window.</p>` : html`
      <div class="au-bar"><${NodeBar} item=${item} length=${180} /></div>
      <${Strip} results=${item.recent} room=${20} />
      <dl class="au-facts">
        ${NODE_PARTS.map(([name, member, words]) => html`<div key=${name}><dt>${words}</dt><dd>${count(item[member])}</dd></div>`)}
        <div><dt>Flake rate</dt><dd>${percent(item.flake_rate)}</dd></div>
        <div><dt>Time lost</dt><dd>${duration(item.lost_s)}</dd></div>
        <div><dt>Flips</dt><dd>${count(item.transitions)} in ${plural(item.n, "decided result")}</dd></div>
        <div><dt>Last flake</dt><dd><${RunLink} runId=${item.last_flake_run_id} /></dd></div>
      </dl>`}
    ${error === null ? null : html`<${Problem} what="the results" error=${error} retry=${() => { newest.retry(); node.retry(); }} />`}
    ${node.data === null ? null : html`
      ${node.data.spec?.deliverable ? html`<p>${visible(node.data.spec.deliverable)}</p>` : null}
      <h3>Results by run, newest first</h3>
      <ol class="au-results">
        ${nodeResult(id, { run_id: run.run_id, result: node.data.status, attempts: attempts.length,
          duration_s: attempts.length === 0 ? null : attempts.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.duration_s, 0) })}
        ${[...node.data.recent].reverse().map((/** @type {any} */ result) => nodeResult(id, result))}
      </ol>`}`;
}

const nodeResult = (/** @type {string} */ id, /** @type {any} */ result) => html`<li key=${result.run_id}><p>
  <${Glyph} set="node" value=${result.result === "retry" ? "done" : result.result} /> ${sentenceCase(resultWord(result.result))}
  ${" "}<a class="mono" href=${runHref(result.run_id, { node: id })}>${result.run_id}</a>
  ${" "}<span class="muted">${plural(result.attempts, "attempt")} · ${duration(result.duration_s)}</span></p></li>`;

const sentenceCase = (/** @type {string} */ text) => text.charAt(0).toUpperCase() + text.slice(1);

// --- the panel -----------------------------------------------------------------------------------------------------

/** What stands beside the list when a row is open. */
function Panel({ form, id, item, window, close }) {
  const heading = useRef(/** @type {HTMLElement|null} */ (null));
  // A link to the open panel takes no focus; whoever opened it goes on reading there.
  useEffect(() => {
    if (document.activeElement !== document.body) heading.current?.focus();
  }, []);
  return html`<aside class="au-panel" aria-labelledby="au-panel-name">
    <header><h2 id="au-panel-name" class="mono" tabindex="-1" ref=${heading}>${id}</h2>
      <button class="btn" onClick=${close} aria-label="Close the panel" title="Close (Esc)">Close</button></header>
    ${item === undefined ? null : html`<p class="au-judged"><${Verdict} item=${item} /> <span class="muted">${MEANING[item.verdict] ?? ""}</span></p>`}
    <${form.panel} item=${item} id=${id} window=${window} />
  </aside>`;
}
