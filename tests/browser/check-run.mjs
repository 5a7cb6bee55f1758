// The page of one run: its address, its graph, its log, its replay.
import { SMALL, play, write } from "./fixtures.mjs";
import { check, drawn, folder, kahn, must, newPage, same, until, usable, visit } from "./lib.mjs";
import { PART, atEnd, chip, debug, drawerTitle, graphDrawn, graphStatuses, hasRead, isLive, lastLine, logScroll, openRun, pressedView, wholeLog }
  from "./parts.mjs";
import { big, list, liveOne, small } from "./world.mjs";

const statusesOf = (state) => Object.fromEntries(state.node_states.map(({ node_id, status }) => [node_id, status]));
const linesOf = async (server, run_id) =>
  (await (await fetch(`${server.url}/api/runs/${run_id}/events?limit=5000`)).text()).trim().split("\n").map((line) => JSON.parse(line));
/** Wide enough for the whole small graph: no node is left out of the document. */
const WIDE = { width: 2200, height: 1500 };

check(4, "an address restores what it names, and Back gives back place and focus",
  "a shared link that shows the other person something else",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url });
    const lines = await linesOf(server, server.small);
    const at = lines.findIndex((line) => line.event === "node_attempt" && line.node_id === "api" && line.attempt === 3) + 1;
    const address = `/runs/${server.small}?view=timeline&node=api&attempt=2&at=${at}`;
    await visit(page, address);
    await until("the drawer is of api", () => drawerTitle(page), (title) => title.includes("api"));
    same(await pressedView(page), "Timeline", "the view that is pressed");
    await until("attempt 2 is open, and it alone", () => page.locator(`${PART.drawer} details[open]`).allInnerTexts(),
      (texts) => texts.length === 1 && /Attempt 2/.test(texts[0]));
    await until("the chip tells of replay", () => chip(page), (text) => /Replay/.test(text));
    const state = await server.get(`/api/runs/${server.small}?at_seq=${at}`);
    const api = state.node_states.find(({ node_id }) => node_id === "api");
    must((await page.locator(PART.drawer).innerText()).toLowerCase().includes(api.status), `the drawer does not say ${api.status}`);
    const query = new URL(page.url()).searchParams;
    same([query.get("view"), query.get("node"), query.get("attempt"), query.get("at")], ["timeline", "api", "2", String(at)], "the address afterwards");

    // There and back from a list that was scrolled.
    const many = await list();
    const { page: other } = await newPage({ origin: many.url });
    await visit(other, "/runs?window=all");
    const row = other.locator(PART.row).first();
    await row.focus();
    for (let i = 0; i < 70; i++) await other.keyboard.press("j");
    const where = () => other.evaluate((selector) => {
      const el = document.activeElement.closest(selector);
      return el && { name: /list-\d{5}|new-\d+-\d\d/.exec(el.textContent)?.[0], top: Math.round(el.getBoundingClientRect().top) };
    }, PART.row);
    const before = await until("a row has the focus", where, (one) => Boolean(one?.name));
    await other.keyboard.press("Enter");
    await other.waitForURL(/\/runs\/./);
    await usable(other);
    await until("the run's page is there", () => other.locator("h1").innerText(), (title) => title.includes(before.name));
    await other.goBack();
    await until("Back gives the same row its focus at the same place", where, (one) => one?.name === before.name && one.top === before.top);
    await other.goForward();
    await until("Forward is the run again", () => other.locator("h1").innerText(), (title) => title.includes(before.name));
  });

check(6, "the graph says what the API says",
  "a green node that failed, or an edge that is not there",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url, ...WIDE });
    for (const run_id of ["small-1", "small-2", "clean-1", "planned-1", server.long, "damaged-1"]) {
      await openRun(page, `/runs/${run_id}?view=graph`);
      const state = await server.get(`/api/runs/${run_id}`);
      await until(`statuses of ${run_id}`, () => graphStatuses(page), (shown) => {
        const expected = statusesOf(state);
        return Object.keys(shown).length === 12 && Object.keys(expected).every((id) => shown[id] === expected[id]);
      });
      const { edges } = await debug(page);
      same(edges.map(([from, to]) => `${from}>${to}`).sort(),
        SMALL.nodes.flatMap(({ id, depends_on }) => depends_on.map((need) => `${need}>${id}`)).sort(), `edges of ${run_id}`);
    }
    // What is valid of a broken graph is drawn, the rest is said.
    await openRun(page, "/runs/cyclic-1?view=graph");
    const cyclic = await debug(page);
    const drawnEdges = cyclic.edges.map(([from, to]) => `${from}>${to}`);
    must(drawnEdges.includes("d>e"), `the valid edge is missing: ${drawnEdges}`);
    must(!drawnEdges.some((edge) => edge.startsWith("gone")), "an edge to a node that does not exist is drawn");
    must(drawnEdges.filter((edge) => ["c>a", "a>b", "b>c"].includes(edge)).length === 2, `a cycle of three is drawn as ${drawnEdges}`);
    must(/cycle|gone/i.test(await page.locator("main").innerText()), "nothing says that the graph is broken");

    const many = await big();
    const { page: wide } = await newPage({ origin: many.url });
    await openRun(wide, "/runs/big-1?view=graph");
    const { edges } = await debug(wide);
    same(edges.map(([from, to]) => `${from}>${to}`).sort(),
      many.graph.nodes.flatMap(({ id, depends_on }) => depends_on.map((need) => `${need}>${id}`)).sort(), "edges of 500 nodes");
    const expected = statusesOf(await many.get("/api/runs/big-1"));
    await until("statuses of what is seen of 500 nodes", () => graphStatuses(wide), (shown) =>
      Object.keys(shown).length > 4 && Object.keys(shown).every((id) => shown[id] === expected[id]));
  });

check(7, "the graph opens readable, at the first failure",
  "500 nodes that are a grey smear at open",
  async () => {
    for (const [server, run_id] of /** @type {const} */ ([[await small(), "small-2"], [await big(), "big-1"]])) {
      const { page, close } = await newPage({ origin: server.url });
      await openRun(page, `/runs/${run_id}`);
      const { zoom } = await debug(page);
      must(zoom >= 0.6, `${run_id} opens at a zoom of ${zoom}`);
      const { first_failure } = await server.get(`/api/runs/${run_id}`);
      const inside = await page.evaluate(({ selector, id }) => {
        const el = [...document.querySelectorAll(selector)].find((one) => one.getAttribute("aria-label")?.startsWith(`${id},`));
        const pane = el?.closest('[role="group"]');
        if (!pane) return "not in the document";
        const [a, b] = [el.getBoundingClientRect(), pane.getBoundingClientRect()];
        return a.left >= b.left - 0.5 && a.right <= b.right + 0.5 && a.top >= b.top - 0.5 && a.bottom <= b.bottom + 0.5
          && a.top >= 0 && a.bottom <= innerHeight ? "" : JSON.stringify([a, b]);
      }, { selector: PART.node, id: first_failure.node_id });
      must(inside === "", `${run_id}: ${first_failure.node_id} is not wholly in view: ${inside}`);
      await close();
    }
  });

check(8, "nothing in the graph moves while the run goes on, nor when it is loaded again",
  "nodes that jump away from the pointer",
  async () => {
    const run = await liveOne();
    const { page } = await newPage({ origin: run.url });
    await openRun(page, run.path);
    await isLive(page);
    const before = (await debug(page)).positions;
    must(Object.keys(before).length === 12, `positions of ${Object.keys(before).length} nodes`);
    const from = (await run.get(`/api${run.path}`)).next_seq;
    run.feeder.churn(200, run.running);
    await hasRead(page, from + 200);
    same((await debug(page)).positions, before, "positions after 200 events");
    await page.reload();
    await usable(page);
    await graphDrawn(page);
    same((await debug(page)).positions, before, "positions after a reload");
  });

check(11, "the log follows at its end and stands still when it was scrolled up",
  "the line that is being read scrolling away",
  async () => {
    const run = await liveOne(undefined, 40);
    run.feeder.churn(120, run.running.length ? run.running : ["plan"]);
    const { page } = await newPage({ origin: run.url });
    await openRun(page, run.path);
    await isLive(page);
    await until("the log stands at its end", () => atEnd(page));
    const next = async () => (await run.get(`/api${run.path}`)).next_seq;
    let seq = await next();
    run.feeder.append(...Array.from({ length: 5 }, () => ({ event: "heartbeat" })));
    await until("the newest line is shown", () => lastLine(page), (last) => last === seq + 4);
    await until("the log still stands at its end", () => atEnd(page));

    await page.locator(PART.log).hover();
    const bottom = await logScroll(page);
    await page.mouse.wheel(0, -100);
    await until("the log is scrolled up by 100 px", () => logScroll(page), (top) => bottom - top >= 60);
    const top = await logScroll(page);
    const line = () => page.evaluate(({ log, row }) => {
      const { top } = document.querySelector(log).getBoundingClientRect();
      const [first] = [...document.querySelectorAll(row)].map((el) => ({ text: el.textContent, top: Math.round(el.getBoundingClientRect().top - top) }))
        .filter((one) => one.top >= 0).sort((a, b) => a.top - b.top);
      return first;
    }, { log: PART.log, row: PART.logRow });
    await drawn(page);
    const first = await line();
    seq = await next();
    run.feeder.append(...Array.from({ length: 100 }, () => ({ event: "heartbeat" })));
    await until("the log says how many lines are new", () => page.locator("main").innerText(), (text) => /\b100 new/.test(text));
    same(await logScroll(page), top, "the log's scrollTop after 100 events");
    same(await line(), first, "the log's first line after 100 events");
    await page.keyboard.press("Shift+G");
    await until("G goes to the end", () => lastLine(page), (last) => last === seq + 99);
    await until("and follows again", () => atEnd(page));
    run.feeder.append({ event: "heartbeat" });
    await until("a line that comes after is shown", () => lastLine(page), (last) => last === seq + 100);
  });

check(12, "selected text and the focused row survive 100 events",
  "a selection that is lost before it is copied",
  async () => {
    const run = await liveOne();
    const [node_id, ...others] = run.running;
    run.feeder.churn(1, [node_id]);
    const { page } = await newPage({ origin: run.url });
    await openRun(page, `${run.path}?node=${node_id}`);
    await isLive(page);
    const tail = page.locator(`${PART.drawer} pre`).first();
    await tail.waitFor();
    await tail.evaluate((el) => {
      const range = document.createRange();
      range.selectNodeContents(el);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      window["__tail"] = el;
    });
    const selected = () => page.evaluate(() => ({ text: String(getSelection()), there: window["__tail"].isConnected }));
    const before = await selected();
    must(before.text.includes("failed"), `the tail's text is ${before.text}`);
    const feed = async () => {
      const seq = (await run.get(`/api${run.path}`)).next_seq;
      run.feeder.churn(100, others);
      await until("kahn has 100 events", () => run.get(`/api${run.path}`), ({ next_seq }) => next_seq === seq + 100);
      await hasRead(page, seq + 100);
    };
    await feed();
    await drawn(page);
    same(await selected(), before, "the selection after 100 events");

    await page.evaluate(() => getSelection().removeAllRanges());
    await page.goto(`${run.path}?view=nodes`);
    await usable(page);
    const row = page.locator(`${PART.nodesTable} [role="row"]`, { hasText: "bench" });
    await row.focus();
    const has = () => page.evaluate(() => ({ text: /bench/.test(document.activeElement.textContent), row: document.activeElement.getAttribute("role"),
      top: document.activeElement.getBoundingClientRect().top }));
    const held = await has();
    same(held.row, "row", "what has the focus");
    await feed();
    await drawn(page);
    same(await has(), held, "the focused row after 100 events");
  });

check(23, "a moment of the past is shown as it was, and stays",
  "a replay that knows the end already, which explains nothing",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url, ...WIDE });
    const lines = await linesOf(server, server.small);
    const failed_at = lines.findIndex(({ to }) => to === "failed");
    for (const seq of [0, 9, 30, failed_at - 1, failed_at, lines.length - 1]) {
      await openRun(page, `/runs/${server.small}?at=${seq}&node=api`);
      await asApi(page, server, server.small, seq, lines);
    }
    // Stepping shows the same as opening.
    await openRun(page, `/runs/${server.small}?at=${failed_at}&node=api`);
    await page.locator("h1").click();
    await page.keyboard.press(",");
    await asApi(page, server, server.small, failed_at - 1, lines);
    await page.keyboard.press(".");
    await asApi(page, server, server.small, failed_at, lines);

    // What comes in live moves nothing but the slider's end.
    const run = await liveOne();
    const { page: other } = await newPage({ origin: run.url, ...WIDE });
    await openRun(other, `${run.path}?at=6`);
    await until("the chip tells of replay", () => chip(other), (text) => /Replay/.test(text));
    await other.keyboard.press("f");
    await until("all nodes are on screen", () => graphStatuses(other), (shown) => Object.keys(shown).length === 12);
    const before = { statuses: await graphStatuses(other), log: await wholeLog(other), max: Number(await other.locator(PART.range).first().getAttribute("max")) };
    const [node_id] = run.running;
    run.feeder.append({ event: "node_transition", node_id, from: "running", to: "failed", reason: "future_reason" });
    await until("the slider's end moves", () => other.locator(PART.range).first().getAttribute("max").then(Number), (max) => max > before.max);
    await drawn(other);
    same(await graphStatuses(other), before.statuses, "statuses at event 6 after a later event");
    same(await wholeLog(other), before.log, "the log at event 6 after a later event");
    must(!(await other.locator("body").innerText()).includes("future_reason"), "a later event's text is shown");
    await other.keyboard.press("End");
    await until("End goes back to now", () => graphStatuses(other), (shown) => shown[node_id] === "failed");
  });

/** The page shows the moment `seq` in all its parts, and nothing later. */
async function asApi(page, server, run_id, seq, lines) {
  const [state, diagnostics] = await Promise.all([
    server.get(`/api/runs/${run_id}?at_seq=${seq}`), server.get(`/api/runs/${run_id}/diagnostics?at_seq=${seq}`)]);
  const expected = statusesOf(state);
  // All nodes on screen, whatever the graph opened at.
  await page.keyboard.press("f");
  await until(`the graph at ${seq}`, () => graphStatuses(page), (shown) =>
    Object.keys(shown).length === 12 && Object.keys(expected).every((id) => shown[id] === expected[id]));
  const latest = seq === lines.length - 1;
  for (const status of ["failed", "blocked", "running", "ready", "pending", "done"]) {
    await until(`the count of ${status} at ${seq}`, () => page.locator(PART.counts).innerText(),
      (text) => new RegExp(`\\b${state.nodes[status]}\\s*${status}`, "i").test(text));
  }
  const drawer = page.locator(PART.drawer);
  await until(`the drawer's state at ${seq}`, () => drawer.innerText(), (text) => new RegExp(`\\b${expected.api}\\b`, "i").test(text));
  const attempts = (await server.get(`/api/runs/${run_id}/nodes/api?at_seq=${seq}`)).attempts.length;
  await until(`the drawer's attempts at ${seq}`, () => drawer.locator("details", { hasText: /Attempt \d/ }).count(), (count) => count === attempts);
  const rows = await wholeLog(page);
  must(rows.length > 0 && rows.at(-1).seq === seq, `the log at ${seq} ends with ${rows.at(-1)?.seq}`);
  // The timeline has a row for each node that had started.
  const started = state.node_states.filter((one) => one.started).map(({ node_id }) => node_id).sort();
  await until(`the timeline's rows at ${seq}`, () => page.locator(PART.timelineRow).allInnerTexts(), (shown) =>
    started.every((id) => shown.includes(id)) && shown.every((id) => started.includes(id) || expected[id] === "blocked"));
  // The rail says what the server says of this moment.
  const rail = await page.locator(PART.rail).innerText();
  const causes = diagnostics.findings.filter(({ kind }) => kind === "failed_node").flatMap(({ node_ids }) => node_ids);
  must(causes.every((id) => rail.includes(id)), `the rail at ${seq} does not name ${causes}`);
  const text = await page.locator("body").innerText();
  const future = lines.slice(seq + 1);
  for (const line of future.flatMap(({ done_when_results }) => done_when_results ?? []).map(({ tail }) => tail?.split("\n")[0]).filter(Boolean)) {
    must(!text.includes(line), `at ${seq} the page shows ${line}, which comes later`);
  }
  if (!latest && !lines.slice(0, seq + 1).some(({ to }) => to === "failed")) {
    must(!text.includes("max_ralph_iters_reached") && !/Gave up/i.test(text), `at ${seq} the page knows that a node will fail`);
  }
}

check(24, "the rail shows the findings, and a stall comes and goes",
  "being sent to the wrong node first",
  async () => {
    // By hand: plan 10, schema 12 (pool 10), store 40, api 10, client 10, pages 10 take 92 s; nothing waits for a worker.
    const archive = folder();
    const lasts = { plan: 10, schema: 12, pool: 10, parser: 7, store: 40, api: 10, metrics: 5, client: 10, pages: 10, docs: 6, bench: 9, ops: 4 };
    const start = Date.now() - 3_600_000;
    write(archive, "known-1", { graph: SMALL, events: play({ run_id: "known-1", graph: SMALL, start, workers: 12, seconds: (id) => lasts[id] }) });
    write(archive, "known-2", { graph: SMALL, events: play({ run_id: "known-2", graph: SMALL, start, workers: 12, seconds: (id) => lasts[id], fails: { api: 3, pool: 1 } }) });
    const server = await kahn({ archive });
    const { page } = await newPage({ origin: server.url });
    await openRun(page, "/runs/known-1");
    const section = (name) => page.locator(PART.section).filter({ has: page.getByRole("heading", { name }) });
    const ids = async (name, among) => (await section(name).innerText()).split(/\s+/).filter((word) => among.includes(word));
    const all = SMALL.nodes.map(({ id }) => id);
    const path = ["plan", "schema", "store", "api", "client", "pages"];
    same((await ids(/critical path/i, all)).filter((id) => id !== "path"), path, "the critical path");
    same((await ids(/slowest/i, all)).slice(0, 2), ["store", "schema"], "the slowest");
    must(/All 12 nodes passed/.test(await page.locator(PART.verdict).innerText()), "the verdict of a clean run");
    await openRun(page, "/runs/known-2");
    const rail = await page.locator(PART.rail).innerText();
    must(/api/.test(rail) && /101/.test(rail) && /test api/.test(rail), `the rail does not tell what failed: ${rail}`);
    const blocked = await section(/blocked by/i).innerText();
    must(["client", "docs"].every((id) => blocked.includes(id)) && blocked.includes("api"), `the blocked chain says ${blocked}`);
    must((await section(/retry/i).innerText()).includes("pool"), "the node that passed after a retry is not named");

    const slow = folder();
    write(slow, "still-1", { graph: SMALL, events: play({ run_id: "still-1", graph: SMALL, start: Date.now() - 60_000, take: 8, seconds: () => 10 }) });
    const { Feeder } = await import("./fixtures.mjs");
    const feeder = new Feeder(slow, "still-1");
    feeder.append({ event: "heartbeat" });
    const stalling = await kahn({ archive: slow, args: ["--stall-after", "3"] });
    const { page: other } = await newPage({ origin: stalling.url });
    feeder.append({ event: "heartbeat" });
    await openRun(other, "/runs/still-1");
    const banner = other.locator(PART.banner, { hasText: /No event for/ });
    const is_early = await banner.count() > 0 && (await stalling.get("/api/runs/still-1")).phase !== "stalled";
    must(!is_early, "a run counts as stalled before its time");
    await until("the silent run counts as stalled", () => banner.count(), (count) => count > 0, 45_000);
    feeder.append({ event: "heartbeat" });
    await until("the next event ends the stall", () => banner.count(), (count) => count === 0);
  });
