/**
 * Where each node stood after each event of a log, for live, replay and timeline alike. Pure: no clock, no page.
 *
 * It folds statuses only, as the server does: a move sets where a node stands whatever it says it came from, and a node
 * outside the graph is pending from the first event that names it. All else about a moment is asked with `at_seq`.
 */

/**
 * @typedef {'pending'|'ready'|'running'|'done'|'failed'|'blocked'} NodeStatus
 * @typedef {{seq: number, node_id: string, status: NodeStatus}} Change
 * @typedef {{from: number, to: number|null, attempt: number, converged: boolean|null}} Span
 *   an attempt; `to` and `converged` are null while it goes on
 * @typedef {{id: string, status: NodeStatus, ready: number|null, spans: Span[], waits: {from: number, to: number}[],
 *   blocked: number|null}} Row
 *   milliseconds of effective time; `ready` is when it first became ready, `waits` are pauses before a retry
 * @typedef {{seq: number, status: NodeStatus, attempt: number|null}} Move
 * @typedef {{seq: number, attempt: number, took: number, paused: boolean, converged: boolean}} Attempt
 * @typedef {{moves: (Move|Attempt)[], changes: number[]}} History
 *   what one node's events said, and the seqs at which its status changed
 */

/** @type {readonly NodeStatus[]} */
export const NODE_STATUSES = ['pending', 'ready', 'running', 'done', 'failed', 'blocked'];

/** @type {ReadonlyMap<string, number>} */
const CODES = new Map(NODE_STATUSES.map((status, code) => [status, code]));

/** A snapshot of all statuses is kept every so many changes, or every node's worth, whichever is more. */
const CHANGES_A_SNAPSHOT = 256;

export class Fold {
  /** Every change of a node's status, in log order. @type {Change[]} */
  changes = [];
  /** Seqs of what went wrong: a node or an agent that failed, an attempt, a tool call or an audit. @type {number[]} */
  failures = [];
  /** How many events were folded: the seq of the next. */
  length = 0;

  /** @type {string[]} the graph's nodes, then the others as they appeared */
  #ids = [];
  /** @type {Map<string, number>} */
  #index = new Map();
  /** @type {number[]} seq at which each node outside the graph appeared */
  #appeared = [];
  #planned = 0;
  /** @type {number[]} codes of the statuses now */
  #now = [];
  /** @type {History[]} */
  #histories = [];
  /** @type {number[]} seqs of the changes */
  #changeSeqs = [];
  /** @type {Uint8Array[]} codes after each so many changes */
  #snapshots = [];
  #snapshotEvery = CHANGES_A_SNAPSHOT;
  /** @type {{seqs: number[], statuses: string[]}} */
  #agent = { seqs: [], statuses: [] };
  #times = new Float64Array(1024);
  /** @type {number[]} seqs of end events */
  #ends = [];

  /** @param {Iterable<string>} graphNodeIds  in graph order */
  constructor(graphNodeIds) {
    for (const id of graphNodeIds) if (!this.#index.has(id)) this.#addNode(id);
    this.#planned = this.#ids.length;
    this.#snapshotEvery = Math.max(CHANGES_A_SNAPSHOT, this.#planned);
    this.#snapshots.push(Uint8Array.from(this.#now));
  }

  /**
   * Effective time of each event: the running maximum of ts, so that a clock that steps back reorders nothing.
   * @returns {Float64Array}
   */
  get effective() {
    return this.#times.subarray(0, this.length);
  }

  /**
   * Takes the next event of the log.
   * @param {any} event
   */
  push(event) {
    const seq = this.length++;
    this.#keepTime(seq, Date.parse(event.ts));
    switch (event.event) {
      case 'node_transition':
        this.#move(seq, event);
        break;
      case 'node_attempt':
        this.#histories[this.#nodeOf(event.node_id, seq)].moves.push({
          seq,
          attempt: event.attempt,
          took: event.duration_s * 1000,
          paused: event.attempt > 1 && event.backoff_s > 0,
          converged: event.converged,
        });
        if (!event.converged) this.failures.push(seq);
        break;
      case 'agent_transition':
        this.#agent.seqs.push(seq);
        this.#agent.statuses.push(event.to);
        if (event.to === 'failed') this.failures.push(seq);
        break;
      case 'tool_invocation':
        if (!event.ok) this.failures.push(seq);
        break;
      case 'audit_checkpoint':
        if (event.result === 'fail') this.failures.push(seq);
        break;
      case 'run_end':
      case 'agent_run_end':
        this.#ends.push(seq);
        break;
    }
  }

  /**
   * Where each node stood after the event `seq` (null: now), in graph order, then by first appearance.
   * @param {number|null} seq
   * @returns {Map<string, NodeStatus>}
   */
  statusAt(seq) {
    const last = this.#lastOf(seq);
    const changed = countUpTo(this.#changeSeqs, last);
    const snapshot = Math.min(Math.floor(changed / this.#snapshotEvery), this.#snapshots.length - 1);
    const known = this.#planned + countUpTo(this.#appeared, last);
    const codes = new Uint8Array(known);
    codes.set(this.#snapshots[snapshot].subarray(0, known));
    for (let at = snapshot * this.#snapshotEvery; at < changed; at++) {
      const { node_id, status } = this.changes[at];
      codes[/** @type {number} */ (this.#index.get(node_id))] = /** @type {number} */ (CODES.get(status));
    }
    /** @type {Map<string, NodeStatus>} */
    const statuses = new Map();
    for (let node = 0; node < known; node++) statuses.set(this.#ids[node], NODE_STATUSES[codes[node]]);
    return statuses;
  }

  /**
   * How many nodes stand where.
   * @param {Map<string, NodeStatus>} statuses
   * @returns {Record<NodeStatus|'total', number>}
   */
  counts(statuses) {
    const counts = { total: statuses.size, pending: 0, ready: 0, running: 0, done: 0, failed: 0, blocked: 0 };
    for (const status of statuses.values()) counts[status]++;
    return counts;
  }

  /**
   * Where the agent stood after the event `seq` (null: now); null before its first move.
   * @param {number|null} seq
   * @returns {string|null}
   */
  agentStatusAt(seq) {
    const moved = countUpTo(this.#agent.seqs, this.#lastOf(seq));
    return moved ? this.#agent.statuses[moved - 1] : null;
  }

  /**
   * The nearest change of a node's status (of any node's, when it is null) after or before the event `seq`.
   * @param {string|null} node_id
   * @param {number} seq
   * @param {number} dir  positive: after, negative: before
   * @returns {number|null}
   */
  nextChange(node_id, seq, dir) {
    const node = node_id === null ? -1 : this.#index.get(node_id);
    if (node === undefined) return null;
    const seqs = node < 0 ? this.#changeSeqs : this.#histories[node].changes;
    const at = dir > 0 ? countUpTo(seqs, seq) : countUpTo(seqs, seq - 1) - 1;
    return seqs[at] ?? null;
  }

  /**
   * Rows of the timeline after the event `seq` (null: now): nodes that have started, by first start, then those that
   * wait or are blocked, by when they came to. What is still open ends at `nowMs`, or stays open (null) without it; the
   * end of a run ends all.
   * @param {number|null} nowMs
   * @param {number|null} seq
   * @returns {Row[]}
   */
  spans(nowMs, seq) {
    const last = this.#lastOf(seq);
    const until = countUpTo(this.#ends, last) ? this.#times[last] : nowMs;
    const rows = [];
    for (let node = 0; node < this.#ids.length; node++) {
      const row = drawn(this.#ids[node], this.#histories[node].moves, last, this.#times, until);
      if (row.ready !== null || row.spans.length || row.blocked !== null) rows.push(row);
    }
    const key = (/** @type {Row} */ row) => row.spans[0]?.from ?? row.blocked ?? row.ready ?? 0;
    const group = (/** @type {Row} */ row) => (row.spans.length ? 0 : 1);
    return rows.sort((a, b) => group(a) - group(b) || key(a) - key(b));
  }

  /** @param {number|null} seq */
  #lastOf(seq) {
    return seq === null ? this.length - 1 : Math.min(seq, this.length - 1);
  }

  /**
   * @param {number} seq
   * @param {number} ms
   */
  #keepTime(seq, ms) {
    if (seq === this.#times.length) {
      const times = new Float64Array(seq * 2);
      times.set(this.#times);
      this.#times = times;
    }
    this.#times[seq] = seq ? Math.max(ms, this.#times[seq - 1]) : ms;
  }

  /** @param {string} id */
  #addNode(id) {
    this.#index.set(id, this.#ids.length);
    this.#now.push(0);
    this.#histories.push({ moves: [], changes: [] });
    return this.#ids.push(id) - 1;
  }

  /**
   * @param {string} id
   * @param {number} seq
   */
  #nodeOf(id, seq) {
    const known = this.#index.get(id);
    if (known !== undefined) return known;
    this.#appeared.push(seq);
    return this.#addNode(id);
  }

  /**
   * @param {number} seq
   * @param {{node_id: string, to: NodeStatus, attempt?: number}} event
   */
  #move(seq, event) {
    const node = this.#nodeOf(event.node_id, seq);
    const code = /** @type {number} */ (CODES.get(event.to));
    const history = this.#histories[node];
    history.moves.push({ seq, status: event.to, attempt: event.attempt ?? null });
    if (event.to === 'failed') this.failures.push(seq);
    if (this.#now[node] === code) return;
    this.#now[node] = code;
    history.changes.push(seq);
    this.changes.push({ seq, node_id: event.node_id, status: event.to });
    this.#changeSeqs.push(seq);
    if (this.changes.length % this.#snapshotEvery === 0) this.#snapshots.push(Uint8Array.from(this.#now));
  }
}

/**
 * How many of the rising numbers are at most `most`.
 * @param {number[]} rising
 * @param {number} most
 */
function countUpTo(rising, most) {
  let low = 0, high = rising.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] <= most) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * One row of the timeline.
 * @param {string} id
 * @param {(Move|Attempt)[]} moves
 * @param {number} last  seq of the last event that counts
 * @param {Float64Array} times  effective time of each event
 * @param {number|null} until  where open spans end
 * @returns {Row}
 */
function drawn(id, moves, last, times, until) {
  /** @type {Row} */
  const row = { id, status: 'pending', ready: null, spans: [], waits: [], blocked: null };
  /** Since when the present attempt runs, or the wait for it goes on. */
  let since = 0;
  let attempt = 0;
  /** Whether an attempt of the present time in running was told. */
  let told = false;
  for (const move of moves) {
    if (move.seq > last) break;
    const ms = times[move.seq];
    if ('took' in move) {
      const isRunning = row.status === 'running';
      const began = Math.max(isRunning ? since : -Infinity, ms - move.took);
      const from = isRunning && !(told && move.paused) ? since : began;
      if (isRunning && from > since) row.waits.push({ from: since, to: from });
      row.spans.push({ from, to: ms, attempt: move.attempt, converged: move.converged });
      [since, attempt, told] = [ms, move.attempt + 1, true];
      continue;
    }
    const was = row.status;
    if (move.status === 'running' && move.attempt !== null) attempt = move.attempt;
    if (move.status === was) continue;
    if (was === 'running' && !told) {
      row.spans.push({ from: since, to: ms, attempt, converged: move.status === 'done' });
    }
    if (was === 'ready' && row.spans.length) row.waits.push({ from: since, to: ms });
    if (move.status === 'ready') row.ready ??= ms;
    row.blocked = move.status === 'blocked' ? ms : null;
    [row.status, since, told] = [move.status, ms, false];
  }
  const isOver = row.spans.at(-1)?.converged === true;
  if (row.status === 'running' && !(told && isOver)) {
    row.spans.push({ from: since, to: until, attempt, converged: null });
  }
  if (row.status === 'ready' && row.spans.length) row.waits.push({ from: since, to: until ?? times[last] });
  return row;
}
