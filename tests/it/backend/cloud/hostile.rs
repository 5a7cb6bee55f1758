//! Tokens and Authorization fields that must let nobody in, on every protected route. If these fail, somebody who should be
//! outside is inside, or learns from an answer or the log what a token holds.

use std::collections::{BTreeMap, HashSet};

use serde_json::json;

use super::airlock::{Airlock, shared};
use super::cluster::Database;
use super::tenant;
use crate::every_route::{Address, addresses};
use crate::support::{Server, wait_for};
use crate::wire::{Reply, Wire};

/// The routes that ask who is there: all of the API's but what a client must know first.
fn protected() -> Vec<Address> {
    let mut addresses = addresses();
    addresses.retain(|address| {
        ["/api/", "/v1/", "/ws/"].iter().any(|start| address.pattern.starts_with(start))
            && address.pattern != "/api/config"
    });
    assert!(addresses.len() >= 15);
    addresses
}

/// A server that trusts this machine to say where a request came from, and a connection to it.
struct Scene {
    server: Server,
    wire: Wire,
    asked: u32,
    _database: Database,
}

impl Scene {
    fn new(airlock: &Airlock) -> Self {
        let database = Database::fresh();
        tenant(&database, "acme");
        // Failed attempts are counted by address; here each request comes from one of its own.
        let server = airlock.serve_with(&database, &[], &[("KAHN_TRUSTED_PROXIES", "127.0.0.1/32")]);
        let wire = Wire::open(&server.url);
        let mut scene = Self { server, wire, asked: 0, _database: database };
        let good = format!("Authorization: Bearer {}", airlock.mint(&json!({})));
        let me = addresses().into_iter().find(|address| address.pattern == "/api/me").expect("an address");
        wait_for("the provider's keys", || (scene.ask(&me, good.as_bytes()).status == 200).then_some(()));
        scene
    }

    /// The answer to a request with these lines in its head.
    fn ask(&mut self, address: &Address, lines: &[u8]) -> Reply {
        self.ask_at(address, &address.target, lines)
    }

    fn ask_at(&mut self, address: &Address, target: &str, lines: &[u8]) -> Reply {
        self.asked += 1;
        let [_, a, b, c] = self.asked.to_be_bytes();
        let host = self.server.url.strip_prefix("http://").expect("an http address");
        let mut head = format!(
            "{} {target} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: same\r\nX-Forwarded-For: 10.{a}.{b}.{c}\r\n",
            address.method
        );
        head += match address.method.as_str() {
            "POST" if address.pattern.starts_with("/v1/") => "Content-Type: application/x-ndjson\r\n",
            "POST" | "PUT" => "Content-Type: application/json\r\n",
            _ => "",
        };
        if address.pattern == "/ws/live" {
            head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        }
        let bytes = [head.as_bytes(), lines, b"\r\n\r\n"].concat();
        self.wire.send(&bytes);
        let reply = self.wire.reply(false).unwrap_or_else(|| {
            // A connection that was idle for long may have been closed.
            self.wire = Wire::open(&self.server.url);
            self.wire.send(&bytes);
            self.wire.reply(false).expect("an answer")
        });
        if reply.status == 101 || reply.all("connection").contains(&"close") {
            self.wire = Wire::open(&self.server.url);
        }
        reply
    }
}

/// The pieces of twelve bytes of these texts: none of them may be found where tokens may not be.
fn pieces<'a>(texts: impl Iterator<Item = &'a str>) -> HashSet<&'a [u8]> {
    texts.flat_map(|text| text.as_bytes().windows(12)).collect()
}

fn find<'a>(text: &'a str, pieces: &HashSet<&[u8]>) -> Option<std::borrow::Cow<'a, str>> {
    text.as_bytes().windows(12).find(|window| pieces.contains(*window)).map(String::from_utf8_lossy)
}

#[test]
fn no_hostile_token_gets_in_anywhere_and_all_are_told_the_same() {
    let airlock = Airlock::start();
    let mut scene = Scene::new(&airlock);
    let said = airlock.look("/control/hostile");
    let hostile: Vec<(&str, &str, u64)> = said["hostile"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().expect("a text");
            (text("name"), text("token"), one["status"].as_u64().expect("a status"))
        })
        .collect();
    let names: HashSet<&str> = hostile.iter().map(|(name, ..)| *name).collect();
    assert!(names.len() >= 150 && names.len() == hostile.len(), "{} names of {}", names.len(), hostile.len());

    let mut wrong = BTreeMap::new();
    let mut bodies: BTreeMap<u16, HashSet<Vec<u8>>> = BTreeMap::new();
    for address in protected() {
        let mut carriers = vec!["Authorization: Bearer "];
        if address.pattern == "/ws/live" {
            carriers.push("Sec-WebSocket-Protocol: kahn.bearer, ");
        }
        for carrier in carriers {
            for (name, token) in said["good"].as_object().expect("the good ones") {
                let token = token.as_str().expect("a token");
                let reply = scene.ask(&address, format!("{carrier}{token}").as_bytes());
                assert!(![401, 403, 429].contains(&reply.status), "{name} at {}: {}", address.target, reply.text());
                assert!(reply.status < 500, "{name} at {}: {}", address.target, reply.text());
            }
            for (name, token, status) in &hostile {
                // A protocol that could not be named so is none that was offered.
                if !token.is_ascii() && !carrier.starts_with("Auth") {
                    continue;
                }
                let reply = scene.ask(&address, format!("{carrier}{token}").as_bytes());
                if u64::from(reply.status) != *status {
                    wrong.entry(*name).or_insert_with(|| (carrier, address.target.clone(), *status, reply.status));
                    continue;
                }
                let (code, challenge) = match reply.status {
                    401 => ("invalid_token", "Bearer error=\"invalid_token\""),
                    _ => ("insufficient_scope", "Bearer error=\"insufficient_scope\""),
                };
                assert_eq!((&*reply.problem(), reply.one("www-authenticate")), (code, challenge), "{name}");
                bodies.entry(reply.status).or_default().insert(reply.body);
            }
        }
    }
    assert!(wrong.is_empty(), "(carrier, address, wanted, got): {wrong:#?}");
    assert!(bodies.values().all(|bodies| bodies.len() == 1), "{bodies:?}");

    let log = scene.server.log();
    let lines = log.lines().filter(|line| line.contains("a token was refused")).count();
    assert!(lines >= hostile.len(), "the look at the log would find nothing: {lines} lines");
    let good = said["good"].as_object().expect("the good ones").values().filter_map(|token| token.as_str());
    let pieces = pieces(hostile.iter().map(|(_, token, _)| *token).chain(good));
    assert!(find(&format!("a log with {} in it", &hostile[0].1[..20]), &pieces).is_some());
    if let Some(found) = find(&log, &pieces) {
        panic!("the log holds {found:?} of a token");
    }
}

#[test]
fn an_authorization_field_that_is_no_bearer_token_lets_nobody_in() {
    let mut scene = Scene::new(shared());
    let good = shared().mint(&json!({}));
    let long = |length: usize| {
        let field = format!("Bearer {}{good}", " ".repeat(length - "Bearer ".len() - good.len()));
        assert_eq!(field.len(), length);
        format!("Authorization: {field}").into_bytes()
    };
    let basic = "Authorization: Basic c2VydmljZTpzZWNyZXQ=";
    // The lines, the status, and whether the answer says that there was a token.
    let fields: Vec<(Vec<u8>, u16, bool)> = vec![
        (b"X-Nothing: here".to_vec(), 401, false),
        (format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}").into(), 401, true),
        (format!("Authorization: Bearer {good}\r\nAuthorization: Bearer abc").into(), 401, true),
        (format!("Authorization: Bearer abc\r\nAuthorization: Bearer {good}").into(), 401, true),
        (format!("{basic}\r\nAuthorization: Bearer {good}").into(), 401, true),
        (format!("Authorization: Bearer {good}\r\nauthorization: {basic}").into(), 401, true),
        (format!("Authorization: Bearer {good}\r\nAuthorization:").into(), 401, true),
        (basic.into(), 401, false),
        (format!("Authorization: Basic {good}").into(), 401, false),
        (format!("Authorization: DPoP {good}").into(), 401, false),
        (format!("Authorization: Token {good}").into(), 401, false),
        (format!("Authorization: JWT {good}").into(), 401, false),
        (format!("Authorization: Bearer2 {good}").into(), 401, false),
        (format!("Authorization: Bearer {good}, Basic c2VydmljZTpzZWNyZXQ=").into(), 401, true),
        (format!("Authorization: Bearer {good} {good}").into(), 401, true),
        (format!("Authorization: Bearer Bearer {good}").into(), 401, true),
        (format!("Authorization: Bearer token={good}").into(), 401, true),
        (format!("Authorization: Bearer \"{good}\"").into(), 401, true),
        (format!("Authorization: Bearer {good};").into(), 401, true),
        (format!("Authorization: Bearer {good}%20").into(), 401, true),
        (format!("Authorization: Bearer é{good}").into(), 401, true),
        ([b"Authorization: Bearer \xff\xfe".as_slice(), good.as_bytes()].concat(), 401, true),
        (long(8 * 1024 + 1), 401, true),
        (format!("Authorization: Bearer {good}\x01").into(), 400, false),
        (format!("Authorization: Bearer {good}\0").into(), 400, false),
        (format!("Authorization: Bearer \x7f{good}").into(), 400, false),
        (format!("Authorization : Bearer {good}").into(), 400, false),
        (format!("Authorization: Bearer\r\n {good}").into(), 400, false),
    ];
    let fine: Vec<Vec<u8>> = vec![
        format!("Authorization: Bearer {good}").into(),
        format!("authorization:bearer {good}").into(),
        format!("AUTHORIZATION: BEARER {good}  ").into(),
        long(8 * 1024),
    ];
    // Whatever is no more than a scheme, or not even that.
    let bare = [
        "Authorization:",
        "Authorization: Bearer",
        "Authorization: Bearer   ",
        "Authorization: ,",
        "Authorization: =",
        "Authorization: Bearer,",
    ];
    for address in protected() {
        for lines in &fine {
            let reply = scene.ask(&address, lines);
            assert!(
                ![400, 401, 403, 429].contains(&reply.status) || reply.status == 400,
                "{}: {}",
                address.target,
                reply.text()
            );
        }
        for (lines, status, is_token) in &fields {
            let what = format!("{} with {:.60}", address.target, String::from_utf8_lossy(lines));
            let reply = scene.ask(&address, lines);
            assert_eq!(reply.status, *status, "{what}: {}", reply.text());
            if *status == 400 {
                scene.wire = Wire::open(&scene.server.url);
                continue;
            }
            let (code, challenge) = match is_token {
                true => ("invalid_token", "Bearer error=\"invalid_token\""),
                false => ("no_credentials", "Bearer"),
            };
            assert_eq!((&*reply.problem(), reply.one("www-authenticate")), (code, challenge), "{what}");
        }
        for line in bare {
            let reply = scene.ask(&address, line.as_bytes());
            assert_eq!(reply.status, 401, "{line} at {}", address.target);
        }
    }
    let pieces = pieces(std::iter::once(good.as_str()));
    assert_eq!(find(&scene.server.log(), &pieces), None, "a token in the log");
}

#[test]
fn a_token_anywhere_but_in_its_field_is_nobodys() {
    let mut scene = Scene::new(shared());
    let good = shared().mint(&json!({}));
    let lines = [
        format!("Cookie: access_token={good}"),
        format!("Cookie: kahn_session={good}; __Host-kahn_session={good}; Authorization=Bearer {good}"),
        format!("Proxy-Authorization: Bearer {good}"),
        format!("X-Authorization: Bearer {good}"),
        format!("X-Access-Token: {good}"),
        format!("X-Forwarded-Authorization: Bearer {good}"),
        format!("X-Api-Key: {good}"),
        format!("X-Forwarded-User: {good}\r\nX-Forwarded-Access-Token: {good}"),
        format!("Sec-WebSocket-Protocol: bearer, {good}"),
        format!("Sec-WebSocket-Protocol: {good}, kahn.bearer"),
        format!("Referer: http://127.0.0.1/?access_token={good}"),
    ];
    for address in protected() {
        for line in &lines {
            let reply = scene.ask(&address, line.as_bytes());
            let told = (reply.status, reply.problem(), reply.one("www-authenticate").to_owned());
            assert_eq!(told, (401, "no_credentials".into(), "Bearer".into()), "{} with {line:.30}", address.target);
        }
        let joint = if address.target.contains('?') { '&' } else { '?' };
        for name in ["access_token", "token", "authorization", "bearer"] {
            let target = format!("{}{joint}{name}={good}", address.target);
            let reply = scene.ask_at(&address, &target, b"X-Nothing: here");
            assert_eq!((reply.status, reply.problem()), (401, "no_credentials".into()), "{name} at {}", address.target);
        }
        if address.pattern != "/ws/live" {
            let line = format!("Sec-WebSocket-Protocol: kahn.bearer, {good}");
            let reply = scene.ask(&address, line.as_bytes());
            assert_eq!(reply.status, 401, "{}: the protocol is for sockets", address.target);
        } else {
            let line = format!("Authorization: Bearer {good}\r\nSec-WebSocket-Protocol: kahn.bearer, {good}");
            let reply = scene.ask(&address, line.as_bytes());
            assert_eq!((reply.status, reply.problem()), (401, "invalid_token".into()), "both ways at once");
        }
    }
    let pieces = pieces(std::iter::once(good.as_str()));
    assert_eq!(find(&scene.server.log(), &pieces), None, "a token in the log");
}
