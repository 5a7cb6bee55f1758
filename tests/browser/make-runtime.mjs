// Makes src/ui/vendor/ui-runtime.js from the packages that package-lock.json names, with their licences beside it.
// It is run by hand when one of them changes; the server serves the file as it stands.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const vendor = new URL("../../src/ui/vendor/", import.meta.url);
const packages = ["preact", "htm", "@preact/signals", "@preact/signals-core"];

const entry = `
  export { h, render, Fragment, createContext } from "preact";
  export { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useContext } from "preact/hooks";
  export { signal, computed, effect, batch, untracked, useSignal, useComputed, useSignalEffect } from "@preact/signals";
  import { h } from "preact";
  import htm from "htm";
  export const html = htm.bind(h);
`;

const of = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url), "utf8"));
const versions = packages.map((name) => `${name} ${of(name).version} (${of(name).license})`);

const result = await build({
  stdin: { contents: entry, resolveDir: new URL(".", import.meta.url).pathname },
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2022",
  legalComments: "none",
  banner: { js: `/* ${versions.join(", ")}; licences: NOTICE. Made by tests/browser/make-runtime.mjs. */` },
  write: false,
});
const script = result.outputFiles[0].contents;
writeFileSync(new URL("ui-runtime.js", vendor), script);
writeFileSync(new URL("ui-runtime.js.sha256", vendor), `${createHash("sha256").update(script).digest("hex")}  ui-runtime.js\n`);

const licences = packages.map((name) => {
  const file = ["LICENSE", "LICENSE.md"].map((file) => new URL(`node_modules/${name}/${file}`, import.meta.url));
  const text = file.map((path) => { try { return readFileSync(path, "utf8"); } catch { return null; } }).find((text) => text);
  return `${name} ${of(name).version}, ${of(name).license}\n\n${text ?? "(its licence text is that of the package it belongs to)"}`;
});
writeFileSync(new URL("NOTICE", vendor), `ui-runtime.js holds these packages, bundled and minified:\n\n${licences.join("\n\n----\n\n")}`);
