// The list of runs when there are many.
import { listRun } from "./fixtures.mjs";
import { check, drawn, must, newPage, same, until, visit } from "./lib.mjs";
import { PART } from "./parts.mjs";
import { list } from "./world.mjs";

/** The rows on screen from the top: { text, top } relative to the list's own top. */
const rowsOnScreen = (page) => page.evaluate(({ grid, row }) => {
  const host = document.querySelector(grid);
  const pane = [host, ...host.querySelectorAll("*")].find((el) => /auto|scroll/.test(getComputedStyle(el).overflowY))
    ?? document.documentElement;
  const head = host.querySelector('[role="columnheader"]')?.getBoundingClientRect();
  const top = Math.max(pane === document.documentElement ? 0 : pane.getBoundingClientRect().top, head?.bottom ?? 0);
  return [...host.querySelectorAll(row)].map((el) => ({ name: /list-\d{5}|new-\d+-\d\d/.exec(el.textContent)?.[0] ?? "", top: el.getBoundingClientRect().top - top,
    height: el.getBoundingClientRect().height })).filter((one) => one.top + one.height > 0.5).sort((a, b) => a.top - b.top);
}, { grid: PART.grid, row: PART.row });

const scrollList = (page, top) => page.evaluate(({ grid, top }) => {
  const host = document.querySelector(grid);
  const pane = [host, ...host.querySelectorAll("*")].find((el) => /auto|scroll/.test(getComputedStyle(el).overflowY))
    ?? document.scrollingElement;
  pane.scrollTop = top;
}, { grid: PART.grid, top });

const rowCount = (page) => page.locator(PART.grid).first().getAttribute("aria-rowcount").then(Number);
const loaded = async (page, name) => {
  await until(`${name} is shown`, () => rowsOnScreen(page), (rows) => rows.some((row) => row.name === name));
};

check(5, "10,000 runs are a list of a few rows, down to the last",
  "a list that freezes the tab, or whose end cannot be reached",
  async () => {
    const server = await list();
    const { page } = await newPage({ origin: server.url });
    await visit(page, "/runs?window=all");
    await loaded(page, "list-00000");
    const { total } = await server.get("/api/runs?window=all&limit=1");
    same(await rowCount(page), total, "aria-rowcount");
    must(total >= 10_000, `the fixture has ${total} runs`);
    const rows = await page.locator(PART.row).count();
    must(rows <= 60, `${rows} rows are in the document`);
    await page.locator(PART.row).first().focus();
    await page.keyboard.press("End");
    await loaded(page, "list-09999");
    const last = await page.evaluate((selector) => [...document.querySelectorAll(selector)]
      .find((el) => el.textContent.includes("list-09999"))?.getAttribute("aria-rowindex"), PART.row);
    same(Number(last), total, "aria-rowindex of the last run");
    const oldest = (await server.get("/api/runs?window=all&order=asc&limit=1")).items[0];
    same(oldest.run_id, "list-09999", "the fixture's oldest run");
    const text = await page.locator(PART.row, { hasText: "list-09999" }).innerText();
    must(text.includes(oldest.outcome === "clean" ? "Clean" : "Stuck"), `the last row says ${text}, the API says ${oldest.outcome}`);
    const after = await page.locator(PART.row).count();
    must(after <= 60, `${after} rows are in the document at the end`);
    await page.keyboard.press("Home");
    await loaded(page, "list-00000");
  });

check(10, "50 new runs above do not move the row that is read",
  "the row under the pointer becoming another one at the moment of the click",
  async () => {
    const server = await list();
    const { page } = await newPage({ origin: server.url });
    await visit(page, "/runs?window=all");
    await loaded(page, "list-00000");
    const count = await rowCount(page);
    await scrollList(page, 100 * 32 + 7);
    const [first] = await until("row 100 is loaded", () => rowsOnScreen(page), ([row]) => Boolean(row?.name) && row.name !== "list-00000");
    const now = Date.now();
    for (let i = 0; i < 50; i++) listRun(server.archive, `new-${now}-${String(i).padStart(2, "0")}`, now + i * 10);
    await until("kahn has the 50 runs", async () => (await server.get("/api/runs?window=all&limit=1")).total, (total) => total >= count + 50);
    const pill = page.getByRole("button", { name: /^50 / });
    await pill.waitFor();
    await drawn(page);
    const [still] = await rowsOnScreen(page);
    same(still.name, first.name, "the first row after 50 runs came in above");
    must(Math.abs(still.top - first.top) <= 1, `the first row moved by ${still.top - first.top} px`);
    must((await rowsOnScreen(page)).every((row) => !row.name.startsWith("new-")), "a new run joined while the list is scrolled");

    await page.keyboard.press(".");
    await until("the new runs join", () => rowCount(page), (rows) => rows === count + 50);
    await pill.waitFor({ state: "hidden" });
    const [applied] = await until("rows are loaded", () => rowsOnScreen(page), ([row]) => Boolean(row?.name));
    must(applied.name === first.name || applied.name.startsWith("new-"),
      `after "." the first row is ${applied.name}: neither the one that was read nor the newest`);
    await scrollList(page, 0);
    await until("the new runs are at the top", () => rowsOnScreen(page), ([row]) => Boolean(row?.name.startsWith("new-")));
  });
