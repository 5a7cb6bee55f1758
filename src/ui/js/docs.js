// /docs: /openapi.json as a page. Everything of the document is set as text.

/** @typedef {{name: string, in: string, required?: boolean, description?: string, schema: any}} Parameter */

/** @type {any} */
let doc;

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} inside
 */
function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

/** What a reference of this document names. @param {any} value @returns {any} */
function resolved(value) {
  if (!value?.$ref) return value;
  /** @type {any} */
  let found = doc;
  for (const part of value.$ref.slice(2).split("/")) found = found[part];
  return resolved(found);
}

/** Text with `code` in it, in paragraphs. @param {string} text */
function prose(text) {
  return text.split("\n\n").map((paragraph) => {
    const parts = paragraph.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
    return make("p", {}, ...parts);
  });
}

/** A type in few words; names of schemas are links. @param {any} schema @returns {(Node | string)[]} */
function typeOf(schema) {
  if (!schema || !Object.keys(schema).length) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [make("a", { href: `#schema-${name}` }, name)];
  }
  if (schema.anyOf) return schema.anyOf.flatMap((/** @type {any} */ one, /** @type {number} */ at) => (at ? [" or ", ...typeOf(one)] : typeOf(one)));
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((/** @type {any} */ value) => JSON.stringify(value)).join(" | ")];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items)];
  const bounds = [
    schema.minimum !== undefined && `from ${schema.minimum}`,
    schema.maximum !== undefined && `to ${schema.maximum}`,
    schema.pattern && `like ${schema.pattern}`,
    schema.default !== undefined && `else ${schema.default}`,
  ].filter(Boolean);
  const words = [schema.type].flat().join(" or ");
  return [bounds.length ? `${words}, ${bounds.join(" ")}` : words];
}

/** The members of an object, those of unnamed objects below them too. @param {any} schema @param {string} prefix @returns {Node[]} */
function members(schema, prefix = "") {
  if (schema?.anyOf) return schema.anyOf.flatMap((/** @type {any} */ one) => members(one, prefix));
  if (schema?.type === "array") return members(schema.items, `${prefix}[].`);
  if (!schema?.properties) return [];
  return Object.entries(schema.properties).flatMap(([name, of]) => {
    const optional = schema.required?.includes(name) ? "" : ", may be absent";
    const row = make("tr", {}, make("th", { scope: "row" }, make("code", {}, prefix + name)), make("td", {}, ...typeOf(of), optional), make("td", {}, of.description ?? ""));
    return of.$ref ? [row] : [row, ...members(of, of.type === "array" ? prefix + name : `${prefix}${name}.`)];
  });
}

/** @param {string} caption @param {string[]} heads @param {Node[]} rows */
function table(caption, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  return make("div", { class: "dc-table" }, make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows)));
}

/** @param {string} path @param {string} method @param {any} operation */
function operationOf(path, method, operation) {
  const inside = prose(operation.description ?? "").filter((paragraph) => paragraph.textContent);
  /** @type {Parameter[]} */
  const parameters = (operation.parameters ?? []).map(resolved);
  if (parameters.length) {
    const rows = parameters.map((one) =>
      make("tr", {}, make("th", { scope: "row" }, make("code", {}, one.name)), make("td", {}, one.in, one.required ? ", needed" : ""), make("td", {}, ...typeOf(one.schema)), make("td", {}, one.description ?? "")),
    );
    inside.push(table("Parameters", ["Name", "Where", "Type", "What it is"], rows));
  }
  for (const [media, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
    inside.push(make("p", {}, "Body: ", make("code", {}, media), ", ", ...typeOf(schema)));
  }
  const rows = Object.entries(operation.responses).map(([status, reference]) => {
    const response = resolved(reference);
    const bodies = Object.entries(response.content ?? {}).map(([media, { schema }]) => make("div", {}, make("code", {}, media), " ", ...typeOf(schema)));
    const headers = Object.keys(response.headers ?? {}).join(", ");
    return make("tr", {}, make("th", { scope: "row" }, status), make("td", {}, response.description), make("td", {}, ...bodies), make("td", {}, headers));
  });
  inside.push(table("Answers", ["Status", "What it says", "Body", "Header fields"], rows));
  const line = make("summary", {}, make("code", { class: "dc-method" }, method.toUpperCase()), " ", make("code", {}, path), " ", make("span", { class: "dc-what" }, operation.summary));
  return make("details", { id: `op-${operation.operationId}`, class: "dc-op", "data-text": `${method} ${path} ${operation.summary}`.toLowerCase() }, line, ...inside);
}

function build() {
  const parts = [...prose(doc.info.description)];
  const filter = make("input", { type: "search", id: "docs-filter", autocomplete: "off", spellcheck: "false" });
  parts.push(make("p", { class: "dc-filter" }, make("label", { for: "docs-filter" }, "Find a route "), filter));
  for (const tag of doc.tags) {
    const own = Object.entries(doc.paths).flatMap(([path, methods]) =>
      Object.entries(methods).filter(([, operation]) => operation.tags.includes(tag.name)).map(([method, operation]) => operationOf(path, method, operation)),
    );
    parts.push(make("section", { class: "dc-tag" }, make("h2", { id: tag.name }, tag.description), ...own));
  }
  const schemas = Object.entries(doc.components.schemas).filter(([name]) => name !== "Code");
  parts.push(make("h2", { id: "schemas" }, "Shapes"));
  for (const [name, schema] of schemas) {
    const rows = members(schema);
    const inside = rows.length ? [table("Members", ["Name", "Type", "What it is"], rows)] : [make("p", {}, ...typeOf(schema))];
    parts.push(make("details", { id: `schema-${name}`, class: "dc-op" }, make("summary", {}, make("code", {}, name)), ...prose(schema.description ?? "").filter((paragraph) => paragraph.textContent), ...inside));
  }
  parts.push(make("h2", { id: "schema-Code" }, "Error codes"));
  const codes = doc.components.schemas.Code.enum.map((/** @type {string} */ code) => make("li", {}, make("a", { href: `/problems/${code.replaceAll("_", "-")}` }, code)));
  parts.push(make("ul", { class: "dc-codes" }, ...codes));
  document.querySelector("#docs").replaceChildren(...parts);
  filter.addEventListener("input", () => {
    const wanted = /** @type {HTMLInputElement} */ (filter).value.trim().toLowerCase();
    for (const section of document.querySelectorAll(".dc-tag")) {
      const own = [.../** @type {NodeListOf<HTMLElement>} */ (section.querySelectorAll("details"))];
      for (const one of own) one.hidden = !one.dataset.text.includes(wanted);
      /** @type {HTMLElement} */ (section).hidden = own.every((one) => one.hidden);
    }
  });
}

/** The part that the address names is open and in sight. */
function show() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) named.open = true;
  named?.scrollIntoView();
}

const state = document.querySelector("#docs-state");
try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  doc = await answer.json();
  build();
  state.replaceChildren("Version ", doc.info.version, "; the document itself is at ", make("a", { href: "/openapi.json" }, "/openapi.json"), ".");
  addEventListener("hashchange", show);
  show();
} catch (error) {
  state.textContent = `/openapi.json could not be read (${error.message}); reload the page.`;
}

// A module, though nobody imports from it.
export {};
