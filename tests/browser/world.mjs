// The servers that checks share; each is made when the first check wants it.
import { folder, kahn } from "./lib.mjs";
import { bigRun, fleetArchive, listArchive, liveRun, mainArchive } from "./fixtures.mjs";

const once = (make) => { let made; return () => (made ??= make()); };

/** Runs of all kinds, small ones. */
export const small = once(async () => {
  const archive = folder();
  const known = mainArchive(archive);
  return { ...(await kahn({ archive })), archive, ...known };
});

/** One run of 500 nodes and 20,000 events. */
export const big = once(async () => {
  const archive = folder();
  const made = bigRun(archive);
  return { ...(await kahn({ archive })), archive, ...made };
});

/** A list of 10,000 runs, to which a check may add. */
export const list = once(async () => {
  const archive = folder();
  listArchive(archive);
  const server = await kahn({ archive });
  await server.get("/api/runs?limit=1");
  return { ...server, archive };
});

/** Agents, checkpoints and 200 agents at random. */
export const fleet = once(async () => {
  const archive = folder();
  fleetArchive(archive, Date.now(), 200);
  return { ...(await kahn({ archive })), archive };
});

const live_archive = once(async () => {
  const archive = folder();
  return { ...(await kahn({ archive })), archive };
});
let serial = 0;
/** A live run of its own. */
export async function liveOne(graph = undefined, take = undefined) {
  const server = await live_archive();
  const run_id = `live-${serial++}`;
  const run = liveRun(server.archive, run_id, Date.now(), graph, take);
  return { ...server, ...run, run_id, path: `/runs/${run_id}` };
}
