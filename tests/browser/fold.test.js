// The status fold: equal to the server's for every moment of every sample run, and fast enough to scrub with.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Fold } from '../../src/ui/js/fold.js';
import { usable } from '../../src/ui/js/layout.js';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const T0 = Date.parse('2026-04-24T10:00:00.000Z');

const at = (ms) => new Date(T0 + ms).toISOString();
const moved = (ms, node_id, from, to, attempt) => (
  { ts: at(ms), run_id: 'r', event: 'node_transition', node_id, from, to, ...(attempt && { attempt }) }
);
const tried = (ms, node_id, attempt, duration_s, converged, backoff_s) => (
  { ts: at(ms), run_id: 'r', event: 'node_attempt', node_id, attempt, duration_s, converged, done_when_results: [],
    ...(backoff_s && { backoff_s }) }
);
const folded = (ids, events) => {
  const fold = new Fold(ids);
  for (const event of events) fold.push(event);
  return fold;
};

describe('beside the server', () => {
  let server, base;

  before(async () => {
    const binary = resolve(root, process.env.KAHN_BIN ?? 'target/debug/kahn');
    server = spawn(binary, ['serve', '--fixture-dir', resolve(root, 'data'), '--bind', '127.0.0.1:0'], {
      env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'pipe'],
    });
    base = await new Promise((found, failed) => {
      let said = '';
      const listen = (bytes) => {
        said += bytes;
        const address = /http:\/\/127\.0\.0\.1:\d+/.exec(said);
        if (address) found(address[0]);
      };
      server.stdout.on('data', listen);
      server.stderr.on('data', listen);
      server.on('error', failed);
      server.on('exit', () => failed(new Error(`the server ended: ${said}`)));
    });
  });

  after(() => server?.kill());

  const json = async (path) => {
    const answer = await fetch(base + path);
    assert.equal(answer.status, 200, path);
    return answer.json();
  };

  for (const run_id of readdirSync(resolve(root, 'data/runs'))) {
    test(`${run_id}: statuses of nodes and agent at every seq`, async () => {
      const run = `/api/runs/${run_id}`;
      const graph = await fetch(`${base}${run}/graph`);
      const nodes = graph.ok ? (await graph.json()).nodes : [];
      const log = await (await fetch(`${base}${run}/events?limit=5000`)).text();
      const events = log.split('\n').slice(0, -1).map((line) => JSON.parse(line));
      const whole = folded(usable(nodes).ids, events);
      const growing = new Fold(usable(nodes).ids);
      for (let seq = events.length ? 0 : null; seq === null || seq < events.length; seq++) {
        const state = await json(seq === null ? run : `${run}?at_seq=${seq}`);
        if (seq !== null) growing.push(events[seq]);
        const wanted = state.node_states.map(({ node_id, status }) => [node_id, status]);
        assert.deepEqual([...whole.statusAt(seq)], wanted, `${run_id} at ${seq}`);
        assert.deepEqual([...growing.statusAt(null)], wanted, `${run_id} grown to ${seq}`);
        assert.equal(whole.agentStatusAt(seq), state.agent?.status ?? null);
        if (state.nodes) assert.deepEqual(whole.counts(whole.statusAt(seq)), state.nodes);
        if (seq === null) break;
      }
    });
  }
});

test('a move counts whatever it says it came from; a node outside the graph appears with its first event', () => {
  const fold = folded(['a'], [
    { ts: at(0), run_id: 'r', event: 'run_start', total_nodes: 1 },
    moved(1, 'a', 'running', 'done'),
    tried(2, 'new', 1, 1, false),
    { ts: at(3), run_id: 'r', event: 'deploy_marker', node_id: 'other', to: 'failed' },
    moved(4, 'new', 'pending', 'pending'),
    moved(5, 'a', 'done', 'ready'),
  ]);
  assert.deepEqual([...fold.statusAt(0)], [['a', 'pending']]);
  assert.deepEqual([...fold.statusAt(1)], [['a', 'done']]);
  assert.deepEqual([...fold.statusAt(2)], [['a', 'done'], ['new', 'pending']]);
  assert.deepEqual([...fold.statusAt(null)], [['a', 'ready'], ['new', 'pending']]);
  assert.deepEqual([...fold.statusAt(-1)], [['a', 'pending']]);
  assert.deepEqual(fold.changes, [
    { seq: 1, node_id: 'a', status: 'done' }, { seq: 5, node_id: 'a', status: 'ready' },
  ]);
  assert.deepEqual(fold.failures, [2]);
});

test('the nearest change before and after', () => {
  const fold = folded(['a', 'b'], [
    moved(0, 'a', 'pending', 'ready'), moved(1, 'b', 'pending', 'ready'), moved(2, 'a', 'ready', 'running', 1),
    moved(3, 'a', 'running', 'running', 2), moved(4, 'a', 'running', 'done'),
  ]);
  const steps = (id, dir) => [0, 1, 2, 3, 4].map((seq) => fold.nextChange(id, seq, dir));
  assert.deepEqual(steps('a', 1), [2, 2, 4, 4, null]);
  assert.deepEqual(steps('a', -1), [null, 0, 0, 2, 2]);
  assert.deepEqual(steps(null, 1), [1, 2, 4, 4, null]);
  assert.deepEqual(steps('nobody', 1), [null, null, null, null, null]);
});

test('effective time never steps back', () => {
  const fold = folded([], [5, 9, 3, 9, 12].map((ms) => ({ ts: at(ms), run_id: 'r', event: 'heartbeat' })));
  assert.deepEqual([...fold.effective], [5, 9, 9, 9, 12].map((ms) => T0 + ms));
});

test('rows of the timeline: retries within running, retries through ready, what is open, what is blocked', () => {
  const fold = folded(['within', 'through', 'open', 'blocked', 'idle'], [
    { ts: at(0), run_id: 'r', event: 'run_start', total_nodes: 5 },
    moved(1000, 'within', 'pending', 'ready'),
    moved(2000, 'within', 'ready', 'running', 1),
    moved(2500, 'through', 'pending', 'ready'),
    moved(3000, 'through', 'ready', 'running', 1),
    tried(12000, 'within', 1, 10, false),
    tried(13000, 'through', 1, 10, false),
    moved(13001, 'through', 'running', 'ready'),
    moved(15001, 'through', 'ready', 'running', 2),
    tried(24000, 'within', 2, 10, true, 2),
    moved(24001, 'within', 'running', 'done'),
    moved(25000, 'open', 'pending', 'ready'),
    moved(26000, 'open', 'ready', 'running', 1),
    moved(27000, 'blocked', 'pending', 'blocked'),
    tried(28000, 'through', 2, 12, false),
    moved(28001, 'through', 'running', 'failed'),
  ]);
  const relative = (rows) => JSON.parse(JSON.stringify(rows, (key, value) => (value > T0 ? value - T0 : value)));
  assert.deepEqual(relative(fold.spans(null, null)), [
    { id: 'within', status: 'done', ready: 1000, blocked: null, waits: [{ from: 12000, to: 14000 }], spans: [
      { from: 2000, to: 12000, attempt: 1, converged: false }, { from: 14000, to: 24000, attempt: 2, converged: true },
    ] },
    { id: 'through', status: 'failed', ready: 2500, blocked: null, waits: [{ from: 13001, to: 15001 }], spans: [
      { from: 3000, to: 13000, attempt: 1, converged: false }, { from: 15001, to: 28000, attempt: 2, converged: false },
    ] },
    { id: 'open', status: 'running', ready: 25000, blocked: null, waits: [], spans: [
      { from: 26000, to: null, attempt: 1, converged: null },
    ] },
    { id: 'blocked', status: 'blocked', ready: null, blocked: 27000, waits: [], spans: [] },
  ]);
  // At seq 7 nothing that came later shows, and what is open ends where it is told to.
  assert.deepEqual(relative(fold.spans(T0 + 14000, 7)), [
    { id: 'within', status: 'running', ready: 1000, blocked: null, waits: [], spans: [
      { from: 2000, to: 12000, attempt: 1, converged: false }, { from: 12000, to: 14000, attempt: 2, converged: null },
    ] },
    { id: 'through', status: 'ready', ready: 2500, blocked: null, waits: [{ from: 13001, to: 14000 }], spans: [
      { from: 3000, to: 13000, attempt: 1, converged: false },
    ] },
  ]);
  fold.push({ ts: at(30000), run_id: 'r', event: 'run_end', outcome: 'catastrophic' });
  const open = fold.spans(T0 + 99000, null).find((row) => row.id === 'open');
  assert.equal(open.spans[0].to, T0 + 30000, 'an ended run leaves nothing open');
});

test('a moment of 50,000 events is what folding them up to it gives', () => {
  const ids = Array.from({ length: 500 }, (_, node) => `n${node}`);
  const cycle = [['pending', 'ready'], ['ready', 'running'], ['running', 'ready'], ['ready', 'running']];
  const events = Array.from({ length: 50_000 }, (_, seq) => {
    const [from, to] = cycle[Math.floor(seq / 500) % 4];
    return moved(seq * 10, ids[seq % 500], from, to, to === 'running' ? 1 : undefined);
  });
  const fold = folded(ids, events);
  for (const seq of [0, 499, 500, 12_345, 49_999]) {
    assert.deepEqual([...fold.statusAt(seq)], [...folded(ids, events.slice(0, seq + 1)).statusAt(null)]);
  }
});
