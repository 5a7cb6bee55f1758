// What the page asks the server, and what the server tells it: answers, problems, who asks, the live socket.
import { signal } from "../vendor/ui-runtime.js";

/** A problem of the server (RFC 9457), or that it could not be reached (status 0). */
export class ApiProblem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.detail ?? (status ? `The server answered ${status}.` : "The server could not be reached."));
    this.status = status;
    /** @type {string} */
    this.code = body?.code ?? "unreachable";
    /** @type {string | undefined} */
    this.request_id = body?.request_id;
    /** @type {string[] | undefined} */
    this.allowed = body?.allowed;
    this.body = body;
  }
}

/** The key, where the server asks for one: kept in this page only. @type {import("../vendor/ui-runtime.js").Signal<string | null>} */
export const key = signal(null);
/**
 * What keeps the reader out, if anything. nobody: the server knows nobody of this browser (any more); scope, tenant: it
 * knows who this is, who may not read or belongs nowhere. wasIn: this page has shown answers; path: the page that it was;
 * since: when that was known (server's clock).
 * @type {import("../vendor/ui-runtime.js").Signal<{why: "nobody" | "scope" | "tenant", detail: string, wasIn: boolean, path: string, since: number} | null>}
 */
export const shut = signal(null);
/** /api/me, where somebody has to say who they are, once it is known. @type {import("../vendor/ui-runtime.js").Signal<any>} */
export const me = signal(null);
/** Why the server wants no questions for now, and until when (this browser's clock). @type {import("../vendor/ui-runtime.js").Signal<{code: string, until: number} | null>} */
export const held = signal(null);
/** /api/config, once it is known. @type {import("../vendor/ui-runtime.js").Signal<any>} */
export const config = signal(null);
/** The server says that it is another version than the one that this page came from. */
export const isOutdated = signal(false);

/** Milliseconds that the server's clock is ahead of this one. */
export const skew = signal(0);
/** @param {string} now */
function learnTime(now) {
  const at = Date.parse(now);
  if (Number.isFinite(at)) skew.value = at - Date.now();
}

/** Milliseconds by the server's clock. */
export function serverNow() {
  return Date.now() + skew.peek();
}

/** Answers that came with the page. @type {Map<string, string>} */
const boot = new Map();
{
  const element = document.getElementById("boot");
  // Back may find the page as it was kept, for somebody who was in then.
  const [loaded] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  if (element?.textContent && loaded?.type !== "back_forward") {
    for (const [path, body] of Object.entries(JSON.parse(element.textContent))) boot.set(path, /** @type {string} */ (body));
    // What is asked later is asked for its news.
    setTimeout(() => boot.clear(), 5000);
  }
  element?.remove();
}

/** What came with the page for this address, for as long as it is fresh. @param {string} path @returns {any} */
export function firstAnswer(path) {
  const body = boot.get(path);
  return body === undefined ? null : JSON.parse(body);
}

/** Whether anything was shown that not everybody may see. */
let wasIn = boot.size > 0;

/** Nothing more is asked or heard, until somebody says who they are. @param {number} status @param {any} problem */
function keepOut(status, problem) {
  const why = status === 401 ? "nobody" : problem?.scope ? "scope" : "tenant";
  if (shut.peek()) return;
  shut.value = { why, detail: problem?.detail ?? "", wasIn, path: location.pathname, since: serverNow() };
  live.stop();
}

/** Lets the reader try anew, as somebody else: nothing of before counts. */
export function letIn() {
  wasIn = false;
  me.value = null;
  shut.value = null;
}

/** What a request of this page sends of the reader. */
const credentials = () => (key.value ? { authorization: `Bearer ${key.value}` } : {});

/**
 * One request and its whole answer.
 * @param {string} path @param {RequestInit} options
 * @returns {Promise<{status: number, body: string, headers: Headers}>}
 */
export async function ask(path, options) {
  try {
    // Nothing that is kept is shown before the server has said that it still counts.
    const response = await fetch(path, { cache: "no-cache", ...options, headers: { ...credentials(), ...options.headers } });
    return { status: response.status, body: await response.text(), headers: response.headers };
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiProblem(0, null);
  }
}

/** @param {string} body @returns {any} */
function problemOf(body) {
  try {
    return JSON.parse(body);
  } catch {
    // A proxy's page, say: the status tells what there is to tell.
    return null;
  }
}

/** @param {number} ms @param {AbortSignal} [abort] @returns {Promise<void>} */
function pause(ms, abort) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    abort?.addEventListener("abort", () => (clearTimeout(timer), reject(abort.reason)), { once: true });
  });
}

/** Of a question that nobody will answer: the page stays as it is. @param {AbortSignal} [abort] @returns {Promise<never>} */
const never = (abort) => new Promise((_, reject) => abort?.addEventListener("abort", () => reject(abort.reason), { once: true }));

/** What the server refuses for a while, whoever asks and whatever for. */
const PASSING = new Set(["rate_limited", "too_many_failures", "provider_unavailable", "credentials_unavailable"]);

/** The pause is over, once its time is: what was asked before it may still be answered in it. */
export function goOn() {
  if (held.peek() && held.peek().until <= Date.now()) held.value = null;
}

/**
 * @param {string} path @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<{body: string, headers: Headers}>}
 */
export async function text(path, { signal: abort } = {}) {
  const first = boot.get(path);
  if (first !== undefined) {
    boot.delete(path);
    return { body: first, headers: new Headers() };
  }
  for (;;) {
    const wait = held.peek() ? held.peek().until - Date.now() : 0;
    // Not all that wait in the same instant.
    if (wait > 0) await pause(wait + Math.random() * 500, abort);
    if (shut.peek() && path !== "/api/config" && !(path === "/api/me" && shut.peek().why === "scope")) return never(abort);
    const { status, body, headers } = await ask(path, { signal: abort });
    if (status >= 200 && status < 300) {
      goOn();
      if (path !== "/api/config") wasIn = true;
      return { body, headers };
    }
    const problem = problemOf(body);
    if (PASSING.has(problem?.code)) {
      held.value = { code: problem.code, until: Date.now() + 1000 * Math.max(1, problem.retry_after_s ?? Number(headers.get("retry-after"))) };
      continue;
    }
    goOn();
    if (status === 401 || (problem?.code === "insufficient_scope" && (problem.scope ?? "read") === "read")) {
      keepOut(status, problem);
      return never(abort);
    }
    throw new ApiProblem(status, problem);
  }
}

/**
 * Asks for a change. It is never asked twice: what came of a request without an answer, only the reader can find out.
 * @param {string} method @param {string} path @param {object} [body]
 * @returns {Promise<any>} what the server made, or null
 */
export async function send(method, path, body) {
  const given = body ? { headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
  const answer = await ask(path, { method, ...given });
  if (answer.status >= 200 && answer.status < 300) return answer.body ? JSON.parse(answer.body) : null;
  const problem = problemOf(answer.body);
  if (answer.status === 401) keepOut(answer.status, problem);
  throw new ApiProblem(answer.status, problem);
}

/** @param {string} path @param {{signal?: AbortSignal}} [options] @returns {Promise<any>} */
export async function api(path, options) {
  const { body } = await text(path, options);
  return JSON.parse(body);
}

export async function loadConfig() {
  const answer = await api("/api/config");
  if (config.value && (config.value.version !== answer.version || config.value.commit !== answer.commit)) isOutdated.value = true;
  else config.value = answer;
  learnTime(answer.now);
}

/** Whether people say who they are here: not where one person is served, and not to anonymous. */
export const asksWho = () => Boolean(config.value?.sign_in) || key.value !== null;

/** @typedef {{seq: number, line: string | null, bytes?: number, log_id: string}} LiveEvent */
/** @typedef {{events: (list: LiveEvent[]) => void, resync?: (from_seq: number) => void, reset?: (log_id: string) => void, removed?: () => void, problem?: (error: any) => void}} RunListener */
/** @typedef {{rows: (list: any[]) => void, removed?: (list: string[]) => void, resync?: () => void}} ListListener */

/** Seconds without a frame after which the connection counts as lost; heartbeats come every 5. */
const SILENT_MS = 12_000;
/** The server's code where whoever listened may not any more. */
const RIGHTS_ENDED = 4401;
const RETRY_S = [0.5, 1, 2, 4, 8, 15];

class Live {
  constructor() {
    /**
     * What the chip says. since: when the last frame came (server's clock), tries: attempts to connect again, waiting: frames held back.
     * @type {import("../vendor/ui-runtime.js").Signal<{kind: "off" | "connecting" | "live" | "paused" | "retrying" | "offline", since: number, tries: number, waiting: number}>}
     */
    this.state = signal({ kind: "off", since: 0, tries: 0, waiting: 0 });
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {Map<string, {listener: RunListener, from_seq: number, log_id: string | null}>} */
    this.runsWatched = new Map();
    /** @type {{filters: object, listener: ListListener} | null} */
    this.list = null;
    /** @type {any[]} */
    this.queue = [];
    this.isPaused = false;
    this.tries = 0;
    this.lastFrame = 0;
    this.scheduled = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    setInterval(() => this.check(), 1000);
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.retry());
  }

  /**
   * @param {string} run_id @param {number} from_seq the next seq wanted @param {string | null} log_id @param {RunListener} listener
   * @returns {() => void}
   */
  run(run_id, from_seq, log_id, listener) {
    const watched = { listener, from_seq, log_id };
    this.runsWatched.set(run_id, watched);
    this.open();
    this.say({ type: "subscribe", run_id, from_seq, ...(log_id ? { log_id } : {}) });
    return () => {
      if (this.runsWatched.get(run_id) !== watched) return;
      this.runsWatched.delete(run_id);
      this.say({ type: "unsubscribe", run_id });
      this.closeWhenUnused();
    };
  }

  /** @param {object} filters @param {ListListener} listener @returns {() => void} */
  runs(filters, listener) {
    const list = { filters, listener };
    this.list = list;
    this.open();
    this.say({ type: "subscribe_runs", filters });
    return () => {
      if (this.list !== list) return;
      this.list = null;
      this.say({ type: "unsubscribe_runs" });
      this.closeWhenUnused();
    };
  }

  pause() {
    this.isPaused = true;
    this.show();
  }

  resume() {
    this.isPaused = false;
    this.show();
    this.flush();
  }

  /** Tries at once what would be tried later. */
  retry() {
    if (this.socket || !this.isWanted()) return;
    this.open();
  }

  isWanted() {
    return shut.peek() === null && (this.runsWatched.size > 0 || this.list !== null);
  }

  /** Says and hears nothing more. */
  stop() {
    clearTimeout(this.timer);
    this.queue = [];
    this.drop();
    this.tries = 0;
    this.show("off");
  }

  closeWhenUnused() {
    // Leaving one page for another closes nothing: the next one listens a moment later.
    setTimeout(() => {
      if (!this.isWanted()) this.stop();
    }, 250);
  }

  /** Lets go of the socket; what it still says is nobody's. */
  drop() {
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  open() {
    if (this.socket || shut.peek()) return;
    clearTimeout(this.timer);
    const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/live`;
    // A browser's socket takes no Authorization header; the key goes where the server looks for it instead.
    const socket = key.value ? new WebSocket(address, ["kahn.bearer", key.value]) : new WebSocket(address);
    this.socket = socket;
    this.lastFrame = Date.now();
    if (this.tries === 0) this.show("connecting");
    let isOpen = false;
    socket.onopen = () => {
      isOpen = true;
      for (const [run_id, { from_seq, log_id }] of this.runsWatched) {
        this.say({ type: "subscribe", run_id, from_seq, ...(log_id ? { log_id } : {}) });
      }
      if (this.list) {
        this.say({ type: "subscribe_runs", filters: this.list.filters });
        // What changed meanwhile is in no frame.
        if (this.tries > 0) this.queue.push({ type: "resync", run_id: null });
      }
    };
    socket.onmessage = (message) => this.hear(message.data);
    socket.onclose = ({ code }) => {
      this.socket = null;
      if (code === RIGHTS_ENDED) return keepOut(401, null);
      this.again();
      // A handshake that was refused does not say why; an answer does.
      if (!isOpen && asksWho()) void api("/api/me").catch(() => {});
    };
  }

  again() {
    if (!this.isWanted()) return;
    const wait = RETRY_S[Math.min(this.tries, RETRY_S.length - 1)] * 1000 * (0.75 + Math.random() / 2);
    this.tries += 1;
    this.show("retrying");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), wait);
  }

  /** A connection that says nothing is none, whatever the network thinks. */
  check() {
    if (this.socket && Date.now() - this.lastFrame > SILENT_MS) {
      this.drop();
      this.again();
    } else if (this.state.peek().kind === "live" || this.isPaused) {
      this.show();
    }
  }

  /** @param {object} frame */
  say(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  /** Asks again for a run, or (null) for the list. @param {string | null} run_id */
  sayAgain(run_id) {
    const watched = run_id === null ? undefined : this.runsWatched.get(run_id);
    if (watched) this.say({ type: "subscribe", run_id, from_seq: watched.from_seq, ...(watched.log_id ? { log_id: watched.log_id } : {}) });
    if (run_id !== null || !this.list) return;
    this.say({ type: "subscribe_runs", filters: this.list.filters });
    // What changed meanwhile is in no frame.
    this.list.listener.resync?.();
  }

  /** @param {string} data */
  hear(data) {
    this.lastFrame = Date.now();
    const frame = JSON.parse(data);
    if (frame.now) learnTime(frame.now);
    if (frame.type === "hello") {
      if (config.value && frame.version !== config.value.version) isOutdated.value = true;
      this.tries = 0;
      this.show("live");
    } else if (frame.type !== "heartbeat") {
      this.queue.push(frame);
      this.schedule();
    }
  }

  schedule() {
    if (this.scheduled || this.isPaused) return;
    this.scheduled = true;
    const flush = () => {
      this.scheduled = false;
      this.flush();
    };
    if (document.visibilityState === "hidden") setTimeout(flush, 1000);
    else requestAnimationFrame(flush);
  }

  /** Hands over what came since, in one batch a listener. */
  flush() {
    if (this.isPaused) return;
    const frames = this.queue;
    this.queue = [];
    /** @type {Map<string, LiveEvent[]>} */
    const events = new Map();
    const rows = [];
    const removed = [];
    const handEvents = (/** @type {string} */ run_id) => {
      const list = events.get(run_id);
      events.delete(run_id);
      if (list?.length) this.runsWatched.get(run_id)?.listener.events(list);
    };
    for (const frame of frames) {
      const watched = this.runsWatched.get(frame.run_id);
      if (frame.type === "event" && watched) {
        // In order and once, whatever the way did to them; a gap is asked for again.
        if (frame.seq < watched.from_seq) continue;
        if (frame.seq > watched.from_seq) {
          this.say({ type: "subscribe", run_id: frame.run_id, from_seq: watched.from_seq, ...(watched.log_id ? { log_id: watched.log_id } : {}) });
          continue;
        }
        watched.from_seq += 1;
        watched.log_id = frame.log_id;
        const list = events.get(frame.run_id);
        if (list) list.push(frame);
        else events.set(frame.run_id, [frame]);
      } else if (frame.type === "reset" && watched) {
        handEvents(frame.run_id);
        watched.from_seq = 0;
        watched.log_id = frame.log_id;
        watched.listener.reset?.(frame.log_id);
      } else if (frame.type === "resync" && watched) {
        handEvents(frame.run_id);
        watched.listener.resync?.(frame.from_seq);
      } else if (frame.type === "resync") {
        this.list?.listener.resync?.();
      } else if (frame.type === "run") {
        // A row that is too large for a frame is to be read.
        if (frame.row) rows.push(frame.row);
        else this.list?.listener.resync?.();
      } else if (frame.type === "run_removed") {
        removed.push(frame.run_id);
        watched?.listener.removed?.();
      } else if (frame.type === "error") {
        watched?.listener.problem?.(frame);
        // Refused for a while: asked again, not by all in the same instant.
        if (PASSING.has(frame.code)) setTimeout(() => this.sayAgain(frame.run_id), 2000 + Math.random() * 3000);
      }
    }
    for (const run_id of [...events.keys()]) handEvents(run_id);
    if (rows.length) this.list?.listener.rows(rows);
    if (removed.length) this.list?.listener.removed?.(removed);
    this.show();
  }

  /** @param {"off" | "connecting" | "live" | "paused" | "retrying" | "offline"} [kind] */
  show(kind) {
    const before = this.state.peek();
    let next = kind ?? before.kind;
    if (next === "live" || next === "paused") next = this.isPaused ? "paused" : "live";
    if (next === "retrying" && this.tries > 4) next = "offline";
    const since = next === "live" || next === "paused" ? this.lastFrame + skew.peek() : before.since;
    const state = { kind: next, since, tries: this.tries, waiting: this.queue.length };
    if (JSON.stringify(state) !== JSON.stringify(before)) this.state.value = state;
  }
}

export const live = new Live();
