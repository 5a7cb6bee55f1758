/**
 * Places a dependency graph from left to right. Pure and deterministic: the picture depends on the graph alone, never
 * on what its nodes do, so nothing moves while a run is live.
 *
 * The method is the layered one: ranks by longest path, bends where an edge passes a rank, orders by barycentre sweeps
 * of which the one with the fewest crossings is kept, then heights by isotonic regression toward the neighbours' medians.
 *
 * The same file is the module of a Worker: `{job, nodes, options}` in, `{job, result}` out.
 */

/**
 * @typedef {{id: string, depends_on: string[]}} PlannedNode
 * @typedef {{node: string, needs: string|null, why: 'dangling'|'cycle'|'duplicate'|'invalid'}} Fault
 *   what could not be drawn: an edge (`needs` is where it comes from), or a node that stands twice or has no valid id
 * @typedef {{id: string, x: number, y: number, rank: number}} Place  the node's left upper corner
 * @typedef {{from: string, to: string, points: number[]}} Route  x and y in turn, from the dependency to the dependent
 * @typedef {{places: Place[], routes: Route[], width: number, height: number, ranks: number, crossings: number,
 *   bad: Fault[]}} Layout
 * @typedef {{width: number, height: number, gapX: number, gapY: number, sweeps: number}} LayoutOptions
 */

/** @type {LayoutOptions} */
const DEFAULTS = { width: 168, height: 40, gapX: 64, gapY: 12, sweeps: 10 };

/** How much of a rank's height a bend takes. */
const BEND_HEIGHT = 6;
/** A bend holds its place more firmly than a node, which keeps long edges straight. */
const BEND_WEIGHT = 2;
/** More bends than this are not worth their time: the longest edges then run straight, behind the nodes. */
const MOST_BENDS = 20_000;
/** Links looked at in all sweeps together; a huge graph gets fewer sweeps. */
const MOST_LINKS_SWEPT = 1_000_000;
const PLACING_ROUNDS = 4;

const NODE_ID = /^[a-z0-9][a-z0-9-]{0,63}$/;

/**
 * @param {readonly unknown[]} nodes  as graph.json has them; what is not valid is left out and told in `bad`
 * @param {Partial<LayoutOptions>} [options]
 * @returns {Layout}
 */
export function layout(nodes, options = {}) {
  const size = { ...DEFAULTS, ...options };
  const { ids, needs, bad } = usable(nodes);
  const { rank, ranks } = ranksOf(needs);
  const net = netOf(needs, rank, ranks);
  const crossings = arrange(net, size.sweeps);
  place(net, size);
  return { ...picture(ids, needs, net, size), ranks, crossings, bad };
}

/**
 * Takes what is valid of a graph, as the server does: first of equal ids, edges between known nodes, no edge that leads
 * back to a node on a depth-first walk in the file's order.
 * @param {readonly unknown[]} nodes
 * @returns {{ids: string[], needs: number[][], bad: Fault[]}}
 */
export function usable(nodes) {
  /** @type {Fault[]} */
  const bad = [];
  /** @type {Map<string, number>} */
  const index = new Map();
  /** @type {unknown[]} */
  const wanted = [];
  for (const node of nodes) {
    const { id, depends_on } = /** @type {{id?: unknown, depends_on?: unknown}} */ (node ?? {});
    if (typeof id !== 'string' || !NODE_ID.test(id)) {
      bad.push({ node: String(id), needs: null, why: 'invalid' });
    } else if (index.has(id)) {
      bad.push({ node: id, needs: null, why: 'duplicate' });
    } else {
      index.set(id, wanted.length);
      wanted.push(depends_on);
    }
  }
  const ids = [...index.keys()];
  const needs = wanted.map((list, at) => {
    /** @type {Set<number>} */
    const known = new Set();
    for (const need of Array.isArray(list) ? list : []) {
      const from = index.get(need);
      if (from !== undefined) known.add(from);
      else if (typeof need === 'string') bad.push({ node: ids[at], needs: need, why: 'dangling' });
    }
    return [...known];
  });
  for (const [at, from] of closingEdges(needs)) {
    bad.push({ node: ids[at], needs: ids[from], why: 'cycle' });
    needs[at] = needs[at].filter((other) => other !== from);
  }
  return { ids, needs, bad };
}

/**
 * The edges that close a cycle.
 * @param {number[][]} needs
 * @returns {[number, number][]} node and what it needs
 */
function closingEdges(needs) {
  const NEW = 0, ON_WALK = 1, DONE = 2;
  const marks = new Uint8Array(needs.length);
  /** @type {[number, number][]} */
  const closing = [];
  for (let root = 0; root < needs.length; root++) {
    if (marks[root] !== NEW) continue;
    marks[root] = ON_WALK;
    const walk = [{ at: root, next: 0 }];
    while (walk.length) {
      const step = walk[walk.length - 1];
      if (step.next === needs[step.at].length) {
        marks[step.at] = DONE;
        walk.pop();
        continue;
      }
      const to = needs[step.at][step.next++];
      if (marks[to] === ON_WALK) closing.push([step.at, to]);
      if (marks[to] !== NEW) continue;
      marks[to] = ON_WALK;
      walk.push({ at: to, next: 0 });
    }
  }
  return closing;
}

/**
 * The rank of a node is the length of the longest path to it.
 * @param {number[][]} needs  without cycles
 */
function ranksOf(needs) {
  const rank = new Int32Array(needs.length);
  const left = Int32Array.from(needs, (list) => list.length);
  const dependents = reversed(needs);
  const ready = [...needs.keys()].filter((node) => !left[node]);
  for (let at = 0; at < ready.length; at++) {
    const node = ready[at];
    for (const dependent of dependents[node]) {
      rank[dependent] = Math.max(rank[dependent], rank[node] + 1);
      if (--left[dependent] === 0) ready.push(dependent);
    }
  }
  const ranks = rank.reduce((most, own) => Math.max(most, own + 1), 0);
  return { rank, ranks };
}

/** @param {number[][]} lists */
function reversed(lists) {
  /** @type {number[][]} */
  const back = lists.map(() => []);
  lists.forEach((list, at) => list.forEach((other) => back[other].push(at)));
  return back;
}

/**
 * Cells in ranks, linked from rank to rank: the nodes first, by their index, then the bends.
 * @typedef {{nodes: number, rank: number[], ins: number[][], outs: number[][], layers: number[][], slot: Int32Array,
 *   middle: Float64Array, trunks: number[][], reach: number}} Net
 *   `slot` is a cell's place in its layer, `middle` its height, `trunks[node]` the bends of the node's long edges,
 *   `reach` the longest edge that has bends
 */

/**
 * Long edges of one node share their bends, so that they leave it as one trunk.
 * @param {number[][]} needs
 * @param {Int32Array} rank
 * @param {number} ranks
 * @returns {Net}
 */
function netOf(needs, rank, ranks) {
  const nodes = needs.length;
  const reach = reachWithin(MOST_BENDS, needs, rank, ranks);
  /** @type {Net} */
  const net = {
    nodes, reach,
    rank: Array.from(rank),
    ins: needs.map(() => []),
    outs: needs.map(() => []),
    layers: Array.from({ length: ranks }, () => []),
    slot: new Int32Array(0),
    middle: new Float64Array(0),
    trunks: needs.map(() => []),
  };
  for (let node = 0; node < nodes; node++) net.layers[rank[node]].push(node);
  const link = (/** @type {number} */ from, /** @type {number} */ to) => {
    net.outs[from].push(to);
    net.ins[to].push(from);
  };
  needs.forEach((list, node) => {
    for (const need of list) {
      const span = rank[node] - rank[need];
      if (span > reach) continue;
      const trunk = net.trunks[need];
      while (trunk.length < span - 1) {
        const bend = net.rank.push(rank[need] + trunk.length + 1) - 1;
        net.ins.push([]);
        net.outs.push([]);
        net.layers[net.rank[bend]].push(bend);
        link(trunk.at(-1) ?? need, bend);
        trunk.push(bend);
      }
      link(span > 1 ? trunk[span - 2] : need, node);
    }
  });
  net.slot = new Int32Array(net.rank.length);
  net.middle = new Float64Array(net.rank.length);
  net.layers.forEach((layer) => number(net, layer));
  return net;
}

/**
 * The longest edge that may have bends so that there are not too many.
 * @param {number} most
 * @param {number[][]} needs
 * @param {Int32Array} rank
 * @param {number} ranks
 */
function reachWithin(most, needs, rank, ranks) {
  for (let reach = ranks; ; reach = Math.floor(reach / 2)) {
    const bends = new Int32Array(needs.length);
    needs.forEach((list, node) => {
      for (const need of list) {
        const span = rank[node] - rank[need];
        if (span <= reach) bends[need] = Math.max(bends[need], span - 1);
      }
    });
    if (reach <= 1 || bends.reduce((sum, own) => sum + own, 0) <= most) return reach;
  }
}

/**
 * @param {Net} net
 * @param {number[]} layer
 */
function number(net, layer) {
  for (let at = 0; at < layer.length; at++) net.slot[layer[at]] = at;
}

/**
 * Sweeps back and forth over the layers and keeps the best order that it saw.
 * @param {Net} net
 * @param {number} sweeps
 * @returns {number} crossings between linked cells
 */
function arrange(net, sweeps) {
  const links = net.outs.reduce((sum, list) => sum + list.length, 0);
  const affordable = Math.min(sweeps, Math.max(2, Math.floor(MOST_LINKS_SWEPT / (links + 1))));
  const count = crossingCounter(net);
  const keys = new Float64Array(net.rank.length);
  let fewest = count();
  let best = net.layers.map((layer) => layer.slice());
  for (let sweep = 0; sweep < affordable && fewest; sweep++) {
    const backwards = sweep % 2 === 1;
    const sides = backwards ? net.outs : net.ins;
    for (let at = 1; at < net.layers.length; at++) {
      sortByNeighbours(net, net.layers[backwards ? net.layers.length - 1 - at : at], sides, keys);
    }
    const crossings = count();
    if (crossings < fewest) {
      fewest = crossings;
      best = net.layers.map((layer) => layer.slice());
    }
  }
  net.layers = best;
  best.forEach((layer) => number(net, layer));
  return fewest;
}

/**
 * Sorts a layer by the mean slot of each cell's neighbours on one side; without neighbours a cell stays.
 * @param {Net} net
 * @param {number[]} layer
 * @param {number[][]} sides
 * @param {Float64Array} keys
 */
function sortByNeighbours(net, layer, sides, keys) {
  const { slot } = net;
  let sorted = true, previous = -Infinity;
  for (const cell of layer) {
    const others = sides[cell];
    let sum = 0;
    for (let at = 0; at < others.length; at++) sum += slot[others[at]];
    const key = others.length ? sum / others.length : slot[cell];
    sorted &&= key >= previous;
    keys[cell] = previous = key;
  }
  if (sorted) return;
  layer.sort((a, b) => keys[a] - keys[b] || slot[a] - slot[b]);
  number(net, layer);
}

/**
 * Counts pairs of links that cross, with a Fenwick tree over the slots of the right layer.
 * @param {Net} net
 */
function crossingCounter(net) {
  const widest = net.layers.reduce((most, layer) => Math.max(most, layer.length), 0);
  const tree = new Int32Array(widest + 1);
  const ends = new Int32Array(net.outs.reduce((most, list) => Math.max(most, list.length), 0));
  return () => {
    let crossings = 0;
    for (let at = 0; at + 1 < net.layers.length; at++) {
      const slots = net.layers[at + 1].length;
      tree.fill(0, 0, slots + 1);
      let seen = 0;
      for (const cell of net.layers[at]) {
        const outs = net.outs[cell];
        for (let i = 0; i < outs.length; i++) ends[i] = net.slot[outs[i]];
        if (outs.length > 1) ends.subarray(0, outs.length).sort();
        for (let i = 0; i < outs.length; i++) {
          let below = 0;
          for (let leaf = ends[i] + 1; leaf > 0; leaf -= leaf & -leaf) below += tree[leaf];
          crossings += seen - below;
          for (let leaf = ends[i] + 1; leaf <= slots; leaf += leaf & -leaf) tree[leaf]++;
          seen++;
        }
      }
    }
    return crossings;
  };
}

/**
 * Gives each cell its height: near the median of its neighbours, in the layer's order, nothing overlapping.
 * @param {Net} net
 * @param {LayoutOptions} size
 */
function place(net, size) {
  for (const layer of net.layers) {
    let y = 0;
    for (const cell of layer) {
      const height = heightOf(net, cell, size);
      net.middle[cell] = y + height / 2;
      y += height + size.gapY;
    }
  }
  for (let round = 0; round < PLACING_ROUNDS; round++) {
    for (let at = 1; at < net.layers.length; at++) settle(net, net.layers[at], [net.ins], size);
    for (let at = net.layers.length - 2; at >= 0; at--) settle(net, net.layers[at], [net.outs], size);
  }
  for (const layer of net.layers) settle(net, layer, [net.ins, net.outs], size);
}

/**
 * @param {Net} net
 * @param {number} cell
 * @param {LayoutOptions} size
 */
function heightOf(net, cell, size) {
  return cell < net.nodes ? size.height : BEND_HEIGHT;
}

/**
 * Isotonic regression (pool adjacent violators): less the room that the cells above need, heights must not fall along
 * the layer; neighbours that would are pooled into a block at their weighted mean.
 * @param {Net} net
 * @param {number[]} layer
 * @param {number[][][]} sides
 * @param {LayoutOptions} size
 */
function settle(net, layer, sides, size) {
  const offsets = new Float64Array(layer.length);
  /** @type {{sum: number, weight: number, first: number, last: number}[]} */
  const blocks = [];
  for (let at = 0; at < layer.length; at++) {
    const cell = layer[at];
    if (at) {
      const apart = (heightOf(net, layer[at - 1], size) + heightOf(net, cell, size)) / 2 + size.gapY;
      offsets[at] = offsets[at - 1] + apart;
    }
    const weight = cell < net.nodes ? 1 : BEND_WEIGHT;
    const block = { sum: weight * (wantedMiddle(net, cell, sides) - offsets[at]), weight, first: at, last: at };
    for (let last = blocks.at(-1); last && last.sum / last.weight >= block.sum / block.weight; last = blocks.at(-1)) {
      block.sum += last.sum;
      block.weight += last.weight;
      block.first = last.first;
      blocks.pop();
    }
    blocks.push(block);
  }
  for (const { sum, weight, first, last } of blocks) {
    for (let at = first; at <= last; at++) net.middle[layer[at]] = sum / weight + offsets[at];
  }
}

/**
 * The median of the neighbours' heights.
 * @param {Net} net
 * @param {number} cell
 * @param {number[][][]} sides
 */
function wantedMiddle(net, cell, sides) {
  const { middle } = net;
  if (sides.length === 1 && sides[0][cell].length === 1) return middle[sides[0][cell][0]];
  /** @type {number[]} */
  const heights = [];
  for (const side of sides) for (const other of side[cell]) heights.push(middle[other]);
  if (!heights.length) return middle[cell];
  heights.sort((a, b) => a - b);
  const half = heights.length >> 1;
  return heights.length % 2 ? heights[half] : (heights[half - 1] + heights[half]) / 2;
}

/**
 * @param {string[]} ids
 * @param {number[][]} needs
 * @param {Net} net
 * @param {LayoutOptions} size
 */
function picture(ids, needs, net, size) {
  let top = Infinity, bottom = -Infinity;
  net.middle.forEach((middle, cell) => {
    top = Math.min(top, middle - heightOf(net, cell, size) / 2);
    bottom = Math.max(bottom, middle + heightOf(net, cell, size) / 2);
  });
  const left = (/** @type {number} */ cell) => net.rank[cell] * (size.width + size.gapX);
  // Whole pixels keep text sharp.
  const middle = (/** @type {number} */ cell) => Math.round(net.middle[cell] - top);
  const places = ids.map((id, node) => (
    { id, x: left(node), y: middle(node) - size.height / 2, rank: net.rank[node] }
  ));
  /** @type {Route[]} */
  const routes = [];
  needs.forEach((list, node) => {
    for (const need of list) {
      const points = [left(need) + size.width, middle(need)];
      const span = net.rank[node] - net.rank[need];
      const bends = span > net.reach ? [] : net.trunks[need].slice(0, span - 1);
      // An edge crosses a rank level, so that it keeps clear of the nodes beside it.
      for (const bend of bends) points.push(left(bend), middle(bend), left(bend) + size.width, middle(bend));
      points.push(left(node), middle(node));
      routes.push({ from: ids[need], to: ids[node], points });
    }
  });
  const ranks = net.layers.length;
  return {
    places, routes,
    width: Math.max(0, ranks * (size.width + size.gapX) - size.gapX),
    height: ids.length ? Math.ceil(bottom - top) : 0,
  };
}

const scope = /** @type {any} */ (globalThis);
if (typeof scope.WorkerGlobalScope === 'function' && scope instanceof scope.WorkerGlobalScope) {
  scope.onmessage = (/** @type {MessageEvent} */ { data }) => {
    scope.postMessage({ job: data.job, result: layout(data.nodes, data.options) });
  };
}
