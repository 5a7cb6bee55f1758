// Windowed rows: what lists, tables, the event log and the timeline stand on. Only rows near the viewport are in the
// document, rows are kept by key, and the reader's place survives every change of the data (an anchor of our own,
// since the browser's cannot see rows that are not there).
import { clock, count, describe, glyphPath, parse, visible } from './fmt.js';

const SVG = 'http://www.w3.org/2000/svg';
const NARROW = 760;
const OVERSCAN = 8;
const MOST_ROWS = 58;
const END_TOLERANCE = 24;

/** True where the pointer can hover: a touch leaves :hover behind on the element that it met last. */
const hovers = () => matchMedia('(hover: hover)').matches;

/**
 * @param {string} name
 * @param {string} [className]
 * @param {string} [text]
 */
export function element(name, className = '', text = '') {
  const el = document.createElement(name);
  if (className) el.className = className;
  if (text) el.textContent = text;
  return el;
}

/**
 * The glyph of a status as an element; the word stands beside it, so it is hidden from the accessibility tree.
 * @param {string} set
 * @param {string} value
 */
export function glyphElement(set, value) {
  const { tone, shape } = describe(set, value);
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', `glyph tone-${tone}`);
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('width', '16');
  svg.setAttribute('height', '16');
  svg.setAttribute('aria-hidden', 'true');
  svg.dataset.shape = shape;
  svg.innerHTML = glyphPath(shape);
  return svg;
}

/** @param {Element} within true while text inside it is selected */
function textSelected(within) {
  const selection = getSelection();
  return !!selection && !selection.isCollapsed && !!selection.anchorNode
    && (within.contains(selection.anchorNode) || within.contains(selection.focusNode));
}

/** @param {KeyboardEvent} event */
const fromControl = (event) => /** @type {Element} */ (event.target).closest('input, select, textarea') !== null;

/**
 * What the window asks of its owner.
 * @typedef {object} RowSource
 * @property {() => number} total
 * @property {(index: number) => string} key
 * @property {(index: number) => HTMLElement} make a new element for a row, filled
 * @property {(el: HTMLElement, index: number, force: boolean) => void} place the row's element is (still) at this index
 * @property {(el: HTMLElement) => void} [drop] the element leaves the document
 * @property {() => number} [pinned] index of a row that stays in the document wherever it is, the focused one; or -1
 * @property {(from: number, to: number) => void} [shown] rows [from, to) are in the document
 */

/** Rows of one height inside `space`, an element as tall as all of them. */
export class RowWindow {
  /**
   * @param {HTMLElement} space
   * @param {number|((viewportWidth: number) => number)} rowHeight
   * @param {RowSource} source
   * @param {HTMLElement} [head] an element above the rows that may stick over them
   */
  constructor(space, rowHeight, source, head) {
    this.space = space;
    this.source = source;
    this.head = head;
    this.rowHeight = typeof rowHeight === 'function' ? rowHeight : () => rowHeight;
    this.height = this.rowHeight(innerWidth);
    /** @type {Map<string, HTMLElement>} */
    this.rows = new Map();
    /** Indices of the rows in the document, for anchors and for searching near them. @type {Map<string, number>} */
    this.places = new Map();
    this.seenTop = 0;
    /** The rows in the document, but for a pinned one: [from, to). */
    this.from = 0;
    this.to = 0;
    this.scroller = this.findScroller();
    this.onScroll = () => this.render(false);
    this.onResize = () => this.measure();
    document.addEventListener('scroll', this.onScroll, { capture: true, passive: true });
    addEventListener('resize', this.onResize);
    this.observer = new ResizeObserver(this.onResize);
    this.observer.observe(space);
    if (space.parentElement) this.observer.observe(space.parentElement);
  }

  destroy() {
    document.removeEventListener('scroll', this.onScroll, { capture: true });
    removeEventListener('resize', this.onResize);
    this.observer.disconnect();
    for (const el of this.rows.values()) this.source.drop?.(el);
    this.rows.clear();
  }

  /** The element that scrolls the rows: a pane of our own, or the page where panes do not scroll (phones). */
  findScroller() {
    for (let el = this.space.parentElement; el; el = el.parentElement) {
      if (/auto|scroll/.test(getComputedStyle(el).overflowY)) return el;
    }
    return document.scrollingElement ?? document.documentElement;
  }

  /**
   * Where the visible part of the rows begins, in their own coordinates (negative: they begin further down), and how
   * tall it is. A scroller that reaches out of the window shows only what is inside it.
   */
  view() {
    const page = this.scroller === document.scrollingElement;
    const box = this.scroller.getBoundingClientRect();
    let top = page ? 0 : box.top + this.scroller.clientTop;
    const bottom = Math.min(innerHeight, page ? innerHeight : top + this.scroller.clientHeight);
    if (this.head) {
      const style = getComputedStyle(this.head);
      if (style.position === 'sticky') top += this.head.offsetHeight + (parseFloat(style.top) || 0);
    }
    top = Math.max(0, top);
    return { top: top - this.space.getBoundingClientRect().top, height: Math.max(0, bottom - top) };
  }

  /** @param {number} top */
  scrollTo(top) {
    const by = top - this.view().top;
    if (Math.abs(by) > 0.01) this.scroller.scrollTop += by;
  }

  /** The width changed, or with it what scrolls: the first visible row stays the first. */
  measure() {
    const height = this.rowHeight(innerWidth);
    const scroller = this.findScroller();
    const other = height !== this.height || scroller !== this.scroller;
    // What was seen before the new layout: by now the scroller may be another, or cut short.
    const rowsAbove = this.seenTop / this.height;
    this.height = height;
    this.scroller = scroller;
    if (other) {
      this.resize();
      if (rowsAbove > 0) this.scrollTo(rowsAbove * height);
    }
    this.render(false, other);
  }

  resize() {
    this.scroller = this.findScroller();
    this.space.style.height = `${this.source.total() * this.height}px`;
  }

  /** The keys on screen and the first one's offset: enough to put the same pixels back after a change. */
  anchor() {
    const { top, height } = this.view();
    if (top <= 0 || !this.rows.size) return null;
    const first = Math.floor(top / this.height);
    const last = Math.ceil((top + height) / this.height);
    const seen = [...this.places].filter(([, index]) => index >= first && index < last).sort((a, b) => a[1] - b[1]);
    return { seen, top };
  }

  /** @param {ReturnType<RowWindow['anchor']>} anchor */
  restore(anchor) {
    for (const [key, was] of anchor?.seen ?? []) {
      const index = this.locate(key, was);
      if (index < 0) continue;
      this.scrollTo(/** @type {{top: number}} */ (anchor).top + (index - was) * this.height);
      return;
    }
  }

  /**
   * The index of a key, looked for outward from where it was, since rows rarely move far.
   * @param {string} key
   * @param {number} near
   */
  locate(key, near) {
    const total = this.source.total();
    for (let below = Math.min(near, total - 1), above = below + 1; below >= 0 || above < total; below--, above++) {
      if (below >= 0 && this.source.key(below) === key) return below;
      if (above < total && this.source.key(above) === key) return above;
    }
    return -1;
  }

  /**
   * The data changed: same first row, same pixel offset, same focus.
   * @param {boolean} force fill every row again
   * @param {boolean} [toTop] another order or selection of rows was asked for: it is read from its beginning
   */
  update(force, toTop = false) {
    const anchor = toTop ? null : this.anchor();
    this.resize();
    if (!toTop) this.restore(anchor);
    else if (this.view().top > 0) this.scrollTo(0);
    this.render(force, true);
  }

  /**
   * @param {number} index
   * @param {'nearest'|'start'|'end'} [where]
   */
  reveal(index, where = 'nearest') {
    const { top, height } = this.view();
    const start = index * this.height;
    if (where === 'start' || (where === 'nearest' && start < top)) this.scrollTo(start);
    else if (where === 'end' || start + this.height > top + height) this.scrollTo(start + this.height - height);
    this.render(false);
  }

  /** One row can be reached by Tab: the one that has or had the focus, else the first on screen. @param {string|null} key */
  tabStop(key) {
    const first = Math.max(this.from, Math.ceil(this.seenTop / this.height));
    const stop = this.rows.get(key ?? '') ?? this.rows.get(this.keyAt(first));
    for (const el of this.rows.values()) el.tabIndex = el === stop ? 0 : -1;
  }

  /** @param {number} index */
  keyAt(index) {
    return index < this.source.total() ? this.source.key(index) : '';
  }

  /**
   * @param {boolean} force
   * @param {boolean} [moved] indices may have changed
   */
  render(force, moved = false) {
    const { source, height } = this;
    const total = source.total();
    const view = this.view();
    this.seenTop = view.top;
    const visibleRows = Math.ceil(view.height / height) + 1;
    const over = Math.max(2, Math.min(OVERSCAN, Math.floor((MOST_ROWS - visibleRows) / 2)));
    const from = Math.max(0, Math.min(total, Math.floor(view.top / height) - over));
    const to = Math.max(from, Math.min(total, Math.floor(view.top / height) + visibleRows + over));
    if (!force && !moved && from === this.from && to === this.to) return;
    this.from = from;
    this.to = to;

    /** @type {Map<string, number>} */
    const wanted = new Map();
    const pinned = source.pinned?.() ?? -1;
    if (pinned >= 0 && pinned < from) wanted.set(source.key(pinned), pinned);
    for (let index = from; index < to; index++) wanted.set(source.key(index), index);
    if (pinned >= to) wanted.set(source.key(pinned), pinned);

    const focused = /** @type {HTMLElement|null} */ (document.activeElement);
    const hadFocus = !!focused && this.space.contains(focused);
    // Rows that hold selected text stay: taking them away would change what the reader is selecting.
    const keep = !moved && this.rows.size < 4 * MOST_ROWS && textSelected(this.space);
    for (const [key, el] of this.rows) {
      if (wanted.has(key) || keep) continue;
      source.drop?.(el);
      el.remove();
      this.rows.delete(key);
      this.places.delete(key);
    }
    /** @type {ChildNode|null} */
    let next = this.space.firstChild;
    for (const [key, index] of wanted) {
      let el = this.rows.get(key);
      if (!el) {
        el = source.make(index);
        this.rows.set(key, el);
      } else if (moved || force) {
        source.place(el, index, force);
      }
      this.places.set(key, index);
      el.style.transform = `translateY(${index * height}px)`;
      el.style.height = `${height}px`;
      if (keep) {
        if (!el.isConnected) this.space.append(el);
      } else if (el === next) {
        next = next.nextSibling;
      } else {
        this.space.insertBefore(el, next);
      }
    }
    if (hadFocus && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    source.shown?.(from, to);
  }
}

/**
 * A source whose rows come by pages.
 * @template T
 * @typedef {{total: number, get: (index: number) => T|undefined, need: (from: number, to: number) => void}} LazySource
 */

/**
 * @template T
 * @typedef {object} ListEvents
 * @property {(item: T) => string} key
 * @property {(el: HTMLElement, item: T, index: number) => void} row fills a row. With columns, el.children are its
 *   cells, one a column; it is called again for the same element when the item is another object, or by refresh()
 * @property {(item: T, el: HTMLElement) => void} [open] Enter or a click
 * @property {(item: T) => void} [newTab] o, ctrl+Enter, ctrl+click or the middle button
 * @property {(item: T) => void} [mark] x
 * @property {(name: string) => void} [sort] the header button of a sortable column
 * @property {(item: T) => void} [active] focus and selection moved to this row
 * @property {() => void} [released] held() became false: collected changes may be applied
 * @property {(el: HTMLElement) => void} [drop] a row's element leaves the document
 */

/**
 * @typedef {object} Column
 * @property {string} name
 * @property {string} label
 * @property {boolean} [sort]
 * @property {string} [className] of the header cell and of every cell below it
 */

/**
 * @typedef {object} ListOptions
 * @property {string} label the list's accessible name
 * @property {number|((viewportWidth: number) => number)} [rowHeight] 32 when not given
 * @property {string} [role] grid when not given
 * @property {Column[]} [columns] their widths are CSS: --vl-cols on the host, as grid-template-columns
 * @property {boolean} [bare] rows come without cells; row() makes what it needs
 * @property {boolean} [flow] the list is as tall as its rows and the page around it scrolls (always so on phones)
 */

/**
 * A windowed list or table with the keyboard of a grid. The host decides the size: it is a block with a height (or a
 * flex child with min-height 0); with `flow` it grows with the rows.
 * @template T
 */
export class VList {
  /** Whether single letters (j k o x) are keys: the shell tells, since the reader may switch them off. */
  static get letters() {
    return document.documentElement.dataset.singleKeys !== 'off';
  }

  /**
   * @param {HTMLElement} host
   * @param {ListEvents<T>} on
   * @param {ListOptions} options
   */
  constructor(host, on, options) {
    this.host = host;
    this.on = on;
    this.options = options;
    this.columns = options.columns ?? [];
    this.asGrid = (options.role ?? 'grid').endsWith('grid');
    /** @type {T[]|LazySource<T>} */
    this.data = [];
    /** @type {(() => void)|null} */
    this.suspended = null;
    /** @type {string|null} */
    this.activeKey = null;
    this.activeIndex = -1;
    /** @type {WeakMap<HTMLElement, {item: T|undefined, key: string, index: number}>} */
    this.records = new WeakMap();
    this.wasHeld = false;
    this.toTop = false;
    this.suspendedForce = false;
    this.neededAt = -Infinity;
    this.needTimer = 0;

    this.root = element('div', options.flow ? 'vl vl-flow' : 'vl');
    this.root.setAttribute('role', options.role ?? 'grid');
    this.root.setAttribute('aria-label', options.label);
    if (this.columns.length) this.root.setAttribute('aria-colcount', String(this.columns.length));
    this.root.style.setProperty('--vl-auto', `repeat(${Math.max(1, this.columns.length)}, minmax(0, 1fr))`);
    this.head = this.columns.length ? this.makeHead() : undefined;
    this.space = element('div', 'vl-space');
    if (this.asGrid) this.space.setAttribute('role', 'rowgroup');
    this.root.append(...(this.head ? [this.head] : []), this.space);
    host.replaceChildren(this.root);

    this.abort = new AbortController();
    const { signal } = this.abort;
    this.root.addEventListener('keydown', (event) => this.keydown(event), { signal });
    this.root.addEventListener('click', (event) => this.click(event), { signal });
    this.root.addEventListener('auxclick', (event) => this.click(event), { signal });
    this.space.addEventListener('focusin', (event) => this.focusin(event), { signal });
    for (const name of ['pointerenter', 'pointerleave', 'focusin', 'focusout']) {
      this.root.addEventListener(name, () => queueMicrotask(() => this.watchHeld()), { signal });
    }
    document.addEventListener('scroll', () => this.watchHeld(), { capture: true, passive: true, signal });
    document.addEventListener('selectionchange', () => this.resume(), { signal });

    this.rows = new RowWindow(this.space, options.rowHeight ?? 32, {
      total: () => this.total(),
      key: (index) => this.keyAt(index),
      make: (index) => this.make(index),
      place: (el, index, force) => this.place(el, index, force),
      drop: (el) => on.drop?.(el),
      pinned: () => this.activeIndex,
      shown: (from, to) => this.shown(from, to),
    }, this.head);
    this.watchWidth = () => this.root.classList.toggle('vl-narrow', innerWidth < NARROW);
    addEventListener('resize', this.watchWidth, { signal });
    this.watchWidth();
  }

  destroy() {
    this.abort.abort();
    clearTimeout(this.needTimer);
    this.rows.destroy();
    this.root.remove();
  }

  makeHead() {
    const head = element('div', 'vl-head');
    head.setAttribute('role', 'row');
    this.columns.forEach((column, at) => {
      const cell = element('div', `vl-cell ${column.className ?? ''}`);
      cell.setAttribute('role', 'columnheader');
      cell.setAttribute('aria-colindex', String(at + 1));
      if (column.sort) {
        const button = element('button', 'vl-sort', column.label);
        button.setAttribute('type', 'button');
        button.addEventListener('click', () => {
          this.toTop = true;
          this.on.sort?.(column.name);
        });
        cell.classList.add('vl-sortable');
        cell.append(button);
      } else {
        cell.textContent = column.label;
      }
      head.append(cell);
    });
    return head;
  }

  /**
   * Shows by which column the rows are sorted.
   * @param {string|null} name
   * @param {'ascending'|'descending'} [direction]
   */
  sorted(name, direction = 'descending') {
    this.columns.forEach((column, at) => {
      const cell = /** @type {Element} */ (this.head?.children[at]);
      if (column.name === name) cell.setAttribute('aria-sort', direction);
      else cell.removeAttribute('aria-sort');
    });
  }

  /** @returns {number} */
  total() {
    return Array.isArray(this.data) ? this.data.length : this.data.total;
  }

  /** @param {number} index @returns {T|undefined} */
  itemAt(index) {
    return Array.isArray(this.data) ? this.data[index] : this.data.get(index);
  }

  /** @param {number} index a row that is not loaded is known by its place */
  keyAt(index) {
    const item = this.itemAt(index);
    return item === undefined ? `\0${index}` : this.on.key(item);
  }

  /**
   * Other data. Rows of the same key keep their element, and are filled again if their item is another object.
   * @param {T[]|LazySource<T>} data
   * @param {boolean} [toTop] a filter or an order was chosen: show the beginning (a click on a header does so itself)
   */
  items(data, toTop = false) {
    if (toTop) this.toTop = true;
    this.change(() => { this.data = data; }, false);
  }

  /**
   * Items changed in place, or a page of a lazy source arrived.
   * @param {string[]} [keys] only these rows are filled again
   */
  refresh(keys) {
    if (!keys) return this.change(() => {}, true);
    for (const key of keys) {
      const el = this.rows.rows.get(key);
      if (el) this.records.delete(el);
    }
    return this.change(() => {}, false);
  }

  /**
   * @param {() => void} apply
   * @param {boolean} force
   */
  change(apply, force) {
    if (textSelected(this.space)) {
      const earlier = this.suspended;
      this.suspended = () => { earlier?.(); apply(); };
      this.suspendedForce = this.suspendedForce || force;
      return;
    }
    const near = Math.max(0, this.activeIndex);
    apply();
    this.root.setAttribute('aria-rowcount', String(this.total()));
    if (this.activeKey !== null) {
      this.activeIndex = this.rows.locate(this.activeKey, near);
      if (this.activeIndex < 0) this.loseActive(near);
    }
    this.rows.update(force, this.toTop);
    this.toTop = false;
    this.watchHeld();
  }

  /** Text is no longer selected: what was held back is applied. */
  resume() {
    if (!this.suspended || textSelected(this.space)) return;
    const apply = this.suspended;
    const force = this.suspendedForce;
    this.suspended = null;
    this.suspendedForce = false;
    this.change(apply, force);
  }

  /** The active row is gone: its neighbour takes over, and the focus if it was there. @param {number} near */
  loseActive(near) {
    const focused = this.space.contains(document.activeElement);
    this.activeKey = null;
    this.activeIndex = -1;
    if (focused && this.total()) queueMicrotask(() => this.moveTo(Math.min(near, this.total() - 1)));
  }

  /** @param {number} index */
  make(index) {
    const el = element('div', 'vl-row');
    el.setAttribute('role', this.asGrid ? 'row' : 'listitem');
    if (!this.options.bare) {
      for (let at = 0; at < Math.max(1, this.columns.length); at++) {
        const cell = element('div', `vl-cell ${this.columns[at]?.className ?? ''}`);
        if (this.asGrid) cell.setAttribute('role', 'gridcell');
        if (this.columns.length) cell.setAttribute('aria-colindex', String(at + 1));
        el.append(cell);
      }
    }
    this.place(el, index, true);
    return el;
  }

  /**
   * @param {HTMLElement} el
   * @param {number} index
   * @param {boolean} force
   */
  place(el, index, force) {
    const item = this.itemAt(index);
    const known = this.records.get(el);
    const key = this.keyAt(index);
    this.records.set(el, { item, key, index });
    const attribute = this.asGrid ? 'aria-rowindex' : 'aria-posinset';
    if (known?.index !== index) el.setAttribute(attribute, String(index + 1));
    if (!this.asGrid) el.setAttribute('aria-setsize', String(this.total()));
    this.paintActive(el, key);
    if (known && known.item === item && !force) return;
    el.classList.toggle('vl-loading', item === undefined);
    if (item === undefined) {
      el.setAttribute('aria-busy', 'true');
      for (const cell of el.children) cell.replaceChildren(element('span', 'skeleton vl-bone'));
    } else {
      this.on.row(el, item, index);
    }
  }

  /**
   * @param {HTMLElement} el
   * @param {string} key
   */
  paintActive(el, key) {
    const active = key === this.activeKey;
    el.classList.toggle('vl-active', active);
    if (this.asGrid) el.setAttribute('aria-selected', String(active));
  }

  /**
   * @param {number} from
   * @param {number} to
   */
  shown(from, to) {
    this.rows.tabStop(this.activeKey);
    if (Array.isArray(this.data)) return;
    let missing = false;
    for (let index = from; index < to && !missing; index++) missing = this.data.get(index) === undefined;
    clearTimeout(this.needTimer);
    if (!missing) return;
    // While the scrollbar is dragged through unloaded rows, only where it rests is asked for.
    const wait = performance.now() - this.neededAt > 150 ? 0 : 100;
    const ask = () => {
      this.neededAt = performance.now();
      if (!Array.isArray(this.data)) this.data.need(this.rows.from, this.rows.to);
    };
    if (wait) this.needTimer = window.setTimeout(ask, wait);
    else queueMicrotask(ask);
  }

  /** True while a change of order would move rows under the reader. */
  held() {
    return (hovers() && this.root.matches(':hover')) || this.root.contains(document.activeElement)
      || this.rows.view().top > 0.5;
  }

  watchHeld() {
    const held = this.root.isConnected && this.held();
    if (this.wasHeld && !held) this.on.released?.();
    this.wasHeld = held;
  }

  /** The item that focus and selection are on. @returns {T|undefined} */
  active() {
    return this.activeIndex < 0 ? undefined : this.itemAt(this.activeIndex);
  }

  /**
   * @param {string|null} key
   * @param {number} index
   */
  setActive(key, index) {
    const changed = key !== this.activeKey;
    this.activeKey = key;
    this.activeIndex = index;
    for (const [rowKey, el] of this.rows.rows) this.paintActive(el, rowKey);
    this.rows.tabStop(key);
    const item = changed && index >= 0 ? this.itemAt(index) : undefined;
    if (item !== undefined) this.on.active?.(item);
  }

  /** @param {number} index focus and selection go there, scrolled to as little as possible */
  moveTo(index) {
    if (!this.total()) return;
    const to = Math.max(0, Math.min(this.total() - 1, index));
    this.setActive(this.keyAt(to), to);
    this.rows.reveal(to);
    this.rows.render(false, true);
    this.rows.rows.get(this.keyAt(to))?.focus({ preventScroll: true });
  }

  /** @param {number} by for pages that bind j and k outside of the list */
  move(by) {
    if (this.activeIndex >= 0) this.moveTo(this.activeIndex + by);
    else this.moveTo(Math.max(0, Math.ceil(this.rows.view().top / this.rows.height)));
  }

  /** @param {string} key @returns {boolean} whether there is such a row */
  focusKey(key) {
    const index = this.rows.locate(key, Math.max(0, this.activeIndex));
    if (index >= 0) this.moveTo(index);
    return index >= 0;
  }

  /**
   * Selects a row without taking the focus.
   * @param {string|null} key
   * @param {boolean} [reveal]
   */
  selectKey(key, reveal = false) {
    const index = key === null ? -1 : this.rows.locate(key, Math.max(0, this.activeIndex));
    this.setActive(index < 0 ? null : key, index);
    this.rows.render(false, true);
    if (index >= 0 && reveal) this.rows.reveal(index);
  }

  /** For going back to a page: {key, offset, active}. */
  position() {
    const anchor = this.rows.anchor();
    return { key: anchor?.seen[0]?.[0] ?? null, top: anchor?.top ?? 0, active: this.activeKey };
  }

  /**
   * Scroll, selection and, if nothing else has it, focus.
   * @param {{key: string|null, top: number, active: string|null}} position as position() gave it
   */
  restore(position) {
    if (position.active !== null) this.selectKey(position.active);
    if (position.key !== null) {
      const was = Math.floor(position.top / this.rows.height);
      const index = this.rows.locate(position.key, was);
      this.rows.scrollTo(position.top + (index < 0 ? 0 : (index - was) * this.rows.height));
    }
    this.rows.render(false);
    const focused = document.activeElement;
    if (this.activeKey === null || (focused && focused !== document.body && !focused.contains(this.root))) return;
    this.rows.rows.get(this.activeKey)?.focus({ preventScroll: true });
  }

  /** @param {FocusEvent} event */
  focusin(event) {
    const record = this.recordOf(event.target);
    if (record && record.key !== this.activeKey) this.setActive(record.key, record.index);
  }

  /** @param {EventTarget|null} target */
  recordOf(target) {
    const el = /** @type {Element|null} */ (target)?.closest?.('.vl-row');
    return el ? this.records.get(/** @type {HTMLElement} */ (el)) : undefined;
  }

  /** @param {MouseEvent} event */
  click(event) {
    const record = this.recordOf(event.target);
    if (!record || record.item === undefined || event.button > 1 || event.defaultPrevented) return;
    if (/** @type {Element} */ (event.target).closest('a, button, input, select, label, summary')) return;
    if (textSelected(this.space)) return;
    const el = /** @type {HTMLElement} */ (/** @type {Element} */ (event.target).closest('.vl-row'));
    this.setActive(record.key, record.index);
    el.focus({ preventScroll: true });
    if (event.button === 1 || event.ctrlKey || event.metaKey) this.on.newTab?.(record.item);
    else this.on.open?.(record.item, el);
  }

  /** @param {KeyboardEvent} event */
  keydown(event) {
    const record = this.recordOf(event.target);
    if (!record || fromControl(event) || event.defaultPrevented || event.altKey || event.shiftKey) return;
    const control = event.ctrlKey || event.metaKey;
    const onRow = /** @type {Element} */ (event.target).classList.contains('vl-row');
    const page = Math.max(1, Math.floor(this.rows.view().height / this.rows.height) - 1);
    const letter = event.key.length === 1;
    if (letter && (control || !VList.letters)) return;
    if (control && event.key !== 'Enter') return;
    switch (event.key) {
      case 'ArrowDown': case 'j': this.moveTo(record.index + 1); break;
      case 'ArrowUp': case 'k': this.moveTo(record.index - 1); break;
      case 'Home': this.moveTo(0); break;
      case 'End': this.moveTo(this.total() - 1); break;
      case 'PageDown': this.moveTo(record.index + page); break;
      case 'PageUp': this.moveTo(record.index - page); break;
      case 'Enter': case 'o': case 'x': {
        const el = this.rows.rows.get(record.key);
        // Enter on a link or button inside of a row is that control's own.
        if (record.item === undefined || !el || (event.key === 'Enter' && !onRow)) return;
        if (event.key === 'x') {
          if (!this.on.mark) return;
          this.on.mark(record.item);
        } else if (event.key === 'o' || control) {
          if (!this.on.newTab) return;
          this.on.newTab(record.item);
        } else {
          this.on.open?.(record.item, el);
        }
        break;
      }
      default: return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

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
