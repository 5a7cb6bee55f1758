//! How the UI reaches a browser. If these fail, a page comes without its files, or an old file stays for ever.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};

use crate::backend;
use crate::wire::{Wire, head};

/// Every file that a page names.
fn named(page: &str) -> Vec<String> {
    let names: Vec<String> = page.split('"').filter(|part| part.starts_with("/a/")).map(str::to_owned).collect();
    assert!(names.len() >= 5, "{page}");
    names
}

#[test]
fn each_page_names_its_files_and_they_are_kept_for_ever() {
    let kitchen = backend::empty();
    let mut wire = Wire::open(&kitchen.server.url);
    let mut get = |target: &str, field: &str| wire.ask(&format!("{}{field}", head(&kitchen, "GET", target)), b"");
    for path in ["/", "/runs", "/runs/release-318", "/agents", "/agents/coder", "/audits", "/nodes", "/compare"] {
        let page = get(path, "");
        assert_eq!((page.status, page.one("content-type")), (200, "text/html; charset=utf-8"), "{path}");
        assert_eq!(page.one("cache-control"), "private, no-cache", "{path}");
        for name in named(&page.text()) {
            let plain = get(&name, "");
            assert_eq!((plain.status, plain.one("vary")), (200, "Accept-Encoding"), "{name} of {path}");
            assert_eq!(plain.one("cache-control"), "public, max-age=31536000, immutable", "{name}");
            let coded = get(&name, "\r\nAccept-Encoding: br;q=0.9, gzip");
            assert_eq!(coded.one("content-encoding"), "gzip", "{name}");
            let mut decoded = Vec::new();
            GzDecoder::new(&*coded.body).read_to_end(&mut decoded).expect("gzip");
            assert!(decoded == plain.body && coded.body.len() < plain.body.len(), "{name}");
            let refused = get(&name, "\r\nAccept-Encoding: gzip;q=0, identity");
            assert!(refused.all("content-encoding") != ["gzip"] && refused.body == plain.body, "{name}");
            let known = get(&name, &format!("\r\nIf-None-Match: {}", plain.one("etag")));
            assert_eq!((known.status, known.body.len()), (304, 0), "{name}");
        }
    }
}

#[test]
fn a_file_of_another_version_is_not_found() {
    let kitchen = backend::empty();
    let page = kitchen.get("/").text();
    let style = named(&page).into_iter().find(|name| name.ends_with(".css")).expect("a style sheet");
    let hash = style.split('/').nth(2).expect("a hash");
    for target in [
        style.replace(hash, "0123456789abcdef"),
        style.replace(hash, ""),
        style.replace("kahn.css", "css/00-tokens.css"),
        style.replace("kahn.css", "index.html"),
        style.replace("kahn.css", "vendor/NOTICE"),
        style.replace("kahn.css", "../Cargo.toml"),
        style.replace("kahn.css", ""),
    ] {
        assert_eq!(kitchen.get(&target).status, 404, "{target}");
    }
}

/// The answers that came inside of a page.
fn boot(page: &str) -> Option<BTreeMap<String, String>> {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"boot\">")?;
    let (answers, _) = rest.split_once("</script>").expect("the end of the element");
    Some(serde_json::from_str(answers).expect("JSON"))
}

#[test]
fn the_page_of_a_run_brings_what_it_would_ask_first() {
    let kitchen = backend::with_samples();
    let answers = boot(&kitchen.get("/runs/release-317").text()).expect("answers");
    let of_run = ["", "/diagnostics", "/graph"].map(|part| format!("/api/runs/release-317{part}"));
    for target in &of_run {
        assert_eq!(answers[target], kitchen.get(target).text(), "{target}");
    }
    assert!(answers["/api/config"].contains("\"stall_after_s\":"));
    assert_eq!(answers.len(), of_run.len() + 1);
    // A run without a graph; none at all; what is no run_id.
    assert_eq!(boot(&kitchen.get("/runs/migrate-docs-9").text()).expect("answers").len(), 3);
    for path in ["/runs/nobody", "/runs/%3Cb%3E", "/runs", "/agents/coder"] {
        assert_eq!(boot(&kitchen.get(path).text()), None, "{path}");
    }
    // Who may not ask gets none either.
    let stranger = kitchen.send("GET", "/runs/release-317", &[("authorization", "Bearer none")], None);
    assert_eq!(stranger.status, 200);
    assert_eq!(boot(&stranger.text()).is_some(), kitchen.reader().is_none());
}

#[test]
fn text_of_producers_does_not_end_the_element_that_it_came_in() {
    let kitchen = backend::empty();
    let start = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"hostile","event":"agent_run_start","agent_id":"a","task":"</script><!--<script>"}"#;
    assert_eq!(kitchen.post("/v1/ingest/transitions", format!("{start}\n").as_bytes()).status, 200);
    let page = kitchen.get("/runs/hostile").text();
    assert!(!page.contains("</script><!--") && page.contains("u003c/script>"), "{page}");
    assert_eq!(boot(&page).expect("answers")["/api/runs/hostile"], kitchen.get("/api/runs/hostile").text());
}

#[test]
fn the_runtime_is_the_one_that_was_made() {
    let told = include_str!("../../src/ui/vendor/ui-runtime.js.sha256").split(' ').next().expect("a hash");
    assert_eq!(hex::encode(Sha256::digest(include_bytes!("../../src/ui/vendor/ui-runtime.js"))), told);
}
