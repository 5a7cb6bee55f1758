// Who is in, the settings, and what the page does where the server lets nobody in. This binary serves one person, so it
// never refuses: where a title says "made up", the answers of a server with tenants are put in the place of its own.
// tests/browser/signin.mjs looks at the same with such a server and a real provider.
import { HOSTILE, ALL_HOSTILE } from "./fixtures.mjs";
import { check, drawn, must, newPage, same, settled, until, visit } from "./lib.mjs";
import { focused, openRun } from "./parts.mjs";
import { small } from "./world.mjs";

const problem = (status, code, members = {}, detail = "a sentence of the server") => ({ status, contentType: "application/problem+json",
  body: JSON.stringify({ type: `/problems/${code}`, title: code, status, detail, code, ...members, request_id: "made-up" }) });
const NOBODY = problem(401, "no_credentials");
const answer = (body, status = 200) => ({ status, contentType: "application/json", body: JSON.stringify(body) });
const ANA = { kind: "user", user: "ana", tenant: "acme", scopes: ["read", "ingest", "admin"] };
const SAID = { allow: [/status of (401|403|409|429|503)/, /WebSocket/] };

/**
 * Puts answers in the place of the server's: the first whose part the address begins with; what is null is the server's own.
 * @param {import("playwright-core").Page} page @param {Record<string, any>} answers   read anew for each request
 */
async function madeUp(page, answers) {
  await page.route(/\/(api|auth)\//, async (route, request) => {
    const path = new URL(request.url()).pathname;
    const part = Object.keys(answers).find((begin) => path.startsWith(begin));
    let made = part && answers[part];
    if (typeof made === "function") made = await made(request);
    if (path === "/api/config" && !made) {
      const response = await route.fetch();
      return route.fulfill({ response, json: { ...await response.json(), sign_in: true } });
    }
    return made ? route.fulfill(made) : route.fallback();
  });
}
const main = (page) => page.locator("main").innerText();

check(31, "settings say who is served and what this server is",
  "a page of settings that asks for what this build does not have",
  async () => {
    const server = await small();
    for (const theme of /** @type {const} */ (["light", "dark"])) {
      const { page, watch } = await newPage({ origin: server.url, theme });
      await visit(page, "/settings");
      await settled(page);
      const text = await main(page);
      for (const part of ["localhost", "read, ingest, admin", "serves one person", "cloud build adds", "10,000 events"]) must(text.includes(part), `settings do not say ${part}`);
      must(!/Revoke|Export|Sign/.test(text), "settings offer what only tenants have");
      must(await page.locator(".do-who, header a[href^='/auth']").count() === 0, "the bar shows an account where one person is served");
      same(watch.requests.filter((url) => /api\/(keys|billing|activity)/.test(url)), [], "what is asked of a server without tenants");
      await page.goto("/runs");
      await page.locator("h1").waitFor();
      await page.keyboard.press("g");
      await page.keyboard.press("s");
      await until("g s opens the settings", () => main(page), (now) => now.includes("This server"));
      same(await page.title(), "Settings · kahn", "the tab's title");
    }
  });

check(32, "whoever is not signed in sees the way in and nothing else (made up)",
  "a wall of errors as the first thing that somebody sees of kahn",
  async () => {
    const server = await small();
    const { page, watch } = await newPage({ origin: server.url, ...SAID });
    await page.addInitScript(() => {
      window["__said"] = [];
      new MutationObserver(() => {
        const text = document.querySelector("main")?.textContent.trim();
        if (text && window["__said"].at(-1) !== text) window["__said"].push(text);
      }).observe(document, { subtree: true, childList: true, characterData: true });
    });
    await madeUp(page, { "/api/config": null, "/api": NOBODY });
    for (const path of ["/runs?window=all&q=sma", "/compare?base=small-1&head=small-2", "/settings", "/agents?window=all"]) {
      await page.goto(path);
      const link = page.locator("main a", { hasText: "Sign in" });
      await link.waitFor();
      await settled(page);
      same(await link.getAttribute("href"), `/auth/login?return_to=${encodeURIComponent(path).replaceAll("%20", "+")}`, "where to come back to");
      const said = await page.evaluate(() => window["__said"]);
      must(said.every((text) => !/could not|401|error/i.test(text)), `${path} flashed ${JSON.stringify(said)}`);
      same(await page.locator("main h1").allInnerTexts(), ["Sign in"], `${path}: headings`);
      same(await page.locator(".error-card, .sh-banners .banner, .sh-nav a").count(), 0, `${path}: errors, banners, pages to go to`);
    }
    must(watch.requests.filter((url) => url.includes("/auth/")).length === 0, "somebody was sent away without having asked");
  });

check(33, "a session that ends keeps the page and hears no more (made up)",
  "an hour's reading lost to an expired cookie, or a socket that knocks for ever",
  async () => {
    const server = await small();
    const { page, watch } = await newPage({ origin: server.url, ...SAID });
    let sockets = 0, end;
    await page.routeWebSocket(/\/ws\/live/, (socket) => {
      sockets++;
      const there = socket.connectToServer();
      end = async () => { await socket.close({ code: 4401, reason: "rights ended" }); await there.close(); };
    });
    const answers = { "/api/config": null, "/api/me": answer(ANA), "/api": null };
    await madeUp(page, answers);
    await openRun(page, "/runs/small-1?view=graph&node=api");
    await page.goto("/runs?window=all&q=small");
    await page.locator('[role="grid"] .vl-row').first().waitFor();
    await until("the account is in the bar", () => page.locator(".do-who summary").innerText(), (text) => text.includes("acme") && text.includes("ana"));
    await until("a socket is open", () => page.locator("#connection").innerText(), (text) => /Live/.test(text));
    const rows = await page.locator('[role="grid"] .vl-row').allInnerTexts();
    Object.assign(answers, { "/api/me": NOBODY, "/api": NOBODY });
    await end();
    const banner = page.locator(".sh-banners .banner", { hasText: "Your session ended. Sign in again to continue from here." });
    await banner.waitFor();
    same((await page.locator('[role="grid"] .vl-row').allInnerTexts()).length, rows.length, "the rows that were there");
    must(await page.locator("main").evaluate((el) => /** @type {HTMLElement} */ (el).inert && Number(getComputedStyle(el).opacity) < 1), "the page is not dimmed");
    same(await page.locator(".banner a").getAttribute("href"), `/auth/login?return_to=${encodeURIComponent("/runs?window=all&q=small")}`, "where to come back to");
    const before = sockets, asked = watch.requests.length;
    // Longer than the first tries to connect again.
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 3000)));
    same(sockets, before, "sockets after the one that was closed with 4401");
    same(watch.requests.slice(asked).filter((url) => !url.includes("/api/config")), [], "what was asked after that");
    must(await page.locator("#connection").count() === 0, "the chip tells of a connection");
    // Another page cannot be shown: the way in takes its place.
    await page.locator(".sh-nav a", { hasText: "Nodes" }).click();
    await page.locator("main h1", { hasText: "Sign in" }).waitFor();
    must(!(await main(page)).includes("small-1"), "the former page is still there");
  });

check(34, "nothing of a person stays after signing out or for the next one (made up)",
  "the Back button that shows another tenant's runs",
  async () => {
    const server = await small();
    const { page } = await newPage({ origin: server.url, ...SAID });
    const answers = { "/api/config": null, "/api/me": answer(ANA), "/api": null, "/auth/logout": (request) => {
      same(request.method(), "POST", "how one signs out");
      Object.assign(answers, { "/api/me": NOBODY, "/api": NOBODY });
      return answer({ continue_at: "/runs" });
    } };
    await madeUp(page, answers);
    // Another page of the same browser hears of it.
    const other = await page.context().newPage();
    await madeUp(other, answers);
    await visit(other, "/runs?window=all");
    await other.locator(".do-who").waitFor();
    await visit(page, "/runs?window=all&q=small");
    await visit(page, "/runs?window=all");
    await page.locator('[role="grid"] .vl-row').first().waitFor();
    await page.locator(".do-who summary").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Sign out" }).waitFor();
    await page.keyboard.press("Escape");
    must(/Account/.test(await focused(page)) && await page.getByRole("button", { name: "Sign out" }).isHidden(), "Escape does not close the menu and give the focus back");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.locator("main h1", { hasText: "Sign in" }).waitFor();
    await other.locator("main h1", { hasText: "Sign in" }).waitFor();
    for (const one of [page, other]) must(!/small-|acme|ana\b/.test(await one.locator("html").innerHTML()), "something of the former person is in the document");
    await page.goBack();
    await until("Back shows the way in", () => main(page), (text) => text.includes("Sign in"));
    must(!(await page.locator("html").innerHTML()).includes("small-"), "Back shows the former person's runs");
    same(await page.evaluate(() => [sessionStorage.length, JSON.stringify(history.state)]), [0, "null"], "what the tab keeps");
    // Somebody else signed in elsewhere: this page begins anew as theirs.
    Object.assign(answers, { "/api/me": answer(ANA), "/api": null });
    await visit(page, "/runs?window=all&q=small");
    await page.locator(".do-who", { hasText: "acme" }).waitFor();
    await page.evaluate(() => (window["__mark"] = 1));
    Object.assign(answers, { "/api/me": answer({ ...ANA, user: "bo", tenant: "globex" }) });
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await page.locator(".do-who", { hasText: "globex" }).waitFor();
    same(await page.evaluate(() => window["__mark"] ?? null), null, "the page of the former tenant went on");
  });

check(35, "a refusal says what is missing, a pause when it goes on (made up)",
  "a red card with a number, and nobody who knows whom to ask",
  async () => {
    const server = await small();
    {
      const { page, close } = await newPage({ origin: server.url, ...SAID });
      await madeUp(page, { "/api/config": null, "/api/me": answer({ ...ANA, scopes: ["ingest"] }), "/api": problem(403, "insufficient_scope", { scope: "read" }) });
      await page.goto("/runs");
      await until("the tenant and the scope are named", () => main(page), (text) => text.includes("acme") && text.includes("needs the scope read") && text.includes("ingest"));
      must(await page.locator("main").getByRole("button", { name: "Sign out" }).isVisible(), "no way to be somebody else");
      await close();
    }
    {
      const { page, close } = await newPage({ origin: server.url, ...SAID });
      await madeUp(page, { "/api/config": null, "/api": problem(403, "insufficient_scope", {}, "this account belongs to no tenant here; whoever runs this server adds one") });
      await page.goto("/runs/small-1");
      await until("it is told that there is no tenant", () => main(page), (text) => text.includes("This account belongs to no tenant here"));
      await close();
    }
    for (const [status, code, words] of /** @type {const} */ ([[429, "rate_limited", "requests are used up"], [503, "provider_unavailable", "identity provider cannot be reached"]])) {
      const { page, close } = await newPage({ origin: server.url, ...SAID });
      let refusals = 0;
      await madeUp(page, { "/api/config": null, "/api/me": answer(ANA), "/api/runs": () => (refusals++ ? null : problem(status, code, { retry_after_s: 2 })), "/api": null });
      await page.goto("/runs?window=all");
      await until(`${code} is told`, () => page.locator(".sh-banners").innerText(), (text) => text.includes(words) && /goes on by itself in \d s/.test(text));
      await page.locator('[role="grid"] .vl-row').first().waitFor();
      await until("and taken back", () => page.locator(".sh-banners .banner").count(), (n) => n === 0);
      same(await page.locator(".error-card").count(), 0, "errors");
      must(refusals === 2, `${refusals} requests for one answer`);
      await close();
    }
  });

/** A tenant's account, made up: two keys of hostile names, some use and a long activity. */
function account() {
  const at = (hours) => new Date(Date.now() - hours * 3_600_000).toISOString();
  const keys = [
    { key_id: "k1", label: ALL_HOSTILE, scope: "ingest", prefix: "a1b2c3d4", created: at(50), expires: null, revoked: null, last_used: at(1) },
    { key_id: "k2", label: HOSTILE.wide, scope: "read", prefix: "a1b2c3d4", created: at(90), expires: at(-20), revoked: null, last_used: null },
    { key_id: "k3", label: "gone", scope: "read", prefix: "a1b2c3d4", created: at(99), expires: null, revoked: at(2), last_used: at(3) },
  ];
  const activity = Array.from({ length: 120 }, (_, n) => ({ at: at(n), actor: n === 1 ? `user:${ALL_HOSTILE}` : "user:ana", action: n % 2 ? "key_made" : "signed_in", target: n === 2 ? HOSTILE.wide : `t-${n}` }));
  const usage = Array.from({ length: 40 }, (_, n) => ({ day: at(24 * (39 - n)).slice(0, 10), events: 1000 * n, bytes: 300_000 * n }));
  return {
    "/api/config": null,
    "/api/me": answer({ ...ANA, user: ALL_HOSTILE, tenant: HOSTILE.wide }),
    "/api/billing": answer({ plan: "beta", retention_days: 90, rate_per_s: 1000, burst: 20000, usage }),
    "/api/keys/k1/rotate": () => answer({ ...keys.find(({ key_id }) => key_id === "k1"), key_id: "k4", key: `kahn_live_sk_a1b2c3d4_${"R".repeat(49)}` }, 201),
    "/api/keys/k1": () => { keys.find(({ key_id }) => key_id === "k1").revoked = at(0); return { status: 204 }; },
    "/api/keys": async (request) => {
      if (request.method() === "GET") return answer({ items: keys });
      const { label, scope } = request.postDataJSON();
      if (label === "third") return problem(409, "too_many_keys", {}, "two keys of the scope ingest are live already; revoke one of them first");
      const made = { key_id: "k5", label, scope, prefix: "a1b2c3d4", created: at(0), expires: null, revoked: null, last_used: null };
      keys.unshift(made);
      return answer({ ...made, key: `kahn_live_sk_a1b2c3d4_${"M".repeat(49)}` }, 201);
    },
    "/api/activity": (request) => {
      const query = new URL(request.url()).searchParams, from = Number(query.get("cursor") ?? 0), to = from + Number(query.get("limit"));
      return answer({ items: activity.slice(from, to), next_cursor: to < activity.length ? String(to) : null });
    },
    "/api": null,
  };
}

check(36, "keys, plan and activity, by keys alone and with hostile names (made up)",
  "a key that is shown twice, or a name that is a script",
  async () => {
    const server = await small();
    for (const [width, theme] of /** @type {const} */ ([[1440, "light"], [390, "dark"], [320, "light"]])) {
      const { page, close } = await newPage({ origin: server.url, theme, width, mobile: width < 500, ...SAID });
      await madeUp(page, account());
      await visit(page, "/settings");
      await page.locator("tbody tr").nth(20).waitFor();
      await settled(page);
      const unharmed = async () => {
        same(await page.evaluate(() => window["__owned"] ?? null), null, "a script of a name ran");
        same(await page.locator("main img, main script, main [onmouseover], a[href^='javascript:'], header img").count(), 0, "elements that a name made");
        const wide = await page.evaluate(() => [...document.querySelectorAll("main *, header *")].filter((el) => el.getBoundingClientRect().right > innerWidth + 1)
          .map((el) => `${el.localName}.${el.className} ${Math.round(el.getBoundingClientRect().right)}`).slice(0, 3));
        must(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `at ${width} px too wide: ${wide}`);
        const text = await page.locator("body").innerText();
        must(!/[\u202a-\u202e\u2066-\u2069\u001b]/.test(text), "a name turns the direction of text");
        return text;
      };
      const text = await unharmed();
      for (const part of [HOSTILE.img, "\\u{202e}", "beta", "90 days", "1,000 events or requests", "made a key", "signed in", "Revoked", "never"]) must(text.includes(part), `settings do not show ${part}`);
      await page.locator(".do-who summary").click();
      await unharmed();
      await page.keyboard.press("Escape");
      must(await page.locator(".do-who[open]").count() === 0, "Escape does not close the menu");
      // A key is made, seen once, and hidden.
      await page.getByLabel("Label").focus();
      await page.keyboard.type("third");
      await page.keyboard.press("Enter");
      await page.getByRole("alert").filter({ hasText: "revoke one of them first" }).waitFor();
      await page.keyboard.press("ControlOrMeta+a");
      await page.keyboard.type("nightly");
      await page.keyboard.press("Enter");
      const secret = `kahn_live_sk_a1b2c3d4_${"M".repeat(49)}`;
      await page.locator(".se-key", { hasText: secret }).waitFor();
      must(/Copy the key/.test(await focused(page)), `the focus is on ${await focused(page)}`);
      await unharmed();
      await page.keyboard.press("Enter");
      await until("the key is copied", () => page.evaluate(() => navigator.clipboard.readText()), (copied) => copied === secret);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await until("the key is hidden", () => page.locator("html").innerHTML(), (now) => !now.includes(secret));
      must(/Keys/.test(await focused(page)), `after hiding, the focus is on ${await focused(page)}`);
      await page.locator("tbody th", { hasText: "nightly" }).waitFor();
      // So is one that takes the place of another.
      await page.locator("tr", { hasText: HOSTILE.img }).getByRole("button", { name: "Rotate" }).first().press("Enter");
      await page.locator("dialog[open]").getByRole("button", { name: "Rotate the key" }).press("Enter");
      await page.locator(".se-key", { hasText: "RRRR" }).waitFor();
      await until("the focus is on what to do with it", () => focused(page), (name) => /Copy the key/.test(name));
      await unharmed();
      await page.getByRole("button", { name: "I have it, hide it" }).press("Enter");
      // Escape leaves a key as it is, and gives the focus back.
      const revoke = page.locator("tr", { hasText: HOSTILE.img }).getByRole("button", { name: "Revoke" }).first();
      await revoke.focus();
      await page.keyboard.press("Enter");
      await page.locator("dialog[open]").waitFor();
      await unharmed();
      must(/Cancel/.test(await focused(page)), `the dialog opens on ${await focused(page)}`);
      await page.keyboard.press("Escape");
      await until("the focus is back", () => focused(page), (name) => /Revoke/.test(name));
      await page.keyboard.press("Enter");
      await page.locator("dialog[open]").getByRole("button", { name: "Revoke the key" }).press("Enter");
      await until("the key is revoked", () => page.locator("tr", { hasText: HOSTILE.img }).first().innerText(), (row) => row.includes("Revoked"));
      must(await page.locator("dialog[open]").count() === 0 && await focused(page) !== null, "the focus is lost with the dialog");
      // Earlier lines come to those that are there.
      const lines = page.locator("[aria-labelledby=se-activity] tbody tr");
      same(await lines.count(), 50, "lines at first");
      for (const count of [100, 120]) {
        await page.getByRole("button", { name: "Earlier" }).click();
        await until(`${count} lines`, () => lines.count(), (now) => now === count);
      }
      same(await page.getByRole("button", { name: "Earlier" }).count(), 0, "more to read at the end");
      same(await page.getByRole("link", { name: "Export all" }).getAttribute("href"), "/api/activity?format=ndjson", "the export");
      await drawn(page);
      await close();
    }
  });
