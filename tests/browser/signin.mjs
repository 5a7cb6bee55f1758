// A person with a browser at the cloud build: a real provider (tests/airlock), a real database (tests/cluster), two tenants.
// node signin.mjs [NUMBER...]; tests/signin has what it needs.
import { execFileSync, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { KAHN_BIN, PATIENCE, ROOT, check, closeAll, folder, must, newPage, runChecks, same, until } from "./lib.mjs";

const ends = [];
const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(KAHN_|PORT$)/.test(name)));

/** A program that says one line of JSON when it is ready, and lives until its input closes. */
async function helper(script) {
  const child = spawn(join(ROOT, script), { stdio: ["pipe", "pipe", "inherit"], env: clean });
  ends.push(() => new Promise((resolve) => { child.once("exit", resolve); child.stdin.end(); }));
  const said = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", resolve);
    child.once("exit", (code) => reject(new Error(`${script} ended with ${code}`)));
  });
  return JSON.parse(said);
}

const freePort = () => new Promise((resolve) => {
  const server = createServer();
  server.listen(0, "127.0.0.1", () => {
    const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
    server.close(() => resolve(port));
  });
});

const run = (args, env) => execFileSync(KAHN_BIN, args, { env: { ...clean, ...env }, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

const start = (run_id) => `${JSON.stringify({ ts: new Date().toISOString(), run_id, event: "run_start", total_nodes: 1 })}\n`;
const beat = (run_id) => `${JSON.stringify({ ts: new Date().toISOString(), run_id, event: "heartbeat" })}\n`;

/** The server with its tenants, made when the first check wants it. */
let made;
const world = () => (made ??= make());
async function make() {
  const [cluster, airlock] = await Promise.all([helper("tests/cluster"), helper("tests/airlock/airlock")]);
  const files = folder("kahn-signin");
  const file = (name, text) => { const path = join(files, name); writeFileSync(path, text, { mode: 0o600 }); return path; };
  const admin = { KAHN_ADMIN_DATABASE_URL: cluster.admin_dsn };
  run(["migrate", "--app-password-file", file("app.pw", "of-tests\n")], admin);
  const key = (name) => run(["tenant", "provision", name, "--org", `org_${name}`, "--scope", "ingest"], admin)
    .split("\n").find((line) => line.startsWith("kahn_live_sk_"));
  const keys = { acme: key("acme"), globex: key("globex") };
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const client = { client_id: "kahn", redirect_uris: [`${url}/auth/callback`], post_logout_redirect_uris: [`${url}/`] };
  const told = await fetch(`${airlock.control}/control/client`, { method: "POST", body: JSON.stringify(client) });
  must(told.ok, "the provider does not know the server");
  const env = {
    ...clean, KAHN_DATABASE_URL: cluster.admin_dsn.replace("postgres@", "kahn_app:of-tests@"), KAHN_AGENT_VIEWS: "on",
    KAHN_OIDC_ISSUER: airlock.issuer, KAHN_OIDC_AUDIENCE: airlock.audience, KAHN_OIDC_CLIENT_ID: airlock.client_id,
    KAHN_OIDC_CLIENT_SECRET_FILE: file("client.pw", airlock.client_secret), KAHN_PUBLIC_URL: url,
    KAHN_SESSION_KEY_FILE: file("session.key", "a key of tests, as long as it has to be"),
  };
  const child = spawn(KAHN_BIN, ["serve", "--bind", `127.0.0.1:${port}`], { env, stdio: ["ignore", "ignore", "pipe"] });
  ends.push(() => new Promise((resolve) => { child.once("exit", resolve); child.kill("SIGKILL"); }));
  let said = "";
  await new Promise((resolve, reject) => {
    child.stderr.on("data", (bytes) => { said += bytes; if (/listens on /.test(said)) resolve(undefined); });
    child.once("exit", (code) => reject(new Error(`kahn ended with ${code}: ${said}`)));
  });
  const push = async (tenant, body, query = "") => {
    const answer = await fetch(`${url}/v1/ingest/transitions${query}`, {
      method: "POST", body, headers: { authorization: `Bearer ${keys[tenant]}`, "content-type": "application/x-ndjson" },
    });
    must(answer.ok, `a batch is answered ${answer.status}: ${await answer.text()}`);
  };
  for (const tenant of ["acme", "globex"]) await push(tenant, start(`of-${tenant}`));
  return { url, issuer: airlock.issuer, push, log: () => said };
}

/** A browser that nobody signed in with. The provider's own page is no fault. */
async function browser() {
  const { url, issuer } = await world();
  const allow = [new RegExp(`leaves the origin: ${issuer}`), new RegExp(`console: .*${issuer}`), /status of 40[134]/, /WebSocket/];
  const opened = await newPage({ origin: url, allow });
  return { ...opened, context: opened.page.context() };
}

/** What the browser keeps of the server. Cookies know no ports: the provider's stand beside them. */
const kept = async (context) => (await context.cookies()).filter(({ name }) => name.startsWith("kahn"));

const main = (page) => page.locator("main").innerText();

/** Signs in from wherever the page is, and comes back to it. */
async function signIn(page, account) {
  await page.locator("main a", { hasText: "Sign in" }).click();
  await page.locator("input[name=account]").fill(account);
  await page.locator("button", { hasText: "Sign in" }).click();
  await page.waitForURL((address) => !address.pathname.includes("interaction"));
}

/** Whether the socket of this page is open, as the page says it. */
const isLive = (page) => until("the live feed is open", () => page.evaluate(async () => {
  const chip = document.querySelector("header")?.textContent ?? "";
  return /live/i.test(chip);
}));

check(1, "a person signs in, sees their tenant's runs and no others, and follows one live",
  "signing in, or the wall between two tenants in one browser's eyes",
  async () => {
    const { url, push } = await world();
    const { page, context } = await browser();
    await page.goto("/runs?window=all");
    await signIn(page, "ada@acme");
    await until("the way back", () => page.url(), (now) => now === `${url}/runs?window=all`);
    await until("the list", () => main(page), (text) => text.includes("of-acme"));
    must(!(await main(page)).includes("of-globex"), "another tenant's run is listed");
    await until("the tenant in the bar", () => page.locator("header").innerText(), (text) => text.includes("acme"));
    const cookies = await kept(context);
    same(cookies.map(({ name, httpOnly, sameSite }) => ({ name, httpOnly, sameSite })),
      [{ name: "kahn_session", httpOnly: true, sameSite: "Lax" }], "what the browser keeps");
    same((await page.evaluate(() => document.cookie)).includes("kahn"), false, "a script can read it");
    await page.goto("/runs/of-acme");
    await page.locator("main h1").waitFor();
    await isLive(page);
    const count = () => page.evaluate(() => fetch("/api/runs/of-acme").then((answer) => answer.json()).then((run) => JSON.stringify(run).length));
    const before = await count();
    await push("acme", beat("of-acme"), "?from_seq=1");
    await until("the run's new event", count, (now) => now !== before);
    await page.goto("/runs/of-globex");
    await until("no such run", () => main(page), (text) => /no run|unknown|not found|there is no/i.test(text));

    // Out: nothing is left behind, not by the back button either.
    await page.goto("/runs/of-acme");
    await page.locator("main h1").waitFor();
    await page.locator("header details summary").click();
    await page.locator("header button", { hasText: "Sign out" }).click();
    await page.locator("button", { hasText: "Sign out" }).last().click();
    await until("the way home", () => page.url(), (now) => now.startsWith(`${url}/`));
    await page.locator("main a", { hasText: "Sign in" }).waitFor();
    same(await kept(context), [], "what the browser still keeps");
    for (let back = 0; back < 4; back++) {
      await page.goBack().catch(() => null);
      if (!page.url().startsWith(url)) continue;
      await until("the sign-in card", () => main(page), (text) => /sign in/i.test(text));
      must(!(await page.content()).includes("of-acme</"), "the back button shows a run");
    }

    // The next person at this machine is somebody else's.
    await page.goto("/runs?window=all");
    await signIn(page, "bob@globex");
    await until("the other list", () => main(page), (text) => text.includes("of-globex"));
    must(!(await main(page)).includes("of-acme"), "the former tenant's run is listed");
  });

check(2, "an account without a tenant is told so",
  "a blank page, or a loop of signing in, for whoever was not provisioned",
  async () => {
    const { page } = await browser();
    await page.goto("/runs");
    await signIn(page, "nobody");
    await until("the refusal", () => main(page), (text) => /belongs to no tenant/i.test(text));
  });

check(3, "a session that is changed or gone shows the way in and no run",
  "a page that goes on showing what its reader may not see",
  async () => {
    const { page, context } = await browser();
    await page.goto("/runs/of-acme");
    await signIn(page, "ada@acme");
    await until("the run", () => main(page), (text) => text.includes("of-acme"));
    const [session] = await kept(context);
    const middle = Math.floor(session.value.length / 2);
    const other = session.value[middle] === "A" ? "B" : "A";
    await context.addCookies([{ ...session, value: session.value.slice(0, middle) + other + session.value.slice(middle + 1) }]);
    await page.reload();
    await page.locator("main a", { hasText: "Sign in" }).waitFor();
    must(!(await page.content()).includes("id=\"boot\""), "the page holds answers");
    await context.clearCookies();
    await page.goto("/runs/of-acme");
    await page.locator("main a", { hasText: "Sign in" }).waitFor();
  });

check(4, "an open page loses its feed when its person signs out in another tab",
  "a tab on a shared screen that goes on telling what happens",
  async () => {
    const { page, context } = await browser();
    await page.goto("/runs?window=all");
    await signIn(page, "ada@acme");
    await until("the list", () => main(page), (text) => text.includes("of-acme"));
    await isLive(page);
    const other = await context.newPage();
    await other.goto("/runs?window=all");
    await other.locator("main h1").waitFor();
    const status = await other.evaluate(() => fetch("/auth/logout", { method: "POST" }).then((answer) => answer.status));
    same(status, 200, "signing out");
    const begun = Date.now();
    await page.getByText("Your session ended").first().waitFor({ timeout: PATIENCE });
    const took = Date.now() - begun;
    must(took < 6000, `the first tab is told after ${took} ms`);
    return `told after ${took} ms`;
  });

check(5, "no secret of a sign-in is in the server's log",
  "whoever reads the log could be whoever signed in",
  async () => {
    const { log } = await world();
    const { page, context, watch } = await browser();
    await page.goto("/runs");
    await signIn(page, "ada@acme");
    await until("the list", () => main(page), (text) => text.includes("of-acme"));
    const [session] = await kept(context);
    const secrets = watch.requests.filter((address) => address.includes("/auth/callback?"))
      .flatMap((address) => [...new URL(address).searchParams.entries()]).filter(([name]) => name !== "iss").map(([, value]) => value);
    must(secrets.length >= 2, "the answer of the provider was not seen");
    for (const secret of [...secrets, session.value]) must(!log().includes(secret.slice(0, 16)), "a secret is in the log");
  });

let failed = 1;
try {
  failed = await runChecks(process.argv.slice(2));
} finally {
  await closeAll();
  while (ends.length) await ends.pop()();
}
process.exit(failed ? 1 : 0);
