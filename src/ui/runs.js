// The list of runs. It shows what /api/runs says and computes nothing of its own.

const about = document.getElementById("about");
const door = document.getElementById("door");
const keyField = document.getElementById("key");
const table = document.getElementById("runs");
const rows = table.tBodies[0];
const more = document.getElementById("more");

/** The key, where the server asks for one: kept in this page only. */
let key = null;
let nextCursor = null;

async function get(path) {
  const response = await fetch(path, key ? { headers: { authorization: `Bearer ${key}` } } : {});
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.detail), { status: response.status });
  return body;
}

function seconds(value) {
  if (value === null) return "";
  const whole = Math.round(value);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const names = ["h", "m", "s"];
  const first = parts.findIndex((part) => part > 0);
  return first < 0 ? `${value} s` : parts.slice(first).map((part, at) => `${part}${names[first + at]}`).join(" ");
}

function progress(run) {
  if (run.nodes) {
    const { total, done, failed, blocked, running } = run.nodes;
    const rest = [[running, "running"], [failed, "failed"], [blocked, "blocked"]].filter(([count]) => count > 0);
    return [`${done} of ${total} nodes done`, ...rest.map(([count, name]) => `${count} ${name}`)].join(", ");
  }
  return run.steps === null ? "" : `${run.steps} steps, ${run.tool_calls.total} tool calls, ${run.tool_calls.failed} failed`;
}

function failure(run) {
  const first = run.first_failure;
  if (!first) return "";
  return "node_id" in first
    ? [first.node_id, first.cmd, first.rc === null ? null : `(${first.rc})`].filter(Boolean).join(" ")
    : [first.tool_name, first.error].filter(Boolean).join(": ");
}

function add(run) {
  const row = rows.insertRow();
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = run.run_id;
  row.append(name);
  const started = run.started === null ? "" : run.started.slice(0, 19).replace("T", " ");
  const cells = [run.kind ?? "", run.phase, run.outcome ?? "", started, seconds(run.duration_s), progress(run), failure(run)];
  for (const text of cells) row.insertCell().textContent = text;
  if (failure(run)) row.cells[7].className = "bad";
}

async function load() {
  try {
    const page = await get(nextCursor ? `/api/runs?cursor=${encodeURIComponent(nextCursor)}` : "/api/runs");
    page.items.forEach(add);
    nextCursor = page.next_cursor;
    door.hidden = true;
    table.hidden = page.total === 0;
    more.hidden = nextCursor === null;
    about.textContent =
      page.total === 0 ? "No runs yet: they show up here once something writes to the archive." : `${rows.rows.length} of ${page.total} runs, as of ${page.as_of}`;
  } catch (error) {
    const isShut = error.status === 401 || error.status === 403;
    door.hidden = !isShut;
    about.textContent = isShut && key === null ? "A key is needed." : error.message;
  }
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  key = keyField.value.trim();
  keyField.value = "";
  load();
});
more.addEventListener("click", load);
load();
