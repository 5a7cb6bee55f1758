// Who is in: the account in the bar, signing in and out, and that nothing of one person is left for the next.
import { effect, html, useEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { href, route, styled } from "./app.js";
import { visible } from "./fmt.js";
import { api, ask, asksWho, config, key, live, me, send, shut } from "./net.js";

await styled("who");

/** Where a person signs in, to come back to what is shown now. */
export const signInAddress = () => {
  const { path, query } = route.value;
  return href("/auth/login", { return_to: href(path, Object.fromEntries(query)) });
};

/** Tells the other pages of this browser who is in. */
const others = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("kahn");
const nameOf = (/** @type {any} */ who) => (who ? JSON.stringify([who.kind, who.user, who.tenant]) : "");

/** Asks who this is. */
async function loadMe() {
  me.value = await api("/api/me");
  const name = nameOf(me.value);
  if (key.peek() !== null) return;
  if (sessionStorage.getItem("kahn.who") !== name) {
    sessionStorage.clear();
    sessionStorage.setItem("kahn.who", name);
  }
  others?.postMessage(name);
}

/** What this tab keeps of where somebody was. */
function forget() {
  sessionStorage.clear();
  history.replaceState(null, "");
}
effect(() => {
  if (shut.value && !shut.value.wasIn) forget();
});

const root = document.documentElement;
/** Until it is known again who looks, nothing is to be seen. */
const veil = () => (root.dataset.veiled = "");

/**
 * Goes on as if this page had just been opened: nothing of before stays, neither on the screen nor in memory.
 * @param {string} [address] where, else here
 */
function startAnew(address) {
  veil();
  live.stop();
  forget();
  if (address) location.replace(address);
  else location.reload();
}

/** Asks whether the server still means the same person, and starts anew where it does not. */
async function askAgain() {
  const isVeiled = "veiled" in root.dataset;
  if (asksWho() && (me.peek() || shut.peek())) {
    const { status, body } = await ask("/api/me", {}).catch(() => ({ status: 0, body: "" }));
    const before = shut.peek()?.why === "nobody" || shut.peek()?.why === "tenant" ? "" : nameOf(me.peek());
    const now = status === 200 ? nameOf(JSON.parse(body)) : status === 401 || status === 403 ? "" : null;
    // Without an answer the page goes on as it is, unless it would have to be shown again for that.
    if (now === null ? isVeiled : now !== before) return startAnew();
  }
  delete root.dataset.veiled;
}

/** Signs out, here and in the other pages of this browser. */
async function signOut() {
  const { continue_at } = await send("POST", "/auth/logout");
  others?.postMessage("");
  startAnew(continue_at);
}

others?.addEventListener("message", ({ data }) => {
  if (key.peek() !== null) return;
  if (me.peek() !== null && data !== nameOf(me.peek())) startAnew();
  else if (shut.peek()) void askAgain();
});
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && void askAgain());
// A page that the browser keeps is shown as it was before anybody can ask.
addEventListener("pagehide", () => asksWho() && veil());
addEventListener("pageshow", (event) => event.persisted && void askAgain());

/** A button that signs out, and says when that did not work. */
export function SignOut() {
  const [state, setState] = useState({ isBusy: false, error: "" });
  const leave = () => {
    setState({ isBusy: true, error: "" });
    signOut().catch((error) => setState({ isBusy: false, error: error.message }));
  };
  return html`<button class="btn" disabled=${state.isBusy} onClick=${leave}>Sign out</button>
    ${state.error && html`<p role="alert">You are still signed in: ${visible(state.error)}</p>`}`;
}

export const scopesOf = (/** @type {any} */ who) => (who.scopes.length ? who.scopes.join(", ") : "none");

/** In the bar: the tenant and the person, with what they can do; or the way in. */
export function Who() {
  const menu = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  const who = me.value;
  const [error, setError] = useState("");
  useEffect(() => {
    loadMe().then(() => setError(""), (error) => setError(error.message));
  }, [key.value]);
  useEffect(() => {
    if (!who) return undefined;
    const shutOutside = (/** @type {Event} */ event) => {
      if (menu.current?.open && !menu.current.contains(/** @type {Node} */ (event.target))) menu.current.open = false;
    };
    document.addEventListener("pointerdown", shutOutside);
    document.addEventListener("focusin", shutOutside);
    return () => {
      document.removeEventListener("pointerdown", shutOutside);
      document.removeEventListener("focusin", shutOutside);
    };
  }, [who]);
  const isOut = shut.value?.why === "nobody";
  if (error) return html`<span class="muted" role="status">Who you are is not known: ${visible(error)}</span>`;
  if (!who || isOut) {
    return isOut && config.value?.sign_in && !key.value ? html`<a class="btn" href=${signInAddress()}>Sign in</a>` : null;
  }
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || !menu.current?.open) return;
    event.stopPropagation();
    menu.current.open = false;
    menu.current.querySelector("summary")?.focus();
  };
  const close = () => menu.current && (menu.current.open = false);
  return html`<details class="do-who" ref=${menu} onKeyDown=${onKeyDown}>
    <summary class="btn"><span class="visually-hidden">Account: </span><bdi class="do-tenant">${visible(who.tenant ?? "no tenant")}</bdi>
      <bdi class="do-user muted">${visible(who.user)}</bdi></summary>
    <div class="do-menu">
      <p><bdi>${visible(who.user)}</bdi><br /><span class="muted">in <bdi>${visible(who.tenant ?? "no tenant")}</bdi>, scopes: ${scopesOf(who)}</span></p>
      <a class="btn" href="/settings" onClick=${close}>Settings</a>
      ${key.value
        ? html`<button class="btn" onClick=${() => location.reload()}>Forget the key</button>`
        : who.kind === "user" && html`<${SignOut} />`}
    </div>
  </details>`;
}
