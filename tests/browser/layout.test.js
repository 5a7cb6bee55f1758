// The graph's layout: what it promises for any graph, good or damaged.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { layout } from '../../src/ui/js/layout.js';

const WIDTH = 168, HEIGHT = 40;

/** A small generator with a fixed seed: the same graphs every time. */
function dice(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A plan of about `perRank` nodes a rank; most edges come from the rank before, some from far behind. */
function plan(count, perRank, seed = 1) {
  const roll = dice(seed);
  return Array.from({ length: count }, (_, at) => {
    const rank = Math.floor(at / perRank);
    const depends_on = new Set();
    for (let edge = roll(3) + (rank ? 1 : 0); rank && edge > 0; edge--) {
      const back = roll(6) ? 1 : 1 + roll(rank);
      depends_on.add(`n${Math.min(at - 1, (rank - back) * perRank + roll(perRank))}`);
    }
    return { id: `n${at}`, depends_on: [...depends_on] };
  });
}

const graphs = {
  '12': plan(12, 3), '32': plan(32, 5), '150': plan(150, 9), '500': plan(500, 25), '2000': plan(2000, 50),
};

function assertSound(result) {
  const byId = new Map(result.places.map((place) => [place.id, place]));
  for (const { from, to, points } of result.routes) {
    assert.ok(byId.get(from).rank < byId.get(to).rank, `${from} stands left of ${to}`);
    for (let at = 2; at < points.length; at += 2) assert.ok(points[at] >= points[at - 2], 'an edge never turns back');
    assert.deepEqual(points.slice(0, 2), [byId.get(from).x + WIDTH, byId.get(from).y + HEIGHT / 2]);
    assert.deepEqual(points.slice(-2), [byId.get(to).x, byId.get(to).y + HEIGHT / 2]);
  }
  for (const column of groupByX(result.places).values()) {
    column.sort((a, b) => a.y - b.y);
    for (let at = 1; at < column.length; at++) {
      assert.ok(column[at].y >= column[at - 1].y + HEIGHT, `${column[at].id} and ${column[at - 1].id} overlap`);
    }
  }
  for (const { x, y } of result.places) {
    assert.ok(x >= 0 && y >= 0 && x + WIDTH <= result.width && y + HEIGHT <= result.height, 'inside the picture');
    assert.ok(Number.isFinite(x) && Number.isFinite(y));
  }
}

function groupByX(places) {
  const groups = new Map();
  for (const place of places) groups.set(place.x, (groups.get(place.x) ?? []).concat(place));
  return groups;
}

for (const [name, nodes] of Object.entries(graphs)) {
  test(`${name} nodes: nothing overlaps, every edge leads to the right, all are drawn`, () => {
    const result = layout(nodes);
    assertSound(result);
    assert.deepEqual(result.places.map(({ id }) => id), nodes.map(({ id }) => id));
    const wanted = nodes.flatMap(({ id, depends_on }) => depends_on.map((need) => `${need} ${id}`));
    assert.deepEqual(result.routes.map(({ from, to }) => `${from} ${to}`), wanted);
    assert.deepEqual(result.bad, []);
  });

  test(`${name} nodes: the same graph gives the same picture`, () => {
    assert.deepEqual(layout(structuredClone(nodes)), layout(nodes));
  });

  test(`${name} nodes: no more crossings than in the file's order`, () => {
    assert.ok(layout(nodes).crossings <= layout(nodes, { sweeps: 0 }).crossings);
  });
}

test('edges keep clear of the nodes that they pass', () => {
  const { places, routes } = layout(graphs['150']);
  for (const { from, to, points } of routes) {
    for (let at = 2; at + 3 < points.length; at += 4) {
      const [x, y] = points.slice(at, at + 2);
      const hit = places.find((place) => place.x === x && y > place.y && y < place.y + HEIGHT);
      assert.equal(hit, undefined, `${from} to ${to} runs behind a node`);
    }
  }
});

test('sweeps do cross out crossings', () => {
  const order = layout(graphs['500'], { sweeps: 0 }).crossings;
  const swept = layout(graphs['500']).crossings;
  assert.ok(swept < order * 0.6, `${swept} of ${order}`);
});

test('nothing and one node', () => {
  assert.deepEqual(layout([]), { places: [], routes: [], width: 0, height: 0, ranks: 0, crossings: 0, bad: [] });
  const one = layout([{ id: 'plan', depends_on: [] }]);
  assert.deepEqual(one.places, [{ id: 'plan', x: 0, y: 0, rank: 0 }]);
  assert.deepEqual([one.width, one.height], [WIDTH, HEIGHT]);
});

test('a chain is a straight line', () => {
  const chain = Array.from({ length: 20 }, (_, at) => ({ id: `n${at}`, depends_on: at ? [`n${at - 1}`] : [] }));
  const { places, crossings } = layout(chain);
  assert.equal(new Set(places.map(({ y }) => y)).size, 1);
  assert.equal(crossings, 0);
});

test('a cycle is cut where a walk in the file\'s order closes it, and told', () => {
  const nodes = [
    { id: 'a', depends_on: ['c'] },
    { id: 'b', depends_on: ['a'] },
    { id: 'c', depends_on: ['b'] },
    { id: 'd', depends_on: ['d', 'a'] },
  ];
  const result = layout(nodes);
  assertSound(result);
  assert.equal(result.places.length, 4);
  assert.deepEqual(result.bad, [
    { node: 'b', needs: 'a', why: 'cycle' },
    { node: 'd', needs: 'd', why: 'cycle' },
  ]);
  assert.deepEqual(result.routes.map(({ from, to }) => [from, to]), [['c', 'a'], ['b', 'c'], ['a', 'd']]);
});

test('dangling edges, nodes that stand twice and rubbish are left out and told', () => {
  const result = layout([
    { id: 'a', depends_on: [] },
    { id: 'b', depends_on: ['a', 'gone', 'a', 7] },
    { id: 'a', depends_on: ['b'] },
    { id: '<img src=x>', depends_on: ['a'] },
    { id: 'c', depends_on: 'a' },
    { depends_on: ['a'] },
    null,
    3,
  ]);
  assert.deepEqual(result.places.map(({ id }) => id), ['a', 'b', 'c']);
  assert.deepEqual(result.routes.map(({ from, to }) => [from, to]), [['a', 'b']]);
  assert.deepEqual(result.bad, [
    { node: 'a', needs: null, why: 'duplicate' },
    { node: '<img src=x>', needs: null, why: 'invalid' },
    { node: 'undefined', needs: null, why: 'invalid' },
    { node: 'undefined', needs: null, why: 'invalid' },
    { node: 'undefined', needs: null, why: 'invalid' },
    { node: 'b', needs: 'gone', why: 'dangling' },
  ]);
});

test('bounded: 2,000 nodes, and the worst that 2,000 nodes can be', () => {
  assertSound(layout(graphs['2000']));
  const ladder = Array.from({ length: 2000 }, (_, at) => (
    { id: `n${at}`, depends_on: at ? [...new Set([`n${at - 1}`, 'n0', `n${at >> 1}`])] : [] }
  ));
  const dense = Array.from({ length: 2000 }, (_, at) => (
    { id: `n${at}`, depends_on: Array.from({ length: Math.min(at, 200) }, (_, back) => `n${at - back - 1}`) }
  ));
  for (const nodes of [ladder, dense]) {
    assertSound(layout(nodes));
  }
});
