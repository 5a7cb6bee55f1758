//! Whom local mode answers, on every route: if these fail, a web page that the operator visits reads or writes the archive.

use crate::every_route::{Address, addresses, assert_guarded};
use crate::support::Server;
use crate::wire::{Reply, Wire, ask};

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
const EVENT: &[u8] =
    b"{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"run_start\",\"total_nodes\":1}\n";
const HANDSHAKE: &str =
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";

/// A server over an archive that nobody made yet, which also answers for kahn.local.
struct House {
    server: Server,
    folder: tempfile::TempDir,
    port: String,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = folder.path().join("archive").display().to_string();
        let args = ["serve", "--bind", "127.0.0.1:0", "--archive", &archive, "--allowed-host", "kahn.local"];
        let server = Server::start(&args, &[]);
        let port = server.url.rsplit_once(':').expect("a port").1.to_owned();
        Self { server, folder, port }
    }

    /// The server's own name.
    fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The answer to a request that would write if it were let in.
    fn ask(&self, wire: &mut Wire, (method, target): (&str, &str), fields: &str) -> Reply {
        let content_type = if method == "PUT" { "application/json" } else { "application/x-ndjson" };
        let body: &[u8] = match method {
            "POST" => EVENT,
            "PUT" => b"{}",
            _ => b"",
        };
        let length = if body.is_empty() { String::new() } else { format!("\r\nContent-Length: {}", body.len()) };
        let head = format!("{method} {target} HTTP/1.1\r\n{fields}\r\nContent-Type: {content_type}{length}");
        let reply = wire.ask(&head, body);
        assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("access-control-")), "{head}: {reply:?}");
        // A body that is refused unread ends the connection.
        if !body.is_empty() || reply.all("connection").contains(&"close") {
            *wire = Wire::open(&self.server.url);
        }
        reply
    }

    /// Refused at the door, in this way.
    fn is_refused(&self, wire: &mut Wire, request: (&str, &str), fields: &str, with: (u16, &str)) {
        let reply = self.ask(wire, request, fields);
        assert_eq!(reply.status, with.0, "{request:?} {fields}: {}", reply.text());
        assert_guarded(&reply, fields);
        if request.0 != "HEAD" {
            assert_eq!(reply.problem(), with.1, "{request:?} {fields}");
        }
    }

    /// Every route and a few addresses that are none.
    fn targets() -> Vec<String> {
        let mut targets: Vec<String> = addresses().into_iter().map(|Address { target, .. }| target).collect();
        targets.extend(
            ["/nowhere", "/api/runs/", "//", "/a/none.js", "/api/runs/%00", "/api/runs?no=such"].map(str::to_owned),
        );
        targets.dedup();
        targets
    }
}

#[test]
fn no_route_answers_for_another_name() {
    let house = House::new();
    let mut wire = Wire::open(&house.server.url);
    let port = &house.port;
    let foreign = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil:{port}"),
        format!("localhost.:{port}"),
        format!("127.0.0.1.:{port}"),
        format!("127.1:{port}"),
        format!("127.0.0.2:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f.1:{port}"),
        format!("017700000001:{port}"),
        format!("0.0.0.0:{port}"),
        format!("0:{port}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::1%25lo]:{port}"),
        format!("[::1%lo]:{port}"),
        format!("[0:0:0:0:0:0:0:1]:{port}"),
        "localhost:80@evil.example".to_owned(),
        format!("evil.example@localhost:{port}"),
        format!("localhost:{port}/.evil.example"),
        format!("localhost:{port}, evil.example"),
        format!("localhost:{port}:80"),
        "localhost:99999".to_owned(),
        "localhost:".to_owned(),
        format!("kahn.local.evil:{port}"),
        "l\u{f6}calhost".to_owned(),
    ];
    for target in House::targets() {
        for method in METHODS {
            // All spellings against one method, one spelling against all.
            let count = if *method == "GET" { foreign.len() } else { 1 };
            for host in &foreign[..count] {
                // A Host that is not visible ASCII is none.
                let with = if host.is_ascii() { (421, "foreign_host") } else { (400, "bad_host") };
                house.is_refused(&mut wire, (method, &target), &format!("Host: {host}"), with);
            }
            let fields = format!("Host: {}", house.host());
            for authority in ["evil.example".to_owned(), format!("evil.example@localhost:{port}"), "localhost:1".into()]
            {
                let absolute = format!("http://{authority}{target}");
                house.is_refused(&mut wire, (method, &absolute), &fields, (400, "bad_host"));
            }
            house.is_refused(&mut wire, (method, &target), "Host: ", (400, "bad_host"));
            let foreign_target = format!("http://evil.example{target}");
            house.is_refused(&mut wire, (method, &foreign_target), "Host: evil.example", (421, "foreign_host"));
            for fields in [
                "X: none".to_owned(),
                format!("Host: {0}\r\nHost: {0}", house.host()),
                format!("Host: {}\r\nHost: evil.example", house.host()),
            ] {
                // The parser refuses these by itself, before there is a request.
                let reply = house.ask(&mut wire, (method, &target), &fields);
                assert_eq!((reply.status, reply.body.len()), (400, 0), "{method} {target} {fields}");
                wire = Wire::open(&house.server.url);
            }
        }
        let old = format!("GET {target} HTTP/1.0");
        assert_eq!(ask(&house.server.url, &old, b"").problem(), "bad_host", "{target} without a host, in HTTP/1.0");
    }
    let tunnel = format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {}", house.host());
    assert_eq!(ask(&house.server.url, &tunnel, b"").problem(), "bad_host");
    assert!(!house.folder.path().join("archive").exists(), "nothing was written");
}

#[test]
fn no_route_answers_a_page_of_another_origin() {
    let house = House::new();
    let mut wire = Wire::open(&house.server.url);
    let (host, port) = (house.host(), &house.port);
    let own = format!("http://{host}");
    let foreign = [
        "null".to_owned(),
        String::new(),
        "http://evil.example".into(),
        format!("https://{host}"),
        format!("http://127.0.0.1:{port}"),
        format!("http://[::1]:{port}"),
        format!("http://kahn.local:{port}"),
        "http://localhost".into(),
        "http://localhost:1".into(),
        format!("http://{host}.evil.example"),
        format!("http://evil.example@{host}"),
        format!("{own}/"),
        format!("{own} http://evil.example"),
        format!("{own}, {own}"),
        format!("ws://{host}"),
        format!("file://{host}"),
        "chrome-extension://abcdefghijklmnop".into(),
        "null, null".into(),
    ];
    for target in House::targets() {
        for method in METHODS {
            for origin in &foreign {
                let fields = format!("Host: {host}\r\nOrigin: {origin}");
                house.is_refused(&mut wire, (method, &target), &fields, (403, "foreign_origin"));
            }
            let two = format!("Host: {host}\r\nOrigin: {own}\r\nOrigin: {own}");
            house.is_refused(&mut wire, (method, &target), &two, (403, "foreign_origin"));
            for site in ["cross-site", "same-site", "Same-Origin", "same-origin, none", "other"] {
                let fields = format!("Host: {host}\r\nSec-Fetch-Site: {site}");
                if *method != "GET" {
                    house.is_refused(&mut wire, (method, &target), &fields, (403, "foreign_origin"));
                    let own_too = format!("{fields}\r\nOrigin: {own}");
                    house.is_refused(&mut wire, (method, &target), &own_too, (403, "foreign_origin"));
                } else {
                    // A link on another site leads here; what it opens is guarded by its headers.
                    let reply = house.ask(&mut wire, (method, &target), &fields);
                    assert!(![403, 421].contains(&reply.status), "{target} {site}: {}", reply.status);
                }
            }
            let two = format!("Host: {host}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Site: same-origin");
            if *method != "GET" {
                house.is_refused(&mut wire, (method, &target), &two, (403, "foreign_origin"));
            }
        }
        let preflight = format!(
            "Host: {host}\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: PUT\r\n\
             Access-Control-Request-Headers: content-type\r\nAccess-Control-Request-Private-Network: true"
        );
        house.is_refused(&mut wire, ("OPTIONS", &target), &preflight, (403, "foreign_origin"));
        for upgrade in ["websocket", "WebSocket", "xwebsocket", "websocket, h2c", "h2c, websocket/13"] {
            let shake = format!("Host: {host}\r\nUpgrade: {upgrade}\r\n{HANDSHAKE}");
            for fields in [
                "Origin: http://evil.example",
                "Origin: null",
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Site: same-site",
            ] {
                let mut wire = Wire::open(&house.server.url);
                let fields = format!("{shake}\r\n{fields}");
                house.is_refused(&mut wire, ("GET", &target), &fields, (403, "foreign_origin"));
            }
        }
    }
    assert!(!house.folder.path().join("archive").exists(), "nothing was written");
}

#[test]
fn the_operators_own_pages_and_tools_are_let_in() {
    let house = House::new();
    let port = &house.port;
    let names = [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        // A forwarded port is another one.
        "LocalHost:9".into(),
        "localhost".into(),
        "[::1]".into(),
        "KAHN.local:80".into(),
        "kahn.local".into(),
    ];
    for address in addresses() {
        for host in &names {
            for fields in [
                format!("Host: {host}"),
                format!("Host: {host}\r\nOrigin: http://{host}\r\nSec-Fetch-Site: same-origin"),
                format!("Host: {host}\r\nSec-Fetch-Site: none"),
            ] {
                let mut wire = Wire::open(&house.server.url);
                let reply = house.ask(&mut wire, (&address.method, &address.target), &fields);
                assert!(
                    ![400, 403, 421].contains(&reply.status) || address.pattern == "/ws/live",
                    "{} {fields}: {reply:?}",
                    address.target
                );
            }
        }
    }
    for host in &names {
        let shake = format!(
            "GET /ws/live HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n{HANDSHAKE}"
        );
        let reply = ask(&house.server.url, &shake, b"");
        assert_eq!(reply.status, 101, "{host}");
        assert_guarded(&reply, &shake);
    }
    // What another protocol's name holds is no handshake.
    for upgrade in ["xwebsocket", "websocket, h2c"] {
        let shake = format!("GET /ws/live HTTP/1.1\r\nHost: {}\r\nUpgrade: {upgrade}\r\n{HANDSHAKE}", house.host());
        assert_eq!(ask(&house.server.url, &shake, b"").problem(), "not_a_websocket", "{upgrade}");
    }
    assert!(house.folder.path().join("archive/runs/r").exists(), "the same requests write when they are let in");
}
