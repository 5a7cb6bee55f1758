// Pictures of every page in both themes and on a phone, into shots/: node shots.mjs [NAME...] looks only at names with such a part.
import { mkdirSync } from "node:fs";
import { closeAll, newPage, settled, visit } from "./lib.mjs";
import { big, fleet, liveOne, small } from "./world.mjs";

const wanted = process.argv.slice(2);
const into = new URL("shots/", import.meta.url).pathname;
mkdirSync(into, { recursive: true });

const server = await small(), many = await big(), agents = await fleet(), live = await liveOne();
const pages = {
  runs: [server, "/runs?window=all"], "runs-marked": [server, "/runs?window=all&outcome=partial"],
  run: [server, "/runs/small-2"], "run-drawer": [server, "/runs/small-2?node=api"], "run-replay": [server, "/runs/small-2?at=30"],
  "run-graph": [server, "/runs/small-2?view=graph"], "run-timeline": [server, "/runs/small-2?view=timeline"],
  "run-nodes": [server, "/runs/small-2?view=nodes"], "run-clean": [server, "/runs/clean-1"], "run-big": [many, "/runs/big-1"],
  "run-live": [live, live.path], "run-planned": [server, "/runs/planned-1"], "run-nograph": [server, "/runs/nograph-1"],
  "run-cyclic": [server, "/runs/cyclic-1"], "run-damaged": [server, "/runs/damaged-1"], "run-hostile": [server, "/runs/hostile-1?node=first"],
  "run-missing": [server, "/runs/no-such-run"], agents: [agents, "/agents?window=all"], agent: [agents, "/agents/planner?window=all"],
  "agent-run": [server, "/runs/agent-1"], "agent-run-hostile": [server, "/runs/hostile-agent-1"],
  audits: [agents, "/audits?window=all"], "audits-open": [agents, "/audits?window=all&c=audit:flaky"], nodes: [server, "/nodes?window=all"],
  compare: [server, "/compare?base=small-1&head=small-2"], "compare-pick": [server, "/compare?head=small-2"],
};
try {
  for (const [name, [{ url }, path]] of /** @type {[string, any][]} */ (Object.entries(pages))) {
    if (wanted.length && !wanted.some((part) => name.includes(part))) continue;
    for (const [look, how] of /** @type {[string, any][]} */ (Object.entries({ light: { theme: "light" }, dark: { theme: "dark" },
      phone: { theme: "light", width: 390, height: 844, mobile: true } }))) {
      const { page, close } = await newPage({ origin: url, allow: [/./], ...how });
      await visit(page, path).then(() => settled(page)).catch((error) => console.log(`${name}: ${error.message.split("\n")[0]}`));
      await page.screenshot({ path: `${into}${name}-${look}.png` });
      await close();
    }
    console.log(`${into}${name}-*.png`);
  }
} finally {
  await closeAll();
}
