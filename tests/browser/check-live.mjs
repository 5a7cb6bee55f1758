// What is shown while the line to the server is bad, and after it is good again.
import { Proxy, check, drawn, must, newPage, same, until } from "./lib.mjs";
import { PART, chip, graphDrawn, graphStatuses, hasRead, isLive, openRun, wholeLog } from "./parts.mjs";
import { liveOne } from "./world.mjs";

/** What a browser itself writes to the console when a line is cut. */
const CUT = [/WebSocket connection to .* failed/, /net::ERR_/, /Failed to load resource/];

check(13, "a cut line is told, and nothing old is shown as current",
  "a page that shows yesterday's state as live, which is worse than no page",
  async () => {
    const run = await liveOne();
    const line = await Proxy.start(run.port);
    const { page } = await newPage({ origin: line.url, allow: CUT });
    await openRun(page, run.path);
    await isLive(page);
    const elapsed = () => page.locator(PART.elapsed).innerText();
    const before = await elapsed();
    await until("elapsed time ticks while live", elapsed, (text) => text !== before);

    // Nobody is told: only the silence says it.
    line.hole();
    const begun = Date.now();
    await until("the chip no longer says Live", () => chip(page), (text) => !/Live/.test(text), 16_000);
    must(Date.now() - begun <= 13_500, `the chip said Live for ${Date.now() - begun} ms after the line was cut`);
    must(/Reconnecting|Offline/.test(await chip(page)), `the chip says ${await chip(page)}`);
    const banner = await until("a banner says that the page is not up to date", () => page.locator(PART.offline).allInnerTexts(),
      (texts) => texts.some((text) => /\d\d:\d\d:\d\d/.test(text)));
    const frozen = await elapsed();
    must(/\d\d:\d\d:\d\d/.test(frozen), `elapsed time names no moment while the line is cut: ${frozen}`);
    // Three seconds by the page's own clock: long enough for three ticks.
    await page.waitForFunction((end) => performance.now() > end, (await page.evaluate(() => performance.now())) + 3000);
    same(await elapsed(), frozen, "elapsed time while the line is cut");

    line.mend();
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await isLive(page);
    await until("the banner goes", () => page.locator(PART.offline).count(), (count) => count === 0);
    must(banner.length > 0, "no banner");

    // Both sides are told.
    line.cut();
    await until("the chip tells of a closed line at once", () => chip(page), (text) => /Reconnecting|Offline/.test(text), 3000);
    line.mend();
    await isLive(page);
  });

check(14, "after a cut the page has what happened meanwhile, each event once",
  "missed, doubled or swapped events: a page that disagrees with the log until it is loaded anew",
  async () => {
    const run = await liveOne();
    const line = await Proxy.start(run.port);
    const { page } = await newPage({ origin: line.url, allow: CUT });
    await openRun(page, run.path);
    await isLive(page);
    const before = (await run.get(`/api${run.path}`)).next_seq;
    line.cut();
    await until("the cut is noticed", () => chip(page), (text) => !/Live/.test(text));

    run.feeder.churn(30, run.running);
    const [failing] = run.running;
    run.feeder.append(
      { event: "heartbeat" }, { event: "made_up_event", note: "nobody knows this one" },
      { event: "node_transition", node_id: failing, from: "running", to: "failed", reason: "max_ralph_iters_reached" },
      { event: "node_transition", node_id: "pages", from: "pending", to: "blocked", reason: `ancestor_failed:${failing}` },
      { event: "heartbeat" }, { event: "heartbeat" }, { event: "heartbeat" });
    const state = await until("kahn has the 37 events", () => run.get(`/api${run.path}`), ({ next_seq }) => next_seq === before + 37);

    const told = { events: 0, doubled: 0, swapped: 0 };
    let held = null;
    line.mangle = (text) => {
      const message = JSON.parse(text);
      if (message.type !== "event") return [text];
      const at = told.events++;
      if (at === 3 || at === 20) { held = text; return []; }
      const out = [text];
      if (held) { out.push(held); held = null; told.swapped++; }
      if (at % 7 === 0 && told.doubled < 5) { out.push(text); told.doubled++; }
      return out;
    };
    const sockets = line.sockets;
    line.mend();
    await isLive(page);
    await until("the log is whole", async () => told.events, (events) => events >= 37 || line.sockets > sockets + 3);
    run.feeder.append({ event: "heartbeat" });
    await hasRead(page, before + 38);
    must(told.doubled >= 5 && told.swapped >= 2, `the line was to double 5 events and swap 2, and did ${JSON.stringify(told)}`);

    const expected = Object.fromEntries(state.node_states.map(({ node_id, status }) => [node_id, status]));
    await until("statuses of the graph are those of the API", () => graphStatuses(page), (shown) =>
      Object.entries(shown).length > 0 && Object.entries(shown).every(([id, status]) => status === expected[id]));
    must(expected[failing] === "failed" && (await graphStatuses(page))[failing] === "failed", `${failing} does not show as failed`);
    const rows = await wholeLog(page);
    same(rows.map(({ seq }) => seq), Array.from({ length: before + 38 }, (_, seq) => seq), "the log's seqs in their order");
    await graphDrawn(page);
    await drawn(page);
  });
