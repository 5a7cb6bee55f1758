// Where things are on the pages: the one place that knows how the UI writes its document.
import { drawn, until, usable } from "./lib.mjs";

/** @typedef {import("playwright-core").Page} Page */

export const PART = {
  chip: "#connection",
  /** What says on the whole page that the line to the server is bad. */
  offline: ".sh-banners .banner",
  row: '[role="grid"] .vl-row',
  grid: '[role="grid"]',
  node: "button.gr-node",
  log: '[role="log"]',
  logRow: '[role="log"] .lg-row',
  range: 'input[type="range"]',
  drawer: ".dw",
  title: "#dw-title",
  pressedView: '.rd-tabs [aria-pressed="true"]',
  elapsed: '.rd-times > span:has-text("elapsed")',
  counts: ".rd-filters",
  rail: ".rd-rail",
  section: ".rd-section",
  verdict: ".rd-verdict",
  banner: ".rd-banner",
  nodesTable: '[role="grid"][aria-label="Nodes"]',
  timelineRow: ".tl-row .tl-id",
};

/** The first word of a node's accessible name after its id. */
export const graphStatuses = (/** @type {Page} */ page) => page.evaluate((selector) =>
  Object.fromEntries([...document.querySelectorAll(selector)].map((el) => {
    const name = el.getAttribute("aria-label") ?? el.textContent;
    const [, id, word] = /^(\S+), (\w+)/.exec(name) ?? [null, name, ""];
    return [id, word.toLowerCase()];
  })), PART.node);

/** @returns {Promise<{edges: [string, string][], positions: Record<string, {x: number, y: number}>, zoom: number, visible: string[]}>} */
export const debug = (/** @type {Page} */ page) => page.evaluate(() => {
  const { edges, positions, zoom, visible } = window["scope"].debug;
  const get = (value) => (typeof value === "function" ? value() : value);
  const places = get(positions);
  return JSON.parse(JSON.stringify({ edges: get(edges), zoom: get(zoom), visible: get(visible),
    positions: places instanceof Map ? Object.fromEntries(places) : places }));
});

export const graphDrawn = async (/** @type {Page} */ page) => {
  await page.waitForFunction((selector) => document.querySelector(selector), PART.node);
  await drawn(page);
};

/** The text of the chip that says how old the data is. */
export const chip = (/** @type {Page} */ page) => page.locator(PART.chip).first().innerText();
export const isLive = (page) => until("the page is live", () => chip(page), (text) => /^\W*Live/.test(text));

/** The lines of the log that are shown (during replay: up to its moment), read by scrolling through all of it. */
export async function wholeLog(/** @type {Page} */ page) {
  return page.evaluate(async ({ log, row }) => {
    const pane = document.querySelector(log);
    const found = [];
    const seen = new Set();
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    pane.scrollTop = 0;
    for (let last = -1; ;) {
      await frame();
      const rows = [...document.querySelectorAll(row)].map((el) => ({ el, top: el.getBoundingClientRect().top + pane.scrollTop }));
      for (const { el, top } of rows.sort((a, b) => a.top - b.top)) {
        const seq = Number(el.getAttribute("data-seq")), text = el.textContent;
        if (text.trim() === String(seq)) continue;
        // The same line at the same place was read before; the same line at another place is a line too many.
        const key = `${seq} ${Math.round(top)}`;
        if (!seen.has(key)) { seen.add(key); found.push({ seq, text, top: Math.round(top) }); }
      }
      if (pane.scrollTop === last) break;
      last = pane.scrollTop;
      pane.scrollTop += pane.clientHeight / 2;
    }
    return found.sort((a, b) => a.top - b.top).map(({ seq, text }) => ({ seq, text }));
  }, { log: PART.log, row: PART.logRow });
}
/** The seq of the lowest line that is in the log's window. */
export const lastLine = (/** @type {Page} */ page) => page.evaluate(({ log, row }) => {
  const end = document.querySelector(log).getBoundingClientRect().bottom;
  return Math.max(...[...document.querySelectorAll(row)].filter((el) => el.getBoundingClientRect().top < end - 4)
    .map((el) => Number(el.getAttribute("data-seq"))));
}, { log: PART.log, row: PART.logRow });
export const logScroll = (/** @type {Page} */ page) => page.locator(PART.log).evaluate((el) => el.scrollTop);
export const atEnd = (/** @type {Page} */ page) => page.locator(PART.log).evaluate((el) =>
  el.scrollHeight > el.clientHeight && el.scrollTop + el.clientHeight >= el.scrollHeight - 2);

/** How many events the page of a run has read. */
export const eventsRead = (/** @type {Page} */ page) => page.evaluate(() => window["scope"].debug.events());
export const hasRead = (page, events) => until(`the page has read ${events} events`, () => eventsRead(page), (read) => read >= events);

export const pressedView = (/** @type {Page} */ page) => page.locator(PART.pressedView).first().innerText();
export const drawerTitle = (/** @type {Page} */ page) => page.locator(PART.title).innerText();

export const focused = (/** @type {Page} */ page) => page.evaluate(() => {
  const el = document.activeElement;
  return el === document.body || !el ? null : `${el.localName}#${el.id}.${el.getAttribute("class") ?? ""} "${
    (el.getAttribute("aria-label") ?? el.textContent ?? "").trim().slice(0, 60)}"`;
});

/** Goes to a run's page and waits for its graph. */
export async function openRun(/** @type {Page} */ page, path) {
  await page.goto(path, { waitUntil: "domcontentloaded" });
  await usable(page);
  await graphDrawn(page);
}
