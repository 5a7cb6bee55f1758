/**
 * @file The run of one agent: what to look at, its steps in the order of the log, one step in detail, and all of it as
 * it stood at an earlier event. State and findings of a moment are the server's; only the rows are made here.
 */

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/ui-runtime.js";
import { CopyButton, Glyph, Problem, Time, announce, chip, href, keys, nowTick, setQuery, setTitle, settings } from "./app.js";
import { api, live, text } from "./net.js";
import { clock, count, describe, duration, parse, percent, plural, runState, score, visible } from "./fmt.js";
import { Bar, Evidence, OUTCOME_MEANING, Rows, markUsable, query, usageWords, useAnswer, useWidth } from "./fleet.js";
import { buildSteps, flat, leafAt, leavesOf } from "./steps.js";

const EVENTS_A_PAGE = 5000;
/** State and findings are asked for again at most this often. */
const REFRESH_MS = 1000;
const STARTED_MS = 10_000;
/** A moment is asked for when the scrubber rests for so long. */
const MOMENT_MS = 120;
/** Waiting for an answer is worth a banner after this. */
const WAITING_MS = 60_000;
const TICK_MS = 100;
/** Texts longer than this are folded. */
const FOLDED_LINES = 40;

/** @typedef {import("./steps.js").Row} Row */

/** Words and shapes of what an agent is at; neutral, since only results have tones. */
const KINDS = /** @type {Record<string, {word: string, path: string}>} */ ({
  started: { word: "Started", path: "M4 2.5v11l9-5.5z" },
  thinking: { word: "Thinking", path: "M3.2 6.4a1.6 1.6 0 1 0 0 3.2a1.6 1.6 0 1 0 0-3.2zM8 6.4a1.6 1.6 0 1 0 0 3.2a1.6 1.6 0 1 0 0-3.2zM12.8 6.4a1.6 1.6 0 1 0 0 3.2a1.6 1.6 0 1 0 0-3.2z" },
  tool_call: { word: "Tool call", path: "M8 1.5l5.6 3.25v6.5L8 14.5l-5.6-3.25v-6.5zM8 5.6a2.4 2.4 0 1 0 0 4.8a2.4 2.4 0 1 0 0-4.8z" },
  tool_result: { word: "Tool result", path: "M7 3L2 8l5 5v-3.5h7v-3H7z" },
  response: { word: "Response", path: "M2 3h12v8H8l-4 3v-3H2z" },
  reflect: { word: "Reflect", path: "M8 2.5a5.5 5.5 0 1 0 5.5 5.5h-2a3.5 3.5 0 1 1-3.5-3.5V7l4-3.5L8 0z" },
  "blocked-on-clarification": { word: "Waiting for an answer", path: "M4.6 5.6a3.4 3.4 0 1 1 4.6 3.2V10.400H7.200V7.600a1.700 1.700 0 1 0-.9-2zM7.100 12h2.200v2.200H7.100z" },
});

// --- the log, live -------------------------------------------------------------------------------------------------

/**
 * The events of a run from the first to the last, and those to come.
 * @param {string} runId
 * @param {any} state
 */
function useLog(runId, state) {
  const [log, setLog] = useState({ events: /** @type {any[]} */ ([]), length: 0, isWhole: false, error: /** @type {any} */ (null), notice: "" });
  const [tries, setTries] = useState(0);
  const isEnded = state?.phase === "ended";
  useEffect(() => {
    const gone = new AbortController();
    const { signal } = gone;
    /** @type {any[]} */
    const events = [];
    let stop = () => {};
    let drawn = 0;
    /** @type {number|undefined} */
    let timer;
    const show = (/** @type {boolean} */ isWhole) => {
      timer = undefined;
      drawn = performance.now();
      if (!signal.aborted) setLog({ events, length: events.length, isWhole, error: null, notice: "" });
    };
    const fail = (/** @type {any} */ error) => {
      if (!signal.aborted) setLog((was) => ({ ...was, error }));
    };
    const read = async (/** @type {number} */ upTo) => {
      for (let more = true; more && events.length < upTo;) {
        const { body, headers } = await text(`/api/runs/${encodeURIComponent(runId)}/events?${query({ from_seq: events.length, limit: EVENTS_A_PAGE })}`, { signal });
        const lines = body.split("\n").filter(Boolean);
        events.push(...lines.map(readLine));
        more = lines.length > 0 && (headers.get("Link") ?? "").includes('rel="next"');
        if (more) show(false);
      }
    };
    const again = (/** @type {string} */ notice) => {
      if (signal.aborted) return;
      announce(notice);
      setTries((was) => was + 1);
    };
    const follow = () => {
      let queue = Promise.resolve();
      stop = live.run(runId, events.length, state?.log_id ?? null, {
        events: (/** @type {any[]} */ list) => {
          queue = queue.then(async () => {
            for (const { seq, line } of list) {
              if (seq === events.length && line !== null) events.push(readLine(line));
              // A gap, or a line too long for a frame.
              else if (seq >= events.length) await read(seq + 1);
            }
            timer ??= setTimeout(() => show(true), Math.max(0, drawn + 250 - performance.now()));
          }).catch(fail);
        },
        resync: () => {},
        reset: () => again("The log of this run was replaced"),
        // A run also leaves a list that it no longer fits; only the server knows whether it is gone.
        removed: () => api(`/api/runs/${encodeURIComponent(runId)}`, { signal }).catch((error) => {
          if (signal.aborted || error.status !== 404) return;
          stop();
          setLog((was) => ({ ...was, notice: "This run was removed from the server. What is shown here is what was known of it." }));
        }),
      });
    };
    setLog({ events: [], length: 0, isWhole: false, error: null, notice: "" });
    read(Infinity).then(() => {
      if (signal.aborted) return;
      show(true);
      if (!isEnded) follow();
    }).catch(fail);
    return () => {
      gone.abort();
      clearTimeout(timer);
      stop();
    };
  }, [runId, tries]);
  return { ...log, retry: () => setTries((was) => was + 1) };
}

/** @param {string} line */
function readLine(line) {
  try {
    return JSON.parse(line);
  } catch {
    return { ts: "", event: "unreadable" };
  }
}

/**
 * State and findings as they are, or as they were at `at`.
 * @param {string} runId
 * @param {{state: any, diagnostics: any}} first  what is known already
 * @param {number|null} at
 * @param {number} length  how many events are read: more of them ask for a new state
 * @param {boolean} isWhole
 */
function useMoment(runId, first, at, length, isWhole) {
  const [moment, setMoment] = useState({ at: /** @type {number|null} */ (null), ...first, error: /** @type {any} */ (null) });
  const [tries, setTries] = useState(0);
  const soon = useRef(() => {});
  useEffect(() => {
    const gone = new AbortController();
    let asked = -Infinity;
    let busy = false;
    let again = false;
    /** @type {number|undefined} */
    let timer;
    const ask = async () => {
      timer = undefined;
      busy = true;
      asked = performance.now();
      const of = `/api/runs/${encodeURIComponent(runId)}`;
      const when = at === null ? "" : `?${query({ at_seq: at })}`;
      try {
        const [state, diagnostics] = await Promise.all([`${of}${when}`, `${of}/diagnostics${when}`].map((path) => api(path, { signal: gone.signal })));
        if (!gone.signal.aborted) setMoment({ at, state, diagnostics, error: null });
      } catch (error) {
        if (!gone.signal.aborted) setMoment((was) => ({ ...was, error }));
      }
      busy = false;
      if (again) soon.current();
    };
    // With an answer under way, more events only make the next one due.
    soon.current = () => {
      again = busy;
      if (busy || timer !== undefined || gone.signal.aborted) return;
      timer = setTimeout(ask, Math.max(0, asked + REFRESH_MS - performance.now()));
    };
    const isKnown = at === null && tries === 0 && moment.at === null && moment.diagnostics !== null && moment.state.phase === "ended";
    if (!isKnown) timer = setTimeout(ask, at === null ? 0 : MOMENT_MS);
    return () => {
      gone.abort();
      clearTimeout(timer);
    };
  }, [runId, at, tries]);
  const isFirst = useRef(true);
  useEffect(() => {
    // The log that is there from the start changes nothing in the answer that is asked for at the start.
    if (at === null && isWhole && !isFirst.current) soon.current();
    if (isWhole) isFirst.current = false;
  }, [length, isWhole]);
  // A later moment would show what had not happened yet.
  const isLeak = at !== null && (moment.at === null || moment.at > at);
  return { state: isLeak ? null : moment.state, diagnostics: isLeak ? null : moment.diagnostics, error: moment.error, retry: () => setTries((was) => was + 1) };
}

// --- the page ------------------------------------------------------------------------------------------------------

/** @param {{route: any, state: any, diagnostics?: any}} props  what is known of the run already */
export function Page({ route, state: first, diagnostics: found = null }) {
  const runId = first.run_id;
  const log = useLog(runId, first);
  const atText = route.query.get("at");
  const asked = atText !== null && /^\d+$/.test(atText) ? Number(atText) : null;
  const at = asked === null || !log.isWhole ? asked : Math.min(asked, log.length - 1);
  const moment = useMoment(runId, { state: first, diagnostics: found }, at, log.length, log.isWhole);
  const { state, diagnostics } = moment;
  const whole = useMemo(() => buildSteps(log.events, log.length), [log.events, log.length]);
  const shown = useMemo(() => (at === null ? whole : buildSteps(log.events, Math.min(at + 1, log.length), whole.times)), [whole, at]);
  const [unfolded, setUnfolded] = useState(/** @type {Set<string>} */ (new Set()));
  const items = useMemo(() => flat(shown.rows, unfolded), [shown, unfolded]);
  const isEnded = (state ?? first).ended !== null;
  // Of a run that fell silent nobody knows whether its clock still runs.
  const isTicking = at === null && (state ?? first).phase === "live" && live.state.value.kind === "live";
  const end = whole.times.at(-1) ?? 0;
  const now = isTicking ? Math.max(end, nowTick.value) : shown.times.at(-1) ?? end;
  const axisEnd = Math.max(end, isTicking ? now : 0);

  const [pick, setPick] = usePick(route);
  const [isOpen, setOpen] = useState(pick !== null);
  const [hidden, setHidden] = useState({ rail: false, detail: false });
  const selected = findRow(shown.rows, pick);
  const list = useRef(/** @type {any} */ (null));
  const choose = (/** @type {Row} */ row, /** @type {boolean} */ isOpened) => {
    setPick(row.pick, isOpened);
    if (isOpened) setOpen(true);
  };
  const close = () => {
    setOpen(false);
    setPick(null, true);
    if (selected !== null) list.current?.focus(selected.key);
  };
  const chooseSeq = (/** @type {number} */ seq) => {
    const row = leafAt(leavesOf(shown.rows), seq);
    if (row === null) return;
    if (row.parent !== null) setUnfolded(new Set([...unfolded, row.parent.key]));
    setPick(row.pick, true);
    setTimeout(() => list.current?.focus(row.key));
  };
  const toggle = (/** @type {Row} */ row, /** @type {boolean} */ isOpen) => {
    const next = new Set(unfolded);
    if (isOpen) next.add(row.key);
    else next.delete(row.key);
    setUnfolded(next);
  };
  // A row inside of a fold can only be shown unfolded.
  useEffect(() => {
    if (selected?.parent && !unfolded.has(selected.parent.key)) toggle(selected.parent, true);
  }, [selected?.key]);
  useEffect(() => {
    if (log.isWhole) markUsable();
    if (selected !== null && log.isWhole) list.current?.reveal(selected.key);
  }, [log.isWhole]);

  const rowOf = useRef(/** @type {Row|null} */ (null));
  /** Opens the fold that the reader is at, or closes the one that the row belongs to. @param {boolean} isOpening */
  const foldActive = (isOpening) => {
    const row = rowOf.current;
    const group = row?.kind === "group" ? row : isOpening ? null : row?.parent ?? null;
    if (group === null || unfolded.has(group.key) === isOpening) return;
    toggle(group, isOpening);
    if (row !== group) setTimeout(() => list.current?.focus(group.key));
  };

  const replay = useReplay(whole, at, log.length);
  useEffect(() => keys("Agent run", {
    ",": { does: "step back by one event", run: () => replay.step(-1) },
    ".": { does: "step forward by one event", run: () => replay.step(1) },
    " ": { does: "play or pause", run: () => replay.play(replay.playing === null ? 10 : null) },
    End: { does: "back to now", run: () => replay.seek(null) },
    l: { does: "unfold repeated calls", run: () => foldActive(true) },
    h: { does: "fold repeated calls", run: () => foldActive(false) },
    "[": { does: "hide or show what to look at", run: () => setHidden({ ...hidden, rail: !hidden.rail }) },
    "]": { does: "hide or show the step", run: () => setHidden({ ...hidden, detail: !hidden.detail }) },
    n: { does: "next failure", run: () => failure(1) },
    N: { does: "previous failure", run: () => failure(-1) },
    Escape: { does: "close the step", run: () => { if (pick !== null) close(); } },
  }), [whole, shown, at, replay.playing, pick, unfolded, hidden]);
  const failure = (/** @type {number} */ direction) => {
    const seq = selected?.seq ?? (direction > 0 ? -1 : Infinity);
    const next = direction > 0 ? shown.failures.find((one) => one > seq) : shown.failures.findLast((one) => one < seq);
    if (next !== undefined) chooseSeq(next);
  };
  useEffect(() => {
    const run = state ?? first;
    const { word, ...status } = runState(run);
    setTitle(`${word} · ${run.run_id}`, status);
  }, [state]);
  const { utc } = settings;
  useEffect(() => {
    if (at !== null) chip.value = { kind: "replay", text: `Replay ${clock(shown.times.at(-1) ?? 0, { utc: utc.value })}` };
    else if (isEnded) chip.value = { kind: "finished", text: "Finished" };
    else chip.value = null;
    return () => { chip.value = null; };
  }, [at, shown, isEnded, utc.value]);

  const columns = useMemo(() => stepColumns({ start: whole.start, end: axisEnd, now, unfolded, toggle }),
    [whole.start, axisEnd, now, unfolded]);
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (event.key !== "ArrowRight" && event.key !== "ArrowLeft")) return;
    event.preventDefault();
    foldActive(event.key === "ArrowRight");
  };

  const error = log.error ?? moment.error;
  return html`<div class="ar-page">
    <${Header} run=${state ?? { ...first, agent: null }} isReplay=${at !== null} isKnown=${state !== null} now=${now} isTicking=${isTicking} />
    ${log.notice === "" ? null : html`<p class="banner warn">${log.notice}</p>`}
    ${error === null ? null : html`<${Problem} what="this run" error=${error} retry=${() => { log.retry(); moment.retry(); }} />`}
    <${Banners} run=${state} diagnostics=${diagnostics} rows=${shown.rows} now=${now} choose=${chooseSeq} />
    <div class=${`ar-body${hidden.rail ? " is-bare-left" : ""}${hidden.detail ? " is-bare-right" : ""}`}>
      <aside class="ar-rail" aria-label="What to look at">
        <div class="ar-first"><${Verdict} diagnostics=${diagnostics} outcome=${state?.outcome ?? null} choose=${chooseSeq} /></div>
        ${state === null ? null : html`<div class="ar-rest">
          <${TimeByStatus} seconds=${state.agent?.seconds_by_status ?? {}} />
          <${Tools} tools=${state.agent?.tools ?? []} />
          <${Audits} audits=${state.agent?.audits ?? []} choose=${chooseSeq} />
          <${Started} runId=${runId} isEnded=${isEnded} /></div>`}
      </aside>
      <section class="ar-steps" aria-label="Steps" onKeyDown=${onKeyDown}>
        ${items.length === 0 ? html`<p class="empty">${log.isWhole ? "Waiting for the first event." : "Reading the log …"}</p>`
          : html`<${Rows} name="ar-rows" role="treegrid" label="Steps of the run" items=${items} keyOf=${rowKey} columns=${columns}
              rowHeight=${stepHeight} holds=${false} selected=${selected?.key ?? null} decorate=${(/** @type {HTMLElement} */ element, /** @type {Row} */ row) => decorate(element, row, unfolded)}
              active=${(/** @type {Row} */ row) => { rowOf.current = row; choose(row, false); }}
              open=${(/** @type {Row} */ row) => { choose(row, true); if (row.kind === "group") toggle(row, !unfolded.has(row.key)); }}
              href=${(/** @type {Row} */ row) => href(`/runs/${encodeURIComponent(runId)}`, { step: row.pick, at })}
              grip=${(/** @type {any} */ grip) => { list.current = grip; }} />`}
        <${ScrubPane} steps=${whole} length=${log.length} at=${at} replay=${replay} />
      </section>
      <${Detail} row=${selected} seek=${replay.seek} now=${now} isOpen=${isOpen} close=${close} />
    </div>
  </div>`;
}

const rowKey = (/** @type {Row} */ row) => row.key;
const stepHeight = (/** @type {number} */ width) => (width < 760 ? 48 : 32);

/** The step in the address, and here at once. @param {any} route @returns {[string|null, (pick: string|null, isOpened: boolean) => void]} */
function usePick(route) {
  const told = route.query.get("step");
  const [pick, setPick] = useState(told);
  const timer = useRef(/** @type {number|undefined} */ (undefined));
  useEffect(() => setPick(told), [told]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return [pick, (next, isOpened) => {
    setPick(next);
    clearTimeout(timer.current);
    if (isOpened) setQuery({ step: next }, { replace: false });
    else timer.current = setTimeout(() => setQuery({ step: next }, { replace: true }), 250);
  }];
}

/** @param {Row[]} rows @param {string|null} pick @returns {Row|null} */
function findRow(rows, pick) {
  if (pick === null) return null;
  return rows.flatMap((row) => [row, ...row.children]).find((row) => row.pick === pick) ?? null;
}

// --- header --------------------------------------------------------------------------------------------------------

function Header({ run, isReplay, isKnown, now, isTicking }) {
  const { set, value, word } = runState(run);
  const status = run.agent?.status ?? null;
  const elapsed = isTicking && run.started !== null ? Math.max(0, now - parse(run.started)) / 1000 : run.duration_s;
  return html`<header class=${isKnown ? "ar-head" : "ar-head ar-unknown"}>
    <div class="ar-line">
      <nav class="ar-crumbs" aria-label="Breadcrumb"><a href=${href("/agents", {})}>Agents</a> / <a class="mono"
        href=${href(`/agents/${encodeURIComponent(run.agent_id)}`, {})}>${run.agent_id}</a> /</nav>
      <h1 class="mono">${run.run_id}</h1>
      <span class="chip" title=${OUTCOME_MEANING[value] ?? ""}><${Glyph} set=${set} value=${value} /> ${word}</span>
      ${run.ended === null && status !== null ? html`<span class="chip"><${Kind} kind=${status} /> ${kindWord(status)}</span>` : null}
      <span class="ar-figures">
        ${isReplay ? "after" : run.ended === null ? "for" : "took"} <b class="num">${duration(elapsed)}</b>
        ${" · "}score <b class="num">${score(run.convergence_score)}</b>
        ${" · "}<b class="num">${run.steps === null ? "–" : count(run.steps)}</b> ${run.steps === 1 ? "step" : "steps"}
        ${run.tool_calls === null ? null : html` · <b class="num">${count(run.tool_calls.total)}</b> tool ${run.tool_calls.total === 1 ? "call" : "calls"}${
          run.tool_calls.failed > 0 ? html`, <b class="num">${count(run.tool_calls.failed)}</b> failed` : null}`}
        ${run.model === null ? null : html` · model <span class="mono">${visible(run.model)}</span>`}
        ${run.usage === null ? null : html` · ${usageWords(run.usage)}`}
      </span>
      <span class="ar-actions"><a class="btn" href=${href("/compare", { head: run.run_id })}>Compare</a>
        <${CopyButton} text=${location.href} label="Copy link" /></span>
    </div>
    ${run.task === null ? null : html`<p class="ar-task">${visible(run.task)}</p>`}
    <p class="ar-sub muted">${run.started === null ? null : html`started <${Time} ts=${run.started} as="relative" />`}
      ${run.outcome === "escaped" || run.outcome === "aborted" ? html` · ${OUTCOME_MEANING[run.outcome]}` : null}
      ${run.parent === null ? null : html` · started by <${ParentLink} parent=${run.parent} />`}</p>
  </header>`;
}

function ParentLink({ parent }) {
  const members = parent.node_id ? { node: parent.node_id, attempt: parent.attempt } : { step: parent.step };
  const words = [parent.node_id ?? null, parent.attempt == null ? null : `attempt ${parent.attempt}`,
    parent.step == null ? null : `step ${parent.step}`].filter(Boolean).join(", ");
  return html`<a class="mono" href=${href(`/runs/${encodeURIComponent(parent.run_id)}`, members)}>${parent.run_id}${words === "" ? "" : ` (${words})`}</a>`;
}

/** What needs an answer or has fallen silent. */
function Banners({ run, diagnostics, rows, now, choose }) {
  if (run === null || run.ended !== null) return null;
  const last = rows.at(-1);
  const waits = last?.kind === "blocked-on-clarification" && now - last.from > WAITING_MS ? last : null;
  const stalled = diagnostics?.findings.find((/** @type {any} */ finding) => finding.kind === "stalled");
  return html`${waits === null ? null : html`<div class="banner warn ar-banner"><span><b>Waiting for an answer for ${duration((now - waits.from) / 1000)}.</b> ${waits.reason === null ? "" : visible(waits.reason)}</span>
      <button class="btn" onClick=${() => choose(waits.seq)}>Show the step</button></div>`}
    ${stalled === undefined ? null : html`<div class="banner warn ar-banner" role="alert"><span>${visible(stalled.message)}</span>
      ${last === undefined ? null : html`<button class="btn" onClick=${() => choose(last.seq)}>Show the last step</button>`}</div>`}`;
}

// --- the rail ------------------------------------------------------------------------------------------------------

const SEVERITY = /** @type {Record<string, [string, string]>} */ ({ error: ["audit", "fail"], warning: ["audit", "warn"] });

function Verdict({ diagnostics, outcome, choose }) {
  if (diagnostics === null) return html`<h2>What to look at</h2><div class="skeleton ar-wait"></div>`;
  // What fell silent stands in the banner.
  const findings = diagnostics.findings.filter((/** @type {any} */ finding) => finding.kind !== "stalled");
  const isBad = outcome === "escaped" || findings.some((/** @type {any} */ finding) => finding.severity === "error");
  const isDoubtful = diagnostics.findings.length > 0 || outcome === "aborted" || outcome === "partial";
  return html`<h2>What to look at</h2>
    <p class=${`ar-verdict ${isBad ? "bad" : isDoubtful ? "warn" : outcome === "converged" ? "good" : ""}`}>${visible(diagnostics.verdict)}</p>
    <ul class="ar-findings">${findings.map((/** @type {any} */ finding, /** @type {number} */ at) => html`<li key=${at}>
      ${finding.severity in SEVERITY ? html`<${Glyph} set=${SEVERITY[finding.severity][0]} value=${SEVERITY[finding.severity][1]} />` : html`<span class="ar-info" aria-hidden="true">i</span>`}
      <span><span class="visually-hidden">${finding.severity}: </span>${visible(finding.message)}
        ${finding.seq === null ? null : html` <button class="ar-link" onClick=${() => choose(finding.seq)}>show event ${finding.seq}</button>`}</span></li>`)}</ul>`;
}

/** How the time was spent: the server's seconds by status, as one bar and in words. */
function TimeByStatus({ seconds }) {
  const [host, width] = useWidth();
  const known = Object.keys(KINDS).filter((kind) => seconds[kind] > 0);
  const spent = [...known, ...Object.keys(seconds).filter((kind) => seconds[kind] > 0 && !(kind in KINDS))];
  const total = spent.reduce((sum, kind) => sum + seconds[kind], 0);
  const words = (/** @type {string} */ kind) => `${kindWord(kind)} ${duration(seconds[kind])}, ${percent(seconds[kind] / total)}`;
  return html`<div ref=${host}>${total === 0 ? null : html`<h2>Time by status</h2>
    <${Bar} length=${Math.max(60, width - 14)} sentence=${spent.map(words).join("; ")}
      parts=${spent.map((kind) => ({ name: `kind-${kind}`, count: seconds[kind] }))} />
    <ul class="ar-times">${spent.map((kind) => html`<li key=${kind}><span class=${`fl-part fl-kind-${kind}`}></span> ${kindWord(kind)}
      <span class="num">${duration(seconds[kind])}</span><span class="num muted">${percent(seconds[kind] / total)}</span></li>`)}</ul>`}</div>`;
}

function Tools({ tools }) {
  if (tools.length === 0) return null;
  return html`<h2>Tools</h2><table class="ar-tools" aria-label="Tools"><thead><tr><th scope="col">Tool</th><th scope="col" class="num">Calls</th>
      <th scope="col" class="num">OK</th><th scope="col" class="num">p50</th><th scope="col" class="num">p95</th></tr></thead>
    ${tools.map((/** @type {any} */ tool) => html`<tbody key=${tool.tool_name}><tr><th scope="row" class="mono">${visible(tool.tool_name)}</th>
      <td class="num">${count(tool.calls)}</td>
      <td class="num">${tool.failed === 0 ? "all" : tool.failed === tool.calls ? html`<b>none</b>` : percent((tool.calls - tool.failed) / tool.calls)}</td>
      <td class="num">${duration(tool.p50_s)}</td><td class="num">${duration(tool.p95_s)}</td></tr>
      ${tool.last_error === null ? null : html`<tr><td colspan="5" class="ar-error mono">${visible(tool.last_error)}</td></tr>`}</tbody>`)}</table>`;
}

function Audits({ audits, choose }) {
  if (audits.length === 0) return null;
  return html`<h2>Audits</h2><ul class="ar-audits">${audits.map((/** @type {any} */ audit) => html`<li key=${audit.seq}>
    <details><summary><${Glyph} set="audit" value=${audit.result} /> ${describe("audit", audit.result).word}
      ${" "}<span class="mono">${visible(audit.checkpoint_id)}</span></summary>
      <${Evidence} evidence=${audit.evidence} bytes=${audit.evidence_bytes} />
      <p class="muted">took ${duration(audit.duration_s)} · <button class="ar-link" onClick=${() => choose(audit.seq)}>show event ${audit.seq}</button>
        ${" "}· <a href=${href("/audits", { c: audit.checkpoint_id })}>its history</a></p></details></li>`)}</ul>`;
}

/** The runs that this one started. */
function Started({ runId, isEnded }) {
  const { data } = useAnswer(`/api/runs?${query({ parent: runId, limit: 50 })}`, { filters: isEnded ? null : {}, every: STARTED_MS });
  if (data === null || data.items.length === 0) return null;
  return html`<h2>Started by this run</h2><ul class="ar-audits">${data.items.map((/** @type {any} */ run) => {
    const { set, value, word } = runState(run);
    return html`<li key=${run.run_id}><${Glyph} set=${set} value=${value} /> ${word} <a class="mono" href=${href(`/runs/${encodeURIComponent(run.run_id)}`, {})}>${run.run_id}</a></li>`;
  })}</ul>`;
}

// --- steps ---------------------------------------------------------------------------------------------------------

const kindWord = (/** @type {string} */ kind) => KINDS[kind]?.word ?? (kind === "converged" ? "Converged" : kind === "failed" ? "Failed" : kind);

/** The shape of what an agent is at. @param {{kind: string}} props */
function Kind({ kind }) {
  if (kind === "converged") return html`<${Glyph} set="agent" value="converged" />`;
  if (kind === "failed") return html`<${Glyph} set="node" value="failed" />`;
  return html`<svg class="glyph ar-kind" viewBox="0 0 16 16" aria-hidden="true"><path fill="currentColor" fill-rule="evenodd"
    d=${KINDS[kind]?.path ?? "M4 4h8v8H4z"} /></svg>`;
}

function RowGlyph({ row }) {
  if (row.kind === "end") return html`<${Glyph} set="agent" value=${row.outcome} />`;
  if (row.kind !== "tool" && row.kind !== "group") return html`<${Kind} kind=${row.kind} />`;
  return row.ok === row.calls ? html`<${Kind} kind="tool_call" />` : html`<${Glyph} set="audit" value="fail" />`;
}

/** @param {Row} row */
function rowWords(row) {
  if (row.kind === "end") return html`Ended: ${describe("agent", row.outcome).word}`;
  if (row.kind === "group") {
    return html`<b class="mono">${visible(row.tool.tool_name)}</b> ×${row.calls}, ${row.ok === 0 ? "0 ok" : `${row.ok} ok`}
      ${" "}<span class="muted">${visible(row.tool.input_summary ?? "")}</span>`;
  }
  if (row.kind === "tool") {
    return html`<b class="mono">${visible(row.tool.tool_name)}</b>${row.tool.ok ? "" : " failed"}
      ${" "}<span class="muted">${visible(row.tool.ok ? row.tool.input_summary ?? "" : row.tool.error ?? row.tool.input_summary ?? "")}</span>`;
  }
  return html`${kindWord(row.kind)}${row.reason === null ? null : html` <span class="muted">${visible(row.reason)}</span>`}`;
}

/**
 * @param {{start: number, end: number, now: number, unfolded: Set<string>,
 *   toggle: (row: Row, isOpen: boolean) => void}} of
 * @returns {import("./fleet.js").Column[]}
 */
function stepColumns({ start, end, now, unfolded, toggle }) {
  const axis = Math.max(1, end - start);
  return [
    { name: "time", label: "Time", className: "mono ar-time", cell: (row) => html`<span title=${new Date(row.from).toISOString()}>${offset(row.from - start)}</span>` },
    { name: "audit", label: "Audits", className: "ar-marks", cell: (row) => html`<${Marks} audits=${row.audits} />` },
    { name: "step", label: "Step", className: "ar-what", cell: (row) => html`
      ${row.kind === "group" ? html`<button class="ar-fold" tabindex="-1" aria-label=${unfolded.has(row.key) ? "Fold" : "Unfold"}
        onClick=${() => toggle(row, !unfolded.has(row.key))}>${unfolded.has(row.key) ? "▾" : "▸"}</button>` : html`<span class="ar-fold"></span>`}
      <${RowGlyph} row=${row} /> <span class="ar-words">${rowWords(row)}</span>` },
    { name: "took", label: "Took", className: "num ar-took", cell: (row) => (row.kind === "end" ? "" : duration(Math.max(0, (row.to ?? now) - row.from) / 1000)) },
    { name: "bar", label: "When", className: "ar-when", cell: (row) => {
      const tone = row.kind === "tool" || row.kind === "group" ? (row.ok === row.calls ? "ar-ok" : "ar-failed") : row.kind === "blocked-on-clarification" ? "ar-waiting" : "ar-neutral";
      const style = {
        insetInlineStart: `${((100 * (row.from - start)) / axis).toFixed(3)}%`,
        inlineSize: `${((100 * Math.max(0, (row.to ?? now) - row.from)) / axis).toFixed(3)}%`,
      };
      return html`<span class="ar-lane" aria-hidden="true"><span class=${`ar-bar ${tone}`} style=${style}></span></span>`;
    } },
  ];
}

function Marks({ audits }) {
  if (audits.length === 0) return null;
  const words = audits.map(({ event }) => `${describe("audit", event.result).word} ${event.checkpoint_id}`).join(", ");
  return html`<span role="img" aria-label=${words} title=${words}>${audits.slice(0, 3).map(({ seq, event }) => html`<${Glyph} key=${seq} set="audit" value=${event.result} />`)}</span>`;
}

/** 00:17, 1:02:03. @param {number} ms */
function offset(ms) {
  const all = Math.floor(Math.max(0, ms) / 1000);
  const [hours, minutes, seconds] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${two(minutes)}:${two(seconds)}`;
}

/** What the tree says of a row beside its words. @param {HTMLElement} element @param {Row} row @param {Set<string>} unfolded */
function decorate(element, row, unfolded) {
  element.setAttribute("aria-level", String(row.level));
  element.setAttribute("aria-posinset", String(row.set));
  element.setAttribute("aria-setsize", String(row.of));
  if (row.kind === "group") element.setAttribute("aria-expanded", String(unfolded.has(row.key)));
  else element.removeAttribute("aria-expanded");
  element.classList.toggle("ar-child", row.level > 1);
}

// --- one step ------------------------------------------------------------------------------------------------------

function Detail({ row, seek, now, isOpen, close }) {
  const heading = useRef(/** @type {HTMLElement|null} */ (null));
  // Where it lies over the steps, reading goes on in it.
  useEffect(() => {
    if (isOpen && matchMedia("(max-width: 1279px)").matches && document.activeElement !== document.body) heading.current?.focus();
  }, [isOpen]);
  if (row === null) return html`<aside class="ar-detail ar-none" aria-label="Step"><p class="muted">Choose a step to see what went in and what came out.</p></aside>`;
  const { tool } = row;
  const group = row.kind === "group" ? row : row.parent;
  return html`<aside class=${isOpen ? "ar-detail is-open" : "ar-detail"} aria-label="Step">
    <header><h2 tabindex="-1" ref=${heading}><${RowGlyph} row=${row} /> ${tool === null ? row.kind === "end" ? "Ended" : kindWord(row.kind) : html`<span class="mono">${visible(tool.tool_name)}</span>`}</h2>
      <button class="btn" onClick=${close} title="Close (Esc)">Close</button></header>
    <dl class="au-facts">
      ${row.kind === "group" ? null : tool === null ? null : html`<div><dt>Result</dt><dd>${tool.ok ? "ok" : "failed"}</dd></div>`}
      ${row.kind === "end" ? html`<div><dt>Outcome</dt><dd>${OUTCOME_MEANING[row.outcome ?? ""] ?? row.outcome}</dd></div>`
        : html`<div><dt>Took</dt><dd>${duration(Math.max(0, (row.to ?? now) - row.from) / 1000)}${row.to === null ? ", under way" : ""}</dd></div>`}
      ${row.step === null ? null : html`<div><dt>Step</dt><dd>${row.step}</dd></div>`}
      <div><dt>Events</dt><dd>${row.seq}${row.last === row.seq ? "" : ` to ${row.last}`}
        ${" "}<button class="ar-link" onClick=${() => seek(row.seq)}>see the run at this moment</button></dd></div>
      <div><dt>When</dt><dd><${Time} ts=${new Date(row.from).toISOString()} as="absolute" /></dd></div>
      ${row.reason === null ? null : html`<div><dt>Reason</dt><dd class="mono">${visible(row.reason)}</dd></div>`}
      ${row.usage === null || usageWords(row.usage) === "" ? null : html`<div><dt>Usage</dt><dd>${usageWords(row.usage)}</dd></div>`}
      ${group === null ? null : html`<div><dt>Repeats</dt><dd>${plural(group.calls, "identical call")}, ${group.ok} ok</dd></div>`}
    </dl>
    ${tool === null ? null : html`
      <${Said} title="Input" words=${tool.input_summary} />
      ${row.kind === "group" ? html`<${Errors} group=${row} />` : html`<${Said} title="Error" words=${tool.error} isBad=${true} />
        <${Said} title="Output" words=${tool.output_summary} />`}`}
    ${row.audits.length === 0 ? null : html`<h3>Audits then</h3>${row.audits.map((/** @type {any} */ { seq, event }) => html`<div key=${seq}>
      <p><${Glyph} set="audit" value=${event.result} /> ${describe("audit", event.result).word} <span class="mono">${visible(event.checkpoint_id)}</span></p>
      <${Evidence} evidence=${event.evidence} /></div>`)}`}
  </aside>`;
}

/** What the calls of a fold ended with: the same words once. */
function Errors({ group }) {
  /** @type {Map<string, number>} */
  const errors = new Map();
  for (const { tool } of group.children) {
    if (tool !== null && !tool.ok) errors.set(tool.error ?? "no error given", (errors.get(tool.error ?? "no error given") ?? 0) + 1);
  }
  return html`${[...errors].map(([words, times]) => html`<${Said} key=${words} title=${`Error, ${plural(times, "time")}`} words=${words} isBad=${true} />`)}`;
}

/** A text of the agent's, opened at its end, folded when it is long. */
function Said({ title, words, isBad = false }) {
  const box = useRef(/** @type {HTMLElement|null} */ (null));
  const [isWhole, setWhole] = useState(false);
  useLayoutEffect(() => {
    if (box.current !== null) box.current.scrollTop = box.current.scrollHeight;
  }, [words]);
  if (words === undefined || words === null || words === "") return null;
  const lines = visible(String(words)).split("\n");
  const isFolded = lines.length > FOLDED_LINES && !isWhole;
  return html`<h3>${title} <${CopyButton} text=${String(words)} /></h3>
    ${isFolded ? html`<button class="ar-link" onClick=${() => setWhole(true)}>show ${plural(lines.length - FOLDED_LINES, "earlier line")}</button>` : null}
    <pre class=${isBad ? "ar-said bad" : "ar-said"} tabindex="0" aria-label=${title} ref=${box}>${(isFolded ? lines.slice(-FOLDED_LINES) : lines).join("\n")}</pre>`;
}

// --- replay --------------------------------------------------------------------------------------------------------

/**
 * Moves the moment that is shown. Stepping is by event, playing by time.
 * @param {ReturnType<typeof buildSteps>} steps
 * @param {number|null} at
 * @param {number} length
 */
function useReplay(steps, at, length) {
  const [playing, setPlaying] = useState(/** @type {number|"skip"|null} */ (null));
  const seek = (/** @type {number|null} */ seq) => setQuery({ at: seq === null || seq >= length - 1 ? null : Math.max(0, seq) }, { replace: true });
  const now = useRef({ at, length, times: steps.times, seek });
  now.current = { at, length, times: steps.times, seek };
  useEffect(() => {
    if (playing === null) return undefined;
    const tick = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : TICK_MS;
    let moment = now.current.times[now.current.at ?? 0] ?? 0;
    let last = now.current.at;
    const timer = setInterval(() => {
      const { at: shown, times, length: all, seek: go } = now.current;
      // Whoever moved the scrubber meanwhile goes on from there.
      if (shown !== last) moment = times[shown ?? 0] ?? moment;
      const from = shown ?? 0;
      const next = times[from + 1];
      if (playing === "skip" && next !== undefined) moment = Math.max(moment + tick * 10, Math.min(next, moment + 3_600_000_000));
      else moment += tick * Number(playing === "skip" ? 1 : playing);
      let to = from;
      while (to + 1 < all && times[to + 1] <= moment) to += 1;
      last = to >= all - 1 ? null : to;
      if (to !== shown) go(to);
      if (last === null) setPlaying(null);
    }, tick);
    return () => clearInterval(timer);
  }, [playing]);
  return {
    playing,
    seek: (/** @type {number|null} */ seq) => { setPlaying(null); seek(seq); },
    step: (/** @type {number} */ direction) => { setPlaying(null); seek((at ?? length - 1) + direction); },
    play: (/** @type {number|"skip"|null} */ speed) => {
      if (speed !== null && at === null) seek(0);
      setPlaying(speed);
    },
  };
}

function ScrubPane({ steps, length, at, replay }) {
  const host = useRef(/** @type {HTMLElement|null} */ (null));
  const [Scrub, setScrub] = useState(/** @type {any} */ (null));
  const scrub = useRef(/** @type {any} */ (null));
  const on = useRef(replay);
  on.current = replay;
  useEffect(() => {
    import("./gantt.js").then((module) => setScrub(() => module.Scrub));
  }, []);
  useLayoutEffect(() => {
    if (Scrub === null || host.current === null) return undefined;
    scrub.current = new Scrub(host.current, {
      seek: (/** @type {number|null} */ seq) => on.current.seek(seq),
      step: (/** @type {number} */ direction) => on.current.step(direction),
      play: (/** @type {any} */ speed) => on.current.play(speed),
    });
    return () => scrub.current.destroy();
  }, [Scrub]);
  const utc = settings.utc.value;
  useLayoutEffect(() => {
    if (scrub.current === null || length === 0) return;
    const shown = at ?? length - 1;
    scrub.current.set({ times: Float64Array.from(steps.times), failures: steps.failures, max: length - 1, at, playing: replay.playing,
      label: clock(new Date(steps.times[shown] ?? 0).toISOString(), { utc, ms: false }) });
  }, [Scrub, steps, length, at, replay.playing, utc]);
  return html`<div class="ar-scrub" ref=${host}></div>`;
}
