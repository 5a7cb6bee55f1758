// The rows of an agent's run: in log order, calls in the place of the status they were made in, repeats folded.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { buildSteps, flat, leafAt, leavesOf } from "../../src/ui/js/steps.js";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const sample = (run) => readFileSync(`${root}/data/runs/${run}/transitions.jsonl`, "utf8")
  .split("\n").filter(Boolean).map((line) => JSON.parse(line));

let clock = 0;
const event = (ms, name, members) => ({ ts: new Date(Date.UTC(2026, 3, 24) + (clock = ms)).toISOString(), event: name, ...members });
const move = (ms, step, from, to, more) => event(ms, "agent_transition", { agent_id: "a", step, from, to, ...more });
const call = (ms, step, input, ok = true) =>
  event(ms, "tool_invocation", { agent_id: "a", step, tool_name: "test", duration_s: 0.5, ok, input_summary: input });
const start = event(0, "agent_run_start", { agent_id: "a", task: "t" });
const around = (ms, step, input, ok) => [move(ms, step, "thinking", "tool_call"), call(ms + 500, step, input, ok),
  move(ms + 501, step, "tool_call", "tool_result"), move(ms + 502, step + 1, "tool_result", "thinking")];
const kinds = (rows) => rows.map((row) => row.kind).join(" ");

test("a call stands for the statuses that frame it", () => {
  const { rows } = buildSteps([start, ...around(1000, 0, "x")]);
  assert.equal(kinds(rows), "thinking tool thinking");
  assert.equal(rows[0].to - rows[0].from, 1000);
  assert.equal(rows[1].to - rows[1].from, 500);
  assert.equal(rows[2].to, null);
});

test("the same call again and again is one row, with what was thought between inside", () => {
  const { rows } = buildSteps([start, ...around(1000, 0, "x", false), ...around(2000, 1, "x"), ...around(3000, 2, "y")]);
  assert.equal(kinds(rows), "thinking group thinking tool thinking");
  assert.deepEqual([rows[1].calls, rows[1].ok, kinds(rows[1].children)], [2, 1, "tool thinking tool"]);
  assert.equal(flat(rows, new Set([rows[1].key])).length, rows.length + 3);
});

test("what is under way is the last row", () => {
  const running = buildSteps([start, move(1000, 0, "thinking", "tool_call")]);
  assert.equal(kinds(running.rows), "thinking tool_call");
  const called = buildSteps([start, move(1000, 0, "thinking", "tool_call"), call(1500, 0, "x")]);
  assert.equal(kinds(called.rows), "thinking tool tool_call");
  assert.equal(called.rows[2].from, called.rows[1].to);
});

test("a clock that steps back moves nothing", () => {
  const { rows, times } = buildSteps([start, move(5000, 0, "thinking", "reflect"), move(1000, 1, "reflect", "response")]);
  assert.deepEqual(times.map((time) => time - times[0]), [0, 5000, 5000]);
  assert.ok(rows.every((row) => row.to === null || row.to >= row.from));
});

test("each row of each sample run has a name of its own, and each event a row", () => {
  for (const run of ["fix-api-events-1", "migrate-docs-9", "review-55", "summarize-3", "triage-201"]) {
    const events = sample(run);
    for (let length = 1; length <= events.length; length += 1) {
      const { rows } = buildSteps(events, length);
      const all = rows.flatMap((row) => [row, ...row.children]);
      assert.equal(new Set(all.map((row) => row.pick)).size, all.length, run);
      assert.equal(new Set(all.map((row) => row.key)).size, all.length, run);
      const leaves = leavesOf(rows);
      for (let seq = 0; seq < length; seq += 1) assert.ok(leafAt(leaves, seq), `${run}: event ${seq} has no row`);
    }
  }
});

test("every audit stands at a row, and every call is counted", () => {
  const { rows } = buildSteps(sample("migrate-docs-9"));
  const leaves = leavesOf(rows);
  assert.equal(leaves.reduce((sum, row) => sum + row.audits.length, 0), 7);
  assert.equal(leaves.filter((row) => row.kind === "tool").length, 12);
  assert.equal(rows.find((row) => row.kind === "group").calls, 6);
});
