/**
 * @file The rows of an agent's run, made from its log. Pure: no page, no server, no clock.
 */

import { parse } from "./fmt.js";

/** A tool's result is part of its call unless the agent stays with it for longer. */
const RESULT_MS = 1000;

/**
 * A row of the list of steps.
 * @typedef {{key: string, kind: string, seq: number, last: number, step: number|null, pick: string, from: number,
 *   to: number|null, tool: any, call: string, reason: string|null, usage: any, outcome: string|null, level: number,
 *   calls: number, ok: number, audits: Audit[], children: Row[], parent: Row|null, set: number, of: number}} Row
 * @typedef {{seq: number, event: any}} Audit
 */

/**
 * The rows of a log: each status as long as it lasted, tool calls in the place of the status that they were made in,
 * the same call again and again folded into one row. Times are the running maximum of ts, so that a clock that steps
 * back moves nothing.
 * @param {any[]} events
 * @param {number} [length]  so many of them
 * @param {number[]} [known]  their times, where they are known already
 * @returns {{rows: Row[], times: number[], start: number, failures: number[]}}
 */
export function buildSteps(events, length = events.length, known = []) {
  /** @type {Row[]} */
  const rows = [];
  /** @type {Audit[]} */
  const audits = [];
  const times = [];
  const failures = [];
  let at = -Infinity;
  /** @type {Row|null} */
  let open = null;
  /** @param {number} seq @param {string} kind @param {any} event @returns {Row} */
  const row = (seq, kind, event) => ({
    key: String(seq), kind, seq, last: seq, step: event.step ?? null, pick: "", from: at, to: null, tool: null, call: "",
    reason: event.reason ?? null, usage: event.usage ?? null, outcome: null, level: 1, calls: 0, ok: 0, audits: [],
    children: [], parent: null, set: 0, of: 0,
  });
  const close = () => {
    if (open !== null) open.to = at;
    open = null;
  };
  for (let seq = 0; seq < length; seq += 1) {
    const event = events[seq];
    const ts = known[seq] ?? parse(event.ts);
    at = Number.isNaN(ts) ? at : Math.max(at, ts);
    times.push(at);
    if (event.event === "agent_run_start") {
      close();
      open = row(seq, "started", event);
      rows.push(open);
    } else if (event.event === "agent_transition") {
      // What the agent did before its first move, that move tells.
      if (open?.kind === "started") open.kind = event.from;
      close();
      open = row(seq, event.to, event);
      rows.push(open);
    } else if (event.event === "tool_invocation") {
      const began = Math.max(at - event.duration_s * 1000, rows[0]?.from ?? at);
      const made = row(seq, "tool", event);
      made.from = began;
      made.to = at;
      made.tool = event;
      made.call = `${event.tool_name}\n${event.input_summary ?? ""}`;
      made.calls = 1;
      made.ok = event.ok ? 1 : 0;
      rows.push(made);
      if (open?.kind === "tool_call") {
        open.calls += 1;
        open.last = seq;
      }
      if (!event.ok) failures.push(seq);
    } else if (event.event === "audit_checkpoint") {
      audits.push({ seq, event });
      if (event.result === "fail") failures.push(seq);
    } else if (event.event === "agent_run_end") {
      close();
      const made = row(seq, "end", event);
      made.to = at;
      made.outcome = event.outcome;
      rows.push(made);
      if (event.outcome === "escaped" || event.outcome === "aborted") failures.push(seq);
    }
  }
  const folded = fold(merge(rows, open));
  number(folded);
  // An audit stands at the row that was the last one before it; a fold shows those of its rows.
  const leaves = audits.length === 0 ? [] : leavesOf(folded);
  for (const audit of audits) {
    const row = leafAt(leaves, audit.seq);
    row?.audits.push(audit);
    row?.parent?.audits.push(audit);
  }
  return { rows: folded, times, start: rows[0]?.from ?? times[0] ?? 0, failures };
}

/** Statuses that only frame a tool call give way to it. @param {Row[]} rows @param {Row|null} open @returns {Row[]} */
function merge(rows, open) {
  return rows.filter((row, at) => {
    if (row.kind === "tool_call" && row.calls > 0) {
      if (row !== open) return false;
      // It has called, and is calling still: what is under way began when the last call was over.
      row.from = rows.at(-1)?.kind === "tool" ? rows.at(-1)?.to ?? row.from : row.from;
      row.calls = 0;
      return true;
    }
    if (row.kind !== "tool_result" || row === open || (row.to ?? 0) - row.from >= RESULT_MS) return true;
    return !rows.slice(Math.max(0, at - 3), at).some((before) => before.kind === "tool");
  }).sort((a, b) => Number(a === open) - Number(b === open));
}

/** The same tool with the same input, with nothing but thinking between. @param {Row[]} rows @returns {Row[]} */
function fold(rows) {
  /** @type {Row[]} */
  const folded = [];
  for (let at = 0; at < rows.length; at += 1) {
    const first = rows[at];
    let last = at;
    let calls = 1;
    for (let next = at + 1; first.kind === "tool" && next < rows.length; next += 1) {
      const row = rows[next];
      if (row.kind === "tool" && row.call === first.call) {
        last = next;
        calls += 1;
      } else if (row.kind !== "thinking" && row.kind !== "tool_result") break;
    }
    if (calls === 1) {
      folded.push(first);
      continue;
    }
    const children = rows.slice(at, last + 1);
    const group = { ...first, key: `${first.key}+`, kind: "group", calls, ok: 0, children, to: rows[last].to, last: rows[last].seq };
    for (const child of children) {
      child.level = 2;
      child.parent = group;
      group.ok += child.kind === "tool" ? child.ok : 0;
    }
    folded.push(group);
    at = last;
  }
  return folded;
}

/**
 * The name of each row in an address: its step, and its place within it from the second row on. What a step did comes
 * before what was thought about it.
 * @param {Row[]} rows
 */
function number(rows) {
  /** @type {Map<number|null, number>} */
  const seen = new Map();
  const name = (/** @type {Row} */ row) => {
    const place = seen.get(row.step) ?? 0;
    seen.set(row.step, place + 1);
    row.pick = `${row.step ?? "-"}${place === 0 ? "" : `.${place}`}`;
  };
  const each = (/** @type {Row[]} */ siblings, /** @type {boolean} */ isThought) => siblings.forEach((row, at) => {
    row.set = at + 1;
    row.of = siblings.length;
    if ((row.kind === "thinking") === isThought) name(row);
    each(row.children, isThought);
  });
  each(rows, false);
  each(rows, true);
}

/** Rows with those of open groups. @param {Row[]} rows @param {Set<string>} unfolded @returns {Row[]} */
export const flat = (rows, unfolded) => rows.flatMap((row) => (unfolded.has(row.key) ? [row, ...row.children] : [row]));

/** The rows that stand for events: those of folds in the place of the folds. @param {Row[]} rows */
export const leavesOf = (rows) => rows.flatMap((row) => (row.children.length > 0 ? row.children : [row])).sort((a, b) => a.seq - b.seq);

/** The row that an event belongs to. @param {Row[]} leaves @param {number} seq @returns {Row|null} */
export function leafAt(leaves, seq) {
  let low = 0;
  for (let high = leaves.length; low < high;) {
    const middle = (low + high) >> 1;
    if (leaves[middle].seq <= seq) low = middle + 1;
    else high = middle;
  }
  return leaves[Math.max(0, low - 1)] ?? null;
}
