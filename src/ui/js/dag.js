/**
 * The graph of a run. Edges, and blocks when the nodes are too small to read, are drawn on a canvas; nodes that can be
 * read are buttons, of which only those near the viewport are in the page. Nothing here moves by itself.
 */
import { describe, glyphPath } from './fmt.js';
import { NODE_STATUSES } from './fold.js';
import { layout } from './layout.js';

/**
 * @typedef {import('./layout.js').Layout} Layout
 * @typedef {import('./layout.js').Fault} Fault
 * @typedef {import('./layout.js').Place} Place
 * @typedef {{id: string, depends_on: string[], deliverable?: string, parallel_safe?: boolean}} GraphNode
 * @typedef {{status: string, detail?: string}} Standing
 * @typedef {{selected: string|null, critical: string[], chain: Set<string>|null, filter: Set<string>|null}} Marks
 * @typedef {{x: number, y: number, zoom: number, hasMap: boolean}} View
 *   `x` and `y` are where the graph's origin stands on the screen
 * @typedef {{place: Place, node: GraphNode, ins: Item[], outs: Item[], status: string, detail: string,
 *   button: HTMLButtonElement|null}} Item
 * @typedef {{from: Item, to: Item, points: number[], left: number, right: number, top: number, bottom: number}} Edge
 * @typedef {{select(id: string|null, invoker: HTMLElement): void, open(id: string): void}} Listener
 */

const NODE = { width: 168, height: 40 };
/** Below this zoom text cannot be read, and blocks are drawn. */
const READABLE = 0.5;
/** The graph never opens smaller than this... */
const LEAST_OPENING = 0.6;
/** ...but at this zoom, around what matters. */
const OPENING = 0.8;
/** All of a graph may be shown however large it is; out of a small one one zooms no further than is of use. */
const ZOOM = { least: 0.02, useful: 0.25, most: 2, step: 1.25 };
/** How far beyond the viewport nodes are kept in the page. */
const OVERSCAN = 260;
const PADDING = 24;
/** How much of the graph stays on the screen however far it is panned. */
const ALWAYS_SEEN = 60;
/** A pointer that moved less than this has clicked. */
const CLICK_SLACK = 4;
/** Above this many nodes the layout runs in a Worker. */
const MOST_ON_MAIN_THREAD = 300;
const MAP = { width: 190, height: 38 };
const FAR_GLYPH = 13;
const EDGES_A_STROKE = 48;

/** What runs alone. */
const LOCK = '<path d="M5 7V5a3 3 0 0 1 6 0v2h1v6H4V7zm1.5 0h3V5a1.5 1.5 0 0 0-3 0z" fill="currentColor"/>';
/** Room for the text of a node. */
const ROOM = { text: 130, besideLock: 116 };

export class Dag {
  /** @type {HTMLElement} */ #host;
  /** @type {Listener} */ #on;
  #view = element('div', 'gr-view');
  #canvas = element('canvas', 'gr-canvas');
  #nodes = element('div', 'gr-nodes');
  #map = element('canvas', 'gr-map');
  /** The minimap's blocks, kept for panning. */
  #mapBlocks = element('canvas', '');
  #note = element('span', 'gr-note');
  #level = button('gr-level', '100%', 'Zoom to 100% (0)');

  /** @type {Map<string, Item>} */ #items = new Map();
  /** @type {Edge[]} */ #edges = [];
  /** Nodes by rank, from the top. @type {Item[][]} */ #layers = [];
  /** @type {Layout|null} */ #layout = null;
  #signature = '';
  #job = 0;
  /** @type {Promise<{bad: Fault[]}>} */ #placed = Promise.resolve({ bad: [] });
  /** @type {Map<string, Standing>} */ #standings = new Map();
  /** @type {Marks} */ #marks = { selected: null, critical: [], chain: null, filter: null };

  #x = 0;
  #y = 0;
  #zoom = 1;
  #wantsMap = true;
  #width = 0;
  #height = 0;
  /** The view is still the one that the graph opened with. */
  #untouched = true;
  /** What the opening view is about; null when all of the graph is in it. @type {Item|null} */ #subject = null;
  /** The node that Tab leads to. @type {Item|null} */ #current = null;
  /** The last step by arrow, so that the opposite key leads back. */
  #step = { from: '', to: '', key: '' };
  /** Texts as cut to their room. @type {Map<string, string>} */ #texts = new Map();
  #ruler = /** @type {CanvasRenderingContext2D} */ (element('canvas', '').getContext('2d'));
  #mono = 'monospace';
  /** @type {Set<Item>} */ #mounted = new Set();
  #shownZoom = 0;

  /** @type {Map<number, {x: number, y: number}>} */ #pointers = new Map();
  #dragged = false;
  #press = { x: 0, y: 0 };

  #frame = 0;
  #mapStale = true;
  #colours = coloursOf(document.documentElement);
  #teardown = new AbortController();
  /** @type {(() => void)[]} */ #undo = [];

  /**
   * @param {HTMLElement} host  an empty element
   * @param {Listener} on
   */
  constructor(host, on) {
    this.#host = host;
    this.#on = on;
    host.classList.add('gr-host');
    this.#view.setAttribute('role', 'group');
    this.#canvas.setAttribute('aria-hidden', 'true');
    this.#map.setAttribute('aria-hidden', 'true');
    this.#view.append(this.#canvas, this.#nodes);
    host.append(this.#view, this.#footer());
    this.#listen();
    this.#tellGroup();
  }

  /**
   * Draws this graph. The picture stays as it is while ids and dependencies do.
   * @param {{nodes: GraphNode[]}} graph
   * @returns {Promise<{bad: Fault[]}>} when it is placed, with what could not be drawn
   */
  graph({ nodes }) {
    const plan = nodes.map((node) => ({ id: node?.id, depends_on: node?.depends_on }));
    const signature = JSON.stringify(plan);
    if (signature === this.#signature) return this.#placed;
    this.#signature = signature;
    const job = ++this.#job;
    const take = (/** @type {Layout} */ result) => {
      if (job === this.#job) this.#take(nodes, result);
      return { bad: result.bad };
    };
    this.#placed = nodes.length > MOST_ON_MAIN_THREAD
      ? inWorker(plan).catch(() => layout(plan)).then(take)
      : Promise.resolve(take(layout(plan)));
    return this.#placed;
  }

  /**
   * Where each node stands; nodes that are not named are pending.
   * @param {Map<string, Standing>} standings
   */
  status(standings) {
    const isFirst = !this.#standings.size;
    this.#standings = standings;
    let changed = false;
    for (const item of this.#items.values()) changed = this.#stand(item) || changed;
    if (!changed) return;
    if (isFirst) this.#open();
    this.#tellGroup();
    this.#redraw();
  }

  /**
   * What is selected, on the critical path, in a highlighted chain, left by a filter. What is not named stays.
   * @param {Partial<Marks>} marks
   */
  mark(marks) {
    const before = this.#marks.selected;
    this.#marks = { ...this.#marks, ...marks };
    const selected = this.#selectedItem();
    if (selected && selected.place.id !== before) {
      if (!this.#hasFocus()) this.#setCurrent(selected);
      if (this.#width && !this.#isWhole(selected)) this.#bring(selected);
      if (this.#width) this.#touched();
    }
    for (const item of this.#mounted) this.#dress(item);
    this.#redraw();
  }

  /** Shows all of the graph. */
  fit() {
    this.#fitTo(1);
    this.#touched();
  }

  /** Zooms to 100%. */
  actual() {
    this.#zoomTo(1, this.#width / 2, this.#height / 2);
    this.#touched();
  }

  /**
   * Zooms about the middle of the viewport; without a factor, one step in.
   * @param {number} [factor]
   */
  zoom(factor = ZOOM.step) {
    this.#zoomTo(this.#zoom * factor, this.#width / 2, this.#height / 2);
    this.#touched();
  }

  /**
   * Shows or hides the minimap.
   * @returns {boolean} whether it is wanted now
   */
  minimap() {
    this.#wantsMap = !this.#wantsMap;
    this.#redraw();
    return this.#wantsMap;
  }

  /**
   * Brings a node into the viewport, readable.
   * @param {string} id
   */
  show(id) {
    const item = this.#items.get(id);
    if (!item || !this.#width) return;
    this.#bring(item);
    this.#touched();
  }

  /**
   * Brings a node into the viewport and puts the focus there.
   * @param {string} id
   */
  focus(id) {
    const item = this.#items.get(id);
    if (!item) return;
    this.#setCurrent(item);
    this.show(id);
    this.#mountVisible();
    item.button?.focus({ preventScroll: true });
  }

  /** @returns {View} */
  view() {
    return { x: this.#x, y: this.#y, zoom: this.#zoom, hasMap: this.#wantsMap };
  }

  /**
   * Goes back to a view that `view()` gave.
   * @param {View} view
   */
  restore(view) {
    if (![view.x, view.y, view.zoom].every(Number.isFinite)) return;
    this.#zoom = clamp(view.zoom, ZOOM.least, ZOOM.most);
    this.#moveTo(view.x, view.y);
    this.#wantsMap = view.hasMap !== false;
    this.#touched();
  }

  /** What is drawn, for checks. */
  debug() {
    const visible = [...this.#items.values()].filter((item) => this.#isNear(item, 0)).map(({ place }) => place.id);
    return {
      edges: this.#edges.map(({ from, to }) => [from.place.id, to.place.id]),
      positions: Object.fromEntries([...this.#items].map(([id, { place }]) => [id, { x: place.x, y: place.y }])),
      zoom: this.#zoom,
      visible,
    };
  }

  destroy() {
    this.#job++;
    this.#teardown.abort();
    for (const undo of this.#undo) undo();
    cancelAnimationFrame(this.#frame);
    this.#host.replaceChildren();
    this.#host.classList.remove('gr-host');
  }

  // ---------------------------------------------------------------- graph and statuses

  /**
   * @param {GraphNode[]} nodes
   * @param {Layout} result
   */
  #take(nodes, result) {
    for (const item of this.#mounted) item.button?.remove();
    this.#mounted.clear();
    // Another graph opens anew; a view that was restored before the first came is kept.
    if (this.#layout) this.#untouched = true;
    this.#layout = result;
    /** @type {Map<string, GraphNode>} */
    const byId = new Map();
    for (const node of nodes) if (node && !byId.has(node.id)) byId.set(node.id, node);
    this.#items = new Map(result.places.map((place) => {
      const node = /** @type {GraphNode} */ (byId.get(place.id));
      return [place.id, { place, node, ins: [], outs: [], status: 'pending', detail: '', button: null }];
    }));
    this.#edges = result.routes.map(({ from, to, points }) => {
      const edge = { from: this.#item(from), to: this.#item(to), points, ...boxOf(points) };
      edge.from.outs.push(edge.to);
      edge.to.ins.push(edge.from);
      return edge;
    });
    this.#layers = Array.from({ length: result.ranks }, () => []);
    for (const item of this.#items.values()) this.#layers[item.place.rank].push(item);
    for (const layer of this.#layers) layer.sort((a, b) => a.place.y - b.place.y);
    for (const item of this.#items.values()) this.#stand(item);
    this.#current = null;
    this.#tellFaults(result.bad);
    this.#tellGroup();
    this.#moveTo(this.#x, this.#y);
    this.#open();
  }

  /** @param {string} id */
  #item(id) {
    return /** @type {Item} */ (this.#items.get(id));
  }

  /**
   * @param {Item} item
   * @returns {boolean} whether its status or its words changed
   */
  #stand(item) {
    const { status, detail = '' } = this.#standings.get(item.place.id) ?? { status: 'pending' };
    if (item.status === status && item.detail === detail) return false;
    this.#mapStale ||= item.status !== status;
    item.status = status;
    item.detail = detail;
    if (item.button) this.#dress(item);
    return true;
  }

  #tellGroup() {
    const failed = [...this.#items.values()].filter(({ status }) => status === 'failed').length;
    const count = this.#items.size;
    const words = `Dependency graph, ${count} ${count === 1 ? 'node' : 'nodes'}${failed ? `, ${failed} failed` : ''}`;
    if (this.#view.getAttribute('aria-label') !== words) this.#view.setAttribute('aria-label', words);
  }

  /** @param {Fault[]} bad */
  #tellFaults(bad) {
    const lines = bad.slice(0, 20).map(({ node, needs, why }) => (
      needs === null ? `${node}: ${why} id` : `${needs} → ${node}: ${why}`
    ));
    this.#note.hidden = !bad.length;
    this.#note.textContent = `${bad.length} of graph.json not drawn`;
    this.#note.title = lines.join('\n');
  }

  // ---------------------------------------------------------------- the view

  /** Opens readable: all of the graph, or what matters first at 80%. */
  #open() {
    if (!this.#untouched || !this.#width || !this.#layout) return;
    if (this.#fitZoom() >= LEAST_OPENING) {
      this.#subject = null;
      this.#fitTo(1);
      return;
    }
    const subject = this.#selectedItem() ?? this.#firstOf('failed') ?? this.#firstOf('running') ?? this.#root();
    this.#subject = subject;
    if (subject) this.#centre(subject);
  }

  /**
   * The node of this status whose surroundings tell most: the first in graph order, or the middle one of what runs.
   * @param {string} status
   */
  #firstOf(status) {
    const found = [...this.#items.values()].filter((item) => item.status === status);
    if (status === 'running') found.sort((a, b) => a.place.x - b.place.x || a.place.y - b.place.y);
    return found[status === 'running' ? found.length >> 1 : 0];
  }

  #root() {
    const roots = this.#layers[0] ?? [];
    return roots[roots.length >> 1] ?? null;
  }

  #fitZoom() {
    if (!this.#layout) return 1;
    const { width, height } = this.#layout;
    return Math.min((this.#width - 2 * PADDING) / width, (this.#height - 2 * PADDING) / height);
  }

  /** @param {number} most */
  #fitTo(most) {
    if (!this.#layout) return;
    this.#zoom = clamp(Math.min(this.#fitZoom(), most), ZOOM.least, ZOOM.most);
    const { width, height } = this.#layout;
    this.#moveTo((this.#width - width * this.#zoom) / 2, (this.#height - height * this.#zoom) / 2);
  }

  /**
   * Puts a node into the middle at the opening's zoom, but shows no emptiness beyond the graph's edges for it.
   * @param {Item} item
   */
  #centre(item) {
    if (!this.#layout) return;
    this.#zoom = OPENING;
    const along = (/** @type {number} */ middle, /** @type {number} */ graph, /** @type {number} */ room) => {
      const size = graph * OPENING;
      if (size + 2 * PADDING <= room) return (room - size) / 2;
      return clamp(room / 2 - middle * OPENING, room - size - PADDING, PADDING);
    };
    this.#moveTo(
      along(item.place.x + NODE.width / 2, this.#layout.width, this.#width),
      along(item.place.y + NODE.height / 2, this.#layout.height, this.#height),
    );
  }

  /** @param {Item} item */
  #bring(item) {
    if (this.#zoom < READABLE) {
      this.#centre(item);
      return;
    }
    const near = (/** @type {number} */ from, /** @type {number} */ size, /** @type {number} */ room) => {
      const margin = Math.min(PADDING, Math.max(0, (room - size) / 2));
      return clamp(from, margin, Math.max(margin, room - size - margin)) - from;
    };
    const { left, top } = this.#onScreen(item);
    const dx = near(left, NODE.width * this.#zoom, this.#width);
    const dy = near(top, NODE.height * this.#zoom, this.#height);
    this.#moveTo(this.#x + dx, this.#y + dy);
  }

  /** @param {Item} item */
  #onScreen({ place }) {
    return { left: this.#x + place.x * this.#zoom, top: this.#y + place.y * this.#zoom };
  }

  /**
   * Whether a node is within so many pixels of the viewport.
   * @param {Item} item
   * @param {number} around
   */
  #isNear(item, around) {
    const { left, top } = this.#onScreen(item);
    return left < this.#width + around && left + NODE.width * this.#zoom > -around
      && top < this.#height + around && top + NODE.height * this.#zoom > -around;
  }

  /** @param {Item} item */
  #isWhole(item) {
    const { left, top } = this.#onScreen(item);
    return left >= 0 && top >= 0 && left + NODE.width * this.#zoom <= this.#width
      && top + NODE.height * this.#zoom <= this.#height;
  }

  #selectedItem() {
    return this.#marks.selected === null ? undefined : this.#items.get(this.#marks.selected);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  #moveTo(x, y) {
    [this.#x, this.#y] = [x, y];
    if (this.#layout && this.#width) {
      this.#x = clamp(x, ALWAYS_SEEN - this.#layout.width * this.#zoom, this.#width - ALWAYS_SEEN);
      this.#y = clamp(y, ALWAYS_SEEN - this.#layout.height * this.#zoom, this.#height - ALWAYS_SEEN);
    }
    this.#redraw();
  }

  /**
   * Zooms about a point of the viewport.
   * @param {number} zoom
   * @param {number} x
   * @param {number} y
   */
  #zoomTo(zoom, x, y) {
    const next = clamp(zoom, clamp(this.#fitZoom(), ZOOM.least, ZOOM.useful), ZOOM.most);
    const ratio = next / this.#zoom;
    this.#zoom = next;
    this.#moveTo(x - (x - this.#x) * ratio, y - (y - this.#y) * ratio);
  }

  #touched() {
    this.#untouched = false;
    this.#subject = null;
  }

  #resized() {
    const { width, height } = this.#view.getBoundingClientRect();
    if (width === this.#width && height === this.#height) return;
    const wasShown = this.#width > 0;
    const selected = this.#selectedItem();
    const kept = this.#untouched ? this.#subject : selected && this.#isWhole(selected) ? selected : null;
    this.#width = width;
    this.#height = height;
    this.#moveTo(this.#x, this.#y);
    if (!wasShown || (this.#untouched && !this.#subject)) this.#open();
    // What the reader looks at stays where it is, unless the new size cuts it off.
    else if (kept && width && !this.#isFar) this.#bring(kept);
  }

  // ---------------------------------------------------------------- drawing

  #redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (!this.#width || !this.#height) return;
      this.#mountVisible();
      this.#paint();
      this.#paintMap();
    });
  }

  get #isFar() {
    return this.#zoom < READABLE;
  }

  /** Puts the nodes near the viewport into the page and takes the others out. */
  #mountVisible() {
    const focused = this.#hasFocus();
    const style = this.#nodes.style;
    style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#zoom})`;
    if (this.#shownZoom !== this.#zoom) {
      this.#shownZoom = this.#zoom;
      style.setProperty('--gr-zoom', String(this.#zoom));
      this.#level.textContent = `${Math.round(this.#zoom * 100)}%`;
    }
    const current = this.#currentItem();
    for (const item of this.#mounted) {
      if (!this.#isFar && (item === current || this.#isNear(item, OVERSCAN))) continue;
      item.button?.remove();
      this.#mounted.delete(item);
    }
    // Without buttons the group itself is where Tab leads.
    this.#view.tabIndex = this.#isFar ? 0 : -1;
    if (this.#isFar) {
      if (focused) this.#view.focus({ preventScroll: true });
      return;
    }
    for (const item of this.#items.values()) {
      if (this.#mounted.has(item) || !(item === current || this.#isNear(item, OVERSCAN))) continue;
      item.button ??= this.#buttonOf(item);
      this.#mounted.add(item);
      this.#dress(item);
      this.#nodes.append(item.button);
    }
    if (focused && document.activeElement === this.#view) current?.button?.focus({ preventScroll: true });
  }

  #hasFocus() {
    return this.#view.contains(document.activeElement);
  }

  #currentItem() {
    this.#current ??= this.#selectedItem() ?? this.#firstOf('failed') ?? this.#root();
    return this.#current;
  }

  /** @param {Item} item */
  #setCurrent(item) {
    const before = this.#current;
    this.#current = item;
    if (before?.button) before.button.tabIndex = -1;
    if (item.button) item.button.tabIndex = 0;
  }

  /** @param {Item} item */
  #buttonOf({ place, node }) {
    const own = element('button', 'gr-node');
    own.type = 'button';
    own.dataset.id = place.id;
    own.style.left = `${place.x}px`;
    own.style.top = `${place.y}px`;
    own.classList.toggle('gr-alone', node.parallel_safe === false);
    const id = element('span', 'gr-id');
    id.textContent = this.#cut(place.id, node.parallel_safe === false ? ROOM.besideLock : ROOM.text, 'id');
    own.append(id, element('span', 'gr-words'));
    return own;
  }

  /**
   * Gives a button the look and the words of its node.
   * @param {Item} item
   */
  #dress(item) {
    const { button: own, place, node, status, detail } = item;
    if (!own) return;
    const { word } = describe('node', status);
    const { selected, chain, filter } = this.#marks;
    own.tabIndex = item === this.#currentItem() ? 0 : -1;
    own.setAttribute('aria-pressed', String(selected === place.id));
    own.classList.toggle('gr-dim', this.#isDim(item));
    own.classList.toggle('gr-linked', Boolean(chain?.has(place.id) && !(filter && !filter.has(place.id))));
    own.dataset.status = status;
    const words = detail ? `${word} ${detail}` : word;
    const line = /** @type {HTMLElement} */ (own.lastElementChild);
    const shown = this.#cut(words, ROOM.text, 'words');
    if (line.textContent !== shown) line.textContent = shown;
    const alone = node.parallel_safe === false ? ', runs alone' : '';
    const deliverable = typeof node.deliverable === 'string' && node.deliverable ? `, ${node.deliverable}` : '';
    own.setAttribute('aria-label', `${place.id}, ${words}${alone}${deliverable}`);
  }

  /**
   * As much of a text as there is room for. Cutting by CSS would clip each line, which makes panning slow.
   * @param {string} text
   * @param {number} room
   * @param {'id'|'words'} kind
   */
  #cut(text, room, kind) {
    const key = `${kind} ${room} ${text}`;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    const { fontFamily } = getComputedStyle(this.#host);
    this.#ruler.font = kind === 'id' ? `600 12px ${this.#mono}` : `11px ${fontFamily}`;
    const fits = (/** @type {string} */ part) => this.#ruler.measureText(part).width <= room;
    let shown = text;
    for (let end = text.length - 1; end > 0 && !fits(shown); end--) shown = `${text.slice(0, end)}…`;
    // Details count seconds, so old ones are of no more use.
    if (this.#texts.size > 5000) this.#texts.clear();
    this.#texts.set(key, shown);
    return shown;
  }

  /** @param {Item} item */
  #isDim({ place }) {
    const { chain, filter } = this.#marks;
    return Boolean((filter && !filter.has(place.id)) || (chain && !chain.has(place.id)));
  }

  #paint() {
    const context = sized(this.#canvas, this.#width, this.#height);
    if (!context) return;
    const ratio = this.#canvas.width / this.#width;
    const scale = this.#zoom * ratio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.setTransform(scale, 0, 0, scale, this.#x * ratio, this.#y * ratio);
    this.#paintEdges(context);
    if (this.#isFar) this.#paintBlocks(context);
  }

  /** @param {CanvasRenderingContext2D} context */
  #paintEdges(context) {
    const { selected, critical, chain, filter } = this.#marks;
    const left = -this.#x / this.#zoom, right = left + this.#width / this.#zoom;
    const top = -this.#y / this.#zoom, bottom = top + this.#height / this.#zoom;
    /** @type {{plain: Edge[], long: Edge[], dim: Edge[], chain: Edge[], critical: Edge[], selected: Edge[]}} */
    const kinds = { plain: [], long: [], dim: [], chain: [], critical: [], selected: [] };
    const after = new Map(critical.slice(1).map((id, at) => [id, critical[at]]));
    for (const edge of this.#edges) {
      if (edge.left > right || edge.right < left || edge.top > bottom || edge.bottom < top) continue;
      const from = edge.from.place.id, to = edge.to.place.id;
      if (from === selected || to === selected) kinds.selected.push(edge);
      else if (after.get(to) === from) kinds.critical.push(edge);
      else if (chain?.has(from) && chain.has(to)) kinds.chain.push(edge);
      else if ((filter || chain) && (this.#isDim(edge.from) || this.#isDim(edge.to))) kinds.dim.push(edge);
      else kinds[edge.points.length > 4 ? 'long' : 'plain'].push(edge);
    }
    const { control, amber, critical: thick, link } = this.#colours;
    const thin = this.#isFar ? 0.75 : 1;
    this.#strokeEdges(context, kinds.dim, control, thin, 0.25);
    this.#strokeEdges(context, kinds.long, control, thin, this.#isFar ? 0.4 : 0.65);
    this.#strokeEdges(context, kinds.plain, control, thin, this.#isFar ? 0.6 : 1);
    this.#strokeEdges(context, kinds.chain, amber, 2.5, 1);
    this.#strokeEdges(context, kinds.critical, thick, 2.5, 1);
    this.#strokeEdges(context, kinds.selected, link, 2, 1);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Edge[]} edges
   * @param {string} colour
   * @param {number} width  in pixels of the screen
   * @param {number} alpha
   */
  #strokeEdges(context, edges, colour, width, alpha) {
    context.strokeStyle = colour;
    context.lineWidth = width / this.#zoom;
    context.globalAlpha = alpha;
    // One path of thousands of curves is slower to fill than many short ones.
    for (let first = 0; first < edges.length; first += EDGES_A_STROKE) {
      context.beginPath();
      for (const { points } of edges.slice(first, first + EDGES_A_STROKE)) trace(context, points);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  /**
   * Nodes too small to read: blocks that tell their status by form as well; what failed is drawn last and never small.
   * @param {CanvasRenderingContext2D} context
   */
  #paintBlocks(context) {
    const line = 1.5 / this.#zoom;
    /** @type {Item[]} */
    const failed = [];
    for (const item of this.#items.values()) {
      if (!this.#isNear(item, FAR_GLYPH)) continue;
      context.globalAlpha = this.#isDim(item) ? 0.25 : 1;
      paintBlock(context, item, this.#colours, line);
      if (item.status === 'failed') failed.push(item);
    }
    for (const item of failed) {
      context.globalAlpha = this.#isDim(item) ? 0.4 : 1;
      paintFailure(context, middleOf(item), FAR_GLYPH / 2 / this.#zoom, this.#colours);
    }
    context.globalAlpha = 1;
    const selected = this.#selectedItem();
    const focused = this.#hasFocus() ? this.#currentItem() : null;
    for (const [item, colour] of /** @type {const} */ ([[selected, 'link'], [focused, 'focus']])) {
      if (!item) continue;
      const gap = (item === selected ? 3 : 6) / this.#zoom;
      context.strokeStyle = this.#colours[colour];
      context.lineWidth = 2.5 / this.#zoom;
      context.strokeRect(item.place.x - gap, item.place.y - gap, NODE.width + 2 * gap, NODE.height + 2 * gap);
    }
  }

  // ---------------------------------------------------------------- minimap

  /** The graph's place and scale in the minimap. */
  #mapScale() {
    const { width, height } = this.#layout ?? { width: 1, height: 1 };
    const scale = Math.min((MAP.width - 8) / width, (MAP.height - 8) / height);
    return { scale, x: (MAP.width - width * scale) / 2, y: (MAP.height - height * scale) / 2 };
  }

  #needsMap() {
    if (!this.#layout || !this.#items.size || !this.#wantsMap) return false;
    const { width, height } = this.#layout;
    return this.#x < 0 || this.#y < 0 || this.#x + width * this.#zoom > this.#width
      || this.#y + height * this.#zoom > this.#height;
  }

  #paintMap() {
    this.#map.classList.toggle('gr-off', !this.#needsMap());
    if (!this.#needsMap()) return;
    if (this.#mapStale) this.#paintMapBlocks();
    const context = sized(this.#map, MAP.width, MAP.height);
    if (!context) return;
    const ratio = this.#map.width / MAP.width;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#map.width, this.#map.height);
    context.drawImage(this.#mapBlocks, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { scale, x, y } = this.#mapScale();
    const seen = {
      left: clamp(x + (-this.#x / this.#zoom) * scale, 1, MAP.width - 1),
      right: clamp(x + ((this.#width - this.#x) / this.#zoom) * scale, 1, MAP.width - 1),
      top: clamp(y + (-this.#y / this.#zoom) * scale, 1, MAP.height - 1),
      bottom: clamp(y + ((this.#height - this.#y) / this.#zoom) * scale, 1, MAP.height - 1),
    };
    context.strokeStyle = this.#colours.link;
    context.lineWidth = 2;
    context.strokeRect(seen.left, seen.top, seen.right - seen.left, seen.bottom - seen.top);
  }

  /** The blocks change with statuses only, so panning does not draw them again. */
  #paintMapBlocks() {
    const context = sized(this.#mapBlocks, MAP.width, MAP.height);
    if (!context) return;
    this.#mapStale = false;
    const ratio = this.#mapBlocks.width / MAP.width;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#mapBlocks.width, this.#mapBlocks.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { scale, x, y } = this.#mapScale();
    const width = Math.max(2, NODE.width * scale), height = Math.max(1, NODE.height * scale);
    const rects = (/** @type {boolean} */ failed, /** @type {number} */ wide, /** @type {number} */ high) => {
      for (const { place, status } of this.#items.values()) {
        if ((status === 'failed') !== failed) continue;
        context.fillStyle = toneOf(this.#colours, status);
        context.fillRect(x + place.x * scale, y + place.y * scale, wide, high);
      }
    };
    rects(false, width, height);
    rects(true, Math.max(4, width), Math.max(4, height));
  }

  /** @param {PointerEvent} event */
  #jump(event) {
    const box = this.#map.getBoundingClientRect();
    const { scale, x, y } = this.#mapScale();
    const graphX = (((event.clientX - box.left) * MAP.width) / box.width - x) / scale;
    const graphY = (((event.clientY - box.top) * MAP.height) / box.height - y) / scale;
    this.#moveTo(this.#width / 2 - graphX * this.#zoom, this.#height / 2 - graphY * this.#zoom);
    this.#touched();
  }

  // ---------------------------------------------------------------- input

  #footer() {
    const foot = element('div', 'gr-foot');
    const hint = element('span', 'gr-hint');
    hint.textContent = 'Arrow keys follow edges · thick line: critical path';
    const tools = element('span', 'gr-tools');
    const tool = (/** @type {HTMLButtonElement} */ own, /** @type {() => void} */ does) => {
      own.addEventListener('click', does);
      tools.append(own);
    };
    tool(button('', '−', 'Zoom out (-)'), () => this.zoom(1 / ZOOM.step));
    tool(button('', '+', 'Zoom in (+)'), () => this.zoom());
    tool(button('', 'Fit', 'Show all of the graph (f)'), () => this.fit());
    tool(this.#level, () => this.actual());
    this.#note.hidden = true;
    foot.append(this.#map, hint, this.#note, tools);
    return foot;
  }

  #listen() {
    const { signal } = this.#teardown;
    const view = this.#view;
    view.addEventListener('wheel', (event) => this.#wheel(event), { passive: false, signal });
    view.addEventListener('pointerdown', (event) => this.#down(event), { signal });
    view.addEventListener('pointermove', (event) => this.#move(event), { signal });
    for (const name of /** @type {const} */ (['pointerup', 'pointercancel'])) {
      view.addEventListener(name, (event) => this.#pointers.delete(event.pointerId), { signal });
    }
    view.addEventListener('click', (event) => this.#click(event), { signal });
    view.addEventListener('dblclick', (event) => this.#opened(this.#hit(event)), { signal });
    view.addEventListener('keydown', (event) => this.#key(event), { signal });
    view.addEventListener('focusin', (event) => this.#focused(event), { signal });
    view.addEventListener('focusout', () => this.#isFar && this.#redraw(), { signal });
    this.#map.addEventListener('pointerdown', (event) => {
      this.#map.setPointerCapture(event.pointerId);
      this.#jump(event);
    }, { signal });
    this.#map.addEventListener('pointermove', (event) => event.buttons && this.#jump(event), { signal });

    const sizes = new ResizeObserver(() => this.#resized());
    sizes.observe(view);
    const recolour = () => this.#recolour();
    for (const query of ['(prefers-color-scheme: dark)', '(forced-colors: active)', '(prefers-contrast: more)']) {
      matchMedia(query).addEventListener('change', recolour, { signal });
    }
    const theme = new MutationObserver(recolour);
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme', 'class'] });
    const watchDensity = () => {
      matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener('change', () => {
        this.#mapStale = true;
        this.#redraw();
        watchDensity();
      }, { once: true, signal });
    };
    watchDensity();
    recolour();
    this.#undo.push(() => sizes.disconnect(), () => theme.disconnect());
  }

  #recolour() {
    this.#colours = coloursOf(this.#host);
    const style = getComputedStyle(this.#host);
    this.#mono = style.getPropertyValue('--mono').trim() || 'monospace';
    // A drawing in each of hundreds of nodes is slow to pan; an image that they share is not.
    const image = (/** @type {string} */ name, /** @type {string} */ inner, /** @type {string} */ colour) => {
      this.#nodes.style.setProperty(`--gr-${name}`, `url("${imageOf(inner, colour, this.#colours)}")`);
    };
    for (const status of NODE_STATUSES) {
      image(status, glyphPath(describe('node', status).shape), toneOf(this.#colours, status));
    }
    image('lock', LOCK, this.#colours.muted);
    this.#mapStale = true;
    this.#redraw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : event.deltaMode ? this.#height : 1;
    const dx = event.deltaX * unit, dy = event.deltaY * unit;
    if (event.ctrlKey || event.metaKey) {
      const { x, y } = this.#at(event);
      this.#zoomTo(this.#zoom * Math.exp(-clamp(dy, -100, 100) / 300), x, y);
    } else if (event.shiftKey && !dx) {
      this.#moveTo(this.#x - dy, this.#y);
    } else {
      this.#moveTo(this.#x - dx, this.#y - dy);
    }
    this.#touched();
  }

  /** @param {MouseEvent} event */
  #at(event) {
    const box = this.#view.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0) return;
    this.#pointers.set(event.pointerId, this.#at(event));
    if (this.#pointers.size > 1) return;
    this.#dragged = false;
    this.#press = this.#at(event);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before || !(event.buttons & 1)) {
      this.#pointers.delete(event.pointerId);
      this.#point(event);
      return;
    }
    const now = this.#at(event);
    const far = Math.abs(now.x - this.#press.x) + Math.abs(now.y - this.#press.y);
    if (!this.#dragged && this.#pointers.size < 2 && far < CLICK_SLACK) return;
    if (!this.#dragged) {
      this.#dragged = true;
      this.#view.setPointerCapture(event.pointerId);
    }
    const other = [...this.#pointers].find(([pointer]) => pointer !== event.pointerId)?.[1];
    if (other) {
      const apart = (/** @type {{x: number, y: number}} */ point) => Math.hypot(point.x - other.x, point.y - other.y);
      const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
      this.#zoomTo(this.#zoom * (apart(now) / Math.max(1, apart(before))), middle.x, middle.y);
      this.#moveTo(this.#x + (now.x - before.x) / 2, this.#y + (now.y - before.y) / 2);
    } else {
      this.#moveTo(this.#x + now.x - before.x, this.#y + now.y - before.y);
    }
    this.#pointers.set(event.pointerId, now);
    this.#touched();
  }

  /**
   * Names what the pointer is over: an id may be cut, and a block has no text at all.
   * @param {PointerEvent} event
   */
  #point(event) {
    const item = this.#hit(event);
    const title = item ? `${item.place.id}\n${describe('node', item.status).word} ${item.detail}` : '';
    if (this.#view.title !== title) this.#view.title = title;
    this.#view.classList.toggle('gr-over', Boolean(item));
  }

  /**
   * The node under the pointer; near it, when nodes are small.
   * @param {MouseEvent} event
   * @returns {Item|null}
   */
  #hit(event) {
    const own = event.target instanceof Element ? event.target.closest('.gr-node') : null;
    if (own instanceof HTMLElement) return this.#items.get(own.dataset.id ?? '') ?? null;
    if (!this.#isFar) return null;
    const { x, y } = this.#at(event);
    let found = null, least = 6;
    for (const item of this.#items.values()) {
      const { left, top } = this.#onScreen(item);
      const dx = Math.max(left - x, 0, x - left - NODE.width * this.#zoom);
      const dy = Math.max(top - y, 0, y - top - NODE.height * this.#zoom);
      const far = Math.max(dx, dy);
      if (far < least) [found, least] = [item, far];
    }
    return found;
  }

  /** @param {MouseEvent} event */
  #click(event) {
    if (this.#dragged && event.detail) {
      this.#dragged = false;
      return;
    }
    const item = this.#hit(event);
    if (!item) {
      if (this.#marks.selected !== null) this.#on.select(null, this.#view);
      return;
    }
    this.#setCurrent(item);
    item.button?.focus({ preventScroll: true });
    if (event.ctrlKey || event.metaKey) this.#opened(item);
    else this.#on.select(item.place.id, item.button?.isConnected ? item.button : this.#view);
  }

  /** @param {Item|null} item */
  #opened(item) {
    if (item) this.#on.open(item.place.id);
  }

  /** @param {FocusEvent} event */
  #focused(event) {
    if (this.#isFar) this.#redraw();
    const own = event.target;
    if (!(own instanceof HTMLElement) || !own.dataset.id) return;
    const item = this.#items.get(own.dataset.id);
    if (!item) return;
    this.#setCurrent(item);
    if (own.matches(':focus-visible')) this.#bring(item);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const current = this.#currentItem();
    if (!current || event.altKey) return;
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      this.#opened(current);
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    if (this.#isFar && event.key === 'Enter') {
      event.preventDefault();
      event.stopPropagation();
      this.#on.select(current.place.id, this.#view);
      return;
    }
    if (!/^Arrow(Left|Right|Up|Down)$/.test(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.shiftKey) this.#panBy(event.key);
    // The first key only makes the focused node readable.
    else this.focus((this.#isFar ? current : this.#neighbour(current, event.key) ?? current).place.id);
  }

  /** @param {string} key */
  #panBy(key) {
    const by = 80;
    const dx = key === 'ArrowLeft' ? by : key === 'ArrowRight' ? -by : 0;
    const dy = key === 'ArrowUp' ? by : key === 'ArrowDown' ? -by : 0;
    this.#moveTo(this.#x + dx, this.#y + dy);
    this.#touched();
  }

  /**
   * Left and right follow edges, up and down the layer; the opposite key leads back.
   * @param {Item} item
   * @param {string} key
   * @returns {Item|undefined}
   */
  #neighbour(item, key) {
    const layer = this.#layers[item.place.rank];
    if (key === 'ArrowUp') return layer[layer.indexOf(item) - 1];
    if (key === 'ArrowDown') return layer[layer.indexOf(item) + 1];
    const near = key === 'ArrowLeft' ? item.ins : item.outs;
    const leadsBack = this.#step.to === item.place.id && this.#step.key !== key;
    const back = leadsBack ? near.find(({ place }) => place.id === this.#step.from) : undefined;
    const far = (/** @type {Item} */ { place }) => Math.hypot(place.x - item.place.x, (place.y - item.place.y) * 2);
    const next = back ?? near.reduce((best, other) => (!best || far(other) < far(best) ? other : best),
      /** @type {Item|undefined} */ (undefined));
    if (next) this.#step = { from: item.place.id, to: next.place.id, key };
    return next;
  }
}

/**
 * @param {unknown[]} nodes
 * @returns {Promise<Layout>}
 */
function inWorker(nodes) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./layout.js', import.meta.url), { type: 'module' });
    worker.onmessage = ({ data }) => {
      worker.terminate();
      resolve(data.result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      worker.terminate();
      reject(new Error('the layout could not run in a Worker'));
    };
    worker.postMessage({ job: 0, nodes });
  });
}

/**
 * A smooth line from column to column, level where it crosses one.
 * @param {CanvasRenderingContext2D} context
 * @param {number[]} points
 */
function trace(context, points) {
  context.moveTo(points[0], points[1]);
  for (let at = 2; at < points.length; at += 2) {
    const x0 = points[at - 2], y0 = points[at - 1], x1 = points[at], y1 = points[at + 1];
    if (y0 === y1) {
      context.lineTo(x1, y1);
    } else {
      const bend = (x1 - x0) / 2;
      context.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
    }
  }
}

/** @param {number[]} points */
function boxOf(points) {
  const box = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (let at = 0; at < points.length; at += 2) {
    box.left = Math.min(box.left, points[at]);
    box.right = Math.max(box.right, points[at]);
    box.top = Math.min(box.top, points[at + 1]);
    box.bottom = Math.max(box.bottom, points[at + 1]);
  }
  return box;
}

/** @param {Item} item */
function middleOf({ place }) {
  return { x: place.x + NODE.width / 2, y: place.y + NODE.height / 2 };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Item} item
 * @param {Colours} colours
 * @param {number} line
 */
function paintBlock(context, item, colours, line) {
  const { x, y } = item.place;
  const { width, height } = NODE;
  const tone = toneOf(colours, item.status);
  context.fillStyle = item.status === 'done' || item.status === 'failed' ? tone : colours.surface;
  context.fillRect(x, y, width, height);
  if (item.status === 'done' || item.status === 'failed') return;
  context.strokeStyle = tone;
  context.lineWidth = line;
  context.strokeRect(x + line / 2, y + line / 2, width - line, height - line);
  context.fillStyle = tone;
  if (item.status === 'running') context.fillRect(x, y, width / 2, height);
  else if (item.status === 'blocked') context.fillRect(x + width / 4, y + height / 2 - line, width / 2, line * 2);
}

/**
 * An octagon with a cross.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number}} middle
 * @param {number} radius
 * @param {Colours} colours
 */
function paintFailure(context, { x, y }, radius, colours) {
  context.beginPath();
  for (let corner = 0; corner < 8; corner++) {
    const angle = ((corner + 0.5) * Math.PI) / 4;
    context.lineTo(x + Math.cos(angle) * radius, y + Math.sin(angle) * radius);
  }
  context.closePath();
  context.fillStyle = colours.red;
  context.fill();
  context.strokeStyle = colours.surface;
  context.lineWidth = radius / 5;
  context.stroke();
  const arm = radius * 0.4;
  context.beginPath();
  context.moveTo(x - arm, y - arm);
  context.lineTo(x + arm, y + arm);
  context.moveTo(x + arm, y - arm);
  context.lineTo(x - arm, y + arm);
  context.lineWidth = radius / 3.5;
  context.stroke();
}

/** @typedef {Record<typeof COLOURS[number], string>} Colours */

const COLOURS = /** @type {const} */ ([
  'bg', 'surface', 'muted', 'control', 'critical', 'link', 'focus', 'grey', 'cyan', 'blue', 'green', 'red', 'amber',
]);

/**
 * The tokens as a canvas or an image wants them; they see no custom properties.
 * @param {Element} host
 * @returns {Colours}
 */
function coloursOf(host) {
  const style = getComputedStyle(host);
  const isForced = matchMedia('(forced-colors: active)').matches;
  const colour = (/** @type {typeof COLOURS[number]} */ name) => {
    if (!isForced) return style.getPropertyValue(`--${name}`).trim();
    if (name === 'bg' || name === 'surface') return 'Canvas';
    return name === 'link' || name === 'focus' ? 'Highlight' : 'CanvasText';
  };
  return /** @type {Colours} */ (Object.fromEntries(COLOURS.map((name) => [name, colour(name)])));
}

/**
 * A drawing as the address of an image.
 * @param {string} inner  static markup on a grid of 16
 * @param {string} colour
 * @param {Colours} colours
 */
function imageOf(inner, colour, colours) {
  const colourOf = (/** @type {string} */ _, /** @type {keyof Colours} */ name) => colours[name] ?? colour;
  const drawn = inner.replace(/var\(--([a-z]+)\)/g, colourOf);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" color="${colour}">${drawn}</svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

/**
 * @param {Colours} colours
 * @param {string} status
 */
function toneOf(colours, status) {
  return colours[/** @type {keyof Colours} */ (describe('node', status).tone)];
}

/**
 * A canvas of this many CSS pixels, at the screen's density.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
function sized(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const wide = Math.round(width * ratio), high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  return canvas.getContext('2d');
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {string} className
 * @returns {HTMLElementTagNameMap[Name]}
 */
function element(name, className) {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

/**
 * @param {string} className
 * @param {string} text
 * @param {string} title
 */
function button(className, text, title) {
  const made = element('button', `btn ${className}`.trim());
  made.type = 'button';
  made.textContent = text;
  made.title = title;
  made.setAttribute('aria-label', title.replace(/ \(.\)$/, ''));
  return made;
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function clamp(value, least, most) {
  return Math.max(least, Math.min(most, value));
}
