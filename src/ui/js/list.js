// Windowed rows: what lists, tables, the event log (log.js) and the timeline stand on. Only rows near the viewport are in the
// document, rows are kept by key, and the reader's place survives every change of the data (an anchor of our own,
// since the browser's cannot see rows that are not there).
import { describe, glyphPath } from './fmt.js';

const SVG = 'http://www.w3.org/2000/svg';
export const NARROW = 760;
const OVERSCAN = 8;
const MOST_ROWS = 58;

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
export function textSelected(within) {
  const selection = getSelection();
  return !!selection && !selection.isCollapsed && !!selection.anchorNode
    && (within.contains(selection.anchorNode) || within.contains(selection.focusNode));
}

/** @param {KeyboardEvent} event */
export const fromControl = (event) => /** @type {Element} */ (event.target).closest('input, select, textarea') !== null;

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
