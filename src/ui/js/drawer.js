// What the run page says of its nodes: the diagnostics rail, in the server's words, and the drawer of one node.

import { effect, html, useComputed, useEffect, useLayoutEffect, useRef, useState } from '../vendor/ui-runtime.js';
import { CopyButton, Problem, Time, href, route, setQuery } from './app.js';
import { api } from './net.js';
import { count, describe, duration, exitCode, glyph, plural, visible } from './fmt.js';

/**
 * @typedef {import('./run.js').Run} Run
 * @typedef {import('./run.js').Finding} Finding
 */

/** Cards of failed nodes; the others are behind "more". */
const CARDS = 3;
/** Lines at the end of a failed check's output that the first card shows. */
const CARD_LINES = 6;
/** Findings of a kind shown at first. */
const LISTED = 5;
const TAIL_CHARACTERS = 4096;

/** @param {Run} run @param {string} kind @returns {Finding[]} */
export const findings = (run, kind) =>
  run.shown.value.diagnostics?.findings.filter((found) => found.kind === kind) ?? [];

/** @param {Run} run @param {string} kind @returns {Finding|undefined} */
export const finding = (run, kind) => findings(run, kind)[0];

/** The way to a node's drawer. @param {{run: Run, id: string, attempt?: number, check?: number}} props */
export function NodeLink({ run, id }) {
  const query = Object.fromEntries(route.value.query);
  const open = (/** @type {MouseEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    run.open(id, /** @type {Element} */ (event.currentTarget));
    run.dag?.show(id);
  };
  return html`<a class="rd-node mono" href=${href(route.value.path, { ...query, node: id, attempt: null, check: null })}
    onClick=${open}>${visible(id)}</a>`;
}

/** A sentence of the server, with the nodes that it is about as links. @param {{run: Run, found: Finding}} props */
function Sentence({ run, found }) {
  const ids = new Set(found.node_ids);
  const told = new Set();
  return html`${visible(found.message).split(/([a-z0-9][a-z0-9-]*)/).map((part) => {
    if (!ids.has(part) || told.has(part)) return part;
    told.add(part);
    return html`<${NodeLink} run=${run} id=${part} />`;
  })}`;
}

// ---- rail -----------------------------------------------------------------------------------------------------------

/** @param {{run: Run}} props */
export function Rail({ run }) {
  const { diagnostics } = run.shown.value;
  if (!diagnostics) {
    if (run.momentError.value) {
      return html`<${Problem} error=${run.momentError.value} retry=${() => run.readMoment(run.at.peek() ?? 0)} />`;
    }
    return html`<div class="rd-section" aria-busy="true"><h2>What to look at</h2>
      <div class="skeleton rd-skeleton-card"></div><div class="skeleton rd-skeleton-card"></div></div>`;
  }
  return html`
    <${LookAt} run=${run} />
    <${CriticalPath} run=${run} />
    <${Slowest} run=${run} />
    <${PassedAfterRetry} run=${run} />
    <${BlockedBy} run=${run} />
    <${Sentences} run=${run} kind="waiting" title="Waiting" />
    <${Sentences} run=${run} kind="parallelism" title="Parallelism" />
    <${Sentences} run=${run} kind="inconsistent" title="Does not fit" />`;
}

/** @param {{run: Run}} props */
function LookAt({ run }) {
  const failed = findings(run, 'failed_node').sort((a, b) => b.evidence.blocks - a.evidence.blocks);
  const [isAll, setIsAll] = useState(false);
  const others = ['failing_audit', 'agent_loop', 'failing_tool'].flatMap((kind) => findings(run, kind));
  const shown = isAll ? failed : failed.slice(0, CARDS);
  return html`<section class="rd-section" aria-labelledby="rd-look">
    <h2 id="rd-look">What to look at</h2>
    ${shown.map((found, at) => html`<${FailedCard} key=${found.node_ids[0]} run=${run} found=${found}
      isFirst=${at === 0} />`)}
    ${failed.length > shown.length && html`<button type="button" class="btn" onClick=${() => setIsAll(true)}>
      ${failed.length - shown.length} more</button>`}
    ${others.map((found) => html`<div class=${`card rd-card ${found.severity === 'error' ? 'bad' : 'warn'}`}>
      <p>${glyph('audit', found.severity === 'error' ? 'fail' : 'warn')} ${visible(found.message)}</p>
      ${found.seq !== null && html`<button type="button" class="rd-more"
        onClick=${() => run.seek(found.seq)}>Show event ${
    found.seq}</button>`}</div>`)}
    ${failed.length + others.length === 0 && html`<p class="muted rd-calm">${
    run.lastSeq() < 0 ? 'Nothing has happened yet'
      : `Nothing has failed${run.at.value === null ? '' : ' at this moment'}`}.</p>`}
  </section>`;
}

/** What the line that says why sounds like, the surest first. */
const SAYS_WHY = [/\b(panicked|assert\w*)\b/i,
  /\b(expected|mismatch|fatal|exception|denied|cannot|inversion)\b/i, /\b(error|failed)\b/i];
/** The lines of an output that most likely say why. @param {string} tail */
function telling(tail) {
  const lines = visible(tail).trimEnd().split('\n');
  const found = SAYS_WHY.map((sound) => lines.findLastIndex((line) => sound.test(line))).find((at) => at >= 0);
  const from = found ?? Math.max(0, lines.length - CARD_LINES);
  return lines.slice(from, from + CARD_LINES).join('\n').trim();
}

/** @param {{run: Run, found: Finding, isFirst: boolean}} props */
function FailedCard({ run, found, isFirst }) {
  const { check, blocked, blocks } = found.evidence;
  const lines = isFirst && check?.tail ? telling(check.tail) : '';
  return html`<article class="card bad rd-card">
    <p>${glyph('node', 'failed')} <${Sentence} run=${run} found=${found} /></p>
    ${lines && html`<pre class="rd-tail-end">${lines}</pre>`}
    ${isFirst && blocks > 0 && html`<p class="muted">Blocks ${blocked.slice(0, 4).map((/** @type {string} */ id,
    /** @type {number} */ at) => html`${at > 0 && ', '}<${NodeLink} run=${run} id=${id} />`)}${
    blocks > 4 && ` and ${blocks - 4} more`}.</p>`}
  </article>`;
}

/** @param {{run: Run, id: string, children?: any, note?: any}} props */
function NodeLine({ run, id, children, note }) {
  const status = run.statuses.value.get(id) ?? 'pending';
  return html`<li class="rd-line-item">${glyph('node', status)}<span class="visually-hidden">${
    describe('node', status).word}</span> <${NodeLink} run=${run} id=${id} /> <span class="muted num">${children}</span>${
    note && html`<div class="muted rd-note">${note}</div>`}</li>`;
}

/** @param {{run: Run}} props */
function CriticalPath({ run }) {
  const found = finding(run, 'critical_path');
  if (!found) return null;
  const wall = run.shown.value.state?.duration_s ?? 0;
  return html`<section class="rd-section" aria-labelledby="rd-critical">
    <h2 id="rd-critical" title=${found.message}>Critical path</h2>
    <ol class="rd-lines">${found.evidence.nodes.map((/** @type {any} */ node) => html`
      ${node.waiting_s > 0.05 * wall && html`<li class="muted rd-note">waited ${duration(node.waiting_s)}</li>`}
      <${NodeLine} key=${node.node_id} run=${run} id=${node.node_id}>${duration(node.running_s)}<//>`)}</ol></section>`;
}

/** @param {{run: Run}} props */
function Slowest({ run }) {
  const found = finding(run, 'slowest_node');
  if (!found) return null;
  return html`<section class="rd-section" aria-labelledby="rd-slowest"><h2 id="rd-slowest">Slowest</h2>
    <ol class="rd-lines">${found.evidence.nodes.map((/** @type {any} */ node) => html`<${NodeLine} key=${node.node_id}
      run=${run} id=${node.node_id}>${duration(node.running_s)}<//>`)}</ol></section>`;
}

/** @param {{run: Run}} props */
function PassedAfterRetry({ run }) {
  const found = findings(run, 'flaky_node');
  if (!found.length) return null;
  return html`<section class="rd-section" aria-labelledby="rd-retried"><h2 id="rd-retried">Passed after retry</h2>
    <ul class="rd-lines">${found.map((one) => html`<${NodeLine} key=${one.node_ids[0]} run=${run} id=${one.node_ids[0]}
      note=${one.evidence.check && html`<span class="mono">${visible(one.evidence.check.cmd)}</span> exited ${
    one.evidence.check.rc} in attempt ${one.evidence.check.attempt}`}>${
    one.evidence.passed_at === null ? '' : `attempt ${one.evidence.passed_at}`}<//>`)}</ul></section>`;
}

/** @param {{run: Run}} props */
function BlockedBy({ run }) {
  /** @type {Map<string, {ids: string[], reason: string|null}>} */
  const byRoot = new Map();
  for (const found of findings(run, 'blocked_chain')) {
    const root = found.evidence.root ?? '';
    const group = byRoot.get(root) ?? { ids: [], reason: found.evidence.reason };
    group.ids.push(found.node_ids[0]);
    byRoot.set(root, group);
  }
  if (!byRoot.size) return null;
  return html`<section class="rd-section" aria-labelledby="rd-blocked"><h2 id="rd-blocked">Blocked by</h2>
    <ul class="rd-lines">${[...byRoot].map(([root, { ids, reason }]) => html`<li class="rd-chain" key=${root}>
      ${root ? html`${glyph('node', 'failed')} <${NodeLink} run=${run} id=${root} />` : html`<span class="muted">${
    visible(reason ?? 'not known')}</span>`}
      ${' → '}${ids.slice(0, LISTED).map((id, at) => html`${at > 0 && ', '}<${NodeLink} run=${run} id=${id} />`)}${
    ids.length > LISTED && html` <span class="muted">(+${ids.length - LISTED})</span>`}
      ${root && html` <button type="button" class="rd-more"
        aria-pressed=${run.chainOf.value === root ? 'true' : 'false'}
        onClick=${() => { run.chainOf.value = run.chainOf.peek() === root ? null : root; run.dag?.show(root); }}>${
    run.chainOf.value === root ? 'Hide in graph' : 'Show in graph'}</button>`}</li>`)}</ul></section>`;
}

/** @param {{run: Run, kind: string, title: string}} props */
function Sentences({ run, kind, title }) {
  const found = findings(run, kind);
  const [isAll, setIsAll] = useState(false);
  if (!found.length) return null;
  const shown = isAll ? found : found.slice(0, LISTED);
  return html`<section class="rd-section" aria-label=${title}><h2>${title}</h2>
    <ul class="rd-sentences">${shown.map((one) => html`<li>${
    one.severity === 'warning' && html`${glyph('audit', 'warn')} `}<${Sentence} run=${run} found=${one} /></li>`)}</ul>
    ${found.length > shown.length && html`<button type="button" class="rd-more" onClick=${() => setIsAll(true)}>${
    found.length - shown.length} more</button>`}</section>`;
}

// ---- drawer ---------------------------------------------------------------------------------------------------------

/** @param {{run: Run}} props */
export function Drawer({ run }) {
  const id = run.node.value ?? '';
  const answer = useNode(run, id);
  const status = run.statuses.value.get(id);
  useLayoutEffect(() => {
    if (run.wantsFocus) document.getElementById('dw-title')?.focus();
    run.wantsFocus = false;
  }, []);
  const isKnown = status !== undefined || run.graph.value?.byId.has(id);
  return html`<section class="dw" aria-label=${`Node ${visible(id)}`}>
    <header class="dw-head">
      <h2 id="dw-title" class="mono" tabindex="-1">${visible(id)}</h2>
      ${status && html`<span class="chip">${glyph('node', status)} ${describe('node', status).word}</span>`}
      <span class="dw-tools">
        <${CopyButton} text=${location.origin + href(route.value.path, Object.fromEntries(route.value.query))}
          label="Copy link" />
        <button type="button" class="btn" aria-label="Close" title="Close (Esc)"
          onClick=${() => run.close()}>✕</button>
      </span>
    </header>
    ${answer.error ? html`<${Problem} error=${answer.error} retry=${answer.retry} />`
    : !isKnown && run.state.value ? html`<p class="empty">${run.at.value === null ? 'This run has no such node.'
      : 'This node has not appeared at this moment.'}</p>`
      : answer.node ? html`<${Node} run=${run} node=${answer.node} />`
        : html`<div class="dw-loading" aria-busy="true"><div class="skeleton rd-skeleton-card"></div>
          <div class="skeleton rd-skeleton-card"></div></div>`}
  </section>`;
}

/**
 * The server's answer on a node at the moment shown, asked for again as the run goes on.
 * @param {Run} run
 * @param {string} id
 */
function useNode(run, id) {
  const [got, setGot] = useState(/** @type {{at: number|null, node: any, error: any}|null} */ (null));
  const [tries, setTries] = useState(0);
  const at = run.at.value;
  // Asked for again only when the node itself has moved on.
  const wanted = useComputed(() => {
    const { seq, state } = run.shown.value;
    const own = run.nodeStates.value.get(id);
    return state && own && seq === run.at.value ? `${seq ?? ''} ${/** @type {any} */ (own).last_seq} ${own.status}` : null;
  });
  useEffect(() => effect(() => {
    if (wanted.value === null) return undefined;
    const moment = run.at.peek();
    const stop = new AbortController();
    const query = moment === null ? '' : `?at_seq=${moment}`;
    api(`${run.path}/nodes/${encodeURIComponent(id)}${query}`, { signal: stop.signal }).then(
      (node) => setGot({ at: moment, node, error: null }),
      (error) => { if (!stop.signal.aborted) setGot({ at: moment, node: null, error }); });
    return () => stop.abort();
  }), [run, id, tries]);
  const fits = got !== null && got.at === at;
  return { node: fits ? got.node : null, error: fits ? got.error : null, retry: () => setTries(tries + 1) };
}

/** @param {{run: Run, node: any}} props */
function Node({ run, node }) {
  const { spec } = node;
  const state = run.nodeStates.value.get(node.node_id);
  const spawned = state && state.status !== 'pending' ? state.spawned : [];
  const most = typeof spec?.max_ralph_iters === 'number' ? spec.max_ralph_iters : null;
  const deliverable = typeof spec?.deliverable === 'string' ? spec.deliverable : '';
  const touches = Array.isArray(spec?.touches) ? spec.touches.map(String) : [];
  const commands = Array.isArray(spec?.done_when) ? spec.done_when.map(String) : [];
  const why = reasonOf(run, node);
  return html`
    ${deliverable && html`<p class="dw-deliverable">${visible(deliverable)}</p>`}
    <dl class="dw-facts">
      ${why && html`<dt>Reason</dt><dd>${why}</dd>`}
      ${node.blocked_by.length > 0 && html`<dt>Blocked by</dt><dd><${Links} run=${run} ids=${node.blocked_by} /></dd>`}
      ${(state?.attempts ?? 0) > 0 && html`<dt>Attempts</dt><dd><span class="num">${state?.attempts}${
    most === null ? '' : ` of ${most}`}</span>${most !== null && html` <span class="muted">(max_ralph_iters)</span>`}</dd>`}
      ${(state?.running_s ?? 0) > 0 && html`<dt>Ran for</dt><dd class="dw-num">${duration(state?.running_s ?? null)}</dd>`}
      ${(state?.waiting_s ?? 0) >= 1 && html`<dt>Waited</dt><dd class="dw-num">${duration(state?.waiting_s ?? null)}</dd>`}
      ${(state?.lost_s ?? 0) > 0 && html`<dt>Lost</dt><dd class="dw-num">${duration(state?.lost_s ?? null)} <span class="muted">
        in failed attempts and backoff</span></dd>`}
      ${state?.started && html`<dt>Started</dt><dd><${Time} ts=${state.started} as="absolute" /></dd>`}
      ${touches.length > 0
    && html`<dt>Touches</dt><dd class="mono dw-break">${touches.map((/** @type {string} */ path) =>
    html`<div>${visible(path)}</div>`)}</dd>`}
      ${spec && html`<dt>Needs</dt><dd>${node.needs.length ? html`<${Links} run=${run} ids=${node.needs} />` : 'nothing'}</dd>
        <dt>Unblocks</dt><dd>${node.unblocks.length ? html`<${Links} run=${run} ids=${node.unblocks} />` : 'nothing'}</dd>`}
      ${spec && spec.parallel_safe === false && html`<dt>Parallel</dt><dd>runs alone (parallel_safe is false)</dd>`}
      ${typeof spec?.estimated_loc === 'number'
    && html`<dt>Estimated</dt><dd class="dw-num">${count(spec.estimated_loc)} lines</dd>`}
      ${state && usageOf(/** @type {any} */ (state).usage)}
      ${spawned.length > 0 && html`<dt>Agent runs</dt><dd>${spawned.map((/** @type {string} */ other) => html`<div><a
        class="mono" href=${href(`/runs/${encodeURIComponent(other)}`)}>${visible(other)}</a></div>`)}</dd>`}
    </dl>
    <p class="dw-acts">
      <button type="button" class="btn" aria-pressed=${run.chainOf.value === node.node_id ? 'true' : 'false'}
        title="What holds it and what it holds ( b )" onClick=${() => run.toggleChain()}>Chain in the graph</button>
      <button type="button" class="btn"
        aria-pressed=${run.logNode.value === node.node_id ? 'true' : 'false'} onClick=${() => {
    run.logNode.value = run.logNode.peek() === node.node_id ? null : node.node_id;
  }}>Only its events</button></p>
    <${Attempts} run=${run} node=${node} />
    ${commands.length > 0
    && html`<details class="dw-declared" open=${node.attempts.length === 0}><summary>Checks as declared</summary>
      <ol>${commands.map((/** @type {string} */ command) => html`
        <li class="mono dw-break">${visible(command)}</li>`)}</ol></details>`}
    <${History} recent=${node.recent} id=${node.node_id} />`;
}

/** @param {{run: Run, ids: string[]}} props */
function Links({ run, ids }) {
  return ids.map((id, at) => html`${at > 0 && ', '}<${NodeLink} run=${run} id=${id} />`);
}

/** Why a node stands where it stands, in words and as the producer said it. @param {Run} run @param {any} node */
function reasonOf(run, node) {
  const { reason } = node;
  if (typeof reason !== 'string') return null;
  const raw = html`<span class="mono muted dw-break">${visible(reason)}</span>`;
  if (reason === 'max_ralph_iters_reached') {
    return html`Gave up after ${plural(node.attempts.length, 'attempt')} ${raw}`;
  }
  if (reason.startsWith('ancestor_failed:')) {
    const ids = reason.slice('ancestor_failed:'.length).split(',').filter(Boolean);
    return html`Blocked because <${Links} run=${run} ids=${ids} /> failed ${raw}`;
  }
  return raw;
}

/** @param {any} usage */
function usageOf(usage) {
  if (!usage) return null;
  const parts = [typeof usage.input_tokens === 'number' && `${count(usage.input_tokens)} tokens in`,
    typeof usage.output_tokens === 'number' && `${count(usage.output_tokens)} out`,
    typeof usage.cost_usd === 'number' && `$${usage.cost_usd.toFixed(2)}`].filter(Boolean);
  return parts.length > 0 && html`<dt>Usage</dt><dd class="dw-num">${parts.join(', ')}</dd>`;
}

/** @param {{run: Run, node: any}} props */
function Attempts({ run, node }) {
  if (!node.attempts.length) return null;
  const { query } = route.value;
  const newest = node.attempts[node.attempts.length - 1].attempt;
  const named = Number(query.get('attempt'));
  const opened = node.attempts.some((/** @type {any} */ one) => one.attempt === named) ? named : newest;
  return html`<section aria-labelledby="dw-attempts"><h3 id="dw-attempts">Attempts</h3>
    ${[...node.attempts].reverse().map((one) => html`<${Attempt} key=${one.seq} run=${run} attempt=${one}
      isNamed=${one.attempt === opened} check=${one.attempt === opened ? query.get('check') : null} />`)}</section>`;
}

/** @param {{run: Run, attempt: any, isNamed: boolean, check: string|null}} props */
function Attempt({ run, attempt, isNamed, check }) {
  const [isOpen, setIsOpen] = useState(isNamed);
  const failed = attempt.checks.filter((/** @type {any} */ one) => one.rc !== 0).length;
  const total = attempt.checks.length;
  const how = attempt.converged ? 'all checks passed'
    : failed ? `${failed} of ${plural(total, 'check')} failed` : 'not converged';
  return html`<details class="dw-attempt" open=${isOpen}
    onToggle=${(/** @type {any} */ event) => setIsOpen(event.target.open)}>
    <summary>${glyph('node', attempt.converged ? 'done' : 'failed')} <span>Attempt ${attempt.attempt}
      ${' · '}${duration(attempt.duration_s)} · ${how}${
    attempt.backoff_s !== null && `, waited ${duration(attempt.backoff_s)}`}</span></summary>
    ${isOpen && html`<ol class="dw-checks">${attempt.checks.map((
    /** @type {any} */ one, /** @type {number} */ at) => html`
      <${Check} key=${at} check=${one} isNamed=${check === String(at)} onLink=${() =>
    setQuery({ attempt: String(attempt.attempt), check: String(at) }, { replace: true })} />`)}</ol>
    <p class="muted dw-when"><button type="button" class="rd-more" onClick=${() => run.seek(attempt.seq)}>Show event ${
      attempt.seq}</button>${attempt.started && html` · began <${Time} ts=${attempt.started} as="clock" />`}</p>`}
  </details>`;
}

/** @param {{check: any, isNamed: boolean, onLink: () => void}} props */
function Check({ check, isNamed, onLink }) {
  const own = useRef(/** @type {HTMLLIElement|null} */ (null));
  useEffect(() => { if (isNamed) own.current?.scrollIntoView({ block: 'nearest' }); }, [isNamed]);
  const failed = check.rc !== 0;
  const hasTail = failed && typeof check.tail === 'string';
  const command = visible(String(check.cmd));
  return html`<li ref=${own} class=${`dw-check${isNamed ? ' dw-named' : ''}`}>
    <div>${hasTail && html`<span class="dw-copy"><${CopyButton} text=${check.tail} label="Copy output" /></span>`}${
    glyph('audit', failed ? 'fail' : 'pass')} <button type="button" class="dw-command mono" title="Link to this check"
      onClick=${onLink}>${command}</button> <span
      class="muted">exit ${exitCode(check.rc)} · ${duration(check.duration_s)}</span></div>
    ${hasTail && html`<${Tail} text=${check.tail} truncated=${check.truncated} command=${command} />`}
  </li>`;
}

/**
 * The end of a check's output, opened at its end: that is where it says what is wrong.
 * @param {{text: string, truncated: boolean, command: string}} props
 */
function Tail({ text, truncated, command }) {
  const pane = useRef(/** @type {HTMLPreElement|null} */ (null));
  useLayoutEffect(() => { if (pane.current) pane.current.scrollTop = pane.current.scrollHeight; }, [text]);
  return html`<div class="dw-tail">
    <pre ref=${pane} tabindex="0" role="region" aria-label=${`Output of ${command}`}>${truncated
    && html`<span class="muted">Earlier output was cut. Last ${count(TAIL_CHARACTERS)} characters.${'\n'}</span>`}${
    visible(text)}</pre></div>`;
}

/** @param {{recent: any[], id: string}} props */
function History({ recent, id }) {
  if (!recent?.length) return null;
  return html`<section aria-labelledby="dw-history"><h3 id="dw-history">Before, in ${plural(recent.length, 'run')}</h3>
    <ul class="dw-history">${recent.map((past) => {
    const words = `${describe('result', past.result).word} in ${past.run_id}, ${
      plural(past.attempts, 'attempt')}, ${duration(past.duration_s)}`;
    return html`<li key=${past.run_id}><a href=${href(`/runs/${encodeURIComponent(past.run_id)}`, { node: id })}
        title=${words} aria-label=${words}>${glyph('result', past.result)}</a></li>`;
  })}</ul><p class="muted dw-when">newest right</p></section>`;
}
