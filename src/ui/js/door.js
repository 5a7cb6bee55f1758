// What stands before those who are not in: the way in, a key, a refusal, a pause that the server wants.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/ui-runtime.js";
import { setTitle, settings } from "./app.js";
import { clock, visible } from "./fmt.js";
import { config, goOn, held, key, letIn, me, shut } from "./net.js";
import { SignOut, scopesOf, signInAddress } from "./who.js";

/** Over a page whose reader's session ended. */
export function SignedOut() {
  const link = useRef(/** @type {HTMLAnchorElement | null} */ (null));
  useLayoutEffect(() => {
    const main = document.getElementById("main");
    main?.querySelectorAll("dialog[open]").forEach((dialog) => /** @type {HTMLDialogElement} */ (dialog).close());
    const at = document.activeElement;
    if (at === null || at === document.body || main?.contains(at)) link.current?.focus({ preventScroll: true });
  }, []);
  return html`<div class="banner warn" role="alert">
    <span><strong>Your session ended.</strong> Sign in again to continue from here. What you see is from ${clock(shut.value?.since ?? 0, { utc: settings.utc.value })}.</span>
    <a class="btn" ref=${link} href=${signInAddress()}>Sign in again</a>
  </div>`;
}

const REASONS = /** @type {Record<string, string>} */ ({
  rate_limited: "The plan's requests are used up for now.",
  too_many_failures: "Too many bad credentials came from this address.",
  provider_unavailable: "The identity provider cannot be reached right now.",
  credentials_unavailable: "Who asks cannot be found out right now.",
});

/** Why nothing new comes for a while, and when it goes on. */
export function Held() {
  const why = held.value;
  const [, tick] = useState(0);
  useEffect(() => {
    if (why === null) return undefined;
    const timer = setInterval(() => {
      tick((was) => was + 1);
      // Whoever waited may have gone elsewhere.
      if (held.peek() && held.peek().until + 5000 < Date.now()) goOn();
    }, 250);
    return () => clearInterval(timer);
  }, [why === null]);
  if (why === null) return null;
  const left = Math.ceil((why.until - Date.now()) / 1000);
  return html`<div class="banner warn" role="status">
    <span><strong>${REASONS[why.code]}</strong> This page goes on by itself<span aria-hidden="true">${left > 0 ? ` in ${left} s` : " now"}</span>.</span>
  </div>`;
}

/** Asks for a key. */
function KeyForm() {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const enter = (/** @type {Event} */ event) => {
    event.preventDefault();
    key.value = field.current?.value.trim() || null;
    letIn();
  };
  return html`<form class="do-key" onSubmit=${enter}>
    <p>${key.value ? "The server does not know the key that was given, or it may not read." : "Paste one with the scope read."} It is kept in this page only.</p>
    <label for="key">Key</label>
    <input id="key" ref=${field} type="password" autocomplete="off" spellcheck=${false} required />
    <button class="btn">Open</button>
  </form>`;
}

/** In the place of a page that may not be shown. */
export function Door() {
  const out = shut.value;
  const offers = config.value?.sign_in;
  const isKnown = out?.why !== "nobody" && !key.value;
  const title = isKnown ? "No access" : offers ? "Sign in" : "This server asks for a key";
  useEffect(() => setTitle(config.value ? title : ""), [title, config.value]);
  // What is offered depends on what the server offers: nothing is shown to be taken away again.
  if (!out || !config.value) return null;
  if (isKnown) {
    const who = me.value;
    return html`<section class="do-card">
      ${out.why === "tenant" ? html`<h1>This account belongs to no tenant here</h1><p>${visible(out.detail)}.</p>`
        : html`<h1>You may not read ${who?.tenant ? html`<bdi>${visible(who.tenant)}</bdi>` : "here"}</h1>
          <p>This needs the scope read. ${who && html`<bdi>${visible(who.user)}</bdi> has these scopes: ${scopesOf(who)}.`} Whoever runs the identity provider gives it; it counts once you have signed in again.</p>`}
      <p class="seg"><button class="btn" onClick=${() => location.reload()}>Try again</button> <${SignOut} /></p>
    </section>`;
  }
  if (!offers) return html`<section class="do-card"><h1>${title}</h1><${KeyForm} /></section>`;
  return html`<section class="do-card">
    <h1>${title}</h1>
    <p>The runs of your tenant are shown once you have signed in with your identity provider. You come back to this page.</p>
    <a class="btn do-main" href=${signInAddress()}>Sign in</a>
    <details open=${key.value !== null}><summary>Open with a key instead</summary><${KeyForm} /></details>
  </section>`;
}
