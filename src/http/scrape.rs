//! GET /metrics: what this process counted, as Prometheus reads it. Labels are of fixed sets: patterns of routes, methods,
//! classes of statuses, codes of problems.

use std::fmt::Write as _;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::params::Params;
use super::principal::facts_of;
use super::routes::{NO_ROUTE, patterns};
use crate::contract::{CacheVitals, CallVitals, Vitals};
use crate::metrics::{BUCKETS, METHODS, Metrics, Process, STATUSES};
use crate::services::{Services, Space};

/// How long the storage may take to say that it is there.
const STORAGE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn metrics(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    if !services.access.may_scrape(&facts_of(&request)) {
        // Whoever may not see it is not told that it is there.
        return Err(ApiError::of_status(StatusCode::NOT_FOUND));
    }
    Params::parse(request.query_string(), &[])?;
    let ready = tokio::time::timeout(STORAGE_ANSWERS_WITHIN, services.store.ready()).await;
    let mut text = Text::default();
    about_server(&mut text, &services);
    requests(&mut text, &services.metrics);
    ingest(&mut text, &services.metrics);
    live(&mut text, &services);
    let vitals = services.store.vitals();
    storage(&mut text, &vitals, matches!(ready, Ok(Ok(()))));
    caches(&mut text, (&services, vitals.cache));
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text.0))
}

/// The exposition format: a head for each metric, a line for each value.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Into memory: nothing there can fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value; no label needs escaping, since all are words of this program.
    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (label, of)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{of}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A metric with one value.
    fn one(&mut self, (name, kind): (&str, &str), help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.value(name, &[], value);
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn about_server(text: &mut Text, services: &Services) {
    text.head("kahn_build_info", GAUGE, "What this binary is; always 1.");
    let build =
        [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("KAHN_COMMIT")), ("mode", services.settings.mode)];
    text.value("kahn_build_info", &build, 1);
    let uptime = services.metrics.uptime().as_secs_f64();
    text.one(("kahn_uptime_seconds", GAUGE), "Seconds since the server started.", uptime);
    let process = Process::now();
    if let Some(bytes) = process.resident_bytes {
        text.one(("process_resident_memory_bytes", GAUGE), "Memory of the process.", bytes);
    }
    if let Some(open) = process.open_descriptors {
        text.one(("process_open_fds", GAUGE), "Open file descriptors.", open);
    }
}

fn requests(text: &mut Text, metrics: &Metrics) {
    let counted = metrics.requests();
    let routes = || patterns().iter().copied().chain([NO_ROUTE]).zip(&counted);
    let name = "kahn_http_requests_total";
    text.head(name, COUNTER, "Answers by pattern of the route, method and class of status.");
    for (route, count) in routes() {
        for (method, by_status) in METHODS.iter().zip(&count.answered) {
            for (status, answered) in STATUSES.iter().zip(by_status).filter(|(_, answered)| **answered > 0) {
                text.value(name, &[("route", route), ("method", method), ("status", status)], answered);
            }
        }
    }
    let name = "kahn_http_request_duration_seconds";
    text.head(name, "histogram", "Time until an answer began.");
    for (route, count) in routes() {
        let all: u64 = count.buckets.iter().sum();
        if all == 0 {
            continue;
        }
        let bucket = format!("{name}_bucket");
        let mut so_far = 0;
        for ((_, end), own) in BUCKETS.iter().zip(&count.buckets) {
            so_far += own;
            text.value(&bucket, &[("route", route), ("le", end)], so_far);
        }
        text.value(&bucket, &[("route", route), ("le", "+Inf")], all);
        let seconds = Duration::from_micros(count.microseconds).as_secs_f64();
        text.value(&format!("{name}_sum"), &[("route", route)], seconds);
        text.value(&format!("{name}_count"), &[("route", route)], all);
    }
    let name = "kahn_problems_total";
    text.head(name, COUNTER, "Refusals and faults by code.");
    metrics.problems().into_iter().for_each(|(code, count)| text.value(name, &[("code", code)], count));
}

fn ingest(text: &mut Text, metrics: &Metrics) {
    let ingest = &metrics.ingest;
    text.one(("kahn_ingest_batches_total", COUNTER), "Batches that were taken.", ingest.batches.get());
    text.one(("kahn_ingest_bytes_total", COUNTER), "Decoded bytes of batches that were taken.", ingest.bytes.get());
    let name = "kahn_ingest_events_total";
    text.head(name, COUNTER, "Events of batches that were taken: new, or there already.");
    text.value(name, &[("result", "accepted")], ingest.accepted.get());
    text.value(name, &[("result", "duplicate")], ingest.duplicates.get());
    text.one(("kahn_ingest_graphs_total", COUNTER), "Graphs that were taken.", ingest.graphs.get());
    let name = "kahn_ingest_rejected_total";
    text.head(name, COUNTER, "Requests of producers that were refused, by code.");
    metrics.rejected().into_iter().for_each(|(code, count)| text.value(name, &[("reason", code)], count));
}

fn live(text: &mut Text, services: &Services) {
    let live = &services.metrics.live;
    text.one(("kahn_live_clients", GAUGE), "Clients of the live feed.", services.live.clients());
    text.one(("kahn_live_dropped_total", COUNTER), "Live clients closed for being slow or silent.", live.dropped.get());
    text.one(("kahn_live_resyncs_total", COUNTER), "Times a slow live client was told so.", live.resyncs.get());
}

fn storage(text: &mut Text, vitals: &Vitals, is_up: bool) {
    text.one(("kahn_storage_up", GAUGE), "Whether the storage answers.", u8::from(is_up));
    if let Some(connections) = &vitals.connections {
        let name = "kahn_storage_connections";
        text.head(name, GAUGE, "Connections of the pool.");
        text.value(name, &[("state", "busy")], connections.busy);
        text.value(name, &[("state", "idle")], connections.idle);
        let help = "Connections that the pool may have.";
        text.one(("kahn_storage_connections_max", GAUGE), help, connections.most);
        text.one(("kahn_storage_waiting", GAUGE), "Requests that wait for a connection.", connections.waiting);
    }
    type Of = fn(&CallVitals) -> f64;
    let metrics: [(&str, &str, Of); 4] = [
        ("kahn_storage_calls_total", "Calls of the storage by name.", |call| call.calls as f64),
        ("kahn_storage_errors_total", "Calls that got no answer, or an error.", |call| call.failed as f64),
        ("kahn_storage_retries_total", "Times that one was run again after a conflict.", |call| call.retried as f64),
        ("kahn_storage_call_seconds_total", "Time of all calls.", |call| call.time.as_secs_f64()),
    ];
    for (name, help, of) in metrics.iter().filter(|_| !vitals.calls.is_empty()) {
        text.head(name, COUNTER, help);
        vitals.calls.iter().for_each(|call| text.value(name, &[("call", call.name)], of(call)));
    }
}

fn caches(text: &mut Text, (services, of_store): (&Services, Option<CacheVitals>)) {
    let held = [Some(("answers", services.memory.vitals())), of_store.map(|runs| ("runs", runs))];
    type Of = fn(&CacheVitals) -> u64;
    let metrics: [(&str, &str, &str, Of); 4] = [
        ("kahn_cache_entries", GAUGE, "What is held in memory.", |cache| cache.entries),
        ("kahn_cache_bytes", GAUGE, "Bytes that it counts as.", |cache| cache.bytes),
        ("kahn_cache_hits_total", COUNTER, "Times it was found there.", |cache| cache.hits),
        ("kahn_cache_misses_total", COUNTER, "Times it was not.", |cache| cache.misses),
    ];
    for (name, kind, help, of) in metrics {
        text.head(name, kind, help);
        for (cache, vitals) in held.iter().flatten() {
            text.value(name, &[("cache", cache)], of(vitals));
        }
    }
    let name = "kahn_room_free_bytes";
    text.head(name, GAUGE, "Bytes that requests may still take: of batches, of large answers, of stored pages.");
    let rooms: [(&str, &Space); 3] =
        [("ingest", &services.ingest_bytes), ("answers", &services.answer_bytes), ("stored", &services.stored_bytes)];
    for (room, space) in rooms {
        text.value(name, &[("room", room)], space.free());
    }
}
