// The list of runs. The server filters, sorts and counts; rows change in place as runs go on, and nothing moves under
// the reader: runs that begin meanwhile wait behind a button while the list is looked at.
import { effect, html, useEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { Problem, announce, href, keep, kept, keys, navigate, nowTick, setQuery, setTitle, settings, windowAsked } from "./app.js";
import { absolute, ago, count, describe, duration, plural, runState, visible } from "./fmt.js";
import { VList, element, glyphElement } from "./list.js";
import { ApiProblem, api, live } from "./net.js";

/** Rows that are asked for at once. */
const PAGE = 200;
const FILTERS = ["q", "kind", "phase", "outcome", "agent_id", "node_id", "parent"];
const CHOICES = {
  kind: ["ci", "agent"],
  phase: ["live", "stalled", "ended"],
  outcome: ["clean", "clean_with_flake", "partial", "stuck", "catastrophic", "converged", "escaped", "aborted"],
};
const COLUMNS = [
  { name: "run", label: "Run", className: "rn-run" },
  { name: "outcome", label: "State", sort: true, className: "rn-state" },
  { name: "nodes", label: "Nodes or steps", className: "rn-nodes" },
  { name: "duration", label: "Took", sort: true, className: "num rn-took" },
  { name: "started", label: "Started", sort: true, className: "rn-started" },
  { name: "cause", label: "First failure, flaky nodes", className: "rn-cause" },
];

/** What the address asks of the list. @param {URLSearchParams} query */
function asked(query) {
  const filters = Object.fromEntries(FILTERS.flatMap((name) => (query.get(name) ? [[name, String(query.get(name))]] : [])));
  return { filters, window: windowAsked.value, sort: query.get("sort") ?? "started", order: query.get("order") ?? "desc" };
}

/** The rows as far as they are loaded, and what the server says of them. */
class Rows {
  /** @param {ReturnType<typeof asked>} wanted @param {{changed: (keys: string[] | null) => void, failed: (error: any) => void, news: (several: number) => void}} on */
  constructor(wanted, on) {
    this.wanted = wanted;
    this.on = on;
    /** @type {any[]} */
    this.items = [];
    /** @type {Map<string, number>} */
    this.places = new Map();
    this.total = 0;
    this.as_of = "";
    /** Runs that began or left since. @type {Set<string>} */
    this.news = new Set();
    /** @type {Set<number>} */
    this.asking = new Set();
    this.abort = new AbortController();
  }

  /** @param {number} offset */
  address(offset) {
    const { filters, window, sort, order } = this.wanted;
    const page = this.as_of ? { offset, as_of: this.as_of } : {};
    return href("/api/runs", { ...filters, window: window === "all" ? null : window, sort: sort === "started" ? null : sort, order: order === "desc" ? null : order, limit: PAGE, ...page });
  }

  async load() {
    const { signal } = this.abort;
    const answer = await api(this.address(0), { signal });
    this.as_of = answer.as_of;
    this.total = answer.total;
    this.put(0, answer.items);
  }

  /** @param {number} from @param {any[]} items */
  put(from, items) {
    items.forEach((item, at) => {
      this.items[from + at] = item;
      this.places.set(item.run_id, from + at);
    });
  }

  /** @param {number} from @param {number} to */
  need(from, to) {
    for (let page = Math.floor(from / PAGE); page * PAGE < Math.min(to, this.total); page++) {
      if (this.items[page * PAGE] !== undefined || this.asking.has(page)) continue;
      this.asking.add(page);
      api(this.address(page * PAGE), { signal: this.abort.signal }).then(
        (answer) => {
          this.asking.delete(page);
          this.put(page * PAGE, answer.items);
          this.on.changed(null);
        },
        (error) => {
          this.asking.delete(page);
          if (error.name !== "AbortError") this.on.failed(error);
        },
      );
    }
  }

  /** @param {any[]} rows */
  heard(rows) {
    const changed = [];
    for (const row of rows) {
      const place = this.places.get(row.run_id);
      if (place !== undefined) {
        this.items[place] = row;
        changed.push(row.run_id);
      } else if (row.started === null || row.started > this.as_of) {
        this.news.add(row.run_id);
      }
    }
    if (changed.length) this.on.changed(changed);
    if (this.news.size) this.on.news(this.news.size);
  }
}

/** @param {number} part @param {string} tone @param {string} title */
function segment(part, tone, title) {
  const el = element("span", `rn-part rn-${tone}`);
  el.style.flexGrow = String(part);
  el.title = title;
  return el;
}

/** @param {HTMLElement} cell @param {any} row */
function fillNodes(cell, row) {
  if (row.nodes) {
    const bar = element("span", "rn-bar");
    bar.setAttribute("aria-hidden", "true");
    for (const status of ["done", "running", "ready", "pending", "blocked", "failed"]) {
      if (row.nodes[status]) bar.append(segment(row.nodes[status], status, `${row.nodes[status]} ${status}`));
    }
    const bad = ["failed", "blocked"].filter((status) => row.nodes[status]).map((status) => `${row.nodes[status]} ${status}`);
    const text = element("span", "", `${count(row.nodes.done)}/${count(row.nodes.total)}`);
    text.title = [`${row.nodes.done} of ${row.nodes.total} nodes done`, ...bad].join(", ");
    cell.replaceChildren(bar, text);
  } else {
    const calls = row.tool_calls;
    const failed = calls?.failed ? `, ${count(calls.failed)} failed` : "";
    cell.textContent = row.steps === null ? "" : `${plural(row.steps, "step")}, ${plural(calls?.total ?? 0, "call")}${failed}`;
  }
}

/** @param {any} row */
function cause(row) {
  const first = row.first_failure;
  const flaky = row.flaky_nodes?.length ? `flaky: ${row.flaky_nodes.join(", ")}` : "";
  if (!first) return flaky;
  const failure = "node_id" in first ? [first.node_id, first.cmd] : [first.tool_name, first.error];
  const rc = first.rc === null || first.rc === undefined ? "" : ` (${first.rc})`;
  return visible(failure.filter(Boolean).join(": ") + rc + (flaky ? `; ${flaky}` : ""));
}

/** @param {{route: import("./app.js").Route}} props */
export function Page({ route }) {
  const { query } = route;
  const host = useRef(/** @type {HTMLElement | null} */ (null));
  const list = useRef(/** @type {VList<any> | null} */ (null));
  const rows = useRef(/** @type {Rows | null} */ (null));
  const marked = useRef(/** @type {string[]} */ ([]));
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [shown, setShown] = useState({ total: /** @type {number | null} */ (null), error: /** @type {any} */ (null), news: 0, marks: 0 });
  const wanted = asked(query);
  const question = JSON.stringify(wanted);

  /** Shows what the server says now. @param {boolean} toTop */
  const load = async (toTop) => {
    rows.current?.abort.abort();
    const next = new Rows(wanted, {
      changed: (changed) => rows.current === next && list.current?.refresh(changed ?? undefined),
      failed: (error) => setShown((before) => ({ ...before, error })),
      news: (several) => {
        if (rows.current !== next) return;
        if (list.current?.held()) setShown((before) => ({ ...before, news: several }));
        else load(false);
      },
    });
    try {
      await next.load();
    } catch (/** @type {any} */ error) {
      if (error.name !== "AbortError") setShown((before) => ({ ...before, error, total: null }));
      return;
    }
    if (next.abort.signal.aborted) return;
    rows.current = next;
    list.current?.items({ total: next.total, get: (index) => next.items[index], need: (from, to) => next.need(from, to) }, toTop);
    list.current?.sorted(wanted.sort, wanted.order === "asc" ? "ascending" : "descending");
    setShown((before) => ({ ...before, total: next.total, error: null, news: 0 }));
  };
  const apply = () => load(false);

  /** @param {any} row */
  const open = (row) => navigate(`/runs/${encodeURIComponent(row.run_id)}`);

  useEffect(() => {
    setTitle("Runs");
    if (!host.current) return;
    const made = new VList(
      host.current,
      {
        key: (row) => row.run_id,
        row: (el, row) => {
          const [run, state, nodes, took, started, first] = /** @type {HTMLElement[]} */ ([...el.children]);
          const { set, value, word } = runState(row);
          const mark = marked.current.indexOf(row.run_id);
          const link = /** @type {HTMLAnchorElement} */ (element("a", "mono", row.run_id));
          link.href = `/runs/${encodeURIComponent(row.run_id)}`;
          link.tabIndex = -1;
          run.replaceChildren(...(mark < 0 ? [] : [element("b", "rn-mark", mark ? "head" : "base")]), link);
          if (row.kind === "agent") run.append(element("span", "muted rn-by", row.agent_id ?? ""));
          run.title = row.graph_sha256 ? `graph ${row.graph_sha256.slice(0, 8)}` : visible(row.task ?? "");
          const words = element("span", "status");
          words.append(glyphElement(set, value), element("span", "", word));
          state.replaceChildren(words);
          fillNodes(nodes, row);
          took.textContent = duration(row.duration_s);
          const time = element("time", "");
          if (row.started) {
            time.setAttribute("datetime", row.started);
            time.title = `${absolute(row.started, { utc: false })}\n${absolute(row.started, { utc: true })}`;
          }
          started.replaceChildren(time);
          tellTime(time);
          first.textContent = cause(row);
          first.title = cause(row);
          first.classList.toggle("rn-bad", row.first_failure !== null);
        },
        open,
        newTab: (row) => void window.open(`/runs/${encodeURIComponent(row.run_id)}`, "_blank", "noopener"),
        mark: (row) => {
          const before = marked.current;
          marked.current = before.includes(row.run_id) ? before.filter((id) => id !== row.run_id) : [...before.slice(-1), row.run_id];
          setShown((last) => ({ ...last, marks: marked.current.length }));
          list.current?.refresh();
        },
        sort: (name) => {
          const now = new URLSearchParams(location.search);
          const isAgain = (now.get("sort") ?? "started") === name && now.get("order") !== "asc";
          setQuery({ sort: name === "started" ? null : name, order: isAgain ? "asc" : null });
        },
        released: () => rows.current?.news.size && load(false),
      },
      { label: "Runs", columns: COLUMNS, rowHeight: (width) => (width < 760 ? 76 : 32) },
    );
    list.current = made;
    /** @param {HTMLElement} time */
    const tellTime = (time) => {
      const ts = time.getAttribute("datetime");
      const text = ts === null ? "–" : settings.relative.value ? ago(ts, nowTick.peek(), { utc: settings.utc.value }) : absolute(ts, { utc: settings.utc.value });
      if (time.textContent !== text) time.textContent = text;
    };
    // Ages grow in place: no row is made anew for that.
    const stopTime = effect(() => {
      nowTick.value, settings.relative.value, settings.utc.value;
      for (const time of host.current?.querySelectorAll("time") ?? []) tellTime(/** @type {HTMLElement} */ (time));
    });
    const remember = () =>
      list.current && keep("runs", { ...list.current.position(), hadFocus: host.current?.contains(document.activeElement) });
    host.current.addEventListener("focusin", remember);
    host.current.addEventListener("scrollend", remember, true);
    return () => {
      stopTime();
      rows.current?.abort.abort();
      made.destroy();
    };
  }, []);

  const isFirst = useRef(true);
  useEffect(() => {
    const position = isFirst.current ? kept("runs") : null;
    load(!isFirst.current).then(() => {
      if (position) list.current?.restore(position);
      if (position?.hadFocus && position.active) list.current?.focusKey(position.active);
      performance.mark("scope:usable");
    });
    isFirst.current = false;
    const stop = live.runs({ ...wanted.filters, ...(wanted.window === "all" ? {} : { window: wanted.window }) }, {
      rows: (heard) => rows.current?.heard(heard),
      removed: (gone) => {
        const here = gone.filter((run_id) => rows.current?.places.has(run_id));
        if (!here.length || !rows.current) return;
        for (const run_id of here) rows.current.news.add(run_id);
        rows.current.on.news(rows.current.news.size);
      },
      resync: () => load(false),
    });
    return stop;
  }, [question]);

  useEffect(
    () =>
      keys("Runs", {
        "/": { does: "filter", run: () => field.current?.focus() },
        ".": { does: "show what is new", run: apply },
        j: { does: "next run", run: () => list.current?.move(1) },
        k: { does: "run before", run: () => list.current?.move(-1) },
        x: { does: "mark the run for Compare", run: () => announce("Move to a run first.") },
        c: {
          does: "compare the two marked runs",
          run: () => {
            const [base, head] = marked.current;
            if (head) navigate(href("/compare", { base, head }));
            else announce("Mark two runs with x first.");
          },
        },
      }),
    [question],
  );

  const typing = useRef(/** @type {number | undefined} */ (undefined));
  /** `node_id:bench nightly` is a filter by node and a part of the run_id. @param {string} text */
  const filterBy = (text) => {
    /** @type {Record<string, string | null>} */
    const patch = { q: null, agent_id: null, node_id: null, parent: null };
    const rest = [];
    for (const word of text.split(/\s+/).filter(Boolean)) {
      const found = /^(\w+):(.+)$/.exec(word);
      if (found && FILTERS.includes(found[1])) patch[found[1]] = found[2];
      else rest.push(word);
    }
    patch.q = rest.join(" ") || patch.q;
    setQuery(patch, { replace: true });
  };
  const filterText = ["agent_id", "node_id", "parent"].flatMap((name) => (query.get(name) ? [`${name}:${query.get(name)}`] : [])).concat(query.get("q") ?? []).join(" ");
  const isFiltered = Object.keys(wanted.filters).length > 0 || wanted.window !== "all";
  const unfilter = Object.fromEntries([...FILTERS, "window"].map((name) => [name, null]));
  const said = Object.entries(wanted.filters).map(([name, value]) => `${name}:${value}`).join(" ");

  return html`<div class="rn">
    <div class="rn-head">
      <h1>Runs</h1>
      <span class="muted" role="status">${shown.total === null ? "" : `${count(shown.total)}${wanted.window === "all" ? "" : ` in ${wanted.window}`}`}</span>
      <form class="rn-filters" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
        <input
          ref=${field}
          class="field rn-q"
          type="search"
          aria-label="Filter runs"
          placeholder="Filter ( / ): run_id, node_id:… agent_id:…"
          value=${filterText}
          onInput=${(/** @type {any} */ event) => (clearTimeout(typing.current), (typing.current = window.setTimeout(() => filterBy(event.target.value), 250)))}
          onKeyDown=${(/** @type {any} */ event) => {
            if (event.key !== "Escape") return;
            if (event.target.value) (event.target.value = ""), filterBy("");
            else event.target.blur();
          }}
        />
        ${Object.entries(CHOICES).map(
          ([name, values]) => html`<select class="field" aria-label=${name} value=${query.get(name) ?? ""} onChange=${(/** @type {any} */ event) => setQuery({ [name]: event.target.value })}>
            <option value="">any ${name}</option>
            ${values.map((value) => html`<option value=${value}>${name === "outcome" ? describe(value in { converged: 1, escaped: 1, aborted: 1 } ? "agent" : "run", value).word : value}</option>`)}
          </select>`,
        )}
      </form>
      ${shown.marks > 0 && html`<button class="btn" disabled=${shown.marks < 2} onClick=${() => navigate(href("/compare", { base: marked.current[0], head: marked.current[1] }))}>Compare ${shown.marks} of 2 (c)</button>`}
      <span class="rn-news">${shown.news > 0 && html`<button class="pill" onClick=${apply}>${plural(shown.news, "change")} above or gone: show (.)</button>`}</span>
    </div>
    ${shown.error && (shown.total === null || !(shown.error instanceof ApiProblem)) && html`<${Problem} error=${shown.error} what="the runs" retry=${apply} />`}
    ${shown.error && shown.total !== null && html`<div class="banner bad" role="alert"><span>Some rows could not be loaded: ${visible(shown.error.message)}</span><button class="btn" onClick=${apply}>Retry</button></div>`}
    ${shown.total === 0 &&
    (isFiltered
      ? html`<section class="empty">
          <p>No runs match ${said || "this"}${wanted.window === "all" ? "" : ` in ${wanted.window}`}.</p>
          <p class="seg"><button class="btn" onClick=${() => setQuery({ ...unfilter, window: query.get("window") })}>Clear filter</button>
          <button class="btn" onClick=${() => setQuery(unfilter)}>Search all time</button></p>
        </section>`
      : html`<section class="empty">
          <h2>No runs yet</h2>
          <p>They appear here by themselves, as soon as something writes to the archive that kahn watches, or sends runs to it:</p>
          <pre>kahn push .kahn/archive --to ${location.origin}</pre>
          <p>To see what a run looks like, stop kahn and start <code>kahn demo</code>.</p>
        </section>`)}
    <div class="rn-list" ref=${host} hidden=${shown.total === null || shown.total === 0}></div>
  </div>`;
}
