// How numbers, moments and statuses are written. Nothing here asks the server or keeps anything.
import { html } from "../vendor/ui-runtime.js";

const UNKNOWN = "–";

/**
 * Seconds in words. Never rounded up: a running value must not look finished.
 * @param {number | null | undefined} seconds
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return UNKNOWN;
  if (seconds < 1) return `${Math.floor(seconds * 1000)}ms`;
  if (seconds < 10) return `${(Math.floor(seconds * 10) / 10).toFixed(1)}s`;
  const whole = Math.floor(seconds);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor(whole / 3600) % 24)}h`;
}

/** @param {number | null | undefined} value */
export function count(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 100_000) return value >= 10_000_000 ? `${Math.floor(value / 1_000_000)}M` : `${Math.floor(value / 1000)}k`;
  return String(value).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A share, 0 to 1, as whole percents; 0 and 100 only when exact. @param {number | null | undefined} share */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return UNKNOWN;
  if (share > 0 && share < 0.01) return "<1%";
  if (share < 1 && share > 0.99) return ">99%";
  return `${Math.round(share * 100)}%`;
}

/** @param {number | null | undefined} value */
export function score(value) {
  return value === null || value === undefined ? UNKNOWN : value.toFixed(2);
}

/** @param {number} value */
export function bytes(value) {
  if (value < 1024) return `${value} B`;
  return value < 1024 * 1024 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1024 / 1024).toFixed(1)} MiB`;
}

/** @param {number} value @param {string} noun @param {string} [several] */
export function plural(value, noun, several = `${noun}s`) {
  return `${count(value)} ${value === 1 ? noun : several}`;
}

/** Milliseconds of a ts; NaN when it is none. @param {string | null | undefined} ts */
export function parse(ts) {
  return ts ? Date.parse(ts) : NaN;
}

/** @param {number} value @param {number} [width] */
const padded = (value, width = 2) => String(value).padStart(width, "0");

/** The parts of a moment, in UTC or here. @param {number} at @param {boolean} utc */
function parts(at, utc) {
  const date = new Date(at);
  const offset = utc ? 0 : -date.getTimezoneOffset();
  // Shifted, so that the UTC getters give the local parts of this very moment, daylight saving included.
  const local = new Date(at + offset * 60_000);
  const sign = offset < 0 ? "-" : "+";
  const minutes = Math.abs(offset);
  return {
    day: `${padded(local.getUTCFullYear(), 4)}-${padded(local.getUTCMonth() + 1)}-${padded(local.getUTCDate())}`,
    time: `${padded(local.getUTCHours())}:${padded(local.getUTCMinutes())}:${padded(local.getUTCSeconds())}`,
    ms: padded(local.getUTCMilliseconds(), 3),
    offset: utc ? "Z" : `${sign}${padded(Math.floor(minutes / 60))}:${padded(minutes % 60)}`,
  };
}

/** `2026-11-23 08:42:11 +01:00`, `2026-11-23 07:42:11Z`. @param {string | number | null | undefined} ts @param {{utc: boolean}} zone */
export function absolute(ts, { utc }) {
  const at = typeof ts === "number" ? ts : parse(ts);
  if (Number.isNaN(at)) return UNKNOWN;
  const { day, time, offset } = parts(at, utc);
  return utc ? `${day} ${time}${offset}` : `${day} ${time} ${offset}`;
}

/**
 * The time of day, with its offset; milliseconds on demand.
 * @param {string | number | null | undefined} ts @param {{utc: boolean, ms?: boolean, bare?: boolean}} zone bare: without the offset, for columns whose head says it
 */
export function clock(ts, { utc, ms = false, bare = false }) {
  const at = typeof ts === "number" ? ts : parse(ts);
  if (Number.isNaN(at)) return UNKNOWN;
  const { time, ms: thousandths, offset } = parts(at, utc);
  const shown = ms ? `${time}.${thousandths}` : time;
  return bare ? shown : utc ? `${shown}${offset}` : `${shown} ${offset}`;
}

/** The offset that holds at this moment, as `+01:00` or `UTC`. @param {number} at @param {boolean} utc */
export function zoneName(at, utc) {
  return utc ? "UTC" : parts(at, false).offset;
}

/** @param {string | null | undefined} ts @param {number} now @param {{utc: boolean}} [zone] */
export function ago(ts, now, zone = { utc: false }) {
  const at = parse(ts);
  if (Number.isNaN(at)) return UNKNOWN;
  const seconds = Math.floor((now - at) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds}s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ago`;
  const { day, time } = parts(at, zone.utc);
  if (day === parts(now - 86_400_000, zone.utc).day) return `yesterday ${time.slice(0, 5)}`;
  return day;
}

// Text of producers may hold what a terminal obeys or what turns the reading direction; it is shown instead.
const ANSI = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g;
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** @param {unknown} text */
export function visible(text) {
  return String(text ?? "")
    .replace(ANSI, "")
    .replace(/\r\n/g, "\n")
    .replace(HIDDEN, (char) => `\\u{${char.charCodeAt(0).toString(16)}}`);
}

const SIGNALS = /** @type {Record<number, string>} */ ({
  124: "timed out",
  126: "not executable",
  127: "command not found",
  129: "hung up",
  130: "interrupted",
  134: "aborted",
  136: "arithmetic error",
  137: "killed, likely out of memory",
  139: "segmentation fault",
  141: "broken pipe",
  143: "terminated",
});

/** @param {number | null | undefined} rc */
export function exitCode(rc) {
  if (rc === null || rc === undefined) return UNKNOWN;
  return SIGNALS[rc] ? `${rc} (${SIGNALS[rc]})` : String(rc);
}

/** @typedef {{tone: string, word: string, shape: string}} Look */

/** Tone, word and shape of every value of every set (ui.md 5.1). @type {Record<string, Record<string, Look>>} */
export const STATUS = {
  node: {
    pending: { tone: "grey", word: "Pending", shape: "dashed-circle" },
    ready: { tone: "cyan", word: "Ready", shape: "diamond" },
    running: { tone: "blue", word: "Running", shape: "half-circle" },
    done: { tone: "green", word: "Done", shape: "check-circle" },
    failed: { tone: "red", word: "Failed", shape: "octagon-cross" },
    blocked: { tone: "amber", word: "Blocked", shape: "square-bar" },
  },
  run: {
    clean: { tone: "green", word: "Clean", shape: "check-circle" },
    clean_with_flake: { tone: "lime", word: "Clean with flake", shape: "check-wave" },
    partial: { tone: "amber", word: "Partial", shape: "square-half" },
    stuck: { tone: "purple", word: "Stuck", shape: "hourglass" },
    catastrophic: { tone: "red", word: "Catastrophic", shape: "triangle" },
    running: { tone: "blue", word: "Running", shape: "half-circle" },
    stalled: { tone: "amber", word: "Stalled", shape: "pause" },
    waiting: { tone: "grey", word: "Waiting for the first event", shape: "dashed-circle" },
  },
  agent: {
    converged: { tone: "green", word: "Converged", shape: "target" },
    partial: { tone: "amber", word: "Partial", shape: "square-half" },
    escaped: { tone: "red", word: "Escaped", shape: "box-arrow" },
    aborted: { tone: "grey", word: "Aborted", shape: "square" },
    unknown: { tone: "none", word: "Unknown", shape: "square-question" },
  },
  audit: {
    pass: { tone: "green", word: "Pass", shape: "check-circle" },
    warn: { tone: "amber", word: "Warn", shape: "triangle" },
    fail: { tone: "red", word: "Fail", shape: "octagon-cross" },
  },
  verdict: {
    stable: { tone: "green", word: "Stable", shape: "dot" },
    recovered: { tone: "lime", word: "Recovered", shape: "dot-wave" },
    flaky: { tone: "amber", word: "Flaky", shape: "triangle" },
    regressed: { tone: "red", word: "Regressed", shape: "octagon-cross" },
    broken: { tone: "red", word: "Broken", shape: "octagon-cross" },
    insufficient_data: { tone: "grey", word: "Few results", shape: "dashed-square" },
  },
  result: {
    done: { tone: "green", word: "Done", shape: "check-circle" },
    retry: { tone: "lime", word: "Done after a retry", shape: "check-wave" },
    failed: { tone: "red", word: "Failed", shape: "octagon-cross" },
    blocked: { tone: "amber", word: "Blocked", shape: "square-bar" },
  },
  severity: {
    error: { tone: "red", word: "Error", shape: "octagon-cross" },
    warning: { tone: "amber", word: "Warning", shape: "triangle" },
    info: { tone: "grey", word: "Info", shape: "dot" },
  },
};

/** @param {string} set @param {string | null | undefined} value @returns {Look} */
export function describe(set, value) {
  const known = value && Object.hasOwn(STATUS[set] ?? {}, value) ? STATUS[set][value] : undefined;
  return known ?? { tone: "grey", word: visible(value ?? "Unknown"), shape: "dot" };
}

/**
 * What a run's row says of its state, in the words of its kind.
 * @param {any} row @returns {{set: string, value: string, word: string}}
 */
export function runState(row) {
  const of = (/** @type {string} */ set, /** @type {string} */ value, /** @type {string} */ word) => ({ set, value, word });
  if (row.phase === "ended") {
    if (row.kind === "agent") return of("agent", row.outcome ?? "unknown", describe("agent", row.outcome ?? "unknown").word);
    if (row.outcome === "clean_with_flake" && row.flaky_nodes?.length) {
      return of("run", row.outcome, `Clean, ${row.flaky_nodes.length} flaky`);
    }
    return row.outcome ? of("run", row.outcome, describe("run", row.outcome).word) : of("agent", "unknown", "Ended");
  }
  const failed = row.nodes?.failed ?? 0;
  const behind = failed ? `, ${failed} failed` : "";
  if (row.phase === "stalled") return of("run", "stalled", `Stalled${behind}`);
  return row.next_seq === 0 ? of("run", "waiting", "Waiting") : of("run", "running", `Running${behind}`);
}

// Shapes on a grid of 16, filled with the tone; a mark inside has the colour of the ground, so that it reads in grey too.
const MARK = 'fill="none" stroke="var(--bg)" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"';
const LINE = 'fill="none" stroke="currentColor" stroke-width="1.75" stroke-linejoin="round" stroke-linecap="round"';
const OCTAGON = "M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z";
const SHAPES = /** @type {Record<string, string>} */ ({
  "dashed-circle": `<circle cx="8" cy="8" r="6" ${LINE} stroke-dasharray="2.7 2"/>`,
  "diamond": `<path d="M8 1.6 14.4 8 8 14.4 1.6 8z" ${LINE}/>`,
  "half-circle": `<circle cx="8" cy="8" r="6" ${LINE}/><path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"/>`,
  "check-circle": `<circle cx="8" cy="8" r="7" fill="currentColor"/><path d="M4.9 8.3 7.1 10.4 11.1 6" ${MARK}/>`,
  "check-wave": `<circle cx="8" cy="6.4" r="5.6" fill="currentColor"/><path d="M5.6 6.5 7.4 8.1 10.4 4.9" ${MARK}/><path d="M1.5 14.6q1.6-2 3.2 0t3.2 0 3.2 0 3.2 0" ${LINE}/>`,
  "octagon-cross": `<path d="${OCTAGON}" fill="currentColor"/><path d="m5.5 5.5 5 5m0-5-5 5" ${MARK}/>`,
  "square-bar": `<rect x="2" y="2" width="12" height="12" rx="1.5" ${LINE}/><path d="M5 8h6" ${LINE}/>`,
  "square-half": `<rect x="2" y="2" width="12" height="12" rx="1.5" ${LINE}/><path d="M2 8h12v6H2z" fill="currentColor"/>`,
  "square": `<rect x="2" y="2" width="12" height="12" rx="1.5" fill="currentColor"/>`,
  "dashed-square": `<rect x="2" y="2" width="12" height="12" rx="1.5" ${LINE} stroke-dasharray="2.7 2"/>`,
  "square-question": `<rect x="2" y="2" width="12" height="12" rx="1.5" ${LINE} stroke-dasharray="2.7 2"/><path d="M6.4 6.4a1.7 1.7 0 1 1 2.4 1.5c-.6.3-.8.6-.8 1.1m0 2v.1" ${LINE}/>`,
  "hourglass": `<path d="M3 1.5h10v2.2L9.2 8l3.8 4.3v2.2H3v-2.2L6.8 8 3 3.7z" fill="currentColor"/>`,
  "triangle": `<path d="M8 1.2 15.4 14.5H.6z" fill="currentColor"/><path d="M8 6v3.6m0 2.4v.1" ${MARK}/>`,
  "pause": `<circle cx="8" cy="8" r="6" ${LINE}/><path d="M6.3 5.6v4.8m3.4-4.8v4.8" ${LINE}/>`,
  "target": `<circle cx="8" cy="8" r="6" ${LINE}/><circle cx="8" cy="8" r="2.8" fill="currentColor"/>`,
  "box-arrow": `<path d="M7 3H2.5v10.5h10.5V9" ${LINE}/><path d="M9.5 2H14v4.5M14 2 7.5 8.5" ${LINE}/>`,
  "dot": `<circle cx="8" cy="8" r="4" fill="currentColor"/>`,
  "dot-wave": `<circle cx="8" cy="6" r="4" fill="currentColor"/><path d="M1.5 14q1.6-2 3.200 0t3.200 0 3.200 0 3.200 0" ${LINE}/>`,
});

/** The drawing of a shape: static markup for a viewBox of 16. @param {string} shape */
export function glyphPath(shape) {
  return SHAPES[shape] ?? SHAPES.dot;
}

/** The shape of a status in its tone; its word stands beside it, so the drawing itself is silent. @param {string} set @param {string | null | undefined} value */
export function glyph(set, value) {
  const { tone, shape } = describe(set, value);
  return html`<svg
    class=${`glyph tone-${tone}`}
    viewBox="0 0 16 16"
    width="16"
    height="16"
    aria-hidden="true"
    data-shape=${shape}
    dangerouslySetInnerHTML=${{ __html: glyphPath(shape) }}
  ></svg>`;
}
