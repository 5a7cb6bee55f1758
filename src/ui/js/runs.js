import { html } from "../vendor/ui-runtime.js";
/** @param {any} props */
export function Page(props) { return html`<h1>Runs</h1>`; }
