// The checks of the UI in a browser, by the numbers of its specification: node checks.mjs [NUMBER...]
import "./check-pages.mjs";
import "./check-lists.mjs";
import "./check-run.mjs";
import "./check-live.mjs";
import "./check-keys.mjs";
import "./check-fleet.mjs";
import "./check-door.mjs";
import { closeAll, runChecks } from "./lib.mjs";

let failed = 1;
try {
  failed = await runChecks(process.argv.slice(2));
} finally {
  await closeAll();
}
process.exit(failed ? 1 : 0);
