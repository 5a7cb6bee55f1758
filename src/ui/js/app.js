// The shell: what page is shown, what stands around it, and what all pages share (route, keys, settings, time).
import { computed, effect, html, render, signal, useEffect, useLayoutEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { absolute, ago, clock, describe, glyph, glyphPath, visible, zoneName } from "./fmt.js";
import { ApiProblem, asksWho, config, firstAnswer, held, isOutdated, key, live, loadConfig, serverNow, shut, skew } from "./net.js";

// ---------------------------------------------------------------------------------------------------- settings

/** @template T @param {string} name @param {T} value */
function remembered(name, value) {
  let stored = null;
  try {
    stored = localStorage.getItem(`kahn.${name}`);
  } catch {
    // No storage: the setting lasts as long as the page.
  }
  const setting = signal(stored === null ? value : /** @type {T} */ (JSON.parse(stored)));
  effect(() => {
    const text = JSON.stringify(setting.value);
    try {
      localStorage.setItem(`kahn.${name}`, text);
    } catch {
      // As above.
    }
  });
  return setting;
}

const utcSetting = remembered("utc", false);
export const settings = {
  /** Times in UTC, else in the reader's zone; `tz` in a link wins. */
  utc: computed(() => (route.value.query.has("tz") ? route.value.query.get("tz") === "utc" : utcSetting.value)),
  /** Ages in lists, else moments. */
  relative: remembered("relative", true),
  /** @type {import("../vendor/ui-runtime.js").Signal<"system" | "light" | "dark">} */
  theme: remembered("theme", /** @type {"system" | "light" | "dark"} */ ("system")),
  singleKeys: remembered("singleKeys", true),
};

// ---------------------------------------------------------------------------------------------------- routes

/** @typedef {{page: string, path: string, params: Record<string, string>, query: URLSearchParams}} Route */

/**
 * A run's page that came with its answers says by itself which kind of run it is; otherwise run.js asks, and hands over.
 * @param {Record<string, string>} params
 */
async function loadRun({ run_id }) {
  const first = firstAnswer(`/api/runs/${run_id}`);
  if (first?.kind !== "agent") return import("./run.js");
  const { Page } = await import("./agentrun.js");
  const found = firstAnswer(`/api/runs/${run_id}/diagnostics`);
  return { Page: (/** @type {any} */ props) => html`<${Page} ...${props} state=${first} diagnostics=${found} />` };
}

/** @type {{page: string, pattern: RegExp, names: string[], load: (params: Record<string, string>) => Promise<any>, part?: string, nav?: string}[]} */
const PAGES = [
  { page: "runs", pattern: /^\/(?:runs)?$/, names: [], load: () => import("./runs.js"), nav: "/runs" },
  { page: "run", pattern: /^\/runs\/([^/]+)$/, names: ["run_id"], load: loadRun, nav: "/runs" },
  { page: "agents", pattern: /^\/agents$/, names: [], load: () => import("./agents.js"), nav: "/agents" },
  { page: "agent", pattern: /^\/agents\/([^/]+)$/, names: ["agent_id"], load: () => import("./agents.js"), nav: "/agents" },
  { page: "audits", pattern: /^\/audits$/, names: [], load: () => import("./audits.js"), part: "AuditsPage", nav: "/audits" },
  { page: "nodes", pattern: /^\/nodes$/, names: [], load: () => import("./audits.js"), part: "NodesPage", nav: "/nodes" },
  { page: "compare", pattern: /^\/compare$/, names: [], load: () => import("./compare.js"), nav: "/compare" },
  { page: "settings", pattern: /^\/settings$/, names: [], load: () => import("./settings.js") },
];

/** @returns {Route} */
function routeOf() {
  const path = location.pathname;
  for (const { page, pattern, names } of PAGES) {
    const found = pattern.exec(path);
    if (!found) continue;
    /** @type {Record<string, string>} */
    const params = {};
    names.forEach((name, at) => {
      try {
        params[name] = decodeURIComponent(found[at + 1]);
      } catch {
        params[name] = found[at + 1];
      }
    });
    return { page, path, params, query: new URLSearchParams(location.search) };
  }
  return { page: "nowhere", path, params: {}, query: new URLSearchParams(location.search) };
}

/** Where the reader is. @type {import("../vendor/ui-runtime.js").Signal<Route>} */
export const route = signal(routeOf());
const learnRoute = () => (route.value = routeOf());

/** Goes to an address of this UI. @param {string} address */
export function navigate(address) {
  history.pushState(null, "", address);
  learnRoute();
}

/** An address with those of these parameters that are set. @param {string} path @param {Record<string, string | number | null | undefined>} [query] */
export function href(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return search ? `${path}?${search}` : path;
}

/**
 * Changes parameters of the address; null takes one out.
 * @param {Record<string, string | number | null | undefined>} patch @param {{replace?: boolean}} [options]
 */
export function setQuery(patch, { replace = false } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(patch)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  const search = query.toString();
  const address = location.pathname + (search ? `?${search}` : "");
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(history.state, "", address);
  else history.pushState(null, "", address);
  learnRoute();
}

/** What a page keeps with the entry of the history, so that Back finds it again. @param {string} name @param {unknown} value */
export function keep(name, value) {
  history.replaceState({ ...history.state, [name]: value }, "");
}
/** @param {string} name @returns {any} */
export function kept(name) {
  return history.state?.[name];
}

addEventListener("popstate", learnRoute);
document.addEventListener("click", (event) => {
  const link = /** @type {Element} */ (event.target).closest?.("a[href]");
  if (!(link instanceof HTMLAnchorElement) || link.target || link.origin !== location.origin || link.hasAttribute("download")) return;
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (/^\/(api|a|v1|auth)\//.test(link.pathname) || link.getAttribute("href")?.startsWith("#")) return;
  event.preventDefault();
  navigate(link.pathname + link.search);
});

/** The window that the address asks for; the server says what it thinks of an unknown one. */
export const windowAsked = computed(() => route.value.query.get("window") ?? "all");

// ---------------------------------------------------------------------------------------------------- time

/** Milliseconds by the server's clock, once a second. It stands still while the connection is lost: what is shown is of then. */
export const nowTick = signal(serverNow());
setInterval(() => {
  const { kind } = live.state.peek();
  if (kind !== "retrying" && kind !== "offline") nowTick.value = serverNow();
}, 1000);

/**
 * A moment, with everything about it in the title.
 * @param {{ts: string | null | undefined, as?: "relative" | "absolute" | "clock"}} props
 */
export function Time({ ts, as = "relative" }) {
  if (!ts) return html`<span class="muted" title="unknown">–</span>`;
  const utc = settings.utc.value;
  const text =
    as === "clock" ? clock(ts, { utc }) : as === "relative" && settings.relative.value ? ago(ts, nowTick.value, { utc }) : absolute(ts, { utc });
  const title = `${absolute(ts, { utc: false })}\n${absolute(ts, { utc: true })}\n${Date.parse(ts)} ms`;
  return html`<time datetime=${ts} title=${title}>${text}</time>`;
}

// ---------------------------------------------------------------------------------------------------- keys

/** @typedef {{does: string, run: (event: KeyboardEvent) => void}} KeyAction */
/** @type {import("../vendor/ui-runtime.js").Signal<{context: string, actions: Record<string, KeyAction>}[]>} */
export const keyContexts = signal([]);

/**
 * Keys of a part of the page, until the returned function is called; later parts win.
 * A key is `event.key`, with `ctrl+` before it where that is held, or two of them (`g r`).
 * @param {string} context @param {Record<string, KeyAction>} actions @returns {() => void}
 */
export function keys(context, actions) {
  const entry = { context, actions };
  keyContexts.value = [...keyContexts.peek(), entry];
  return () => (keyContexts.value = keyContexts.peek().filter((other) => other !== entry));
}

/** @param {KeyboardEvent} event */
function isTyping(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.isContentEditable || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
  return target instanceof HTMLInputElement && !["range", "checkbox", "radio", "button"].includes(target.type);
}

let pending = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let pendingTimer;
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.altKey || event.metaKey || isTyping(event) || document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  // Space and Enter belong to the control that has the focus.
  if ((event.key === " " || event.key === "Enter") && !event.ctrlKey && target.closest("button, a[href], summary, input, [role=button], [role=row]")) return;
  const name = (event.ctrlKey ? "ctrl+" : "") + event.key;
  if (!settings.singleKeys.value && name.length === 1) return;
  const wanted = pending ? `${pending} ${name}` : name;
  clearTimeout(pendingTimer);
  pending = "";
  const contexts = [...keyContexts.peek()].reverse();
  const action = contexts.map(({ actions }) => actions[wanted]).find(Boolean);
  if (action) {
    event.preventDefault();
    action.run(event);
  } else if (contexts.some(({ actions }) => Object.keys(actions).some((known) => known.startsWith(`${wanted} `)))) {
    pending = wanted;
    pendingTimer = setTimeout(() => (pending = ""), 1500);
  }
});

// ---------------------------------------------------------------------------------------------------- saying things

const spoken = signal("");
/** @type {string[]} */
let unsaid = [];
let saidAt = -Infinity;
/** Tells those who listen, at most once in five seconds. @param {string} text */
export function announce(text) {
  unsaid.push(text);
  if (unsaid.length > 1) return;
  setTimeout(() => {
    spoken.value = unsaid.join(" ");
    unsaid = [];
    saidAt = performance.now();
  }, Math.max(0, saidAt + 5000 - performance.now()));
}

/** The tab's title, and the shape of the status in its icon. @param {string} text @param {{set: string, value: string}} [status] */
export function setTitle(text, status) {
  document.title = text ? `${visible(text)} · kahn` : "kahn";
  const icon = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel=icon]"));
  if (!icon) return;
  const { tone, shape } = describe(status?.set ?? "severity", status?.value ?? "info");
  const colours = getComputedStyle(document.documentElement);
  const colour = colours.getPropertyValue(`--${tone === "none" ? "grey" : tone}`).trim();
  const drawing = glyphPath(shape).replaceAll("var(--bg)", colours.getPropertyValue("--bg").trim());
  icon.href = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" color="${colour}">${drawing}</svg>`)}`;
}

/** What the chip says instead of the state of the connection (a replay, a finished run). @type {import("../vendor/ui-runtime.js").Signal<{text: string, kind: "replay" | "finished"} | null>} */
export const chip = signal(null);

// ---------------------------------------------------------------------------------------------------- shared parts

/** @param {{set: string, value: string, word?: string}} props */
export function Status({ set, value, word }) {
  return html`<span class="status">${glyph(set, value)} <span>${word ?? describe(set, value).word}</span></span>`;
}

/** @param {{set: string, value: string}} props */
export function Glyph({ set, value }) {
  return glyph(set, value);
}

/**
 * An error in place, with the way out of it.
 * @param {{error: any, what?: string, retry?: () => void}} props what: what could not be loaded
 */
export function Problem({ error, what = "this page", retry }) {
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  useEffect(() => button.current?.focus({ preventScroll: true }), []);
  const isProblem = error instanceof ApiProblem;
  const answered = isProblem && error.status ? `The server answered ${error.status}` : "No answer";
  const by = isProblem && error.request_id ? ` (request ${error.request_id})` : "";
  return html`<section class="error-card" role="alert">
    <h2>Could not load ${what}</h2>
    <p>${answered}${by}: ${visible(error?.message ?? error)}</p>
    ${isProblem && error.allowed && html`<p>It may be one of ${error.allowed.map(visible).join(", ")}.</p>`}
    ${isProblem && error.code === "unknown_window" &&
    html`<p class="seg">${(error.allowed ?? []).map((name) => html`<a class="btn" href=${href(route.value.path, { window: name })}>${name}</a>`)}</p>`}
    ${retry && html`<button class="btn" ref=${button} onClick=${retry}>Retry</button>`}
  </section>`;
}

/** @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = "Copy" }) {
  const [did, setDid] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDid("Copied");
    } catch {
      setDid("Could not copy");
    }
    setTimeout(() => setDid(""), 1500);
  };
  return html`<button class="btn" onClick=${copy}>${did || label}</button>`;
}

// ---------------------------------------------------------------------------------------------------- the shell

const WINDOWED = new Set(["runs", "agents", "agent", "audits", "nodes"]);

/** Since when a window counts, for its title. @param {string} name */
function since(name) {
  const hours = name === "24h" ? 24 : name === "7d" ? 168 : null;
  return hours ? `since ${absolute(nowTick.value - hours * 3_600_000, { utc: settings.utc.value })}` : "all that is kept";
}

/** The choice of the window: which runs count. */
export function Window() {
  const asked = windowAsked.value;
  const names = config.value?.windows ?? ["24h", "7d", "all"];
  return html`<div class="seg sh-window" role="group" aria-label="Window">
    ${names.map(
      (/** @type {string} */ name) =>
        html`<button class="btn" aria-pressed=${name === asked} title=${since(name)} onClick=${() => setQuery({ window: name })}>${name}</button>`,
    )}
  </div>`;
}

function ConnectionChip() {
  const { kind, since: at, tries, waiting } = live.state.value;
  const utc = settings.utc.value;
  if (chip.value) return html`<span class=${`chip sh-chip is-${chip.value.kind}`} id="connection">${chip.value.text}</span>`;
  if (kind === "off") return null;
  const age = Math.max(0, Math.floor((nowTick.value - at) / 1000));
  const text = {
    connecting: "Connecting",
    live: `Live ${age < 2 ? "now" : `${age}s ago`}`,
    paused: `Paused, ${waiting} waiting`,
    retrying: `Reconnecting (try ${tries})`,
    offline: `Offline, data from ${clock(at, { utc })}`,
  }[kind];
  const isOff = Math.abs(skew.value) > 5000 ? ` This browser's clock is off by ${Math.round(Math.abs(skew.value) / 1000)} s; ages go by the server's.` : "";
  const does = kind === "paused" ? "Resume" : kind === "live" ? "Pause" : "Retry now";
  const act = () => (kind === "paused" ? live.resume() : kind === "live" ? live.pause() : live.retry());
  return html`<button id="connection" class=${`chip sh-chip is-${kind}`} title=${`${does}.${isOff}`} onClick=${act}>
    <span class="sh-dot" aria-hidden="true"></span><span>${text}</span><span class="visually-hidden">. ${does}</span>
  </button>`;
}

function ConnectionBanner() {
  const { kind, since: at, tries } = live.state.value;
  const isLost = kind === "offline" || (kind === "retrying" && tries > 1);
  const [isShown, show] = useState(false);
  useEffect(() => {
    if (!isLost) {
      if (isShown) announce("Connected again.");
      return show(false);
    }
    const timer = setTimeout(() => (show(true), announce("Connection lost. What is shown is no longer live.")), kind === "offline" ? 0 : 3000);
    return () => clearTimeout(timer);
  }, [isLost]);
  if (!isLost || !isShown) return null;
  return html`<div class="banner warn" role="status">
    <span><strong>Connection lost.</strong> What you see is from ${clock(at, { utc: settings.utc.value })}.</span>
    <button class="btn" onClick=${() => live.retry()}>Retry now</button>
  </div>`;
}

export const isHelpOpen = signal(false);

/** @param {{route: Route}} props */
function PageOf({ route: where }) {
  const [loaded, setLoaded] = useState(/** @type {{page: string, Page: any, error?: any} | null} */ (null));
  const entry = PAGES.find(({ page }) => page === where.page);
  // Runs have pages of two kinds.
  const which = where.page === "run" ? where.path : where.page;
  useEffect(() => {
    let isCurrent = true;
    entry?.load(where.params).then(
      (module) => isCurrent && setLoaded({ page: which, Page: module[entry.part ?? "Page"] }),
      (error) => isCurrent && setLoaded({ page: which, Page: null, error }),
    );
    return () => void (isCurrent = false);
  }, [which]);
  if (!entry) {
    return html`<section class="empty"><h1>Nothing is at this address</h1><p><a href="/runs">All runs</a></p></section>`;
  }
  if (loaded?.page !== which) return null;
  if (loaded.error) {
    return html`<section class="error-card" role="alert"><h1>This page could not be loaded</h1><p>The server may have been updated or stopped.</p><button class="btn" onClick=${() => location.reload()}>Reload</button></section>`;
  }
  return html`<${loaded.Page} route=${where} key=${where.page + JSON.stringify(where.params)} />`;
}

/** @type {Map<string, Promise<void>>} */
const sheets = new Map();
/** The style sheet of parts that are loaded late; they wait for it. @param {string} name @returns {Promise<void>} */
export function styled(name) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL(`../late/${name}.css`, import.meta.url).href;
  const sheet = sheets.get(name) ?? new Promise((resolve) => {
    link.onload = link.onerror = () => resolve();
    document.head.append(link);
  });
  sheets.set(name, sheet);
  return sheet;
}

/** What only some servers, or some moments, have a use for: loaded when it is first wanted. */
const who = () => import("./who.js");
const door = () => import("./door.js");
const help = () => import("./help.js");

/** @param {{load: () => Promise<any>, part: string}} props */
function Late({ load, part }) {
  const [module, setModule] = useState(/** @type {any} */ (null));
  useEffect(() => {
    load().then(setModule, (error) => (broken.value = error.message));
  }, [load]);
  return module && html`<${module[part]} />`;
}

const broken = signal("");
addEventListener("error", (event) => (broken.value = event.message || "error"));
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") broken.value = String(event.reason?.message ?? event.reason);
});

const NAV = [
  { path: "/runs", name: "Runs", isOfAgents: false },
  { path: "/agents", name: "Agents", isOfAgents: true },
  { path: "/audits", name: "Audits", isOfAgents: true },
  { path: "/nodes", name: "Nodes", isOfAgents: false },
  { path: "/compare", name: "Compare", isOfAgents: false },
];

function App() {
  const where = route.value;
  const nav = PAGES.find(({ page }) => page === where.page)?.nav;
  const window = where.query.get("window");
  const hasAgents = config.value?.agent_views ?? true;
  const out = shut.value;
  // A page stays, dimmed, when a person's session ends over it.
  const isDimmed = out !== null && out.why === "nobody" && out.wasIn && out.path === where.path && Boolean(config.value?.sign_in) && !key.value;
  const isOut = out !== null && !isDimmed;
  useEffect(() => {
    loadConfig().catch((error) => (broken.value = error.message));
  }, []);
  useLayoutEffect(() => {
    if (settings.theme.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = settings.theme.value;
  }, [settings.theme.value]);
  // Lists handle their own keys, and know nothing of the shell but this.
  useEffect(() => {
    document.documentElement.dataset.singleKeys = settings.singleKeys.value ? "on" : "off";
  }, [settings.singleKeys.value]);
  // The zone's offset is that of now; every absolute time carries its own.
  const zone = settings.utc.value ? "UTC" : `Local ${zoneName(nowTick.value, false)}`;
  return html`
    <a class="sh-skip" href="#main" onClick=${(/** @type {Event} */ event) => (event.preventDefault(), document.getElementById("main")?.focus())}>Skip to content</a>
    <header class="sh-bar">
      <a class="sh-brand" href="/runs">kahn</a>
      <nav class="sh-nav" aria-label="Pages">
        ${!isOut && NAV.filter(({ isOfAgents }) => hasAgents || !isOfAgents).map(
          ({ path, name }) =>
            html`<a href=${href(path, path === "/compare" ? {} : { window })} aria-current=${path === nav ? "page" : undefined}>${name}</a>`,
        )}
      </nav>
      <div class="sh-tools">
        ${!isOut && WINDOWED.has(where.page) && html`<${Window} />`}
        <button class="btn sh-zone" title="Times in UTC or in your zone (t)" onClick=${() => (utcSetting.value = !utcSetting.value)}>${zone}</button>
        <${ConnectionChip} />
        ${asksWho() && html`<${Late} load=${who} part="Who" />`}
        <button class="btn" aria-label="Keys and settings" title="Keys and settings (?)" onClick=${() => (isHelpOpen.value = true)}>?</button>
      </div>
    </header>
    <div class="sh-banners">
      ${isDimmed && html`<${Late} load=${door} part="SignedOut" />`}
      ${held.value && html`<${Late} load=${door} part="Held" />`}
      <${ConnectionBanner} />
      ${isOutdated.value && html`<div class="banner" role="status"><span>kahn was updated. Reload when ready.</span><button class="btn" onClick=${() => location.reload()}>Reload</button></div>`}
      ${broken.value &&
      html`<div class="banner bad" role="alert"><span>Something in this page broke: ${visible(broken.value)}</span><button class="btn" onClick=${() => location.reload()}>Reload</button></div>`}
    </div>
    <main id="main" tabindex="-1" class=${isDimmed ? "do-dimmed" : undefined} inert=${isDimmed}>${isOut ? html`<${Late} load=${door} part="Door" />` : html`<${PageOf} route=${where} />`}</main>
    <p class="visually-hidden" aria-live="polite">${spoken.value}</p>
    ${isHelpOpen.value && html`<${Late} load=${help} part="Help" />`}
  `;
}

const go = (/** @type {string} */ path) => () => navigate(href(path, path === "/compare" ? {} : { window: route.value.query.get("window") }));
keys("Everywhere", {
  "?": { does: "this list", run: () => (isHelpOpen.value = true) },
  "g r": { does: "Runs", run: go("/runs") },
  "g a": { does: "Agents", run: go("/agents") },
  "g u": { does: "Audits", run: go("/audits") },
  "g n": { does: "Nodes", run: go("/nodes") },
  "g c": { does: "Compare", run: go("/compare") },
  "g s": { does: "Settings", run: () => navigate("/settings") },
  w: {
    does: "next window",
    run: () => {
      const names = config.value?.windows ?? ["24h", "7d", "all"];
      if (WINDOWED.has(route.value.page)) setQuery({ window: names[(names.indexOf(windowAsked.value) + 1) % names.length] });
    },
  },
  t: { does: "UTC or local time", run: () => (utcSetting.value = !utcSetting.value) },
  T: { does: "ages or moments", run: () => (settings.relative.value = !settings.relative.value) },
  p: { does: "pause or resume live updates", run: () => (live.state.value.kind === "paused" ? live.resume() : live.pause()) },
  y: {
    does: "copy the link to this view",
    run: () => void navigator.clipboard.writeText(location.href).then(() => announce("Link copied."), () => announce("Could not copy.")),
  },
});

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} />`, root);
