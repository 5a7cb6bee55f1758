//! /metrics and the access log. If these fail, whoever runs a server sees too little of it, or a stranger too much.

use std::collections::BTreeMap;

use crate::backend;
use crate::support::{Kitchen, wait_for};
use crate::wire::{Wire, head};

/// Every value by its name and labels, as they stand in the text; the shape of each line is looked at.
fn scraped(kitchen: &Kitchen) -> BTreeMap<String, f64> {
    let answer = kitchen.get("/metrics");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "no-store");
    let text = answer.text();
    assert!(text.ends_with('\n'));
    let (mut values, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kinds.insert(name.to_owned(), kind), None, "{name} has two heads");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(kinds.contains_key(name) || kinds.get(bare) == Some(&"histogram"), "{line} has no head");
            assert_eq!(values.insert(series.to_owned(), value.parse().expect("a number")), None, "{line} stands twice");
        }
    }
    values
}

/// The value of a series; one that never counted anything is not there.
fn value(values: &BTreeMap<String, f64>, series: &str) -> f64 {
    values.get(series).copied().unwrap_or(0.0)
}

const START: &[u8] =
    b"{\"ts\":\"2026-05-01T10:00:00.000Z\",\"run_id\":\"secret-run\",\"event\":\"run_start\",\"total_nodes\":1}\n";

#[test]
fn requests_are_counted_by_route_method_and_status_and_never_by_what_they_ask_for() {
    let kitchen = backend::empty();
    let (mut wire, no_id) = (Wire::open(&kitchen.server.url), "/api/runs/secret-run");
    for (method, target) in [
        ("GET", "/healthz"),
        ("HEAD", "/healthz"),
        ("POST", "/healthz"),
        ("GET", no_id),
        ("GET", "/api/runs/secret-run?at_seq=x"),
        ("POST", no_id),
        ("GET", "/runs/secret-run"),
        ("GET", "/secret-nowhere"),
        ("BREW", "/secret-nowhere"),
    ] {
        wire.ask(&head(&kitchen, method, target), b"");
    }
    let values = scraped(&kitchen);
    let of = |route: &str, method: &str, status: &str| {
        value(
            &values,
            &format!("kahn_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}"),
        )
    };
    assert_eq!(of("/healthz", "GET", "2xx"), 1.0, "{values:#?}");
    assert_eq!(of("/healthz", "HEAD", "2xx"), 1.0);
    assert_eq!(of("/healthz", "POST", "4xx"), 1.0);
    assert_eq!(of("/api/runs/{run_id}", "GET", "4xx"), 2.0);
    assert_eq!(of("/api/runs/{run_id}", "POST", "4xx"), 1.0);
    assert_eq!(of("/runs/{run_id}", "GET", "2xx"), 1.0);
    assert_eq!(of("none", "GET", "4xx"), 1.0);
    assert_eq!(of("none", "other", "4xx"), 1.0);
    assert_eq!(value(&values, "kahn_problems_total{code=\"method_not_allowed\"}"), 2.0);
    assert_eq!(value(&values, "kahn_problems_total{code=\"not_found\"}"), 2.0);
    let health = "route=\"/healthz\"";
    assert_eq!(value(&values, &format!("kahn_http_request_duration_seconds_count{{{health}}}")), 3.0);
    assert_eq!(value(&values, &format!("kahn_http_request_duration_seconds_bucket{{{health},le=\"+Inf\"}}")), 3.0);
    let mut last = 0.0;
    for end in ["0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "10", "+Inf"] {
        let series = format!("kahn_http_request_duration_seconds_bucket{{{health},le=\"{end}\"}}");
        assert!(values[&series] >= last, "{series}");
        last = values[&series];
    }
    let said = values.keys().cloned().collect::<String>();
    assert!(!said.contains("secret"), "{said}");
    assert!(value(&values, "process_resident_memory_bytes") > 1e6 && value(&values, "process_open_fds") > 3.0);
    assert_eq!(value(&values, "kahn_storage_up"), 1.0);
    assert!(said.contains(&format!("mode=\"{}\"", backend::MODE)) && said.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_producers_send_is_counted_taken_or_refused_with_its_reason() {
    let kitchen = backend::empty();
    assert_eq!(kitchen.post("/v1/ingest/transitions", START).status, 200);
    assert_eq!(kitchen.post("/v1/ingest/transitions", START).status, 200);
    assert_eq!(kitchen.post("/v1/ingest/transitions", b"no event\n").status, 400);
    assert_eq!(kitchen.post("/v1/ingest/transitions?from_seq=7", START).status, 409);
    assert_eq!(kitchen.put("/v1/ingest/runs/secret-run/graph", b"{\"version\":1,\"nodes\":[]}").status, 201);
    assert_eq!(kitchen.get("/v1/ingest/runs/nobody").status, 404);
    let values = scraped(&kitchen);
    for (series, wanted) in [
        ("kahn_ingest_batches_total", 2.0),
        ("kahn_ingest_bytes_total", 2.0 * START.len() as f64),
        ("kahn_ingest_events_total{result=\"accepted\"}", 1.0),
        ("kahn_ingest_events_total{result=\"duplicate\"}", 1.0),
        ("kahn_ingest_graphs_total", 1.0),
        ("kahn_ingest_rejected_total{reason=\"malformed_line\"}", 1.0),
        ("kahn_ingest_rejected_total{reason=\"gap\"}", 1.0),
        ("kahn_ingest_rejected_total{reason=\"unknown_run\"}", 0.0),
        ("kahn_problems_total{code=\"unknown_run\"}", 1.0),
    ] {
        assert_eq!(value(&values, series), wanted, "{series}: {values:#?}");
    }
}

#[test]
fn live_clients_are_counted_while_they_listen() {
    let kitchen = backend::empty();
    let mut client = Wire::open(&kitchen.server.url);
    let handshake = "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(client.ask(&(head(&kitchen, "GET", "/ws/live") + handshake), b"").status, 101);
    assert_eq!(value(&scraped(&kitchen), "kahn_live_clients"), 1.0);
    drop(client);
    wait_for("the client to be gone", || (value(&scraped(&kitchen), "kahn_live_clients") == 0.0).then_some(()));
}

#[test]
fn the_access_log_tells_each_answer_once_it_is_wanted_and_nothing_that_was_asked() {
    let quiet = backend::empty();
    quiet.get("/healthz");
    assert!(!quiet.server.log().contains(" answer id="), "{}", quiet.server.log());

    let kitchen = backend::empty_with(&["--access-log", "on"]);
    let mut wire = Wire::open(&kitchen.server.url);
    let odd = "/%0aanswer%20id=forged?token=secret-token&x=%1b%5b2J";
    for (id, target) in [("a-1", "/api/runs/secret-run"), ("a-2", odd), ("a-3", "/healthz")] {
        wire.ask(&format!("{}\r\nX-Request-Id: {id}", head(&kitchen, "GET", target)), b"");
    }
    let log = wait_for("the last answer's line", || Some(kitchen.server.log()).filter(|log| log.contains("id=a-3 ")));
    let told: Vec<&str> =
        log.lines().filter_map(|line| Some(line.split_once("] answer ")?.1.split_once(" ms=")?.0)).collect();
    let bytes = |line: &str| line.split_once("bytes=").map(|(_, bytes)| bytes.to_owned()).unwrap_or_default();
    assert_eq!(told.len(), 3, "{log}");
    assert!(told[0].starts_with("id=a-1 method=GET route=/api/runs/{run_id} status=404 bytes="), "{log}");
    assert!(told[1].starts_with("id=a-2 method=GET route=none status=404 bytes="), "{log}");
    assert_eq!(told[2], "id=a-3 method=GET route=/healthz status=200 bytes=15", "{log}");
    assert!(bytes(told[0]).parse::<u64>().is_ok_and(|bytes| bytes > 100), "{log}");
    assert!(!log.contains("secret") && !log.contains("forged") && !log.contains("Bearer"), "{log}");
}

/// The names of metrics that a query asks for.
fn names_in(query: &str) -> Vec<&str> {
    let words = query.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("kahn_") || word.starts_with("process_")).collect()
}

#[test]
fn every_query_of_the_sample_dashboard_names_a_metric_that_is_there() {
    let kitchen = backend::empty();
    let text = kitchen.get("/metrics").text();
    let declared: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    // What only a build with a database has is not declared by the other one.
    let of_database = |name: &str| backend::MODE == "oss" && name.starts_with("kahn_storage_");
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../docs/grafana.json")).expect("JSON");
    let mut asked = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let names = names_in(target["expr"].as_str().expect("a query"));
            assert!(!names.is_empty(), "{target}");
            for name in names {
                let ends = ["_bucket", "_sum", "_count", ""];
                let is_there = ends
                    .iter()
                    .filter_map(|end| name.strip_suffix(end))
                    .any(|bare| declared.contains(&bare) || of_database(bare));
                assert!(is_there, "{name} of {} is no metric: {declared:?}", panel["title"]);
                asked.insert(name.to_owned());
            }
        }
    }
    let shown = |name: &&&str| asked.iter().any(|asked| asked.starts_with(**name));
    let unseen: Vec<_> = declared.iter().filter(|name| !shown(name)).collect();
    assert!(unseen.is_empty(), "no panel shows {unseen:?}");
}
