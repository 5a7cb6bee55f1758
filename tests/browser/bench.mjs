// What depends on the machine, and so is printed and not judged: node bench.mjs [usable|smooth|soak]
// The medians are of five, on a browser that draws without a graphics card. KAHN_SOAK_S: how long the soak takes (default 60 s).
import { closeAll, newPage, until, usable } from "./lib.mjs";
import { hasRead, isLive, openRun, PART } from "./parts.mjs";
import { big, list, liveOne } from "./world.mjs";
import { layered, listRun } from "./fixtures.mjs";

const wanted = process.argv.slice(2);
const is_wanted = (name) => !wanted.length || wanted.includes(name);
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const quantile = (numbers, share) => [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(numbers.length * share))];
const print = (what, value, goal) => console.log(`${what.padEnd(46)} ${value.padStart(34)}   ${goal}`);

/** From the request to the mark, in ms. */
async function usableTimes() {
  const many = await list(), run = await big();
  for (const [name, url, path] of [["Runs, 10,000 runs", many.url, "/runs?window=all"], ["Run, 500 nodes and 20,000 events", run.url, "/runs/big-1"]]) {
    const marks = [], paints = [];
    for (let i = 0; i < 5; i++) {
      const { page, close } = await newPage({ origin: url });
      await page.goto(path, { waitUntil: "domcontentloaded" });
      await usable(page);
      const [mark, paint] = await page.evaluate(() => [performance.getEntriesByName("scope:usable")[0]?.startTime ?? NaN,
        performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN]);
      marks.push(mark);
      paints.push(paint);
      await close();
    }
    print(`${name}: first paint`, `${median(paints).toFixed(0)} ms (best ${Math.min(...paints).toFixed(0)})`, "goal 100 ms");
    print(`${name}: usable`, `${median(marks).toFixed(0)} ms (best ${Math.min(...marks).toFixed(0)})`, "goal 200 ms");
  }
}

/** Frame times while something moves for four seconds and 20 events come in a second. */
async function smooth(name, page, feed, move) {
  await page.evaluate(() => {
    const state = (window["bench"] = { frames: [], tasks: [], stop: false });
    new PerformanceObserver((entries) => state.tasks.push(...entries.getEntries().map(({ duration }) => duration))).observe({ entryTypes: ["longtask"] });
    let last = performance.now();
    const frame = (now) => { state.frames.push(now - last); last = now; if (!state.stop) requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
  });
  const feeding = setInterval(feed, 50);
  await page.evaluate(move);
  clearInterval(feeding);
  const { frames, tasks } = await page.evaluate(() => { window["bench"].stop = true; return window["bench"]; });
  print(`${name}: frames`, `p95 ${quantile(frames.slice(2), 0.95).toFixed(1)} ms, ${(frames.length / 4).toFixed(0)} a second`, "goal p95 34 ms");
  print(`${name}: longest task`, `${Math.max(0, ...tasks).toFixed(0)} ms`, "goal 100 ms");
}

async function smoothness() {
  const run = await liveOne(layered(500, 7), 900);
  const { page, close } = await newPage({ origin: run.url });
  await openRun(page, `${run.path}?view=graph`);
  await isLive(page);
  let turn = 0;
  await smooth("Graph of 500 nodes, panned", page, () => run.feeder.churn(1, [run.running[turn++ % run.running.length]]), () => new Promise((resolve) => {
    const pane = document.querySelector('[role="group"][aria-label^="Dependency graph"]'), box = pane.getBoundingClientRect();
    const end = performance.now() + 4000;
    const step = (now) => {
      const at = { bubbles: true, cancelable: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
      (pane.querySelector("canvas") ?? pane).dispatchEvent(new WheelEvent("wheel", { ...at, deltaX: Math.sin(now / 300) * 30, deltaY: Math.cos(now / 400) * 15 }));
      if (now < end) requestAnimationFrame(step);
      else resolve(undefined);
    };
    requestAnimationFrame(step);
  }));
  await close();
  const many = await list();
  const { page: rows, close: end } = await newPage({ origin: many.url });
  await rows.goto("/runs?window=all");
  await rows.locator(PART.row, { hasText: "list-00000" }).waitFor();
  let serial = 0;
  await smooth("List of 10,000 runs, scrolled", rows, () => listRun(many.archive, `bench-${Date.now()}-${serial++}`, Date.now()), () => new Promise((resolve) => {
    const pane = [...document.querySelectorAll("*")].filter((el) => /auto|scroll/.test(getComputedStyle(el).overflowY)).sort((a, b) => b.scrollHeight - a.scrollHeight)[0]
      ?? document.scrollingElement;
    const end = performance.now() + 4000;
    const step = (now) => { pane.scrollTop += 40; if (now < end) requestAnimationFrame(step); else resolve(undefined); };
    requestAnimationFrame(step);
  }));
  await end();
}

/** Heap and elements before and after many events, at 20 a second in effect: 20 at once as often as the page has read them. */
async function soak() {
  const run = await liveOne();
  const { page, cdp } = await newPage({ origin: run.url });
  await openRun(page, run.path);
  await isLive(page);
  const measure = async () => {
    await cdp.send("HeapProfiler.collectGarbage");
    const { usedSize } = /** @type {any} */ (await cdp.send("Runtime.getHeapUsage"));
    return { heap: usedSize / 1_048_576, elements: await page.evaluate(() => document.querySelectorAll("*").length) };
  };
  const before = await measure();
  let seq = (await run.get(`/api${run.path}`)).next_seq;
  const from = seq, end = Date.now() + 1000 * Number(process.env.KAHN_SOAK_S ?? 60);
  while (Date.now() < end && seq - from < 36_000) {
    run.feeder.churn(200, run.running);
    seq += 200;
    await until("kahn has them", () => hasRead(page, seq).then(() => true));
  }
  const after = await measure();
  print(`Soak, ${seq - from} events: heap`, `${before.heap.toFixed(1)} to ${after.heap.toFixed(1)} MB (+${(after.heap - before.heap).toFixed(1)})`, "goal +20 MB for 36,000");
  print("Soak: elements", `${before.elements} to ${after.elements}`, "goal 2,500");
}

try {
  if (is_wanted("usable")) await usableTimes();
  if (is_wanted("smooth")) await smoothness();
  if (is_wanted("soak")) await soak();
} finally {
  await closeAll();
}
