// Everything without a mouse: keys, focus, and what can be seen of it.
import { contrast } from "./colours.mjs";
import { check, drawn, must, newPage, same, until, usable, visit } from "./lib.mjs";
import { PART, chip, debug, drawerTitle, focused, graphDrawn, graphStatuses, openRun, pressedView } from "./parts.mjs";
import { liveOne, small } from "./world.mjs";

/** What shows where the focus is: an outline, or for a node of the graph the ring that is drawn around it. */
const focusShown = (page) => page.evaluate(() => {
  const el = document.activeElement;
  if (!el || el === document.body) return { fault: "the focus is nowhere" };
  const name = `${el.localName}.${el.getAttribute("class") ?? ""} "${(el.getAttribute("aria-label") ?? el.textContent ?? "").trim().slice(0, 40)}"`;
  const ringOf = (one) => {
    const style = getComputedStyle(one);
    if (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) return { width: parseFloat(style.outlineWidth), colour: style.outlineColor };
    return null;
  };
  // The focus may be drawn by a part of the element, or by what wraps an input.
  const ringed = [el, ...el.querySelectorAll("*"), el.parentElement].map(ringOf).find(Boolean)
    ?? [...el.querySelectorAll("rect, path")].map((one) => getComputedStyle(one)).filter((style) => style.stroke !== "none" && style.visibility === "visible")
      .map((style) => ({ width: parseFloat(style.strokeWidth), colour: style.stroke })).sort((a, b) => b.width - a.width)[0];
  if (!ringed) return { name, fault: "shows no ring" };
  let behind = el.parentElement, background = "rgb(255, 255, 255)";
  for (; behind; behind = behind.parentElement) {
    const colour = getComputedStyle(behind).backgroundColor;
    if (!/, 0\)|transparent/.test(colour)) { background = colour; break; }
  }
  const box = el.getBoundingClientRect();
  const x = Math.min(Math.max(box.left + Math.min(box.width / 2, 40), 0), innerWidth - 1), y = Math.min(Math.max(box.top + box.height / 2, 0), innerHeight - 1);
  const top = document.elementFromPoint(x, y);
  const onScreen = box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight && box.width > 0;
  const covered = !onScreen || !top || !(el.contains(top) || top.contains(el) || top.closest("label")?.control === el);
  return { name, ring: ringed, background, covered, by: top && `${top.localName}.${top.getAttribute("class")}`, box: [box.left, box.top, box.width, box.height] };
});
const numbers = (colour) => /** @type {any} */ (colour.match(/[\d.]+/g).slice(0, 3).map(Number));

async function focusIsVisible(page, where) {
  await drawn(page);
  const seen = await focusShown(page);
  must(!seen.fault, `${where}: ${seen.name ?? ""} ${seen.fault}`);
  must(seen.ring.width >= 2, `${where}: the ring of ${seen.name} is ${seen.ring.width} px`);
  const ratio = contrast(numbers(seen.ring.colour), numbers(seen.background));
  must(ratio >= 3, `${where}: the ring of ${seen.name} has a contrast of ${ratio.toFixed(2)} (${seen.ring.colour} on ${seen.background})`);
  must(!seen.covered, `${where}: ${seen.name} has the focus behind ${seen.by} at ${seen.box}`);
  return seen.name;
}

/** Tab, until what has the focus has such a name. */
async function tabTo(page, name, most = 120) {
  for (let i = 0; i < most; i++) {
    await page.keyboard.press("Tab");
    const here = await focused(page);
    if (here && name.test(here)) return;
  }
  must(false, `${name} is not reached by ${most} times Tab; the focus is on ${await focused(page)}`);
}

check(15, "from the list to a failed node's output, back, and on to Compare, by keys alone",
  "the page for everybody who uses no mouse",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url });
    await visit(page, "/runs?window=all");
    await page.locator(PART.row, { hasText: server.small }).waitFor();
    await tabTo(page, /vl-row/);
    for (let i = 0; i < 20 && !(await focused(page))?.includes(server.small); i++) await page.keyboard.press("j");
    await until("the row has the focus", () => page.evaluate(() => document.activeElement.textContent), (text) => text.includes(server.small));
    await focusIsVisible(page, "the list");
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/runs\/small-2/);
    await usable(page);
    await graphDrawn(page);

    // By n, from wherever the focus is.
    await page.keyboard.press("n");
    await until("n opens the failed node", () => drawerTitle(page), (title) => title.includes("api"));
    await page.keyboard.press("Escape");
    await until("Escape closes it", () => page.locator(PART.drawer).count(), (count) => count === 0);

    // By the graph's own buttons.
    await tabTo(page, /"\w+, (Failed|Done|Blocked)/);
    for (const key of ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"]) {
      if ((await focused(page)).includes('"api,')) break;
      await page.keyboard.press(key);
    }
    for (let i = 0; i < 12 && !(await focused(page)).includes('"api,'); i++) await page.keyboard.press(["ArrowDown", "ArrowUp", "ArrowUp"][i % 3]);
    const reached = await focused(page);
    await focusIsVisible(page, "the graph");
    await page.keyboard.press("Enter");
    await until("Enter opens the drawer, and its heading has the focus", () => page.evaluate(() => document.activeElement.id), (id) => id === "dw-title");
    await focusIsVisible(page, "the drawer");
    const title = await drawerTitle(page);
    must(reached.includes(`"${title},`), `Enter on ${reached} opened ${title}`);
    await page.keyboard.press("Escape");
    await until("the focus is back on the node", () => focused(page), (here) => here === reached || here?.includes(`"${title},`));
    await focusIsVisible(page, "back in the graph");

    // The failed node's output, by its card.
    await tabTo(page, /rd-node.*"api"/);
    await page.keyboard.press("Enter");
    await until("the drawer is of api", () => drawerTitle(page), (text) => text === "api");
    const tail = page.locator(`${PART.drawer} pre`).first();
    await tail.waitFor();
    must(/assertion failed/.test(await tail.innerText()), "the output of the failed check is not shown");
    const scrolled = await tail.evaluate((el) => el.scrollHeight - el.clientHeight - el.scrollTop);
    must(scrolled <= 2, `the output does not stand at its end: ${scrolled} px are below`);
    await page.keyboard.press("Escape");
    await until("the drawer is closed", () => page.locator(PART.drawer).count(), (count) => count === 0);
    must(await focused(page) !== null, "closing the drawer lost the focus");

    await page.evaluate(() => /** @type {HTMLElement} */ (document.activeElement).blur());
    await tabTo(page, /Compare with previous/);
    await focusIsVisible(page, "the link to Compare");
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/compare\?/);
    await usable(page);
    await until("Compare tells what changed", () => page.locator("main").innerText(), (text) => /newly failed/i.test(text) && text.includes("api"));
  });

check(16, "each shortcut does its thing, none in an input, and single keys can be switched off",
  "shortcuts that are told in the help and do nothing, or that fire while somebody types",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url });
    const at = (path) => until(`the address is ${path}`, () => new URL(page.url()).pathname, (here) => here === path);
    const press = (key) => page.keyboard.press(key);
    await visit(page, "/runs?window=all");
    await page.locator(PART.row, { hasText: server.small }).waitFor();
    for (const [key, path] of [["a", "/agents"], ["u", "/audits"], ["c", "/compare"], ["r", "/runs"]]) {
      await press("g");
      await press(key);
      await at(path);
      await until("the page has a title", () => page.locator("h1").count(), (count) => count === 1);
    }
    await page.locator(PART.row).first().waitFor();
    // w goes through the windows.
    const window_of = () => new URL(page.url()).searchParams.get("window");
    const first = window_of();
    await press("w");
    await until("w takes the next window", async () => window_of(), (now) => now !== first);
    await visit(page, "/runs?window=all");
    await page.locator(PART.row, { hasText: server.small }).waitFor();

    // t and T change how times are told.
    const times = () => page.locator("main time").allInnerTexts();
    const before = await times();
    await press("Shift+T");
    await until("T tells times absolutely", times, (now) => now.length > 0 && now[0] !== before[0]);
    await press("Shift+T");
    await until("T tells them relatively again", times, (now) => now[0] === before[0] || /ago|now/.test(now[0]));

    // In an input they are letters.
    await press("/");
    const typed = () => page.evaluate(() => document.activeElement instanceof HTMLInputElement ? document.activeElement.value : null);
    await until("/ goes to the filter", typed, (value) => value !== null);
    await page.keyboard.type("gaw?t");
    same(await typed(), "gaw?t", "what was typed in the filter");
    must(new URL(page.url()).pathname === "/runs", "typing in the filter left the page");
    must(await page.getByRole("dialog").count() === 0, "typing ? in the filter opened the help");
    await press("Escape");
    await until("Escape clears the filter", typed, (value) => value === "" || value === null);
    await press("Escape");
    await until("Escape again leaves it", typed, (value) => value === null);

    // x and c compare two rows, o opens another tab.
    await visit(page, "/runs?window=all");
    await page.locator(PART.row, { hasText: "small-1" }).focus();
    await press("x");
    await page.locator(PART.row, { hasText: "small-2" }).focus();
    await press("x");
    await press("c");
    await at("/compare");
    const sides = new URL(page.url()).searchParams;
    same([sides.get("base"), sides.get("head")].sort(), ["small-1", "small-2"], "what is compared");
    await visit(page, "/runs?window=all");
    await page.locator(PART.row, { hasText: "small-2" }).focus();
    const tab = page.context().waitForEvent("page");
    await press("o");
    const opened = await tab;
    await opened.waitForURL(/\/runs\/small-2/);
    await opened.close();

    // The page of a run.
    await openRun(page, "/runs/small-2");
    for (const [key, view] of [["2", "Graph"], ["3", "Timeline"], ["4", "Nodes"], ["1", "Graph + timeline"]]) {
      await press(key);
      await until(`${key} shows ${view}`, () => pressedView(page), (text) => text.trim() === view);
    }
    await graphDrawn(page);
    const zoom = async () => (await debug(page)).zoom;
    const opened_at = await zoom();
    await press("+");
    const nearer = await until("+ zooms in", zoom, (now) => now > opened_at);
    await press("-");
    await until("- zooms out", zoom, (now) => now < nearer);
    await press("0");
    await until("0 is 100 %", zoom, (now) => Math.abs(now - 1) < 0.01);
    await press("f");
    await until("f fits", zoom, (now) => Math.abs(now - 1) > 0.01);
    await press("n");
    await until("n selects the failure", () => drawerTitle(page), (title) => title === "api");
    await press("Shift+N");
    await until("N as well", () => drawerTitle(page), (title) => title === "api");
    await press("b");
    await until("b marks the chain", () => page.locator(`${PART.drawer} [aria-pressed="true"]`).count(), (count) => count > 0);
    await press("y");
    await until("y copies the address", () => page.evaluate(() => navigator.clipboard.readText()), (text) => text === page.url());
    await press("]");
    await until("] closes the drawer", () => page.locator(PART.drawer).count(), (count) => count === 0);
    const rail = () => page.locator(PART.rail).evaluate((el) => el.getBoundingClientRect().width);
    const wide = await rail();
    await press("[");
    await until("[ collapses the rail", rail, (now) => now < wide / 2);
    await press("[");
    await until("[ opens it again", rail, (now) => now === wide);
    const moment = () => page.evaluate(() => window["scope"].debug.at());
    const last = (await server.get("/api/runs/small-2")).next_seq - 1;
    await press(",");
    await until(", steps back", moment, (now) => now === last - 1);
    await press(",");
    await press(".");
    await until(". steps forward", moment, (now) => now === last - 1);
    await press("End");
    await until("End is now", moment, (now) => now === null);
    await page.locator("h1").click();
    await press("Space");
    await until("space plays from the beginning", moment, (now) => now !== null && now >= 0 && now < last);
    await press("Space");
    const stopped = await moment();
    await press("End");
    must(stopped !== null, "space did not pause");

    // The help names them, and switches them off.
    await press("?");
    const help = page.getByRole("dialog");
    await help.waitFor();
    const words = await help.innerText();
    for (const does of [/failure/i, /back/i, /zoom|fit/i, /filter/i, /UTC/i]) must(does.test(words), `the help does not tell of ${does}`);
    const off = help.getByRole("checkbox", { name: /single|shortcut|key/i });
    await off.focus();
    const was = await off.isChecked();
    await press("Space");
    must(await off.isChecked() !== was, "the switch for single keys does not switch");
    await press("Escape");
    await help.waitFor({ state: "hidden" });
    await press("4");
    await press("n");
    await drawn(page);
    same(await pressedView(page), "Graph + timeline", "the view after 4 with single keys off");
    same(await page.locator(PART.drawer).count(), 0, "drawers after n with single keys off");

    // p pauses what is live.
    const run = await liveOne();
    const { page: other } = await newPage({ origin: run.url });
    await openRun(other, run.path);
    await until("the page is live", () => chip(other), (text) => /Live/.test(text));
    await other.keyboard.press("p");
    await until("p pauses", () => chip(other), (text) => /Paused/.test(text));
    run.feeder.append({ event: "heartbeat" }, { event: "heartbeat" });
    await until("what waits is counted", () => chip(other), (text) => /\b2\b/.test(text));
    await other.keyboard.press("p");
    await until("p goes on", () => chip(other), (text) => /Live/.test(text));
  });

check(17, "arrows in the graph follow edges and layers",
  "a graph that only a mouse can read",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url });
    await openRun(page, "/runs/small-2?view=graph");
    const { edges, positions } = await debug(page);
    const here = () => page.evaluate(() => /^[^,]+/.exec(document.activeElement.getAttribute("aria-label") ?? "")?.[0] ?? null);
    await page.locator(PART.node).first().waitFor();
    await tabTo(page, /"[\w-]+, (Failed|Done|Blocked|Pending|Ready|Running)/);
    const inside = () => page.evaluate((selector) => {
      const el = document.activeElement, pane = document.querySelector(selector).closest('[role="group"]').getBoundingClientRect();
      const box = el.getBoundingClientRect();
      return box.left >= pane.left - 1 && box.right <= pane.right + 1 && box.top >= pane.top - 1 && box.bottom <= pane.bottom + 1;
    }, PART.node);
    // To the left end, and from there by every key to every side.
    for (let i = 0; i < 10; i++) await page.keyboard.press("ArrowLeft");
    same(await here(), "plan", "the node at the left end");
    const seen = new Set();
    for (const key of ["Right", "Down", "Right", "Up", "Right", "Down", "Right", "Right", "Down", "Left", "Up", "Left", "Down", "Left", "Left", "Down", "Right"]) {
      const from = await here();
      await page.keyboard.press(`Arrow${key}`);
      await drawn(page);
      const to = await here();
      must(to !== null, `the focus left the graph with ${key} on ${from}`);
      must(await inside(), `${to} has the focus outside of what is seen, after ${key} on ${from}`);
      seen.add(to);
      if (to === from) continue;
      if (key === "Right") must(edges.some(([a, b]) => a === from && b === to), `right led from ${from} to ${to}, which does not need it`);
      else if (key === "Left") must(edges.some(([a, b]) => a === to && b === from), `left led from ${from} to ${to}, which it does not need`);
      else {
        must(positions[from].x === positions[to].x, `${key} led from ${from} to ${to}, which is in another layer`);
        must((positions[to].y > positions[from].y) === (key === "Down"), `${key} led from ${from} to ${to}`);
      }
    }
    must(seen.size >= 6, `17 arrows reached ${[...seen]}`);
    const tabs = await page.locator(`${PART.node}[tabindex="0"]`).count();
    same(tabs, 1, "nodes of the graph that Tab stops at");
    must(Object.keys(await graphStatuses(page)).length > 0, "no node is drawn");
  });

check(18, "where the focus is can be seen at every stop",
  "somebody who tabs through the page and does not know where they are",
  async () => {
    const server = await small();
    for (const theme of /** @type {const} */ (["light", "dark"])) {
      const { page, close } = await newPage({ origin: server.url, theme });
      for (const path of ["/runs?window=all", "/runs/small-2?node=api", "/agents?window=all", "/audits?window=all", "/compare?base=small-1&head=small-2"]) {
        await visit(page, path);
        if (path.includes("node=")) await page.locator(`${PART.drawer} pre`).first().waitFor();
        const stops = new Set();
        for (let i = 0; i < 70; i++) {
          await page.keyboard.press("Tab");
          if (await focused(page) === null) break;
          stops.add(await focusIsVisible(page, `${path}, ${theme}, stop ${i + 1}`));
        }
        must(stops.size >= 8, `${path} has ${stops.size} stops: ${[...stops].join(" · ")}`);
      }
      await close();
    }
  });
