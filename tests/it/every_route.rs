//! What holds on every route, walked from the table of routes: a route that is added is held to all of it. If these fail,
//! some address answers without its guards, or takes what it should refuse.

use std::sync::LazyLock;

use kahn::http::route_table;

use crate::backend;
use crate::support::Kitchen;
use crate::wire::{Reply, Wire, ask, head};

const RUN: &str = "release-318";

/// A route, by an address that answers over the samples.
pub(crate) struct Address {
    pub(crate) method: String,
    pub(crate) pattern: &'static str,
    pub(crate) target: String,
}

impl Address {
    /// Pages and their files leave the query to the browser; everything else reads it strictly.
    pub(crate) fn reads_parameters(&self) -> bool {
        ["/api/", "/v1/", "/ws/", "/healthz", "/readyz", "/metrics", "/openapi"]
            .iter()
            .any(|start| self.pattern.starts_with(start))
    }

    /// Whether only an admin of a tenant may ask.
    pub(crate) fn is_admins(&self) -> bool {
        ["/api/billing", "/api/keys", "/api/activity"].iter().any(|own| self.pattern.starts_with(own))
    }

    /// The address with more of a query.
    fn with(&self, query: &str) -> String {
        let joint = if self.target.contains('?') { '&' } else { '?' };
        format!("{}{joint}{query}", self.target)
    }

    /// Its method, this target and the key that it wants.
    pub(crate) fn head(&self, kitchen: &Kitchen, target: &str) -> String {
        let content_type = match self.method.as_str() {
            "POST" if self.pattern.starts_with("/v1/") => "\r\nContent-Type: application/x-ndjson",
            "POST" | "PUT" => "\r\nContent-Type: application/json",
            _ => "",
        };
        head(kitchen, &self.method, target) + content_type
    }

    fn is_read(&self) -> bool {
        self.method == "GET"
    }
}

/// The hash under which this build serves the files of the UI.
static UI_HASH: LazyLock<String> = LazyLock::new(|| {
    let page = backend::empty().get("/").text();
    page.split("/a/").nth(1).and_then(|rest| rest.split('/').next()).expect("the page names its files").to_owned()
});

/// Every route of the table.
pub(crate) fn addresses() -> Vec<Address> {
    let addresses: Vec<Address> = route_table()
        .into_iter()
        .map(|(method, pattern)| {
            let mut target = pattern
                .replace("{run_id}", RUN)
                .replace("{node_id}", "api-events")
                .replace("{agent_id}", "coder")
                .replace("{hash}", &UI_HASH)
                .replace("{file:.*}", "kahn.css")
                .replace("{code}", "not-found")
                .replace("{key_id}", "00000000-0000-4000-8000-000000000000");
            assert!(!target.contains('{'), "{pattern}: say here what stands for it");
            if pattern == "/api/compare" {
                target += "?base=release-317&head=release-318";
            }
            Address { method, pattern, target }
        })
        .collect();
    assert!(addresses.len() >= 15 && addresses.iter().any(|address| address.pattern == "/ws/live"));
    addresses
}

/// Names of headers and what must stand in each, once.
const GUARDS: &[(&str, &str)] = &[
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// What every answer must have, and must not.
pub(crate) fn assert_guarded(reply: &Reply, what: &str) {
    for (name, value) in GUARDS {
        assert_eq!(reply.all(name), [*value], "{name} of {what}");
    }
    let policy = reply.one("content-security-policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split(';').any(|own| own.trim() == part), "{part} in {policy}, {what}");
    }
    for word in ["unsafe", "*", "http:", "https:", "blob:"] {
        assert!(!policy.contains(word), "{word} in {policy}, {what}");
    }
    for (name, _) in &reply.headers {
        let is_loose = name.starts_with("access-control-") || name == "server" || name == "x-powered-by";
        assert!(!is_loose, "{name} of {what}");
    }
    reply.one("x-request-id");
    if reply.status >= 400 && reply.one("content-length") != "0" && !reply.body.is_empty() {
        reply.problem();
        let text = reply.text().to_lowercase();
        for leak in [
            env!("CARGO_MANIFEST_DIR"),
            "/tmp/",
            ".rs:",
            "panick",
            "backtrace",
            "select ",
            "transitions.jsonl",
            "os error",
        ] {
            assert!(!text.contains(&leak.to_lowercase()), "{leak} in {text}, {what}");
        }
    }
}

#[test]
fn every_answer_of_every_route_is_guarded_and_has_its_id() {
    let kitchen = backend::with_samples();
    let mut wire = Wire::open(&kitchen.server.url);
    let mut seen = std::collections::BTreeSet::new();
    for address in addresses() {
        let own = address.head(&kitchen, &address.target);
        let mut asked = vec![
            own.clone(),
            address.head(&kitchen, &address.with("no-such=1")),
            address.head(&kitchen, &format!("{}/no/such", address.target)),
            address.head(&kitchen, &address.with(&"v".repeat(9000))),
            head(&kitchen, "DELETE", &address.target),
            head(&kitchen, "OPTIONS", &address.target),
            head(&kitchen, "PATCH", &address.target),
            own.clone() + "\r\nContent-Encoding: gzip",
            own.clone() + "\r\nAccept-Encoding: identity;q=0, nothing",
            own.clone() + "\r\nX-Long: " + &"v".repeat(17_000),
        ];
        if let Some((before, _)) = own.split_once("\r\nAuthorization") {
            asked.push(before.to_owned());
        }
        if address.is_read() {
            asked.push(own.replacen("GET", "HEAD", 1));
            asked.push(own.replacen(" HTTP/1.1\r\nHost: ", " HTTP/1.0\r\nNo-Host: ", 1));
            if address.pattern != "/ws/live" {
                asked.push(own.clone() + "\r\nIf-None-Match: *");
            }
        }
        for (number, head) in asked.iter().enumerate() {
            let id = format!("id-{number}");
            let reply = wire.ask(&format!("{head}\r\nX-Request-Id: {id}"), b"");
            let what = format!("{}: {}", reply.status, head.chars().take(200).collect::<String>());
            assert_guarded(&reply, &what);
            assert_eq!(reply.one("x-request-id"), id, "{what}");
            seen.insert(reply.status);
            if reply.all("connection").contains(&"close") || head.contains("HTTP/1.0") {
                wire = Wire::open(&kitchen.server.url);
            }
        }
    }
    for status in [200, 304, 400, 404, 405, 406, 414, 415, 431] {
        assert!(seen.contains(&status), "{status} was not looked at: {seen:?}");
    }
}

#[test]
fn a_request_id_is_taken_over_only_where_it_is_fit_to_print() {
    let kitchen = backend::empty();
    let mut wire = Wire::open(&kitchen.server.url);
    let mut ask = |field: &str| wire.ask(&(head(&kitchen, "GET", "/api/nothing") + field), b"");
    for fit in ["a", "A-b_9", &"x".repeat(64)] {
        let reply = ask(&format!("\r\nX-Request-Id: {fit}"));
        assert_eq!((reply.one("x-request-id"), reply.json()["request_id"].as_str()), (fit, Some(fit)));
    }
    for unfit in ["", "a b", "a.b", "a\"b", "<a>", "é", "a\tb", "a%0d", &"x".repeat(65)] {
        let made = ask(&format!("\r\nX-Request-Id: {unfit}"));
        let id = made.one("x-request-id");
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{unfit:?} became {id:?}");
        assert_eq!(made.problem(), "not_found");
    }
    let (first, second) = (ask(""), ask(""));
    assert_ne!(first.one("x-request-id"), second.one("x-request-id"));
}

#[test]
fn a_wrong_method_is_refused_with_what_is_right() {
    let kitchen = backend::with_samples();
    let mut wire = Wire::open(&kitchen.server.url);
    let addresses = addresses();
    for address in &addresses {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "LINK"] {
            let of_target = addresses.iter().filter(|other| other.target == address.target);
            let allowed: Vec<&str> =
                of_target.map(|own| if own.is_read() { "GET, HEAD" } else { own.method.as_str() }).collect();
            let allow = allowed.join(", ");
            if allow.split(", ").any(|own| own == method) {
                continue;
            }
            let reply = wire.ask(&head(&kitchen, method, &address.target), b"");
            assert_eq!(reply.status, 405, "{method} {}", address.target);
            assert_eq!(reply.one("allow"), allow, "{method} {}", address.target);
            if method != "HEAD" {
                assert_eq!(reply.problem(), "method_not_allowed");
            }
        }
    }
}

/// Values that no parameter takes, as they stand in a query.
const HOSTILE: &[&str] = &["%00", "a%00b", "%0d%0aX:%20y", "%1b%5b2J", "%ff", "%c0%af", "%ed%a0%80", "a%fe", "%7f"];

/// Parameters whose values are names, and some that are none.
const NAMES: &[(&str, &[&str])] = &[
    ("window", &["1h", "25h", "ALL", "24H", "%2024h", "7d,24h", "24h%00", "null"]),
    ("sort", &["", "name", "Started", "started,run_id", "started;drop", "-started"]),
    ("order", &["", "up", "ASC", "desc%20", "1"]),
    ("kind", &["", "CI", "ci,agent", "unknown", "*"]),
    ("phase", &["", "done", "LIVE", "live,ended"]),
    ("outcome", &["", "unknown", "Partial", "success", "clean%00"]),
    ("digest", &["", "1", "yes", "TRUE"]),
    ("format", &["", "csv", "NDJSON", "json,ndjson", "ndjson%00"]),
];

/// Parameters whose values are of a form, and some that are not.
const FORMS: &[(&str, &[&str])] = &[
    ("limit", &["", "0", "5001", "501e0", "-1", "1.5", "%2b5", "+5", "0x10", "18446744073709551616", "5%20", "%D9%A5"]),
    ("offset", &["", "-1", "1.5", "9007199254740992", "99999999999999999999", "1e3"]),
    ("from_seq", &["", "-1", "1.5", "9007199254740992", "99999999999999999999", "1e3", "NaN"]),
    ("at_seq", &["", "-1", "1.5", "9007199254740991", "99999999999999999999", "1e3"]),
    ("as_of", BAD_MOMENTS),
    ("since", BAD_MOMENTS),
    ("until", BAD_MOMENTS),
    ("agent_id", &["", "A", "..", "-a", "a/b"]),
    ("node_id", &["", "A", "..", "-a", "a/b", "a_b"]),
    ("parent", &["", "..", "-a", "a/b", "a.b"]),
    ("cursor", &["", "e30", "null", "AAAA", "%20", "../../etc", "W10"]),
];

const BAD_MOMENTS: &[&str] = &[
    "",
    "now",
    "0",
    "1745489000",
    "2026-04-24",
    "2026-04-24T10:00:00Z",
    "2026-04-24T10:00:00.000",
    "2026-04-24T10:00:00.000z",
    "2026-04-24T10:00:00.000%2b00:00",
    "2026-02-30T10:00:00.000Z",
    "2026-04-24T24:00:00.000Z",
    "2026-04-24T10:00:60.000Z",
    "0000-01-01T00:00:00.000Z",
    "10000-01-01T00:00:00.000Z",
    "-001-01-01T00:00:00.000Z",
    "2026-04-24T10:00:00.0000Z",
];

/// The parameters that an address says it takes, when it is asked for another one.
pub(crate) fn taken(kitchen: &Kitchen, wire: &mut Wire, address: &Address) -> Vec<String> {
    let reply = wire.ask(&address.head(kitchen, &address.with("no-such=1")), b"");
    assert_eq!((reply.status, reply.problem().as_str()), (400, "unknown_parameter"), "{}", address.target);
    let allowed = reply.json()["allowed"].clone();
    allowed.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

#[test]
fn what_a_route_does_not_take_is_refused_with_what_it_takes() {
    let kitchen = backend::with_samples();
    let mut wire = Wire::open(&kitchen.server.url);
    for address in addresses().iter().filter(|address| address.reads_parameters()) {
        // What a key may not ask is refused before its parameters are looked at; the other build's operator may ask all.
        if address.is_admins() && wire.ask(&address.head(&kitchen, &address.target), b"").status == 403 {
            continue;
        }
        let mut refused = |query: &str| {
            let reply = wire.ask(&address.head(&kitchen, &address.with(query)), b"");
            assert_eq!(reply.status, 400, "{} {}: {}", address.method, address.with(query), reply.text());
            (reply.problem(), reply.json()["allowed"].clone())
        };
        for odd in ["=", "=1", "%00", "%ff=1", "LIMIT=5", "limit%00=5", "as_of[]=1", "&no-such", "no-such=%ff"] {
            let (code, _) = refused(odd);
            assert!(["unknown_parameter", "invalid_encoding"].contains(&code.as_str()), "{odd}: {code}");
        }
        for name in taken(&kitchen, &mut wire, address) {
            let mut refused = |query: &str| {
                let reply = wire.ask(&address.head(&kitchen, &address.with(query)), b"");
                assert_eq!(reply.status, 400, "{} {}: {}", address.method, address.with(query), reply.text());
                (reply.problem(), reply.json()["allowed"].clone())
            };
            assert_eq!(refused(&format!("{name}=1&{name}=1")).0, "duplicate_parameter", "{name}");
            assert_eq!(
                refused(&format!("{name}=1&%{:02x}{}=2", name.as_bytes()[0], &name[1..])).0,
                "duplicate_parameter"
            );
            for value in HOSTILE {
                refused(&format!("{name}={value}"));
            }
            // The part of a run_id may be anything that can be written down; every other value has a form.
            if name != "q" {
                refused(&format!("{name}={}", "x".repeat(7000)));
            }
            for (_, values) in NAMES.iter().filter(|(own, _)| *own == name) {
                for value in *values {
                    let (code, allowed) = refused(&format!("{name}={value}"));
                    assert_eq!(code, format!("unknown_{name}"), "{value}");
                    assert!(allowed.as_array().is_some_and(|names| names.len() >= 2), "{name}={value}: {allowed}");
                }
            }
            for (_, values) in FORMS.iter().filter(|(own, _)| *own == name) {
                for value in *values {
                    assert_eq!(refused(&format!("{name}={value}")).0, format!("invalid_{name}"), "{value}");
                }
            }
        }
    }
}

#[test]
fn a_path_that_names_nothing_is_not_found() {
    let kitchen = backend::with_samples();
    let mut wire = Wire::open(&kitchen.server.url);
    let odd = [
        "%00",
        "%ff",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "-a",
        "a.b",
        "a%0d%0ab",
        "%1b%5b2J",
        "nobody",
        &"a".repeat(65),
        &"a".repeat(4000),
    ];
    // A page of the UI answers whatever its address names, and finds out by itself.
    // Keys are an admin's affair, which nobody is here; their addresses are held to the same by the tests of the account.
    let is_page = |pattern: &str| ["/runs/", "/agents/", "/api/keys/"].iter().any(|start| pattern.starts_with(start));
    for (method, pattern) in route_table().into_iter().filter(|(_, pattern)| pattern.contains('{') && !is_page(pattern))
    {
        for odd in odd {
            for part in ["{run_id}", "{node_id}", "{hash}", "{file:.*}", "{code}"] {
                if !pattern.contains(part) || (method != "GET" && odd == "nobody") {
                    continue;
                }
                let target = pattern
                    .replace(part, odd)
                    .replace("{run_id}", RUN)
                    .replace("{node_id}", "api-events")
                    .replace("{file:.*}", "kahn.css")
                    .replace("{hash}", "0123456789abcdef");
                let content_type = if method == "PUT" { "\r\nContent-Type: application/json" } else { "" };
                let reply = wire.ask(&(head(&kitchen, &method, &target) + content_type), b"");
                let wanted = if method == "GET" { 404 } else { 400 };
                assert_eq!(reply.status, wanted, "{method} {target}: {}", reply.text());
                assert_guarded(&reply, &target);
            }
        }
    }
}

#[test]
fn only_ingest_takes_large_or_coded_bodies() {
    let kitchen = backend::empty();
    for address in addresses() {
        let own = address.head(&kitchen, &address.target);
        let ask = |more: &str| ask(&kitchen.server.url, &format!("{own}{more}"), b"");
        let codings: &[&str] =
            &["br", "zstd", "deflate", "identity", "compress", "gzip, gzip", "gzip, br", "x-gzip", ""];
        for coding in codings {
            let reply = ask(&format!("\r\nContent-Encoding: {coding}"));
            assert_eq!((reply.status, reply.problem().as_str()), (415, "unsupported_encoding"), "{own} {coding}");
        }
        let twice = ask("\r\nContent-Encoding: gzip\r\nContent-Encoding: gzip");
        assert_eq!((twice.status, twice.problem().as_str()), (415, "unsupported_encoding"), "{own}");
        let is_batch = address.method == "POST" && address.pattern == "/v1/ingest/transitions";
        let gzip = ask("\r\nContent-Encoding: gzip\r\nContent-Length: 0");
        assert_eq!(gzip.status == 415, !is_batch, "{own}: {}", gzip.text());
        assert_eq!(gzip.json()["allowed"].is_array(), !is_batch, "{}", gzip.text());
        let most = if address.pattern.starts_with("/v1/ingest/") && !address.is_read() { 8 << 20 } else { 64 << 10 };
        for length in [most + 1, u64::MAX] {
            let reply = ask(&format!("\r\nContent-Length: {length}"));
            assert_eq!((reply.status, reply.json()["limit"].as_u64()), (413, Some(most)), "{own}: {}", reply.text());
        }
    }
}
