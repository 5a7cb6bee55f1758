// The timeline of a run and the scrubber below it. Positions are per cent of the track, so a resize costs no script,
// and what grows while a run is live grows by one custom property a second.
import { count, describe, duration, plural, visible } from './fmt.js';
import { element, glyphElement, RowWindow, VList } from './list.js';

const SVG = 'http://www.w3.org/2000/svg';
const ROW = 24;
/** Idle time is drawn as a break if it is more than this part of the run; the break takes this part of the axis. */
const IDLE_PART = 0.2;
const BREAK_PART = 0.05;
const STEPS_S = [
  0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
  86400, 172800, 604800,
];
/** The axis of a live run grows by about this part of it at a time. */
const GROWTH = 8;
/** Room for a tick and its label. */
const TICK_PX = 76;

/**
 * @typedef {{from: number, to: number}} Stretch
 * @typedef {{from: number, to: number|null, attempt: number, converged: boolean|null}} Span
 * @typedef {object} GanttRow a node's times in ms; null: not so, or goes on
 * @property {string} id
 * @property {string} status
 * @property {number|null} ready
 * @property {Span[]} spans its attempts
 * @property {Stretch[]} waits pauses before a retry
 * @property {number|null} blocked
 * @property {number} [running_s] what the server counts as its time, written at the end of its bar
 */

/**
 * The idle stretches that are long enough to be drawn as breaks.
 * @param {GanttRow[]} rows of the whole run
 * @param {number} start
 * @param {number} end
 * @returns {Stretch[]}
 */
export function idleGaps(rows, start, end) {
  const busy = rows.flatMap((row) => [...row.spans, ...row.waits]).map(({ from, to }) => ({ from, to: to ?? end }));
  if (!busy.length) return [];
  busy.sort((a, b) => a.from - b.from);
  busy.push({ from: end, to: end });
  const gaps = [];
  let until = start;
  for (const { from, to } of busy) {
    if (from - until > IDLE_PART * (end - start)) gaps.push({ from: until, to: from });
    until = Math.max(until, to);
  }
  return gaps;
}

/** Time to place: linear, but for breaks, which all have one width. */
export class Axis {
  /**
   * @param {number} start
   * @param {number} end
   * @param {Stretch[]} gaps
   */
  constructor(start, end, gaps) {
    this.start = start;
    this.end = Math.max(end, start + 1);
    this.gaps = gaps;
    const idle = gaps.reduce((sum, gap) => sum + gap.to - gap.from, 0);
    const perMs = (1 - gaps.length * BREAK_PART) / Math.max(1, this.end - start - idle);
    /** @type {{from: number, to: number, x: number, width: number}[]} */
    this.pieces = [];
    let x = 0;
    let from = start;
    const add = (/** @type {number} */ to, /** @type {number} */ width) => {
      if (to > from) this.pieces.push({ from, to, x, width });
      x += width;
      from = to;
    };
    for (const gap of gaps) {
      add(gap.from, (gap.from - from) * perMs);
      add(gap.to, BREAK_PART);
    }
    add(this.end, (this.end - from) * perMs);
  }

  /** @param {number} ms @returns {number} 0 to 1 */
  at(ms) {
    const piece = this.pieces.find((each) => ms < each.to) ?? this.pieces[this.pieces.length - 1];
    const x = piece.x + ((ms - piece.from) / (piece.to - piece.from)) * piece.width;
    return Math.max(0, Math.min(1, x));
  }

  /** @param {number} x 0 to 1 @returns {number} */
  time(x) {
    const piece = this.pieces.find((each) => x < each.x + each.width) ?? this.pieces[this.pieces.length - 1];
    const ms = piece.from + ((x - piece.x) / (piece.width || 1)) * (piece.to - piece.from);
    return Math.max(this.start, Math.min(this.end, ms));
  }

  /**
   * The step between ticks, in ms.
   * @param {number} ms of busy time
   * @param {number} most ticks
   */
  static step(ms, most) {
    const seconds = STEPS_S.find((step) => ms / 1000 / step <= most);
    return 1000 * (seconds ?? Math.ceil(ms / 1000 / most / 604800) * 604800);
  }

  /** @param {number} most @returns {number[]} times of the ticks, none inside of a break */
  ticks(most) {
    const busy = this.end - this.start - this.gaps.reduce((sum, gap) => sum + gap.to - gap.from, 0);
    const step = Axis.step(busy, most);
    const ticks = [];
    for (const piece of this.pieces) {
      if (this.gaps.some((gap) => gap.from === piece.from)) continue;
      for (let at = Math.ceil((piece.from - this.start) / step) * step; this.start + at < piece.to; at += step) {
        ticks.push(this.start + at);
      }
    }
    return ticks;
  }
}

/** Per cent with as many places as a pixel needs. @param {number} x */
const percent = (x) => `${Math.round(x * 1e5) / 1e3}%`;

/**
 * @typedef {object} GanttEvents
 * @property {(id: string, invoker: HTMLElement) => void} [select]
 * @property {(ms: number|null) => void} [hover]
 */

/**
 * @typedef {object} GanttData
 * @property {GanttRow[]} rows in the order in which they are drawn; while replaying those of the moment
 * @property {number} start
 * @property {number} end of the whole run, also while replaying; of a live run the time now
 * @property {boolean} live
 * @property {number|null} cursor the moment shown, or null
 * @property {Stretch[]} [gaps] idleGaps() of the whole run, for a page that opens in replay; else they are found here
 */

/** A row per node on one axis of the whole run. */
export class Gantt {
  /**
   * @param {HTMLElement} host
   * @param {GanttEvents} on
   */
  constructor(host, on) {
    this.on = on;
    /** @type {GanttRow[]} */
    this.all = [];
    /** @type {GanttRow[]} */
    this.shown = [];
    /** @type {Set<string>|null} */
    this.wanted = null;
    /** @type {GanttData|null} */
    this.data = null;
    this.axis = new Axis(0, 1, []);
    /** The axis was made from all of the run, not from what a moment knows of it. */
    this.isWhole = false;
    this.mostTicks = GROWTH;
    this.nowMs = 0;
    /** @type {string|null} */
    this.selected = null;
    /** @type {string|null} the row that Tab reaches */
    this.activeKey = null;
    this.isOpened = false;
    /** What each row's element was drawn from. @type {WeakMap<HTMLElement, string>} */
    this.drawn = new WeakMap();
    this.edition = 0;

    this.root = element('div', 'tl');
    this.head = element('div', 'tl-head');
    this.head.setAttribute('aria-hidden', 'true');
    this.scale = element('div', 'tl-scale');
    this.head.append(element('div', 'tl-name', 'node'), this.scale);
    this.body = element('div', 'tl-body');
    this.under = element('div', 'tl-under');
    this.pane = element('div', 'tl-scroll');
    this.space = element('div', 'tl-space');
    this.space.setAttribute('role', 'listbox');
    this.space.setAttribute('aria-label', 'Timeline');
    this.nothing = element('p', 'tl-nothing muted');
    this.pane.append(this.space, this.nothing);
    this.over = element('div', 'tl-over');
    this.nowLine = element('div', 'tl-line tl-now');
    this.cursorLine = element('div', 'tl-line tl-cursor');
    this.hairLine = element('div', 'tl-line tl-hair');
    this.hairLabel = element('div', 'tl-hairlabel num');
    this.over.append(this.nowLine, this.cursorLine, this.hairLine);
    for (const line of [this.nowLine, this.cursorLine, this.hairLine, this.hairLabel]) line.hidden = true;
    this.body.append(this.under, this.pane, this.over);
    this.root.append(this.head, this.body);
    host.replaceChildren(this.root);

    this.rows = new RowWindow(this.space, ROW, {
      total: () => this.shown.length,
      key: (index) => this.shown[index].id,
      make: (index) => this.make(index),
      place: (el, index) => this.fill(el, index),
      pinned: () => (this.activeKey === null ? -1 : this.shown.findIndex((row) => row.id === this.activeKey)),
      shown: () => this.rows.tabStop(this.activeKey),
    }, this.head);

    this.abort = new AbortController();
    const { signal } = this.abort;
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.pane);
    this.space.addEventListener('click', (event) => this.click(event), { signal });
    this.space.addEventListener('keydown', (event) => this.keydown(event), { signal });
    this.space.addEventListener('focusin', (event) => this.focusin(event), { signal });
    this.body.addEventListener('pointermove', (event) => this.hovered(event), { signal });
    this.body.addEventListener('pointerleave', () => this.on.hover?.(null), { signal });
    this.body.addEventListener('pointerleave', () => this.hairline(null), { signal });
    this.paintNothing();
  }

  destroy() {
    this.abort.abort();
    this.observer.disconnect();
    this.rows.destroy();
    this.root.remove();
  }

  /** @param {GanttData} data */
  set(data) {
    const before = this.data;
    this.data = data;
    // A node has a row from its start on, or from when it was blocked.
    this.all = data.rows.filter((row) => row.spans.length > 0 || row.blocked !== null);
    if (!before || data.live) this.nowMs = Math.max(this.nowMs, data.end);
    if (!data.live) this.nowMs = data.end;
    this.fitAxis(before);
    this.apply();
    this.paintLines();
    this.open();
  }

  /**
   * The axis holds still while replaying, and grows by whole ticks while live.
   * @param {GanttData|null} before
   */
  fitAxis(before) {
    const { rows, start, live, cursor, gaps } = /** @type {GanttData} */ (this.data);
    let end = Math.max(live ? this.nowMs : 0, this.data?.end ?? 0);
    const replaying = cursor !== null;
    const kept = before !== null && replaying && before.start === start;
    // A page opened in replay may still be loading: until then its axis only grows.
    if (kept && (this.isWhole ? /** @type {number} */ (cursor) : end) <= this.axis.end) return;
    const known = kept && (this.isWhole || !gaps) ? this.axis.gaps : gaps;
    const idle = known ?? idleGaps(rows, start, live || replaying ? lastWork(rows, start) : end);
    if (live || kept) {
      const step = Axis.step(end - start, GROWTH);
      end = start + Math.max(1, Math.ceil(((end - start) * 1.01) / step)) * step;
    }
    this.isWhole = !replaying || this.isWhole && kept;
    const axis = new Axis(start, end, idle.filter((gap) => gap.to - gap.from > IDLE_PART * (end - start)));
    if (before && JSON.stringify(axis.pieces) === JSON.stringify(this.axis.pieces)) return;
    this.axis = axis;
    this.edition++;
    this.paintAxis();
  }

  /** @param {number} ms the time now of a live run: bars that go on end there */
  now(ms) {
    if (!this.data?.live || ms <= this.nowMs) return;
    this.nowMs = ms;
    if (ms > this.axis.end && this.data.cursor === null) {
      this.fitAxis(this.data);
      this.rows.render(true, true);
    }
    this.paintLines();
  }

  /** @param {Set<string>|null} ids only these rows */
  filter(ids) {
    this.wanted = ids;
    this.apply();
  }

  apply() {
    const { wanted } = this;
    this.shown = wanted ? this.all.filter((row) => wanted.has(row.id)) : this.all;
    this.rows.update(false);
    this.paintNothing();
  }

  paintNothing() {
    this.nothing.hidden = this.shown.length > 0;
    this.nothing.textContent = this.all.length ? 'No started node passes the filter.' : 'No node has started.';
  }

  resized() {
    this.root.style.setProperty('--tl-bar', `${this.pane.offsetWidth - this.pane.clientWidth}px`);
    const most = Math.max(2, Math.floor(this.scale.clientWidth / TICK_PX));
    if (most !== this.mostTicks) {
      this.mostTicks = most;
      this.paintAxis();
    }
    this.open();
  }

  /** Once: the first failed row, else the first running one, is in sight. */
  open() {
    if (this.isOpened || !this.shown.length || !this.pane.clientHeight) return;
    this.isOpened = true;
    if (this.rows.scroller !== this.pane) return;
    const failed = this.shown.findIndex((row) => row.status === 'failed');
    const index = failed >= 0 ? failed : this.shown.findIndex((row) => row.status === 'running');
    if (index < 0) return;
    this.rows.scrollTo(Math.max(0, index - 2) * ROW);
    this.rows.render(false);
  }

  /** @param {string|null} id */
  select(id) {
    this.selected = id;
    if (id !== null) this.activeKey = id;
    for (const [key, el] of this.rows.rows) this.paintSelected(el, key);
    const index = id === null ? -1 : this.shown.findIndex((row) => row.id === id);
    // Under the pointer nothing moves: who clicks here sees the row already.
    if (index >= 0 && this.rows.scroller === this.pane && !this.space.matches(':hover')) this.rows.reveal(index);
    this.rows.tabStop(this.activeKey);
  }

  /**
   * @param {HTMLElement} el
   * @param {string} key
   */
  paintSelected(el, key) {
    el.classList.toggle('tl-selected', key === this.selected);
    el.setAttribute('aria-selected', String(key === this.selected));
  }

  /** @param {number|null} ms */
  hairline(ms) {
    const inside = ms !== null && ms >= this.axis.start && ms <= this.axis.end;
    this.hairLine.hidden = !inside;
    this.hairLabel.hidden = !inside;
    if (!inside) return;
    const x = this.axis.at(ms);
    this.hairLine.style.left = percent(x);
    this.hairLabel.style.left = percent(x);
    this.hairLabel.classList.toggle('tl-left', x > 0.9);
    this.hairLabel.textContent = duration((ms - this.axis.start) / 1000);
  }

  paintLines() {
    if (!this.data) return;
    const { live, cursor } = this.data;
    const until = cursor ?? this.nowMs;
    this.root.style.setProperty('--tl-until', String(Math.round(this.axis.at(until) * 1e5) / 1e3));
    this.nowLine.hidden = !live;
    if (live) this.nowLine.style.left = percent(this.axis.at(this.nowMs));
    this.cursorLine.hidden = cursor === null;
    if (cursor !== null) this.cursorLine.style.left = percent(this.axis.at(cursor));
  }

  paintAxis() {
    const { axis } = this;
    this.scale.replaceChildren(this.hairLabel);
    this.under.replaceChildren();
    const breaks = axis.gaps.map((gap) => ({ ...gap, x: axis.at(gap.from) }));
    for (const ms of axis.ticks(this.mostTicks)) {
      const x = axis.at(ms);
      const line = element('div', 'tl-grid');
      line.style.left = percent(x);
      this.under.append(line);
      const hidden = breaks.some((gap) => x > gap.x - 0.06 && x < gap.x + BREAK_PART + 0.06);
      if (hidden || x > 0.97) continue;
      const label = element('span', 'tl-tick num', x === 0 ? '0' : duration((ms - axis.start) / 1000));
      label.classList.toggle('tl-first', x === 0);
      label.style.left = percent(x);
      this.scale.append(label);
    }
    for (const gap of breaks) {
      const band = element('div', 'tl-break');
      band.style.left = percent(gap.x);
      band.style.width = percent(BREAK_PART);
      this.under.append(band);
      const words = duration((gap.to - gap.from) / 1000);
      const label = element('span', 'tl-tick tl-breaklabel num', `‖ ${words} ‖`);
      label.title = `Nothing ran for ${words}: this part is drawn short`;
      label.style.left = percent(gap.x + BREAK_PART / 2);
      this.scale.append(label);
    }
  }

  /** @param {number} index */
  make(index) {
    const el = element('div', 'tl-row');
    el.setAttribute('role', 'option');
    this.fill(el, index);
    return el;
  }

  /**
   * @param {HTMLElement} el
   * @param {number} index
   */
  fill(el, index) {
    const row = this.shown[index];
    el.setAttribute('aria-posinset', String(index + 1));
    el.setAttribute('aria-setsize', String(this.shown.length));
    this.paintSelected(el, row.id);
    // An open end is drawn as far as the moment reaches, whatever it was at when the row was made.
    const goesOn = isOpen(row);
    const drawing = JSON.stringify(row, (key, value) => (key === 'to' && goesOn ? 0 : value));
    const signature = `${this.edition} ${drawing}`;
    if (this.drawn.get(el) === signature) return;
    this.drawn.set(el, signature);
    el.dataset.id = row.id;
    const words = this.words(row);
    el.setAttribute('aria-label', words);
    el.title = words;
    const name = element('div', 'tl-name');
    name.append(glyphElement('node', row.status), element('span', 'tl-id mono', visible(row.id)));
    el.replaceChildren(name, this.track(row));
  }

  /** A row in words, for who cannot see the bars. @param {GanttRow} row */
  words(row) {
    const since = (/** @type {number} */ ms) => duration((ms - this.axis.start) / 1000);
    const parts = [visible(row.id), describe('node', row.status).word];
    const [first] = row.spans;
    if (row.ready !== null && (!first || first.from > row.ready)) {
      parts.push(first ? `waited ${duration((first.from - row.ready) / 1000)}` : `ready ${since(row.ready)} into the run`);
    }
    if (first) {
      parts.push(`started ${since(first.from)} into the run`);
      if (row.running_s !== undefined && !isOpen(row)) parts.push(`ran for ${duration(row.running_s)}`);
      if (row.spans.length > 1) parts.push(plural(row.spans.length, 'attempt'));
    }
    if (row.blocked !== null) parts.push(`blocked ${since(row.blocked)} into the run`);
    return parts.join(', ');
  }

  /** @param {GanttRow} row */
  track(row) {
    const track = element('div', 'tl-track');
    const { axis } = this;
    const put = (/** @type {string} */ className, /** @type {number} */ from, /** @type {number|null} */ to) => {
      const part = element('div', className);
      const x = axis.at(from);
      part.style.left = percent(x);
      part.style.width = to !== null ? percent(axis.at(to) - x)
        : `calc((var(--tl-until) - ${Math.round(x * 1e5) / 1e3}) * 1%)`;
      track.append(part);
    };
    const [first] = row.spans;
    const waitEnds = first ? first.from : row.blocked;
    if (row.ready !== null && (waitEnds === null || waitEnds > row.ready)) put('tl-ready', row.ready, waitEnds);
    for (const wait of row.waits) put('tl-wait', wait.from, wait.to);
    const { tone } = describe('node', row.status);
    const goesOn = isOpen(row);
    row.spans.forEach((span, at) => {
      const isLast = at === row.spans.length - 1;
      const joined = at > 0 && axis.at(span.from) - axis.at(row.spans[at - 1].to ?? span.from) < 0.002;
      put(`tl-span tone-${tone}${joined ? ' tl-joined' : ''}`, span.from, isLast && goesOn ? null : span.to);
    });
    const last = row.spans[row.spans.length - 1];
    if (last && last.to !== null && !goesOn && row.running_s !== undefined) {
      const x = axis.at(last.to);
      const before = x > 0.9;
      const label = element('span', 'tl-took num', duration(row.running_s));
      label.classList.toggle('tl-before', before);
      label.style.left = percent(before ? axis.at(first.from) : x);
      track.append(label);
    }
    if (row.blocked !== null) {
      const mark = element('div', 'tl-blocked');
      mark.append(glyphElement('node', 'blocked'));
      mark.style.left = percent(axis.at(row.blocked));
      track.append(mark);
    }
    return track;
  }

  /** @param {PointerEvent} event */
  hovered(event) {
    if (event.pointerType === 'touch') return;
    const box = this.over.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const ms = x >= 0 && x <= 1 ? this.axis.time(x) : null;
    this.hairline(ms);
    this.on.hover?.(ms);
  }

  /** @param {EventTarget|null} target @returns {HTMLElement|null} */
  static rowOf(target) {
    return /** @type {Element} */ (target).closest('.tl-row');
  }

  /** @param {MouseEvent} event */
  click(event) {
    const el = Gantt.rowOf(event.target);
    if (!el?.dataset.id) return;
    el.focus({ preventScroll: true });
    this.on.select?.(el.dataset.id, el);
  }

  /** @param {FocusEvent} event */
  focusin(event) {
    const el = Gantt.rowOf(event.target);
    if (!el) return;
    this.activeKey = el.dataset.id ?? null;
    this.rows.tabStop(this.activeKey);
  }

  /** @param {KeyboardEvent} event */
  keydown(event) {
    const el = Gantt.rowOf(event.target);
    if (!el?.dataset.id || event.defaultPrevented) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const at = this.rows.places.get(el.dataset.id) ?? 0;
    const page = Math.max(1, Math.floor(this.rows.view().height / ROW) - 1);
    if ((event.key === 'j' || event.key === 'k') && !VList.letters) return;
    switch (event.key) {
      case 'ArrowDown': case 'j': this.focusRow(at + 1); break;
      case 'ArrowUp': case 'k': this.focusRow(at - 1); break;
      case 'PageDown': this.focusRow(at + page); break;
      case 'PageUp': this.focusRow(at - page); break;
      case 'Home': this.focusRow(0); break;
      case 'End': this.focusRow(this.shown.length - 1); break;
      case 'Enter': this.on.select?.(el.dataset.id, el); break;
      default: return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} index */
  focusRow(index) {
    const to = Math.max(0, Math.min(this.shown.length - 1, index));
    this.activeKey = this.shown[to].id;
    this.rows.reveal(to);
    this.rows.render(false, true);
    this.rows.rows.get(this.activeKey)?.focus({ preventScroll: true });
  }
}

/** Its last attempt goes on. @param {GanttRow} row */
function isOpen(row) {
  const last = row.spans[row.spans.length - 1];
  return !!last && (last.to === null || (row.status === 'running' && last.converged === null));
}

/**
 * When the last work so far ended or began: idle time after it is no break yet, something may still come.
 * @param {GanttRow[]} rows
 * @param {number} start
 */
function lastWork(rows, start) {
  let last = start;
  for (const row of rows) for (const span of row.spans) last = Math.max(last, span.to ?? span.from);
  return last;
}

/** @typedef {number|'skip'} Speed times real time, or from event to event */

/**
 * @typedef {object} ScrubEvents
 * @property {(seq: number|null) => void} [seek] null: back to live
 * @property {(dir: 1|-1, shift: boolean) => void} [step] shift: to the next change of the selected node
 * @property {(speed: Speed|null) => void} [play] null: pause
 */

/**
 * @typedef {object} ScrubData
 * @property {Float64Array} times effective time of each seq, in ms
 * @property {number[]} failures seqs
 * @property {number} max the last seq
 * @property {number|null} at the moment shown; null: the latest
 * @property {string} label the moment's time, as printed beside the slider
 * @property {Speed|null} playing its speed, or null
 * @property {boolean} [live] false: the run has ended, so the way back is called End
 */

/** @type {{words: string, speed: Speed}[]} */
const SPEEDS = [
  { words: '1×', speed: 1 },
  { words: '10×', speed: 10 },
  { words: '60×', speed: 60 },
  { words: 'Skip idle', speed: 'skip' },
];
const BIN_PX = 5;
const TALL = 24;
/** The thumb's width, which the histogram keeps clear at both sides so that bars stand where the thumb points. */
const THUMB = 16;

/** The slider over effective time, with what happened when drawn behind it. */
export class Scrub {
  /**
   * @param {HTMLElement} host
   * @param {ScrubEvents} on
   */
  constructor(host, on) {
    this.on = on;
    /** @type {ScrubData|null} */
    this.data = null;
    /** @type {Speed} */
    this.speed = 10;
    this.drawn = '';
    this.drawnAt = -Infinity;
    this.redraw = 0;

    this.root = element('div', 'sc');
    this.root.setAttribute('role', 'group');
    this.root.setAttribute('aria-label', 'Replay');
    this.back = this.button('sc-back', 'Step back (,)', BACK);
    this.toggle = this.button('sc-play', 'Play (space)', PLAY);
    this.forth = this.button('sc-forth', 'Step forward (.)', FORTH);
    this.speeds = document.createElement('select');
    this.speeds.className = 'sc-speed';
    this.speeds.setAttribute('aria-label', 'Speed');
    for (const { words, speed } of SPEEDS) this.speeds.append(new Option(words, String(speed)));
    this.speeds.value = String(this.speed);
    this.track = element('div', 'sc-track');
    this.chart = document.createElementNS(SVG, 'svg');
    this.chart.setAttribute('class', 'sc-chart');
    this.chart.setAttribute('aria-hidden', 'true');
    this.chart.setAttribute('preserveAspectRatio', 'none');
    this.range = document.createElement('input');
    this.range.type = 'range';
    this.range.className = 'sc-range';
    this.range.min = '0';
    this.range.step = '1';
    this.range.setAttribute('aria-label', 'Moment');
    this.track.append(this.chart, this.range);
    this.label = element('span', 'sc-label mono num');
    this.live = element('button', 'btn sc-live', 'Live');
    this.live.setAttribute('type', 'button');
    this.root.append(this.back, this.toggle, this.forth, this.speeds, this.track, this.label, this.live);
    host.replaceChildren(this.root);

    for (const [button, direction] of /** @type {const} */ ([[this.back, -1], [this.forth, 1]])) {
      button.addEventListener('click', (event) => {
        if (button.getAttribute('aria-disabled') !== 'true') this.on.step?.(direction, event.shiftKey);
      });
    }
    this.toggle.addEventListener('click', () => this.on.play?.(this.data?.playing ? null : this.speed));
    this.live.addEventListener('click', () => this.on.seek?.(null));
    this.speeds.addEventListener('change', () => {
      this.speed = SPEEDS.find(({ speed }) => String(speed) === this.speeds.value)?.speed ?? this.speed;
      if (this.data?.playing) this.on.play?.(this.speed);
    });
    this.range.addEventListener('input', () => this.dragged());
    this.range.addEventListener('keydown', (event) => this.keydown(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.track);
  }

  destroy() {
    this.observer.disconnect();
    clearTimeout(this.redraw);
    this.root.remove();
  }

  /**
   * @param {string} className
   * @param {string} label
   * @param {string} path static markup
   */
  button(className, label, path) {
    const button = document.createElement('button');
    button.className = `btn sc-button ${className}`;
    button.type = 'button';
    button.setAttribute('aria-label', label);
    button.title = label;
    button.innerHTML = `<svg class="sc-icon" viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`;
    return button;
  }

  /** @param {ScrubData} data */
  set(data) {
    const wasPlaying = this.data?.playing ?? null;
    this.data = data;
    const { times, max, at, label, playing } = data;
    const start = times[0] ?? 0;
    const seq = at ?? max;
    const empty = max < 0 || !times.length;
    this.range.max = String(empty ? 1 : Math.max(1, Math.ceil(times[max] - start)));
    this.range.value = empty || at === null ? this.range.max : String(times[seq] - start);
    this.range.style.setProperty('--sc-done', percent(Number(this.range.value) / Number(this.range.max)));
    const words = empty ? 'no event yet' : `${label}, event ${count(seq)} of ${count(max)}`;
    this.range.setAttribute('aria-valuetext', words);
    for (const control of [this.range, this.toggle]) control.disabled = empty;
    // Not disabled: who steps to the end by the button keeps the focus there.
    this.back.setAttribute('aria-disabled', String(empty || seq <= 0));
    this.forth.setAttribute('aria-disabled', String(empty || at === null));
    this.label.textContent = label;
    this.live.textContent = data.live === false ? 'End' : 'Live';
    this.live.setAttribute('aria-pressed', String(at === null));
    if ((playing === null) !== (wasPlaying === null)) {
      const does = playing ? 'Pause (space)' : 'Play (space)';
      this.toggle.setAttribute('aria-label', does);
      this.toggle.title = does;
      /** @type {Element} */ (this.toggle.firstElementChild).innerHTML = playing ? PAUSE : PLAY;
    }
    if (playing) {
      this.speed = playing;
      this.speeds.value = String(playing);
    }
    this.draw();
  }

  /** @param {number} ms since the start @returns {number} the last seq up to then */
  seqAt(ms) {
    const { times, max } = /** @type {ScrubData} */ (this.data);
    let low = 0;
    let high = max + 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] - times[0] <= ms) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  dragged() {
    const value = Number(this.range.value);
    const atEnd = value >= Number(this.range.max);
    this.on.seek?.(atEnd ? null : this.seqAt(value));
  }

  /** Keys step by event, not by time: several events may share a moment. @param {KeyboardEvent} event */
  keydown(event) {
    if (!this.data || event.ctrlKey || event.metaKey || event.altKey) return;
    const { max, at } = this.data;
    const seq = at ?? max;
    switch (event.key) {
      case 'ArrowLeft': case 'ArrowDown': this.on.step?.(-1, event.shiftKey); break;
      case 'ArrowRight': case 'ArrowUp': this.on.step?.(1, event.shiftKey); break;
      case 'PageDown': this.on.seek?.(Math.max(0, seq - 10)); break;
      case 'PageUp': this.on.seek?.(seq + 10 > max ? null : seq + 10); break;
      case 'Home': this.on.seek?.(0); break;
      case 'End': this.on.seek?.(null); break;
      default: return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** The histogram, once a second at most while events come. */
  draw() {
    if (!this.data) return;
    const { times, failures, max } = this.data;
    const width = Math.floor(this.track.clientWidth) - THUMB;
    const state = `${width} ${max} ${times[0]} ${failures.length}`;
    if (width <= 0 || state === this.drawn) return;
    clearTimeout(this.redraw);
    const wait = 1000 - (performance.now() - this.drawnAt);
    if (wait > 0 && this.drawn.startsWith(`${width} `)) {
      this.redraw = window.setTimeout(() => this.draw(), wait);
      return;
    }
    this.drawn = state;
    this.drawnAt = performance.now();
    const bins = Math.max(1, Math.floor(width / BIN_PX));
    const events = new Uint32Array(bins);
    const failed = new Uint8Array(bins);
    const span = Math.max(1, times[max] - times[0]);
    const binOf = (/** @type {number} */ seq) => {
      return Math.min(bins - 1, Math.floor(((times[seq] - times[0]) / span) * bins));
    };
    for (let seq = 0; seq <= max; seq++) events[binOf(seq)]++;
    for (const seq of failures) if (seq <= max) failed[binOf(seq)] = 1;
    let most = 1;
    for (const n of events) most = Math.max(most, n);
    let plain = '';
    let bad = '';
    for (let bin = 0; bin < bins; bin++) {
      const x = bin * BIN_PX + 1;
      // A square root keeps single events visible beside bursts.
      const tall = events[bin] ? Math.max(2, Math.round(Math.sqrt(events[bin] / most) * (TALL - 6))) : 0;
      if (failed[bin]) bad += `M${x} ${TALL}V2h-1V0h${BIN_PX}V2h-1V${TALL}z`;
      else if (tall) plain += `M${x} ${TALL}v${-tall}h${BIN_PX - 2}v${tall}z`;
    }
    this.chart.setAttribute('viewBox', `0 0 ${bins * BIN_PX} ${TALL}`);
    this.chart.innerHTML = '<path class="sc-events"/><path class="sc-failures"/>';
    this.chart.children[0].setAttribute('d', plain);
    this.chart.children[1].setAttribute('d', bad);
  }
}

const BACK = '<path d="M4 2h2v12H4zM14 2v12L6.5 8z" fill="currentColor"/>';
const FORTH = '<path d="M10 2h2v12h-2zM2 2v12l7.5-6z" fill="currentColor"/>';
const PLAY = '<path d="M3 2l11 6-11 6z" fill="currentColor"/>';
const PAUSE = '<path d="M3 2h4v12H3zM9 2h4v12H9z" fill="currentColor"/>';
