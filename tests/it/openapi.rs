//! /openapi.json, /docs and /problems against the server that they describe. If these fail, clients are written against
//! something that is not there, or an error leads nowhere.

use std::collections::BTreeSet;
use std::path::Path;

use boon::{Compiler, Schemas};
use kahn::http::{problem_codes, route_table};
use serde_json::Value;

use crate::backend;
use crate::every_route::{addresses, taken};
use crate::support::{Answer, Kitchen};
use crate::wire::Wire;

/// The document, as it is served.
fn document(kitchen: &Kitchen) -> Value {
    let answer = kitchen.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    answer.json()
}

/// Path and method of every operation.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |path: &String, item: &Value| -> Vec<(String, String)> {
        item.as_object().expect("a path").keys().map(|method| (path.clone(), method.to_uppercase())).collect()
    };
    paths.iter().flat_map(|(path, item)| of(path, item)).collect()
}

/// The path of a route, as the document writes it.
fn path_of(pattern: &str) -> String {
    pattern.replace("{file:.*}", "{file}")
}

/// What a reference stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(name) => document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there")),
        None => value,
    }
}

#[test]
fn every_route_is_described_and_everything_described_is_a_route() {
    let document = document(&backend::empty());
    let routes: BTreeSet<_> = route_table().into_iter().map(|(method, pattern)| (path_of(pattern), method)).collect();
    assert_eq!(operations(&document), routes);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let written: Value = serde_json::from_str(include_str!("../../src/http/openapi.json")).expect("JSON");
    assert_eq!(document, written);
    let mut ids = BTreeSet::new();
    for (path, method) in operations(&document) {
        let operation = &document["paths"][&path][method.to_lowercase()];
        assert!(ids.insert(operation["operationId"].to_string()), "{path}: its id stands twice");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
        for response in operation["responses"].as_object().expect("responses").values() {
            let response = resolved(&document, response);
            assert!(response["headers"]["X-Request-Id"].is_object(), "{path}: {response}");
        }
    }
}

#[test]
fn the_document_is_one_of_openapi_3_1() {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/openapi-3.1.schema.json");
    let mut schemas = Schemas::new();
    let index = Compiler::new().compile(schema, &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
    let mut document = document(&backend::empty());
    if let Err(error) = schemas.validate(&document, index) {
        panic!("{error:#}");
    }
    // The look is not blind.
    document["paths"]["/healthz"]["get"]["responses"]["200"]["description"] = Value::Null;
    assert!(schemas.validate(&document, index).is_err());
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for name in found {
        assert!(document.pointer(name.trim_start_matches('#')).is_some(), "{name} leads nowhere");
    }
}

#[test]
fn every_parameter_that_is_taken_is_described_and_no_other() {
    let kitchen = backend::with_samples();
    let document = document(&kitchen);
    let mut wire = Wire::open(&kitchen.server.url);
    for address in addresses().iter().filter(|address| address.reads_parameters()) {
        if address.is_admins() && wire.ask(&address.head(&kitchen, &address.target), b"").status == 403 {
            continue;
        }
        let operation = &document["paths"][path_of(address.pattern)][address.method.to_lowercase()];
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let in_query =
            parameters.iter().map(|parameter| resolved(&document, parameter)).filter(|own| own["in"] == "query");
        let described: BTreeSet<String> =
            in_query.map(|own| own["name"].as_str().expect("a name").to_owned()).collect();
        let taken: BTreeSet<String> = taken(&kitchen, &mut wire, address).into_iter().collect();
        assert_eq!(described, taken, "{} {}", address.method, address.pattern);
        for name in address.pattern.split('{').skip(1).filter_map(|rest| rest.split(['}', ':']).next()) {
            let is_described = parameters
                .iter()
                .map(|parameter| resolved(&document, parameter))
                .any(|own| own["in"] == "path" && own["name"] == name && own["required"] == true);
            assert!(is_described, "{name} of {}", address.pattern);
        }
    }
}

/// Codes that stand in the source where an answer is made of them.
fn codes_in_source() -> BTreeSet<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the package") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("problems/table.rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.extend(codes_of(&text.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
        }
    }
    found
}

fn codes_of(text: &str) -> BTreeSet<String> {
    let literals: Vec<&str> = text.split('"').collect();
    let of_error = |before: &str| {
        let before = before.trim_end();
        let openers = ["bad_request(", "too_large(", "overloaded(", "conflict("];
        let made = before.rsplit_once("::new(").is_some_and(|(_, arguments)| {
            (arguments.contains("StatusCode::") || arguments.starts_with("status"))
                && arguments.matches(',').count() == 1
        });
        openers.iter().any(|opener| before.ends_with(opener)) || (made && before.ends_with(','))
    };
    let is_code = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let pairs = literals.windows(2).filter(|pair| is_code(pair[1]));
    let named = |code: &str| code.starts_with("unknown_") || code.starts_with("invalid_");
    pairs.filter(|pair| of_error(pair[0]) || named(pair[1])).map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn every_code_that_an_answer_may_have_is_described_and_has_its_page() {
    assert_eq!(
        codes_of(
            r#"ApiError::bad_request("a_b", "c_d"); Self::new(StatusCode::GONE, "e", detail); x("f_g"); ("unknown_h", 1)"#
        ),
        BTreeSet::from(["a_b".to_owned(), "e".to_owned(), "unknown_h".to_owned()])
    );
    let codes: BTreeSet<String> = problem_codes().map(str::to_owned).collect();
    assert!(problem_codes().is_sorted() && codes.len() > 60);
    let in_source = codes_in_source();
    let missing: Vec<_> = in_source.difference(&codes).collect();
    assert!(missing.is_empty(), "say in src/http/problems/table.rs what these mean: {missing:?}");
    let kitchen = backend::empty();
    let document = document(&kitchen);
    let described: BTreeSet<String> =
        document["components"]["schemas"]["Code"]["enum"].as_array().expect("codes").iter().map(text).collect();
    assert_eq!(described, codes);
    let statuses: BTreeSet<u64> = BTreeSet::from_iter(400..600);
    for code in &codes {
        let target = format!("/problems/{}", code.replace('_', "-"));
        let answer = kitchen.get(&target);
        let meaning = answer.json();
        assert_eq!((answer.status, answer.header("vary")), (200, "Accept"), "{target}");
        assert_eq!(meaning["code"], **code, "{target}");
        for status in meaning["status"].as_array().expect("statuses") {
            assert!(statuses.contains(&status.as_u64().expect("a status")), "{target}");
        }
        for member in ["title", "means", "mends"] {
            assert!(meaning[member].as_str().is_some_and(|text| text.len() > 2), "{target}: {member}");
        }
        let page = kitchen.send("GET", &target, &[("accept", "text/html,*/*;q=0.8")], None);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.text().contains(&format!("<code>{code}</code>")), "{target}");
        assert!(page.text().contains("<h1>") && !page.text().contains("{main}"), "{target}");
    }
    for nothing in ["/problems/no-such-code", "/problems/unknown_run", "/problems/UNKNOWN-RUN", "/problems/%3Cb%3E"] {
        assert_eq!(kitchen.get(nothing).problem(), (404, "not_found".to_owned()), "{nothing}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The document with every object of known members closed: a member that it does not describe is a fault then.
fn closed(mut value: Value) -> Value {
    fn close(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(close);
                let is_object = members.get("type").is_some_and(|of| of == "object");
                if is_object && members.contains_key("properties") && !members.contains_key("additionalProperties") {
                    members.insert("additionalProperties".into(), false.into());
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    close(&mut value["components"]["schemas"]);
    value
}

/// Holds answers against what the document says of them.
struct Judge {
    document: Value,
    address: &'static str,
}

impl Judge {
    fn of(kitchen: &Kitchen) -> Self {
        Self { document: closed(document(kitchen)), address: "http://localhost/openapi.json" }
    }

    /// What is wrong with this answer to an operation.
    fn fault(&self, (path, method): (&str, &str), answer: &Answer) -> Option<String> {
        let responses = &self.document["paths"][path][method]["responses"];
        let range = format!("{}XX", answer.status / 100);
        let status = [answer.status.to_string(), range].into_iter().find(|status| responses[status].is_object());
        let Some(status) = status else { return Some(format!("status {} is not described", answer.status)) };
        let response = resolved(&self.document, &responses[&status]);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            if resolved(&self.document, header)["required"] == true && answer.header(&name.to_lowercase()).is_empty() {
                return Some(format!("{name} is missing"));
            }
        }
        let media = answer.header("content-type").split(';').next().unwrap_or_default();
        if answer.body.is_empty() {
            return None;
        }
        if !response["content"][media].is_object() {
            return Some(format!("{media} is not described"));
        }
        if !["application/json", "application/problem+json"].contains(&media) {
            return None;
        }
        let own = responses[&status]["$ref"].as_str().map_or_else(
            || format!("/paths/{}/{method}/responses/{status}", path.replace('/', "~1")),
            |name| name.trim_start_matches('#').to_owned(),
        );
        let own = own.replace('{', "%7B").replace('}', "%7D");
        let pointer = format!("{}#{own}/content/{}/schema", self.address, media.replace('/', "~1"));
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.add_resource(self.address, self.document.clone()).expect("a document");
        let index = compiler.compile(&pointer, &mut schemas).unwrap_or_else(|error| panic!("{pointer}: {error:#}"));
        schemas.validate(&answer.json(), index).err().map(|error| format!("{error:#}"))
    }
}

#[test]
fn real_answers_are_as_the_document_says() {
    let kitchen = backend::with_samples();
    let judge = Judge::of(&kitchen);
    let mut asked: Vec<(String, String)> = addresses()
        .into_iter()
        .filter(|own| own.method == "GET")
        .map(|own| (path_of(own.pattern), own.target))
        .collect();
    let runs = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs")).expect("the samples");
    for run in runs {
        let run_id = run.expect("a folder").file_name().into_string().expect("a run_id");
        for part in ["", "/diagnostics", "/graph", "/problems", "/events?limit=3"] {
            let path = format!("/api/runs/{{run_id}}{}", part.split('?').next().unwrap_or_default());
            asked.push((path, format!("/api/runs/{run_id}{part}")));
        }
        let state = kitchen.get(&format!("/api/runs/{run_id}")).json();
        for node in state["node_states"].as_array().expect("nodes") {
            let node_id = text(&node["node_id"]);
            asked.push(("/api/runs/{run_id}/nodes/{node_id}".into(), format!("/api/runs/{run_id}/nodes/{node_id}")));
        }
        asked.push(("/api/compare".into(), format!("/api/compare?base=release-317&head={run_id}")));
        asked.push(("/v1/ingest/runs/{run_id}".into(), format!("/v1/ingest/runs/{run_id}?digest=true")));
    }
    for target in ["/api/runs?limit=2", "/api/runs?window=1h", "/api/runs?kind=agent&sort=outcome", "/api/runs?x=1"] {
        asked.push(("/api/runs".into(), target.into()));
    }
    asked.push(("/api/runs/{run_id}".into(), "/api/runs/nobody".into()));
    asked.push(("/api/runs/{run_id}/nodes/{node_id}".into(), "/api/runs/release-318/nodes/nobody".into()));
    let mut faults = Vec::new();
    for (path, target) in &asked {
        let answer = kitchen.get(target);
        faults.extend(judge.fault((path, "get"), &answer).map(|fault| format!("{target}: {fault}")));
    }
    assert!(asked.len() > 150 && faults.is_empty(), "{}", faults.join("\n"));
    // A look that sees nothing proves nothing.
    let mut answer = kitchen.get("/api/config");
    answer.body = answer.text().replace("\"mode\"", "\"moods\"").into_bytes();
    assert!(judge.fault(("/api/config", "get"), &answer).is_some());
}

#[test]
fn writes_are_answered_as_the_document_says() {
    let kitchen = backend::empty();
    let judge = Judge::of(&kitchen);
    let line = b"{\"ts\":\"2026-05-01T10:00:00.000Z\",\"run_id\":\"w-1\",\"event\":\"brand_new\"}\n";
    let (batch, graph) = ("/v1/ingest/transitions", "/v1/ingest/runs/{run_id}/graph");
    for (query, body, status) in [
        ("?from_seq=0", &line[..], 200),
        ("?from_seq=0", &line[..], 200),
        ("", &line[..], 400),
        ("?from_seq=9", &line[..], 409),
        ("", b"no event\n", 400),
        ("", b"", 400),
    ] {
        let answer = kitchen.post(&format!("{batch}{query}"), body);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(judge.fault((batch, "post"), &answer), None, "{query}: {}", answer.text());
    }
    for (body, status) in [(&b"{}"[..], 201), (b"{}", 200), (b"{\"a\":1}", 409), (b"[]", 400)] {
        let answer = kitchen.put("/v1/ingest/runs/w-1/graph", body);
        assert_eq!((answer.status, judge.fault((graph, "put"), &answer)), (status, None), "{}", answer.text());
    }
}

#[test]
fn the_page_of_the_api_brings_its_files_from_this_server_alone() {
    let kitchen = backend::empty();
    let page = kitchen.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let text = page.text();
    let named: Vec<&str> = text.split('"').filter(|part| part.starts_with("/a/")).collect();
    assert!(named.iter().any(|name| name.ends_with("js/docs.js")) && named.len() >= 4, "{text}");
    for name in named {
        assert_eq!(kitchen.get(name).status, 200, "{name}");
    }
    assert!(
        !text.contains("http:") && !text.contains("https:") && !text.contains("<style") && !text.contains("{hash}")
    );
    assert!(text.matches("<script").count() == text.matches("<script type=\"module\" src=\"/a/").count(), "{text}");
}
