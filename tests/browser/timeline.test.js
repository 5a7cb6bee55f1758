// The timeline's axis: where a moment stands, and which idle times are drawn short.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Axis, idleGaps } from '../../src/ui/js/gantt.js';

const row = (...spans) => ({
  id: 'n', status: 'done', ready: null, waits: [], blocked: null,
  spans: spans.map(([from, to], at) => ({ from, to, attempt: at + 1, converged: true })),
});

test('idle time over a fifth of the run is a gap, wherever it is', () => {
  const rows = [row([300, 400]), row([350, 450]), row([700, 740])];
  assert.deepEqual(idleGaps(rows, 0, 1000), [{ from: 0, to: 300 }, { from: 450, to: 700 }, { from: 740, to: 1000 }]);
  assert.deepEqual(idleGaps(rows, 200, 800), [{ from: 450, to: 700 }]);
});

test('what still runs is busy to the end, and a run without work has no gaps', () => {
  assert.deepEqual(idleGaps([row([0, null])], 0, 1000), []);
  assert.deepEqual(idleGaps([], 0, 1000), []);
});

test('a pause before a retry is not idle', () => {
  const waiting = { ...row([0, 100], [900, 1000]), waits: [{ from: 100, to: 900 }] };
  assert.deepEqual(idleGaps([waiting], 0, 1000), []);
});

test('time and place are each other\'s inverse, with and without gaps', () => {
  for (const gaps of [[], [{ from: 0, to: 300 }], [{ from: 200, to: 500 }, { from: 600, to: 900 }]]) {
    const axis = new Axis(0, 1000, gaps);
    assert.equal(axis.at(0), 0);
    assert.equal(axis.at(1000), 1);
    let before = -1;
    for (let ms = 0; ms <= 1000; ms += 10) {
      const x = axis.at(ms);
      assert.ok(x > before, `${ms} stands right of what is before it`);
      assert.ok(Math.abs(axis.time(x) - ms) < 1e-6);
      before = x;
    }
  }
});

test('a gap takes one width whatever its length, and holds no tick', () => {
  const axis = new Axis(0, 10_000_000, [{ from: 60_000, to: 9_940_000 }]);
  assert.ok(Math.abs(axis.at(9_940_000) - axis.at(60_000) - 0.05) < 1e-9);
  assert.ok(axis.ticks(9).length > 2);
  assert.ok(axis.ticks(9).every((ms) => ms < 60_000 || ms >= 9_940_000));
});

test('a moment outside of the run stands at its edge', () => {
  const axis = new Axis(100, 200, []);
  assert.equal(axis.at(50), 0);
  assert.equal(axis.at(500), 1);
  assert.equal(new Axis(100, 100, []).at(100), 0);
});
