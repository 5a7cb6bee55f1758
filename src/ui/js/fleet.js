/**
 * @file What the pages about many runs share: an answer that stays fresh, rows that hold still under the reader, bars
 * on one scale, strips of results. Numbers, order and words are the server's; nothing is computed again here.
 */

import { html, render, useEffect, useLayoutEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { keep as keepState, kept, keys, setQuery } from "./app.js";
import { api, live } from "./net.js";
import { bytes as byteCount, count, describe, glyphPath, plural, visible } from "./fmt.js";
import { VList } from "./list.js";

/** How often a list may ask anew while runs change, in milliseconds. */
const FRESH_EVERY = 2000;
/** A window slides even when no run changes. */
const SLIDES_EVERY = 60_000;

// --- answers -----------------------------------------------------------------------------------------------------

/**
 * Asks for `path`, and again when runs of `filters` change. The last answer stays until the next one is there; with
 * `keeps` also when the path is another one.
 * @param {string|null} path
 * @param {{filters?: object|null, every?: number, keeps?: boolean}} [options]
 * @returns {{data: any, error: any, retry: () => void}}
 */
export function useAnswer(path, { filters = null, every = FRESH_EVERY, keeps = false } = {}) {
  const [answer, setAnswer] = useState({ path: /** @type {string|null} */ (null), data: null, error: null });
  const [tries, setTries] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const gone = new AbortController();
    let busy = false;
    let again = false;
    let asked = 0;
    /** @type {number|undefined} */
    let timer;
    const ask = async () => {
      timer = undefined;
      busy = true;
      asked = performance.now();
      try {
        const data = await api(path, { signal: gone.signal });
        if (!gone.signal.aborted) setAnswer({ path, data, error: null });
      } catch (error) {
        if (gone.signal.aborted) return;
        setAnswer((was) => ({ path, data: was.path === path || keeps ? was.data : null, error }));
      }
      busy = false;
      if (again) soon();
    };
    const soon = () => {
      again = busy;
      if (busy || timer !== undefined) return;
      timer = setTimeout(ask, Math.max(0, asked + every - performance.now()));
    };
    ask();
    const stop = filters === null ? null : onRuns(filters, soon);
    const slide = filters === null ? undefined : setInterval(() => {
      if (live.state.value.kind === "live") soon();
    }, SLIDES_EVERY);
    return () => {
      gone.abort();
      clearTimeout(timer);
      clearInterval(slide);
      stop?.();
    };
  }, [path, JSON.stringify(filters), every, tries]);
  useEffect(() => {
    if (answer.data !== null || answer.error !== null) markUsable();
  }, [answer.data, answer.error]);
  const isCurrent = answer.path === path;
  return {
    data: isCurrent || keeps ? answer.data : null,
    error: isCurrent ? answer.error : null,
    retry: () => setTries((was) => was + 1),
  };
}

/** The page shows what it is for: told once, for those who measure it. */
export function markUsable() {
  if (performance.getEntriesByName("scope:usable").length === 0) performance.mark("scope:usable");
}

/** Who listens to which runs. @type {Map<() => void, string>} */
const listeners = new Map();
let stopRuns = () => {};
let heard = "";

/**
 * Calls `changed` when runs of `filters` change. The connection carries one list, so that parts of a page that want
 * different runs hear of all of them.
 * @param {object} filters
 * @param {() => void} changed
 * @returns {() => void}
 */
function onRuns(filters, changed) {
  listeners.set(changed, JSON.stringify(filters));
  hear();
  return () => {
    listeners.delete(changed);
    hear();
  };
}

function hear() {
  const wanted = new Set(listeners.values());
  const filters = wanted.size === 0 ? "" : wanted.size === 1 ? [...wanted][0] : "{}";
  if (filters === heard) return;
  heard = filters;
  stopRuns();
  const all = () => listeners.forEach((_, changed) => changed());
  stopRuns = filters === "" ? () => {} : live.runs(JSON.parse(filters), { rows: all, removed: all, resync: all });
}

/** Grey rows in the place of what is not there yet, once that has taken 150 ms. */
export function Skeleton({ rows = 8, height = 40 }) {
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 150);
    return () => clearTimeout(timer);
  }, []);
  const style = { blockSize: `${height - 1}px`, marginBlockEnd: "1px", visibility: isLate ? "visible" : "hidden" };
  return html`<div role="status" aria-label="Loading">
    ${Array.from({ length: rows }, (_, at) => html`<div key=${at} class="skeleton" style=${style}></div>`)}
  </div>`;
}

// --- lists that hold still -----------------------------------------------------------------------------------------

/**
 * The order to show: the one that was, with new values, while the reader is in the list; else the new one.
 * @template T
 * @param {T[]} shown
 * @param {T[]} fresh
 * @param {(item: T) => string} key
 * @param {boolean} isHeld
 * @returns {{items: T[], isWaiting: boolean}}
 */
export function heldOrder(shown, fresh, key, isHeld) {
  const isSame = shown.length === fresh.length && shown.every((item, at) => key(item) === key(fresh[at]));
  if (!isHeld || isSame || shown.length === 0) return { items: fresh, isWaiting: false };
  const values = new Map(fresh.map((item) => [key(item), item]));
  return { items: shown.map((item) => values.get(key(item)) ?? item), isWaiting: true };
}

/**
 * A column of a list: its cell's content is a template.
 * @typedef {{name: string, label: string, className?: string, cell: (item: any) => any}} Column
 */

/**
 * A windowed list whose cells are drawn by templates. While the reader is inside, values change in place and the order
 * stays; the pill above applies what waits.
 *
 * @param {{items: any[], keyOf: (item: any) => string, columns: Column[], label: string, name: string,
 *   rowHeight: number|((viewportWidth: number) => number), role?: string, open?: (item: any) => void,
 *   href?: (item: any) => string|null, selected?: string|null, holds?: boolean, active?: (item: any) => void,
 *   decorate?: (row: HTMLElement, item: any) => void, grip?: (list: any) => void}} props
 */
export function Rows(props) {
  const host = useRef(/** @type {HTMLElement|null} */ (null));
  const list = useRef(/** @type {any} */ (null));
  const shown = useRef(/** @type {any[]} */ ([]));
  const now = useRef(props);
  now.current = props;
  const [isWaiting, setWaiting] = useState(false);
  const waits = useRef(false);

  /** @param {boolean} isForced */
  const apply = (isForced) => {
    const { items, keyOf, holds = true } = now.current;
    const next = heldOrder(shown.current, items, keyOf, holds && !isForced && list.current.held());
    shown.current = next.items;
    waits.current = next.isWaiting;
    setWaiting(next.isWaiting);
    list.current.items(next.items);
  };

  // Back finds the same rows in the same place, and the focus where it was.
  const place = `list ${props.name}`;
  const keepPlace = () => keepState(place, list.current.position());
  useLayoutEffect(() => {
    list.current = new VList(/** @type {HTMLElement} */ (host.current), {
      key: (/** @type {any} */ item) => now.current.keyOf(item),
      row: (/** @type {HTMLElement} */ row, /** @type {any} */ item) => {
        now.current.columns.forEach((column, at) => render(column.cell(item), row.children[at]));
        row.classList.toggle("fl-selected", now.current.selected === now.current.keyOf(item));
        now.current.decorate?.(row, item);
      },
      drop: (/** @type {HTMLElement} */ row) => [...row.children].forEach((cell) => render(null, cell)),
      open: (/** @type {any} */ item) => {
        keepPlace();
        now.current.open?.(item);
      },
      active: (/** @type {any} */ item) => now.current.active?.(item),
      newTab: (/** @type {any} */ item) => {
        const to = now.current.href?.(item);
        if (to) window.open(to, "_blank", "noopener");
      },
      // Told in the middle of a change of the list, which is to end first.
      released: () => queueMicrotask(() => {
        if (list.current !== null && waits.current) apply(false);
      }),
    }, { rowHeight: props.rowHeight, role: props.role, label: props.label, columns: props.columns });
    return () => {
      list.current.destroy();
      list.current = null;
      shown.current = [];
    };
  }, [props.rowHeight, props.role, props.label]);

  useEffect(() => keys("List", {
    j: { does: "next row", run: () => list.current?.move(1) },
    k: { does: "previous row", run: () => list.current?.move(-1) },
  }), []);
  useLayoutEffect(() => apply(false), [props.items]);
  useLayoutEffect(() => list.current.refresh(), [props.columns, props.selected]);
  const isBack = useRef(true);
  useLayoutEffect(() => {
    if (!isBack.current || props.items.length === 0) return;
    isBack.current = false;
    const was = kept(place);
    if (!was) return;
    list.current.restore(was);
    if (was.active !== null && document.activeElement === document.body) list.current.focusKey(was.active);
  });
  props.grip?.({
    apply: () => apply(true),
    focus: (/** @type {string} */ key) => list.current.focusKey(key),
    reveal: (/** @type {string} */ key) => list.current.selectKey(key, true),
    move: (/** @type {number} */ by) => list.current.move(by),
  });

  return html`<div class=${`fl-list ${props.name}`}>
    ${isWaiting ? html`<button class="pill fl-pill" onClick=${() => apply(true)}>
      Order changed, apply <kbd>.</kbd></button>` : null}
    <div class="fl-rows" ref=${host} onClickCapture=${keepPlace}></div>
  </div>`;
}

// --- bars ----------------------------------------------------------------------------------------------------------

const GAP = 2;
const LEAST = 2;

/**
 * How long the parts of a bar are drawn. Parts under 2 px are drawn 2 px, taken from the longest part where it has
 * them; then the bar is not to scale.
 * @param {number[]} counts
 * @param {number} length  of the whole bar, in px
 * @returns {{px: number[], isToScale: boolean}}
 */
export function parts(counts, length) {
  const total = counts.reduce((sum, part) => sum + part, 0);
  const drawn = counts.filter((part) => part > 0).length;
  if (total === 0) return { px: counts.map(() => 0), isToScale: true };
  const inner = Math.max(0, length - GAP * (drawn - 1));
  const exact = counts.map((part) => (inner * part) / total);
  const px = exact.map((part, at) => (counts[at] > 0 ? Math.max(LEAST, part) : 0));
  const excess = px.reduce((sum, part) => sum + part, 0) - inner;
  const longest = px.indexOf(Math.max(...px));
  px[longest] = Math.max(LEAST, px[longest] - Math.max(0, excess));
  return { px, isToScale: counts.every((part, at) => part === 0 || exact[at] >= LEAST) };
}

/**
 * One bar of a scale that all rows share; the sentence is its name, the note stands at its end.
 * @param {{parts: {name: string, count: number, set?: string, value?: string}[], length: number, sentence: string,
 *   note?: string}} props
 */
export function Bar({ parts: all, length, sentence, note = "" }) {
  const { px, isToScale } = parts(all.map((part) => part.count), length);
  const title = isToScale ? sentence : `${sentence}. Bar not to scale: its shortest parts are drawn longer.`;
  return html`<span class="fl-bar" role="img" aria-label=${sentence} title=${title}>
    ${all.map((part, at) => (part.count === 0 ? null : html`<span key=${part.name} class=${`fl-part fl-${part.name}`}
      style=${{ inlineSize: `${px[at].toFixed(2)}px` }}>
      ${px[at] > 14 && part.set ? html`<${Shape} set=${part.set} value=${part.value} />` : null}</span>`))}
    ${isToScale ? null : html`<span class="fl-off-scale" aria-hidden="true">≈</span>`}
  </span>${note === "" ? null : html`<span class="fl-note muted" aria-hidden="true">${note}</span>`}`;
}

/** A glyph in the colour of its surroundings. @param {{set: string, value: string|undefined}} props */
export function Shape({ set, value }) {
  const { shape } = describe(set, value);
  return html`<svg class="fl-shape" viewBox="0 0 16 16" aria-hidden="true"
    dangerouslySetInnerHTML=${{ __html: glyphPath(shape) }}></svg>`;
}

// --- lines and strips ----------------------------------------------------------------------------------------------

const SPARK = { width: 134, height: 26, inset: 3 };
/** From so many scores on they are a line. */
const LINE_FROM = 5;

/** The y of a score on an axis that is the same in every row. @param {number} score */
export const sparkY = (score) => SPARK.inset + (1 - score) * (SPARK.height - 2 * SPARK.inset);

/** The last scores, oldest first, on an axis from 0 to 1. @param {{scores: number[]}} props */
export function Spark({ scores }) {
  const { width, height, inset } = SPARK;
  const step = (width - 2 * inset) / 19;
  // The newest score stands at the right end, so that rows with fewer scores line up by age.
  const x = (/** @type {number} */ at) => width - inset - (scores.length - 1 - at) * step;
  const points = scores.map((score, at) => `${x(at).toFixed(1)},${sparkY(score).toFixed(1)}`);
  const said = scores.length === 0 ? "No convergence scores"
    : `Last ${plural(scores.length, "convergence score")}, oldest first: ${scores.map((score) => score.toFixed(2)).join(", ")}`;
  return html`<svg class="fl-spark" role="img" aria-label=${said} width=${width} height=${height}
    viewBox=${`0 0 ${width} ${height}`}>
    ${[0, 0.5, 1].map((at) => html`<line key=${at} class=${at === 0.5 ? "fl-axis fl-half" : "fl-axis"}
      x1="0" x2=${width} y1=${sparkY(at)} y2=${sparkY(at)} />`)}
    ${scores.length < LINE_FROM
      ? scores.map((score, at) => html`<circle key=${at} class="fl-dot" r="2" cx=${x(at)} cy=${sparkY(score)} />`)
      : html`<polyline class="fl-line" points=${points.join(" ")} />`}
  </svg>`;
}

/**
 * The shapes of results in a strip, in a box of 8 by 14. What went well is small and low, what failed fills the
 * height, so that a strip reads without colour.
 * @type {Record<string, {tone: string, word: string, path: string}>}
 */
const RESULTS = {
  pass: { tone: "green", word: "pass", path: "M1 10a3 3 0 1 0 6 0a3 3 0 1 0-6 0z" },
  warn: { tone: "amber", word: "warn", path: "M4 4l4 9h-8z" },
  fail: { tone: "red", word: "fail", path: "M0 0h8v14h-8zM2 4.5l1.2-1.2l.8.9l.8-.9l1.2 1.2l-1 2.5l1 2.5l-1.2 1.2l-.8-.9l-.8.9l-1.2-1.2l1-2.5z" },
  done: { tone: "green", word: "done", path: "M1 10a3 3 0 1 0 6 0a3 3 0 1 0-6 0z" },
  retry: { tone: "lime", word: "done after a retry",
    path: "M0 9a4 4 0 1 0 8 0a4 4 0 1 0-8 0zM2 9a2 2 0 1 1 4 0a2 2 0 1 1-4 0z" },
  failed: { tone: "red", word: "failed", path: "M0 0h8v14h-8zM2 4.5l1.2-1.2l.8.9l.8-.9l1.2 1.2l-1 2.5l1 2.5l-1.2 1.2l-.8-.9l-.8.9l-1.2-1.2l1-2.5z" },
  blocked: { tone: "amber", word: "blocked", path: "M0 5h8v8h-8zM1.4 6.4v5.2h5.2v-5.2zM2.4 8.2h3.2v1.6h-3.2z" },
};

/** What a strip's result is called. @param {string} result */
export const resultWord = (result) => RESULTS[result]?.word ?? result;

/** Results, oldest first, the newest at the right. @param {{results: string[], room: number}} props */
export function Strip({ results, room }) {
  const width = room * 10;
  /** @type {Map<string, {tone: string, path: string}>} */
  const drawn = new Map();
  results.forEach((result, at) => {
    const known = RESULTS[result];
    if (known === undefined) return;
    const left = width - (results.length - at) * 10;
    const is = drawn.get(result) ?? { tone: known.tone, path: "" };
    is.path += known.path.replace(/M([\d.]+)/g, (_, x) => `M${Number(x) + left}`);
    drawn.set(result, is);
  });
  const counts = [...new Set(results)].map((result) =>
    `${results.filter((other) => other === result).length} ${resultWord(result)}`);
  const last = results.at(-1);
  const said = last === undefined ? "No results"
    : `Last ${plural(results.length, "result")}: ${counts.join(", ")}; the newest: ${resultWord(last)}`;
  return html`<svg class="fl-strip" role="img" width=${width} height="14" viewBox=${`0 0 ${width} 14`}>
    <title>${said}</title>
    <line class="fl-axis" x1="0" x2=${width} y1="13.5" y2="13.5" />
    ${[...drawn].map(([result, { tone, path }]) => html`<path key=${result} class=${`tone-${tone}`} d=${path}
      fill="currentColor" fill-rule="evenodd" />`)}
  </svg>`;
}

/** "22 escaped · 2 aborted" of parts that are not 0. @param {{count: number, name: string}[]} all */
export const countWords = (all) => all.filter((part) => part.count > 0)
  .map((part) => `${count(part.count)} ${part.name}`).join(" · ");

// --- small parts ---------------------------------------------------------------------------------------------------

/** Buttons of which one is pressed. */
export function Choice({ label, value, options, choose }) {
  return html`<div class="seg" role="group" aria-label=${label}>
    ${options.map((/** @type {string[]} */ [key, word]) => html`<button key=${key} class="btn" aria-pressed=${String(key === value)}
      onClick=${() => choose(key)}>${word}</button>`)}
  </div>`;
}

/** What goes along from page to page. */
export const keep = (/** @type {any} */ route) => ({ window: route.query.get("window") });

/** Parameters of a request, without those that are null. @param {Record<string, any>} members */
export function query(members) {
  const entries = Object.entries(members).filter(([, value]) => value !== null && value !== undefined);
  return new URLSearchParams(entries.map(([key, value]) => [key, String(value)])).toString();
}

/** Escape clears a filter, and leaves it when it is clear. @param {KeyboardEvent} event */
export function leaveOnEscape(event) {
  if (event.key !== "Escape") return;
  const input = /** @type {HTMLInputElement} */ (event.currentTarget);
  if (input.value === "") input.blur();
  else setQuery({ q: null }, { replace: true });
  event.stopPropagation();
}

/** An element's width, in px, kept up. @returns {[any, number]} */
export function useWidth() {
  const host = useRef(/** @type {HTMLElement|null} */ (null));
  const [width, setWidth] = useState(0);
  useEffect(() => {
    let frame = 0;
    // In the next frame: what is drawn for the width may change the layout again.
    const watch = new ResizeObserver(([entry]) => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => setWidth(Math.floor(entry.contentRect.width)));
    });
    if (host.current !== null) watch.observe(host.current);
    return () => {
      cancelAnimationFrame(frame);
      watch.disconnect();
    };
  }, []);
  return [host, width];
}

/** The window that the page is about. @param {any} route */
export const windowOf = (route) => route.query.get("window") ?? "all";

// --- words ---------------------------------------------------------------------------------------------------------

/** What an outcome means where its word alone does not tell. */
export const OUTCOME_MEANING = /** @type {Record<string, string>} */ ({
  converged: "Converged: it did what it was asked.",
  partial: "Partial: it did some of it.",
  aborted: "Aborted: it was stopped or died from outside.",
  escaped: "Escaped: it left the bounds it was given (budget, scope or guardrail) and was stopped.",
  unknown: "Unknown: its log has no end (yet).",
});
/** Tokens and cost in words. @param {any} usage */
export function usageWords(usage) {
  return [
    usage.cost_usd === null || usage.cost_usd === undefined ? null : `${usage.cost_usd.toFixed(2)} USD`,
    usage.input_tokens === null || usage.input_tokens === undefined ? null : `${count(usage.input_tokens)} tokens in`,
    usage.output_tokens === null || usage.output_tokens === undefined ? null : `${count(usage.output_tokens)} out`,
  ].filter(Boolean).join(", ");
}

/** What an audit gives as its evidence, member by member; where there is much of it, how much: all of it stands in the event. */
export function Evidence({ evidence, bytes = null }) {
  if (bytes !== null) return html`<p class="muted">Evidence of ${byteCount(bytes)}; the event has it.</p>`;
  const members = Object.entries(evidence ?? {});
  if (members.length === 0) return html`<p class="muted">No evidence given.</p>`;
  return html`<dl class="au-evidence">${members.map(([name, value]) => html`<div key=${name}>
    <dt>${visible(name)}</dt><dd class="mono">${visible(typeof value === "string" ? value : JSON.stringify(value))}</dd></div>`)}</dl>`;
}
