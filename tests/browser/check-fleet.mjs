// Agents and checkpoints.
import { check, must, newPage, same, settled, until, visit } from "./lib.mjs";
import { fleet } from "./world.mjs";

const ROW = '[role="grid"] [role="row"][aria-rowindex]';
check(25, "agents stand by severity, to one scale",
  "the agent that broke an hour ago below the ones that are always noisy",
  async () => {
    const server = await fleet();
    const { page } = await newPage({ origin: server.url, height: 1400 });
    await visit(page, "/agents?window=all");
    await settled(page);
    const names = () => page.locator(`${ROW} .ag-id .mono`).allInnerTexts();
    const api = await server.get("/api/agent-runs/aggregate?window=all");
    const expected = api.items.map(({ agent_id }) => agent_id);
    const first = await until("rows are shown", names, (now) => now.length > 10);
    same(first, expected.slice(0, first.length), "agents by severity");
    const fresh = api.items.filter(({ regression }) => regression).length;
    must(fresh > 3 && api.items.slice(0, fresh).every(({ regression }) => regression), "a fresh regression stands below an agent without one");
    await page.getByRole("button", { name: /busiest/i }).click();
    const busiest = (await server.get("/api/agent-runs/aggregate?window=all&sort=busiest")).items.map(({ agent_id }) => agent_id);
    await until("busiest first", names, (now) => JSON.stringify(now) === JSON.stringify(busiest.slice(0, now.length)) && now[0] === "coder");

    // Lengths are runs, on one scale; scores 0 and 1 are at the same heights in every row.
    const counts = Object.fromEntries(api.items.map((item) => [item.agent_id, item]));
    const seen = await page.locator(ROW).evaluateAll((els) => els.map((el) => {
      const parts = [...el.querySelectorAll(".fl-part")].map((part) => part.getBoundingClientRect());
      const spark = el.querySelector("svg.fl-spark, .fl-spark svg, svg:not(.glyph)");
      const lines = spark ? [...spark.querySelectorAll("line, .fl-axis")].map((line) => line.getBoundingClientRect().top - spark.getBoundingClientRect().top) : [];
      return { name: el.querySelector(".ag-id .mono")?.textContent, left: Math.min(...parts.map((box) => box.left)), right: Math.max(...parts.map((box) => box.right)),
        spark: spark && [spark.getBoundingClientRect().width, spark.getBoundingClientRect().height], lines };
    }));
    const [longest] = seen;
    same(longest.name, "coder", "the busiest agent");
    const unit = (longest.right - longest.left) / counts.coder.run_count;
    must(unit > 1, `a run is ${unit} px`);
    for (const { name, left, right } of seen) {
      const item = counts[name], shares = Object.values(item.outcomes).filter(Boolean).length;
      const should = unit * item.run_count;
      // A part of less than 2 px is drawn at 2 px; gaps are 2 px.
      must(Math.abs(right - left - should) <= 1 + 2 * shares, `${name}: ${(right - left).toFixed(1)} px for ${item.run_count} runs, should be ${should.toFixed(1)}`);
    }
    const drawnSparks = seen.filter(({ spark }) => spark);
    must(drawnSparks.length > 5, "no sparklines");
    for (const { name, spark, lines } of drawnSparks) {
      same(spark, drawnSparks[0].spark, `the size of ${name}'s sparkline`);
      same(lines, drawnSparks[0].lines, `the axis of ${name}'s sparkline`);
    }
    // A window that does not exist: told with what there is.
    const { page: other, watch } = await newPage({ origin: server.url });
    watch.allow.push(/status of 400/);
    await other.goto("/agents?window=9d");
    await until("the page says which windows there are", () => other.locator("main").innerText(), (text) => ["24h", "7d", "all"].every((one) => text.includes(one)));
  });

check(26, "each verdict has its word and its tone",
  "a check that always fails, in green",
  async () => {
    const server = await fleet();
    const { page } = await newPage({ origin: server.url });
    await visit(page, "/audits?window=all");
    await settled(page);
    const expected = { "audit:regressed": ["Regressed", "red"], "audit:flaky": ["Flaky", "amber"], "audit:broken": ["Broken", "red"],
      "audit:recovered": ["Recovered", "lime"], "audit:new": ["Few results", "grey"], "audit:stable": ["Stable", "green"] };
    const shown = await page.locator(ROW).evaluateAll((els) => els.map((el) => ({ text: el.textContent,
      tone: /tone-(\w+)/.exec(el.querySelector("svg.glyph")?.getAttribute("class") ?? "")?.[1] })));
    for (const [id, [word, tone]] of Object.entries(expected)) {
      const row = shown.find(({ text }) => text.includes(id));
      must(row, `${id} is not listed`);
      must(row.text.includes(word), `${id} does not say ${word}: ${row.text.slice(0, 120)}`);
      same(row.tone, tone, `the tone of ${id}`);
    }
    const { items } = await server.get("/api/audit-checkpoints/flakiness?window=all");
    same(shown.map(({ text }) => items.find(({ checkpoint_id }) => text.includes(checkpoint_id))?.checkpoint_id), items.map(({ checkpoint_id }) => checkpoint_id), "the order is the server's");
    const broken = shown.find(({ text }) => text.includes("audit:broken"));
    must(broken.tone === "red", "a check that always fails is not red");
    await page.locator(ROW, { hasText: "audit:flaky" }).first().click();
    await until("a row opens its history", () => page.url(), (url) => /c=audit/.test(url));
    await until("with links to its runs", () => page.locator('main a[href^="/runs/coder-"]').count(), (count) => count > 0);
  });
