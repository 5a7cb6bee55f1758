// What every check stands on: kahn on a folder of its own, one browser, pages that are watched, and a runner that says
// what would be lost.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const KAHN_BIN = process.env.KAHN_BIN ?? join(ROOT, "target/debug/kahn");
const CHROMIUM = process.env.KAHN_CHROMIUM ?? "/usr/bin/chromium";

/** How long anything that must happen may take: what is late on a busy machine is no fault. */
export const PATIENCE = 30_000;

const closers = [];
/** What was started is ended, the last first, whatever happened in between. */
export async function closeAll() {
  while (closers.length) await closers.pop()();
}

/** @returns {string} a new folder that is gone at the end */
export function folder(name = "kahn-ui") {
  const path = mkdtempSync(join(tmpdir(), `${name}-`));
  closers.push(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/**
 * @param {{archive?: string, fixtures?: string, args?: string[], bind?: string}} of
 * @returns {Promise<{url: string, port: number, get: (path: string) => Promise<any>, stop: () => Promise<void>}>}
 */
export async function kahn({ archive, fixtures, args = [], bind = "127.0.0.1:0" }) {
  if (!existsSync(KAHN_BIN)) throw new Error(`${KAHN_BIN} is missing: cargo build, or name another in KAHN_BIN`);
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(KAHN_|PORT$)/.test(name)));
  const where = archive ? ["--archive", archive] : ["--fixture-dir", fixtures];
  const child = spawn(KAHN_BIN, ["serve", ...where, "--bind", bind, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const url = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`kahn did not listen: ${said}`)), 3 * PATIENCE);
    const hear = (/** @type {Buffer} */ bytes) => {
      said += bytes;
      const heard = /listens on (http:\S+)\s/.exec(said);
      if (heard) { clearTimeout(late); resolve(heard[1]); }
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.once("exit", (code) => reject(new Error(`kahn ended with ${code}: ${said}`)));
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    // Not asked to be graceful: it would wait for open sockets.
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  };
  closers.push(stop);
  const get = async (path) => {
    const answer = await fetch(url + path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  };
  return { url, port: Number(new URL(url).port), get, stop };
}

/** @type {import("playwright-core").Browser | undefined} */
let browser;
/** @returns {Promise<import("playwright-core").Browser>} */
export async function theBrowser() {
  if (!browser) {
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      headless: true,
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb"],
    });
    closers.push(async () => { await browser.close(); browser = undefined; });
  }
  return browser;
}

/**
 * What a page did that no page may do. `allow` names what a check brings about itself (a cut line makes the browser say so).
 * @typedef {{faults: string[], allow: RegExp[], requests: string[]}} Watch
 */

/**
 * A page in a context of its own.
 * @param {{origin: string, theme?: "light" | "dark", width?: number, height?: number, zone?: string, still?: boolean,
 *          skew?: number, allow?: RegExp[], mobile?: boolean}} how   skew: ms by which the browser's clock is wrong
 * @returns {Promise<{page: import("playwright-core").Page, watch: Watch, cdp: import("playwright-core").CDPSession,
 *          close: () => Promise<void>}>}
 */
export async function newPage({ origin, theme = "light", width = 1440, height = 900, zone = "UTC", still = false, skew = 0,
  allow = [], mobile = false }) {
  const context = await (await theBrowser()).newContext({
    baseURL: origin, colorScheme: theme, viewport: { width, height }, timezoneId: zone, locale: "en-GB",
    reducedMotion: still ? "reduce" : "no-preference", hasTouch: mobile, isMobile: mobile,
    permissions: ["clipboard-read", "clipboard-write"],
  });
  const faults = [], requests = [];
  const fault = (/** @type {string} */ what) => { if (!watch.allow.some((known) => known.test(what))) faults.push(what); };
  const watch = { faults, allow, requests };
  context.on("request", (request) => {
    requests.push(request.url());
    if (!/^(data|blob|about):/.test(request.url()) && new URL(request.url()).origin !== origin) {
      fault(`a request that leaves the origin: ${request.url()}`);
    }
  });
  const on_their_way = new Set();
  waiting.set(context, on_their_way);
  context.on("request", (request) => on_their_way.add(request));
  for (const end of /** @type {const} */ (["requestfinished", "requestfailed"])) context.on(end, (request) => on_their_way.delete(request));
  context.on("console", (message) => {
    if (message.type() === "error") fault(`console: ${message.text()} (${message.location().url})`);
  });
  context.on("weberror", (error) => fault(`uncaught: ${error.error().stack ?? error.error()}`));
  await context.exposeFunction("__violation", (what) => fault(`CSP: ${what}`));
  await context.addInitScript((ms) => {
    addEventListener("securitypolicyviolation", (event) => {
      window["__violation"](`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
    if (!ms) return;
    const Real = Date;
    globalThis.Date = /** @type {any} */ (class extends Real {
      constructor(...given) { super(...(given.length ? given : [Real.now() + ms])); }
      static now() { return Real.now() + ms; }
    });
  }, skew);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  open.push({ context, watch });
  return { page, watch, cdp: await context.newCDPSession(page), close: () => context.close() };
}
const open = [];

/**
 * Goes there and waits until the page can be used.
 * @param {import("playwright-core").Page} page
 */
export async function visit(page, path) {
  await page.goto(path, { waitUntil: "domcontentloaded" });
  await usable(page);
}
/** The page says so itself (the mark `scope:usable`), or it has its heading and no place that waits to be filled. */
export const usable = (page) => page.waitForFunction(() => document.querySelector("main h1")
  && (performance.getEntriesByName("scope:usable").length > 0 || !document.querySelector("main .skeleton")));

/** Nothing is on its way any more, and what came has been drawn. */
export async function settled(page) {
  const quiet = () => page.evaluate(() => performance.getEntriesByType("resource").length);
  await until("all requests are answered", async () => waiting.get(page.context()).size, (count) => count === 0);
  for (let before = -1, now = await quiet(); before !== now || waiting.get(page.context()).size; before = now, now = await quiet()) {
    await drawn(page);
    await drawn(page);
  }
}
const waiting = new Map();

/** Two frames: what a change of state brings about has been drawn. */
export const drawn = (page) => page.evaluate(() => new Promise((resolve) =>
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(undefined)))));

/**
 * Waits for `is` of `read`'s value; what it last was is in the message. A read that fails (what it looks at is not on the
 * page yet) is a value that does not fit yet.
 */
export async function until(what, read, is = (value) => Boolean(value), patience = PATIENCE) {
  const end = Date.now() + patience;
  for (let last; ;) {
    try {
      last = await read();
      if (is(last)) return last;
    } catch (error) {
      last = String(error);
    }
    if (Date.now() > end) throw new Error(`${what}: still ${JSON.stringify(last)?.slice(0, 400)} after ${patience} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export class Fault extends Error {}
/** @returns {asserts value} */
export function must(value, what) {
  if (!value) throw new Fault(what);
}
export function same(is, should, what) {
  const [a, b] = [JSON.stringify(is), JSON.stringify(should)];
  if (a === b) return;
  let at = 0;
  while (a?.[at] === b?.[at]) at++;
  const cut = (text) => (text ?? "undefined").slice(Math.max(0, at - 60), at + 160);
  throw new Fault(`${what}: is ...${cut(a)}..., should be ...${cut(b)}...`);
}

const checks = [];
/**
 * @param {number} number   of the specification's table
 * @param {string} title
 * @param {string} lost     what nobody would notice if this were red and nobody looked
 * @param {() => Promise<string | void>} body   may give a note to print
 */
export const check = (number, title, lost, body) => checks.push({ number, title, lost, body });

/** Runs all, or those whose numbers are named; one line each. @returns {Promise<number>} how many failed */
export async function runChecks(wanted) {
  const chosen = checks.filter(({ number }) => !wanted.length || wanted.includes(String(number)))
    .sort((a, b) => a.number - b.number);
  let failed = 0;
  for (const { number, title, lost, body } of chosen) {
    const begun = Date.now();
    let fault = null, note = "";
    let clock;
    try {
      const late = new Promise((_, reject) => { clock = setTimeout(() => reject(new Fault("took over four minutes")), 240_000); });
      note = (await Promise.race([body(), late])) ?? "";
    } catch (error) {
      fault = error instanceof Fault ? error.message : error.stack;
    }
    clearTimeout(clock);
    const seen = open.flatMap(({ watch }) => watch.faults.splice(0));
    for (const { context } of open.splice(0)) await context.close().catch(() => {});
    if (seen.length) fault = [fault, ...new Set(seen)].filter(Boolean).slice(0, 6).join("\n      ");
    const took = `${((Date.now() - begun) / 1000).toFixed(1)} s`;
    if (fault) {
      failed++;
      console.log(`FAIL  ${number}  ${title} (${took})\n      ${fault}\n      lost: ${lost}`);
    } else {
      console.log(`ok    ${number}  ${title} (${took})${note && `\n      ${note}`}`);
    }
  }
  console.log(`${chosen.length - failed} passed, ${failed} failed`);
  if (!chosen.length) throw new Error("no check of that number");
  return failed;
}

/**
 * A line between browser and kahn that can be cut, and whose messages of the live feed can be changed on the way.
 * `mode`: "pass" · "hole" (everything stays open, nothing comes through) · "refuse" (connections end at once).
 */
export class Proxy {
  /** @param {number} port of kahn */
  static async start(port) {
    const proxy = new Proxy();
    proxy.target = port;
    proxy.server = createServer((client) => proxy.join(client));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", () => resolve(undefined)));
    proxy.url = `http://127.0.0.1:${/** @type {any} */ (proxy.server.address()).port}`;
    closers.push(() => proxy.stop());
    return proxy;
  }

  constructor() {
    this.mode = "pass";
    this.pairs = new Set();
    /** Each message of the server's becomes those that this returns. @type {(text: string) => string[]} */
    this.mangle = (text) => [text];
    this.sockets = 0;
  }

  join(client) {
    if (this.mode === "refuse") return void client.destroy();
    const server = createConnection(this.target, "127.0.0.1");
    const pair = { client, server, live: false };
    this.pairs.add(pair);
    const end = () => { client.destroy(); server.destroy(); this.pairs.delete(pair); };
    for (const side of [client, server]) side.on("error", end).on("close", end);
    client.on("data", (bytes) => {
      if (this.mode !== "pass") return;
      const head = bytes.toString("latin1");
      if (/^upgrade: *websocket/im.test(head)) {
        pair.live = true;
        this.sockets++;
        // Frames are read here, so they must come as they are.
        return void server.write(Buffer.from(head.replace(/^sec-websocket-extensions:.*\r\n/im, ""), "latin1"));
      }
      server.write(bytes);
    });
    let held = Buffer.alloc(0), shaken = false;
    server.on("data", (bytes) => {
      if (this.mode !== "pass") return;
      if (!pair.live) return void client.write(bytes);
      held = Buffer.concat([held, bytes]);
      if (!shaken) {
        const end = held.indexOf("\r\n\r\n");
        if (end < 0) return;
        client.write(held.subarray(0, end + 4));
        held = held.subarray(end + 4);
        shaken = true;
      }
      for (let frame; (frame = cutFrame(held)); held = held.subarray(frame.length)) {
        if (frame.opcode !== 1) client.write(held.subarray(0, frame.length));
        else for (const text of this.mangle(frame.payload.toString("utf8"))) client.write(textFrame(text));
      }
    });
  }

  /** The line is cut: nothing comes through any more, and nobody is told. */
  hole() { this.mode = "hole"; }
  /** The line is cut, and both sides notice. */
  cut() { this.mode = "refuse"; for (const { client, server } of this.pairs) { client.destroy(); server.destroy(); } }
  mend() {
    this.mode = "pass";
    // What went into the hole is lost; those connections cannot be continued.
    for (const { client, server } of this.pairs) { client.destroy(); server.destroy(); }
  }
  async stop() {
    for (const { client, server } of this.pairs) { client.destroy(); server.destroy(); }
    await new Promise((resolve) => this.server.close(resolve));
  }
}

/** The first frame of a server's bytes (which are never masked), or null while it is not whole. */
function cutFrame(bytes) {
  if (bytes.length < 2) return null;
  let length = bytes[1] & 127, at = 2;
  if (length === 126) { if (bytes.length < 4) return null; length = bytes.readUInt16BE(2); at = 4; }
  else if (length === 127) { if (bytes.length < 10) return null; length = Number(bytes.readBigUInt64BE(2)); at = 10; }
  if (bytes.length < at + length) return null;
  if (!(bytes[0] & 128)) throw new Error("a frame in parts, which this proxy does not join");
  return { opcode: bytes[0] & 15, payload: bytes.subarray(at, at + length), length: at + length };
}

function textFrame(text) {
  const payload = Buffer.from(text, "utf8");
  const head = payload.length < 126 ? Buffer.from([129, payload.length])
    : payload.length < 65_536 ? Buffer.from([129, 126, payload.length >> 8, payload.length & 255])
      : Buffer.concat([Buffer.from([129, 127]), eight(payload.length)]);
  return Buffer.concat([head, payload]);
}
function eight(number) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(number));
  return bytes;
}
