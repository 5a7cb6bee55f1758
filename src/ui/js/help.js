// What keys do, what words mean, and how the page looks.
import { html, useEffect, useRef } from "../vendor/ui-runtime.js";
import { isHelpOpen, keyContexts, settings, styled } from "./app.js";

await styled("help");

export function Help() {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const contexts = [...keyContexts.value].reverse();
  const names = /** @type {Record<string, string>} */ ({ " ": "space", ArrowLeft: "←", ArrowRight: "→" });
  const shown = (/** @type {string} */ name) => name.split(" ").map((part) => html`<kbd>${(names[part] ?? part) || "space"}</kbd> `);
  return html`<dialog class="sh-help" ref=${dialog} aria-labelledby="help-title" onClose=${() => (isHelpOpen.value = false)}>
    <form method="dialog" class="sh-help-head"><h2 id="help-title">Keys and settings</h2><button class="btn">Close</button></form>
    <fieldset class="seg">
      <legend>Theme</legend>
      ${["system", "light", "dark"].map(
        (theme) =>
          html`<button class="btn" type="button" aria-pressed=${settings.theme.value === theme} onClick=${() => (settings.theme.value = /** @type {any} */ (theme))}>${theme}</button>`,
      )}
    </fieldset>
    <p><a href="/settings" onClick=${() => (isHelpOpen.value = false)}>Who you are, and this server's settings</a></p>
    <label class="sh-check"><input type="checkbox" checked=${settings.singleKeys.value} onChange=${(/** @type {any} */ event) => (settings.singleKeys.value = event.target.checked)} /> Single keys are shortcuts</label>
    ${contexts.map(
      ({ context, actions }) => html`<h3>${context}</h3>
        <dl class="sh-keys">${Object.entries(actions).map(([name, { does }]) => html`<div><dt>${name === " " ? html`<kbd>space</kbd>` : shown(name)}</dt><dd>${does}</dd></div>`)}</dl>`,
    )}
    <h3>Words</h3>
    <p>A run is done when its checks converge, not when a command exits 0. <strong>Escaped</strong>: the agent left the bounds it was given (budget, scope or guardrail) and was stopped. <strong>Aborted</strong>: it was stopped or died from outside. <strong>Stalled</strong> is inferred from silence.</p>
  </dialog>`;
}
