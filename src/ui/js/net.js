// What the page asks the server, and what the server tells it: answers, problems, the live socket.
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
/** Whether the server refused for want of a key that it knows. */
export const isShut = signal(false);
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
  if (element?.textContent) {
    for (const [path, body] of Object.entries(JSON.parse(element.textContent))) boot.set(path, /** @type {string} */ (body));
    element.remove();
    // What is asked later is asked for its news.
    setTimeout(() => boot.clear(), 5000);
  }
}

/** What came with the page for this address, for as long as it is fresh. @param {string} path @returns {any} */
export function firstAnswer(path) {
  const body = boot.get(path);
  return body === undefined ? null : JSON.parse(body);
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
  /** @type {Response} */
  let response;
  let body;
  try {
    response = await fetch(path, { signal: abort, headers: key.value ? { authorization: `Bearer ${key.value}` } : {} });
    body = await response.text();
  } catch (error) {
    if (abort?.aborted) throw error;
    throw new ApiProblem(0, null);
  }
  if (response.ok) return { body, headers: response.headers };
  let problem = null;
  try {
    problem = JSON.parse(body);
  } catch {
    // A proxy's page, say: the status tells what there is to tell.
  }
  if (response.status === 401 || problem?.code === "insufficient_scope") isShut.value = true;
  throw new ApiProblem(response.status, problem);
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

/** @typedef {{seq: number, line: string | null, bytes?: number, log_id: string}} LiveEvent */
/** @typedef {{events: (list: LiveEvent[]) => void, resync?: (from_seq: number) => void, reset?: (log_id: string) => void, removed?: () => void, problem?: (error: any) => void}} RunListener */
/** @typedef {{rows: (list: any[]) => void, removed?: (list: string[]) => void, resync?: () => void}} ListListener */

/** Seconds without a frame after which the connection counts as lost; heartbeats come every 5. */
const SILENT_MS = 12_000;
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
    return this.runsWatched.size > 0 || this.list !== null;
  }

  closeWhenUnused() {
    // Leaving one page for another closes nothing: the next one listens a moment later.
    setTimeout(() => {
      if (this.isWanted()) return;
      clearTimeout(this.timer);
      this.queue = [];
      this.drop();
      this.tries = 0;
      this.show("off");
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
    if (this.socket) return;
    clearTimeout(this.timer);
    const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/live`;
    // A browser's socket takes no Authorization header; the key goes where the server looks for it instead.
    const socket = key.value ? new WebSocket(address, ["kahn.bearer", key.value]) : new WebSocket(address);
    this.socket = socket;
    this.lastFrame = Date.now();
    if (this.tries === 0) this.show("connecting");
    socket.onopen = () => {
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
    socket.onclose = () => {
      this.socket = null;
      this.again();
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
