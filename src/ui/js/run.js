// The page of one run of a DAG: its header and verdict, what to look at, graph, timeline, nodes, log and replay.

import { batch, computed, effect, html, render, signal, untracked, useEffect, useLayoutEffect, useRef, useState }
  from '../vendor/ui-runtime.js';
import { Problem, Time, announce, chip, href, keys, nowTick, route as currentRoute, setQuery, setTitle, settings }
  from './app.js';
import { api, config, live, text } from './net.js';
import { ago, clock, count, describe, duration, glyph, parse, plural, runState, visible } from './fmt.js';
import { Dag } from './dag.js';
import { Drawer, NodeLink, Rail, finding, findings } from './drawer.js';

/**
 * @typedef {{node_id: string, status: string, attempts: number, reason: string|null, started: string|null,
 *   ended: string|null, running_s: number, waiting_s: number, lost_s: number, spawned: string[]}} NodeState
 * @typedef {{kind: string, severity: string, message: string, node_ids: string[], seq: number|null, evidence: any}}
 *   Finding
 * @typedef {{verdict: string, findings: Finding[], at_seq: number|null}} Diagnostics
 * @typedef {{[key: string]: any, run_id: string, node_states: NodeState[], next_seq: number}} RunState
 * @typedef {{id: string, depends_on: string[], deliverable: string, parallel_safe: boolean}} GraphNode
 * @typedef {{seq: number|null, state: RunState|null, diagnostics: Diagnostics|null}} Shown  all of one moment
 */

const STATUSES = ['failed', 'blocked', 'running', 'ready', 'pending', 'done'];
const BAR_ORDER = ['done', 'running', 'ready', 'pending', 'blocked', 'failed'];
const VIEWS = { both: 'Graph + timeline', graph: 'Graph', timeline: 'Timeline', nodes: 'Nodes' };
const NARROW_VIEWS = { summary: 'Summary', graph: 'Graph', timeline: 'Timeline', nodes: 'Nodes', events: 'Events' };
const EVENTS_A_PAGE = 5000;
/** Above this a graph is drawn only when asked for. */
const ASK_ABOVE = 2000;
/** State and diagnostics are asked for again at most this often. */
const REFRESH_MS = 1000;
/** A silent run may have become a stalled one. */
const SILENT_REFRESH_MS = 30_000;
/** How long the last moment may stand in for the one that was asked for. */
const STALE_MS = 150;
const MOMENTS_KEPT = 60;
const PLAY_TICK_MS = 100;

/** A signal that follows a media query. @param {string} query */
function media(query) {
  const list = matchMedia(query);
  const matches = signal(list.matches);
  list.addEventListener('change', () => { matches.value = list.matches; });
  return matches;
}
const narrow = media('(max-width: 759px)');
const medium = media('(max-width: 1279px)');

const later = () => new Promise((resolve) => { setTimeout(resolve, 0); });

/** A run as it stands and as it stood: what the server says of it, what its log says, and the moment shown. */
export class Run {
  /** @param {string} runId */
  constructor(runId) {
    this.id = runId;
    this.path = `/api/runs/${encodeURIComponent(runId)}`;
    /** @type {import('../vendor/ui-runtime.js').Signal<RunState|null>} */
    this.state = signal(null);
    /** @type {import('../vendor/ui-runtime.js').Signal<Diagnostics|null>} */
    this.diagnostics = signal(null);
    /** undefined while it is loading, null when there is none. */
    this.graph = signal(/** @type {{nodes: GraphNode[], byId: Map<string, any>}|null|undefined} */ (undefined));
    this.error = signal(/** @type {any} */ (null));
    this.problems = signal(/** @type {any} */ (null));
    this.previous = signal(/** @type {string|null} */ (null));
    this.notice = signal(/** @type {string|null} */ (null));
    /** How many events are folded. */
    this.folded = signal(0);
    this.caughtUp = signal(false);
    /** The seq that replay stands at, or null for now. */
    this.at = signal(/** @type {number|null} */ (null));
    this.moment = signal(/** @type {Shown|null} */ (null));
    this.momentError = signal(/** @type {any} */ (null));
    this.late = signal(false);
    this.playing = signal(/** @type {number|'skip'|null} */ (null));
    this.chainOf = signal(/** @type {string|null} */ (null));
    /** The node whose events alone the log shows. */
    this.logNode = signal(/** @type {string|null} */ (null));
    this.dismissedAt = signal(-1);
    /** What the islands are made of; loaded after the first frame. */
    this.parts = signal(/** @type {any} */ (null));

    this.fold = /** @type {any} */ (null);
    this.entries = /** @type {any[]} */ ([]);
    this.dag = /** @type {Dag|null} */ (null);
    this.log = /** @type {any} */ (null);
    this.invoker = /** @type {Element|null} */ (null);
    this.wantsFocus = false;
    this.refreshedAt = Date.now();
    this.moments = /** @type {Map<number, Shown>} */ (new Map());
    this.alive = new AbortController();
    this.stopLive = () => {};
    this.offs = /** @type {(() => void)[]} */ ([]);

    const query = computed(() => currentRoute.value.query);
    this.node = computed(() => query.value.get('node'));
    this.view = computed(() => {
      const named = query.value.get('view') ?? '';
      if (narrow.value) return named in NARROW_VIEWS ? named : 'summary';
      if (named in VIEWS) return named;
      return this.graph.value === null ? 'timeline' : 'both';
    });
    this.statusFilter = computed(() =>
      (query.value.get('f') ?? '').split(',').filter((status) => STATUSES.includes(status)));
    this.textFilter = computed(() => query.value.get('q') ?? '');

    this.shown = computed(() => this.computeShown());
    this.nodeStates = computed(() => new Map(this.shown.value.state?.node_states.map((node) => [node.node_id, node])));
    this.statuses = computed(() => this.computeStatuses());
    this.counts = computed(() => {
      const counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
      for (const status of this.statuses.value.values()) counts[status] += 1;
      return counts;
    });
    this.details = computed(() => this.computeDetails());
    this.matching = computed(() => this.computeMatching());
    this.chain = computed(() => this.computeChain());
    this.critical = computed(() => finding(this, 'critical_path')?.evidence.nodes.map((/** @type {any} */ node) =>
      node.node_id) ?? []);
    this.failed = computed(() => [...this.statuses.value].filter(([, status]) => status === 'failed')
      .map(([id]) => id));
    this.isEnded = computed(() => this.state.value?.phase === 'ended');
    /** Whether what is shown may be taken for how things are at this second. */
    this.isCurrent = computed(() => live.state.value.kind === 'live' || this.isEnded.value);
  }

  // ---- what is shown ------------------------------------------------------------------------------------------------

  /** @returns {Shown} */
  computeShown() {
    const at = this.at.value;
    if (at === null) return { seq: null, state: this.state.value, diagnostics: this.diagnostics.value };
    const moment = this.moment.value;
    // A later moment would show what had not happened yet; an earlier one may stand in for a blink.
    if (moment && moment.seq !== null && (moment.seq === at
      || (moment.seq < at && (!this.late.value || this.playing.value !== null)))) return moment;
    return { seq: at, state: null, diagnostics: null };
  }

  /** @returns {Map<string, string>} */
  computeStatuses() {
    const at = this.at.value;
    const folded = this.folded.value;
    if (this.fold && (at === null ? this.caughtUp.value : folded > at)) return this.fold.statusAt(at);
    const { state } = this.shown.value;
    if (state) return new Map(state.node_states.map((node) => [node.node_id, node.status]));
    return new Map();
  }

  computeDetails() {
    const states = this.nodeStates.value;
    /** @type {Map<string, {status: string, detail: string}>} */
    const details = new Map();
    for (const [id, status] of this.statuses.value) {
      const node = states.get(id);
      const parts = [];
      if (node && node.attempts > 1) parts.push(`×${node.attempts}`);
      if (node && node.running_s > 0) parts.push(duration(node.running_s));
      details.set(id, { status, detail: parts.join(' · ') });
    }
    return details;
  }

  /** @returns {Set<string>|null} */
  computeMatching() {
    const statuses = this.statusFilter.value;
    const wanted = this.textFilter.value.trim().toLowerCase();
    if (!statuses.length && !wanted) return null;
    const byId = this.graph.value?.byId;
    return new Set([...this.statuses.value].filter(([id, status]) => (!statuses.length || statuses.includes(status))
      && (!wanted || id.includes(wanted)
        || String(byId?.get(id)?.deliverable ?? '').toLowerCase().includes(wanted))).map(([id]) => id));
  }

  /** What holds a node, and what it holds, as far as it is not done. @returns {Set<string>|null} */
  computeChain() {
    const of = this.chainOf.value;
    const graph = this.graph.value;
    if (of === null || !graph) return null;
    const statuses = this.statuses.value;
    const chain = new Set([of]);
    /** @param {Map<string, string[]>} next */
    const walk = (next) => {
      const open = [of];
      const seen = new Set(open);
      for (let id = open.pop(); id !== undefined; id = open.pop()) {
        for (const other of next.get(id) ?? []) {
          if (seen.has(other) || statuses.get(other) === 'done') continue;
          seen.add(other);
          chain.add(other);
          open.push(other);
        }
      }
    };
    /** @type {Map<string, string[]>} */
    const needs = new Map();
    /** @type {Map<string, string[]>} */
    const unblocks = new Map();
    for (const [id, node] of graph.byId) {
      needs.set(id, needsOf(node));
      for (const needed of needsOf(node)) {
        const list = unblocks.get(needed);
        if (list) list.push(id);
        else unblocks.set(needed, [id]);
      }
    }
    walk(needs);
    walk(unblocks);
    return chain;
  }

  /** The seq of the last event shown; -1 before the first. */
  lastSeq() {
    return this.at.value ?? Math.max(this.folded.value, this.state.value?.next_seq ?? 0) - 1;
  }

  /** @param {number} seq  effective time of an event, in ms; NaN while it is not folded */
  timeOf(seq) {
    return this.folded.value > seq && this.fold ? this.fold.effective[seq] : NaN;
  }

  // ---- loading ------------------------------------------------------------------------------------------------------

  start() {
    this.offs.push(effect(() => {
      const written = currentRoute.value.query.get('at');
      const seq = written !== null && /^\d{1,15}$/.test(written) ? Number(written) : null;
      untracked(() => { if (seq !== this.urlAt) this.at.value = seq; });
      this.urlAt = seq;
    }));
    const isLoaded = computed(() => this.state.value !== null);
    this.offs.push(effect(() => {
      const at = this.at.value;
      if (isLoaded.value) untracked(() => this.wantMoment(at));
    }));
    this.offs.push(effect(() => { const now = nowTick.value; untracked(() => this.lookAtSilence(now)); }));
    this.load();
  }

  stop() {
    this.alive.abort();
    this.stopLive();
    clearTimeout(this.refreshTimer);
    clearTimeout(this.momentTimer);
    clearTimeout(this.lateTimer);
    clearTimeout(this.urlTimer);
    this.play(null);
    for (const off of this.offs) off();
  }

  /** A run that says nothing may have become a stalled one. @param {number} now */
  lookAtSilence(now) {
    const state = this.state.peek();
    if (!state || state.phase === 'ended') return;
    const stallsAt = parse(state.last_event) + (config.peek()?.stall_after_s ?? Infinity) * 1000;
    const isDue = state.phase === 'live' && now > stallsAt && Date.now() - this.refreshedAt > 5 * REFRESH_MS;
    if (isDue || Date.now() - this.refreshedAt > SILENT_REFRESH_MS) this.refresh();
  }

  async load() {
    const { signal: alive } = this.alive;
    try {
      const [state, diagnostics] = await Promise.all([
        api(this.path, { signal: alive }), api(`${this.path}/diagnostics`, { signal: alive })]);
      if (state.kind === 'agent') {
        this.state.value = state;
        this.diagnostics.value = diagnostics;
        return;
      }
      const graph = await this.readGraph(state, alive);
      batch(() => {
        this.error.value = null;
        this.state.value = state;
        this.diagnostics.value = diagnostics;
        this.graph.value = graph;
        if ((this.at.peek() ?? -1) >= state.next_seq) this.seek(null);
      });
      await this.readLog(alive);
    } catch (error) {
      if (!alive.aborted) this.error.value = error;
    }
  }

  /** The log is another one, or the graph came late: all that was read of it is dropped and read anew. */
  reload() {
    this.alive.abort();
    this.alive = new AbortController();
    this.stopLive();
    this.moments.clear();
    batch(() => {
      this.fold = null;
      this.entries = [];
      this.folded.value = 0;
      this.caughtUp.value = false;
      this.moment.value = null;
      this.error.value = null;
    });
    this.load();
  }

  /** @param {RunState} state @param {AbortSignal} alive */
  async readGraph(state, alive) {
    if (state.graph_sha256 === null) return null;
    const graph = await api(`${this.path}/graph`, { signal: alive });
    return known(graph);
  }

  /** @param {AbortSignal} alive */
  async readLog(alive) {
    const folds = await import('./fold.js');
    if (alive.aborted) return;
    this.fold = new folds.Fold(this.plannedIds());
    let parts = null;
    let logId = null;
    for (let more = true; more;) {
      const from = this.fold.length;
      const { body, headers } = await text(`${this.path}/events?from_seq=${from}&limit=${EVENTS_A_PAGE}`,
        { signal: alive });
      const of = headers.get('Kahn-Log-Id');
      if (logId !== null && of !== logId) return this.replaced();
      logId = of;
      // What draws the log is not in the way of header, verdict and graph.
      parts ??= Promise.all([import('./list.js'), import('./log.js'), import('./gantt.js')]);
      await this.takeLines(body.split('\n'), alive);
      if (alive.aborted) return;
      more = this.fold.length > from && (headers.get('Link') ?? '').includes('rel="next"');
    }
    const [lists, logs, gantts] = await (parts ?? []);
    if (alive.aborted) return;
    // At once: a part of the log would look like all of it.
    batch(() => {
      this.parts.value = { ...lists, ...logs, ...gantts };
      this.folded.value = this.fold.length;
      this.caughtUp.value = true;
    });
    if (this.state.peek()?.phase !== 'ended') this.follow(logId, alive);
    this.readBesides(alive);
  }

  /** The nodes of the graph that the server takes for valid, in its order. */
  plannedIds() {
    const byId = this.graph.peek()?.byId;
    return this.state.peek()?.node_states.map(({ node_id }) => node_id).filter((id) => byId?.has(id)) ?? [];
  }

  /** What is not needed at first. @param {AbortSignal} alive */
  async readBesides(alive) {
    const state = this.state.peek();
    const problems = await api(`${this.path}/problems`, { signal: alive }).catch(() => null);
    if (alive.aborted) return;
    this.problems.value = problems;
    if (!state?.started || !state.graph_sha256) return;
    const before = await api(`/api/runs?kind=ci&limit=50&until=${encodeURIComponent(state.started)}`, { signal: alive })
      .catch(() => null);
    if (alive.aborted) return;
    const same = before?.items.find((/** @type {RunState} */ row) => row.graph_sha256 === state.graph_sha256
      && row.run_id !== this.id);
    this.previous.value = same?.run_id ?? null;
  }

  /** Folds lines without holding up a frame. @param {string[]} lines @param {AbortSignal} alive */
  async takeLines(lines, alive) {
    let until = performance.now() + 8;
    for (const line of lines) {
      if (line === '') continue;
      this.takeLine(line);
      if (performance.now() < until) continue;
      await later();
      if (alive.aborted) return;
      until = performance.now() + 8;
    }
  }

  /** @param {string} line */
  takeLine(line) {
    let event;
    try {
      event = JSON.parse(line);
    } catch {
      event = { ts: this.entries.at(-1)?.ts ?? this.state.peek()?.started, event: 'unreadable here' };
    }
    const seq = this.fold.length;
    this.fold.push(event);
    const backwards = seq > 0 && parse(event.ts) < this.fold.effective[seq];
    this.entries.push({ seq, ts: event.ts, event: event.event, node_id: event.node_id ?? null, backwards,
      ...told(event) });
  }

  // ---- live ---------------------------------------------------------------------------------------------------------

  /** @param {string|null} logId @param {AbortSignal} alive */
  follow(logId, alive) {
    let queue = Promise.resolve();
    this.stopLive = live.run(this.id, this.fold.length, logId, {
      events: (list) => {
        queue = queue.then(() => this.takeLive(list, alive)).catch((error) => {
          if (!alive.aborted) this.error.value = error;
        });
      },
      resync: () => {},
      reset: () => this.replaced(),
      removed: () => {
        this.stopLive();
        this.notice.value = 'This run was removed from the server. What is shown here is what was known of it.';
      },
    });
  }

  replaced() {
    this.play(null);
    this.seek(null);
    this.reload();
    this.notice.value = 'The log of this run was replaced by another one; it was read anew.';
    announce('The log of this run was replaced.');
  }

  /**
   * @param {{seq: number, line: string|null}[]} list
   * @param {AbortSignal} alive
   */
  async takeLive(list, alive) {
    if (alive.aborted) return;
    const before = this.fold.length;
    for (const { seq, line } of list) {
      if (seq < this.fold.length) continue;
      if (seq === this.fold.length && line !== null) {
        this.takeLine(line);
        continue;
      }
      // A gap, or a line too long for a frame.
      while (this.fold.length <= seq) {
        const limit = Math.min(EVENTS_A_PAGE, seq + 1 - this.fold.length);
        const { body } = await text(`${this.path}/events?from_seq=${this.fold.length}&limit=${limit}`,
          { signal: alive });
        const from = this.fold.length;
        await this.takeLines(body.split('\n'), alive);
        if (alive.aborted || this.fold.length === from) return;
      }
    }
    if (this.fold.length === before) return;
    this.folded.value = this.fold.length;
    const { changes } = this.fold;
    let first = changes.length;
    while (first > 0 && changes[first - 1].seq >= before) first -= 1;
    this.tell(changes.slice(first));
    if (this.at.peek() === null || this.hasEndEvent(before)) this.refresh();
  }

  /** @param {number} from  seq of the first event looked at */
  hasEndEvent(from) {
    return this.entries.slice(from).some(({ event }) => event === 'run_end');
  }

  /** @param {{status: string}[]} moved */
  tell(moved) {
    const of = (/** @type {string} */ status) => moved.filter((change) => change.status === status).length;
    const [failed, blocked] = [of('failed'), of('blocked')];
    if (!failed && !blocked) return;
    announce(`${[failed && `${plural(failed, 'node')} failed`, blocked && `${plural(blocked, 'node')} blocked`]
      .filter(Boolean).join(', ')}.`);
  }

  /** Asks for state and diagnostics again, at most once a second. */
  refresh() {
    if (this.refreshTimer !== undefined) return;
    const wait = Math.max(0, this.refreshedAt + REFRESH_MS - Date.now());
    this.refreshTimer = setTimeout(async () => {
      this.refreshedAt = Date.now();
      const { signal: alive } = this.alive;
      try {
        const [state, diagnostics] = await Promise.all([
          api(this.path, { signal: alive }), api(`${this.path}/diagnostics`, { signal: alive })]);
        this.refreshTimer = undefined;
        if (alive.aborted) return;
        this.refreshTo(state, diagnostics);
      } catch {
        // The chip in the top bar tells that the server is away; the next event or the next look asks again.
        this.refreshTimer = undefined;
      }
    }, wait);
  }

  /** @param {RunState} state @param {Diagnostics} diagnostics */
  refreshTo(state, diagnostics) {
    const before = this.state.peek();
    if (state.graph_sha256 !== before?.graph_sha256) return this.reload();
    const hasEnded = state.phase === 'ended' && before?.phase !== 'ended';
    batch(() => {
      this.state.value = state;
      this.diagnostics.value = diagnostics;
    });
    if (hasEnded) {
      announce(`The run ended: ${runState(state).word}.`);
      if (this.folded.peek() >= state.next_seq) this.stopLive();
    }
  }

  // ---- replay -------------------------------------------------------------------------------------------------------

  /** @param {number|null} at */
  wantMoment(at) {
    clearTimeout(this.momentTimer);
    clearTimeout(this.lateTimer);
    this.late.value = false;
    this.momentError.value = null;
    if (at === null) {
      if (this.moment.peek() && !this.isEnded.peek()) this.refresh();
      this.moment.value = null;
      return;
    }
    const known = this.moments.get(at);
    if (known) {
      this.moment.value = known;
      return;
    }
    this.lateTimer = setTimeout(() => { this.late.value = true; }, STALE_MS);
    const now = Date.now();
    const isHurried = now - (this.soughtAt ?? 0) < 150;
    this.soughtAt = now;
    const isDue = now - (this.askedAt ?? 0) > 500;
    this.momentTimer = setTimeout(() => this.readMoment(at), isHurried && !(this.playing.peek() && isDue) ? 120 : 0);
  }

  /** @param {number} at */
  async readMoment(at) {
    const { signal: alive } = this.alive;
    this.askedAt = Date.now();
    try {
      const [state, diagnostics] = await Promise.all([api(`${this.path}?at_seq=${at}`, { signal: alive }),
        api(`${this.path}/diagnostics?at_seq=${at}`, { signal: alive })]);
      const moment = { seq: at, state, diagnostics };
      this.moments.set(at, moment);
      if (this.moments.size > MOMENTS_KEPT) this.moments.delete(this.moments.keys().next().value ?? -1);
      const wanted = this.at.peek();
      if (wanted === at || (this.playing.peek() !== null && wanted !== null && at < wanted)) this.moment.value = moment;
    } catch (error) {
      if (!alive.aborted && this.at.peek() === at) this.momentError.value = error;
    }
  }

  /** Shows a moment, or now. @param {number|null} seq */
  seek(seq) {
    const max = this.folded.peek() - 1;
    const at = seq === null ? null : Math.max(0, max >= 0 ? Math.min(seq, max) : seq);
    this.at.value = at;
    clearTimeout(this.urlTimer);
    this.urlTimer = setTimeout(() => {
      this.urlAt = at;
      setQuery({ at: at === null ? null : String(at) }, { replace: true });
    }, 250);
  }

  /** @param {number} direction @param {boolean} [toChange]  to where the selected node changed */
  step(direction, toChange = false) {
    this.play(null);
    const max = this.folded.peek() - 1;
    if (max < 0) return;
    const from = this.at.peek() ?? max;
    const node = this.node.peek();
    if (!toChange || !node) {
      if (this.at.peek() !== null || direction < 0) this.seek(from + direction);
      return;
    }
    const next = this.fold.nextChange(node, from, direction);
    if (next !== null && next !== undefined && next >= 0) this.seek(next);
  }

  /** @param {number|'skip'|null} speed  times real time, or over idle spans */
  play(speed) {
    clearInterval(this.playTimer);
    this.playTimer = undefined;
    this.playing.value = speed;
    const max = this.folded.peek() - 1;
    if (speed === null || max < 0) {
      this.playing.value = null;
      return;
    }
    const start = this.at.peek();
    if (start === null || start >= max) this.seek(0);
    const { effective } = this.fold;
    let time = effective[this.at.peek() ?? 0];
    const tick = matchMedia('(prefers-reduced-motion: reduce)').matches ? 1000 : PLAY_TICK_MS;
    this.playTimer = setInterval(() => {
      const at = this.at.peek();
      const last = this.folded.peek() - 1;
      if (at === null) return this.play(null);
      if (at >= last) {
        this.play(null);
        if (!this.isEnded.peek()) this.seek(null);
        return;
      }
      time = speed === 'skip' ? Math.max(effective[at + 1], time + tick) : time + tick * speed;
      let next = at;
      while (next < last && effective[next + 1] <= time) next += 1;
      if (next !== at) this.seek(next);
    }, tick);
  }

  // ---- selecting ----------------------------------------------------------------------------------------------------

  /**
   * Opens the drawer of a node.
   * @param {string} nodeId
   * @param {Element|null} [invoker]  where the focus goes back to
   * @param {boolean} [takesFocus]
   */
  open(nodeId, invoker = null, takesFocus = true) {
    this.wantsFocus = takesFocus;
    if (invoker) this.invoker = invoker;
    if (nodeId === this.node.peek()) {
      if (takesFocus) document.getElementById('dw-title')?.focus();
      return;
    }
    if (this.chainOf.peek() !== null) this.chainOf.value = null;
    setQuery({ node: nodeId, attempt: null, check: null }, { replace: false });
  }

  close() {
    const nodeId = this.node.peek();
    if (nodeId === null) return;
    setQuery({ node: null, attempt: null, check: null }, { replace: false });
    const { invoker } = this;
    this.invoker = null;
    if (invoker instanceof HTMLElement && invoker.isConnected) invoker.focus();
    else if (this.dag) this.dag.focus(nodeId);
    else document.getElementById('rd-title')?.focus();
  }

  /** @param {number} direction */
  nextFailure(direction) {
    const failed = this.failed.peek();
    if (!failed.length) {
      announce(this.at.peek() === null ? 'No node has failed.' : 'No node has failed at this moment.');
      return;
    }
    const here = failed.indexOf(this.node.peek() ?? '');
    const next = here < 0 ? (direction > 0 ? 0 : failed.length - 1)
      : (here + direction + failed.length) % failed.length;
    this.open(failed[next], null, false);
    this.dag?.show(failed[next]);
    announce(`${failed[next]} failed, ${next + 1} of ${failed.length}.`);
  }

  toggleChain() {
    const nodeId = this.node.peek();
    if (this.chainOf.peek() !== null || nodeId === null) {
      this.chainOf.value = null;
      if (nodeId === null) announce('Select a node to see what it blocks.');
      return;
    }
    this.chainOf.value = nodeId;
    const others = (this.chain.peek()?.size ?? 1) - 1;
    announce(others > 0 ? `${plural(others, 'node')} hold ${nodeId} or wait for it.`
      : `Nothing holds ${nodeId} or waits for it.`);
  }

  /** @param {string} status */
  toggleStatus(status) {
    const statuses = this.statusFilter.peek();
    const next = statuses.includes(status) ? statuses.filter((other) => other !== status) : [...statuses, status];
    setQuery({ f: next.length ? next.join(',') : null }, { replace: true });
  }
}

/**
 * What the page needs of a graph.json: the Dag draws what is valid of it, and the findings tell what is not.
 * @param {any} file
 */
function known(file) {
  /** @type {any[]} */
  const nodes = (Array.isArray(file?.nodes) ? file.nodes : []).filter((/** @type {any} */ node) =>
    typeof node?.id === 'string');
  /** @type {Map<string, any>} */
  const byId = new Map();
  for (const node of nodes) if (!byId.has(node.id)) byId.set(node.id, node);
  return { nodes, byId };
}

/** @param {any} node  of a graph.json @returns {string[]} */
const needsOf = (node) => (Array.isArray(node?.depends_on) ? node.depends_on : []).filter((/** @type {any} */ id) =>
  typeof id === 'string');

/** An event as a line of the log. @param {any} event */
function told(event) {
  const plain = { tone: null, set: null, value: null };
  const of = (/** @type {string} */ set, /** @type {string} */ value, /** @type {string} */ words) =>
    ({ set, value, tone: describe(set, value)?.tone ?? null, text: words });
  switch (event.event) {
    case 'run_start': return { ...plain, text: `the run began with ${plural(event.total_nodes, 'node')}` };
    case 'node_transition': {
      const attempt = event.attempt > 1 ? `, attempt ${event.attempt}` : '';
      return of('node', event.to, `${event.to}${attempt}${event.reason ? ` · ${visible(event.reason)}` : ''}`);
    }
    case 'node_attempt': {
      const took = duration(event.duration_s);
      if (event.converged) return { ...plain, text: `attempt ${event.attempt} converged in ${took}` };
      const check = event.done_when_results?.find((/** @type {any} */ result) => result.rc !== 0);
      const why = check ? `: ${visible(check.cmd)} exited ${check.rc}` : '';
      return { ...plain, tone: 'red', text: `attempt ${event.attempt} failed after ${took}${why}` };
    }
    case 'run_end': return of('run', event.outcome, `the run ended: ${event.outcome}`);
    case 'audit_checkpoint':
      return of('audit', event.result, `${visible(String(event.checkpoint_id))} ${event.result}`);
    case 'heartbeat': return { ...plain, text: 'the producer is busy' };
    case 'agent_run_start': return { ...plain, text: `${event.agent_id} began: ${visible(String(event.task))}` };
    case 'agent_transition': return { ...plain, text: `${event.agent_id} → ${event.to}` };
    case 'tool_invocation':
      return { ...plain, tone: event.ok ? null : 'red',
        text: `${visible(String(event.tool_name))} ${event.ok ? 'ok' : 'failed'}, ${duration(event.duration_s)}` };
    case 'agent_run_end': return of('agent', event.outcome, `${event.agent_id} ended: ${event.outcome}`);
    default: return { ...plain, text: `unknown: ${visible(String(event.event))}` };
  }
}

// ---- the page -------------------------------------------------------------------------------------------------------

/** @param {{route: any}} props */
export function Page({ route }) {
  const runId = route.params.run_id;
  const [run, setRun] = useState(/** @type {Run|null} */ (null));
  const [AgentPage, setAgentPage] = useState(/** @type {any} */ (null));
  useEffect(() => {
    const made = new Run(runId);
    setRun(made);
    setAgentPage(null);
    made.start();
    const off = effect(() => {
      if (made.state.value?.kind === 'agent') {
        // That page asks and listens for itself.
        untracked(() => made.stop());
        import('./agentrun.js').then((module) => setAgentPage(() => module.Page), (error) => {
          made.error.value = error;
        });
      }
    });
    return () => { off(); made.stop(); };
  }, [runId]);
  if (!run || run.id !== runId) return html`<${Loading} runId=${runId} />`;
  if (AgentPage) return html`<${AgentPage} key=${runId} route=${route} state=${run.state.value}
    diagnostics=${run.diagnostics.value} />`;
  return html`<${RunPage} run=${run} key=${runId} />`;
}

/** The page's shape before the server has answered. @param {{runId: string}} props */
function Loading({ runId }) {
  return html`<div class="rd-page"><header class="rd-head"><div class="rd-line">
    <span class="muted rd-crumb"><a href=${href('/runs')}>Runs</a> /</span><h1 class="mono">${visible(runId)}</h1></div>
    <div class="rd-waiting"><p class="rd-verdict"><span class="skeleton rd-skeleton-line"></span></p>
    <div class="rd-bar"></div>
    <div class="rd-counts"><span class="skeleton rd-skeleton-line"></span></div></div></header>
    <div class="rd-body rd-waiting"><aside class="rd-rail"><div class="skeleton rd-skeleton-card"></div>
      <div class="skeleton rd-skeleton-card"></div></aside></div></div>`;
}

/** @param {{run: Run}} props */
function RunPage({ run }) {
  useKeys(run);
  useEffect(() => {
    const off = effect(() => showAround(run));
    return () => { off(); chip.value = null; };
  }, [run]);
  useEffect(() => {
    const { scope } = /** @type {any} */ (window);
    /** @type {any} */ (window).scope = { ...scope, debug: {
      edges: () => run.dag?.debug().edges ?? [], positions: () => run.dag?.debug().positions,
      zoom: () => run.dag?.debug().zoom, visible: () => run.dag?.debug().visible ?? [],
      statuses: () => Object.fromEntries(run.statuses.peek()), at: () => run.at.peek(),
      events: () => run.folded.peek(), isCaughtUp: () => run.caughtUp.peek() } };
  }, [run]);
  const view = run.view.value;
  const shows = (/** @type {string[]} */ ...views) => views.includes(view);
  const hasGraph = shows('both', 'graph') && run.graph.value !== null;
  useLayoutEffect(() => { if (!hasGraph && run.state.value) markUsable(); });
  const error = run.error.value;
  if (error && !run.state.value) return html`<${Failed} run=${run} error=${error} />`;
  if (!run.state.value || run.state.value.kind === 'agent') return html`<${Loading} runId=${run.id} />`;
  const hasDrawer = run.node.value !== null;
  const rail = (!narrow.value || view === 'summary') && html`<${RailPane} run=${run} />`;
  return html`<div class=${`rd-page rd-on-${view}${hasDrawer ? ' rd-with-drawer' : ''}`}>
    <${Header} run=${run} />
    <${Notices} run=${run} />
    ${error && html`<${Problem} error=${error} retry=${() => run.reload()} />`}
    ${narrow.value && html`<${Tabs} run=${run} views=${NARROW_VIEWS} />`}
    <div class="rd-body">
      <section class=${`rd-centre rd-view-${view}`} aria-label="Run">
        ${!narrow.value && html`<div class="rd-tools"><${Tabs} run=${run} views=${VIEWS} />
          <${Filter} run=${run} /></div>`}
        ${narrow.value && shows('graph', 'timeline', 'nodes')
    && html`<div class="rd-tools"><${Filter} run=${run} /></div>`}
        <div class="rd-stage">
          ${shows('both', 'graph') && html`<${GraphPane} run=${run} />`}
          ${shows('both') && html`<${Splitter} />`}
          ${shows('both', 'timeline') && html`<${TimelinePane} run=${run} />`}
          ${shows('nodes') && html`<${NodesPane} run=${run} />`}
        </div>
        ${(!narrow.value || !shows('summary')) && html`<${ScrubPane} run=${run} />`}
        ${(!narrow.value || shows('events')) && html`<${LogPane} run=${run} />`}
      </section>
      ${rail}
      ${hasDrawer && html`<${Drawer} run=${run} key=${run.node.value} />`}
    </div>
  </div>`;
}

/** @param {{run: Run, error: any}} props */
function Failed({ run, error }) {
  if (error.status !== 404) {
    return html`<div class="rd-page rd-alone"><h1 class="mono">${visible(run.id)}</h1>
      <${Problem} error=${error} retry=${() => run.reload()} /></div>`;
  }
  return html`<div class="rd-page rd-alone empty"><h1>No run ${visible(run.id)} in this server</h1>
    <p>${config.value?.mode === 'oss' ? 'Its folder may have been moved or removed, or its id mistyped.'
    : 'It may be outside the retention window, or in another tenant.'}</p>
    <p><a href=${href('/runs')}>All runs</a></p></div>`;
}

/** Title and icon of the tab tell the run's state, the chip in the top bar which moment is shown. @param {Run} run */
function showAround(run) {
  const at = run.at.value;
  const { state } = run.shown.value;
  const utc = settings.utc.value;
  if (at !== null) {
    const time = run.timeOf(at);
    const ts = Number.isNaN(time) ? state?.last_event : time;
    chip.value = { kind: 'replay', text: ts ? `Replay ${clock(ts, { utc })}` : `Replay, event ${at}` };
  } else {
    const ended = run.state.value?.phase === 'ended' ? run.state.value.ended : null;
    chip.value = ended ? { kind: 'finished', text: `Finished ${ago(ended, nowTick.value, { utc })}` } : null;
  }
  if (!state) return;
  const { failed } = run.counts.value;
  const { set, value, word } = runState(state);
  setTitle(`${failed ? `✖ ${failed} failed` : word} · ${run.id}`,
    failed ? { set: 'node', value: 'failed' } : { set, value });
}

/** @param {Run} run */
function useKeys(run) {
  useEffect(() => {
    const view = (/** @type {string} */ name, /** @type {string} */ narrowName = name) => ({ does: `Show ${name}`,
      run: () => setQuery({ view: narrow.peek() ? narrowName : name }, { replace: true }) });
    const onGraph = (/** @type {string} */ does, /** @type {(dag: Dag) => void} */ act) => ({ does,
      run: () => { if (run.dag) act(run.dag); } });
    return keys('This run', {
      1: view('both', 'summary'), 2: view('graph'), 3: view('timeline'), 4: view('nodes'),
      n: { does: 'Next failure', run: () => run.nextFailure(1) },
      N: { does: 'Previous failure', run: () => run.nextFailure(-1) },
      b: { does: 'Highlight what holds the node and what it holds', run: () => run.toggleChain() },
      f: onGraph('Fit the graph', (dag) => dag.fit()),
      0: onGraph('Graph at 100%', (dag) => dag.actual()),
      '+': onGraph('Zoom in', (dag) => dag.zoom(1.25)),
      '-': onGraph('Zoom out', (dag) => dag.zoom(0.8)),
      m: onGraph('Show or hide the minimap', (dag) => dag.minimap()),
      ',': { does: 'Step back one event', run: () => run.step(-1) },
      '.': { does: 'Step forward one event', run: () => run.step(1) },
      '<': { does: 'Back to where the node changed', run: () => run.step(-1, true) },
      '>': { does: 'Forward to where the node changes', run: () => run.step(1, true) },
      ' ': { does: 'Play or pause', run: () => run.play(run.playing.peek() === null ? 10 : null) },
      End: { does: 'Back to now', run: () => { run.play(null); run.seek(null); } },
      '[': { does: 'Collapse what to look at', run: () => { railShut.value = !railShut.peek(); } },
      ']': { does: 'Close the drawer', run: () => run.close() },
      G: { does: 'Jump to the end of the log', run: () => run.log?.jump() },
      '/': { does: 'Filter nodes', run: () => document.getElementById('rd-filter')?.focus() },
      Escape: { does: 'Close the drawer', run: () => { run.chainOf.value = null; run.close(); } },
    });
  }, [run]);
}

const railShut = signal(false);

// ---- header ---------------------------------------------------------------------------------------------------------

/** @param {{run: Run}} props */
function Header({ run }) {
  const { state, diagnostics } = run.shown.value;
  const now = /** @type {RunState} */ (run.state.value);
  const counts = run.counts.value;
  const at = run.at.value;
  const shown = state && runState(state);
  const path = finding(run, 'critical_path');
  const events = run.lastSeq() + 1;
  const failures = [counts.failed && `${count(counts.failed)} failed`,
    counts.blocked && `${count(counts.blocked)} blocked`].filter(Boolean).join(', ');
  return html`<header class="rd-head">
    <div class="rd-line">
      <span class="muted rd-crumb"><a href=${href('/runs')}>Runs</a> /</span>
      <h1 id="rd-title" class="mono" tabindex="-1">${visible(run.id)}</h1>
      ${shown ? html`<span class="chip">${glyph(shown.set, shown.value)} ${
    state.phase === 'ended' ? shown.word : describe(shown.set, shown.value).word}</span>`
    : html`<span class="chip muted">…</span>`}
      ${failures && html`<span class="chip">${glyph('node', counts.failed ? 'failed' : 'blocked')} ${failures}</span>`}
      <span class="rd-times">
        ${now.started && html`<span><span class="muted">started</span> <${Time} ts=${now.started} as="relative" /> <span
          class="muted">·</span> <${Time} ts=${now.started} as="clock" /></span>`}
        <${Elapsed} run=${run} />
        ${path && html`<span title=${path.message}><span class="muted">critical path</span>
          ${' '}${duration(path.evidence.work_s)}</span>`}
      </span>
      <span class="rd-links">
        ${now.parent && html`<${Parent} parent=${now.parent} />`}
        ${now.graph_sha256 && html`<a href=${`${run.path}/graph`}>graph.json</a>`}
        ${run.previous.value !== null
    ? html`<a href=${href('/compare', { base: run.previous.value, head: run.id })}>Compare with previous</a>`
    : html`<a href=${href('/compare', { head: run.id })}>Compare…</a>`}
      </span>
    </div>
    <p class="rd-verdict" aria-live="off">${diagnostics ? html`<${Verdict} run=${run} text=${diagnostics.verdict} />`
    : html`<span class="skeleton rd-skeleton-line"></span>`}</p>
    <${CountBar} counts=${counts} />
    <div class="rd-counts">
      <div class="rd-filters" role="group" aria-label="Filter by state">
        ${STATUSES.map((status) => html`<button type="button" class="rd-count" aria-pressed=${
      run.statusFilter.value.includes(status) ? 'true' : 'false'} onClick=${() => run.toggleStatus(status)}>
          ${glyph('node', status)} <b class="num">${count(counts[status])}</b> ${status}</button>`)}
      </div>
      <span class="muted num rd-total">${plural(run.statuses.value.size, 'node')} · ${
    at === null ? plural(events, 'event') : `event ${count(at)} of ${count(now.next_seq - 1)}`}</span>
    </div>
  </header>`;
}

/** @param {{run: Run}} props */
function Elapsed({ run }) {
  const { state } = run.shown.value;
  if (!state?.started) return null;
  const isTicking = run.at.value === null && state.phase === 'live' && run.isCurrent.value;
  if (isTicking) {
    const seconds = Math.max(0, Math.floor((nowTick.value - parse(state.started)) / 1000));
    return html`<span><span class="muted">elapsed</span> <span class="num">${duration(seconds)}</span></span>`;
  }
  const isFrozen = run.at.value === null && state.phase === 'live';
  const word = state.phase === 'ended' ? 'took' : 'elapsed';
  return html`<span><span class="muted">${word}</span> <span class="num">${duration(state.duration_s)}</span>${
    (isFrozen || state.phase === 'stalled') && state.last_event
    && html` <span class="muted">at <${Time} ts=${state.last_event} as="clock" /></span>`}${
    state.phase === 'ended' && run.at.value === null
    && html` <span class="muted">· finished <${Time} ts=${state.ended} as="relative" /></span>`}</span>`;
}

/** @param {{parent: any}} props */
function Parent({ parent }) {
  const from = href(`/runs/${encodeURIComponent(parent.run_id)}`, { node: parent.node_id ?? null,
    attempt: parent.attempt ?? null, step: parent.node_id ? null : parent.step ?? null });
  const where = [parent.node_id, parent.attempt !== null && parent.attempt !== undefined && `attempt ${parent.attempt}`,
    parent.step !== null && parent.step !== undefined && `step ${parent.step}`].filter(Boolean).join(', ');
  return html`<span><span class="muted">started by</span> <a class="mono" href=${from}>${visible(parent.run_id)}</a>${
    where && html` <span class="muted">(${where})</span>`}</span>`;
}

/** The verdict, with the failed nodes that it names as links. @param {{run: Run, text: string}} props */
function Verdict({ run, text: words }) {
  const failed = new Set(findings(run, 'failed_node').flatMap((found) => found.node_ids));
  const told = new Set();
  const parts = words.split(/([a-z0-9][a-z0-9-]*)/).map((part) => {
    if (!failed.has(part) || told.has(part)) return part;
    told.add(part);
    return html`<${NodeLink} run=${run} id=${part} />`;
  });
  return html`${failed.size > 0 && glyph('node', 'failed')} ${parts}`;
}

/** @param {{counts: {[status: string]: number}}} props */
function CountBar({ counts }) {
  return html`<div class="rd-bar" role="img" aria-label=${BAR_ORDER.filter((status) => counts[status])
    .map((status) => `${counts[status]} ${status}`).join(', ') || 'no node'}>
    ${BAR_ORDER.filter((status) => counts[status]).map((status) => html`<i key=${status}
      class=${`tone-${describe('node', status).tone}`} style=${{ flexGrow: counts[status] }}></i>`)}</div>`;
}

/** @param {{run: Run}} props */
function Notices({ run }) {
  const stalled = run.at.value === null ? finding(run, 'stalled') : undefined;
  const problems = run.problems.value;
  const { notice } = run;
  return html`<div class="rd-notices">
    ${stalled && run.dismissedAt.value !== run.state.value?.next_seq
    && html`<${Stalled} run=${run} found=${stalled} />`}
    ${notice.value !== null && html`<div class="banner rd-banner"><span>${notice.value}</span>
      <button type="button" class="btn" onClick=${() => { notice.value = null; }}>Dismiss</button></div>`}
    ${problems && (problems.ledger.skipped > 0 || problems.items.length > 0)
    && html`<${Unread} problems=${problems} />`}
  </div>`;
}

/** @param {{run: Run, found: Finding}} props */
function Stalled({ run, found }) {
  const slowest = found.evidence.slowest_attempt_s;
  const words = `${found.message}${slowest !== null && slowest !== undefined
    ? ` The slowest attempt so far took ${duration(slowest)}.` : ''}`;
  const buttons = html`${found.seq !== null && html`<button type="button" class="btn"
      onClick=${() => run.seek(found.seq)}>
      Show last event</button>`}
    <button type="button" class="btn" onClick=${() => { run.dismissedAt.value = run.state.peek()?.next_seq ?? -1; }}>
      Dismiss</button>`;
  // A phone has room for the first words.
  if (narrow.value) {
    return html`<details class="banner warn rd-banner rd-unread" role="alert"><summary>${glyph('audit', 'warn')} ${
      words.split(',')[0]}</summary><p>${words}</p><div class="seg">${buttons}</div></details>`;
  }
  return html`<div class="banner warn rd-banner" role="alert">
    <span>${glyph('audit', 'warn')} ${words}</span>${buttons}</div>`;
}

/** @param {{problems: any}} props */
function Unread({ problems }) {
  const { skipped, pending } = problems.ledger;
  const lines = problems.items.filter((/** @type {any} */ item) => item.line !== null);
  const others = problems.items.filter((/** @type {any} */ item) => item.line === null);
  const named = lines.slice(0, 8).map((/** @type {any} */ item) => item.line).join(', ');
  const words = [skipped > 0 && `${plural(skipped, 'line')} of transitions.jsonl could not be read (${named}${
    skipped > 8 ? ', …' : ''}).`, ...others.map((/** @type {any} */ item) => visible(item.reason)),
  pending > 0 && 'Its last line is not complete yet.'].filter(Boolean).join(' ');
  return html`<details class="banner warn rd-banner rd-unread"><summary>${glyph('audit', 'warn')} ${words}</summary>
    <ul>${lines.slice(0, 100).map((/** @type {any} */ item) => html`<li key=${item.line}>line <span class="num">${
    item.line}</span>: ${visible(item.reason)}</li>`)}</ul></details>`;
}

// ---- tabs, filter, rail ---------------------------------------------------------------------------------------------

/** @param {{run: Run, views: {[name: string]: string}}} props */
function Tabs({ run, views }) {
  return html`<div class="seg rd-tabs" role="group" aria-label="View">${Object.entries(views).map(([name, words]) =>
    html`<button key=${name} type="button" class="btn" aria-pressed=${run.view.value === name ? 'true' : 'false'}
      onClick=${() => setQuery({ view: name }, { replace: false })}>${words}</button>`)}</div>`;
}

/** @param {{run: Run}} props */
function Filter({ run }) {
  const [written, setWritten] = useState(run.textFilter.value);
  const timer = useRef(0);
  const write = (/** @type {string} */ value) => {
    setWritten(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setQuery({ q: value || null }, { replace: true }), 250);
  };
  const matching = run.matching.value;
  return html`<span class="rd-filter">
    ${matching && html`<span class="muted num">${count(matching.size)} of ${count(run.statuses.value.size)}</span>
      <button type="button" class="btn" onClick=${() => {
    setWritten('');
    setQuery({ f: null, q: null }, { replace: true });
  }}>
        Clear</button>`}
    <input id="rd-filter" type="search" placeholder="Filter nodes ( / )" aria-label="Filter nodes" value=${written}
      onInput=${(/** @type {any} */ event) => write(event.target.value)}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => {
    if (event.key !== 'Escape') return;
    event.preventDefault();
    event.stopPropagation();
    if (written) write('');
    else /** @type {HTMLElement} */ (event.target).blur();
  }} /></span>`;
}

/** @param {{run: Run}} props */
function RailPane({ run }) {
  const isShut = railShut.value && !narrow.value;
  if (medium.value && !narrow.value) {
    return html`<aside class="rd-rail rd-strip" aria-label="What to look at"><details open=${!isShut}
      onToggle=${(/** @type {any} */ event) => { railShut.value = !event.target.open; }}>
      <summary>What to look at</summary><div class="rd-columns"><${Rail} run=${run} /></div></details></aside>`;
  }
  if (isShut) {
    return html`<aside class="rd-rail rd-shut" aria-label="What to look at"><button type="button" class="btn"
      aria-label="Show what to look at" title="Show what to look at ( [ )" onClick=${() => { railShut.value = false; }}
      >»</button></aside>`;
  }
  return html`<aside class="rd-rail" aria-label="What to look at"><${Rail} run=${run} />
    <p class="muted rd-foot">Read-only: this page changes nothing of a run.</p></aside>`;
}

// ---- islands --------------------------------------------------------------------------------------------------------

/** @param {{run: Run}} props */
function GraphPane({ run }) {
  const host = useRef(/** @type {HTMLDivElement|null} */ (null));
  const [isAsked, setIsAsked] = useState(false);
  const graph = run.graph.value;
  const faults = findings(run, 'inconsistent').filter((found) => found.evidence.about === 'graph');
  const size = graph?.nodes.length ?? 0;
  const isDrawn = size > 0 && (size <= ASK_ABOVE || isAsked);
  useLayoutEffect(() => {
    if (!isDrawn || !graph || !host.current) {
      if (graph) markUsable();
      return undefined;
    }
    return draw(run, graph, host.current);
  }, [run, graph, isDrawn]);
  if (graph === null) {
    return html`<div class="rd-graph empty"><p>graph.json was not found for this run; dependencies unknown.</p></div>`;
  }
  if (size === 0) return html`<div class="rd-graph empty"><p>graph.json names no node.</p></div>`;
  if (!isDrawn) {
    return html`<div class="rd-graph empty"><p>${plural(size, 'node')}. Draw the graph?</p>
      <button type="button" class="btn" onClick=${() => setIsAsked(true)}>Draw it</button></div>`;
  }
  return html`<div class="rd-graph">
    ${faults.length > 0 && html`<details class="banner warn rd-banner"><summary>${faults[0].message}${faults.length > 1
    ? ` And ${plural(faults.length - 1, 'more fault')}.` : ''}</summary>
      <ul>${faults.map((found) => html`<li>${found.message}</li>`)}</ul></details>`}
    <div class="rd-graph-host" ref=${host}></div>
    <a class="visually-hidden rd-as-table" href=${href(location.pathname, { view: 'nodes' })}>View as table</a>
  </div>`;
}

/** @param {Run} run @param {{nodes: GraphNode[]}} graph @param {HTMLElement} host */
function draw(run, graph, host) {
  const key = `kahn.graph.${run.id}`;
  const dag = new Dag(host, {
    select: (/** @type {string|null} */ id, /** @type {Element} */ invoker) => {
      if (id !== null) run.open(id, invoker);
      else run.close();
    },
    open: (/** @type {string} */ id) => run.open(id),
  });
  run.dag = dag;
  dag.status(run.details.peek());
  const offs = [() => {}];
  const keep = () => sessionStorage.setItem(key, JSON.stringify(dag.view()));
  let isGone = false;
  Promise.resolve(dag.graph(graph)).then(() => {
    if (isGone) return;
    const kept = sessionStorage.getItem(key);
    if (kept) dag.restore(JSON.parse(kept));
    const node = run.node.peek();
    if (kept && node !== null) dag.show(node);
    offs.push(effect(() => dag.status(run.details.value)));
    offs.push(effect(() => dag.mark({ selected: run.node.value, critical: run.critical.value, chain: run.chain.value,
      filter: run.matching.value })));
    addEventListener('pagehide', keep);
    offs.push(() => removeEventListener('pagehide', keep), keep);
    markUsable();
  });
  return () => {
    isGone = true;
    for (const off of offs) off();
    if (run.dag === dag) run.dag = null;
    dag.destroy();
  };
}

function markUsable() {
  if (performance.getEntriesByName('scope:usable').length === 0) performance.mark('scope:usable');
}

/** The line between graph and timeline. */
function Splitter() {
  const line = useRef(/** @type {HTMLDivElement|null} */ (null));
  const [share, setShare] = useState(() => Number(localStorage.getItem('kahn.split')) || 62);
  const set = (/** @type {number} */ next) => {
    const kept = Math.round(Math.max(20, Math.min(85, next)));
    setShare(kept);
    localStorage.setItem('kahn.split', String(kept));
  };
  useLayoutEffect(() => { line.current?.parentElement?.style.setProperty('--split', String(share)); },
    [share]);
  const drag = (/** @type {PointerEvent} */ event) => {
    const own = line.current;
    const stage = own?.parentElement?.getBoundingClientRect();
    if (!own || !stage || !own.hasPointerCapture(event.pointerId)) return;
    set(((event.clientY - stage.top) / stage.height) * 100);
  };
  return html`<div ref=${line} class="rd-split" role="separator" tabindex="0" aria-orientation="horizontal"
    aria-label="Height of the graph" aria-valuenow=${share} aria-valuemin="20" aria-valuemax="85"
    onPointerDown=${(/** @type {PointerEvent} */ event) => line.current?.setPointerCapture(event.pointerId)}
    onPointerMove=${drag} onKeyDown=${(/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowUp: -5, ArrowDown: 5 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    set(share + by);
  }}></div>`;
}

const hoverMs = signal(/** @type {number|null} */ (null));

/** @param {{run: Run}} props */
function TimelinePane({ run }) {
  const host = useRef(/** @type {HTMLDivElement|null} */ (null));
  const parts = run.parts.value;
  const isFolded = run.folded.value > 0;
  useLayoutEffect(() => {
    if (!parts || !isFolded || !host.current) return undefined;
    const gantt = new parts.Gantt(host.current, {
      select: (/** @type {string} */ id, /** @type {Element} */ invoker) => run.open(id, invoker),
      hover: (/** @type {number|null} */ ms) => { hoverMs.value = ms; },
    });
    /** @type {{from: number, to: number}[]} */
    let gaps = [];
    let gapsOf = 0;
    const offs = [
      effect(() => {
        const length = run.folded.value;
        const at = run.at.value;
        if (!run.fold || length === 0 || (at !== null && at >= length)) return;
        const { effective } = run.fold;
        const isLive = at === null && run.state.value?.phase === 'live' && run.isCurrent.value;
        const last = effective[length - 1];
        const now = untracked(() => nowTick.value);
        // The axis is that of the whole run, whatever the moment knows of it.
        if (at !== null && gapsOf !== length) {
          gaps = parts.idleGaps(run.fold.spans(null, null), effective[0], last);
          gapsOf = length;
        }
        const states = run.nodeStates.value;
        const rows = run.fold.spans(isLive ? now : null, at).map((row) => (
          { ...row, running_s: states.get(row.id)?.running_s }));
        gantt.set({ rows, start: effective[0],
          end: isLive ? Math.max(now, last) : last, live: isLive, cursor: at === null ? null : effective[at],
          gaps: at === null ? undefined : gaps });
      }),
      effect(() => {
        if (run.at.value === null && run.state.value?.phase === 'live' && run.isCurrent.value) gantt.now(nowTick.value);
      }),
      effect(() => gantt.select(run.node.value)),
      effect(() => gantt.filter(run.matching.value)),
      effect(() => gantt.hairline(hoverMs.value)),
    ];
    return () => { for (const off of offs) off(); gantt.destroy(); };
  }, [run, parts, isFolded]);
  return html`<div class="rd-timeline">${!isFolded && html`<p class="empty">${run.caughtUp.value
    ? 'Waiting for the first event.' : html`<span class="rd-waiting">Reading ${plural(run.lastSeq() + 1, 'event')}…</span>`}</p>`}
    <div class="rd-timeline-host" ref=${host}></div></div>`;
}

/** @param {{run: Run}} props */
function ScrubPane({ run }) {
  const host = useRef(/** @type {HTMLDivElement|null} */ (null));
  const parts = run.parts.value;
  const isFolded = run.folded.value > 0;
  useLayoutEffect(() => {
    if (!parts || !isFolded || !host.current) return undefined;
    const scrub = new parts.Scrub(host.current, {
      seek: (/** @type {number|null} */ seq) => { run.play(null); run.seek(seq); },
      step: (/** @type {number} */ direction, /** @type {boolean} */ shift) => run.step(direction, shift),
      play: (/** @type {number|'skip'|null} */ speed) => run.play(speed),
    });
    const off = effect(() => {
      const length = run.folded.value;
      const at = run.at.value;
      const utc = settings.utc.value;
      const playing = run.playing.value;
      if (!run.fold || length === 0) return;
      const { effective, failures } = run.fold;
      const shown = at === null || at >= length ? length - 1 : at;
      scrub.set({ times: effective,
        failures, max: length - 1, at, playing, live: !run.isEnded.value,
        label: clock(effective[shown], { utc }) });
    });
    return () => { off(); scrub.destroy(); };
  }, [run, parts, isFolded]);
  return html`<div class="rd-scrub" hidden=${!isFolded && run.caughtUp.value}><div ref=${host}></div></div>`;
}

/** @param {{run: Run}} props */
function LogPane({ run }) {
  const host = useRef(/** @type {HTMLDivElement|null} */ (null));
  const parts = run.parts.value;
  useLayoutEffect(() => {
    if (!parts || !host.current) return undefined;
    const log = new parts.Log(host.current, {
      seek: (/** @type {number} */ seq) => { run.play(null); run.seek(seq); },
      select: (/** @type {string} */ id) => run.open(id, document.activeElement),
      hover: (/** @type {number|null} */ ms) => { hoverMs.value = ms; },
    });
    run.log = log;
    let given = 0;
    const offs = [
      effect(() => {
        const length = run.folded.value;
        if (length < given) {
          log.reset();
          given = 0;
        }
        if (length > given) log.append(run.entries.slice(given, length));
        given = length;
      }),
      effect(() => log.at(run.at.value)),
      effect(() => log.utc(settings.utc.value)),
      effect(() => log.hairline(hoverMs.value)),
      effect(() => log.filter({ node: run.logNode.value })),
    ];
    return () => { for (const off of offs) off(); log.destroy(); run.log = null; };
  }, [run, parts]);
  return html`<section class="rd-log" aria-label="Events" ref=${host}></section>`;
}

// ---- nodes tab ------------------------------------------------------------------------------------------------------

/**
 * @typedef {{id: string, status: string, deliverable: string, attempts: number|null, running_s: number|null,
 *   waiting_s: number|null, check: string, needs: string[], blocks: number|null}} NodeRow
 */
/** @type {{name: string, label: string, of: (row: NodeRow) => string|number|null}[]} */
const COLUMNS = [
  { name: 'state', label: 'State', of: (row) => STATUSES.indexOf(row.status) },
  { name: 'node', label: 'Node', of: (row) => row.id },
  { name: 'deliverable', label: 'Deliverable', of: (row) => row.deliverable },
  { name: 'attempts', label: 'Attempts', of: (row) => row.attempts },
  { name: 'ran', label: 'Ran', of: (row) => row.running_s },
  { name: 'waited', label: 'Waited', of: (row) => row.waiting_s },
  { name: 'check', label: 'Failing check', of: (row) => row.check },
  { name: 'needs', label: 'Needs', of: (row) => row.needs.length },
  { name: 'blocks', label: 'Blocks', of: (row) => row.blocks },
];

/** @param {Run} run @returns {NodeRow[]} */
function nodeRows(run) {
  const states = run.nodeStates.value;
  const byId = run.graph.value?.byId;
  const matching = run.matching.value;
  /** @type {Map<string, Finding>} */
  const failed = new Map(findings(run, 'failed_node').map((found) => [found.node_ids[0], found]));
  return [...run.statuses.value].filter(([id]) => !matching || matching.has(id)).map(([id, status]) => {
    const state = states.get(id);
    const evidence = status === 'failed' ? failed.get(id)?.evidence : undefined;
    return { id, status, deliverable: visible(String(byId?.get(id)?.deliverable ?? '')),
      attempts: state?.attempts ?? null, running_s: state?.running_s ?? null, waiting_s: state?.waiting_s ?? null,
      check: evidence?.check ? `${visible(evidence.check.cmd)} (${evidence.check.rc})` : '',
      needs: needsOf(byId?.get(id)), blocks: evidence?.blocks ?? null };
  });
}

/** @typedef {{name: string, direction: 'ascending'|'descending'}|null} Order */

/** @param {NodeRow[]} rows @param {Order} order */
function ordered(rows, order) {
  const column = COLUMNS.find(({ name }) => name === order?.name);
  if (!order || !column) return rows;
  const sign = order.direction === 'descending' ? -1 : 1;
  return rows.map((row) => ({ row, value: column.of(row) })).sort((a, b) => {
    if (a.value === b.value) return 0;
    if (a.value === null || a.value === '') return 1;
    if (b.value === null || b.value === '') return -1;
    return a.value < b.value ? -sign : sign;
  }).map(({ row }) => row);
}

/** @param {HTMLElement} el @param {NodeRow} row */
function nodeRow(el, row) {
  const { word } = describe('node', row.status);
  const cells = [html`${glyph('node', row.status)} ${word}`, visible(row.id), row.deliverable,
    row.attempts === null ? '' : count(row.attempts), row.running_s === null ? '' : duration(row.running_s || null),
    row.waiting_s === null ? '' : duration(row.waiting_s || null), row.check, row.needs.map(visible).join(', '),
    row.blocks === null ? '' : plural(row.blocks, 'node')];
  cells.forEach((cell, at) => {
    const target = /** @type {HTMLElement} */ (el.children[at]);
    if (typeof cell === 'string') {
      target.textContent = cell;
      target.title = cell;
    } else {
      render(cell, target);
    }
  });
}

/** @param {{run: Run}} props */
function NodesPane({ run }) {
  const host = useRef(/** @type {HTMLDivElement|null} */ (null));
  const parts = run.parts.value;
  useLayoutEffect(() => {
    if (!parts || !host.current) return undefined;
    const order = signal(/** @type {Order} */ (null));
    const list = new parts.VList(host.current, {
      key: (/** @type {NodeRow} */ row) => row.id,
      row: nodeRow,
      open: (/** @type {NodeRow} */ row, /** @type {Element} */ el) => run.open(row.id, el),
      newTab: (/** @type {NodeRow} */ row) => window.open(href(location.pathname, { node: row.id }), '_blank'),
      // Rising, falling, then the graph's order again.
      sort: (/** @type {string} */ name) => {
        const now = order.peek();
        order.value = now?.name !== name ? { name, direction: 'ascending' }
          : now.direction === 'ascending' ? { name, direction: 'descending' } : null;
        list.sorted(order.value?.name ?? null, order.value?.direction);
      },
    }, { label: 'Nodes', rowHeight: (/** @type {number} */ width) => (width < 760 ? 48 : 32),
      columns: COLUMNS.map(({ name, label }) => ({ name, label, sort: true,
      className: `rd-cell-${name}` })) });
    const off = effect(() => list.items(ordered(nodeRows(run), order.value)));
    const offSelected = effect(() => {
      const id = run.node.value;
      if (id !== null && !host.current?.contains(document.activeElement)) list.selectKey(id, true);
    });
    return () => { off(); offSelected(); list.destroy(); };
  }, [run, parts]);
  return html`<div class="rd-nodes" ref=${host}></div>`;
}
