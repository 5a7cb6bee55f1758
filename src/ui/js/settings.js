/**
 * @file Settings: who asks, the tenant's keys, its plan and use, who did what, and what this server is. What there is
 * to show, the server says: whoever belongs to no tenant has nothing of one.
 */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { CopyButton, Problem, Time, announce, setTitle, styled } from "./app.js";
import { bytes, count, duration, plural, visible } from "./fmt.js";
import { Skeleton, useAnswer } from "./fleet.js";
import { api, config, send, serverNow } from "./net.js";

await styled("settings");

/** Longest label that the server takes, in characters. */
const LONGEST_LABEL = 64;
/** Days of use, and lines of activity, that are shown at first. */
const SHOWN_DAYS = 14;
const SHOWN_LINES = 50;

/** A name that others chose: as text, in its own direction. @param {{text: string | null}} props */
const Name = ({ text }) => html`<bdi>${visible(text ?? "–")}</bdi>`;

export function Page() {
  const me = useAnswer("/api/me");
  useEffect(() => setTitle("Settings"), []);
  const who = me.data;
  return html`<div class="se-page">
    <h1>Settings</h1>
    ${me.error && html`<${Problem} what="who you are" error=${me.error} retry=${me.retry} />`}
    ${who === null ? me.error === null && html`<${Skeleton} rows=${3} />`
      : html`<${You} who=${who} />${who.tenant === null ? html`<${NoTenants} />` : html`<${Tenant} who=${who} />`}`}
    <${Server} />
  </div>`;
}

const KINDS = /** @type {Record<string, string>} */ ({
  localhost: "the one person that this server serves",
  user: "a person, signed in",
  client: "a program, by its token",
  api_key: "an API key",
});

/** @param {{who: any}} props */
function You({ who }) {
  return html`<section aria-labelledby="se-you">
    <h2 id="se-you">You</h2>
    <dl class="se-facts">
      <div><dt>Name</dt><dd><${Name} text=${who.user} /></dd></div>
      <div><dt>You are</dt><dd>${KINDS[who.kind] ?? visible(who.kind)}</dd></div>
      ${who.tenant !== null && html`<div><dt>Tenant</dt><dd><${Name} text=${who.tenant} /></dd></div>`}
      <div><dt>Scopes</dt><dd>${who.scopes.length ? who.scopes.join(", ") : "none"}</dd></div>
    </dl>
  </section>`;
}

const NoTenants = () => html`<section class="card" id="se-one">
  <p>This build serves one person on one machine, so nobody signs in and there are no keys. The cloud build adds tenants, sign-in, API keys, plans and a log of who did what.</p>
</section>`;

/** @param {{who: any}} props */
function Tenant({ who }) {
  const isAdmin = who.scopes.includes("admin");
  const keys = useAnswer(isAdmin ? "/api/keys" : null);
  // Each change shows in the activity too.
  const [changes, setChanges] = useState(0);
  const changed = () => {
    keys.retry();
    setChanges((was) => was + 1);
  };
  if (!isAdmin) {
    return html`<section class="card" id="se-admin">
      <p>Keys, plan and activity of <${Name} text=${who.tenant} /> are shown to those who have the scope admin.</p>
    </section>`;
  }
  if (keys.error?.code === "only_in_cloud") return html`<${NoTenants} />`;
  return html`
    <${Keys} keys=${keys} changed=${changed} />
    <${Plan} />
    <${Activity} changes=${changes} />`;
}

// --- keys ----------------------------------------------------------------------------------------------------------

/** @typedef {{key_id: string, label: string, scope: string, prefix: string, created: string, expires: string | null, revoked: string | null, last_used: string | null}} Key */

/** @param {{keys: {data: any, error: any, retry: () => void}, changed: () => void}} props */
function Keys({ keys, changed }) {
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  const [made, setMade] = useState(/** @type {(Key & {key: string}) | null} */ (null));
  const [asked, ask] = useState(/** @type {{what: "rotate" | "revoke", item: Key, at: number} | null} */ (null));
  // A page that the browser keeps keeps no key.
  useEffect(() => {
    const drop = () => setMade(null);
    addEventListener("pagehide", drop);
    return () => removeEventListener("pagehide", drop);
  }, []);
  const done = (/** @type {any} */ key) => {
    setMade(key);
    changed();
  };
  /** @type {Key[]} */
  const items = keys.data?.items ?? [];
  return html`<section aria-labelledby="se-keys">
    <h2 id="se-keys" tabindex="-1" ref=${heading}>Keys</h2>
    <p class="muted">Programs send runs with a key of the scope ingest, and read with one of the scope read.</p>
    ${made && html`<${Made} made=${made} close=${() => (setMade(null), heading.current?.focus())} />`}
    <${MakeKey} done=${done} />
    ${keys.error && html`<${Problem} what="the keys" error=${keys.error} retry=${keys.retry} />`}
    ${keys.data === null ? keys.error === null && html`<${Skeleton} rows=${3} />`
      : items.length === 0 ? html`<p class="muted">There are no keys yet.</p>`
      : html`<table class="se-table">
          <thead><tr><th>Label</th><th>Scope</th><th>Prefix</th><th>Made</th><th>Last used</th><th>Ends</th><th>State</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
          <tbody>${items.map((item) => html`<${KeyRow} key=${item.key_id} item=${item} ask=${ask} />`)}</tbody>
        </table>`}
    ${asked && html`<${Confirm} key=${asked.at} ...${asked} done=${done} close=${() => ask((was) => (was === asked ? null : was))} heading=${heading} />`}
  </section>`;
}

/** @param {{item: Key, ask: (asked: any) => void}} props */
function KeyRow({ item, ask }) {
  const isOver = item.expires !== null && Date.parse(item.expires) <= serverNow();
  const state = item.revoked !== null ? html`Revoked <${Time} ts=${item.revoked} />` : isOver ? "Ended" : item.expires !== null ? "Ends soon" : "In use";
  const isLive = item.revoked === null && !isOver;
  const label = visible(item.label);
  return html`<tr class=${isLive ? undefined : "se-over"}>
    <th scope="row"><bdi>${label}</bdi></th>
    <td data-label="Scope">${visible(item.scope)}</td>
    <td data-label="Prefix" class="mono">${visible(item.prefix)}</td>
    <td data-label="Made"><${Time} ts=${item.created} /></td>
    <td data-label="Last used">${item.last_used === null ? "never" : html`<${Time} ts=${item.last_used} />`}</td>
    <td data-label="Ends">${item.expires === null ? "no end" : html`<${Time} ts=${item.expires} as="absolute" />`}</td>
    <td data-label="State">${state}</td>
    <td class="se-acts">${isLive && html`
      <button class="btn" aria-label=${`Rotate ${label}`} onClick=${() => ask({ what: "rotate", item, at: performance.now() })}>Rotate</button>
      <button class="btn" aria-label=${`Revoke ${label}`} onClick=${() => ask({ what: "revoke", item, at: performance.now() })}>Revoke</button>`}</td>
  </tr>`;
}

/** What the server said against it, where it was asked for. @param {{error: any}} props */
function Refused({ error }) {
  if (!error) return null;
  const doubt = error.status === 0 ? " It may have been done all the same: load this page again and look." : "";
  return html`<p class="se-refused" role="alert">${visible(error.message)}${/[.!?]$/.test(error.message) ? "" : "."}${doubt}</p>`;
}

/** @param {{done: (made: any) => void}} props */
function MakeKey({ done }) {
  const label = useRef(/** @type {HTMLInputElement | null} */ (null));
  const scope = useRef(/** @type {HTMLSelectElement | null} */ (null));
  const [state, setState] = useState({ isBusy: false, error: /** @type {any} */ (null) });
  const make = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (state.isBusy) return;
    setState({ isBusy: true, error: null });
    try {
      const made = await send("POST", "/api/keys", { label: label.current?.value.trim(), scope: scope.current?.value });
      if (label.current) label.current.value = "";
      setState({ isBusy: false, error: null });
      done(made);
    } catch (error) {
      setState({ isBusy: false, error });
      label.current?.focus();
    }
  };
  return html`<form class="se-make" onSubmit=${make}>
    <label>Label <input class="field" name="label" ref=${label} required maxlength=${LONGEST_LABEL} autocomplete="off" spellcheck=${false} /></label>
    <label>Scope <select class="field" name="scope" ref=${scope}><option value="ingest">ingest</option><option value="read">read</option></select></label>
    <button class="btn" aria-disabled=${state.isBusy}>Make a key</button>
    <${Refused} error=${state.error} />
  </form>`;
}

/** A key, the only time that it is to be seen. @param {{made: Key & {key: string}, close: () => void}} props */
function Made({ made, close }) {
  const card = useRef(/** @type {HTMLElement | null} */ (null));
  useLayoutEffect(() => card.current?.querySelector("button")?.focus(), [made.key]);
  useEffect(() => announce("The key is made. It is shown this once."), [made.key]);
  return html`<div class="card warn se-made" role="group" aria-label="The new key" ref=${card}>
    <p><strong>This is the key <bdi>${visible(made.label)}</bdi> (${visible(made.scope)}). It is shown this once:</strong> copy it to where it is needed before you leave. The server keeps only its hash, so nobody can show it again.</p>
    <p class="mono se-key">${made.key}</p>
    <p class="seg"><${CopyButton} text=${made.key} label="Copy the key" /> <button class="btn" onClick=${close}>I have it, hide it</button></p>
  </div>`;
}

/** @param {{what: "rotate" | "revoke", item: Key, done: (made: any) => void, close: () => void, heading: any}} props */
function Confirm({ what, item, done, close, heading }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const came = useRef(document.activeElement);
  const [state, setState] = useState({ isBusy: false, error: /** @type {any} */ (null) });
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const act = async () => {
    if (state.isBusy) return;
    setState({ isBusy: true, error: null });
    try {
      const path = `/api/keys/${encodeURIComponent(item.key_id)}`;
      const made = await (what === "rotate" ? send("POST", `${path}/rotate`) : send("DELETE", path));
      // The focus goes to what was made, or to the keys that are left.
      came.current = null;
      dialog.current?.close();
      // Its button is gone with what it did.
      if (made === null) heading.current?.focus();
      if (made === null) announce("The key is revoked.");
      done(made);
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  const closed = () => {
    if (came.current instanceof HTMLElement && came.current.isConnected) came.current.focus();
    close();
  };
  const isRotate = what === "rotate";
  return html`<dialog class="se-ask" ref=${dialog} aria-labelledby="se-ask" onClose=${closed}>
    <h3 id="se-ask">${isRotate ? "Rotate" : "Revoke"} <bdi>${visible(item.label)}</bdi>?</h3>
    <p>${isRotate
      ? "A new key of the same label and scope is made and shown. The old one goes on working for 24 hours, so that it can be replaced everywhere."
      : "Whoever uses this key is refused within 5 seconds. It cannot be brought back."}</p>
    <p class="muted">Scope ${visible(item.scope)}, prefix <span class="mono">${visible(item.prefix)}</span>, ${item.last_used === null ? "never used" : html`last used <${Time} ts=${item.last_used} />`}.</p>
    <${Refused} error=${state.error} />
    <p class="seg"><button class="btn" autofocus onClick=${() => dialog.current?.close()}>Cancel</button>
      <button class="btn" aria-disabled=${state.isBusy} onClick=${act}>${isRotate ? "Rotate the key" : "Revoke the key"}</button></p>
  </dialog>`;
}

// --- plan and usage ------------------------------------------------------------------------------------------------

function Plan() {
  const { data, error, retry } = useAnswer("/api/billing");
  const [isWhole, showAll] = useState(false);
  const days = data ? [...data.usage].reverse() : [];
  const shown = isWhole ? days : days.slice(0, SHOWN_DAYS);
  const most = Math.max(1, ...shown.map((/** @type {any} */ day) => day.events));
  return html`<section aria-labelledby="se-plan">
    <h2 id="se-plan">Plan and usage</h2>
    ${error && html`<${Problem} what="the plan" error=${error} retry=${retry} />`}
    ${data === null ? error === null && html`<${Skeleton} rows=${3} />` : html`
      <dl class="se-facts">
        <div><dt>Plan</dt><dd><${Name} text=${data.plan} /></dd></div>
        <div><dt>Runs are kept</dt><dd>${plural(data.retention_days, "day")} after their last batch</dd></div>
        <div><dt>Rate</dt><dd>${count(data.rate_per_s)} events or requests a second, ${count(data.burst)} at once</dd></div>
      </dl>
      <h3>Events stored a day (UTC)</h3>
      ${days.length === 0 ? html`<p class="muted">Nothing was stored in the last 90 days.</p>`
        : html`<ul class="se-usage">${shown.map((/** @type {any} */ day) => html`<li key=${day.day}>
            <span class="num">${day.day}</span>
            <span class="se-track" aria-hidden="true"><span class="se-bar" style=${{ inlineSize: `${(100 * day.events) / most}%` }}></span></span>
            <span>${plural(day.events, "event")}, ${bytes(day.bytes)}</span></li>`)}</ul>
          ${days.length > shown.length && html`<button class="btn" onClick=${() => showAll(true)}>Show all ${days.length} days</button>`}`}`}
  </section>`;
}

// --- activity ------------------------------------------------------------------------------------------------------

const ACTIONS = /** @type {Record<string, string>} */ ({
  key_made: "made a key",
  key_rotated: "rotated a key",
  key_given_an_end: "gave a key an end",
  key_revoked: "revoked a key",
  plan_changed: "changed the plan",
  retention_changed: "changed how long runs are kept",
  signed_in: "signed in",
  signed_out: "signed out",
  runs_restored: "restored runs",
  tenant_provisioned: "set up the tenant",
});

/** @param {{changes: number}} props */
function Activity({ changes }) {
  const [state, setState] = useState({ items: /** @type {any[] | null} */ (null), next: /** @type {string | null} */ (null), isBusy: false, error: /** @type {any} */ (null) });
  const gone = useRef(new AbortController());
  const read = async (/** @type {string | null} */ cursor) => {
    setState((was) => ({ ...was, isBusy: true, error: null }));
    const { signal } = gone.current;
    try {
      const page = await api(`/api/activity?limit=${SHOWN_LINES}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, { signal });
      if (signal.aborted) return;
      setState((was) => ({ items: cursor ? [...(was.items ?? []), ...page.items] : page.items, next: page.next_cursor, isBusy: false, error: null }));
    } catch (error) {
      if (!signal.aborted) setState((was) => ({ ...was, isBusy: false, error }));
    }
  };
  useEffect(() => {
    gone.current = new AbortController();
    void read(null);
    return () => gone.current.abort();
  }, [changes]);
  const { items, next, isBusy, error } = state;
  return html`<section aria-labelledby="se-activity">
    <div class="se-head"><h2 id="se-activity">Activity</h2><a class="btn" href="/api/activity?format=ndjson" download="activity.ndjson">Export all</a></div>
    ${items === null ? error === null && html`<${Skeleton} rows=${3} />`
      : items.length === 0 ? html`<p class="muted">Nothing has been done yet.</p>`
      : html`<table class="se-table">
          <thead><tr><th>When</th><th>Who</th><th>Did</th><th>To what</th></tr></thead>
          <tbody>${items.map((item, at) => html`<tr key=${items.length - at}>
            <td data-label="When"><${Time} ts=${item.at} as="absolute" /></td>
            <td data-label="Who"><${Name} text=${item.actor} /></td>
            <td data-label="Did" title=${visible(item.action)}>${ACTIONS[item.action] ?? visible(item.action).replaceAll("_", " ")}</td>
            <td data-label="To what" class="mono"><${Name} text=${item.target} /></td></tr>`)}</tbody>
        </table>`}
    ${error && html`<${Problem} what="the activity" error=${error} retry=${() => read(items === null ? null : next)} />`}
    ${next !== null && error === null && html`<button class="btn" aria-disabled=${isBusy} onClick=${() => !isBusy && read(next)}>${isBusy ? "Loading …" : "Earlier"}</button>`}
  </section>`;
}

// --- the server ----------------------------------------------------------------------------------------------------

function Server() {
  const known = config.value;
  if (known === null) return null;
  const { limits } = known;
  return html`<section aria-labelledby="se-server">
    <h2 id="se-server">This server</h2>
    <dl class="se-facts">
      <div><dt>Version</dt><dd>${visible(known.name)} ${visible(known.version)} (${visible(known.mode)}), commit <span class="mono">${visible(known.commit)}</span></dd></div>
      <div><dt>A run stalls</dt><dd>after ${duration(known.stall_after_s)} without an event</dd></div>
      <div><dt>A batch holds</dt><dd>at most ${plural(limits.batch_events, "event")} and ${bytes(limits.batch_bytes)}, a line ${bytes(limits.line_bytes)}</dd></div>
      <div><dt>Agent views</dt><dd>${known.agent_views ? "on" : "off"}</dd></div>
      ${known.read_only && html`<div><dt>Writing</dt><dd>off: this server only reads</dd></div>`}
      <div><dt>API</dt><dd><a href="/api/config" target="_blank" rel="noopener">/api/config</a></dd></div>
    </dl>
  </section>`;
}
