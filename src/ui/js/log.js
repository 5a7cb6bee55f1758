// The event log of a run: file order, windowed, following the end until the reader does anything else.
import { clock, count, parse, visible } from './fmt.js';
import { NARROW, RowWindow, VList, element, fromControl, glyphElement, textSelected } from './list.js';

const END_TOLERANCE = 24;

/**
 * One line of the event log.
 * @typedef {object} LogItem
 * @property {number} seq
 * @property {string} ts
 * @property {string} event the event's name, shown as its kind
 * @property {string|null} node_id
 * @property {string} text the sentence
 * @property {string|null} [tone]
 * @property {string|null} [set] with value: the glyph before the sentence
 * @property {string|null} [value]
 * @property {boolean} [backwards] its time is before that of the event before it
 */

/**
 * @typedef {object} LogEvents
 * @property {(seq: number) => void} [seek] a line was clicked, or Enter pressed on it
 * @property {(node_id: string) => void} [select] the node of a line
 * @property {(ms: number|null) => void} [hover] the pointer is on the line of this effective time
 * @property {(following: boolean) => void} [follow]
 */

const LOG_TEXT = 1000;
const LOG_TITLE = 4000;

/** The event log: file order, windowed, following the end until the reader does anything else. */
export class Log {
  /**
   * @param {HTMLElement} host
   * @param {LogEvents} on
   * @param {{bar?: boolean}} [options] bar: the filters above the lines (false: the page has its own, by filter())
   */
  constructor(host, on, options = {}) {
    this.on = on;
    /** All events, by seq. @type {LogItem[]} */
    this.all = [];
    /** Effective time of each: the running maximum. @type {number[]} */
    this.times = [];
    /** Indices into `all` of the lines that pass the filter; null: all of them. @type {number[]|null} */
    this.passing = null;
    /** @type {{kind: string|null, node: string|null, q: string}} */
    this.wanted = { kind: null, node: null, q: '' };
    /** What to look for, any case. @type {RegExp|null} */
    this.words = null;
    /** @type {number|null} */
    this.moment = null;
    this.momentSeen = true;
    this.inUtc = false;
    this.unseen = 0;
    /** New lines are counted once the reader has left the end. */
    this.counting = false;
    this.lastTop = 0;
    /** @type {string|null} */
    this.activeKey = null;
    /** @type {Set<string>} */
    this.kinds = new Set();
    /** @type {HTMLElement|null} */
    this.marked = null;

    this.root = element('div', 'lg');
    this.bar = options.bar === false ? null : this.makeBar();
    this.state = element('div', 'lg-state');
    this.tally = element('span', 'lg-count muted num');
    this.follower = element('span', 'lg-following', 'Following');
    this.jumper = element('button', 'btn lg-jump');
    this.jumper.setAttribute('type', 'button');
    this.state.append(this.tally, this.follower, this.jumper);
    this.top = element('div', 'lg-top');
    this.top.append(...(this.bar ? [this.bar] : []), this.state);
    this.pane = element('div', 'lg-scroll');
    this.pane.setAttribute('role', 'log');
    this.pane.setAttribute('aria-live', 'off');
    this.pane.setAttribute('aria-label', 'Event log');
    this.space = element('div', 'lg-space');
    this.space.setAttribute('role', 'list');
    this.nothing = element('p', 'lg-nothing muted', 'No event passes the filter.');
    this.nothing.hidden = true;
    this.pane.append(this.space, this.nothing);
    this.root.append(this.top, this.pane);
    host.replaceChildren(this.root);

    this.rows = new RowWindow(this.space, (width) => (width < NARROW ? 44 : 24), {
      total: () => this.total(),
      key: (index) => String(this.line(index).seq),
      make: (index) => this.make(index),
      place: (el, index, force) => { if (force) this.fill(el, index); },
      pinned: () => this.activeIndex(),
      shown: () => this.rows.tabStop(this.activeKey),
    });
    // Where the page itself scrolls (phones), following would drag the page along: there it waits to be asked for.
    this.following = this.rows.scroller === this.pane;

    this.abort = new AbortController();
    const { signal } = this.abort;
    document.addEventListener('scroll', () => this.scrolled(), { capture: true, passive: true, signal });
    document.addEventListener('selectionchange', () => {
      if (textSelected(this.space)) this.setFollow(false);
    }, { signal });
    this.pane.addEventListener('wheel', (event) => {
      if (event.deltaY < 0) this.setFollow(false);
    }, { passive: true, signal });
    this.space.addEventListener('focusin', (event) => this.focusin(event), { signal });
    this.space.addEventListener('click', (event) => this.click(event), { signal });
    this.space.addEventListener('pointermove', (event) => this.hovered(event), { signal });
    this.space.addEventListener('pointerleave', () => this.on.hover?.(null), { signal });
    this.root.addEventListener('keydown', (event) => this.keydown(event), { signal });
    this.jumper.addEventListener('click', () => this.jump(), { signal });
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.pane);
    this.paintState();
  }

  destroy() {
    this.abort.abort();
    this.observer.disconnect();
    this.rows.destroy();
    this.root.remove();
  }

  makeBar() {
    const bar = element('div', 'lg-bar');
    this.kindBox = document.createElement('select');
    this.kindBox.className = 'lg-kinds';
    this.kindBox.setAttribute('aria-label', 'Kind of event');
    this.kindBox.append(new Option('All kinds', ''));
    this.kindBox.addEventListener('change', () => this.filter({ kind: this.kindBox?.value || null }));
    this.textBox = document.createElement('input');
    this.textBox.type = 'search';
    this.textBox.className = 'lg-find';
    this.textBox.placeholder = 'Filter events';
    this.textBox.setAttribute('aria-label', 'Filter events');
    this.textBox.addEventListener('input', () => this.filter({ q: this.textBox?.value ?? '' }));
    this.nodeChip = element('button', 'btn lg-nodechip');
    this.nodeChip.setAttribute('type', 'button');
    this.nodeChip.hidden = true;
    this.nodeChip.addEventListener('click', () => this.filter({ node: null }));
    bar.append(this.kindBox, this.textBox, this.nodeChip);
    return bar;
  }

  total() {
    return this.passing ? this.passing.length : this.all.length;
  }

  /** @param {number} index of a line that passes */
  line(index) {
    return this.all[this.passing ? this.passing[index] : index];
  }

  /** @param {LogItem} item */
  passes(item) {
    const { kind, node } = this.wanted;
    if (kind !== null && item.event !== kind) return false;
    if (node !== null && item.node_id !== node) return false;
    const words = this.words;
    return !words || words.test(item.text) || words.test(item.event) || words.test(item.node_id ?? '');
  }

  /**
   * The last line of these whose number is at most `limit`, by halving.
   * @param {number} length
   * @param {(index: number) => number} number
   * @param {number} limit
   */
  static lastUpTo(length, number, limit) {
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (number(middle) <= limit) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** @param {LogItem[]} items in seq order; what is known already is left out */
  append(items) {
    let added = 0;
    let known = this.all.length ? this.all[this.all.length - 1].seq : -1;
    let latest = this.times.length ? this.times[this.times.length - 1] : -Infinity;
    for (const item of items) {
      if (item.seq <= known) continue;
      known = item.seq;
      latest = Math.max(latest, parse(item.ts));
      if (!this.kinds.has(item.event)) this.addKind(item.event);
      this.all.push(item);
      this.times.push(latest);
      if (!this.passing) added++;
      else if (this.passes(item)) added = this.passing.push(this.all.length - 1) && added + 1;
    }
    if (this.counting && this.moment === null) this.unseen += added;
    if (added) this.grow();
    this.paintState();
  }

  /** Lines came at the end: nothing above them moves. */
  grow() {
    this.rows.resize();
    if (this.moment !== null && !this.momentSeen) this.showMoment();
    else if (this.following && this.moment === null) this.toEnd();
    this.rows.render(false);
    this.lastTop = this.rows.view().top;
  }

  /** Another height is not the reader's scrolling: who follows stays at the end. */
  resized() {
    if (this.following && this.moment === null) this.toEnd();
    this.rows.render(false);
    this.lastTop = this.rows.view().top;
  }

  toEnd() {
    const { height } = this.rows.view();
    this.rows.scrollTo(Math.max(0, this.total() * this.rows.height - height));
    this.lastTop = this.rows.view().top;
  }

  /** Another log under the same run: everything goes. */
  reset() {
    this.all = [];
    this.times = [];
    if (this.passing) this.passing = [];
    this.unseen = 0;
    this.activeKey = null;
    this.rows.update(true);
    this.lastTop = this.rows.view().top;
    this.paintState();
  }

  /** @param {string} kind */
  addKind(kind) {
    this.kinds.add(kind);
    this.kindBox?.append(new Option(visible(kind), kind));
  }

  /**
   * Members left out stay as they are; null (q: '') clears one.
   * @param {{kind?: string|null, node?: string|null, q?: string|null}} change
   */
  filter(change) {
    if (change.kind !== undefined) this.wanted.kind = change.kind || null;
    if (change.node !== undefined) this.wanted.node = change.node || null;
    if (change.q !== undefined) {
      const q = (change.q ?? '').trim();
      this.wanted.q = q;
      this.words = q ? new RegExp(q.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'), 'i') : null;
    }
    const { top } = this.rows.view();
    const first = Math.max(0, Math.floor(top / this.rows.height));
    const seq = top > 0 && first < this.total() ? this.line(first).seq : null;
    const { kind, node, q } = this.wanted;
    this.passing = null;
    if (kind !== null || node !== null || q) {
      /** @type {number[]} */
      const passing = [];
      this.all.forEach((item, index) => { if (this.passes(item)) passing.push(index); });
      this.passing = passing;
    }
    this.unseen = 0;
    this.rows.resize();
    if (this.moment !== null) {
      this.showMoment();
    } else if (this.following) {
      this.toEnd();
    } else if (seq !== null) {
      // The first line on screen, or the next one that passes, stays where the reader looks.
      const at = Log.lastUpTo(this.total(), (index) => this.line(index).seq, seq - 1) + 1;
      this.rows.scrollTo(at * this.rows.height + (top % this.rows.height));
    }
    this.rows.render(false, true);
    this.lastTop = this.rows.view().top;
    this.paintBar();
    this.paintState();
  }

  /** @param {number|null} seq the moment that is shown; later lines keep their place but not their words. null: now */
  at(seq) {
    if (seq === this.moment) return;
    const back = seq === null;
    this.moment = seq;
    this.unseen = 0;
    this.rows.render(true, true);
    if (back) {
      this.momentSeen = true;
      this.jump();
    } else {
      this.showMoment();
    }
    this.paintState();
  }

  /** Brings the line of the moment on screen, what came before it above. */
  showMoment() {
    const index = Log.lastUpTo(this.total(), (at) => this.line(at).seq, this.moment ?? Infinity);
    this.momentSeen = index >= 0 && this.line(index).seq === this.moment;
    if (index < 0) return;
    const { top, height } = this.rows.view();
    const start = index * this.rows.height;
    if (start < top || start + this.rows.height > top + height) this.rows.reveal(index, 'end');
    this.lastTop = this.rows.view().top;
  }

  /** To the end, and on with it. */
  jump() {
    this.setFollow(true);
    this.toEnd();
    this.rows.render(false);
  }

  /** @param {boolean} utc the zone in which times are printed */
  utc(utc) {
    if (utc === this.inUtc) return;
    this.inUtc = utc;
    this.root.classList.toggle('lg-utc', utc);
    this.rows.render(true, true);
  }

  /** Where the focused line is among those that pass, or -1. */
  activeIndex() {
    if (this.activeKey === null) return -1;
    const seq = Number(this.activeKey);
    const index = Log.lastUpTo(this.total(), (at) => this.line(at).seq, seq);
    return index >= 0 && this.line(index).seq === seq ? index : -1;
  }

  /** @param {number|null} ms marks the line of this time if it is on screen; scrolls nothing */
  hairline(ms) {
    this.marked?.classList.remove('lg-marked');
    this.marked = null;
    if (ms === null) return;
    const at = Log.lastUpTo(this.times.length, (index) => this.times[index], ms);
    if (at < 0) return;
    this.marked = this.rows.rows.get(String(this.all[at].seq)) ?? null;
    this.marked?.classList.add('lg-marked');
  }

  /** @param {number} index */
  make(index) {
    const el = element('div', 'lg-row');
    el.setAttribute('role', 'listitem');
    this.fill(el, index);
    return el;
  }

  /**
   * @param {HTMLElement} el
   * @param {number} index
   */
  fill(el, index) {
    const item = this.line(index);
    const later = this.moment !== null && item.seq > this.moment;
    el.dataset.seq = String(item.seq);
    el.classList.toggle('lg-later', later);
    el.classList.toggle('lg-now', item.seq === this.moment);
    if (item.seq === this.moment) el.setAttribute('aria-current', 'true');
    else el.removeAttribute('aria-current');
    const seq = element('span', 'lg-seq num', String(item.seq));
    if (later) {
      el.replaceChildren(seq);
      return;
    }
    const time = element('span', 'lg-time', clock(item.ts, { utc: this.inUtc, ms: true }));
    if (item.backwards) {
      const mark = element('span', 'lg-back', '↶');
      mark.title = 'This time is before that of the event above; lines are in the order of the file';
      mark.setAttribute('role', 'img');
      mark.setAttribute('aria-label', mark.title);
      time.append(mark);
    }
    const kind = element('span', 'lg-kind', visible(item.event.slice(0, 80)));
    const node = element(item.node_id ? 'button' : 'span', 'lg-node', visible((item.node_id ?? '').slice(0, 300)));
    if (item.node_id) {
      node.setAttribute('type', 'button');
      node.tabIndex = -1;
      node.title = visible(item.node_id.slice(0, 300));
    }
    const text = element('span', 'lg-text');
    if (item.set && item.value) text.append(glyphElement(item.set, item.value), ' ');
    else if (item.tone) text.append(element('span', `lg-dot tone-${item.tone}`), ' ');
    text.append(visible(item.text.slice(0, LOG_TEXT)));
    text.title = visible(item.text.slice(0, LOG_TITLE));
    el.replaceChildren(seq, time, kind, node, text);
  }

  paintBar() {
    if (!this.kindBox || !this.textBox || !this.nodeChip) return;
    const { kind, node, q } = this.wanted;
    this.kindBox.value = kind ?? '';
    if (this.textBox.value.trim() !== q) this.textBox.value = q;
    this.nodeChip.hidden = node === null;
    const name = visible((node ?? '').slice(0, 300));
    this.nodeChip.textContent = `node ${name} ×`;
    this.nodeChip.setAttribute('aria-label', `Show all nodes again, not only ${name}`);
  }

  paintState() {
    const replaying = this.moment !== null;
    const total = this.all.length;
    const shown = this.total();
    this.nothing.hidden = shown > 0 || total === 0;
    this.tally.textContent = this.passing ? `${count(shown)} of ${count(total)} events` : `${count(total)} events`;
    this.follower.hidden = replaying || !this.following;
    this.jumper.hidden = replaying || this.following || total === 0;
    const words = this.unseen ? `${count(this.unseen)} new, jump to end (G)` : 'Jump to end (G)';
    if (this.jumper.textContent !== words) this.jumper.textContent = words;
    this.jumper.classList.toggle('lg-unseen', this.unseen > 0);
  }

  /** @param {boolean} following */
  setFollow(following) {
    this.counting = !following;
    if (following) this.unseen = 0;
    if (following !== this.following) {
      this.following = following;
      this.on.follow?.(following);
    }
    this.paintState();
  }

  scrolled() {
    const { top, height } = this.rows.view();
    const moved = top - this.lastTop;
    if (Math.abs(moved) < 0.5) return;
    this.lastTop = top;
    const left = this.total() * this.rows.height - top - height;
    if (moved < 0) this.setFollow(false);
    else if (left <= END_TOLERANCE && this.moment === null) this.setFollow(true);
  }

  /** @param {FocusEvent} event */
  focusin(event) {
    this.setFollow(false);
    const el = /** @type {HTMLElement|null} */ (/** @type {Element} */ (event.target).closest('.lg-row'));
    if (!el) return;
    this.activeKey = el.dataset.seq ?? null;
    this.rows.tabStop(this.activeKey);
  }

  /** @param {MouseEvent} event */
  click(event) {
    const target = /** @type {Element} */ (event.target);
    const seq = Number(/** @type {HTMLElement|null} */ (target.closest('.lg-row'))?.dataset.seq ?? NaN);
    if (Number.isNaN(seq) || textSelected(this.space)) return;
    const item = this.bySeq(seq);
    if (target.closest('.lg-node') && item?.node_id) this.on.select?.(item.node_id);
    else this.on.seek?.(seq);
  }

  /** @param {number} seq */
  bySeq(seq) {
    return this.all[Log.lastUpTo(this.all.length, (index) => this.all[index].seq, seq)];
  }

  /** @param {PointerEvent} event */
  hovered(event) {
    const el = /** @type {HTMLElement|null} */ (/** @type {Element} */ (event.target).closest('.lg-row'));
    const seq = Number(el?.dataset.seq ?? NaN);
    if (Number.isNaN(seq) || event.pointerType === 'touch') return;
    this.on.hover?.(this.times[Log.lastUpTo(this.all.length, (index) => this.all[index].seq, seq)] ?? null);
  }

  /** @param {KeyboardEvent} event */
  keydown(event) {
    if (fromControl(event) || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = /** @type {HTMLElement|null} */ (/** @type {Element} */ (event.target).closest('.lg-row'));
    if (event.key === 'G' && VList.letters) {
      this.jump();
    } else if (row && !event.shiftKey) {
      const at = this.rows.places.get(row.dataset.seq ?? '') ?? 0;
      const page = Math.max(1, Math.floor(this.rows.view().height / this.rows.height) - 1);
      const letter = event.key.length === 1;
      if (letter && !VList.letters) return;
      switch (event.key) {
        case 'ArrowDown': case 'j': this.focusLine(at + 1); break;
        case 'ArrowUp': case 'k': this.focusLine(at - 1); break;
        case 'PageDown': this.focusLine(at + page); break;
        case 'PageUp': this.focusLine(at - page); break;
        case 'Home': this.focusLine(0); break;
        case 'End': this.focusLine(this.total() - 1); this.jump(); break;
        case 'Enter': {
          if (event.target !== row) return;
          this.on.seek?.(Number(row.dataset.seq));
          break;
        }
        default: return;
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} index */
  focusLine(index) {
    if (!this.total()) return;
    const to = Math.max(0, Math.min(this.total() - 1, index));
    this.activeKey = String(this.line(to).seq);
    this.setFollow(false);
    this.rows.reveal(to);
    this.rows.render(false, true);
    this.rows.rows.get(this.activeKey)?.focus({ preventScroll: true });
    this.lastTop = this.rows.view().top;
  }
}
