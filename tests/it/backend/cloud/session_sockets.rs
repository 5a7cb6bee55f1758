//! Sockets: by which credentials they open, and how soon they close once these have ended.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as Stream;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::airlock::shared;
use super::cluster::Database;
use super::session::{PUBLIC, Person, serve, two_tenants};
use super::tenant;
use crate::feed::block_on;
use crate::support::{PATIENCE, Server, request};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Shakes hands with these fields; the status where it is refused, else the socket and the protocol that was chosen.
async fn shake(server: &Server, fields: &[(&'static str, &str)]) -> Result<(Socket, Option<String>), u16> {
    let address = server.url.replace("http://", "ws://") + "/ws/live";
    let mut handshake = address.into_client_request().expect("a request");
    for (name, value) in fields {
        handshake.headers_mut().append(*name, value.parse().expect("a field"));
    }
    match tokio_tungstenite::connect_async(handshake).await {
        Ok((socket, answer)) => {
            let chosen =
                answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().expect("text").to_owned());
            Ok((socket, chosen))
        }
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// Reads until the server closes; the code.
async fn closes(mut socket: Socket) -> Option<u16> {
    let end = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(reason))) => return reason.map(|reason| u16::from(reason.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the socket is closed")
}

/// As a superuser, from within a test that waits on sockets: the statement has a runtime of its own.
fn arrange(database: &Database, statement: &str) {
    std::thread::scope(|scope| scope.spawn(|| database.admin(statement)).join()).expect("it is allowed");
}

#[test]
fn a_socket_opens_by_token_or_by_a_session_on_the_servers_own_page() {
    let database = Database::fresh();
    let key = tenant(&database, "acme").1;
    let server = serve(shared(), &database);
    let cookie = Person::signed_in(&server, "ada@acme").here.field();
    let token = shared().token("service:kahn-harness", "kahn:read");
    let opaque = shared().token("service:acme-opaque", "kahn:read");
    block_on(async {
        for secret in [&key, &token, &opaque] {
            let bearer = format!("Bearer {secret}");
            let (_, chosen) = shake(&server, &[("authorization", &bearer)]).await.expect("by header");
            assert_eq!(chosen, None);
            let offered = format!("kahn.bearer, {secret}");
            let protocol = ("sec-websocket-protocol", offered.as_str());
            let (_, chosen) = shake(&server, &[protocol]).await.expect("by protocol");
            assert_eq!(chosen.as_deref(), Some("kahn.bearer"), "the token is not said back");
            assert_eq!(shake(&server, &[protocol, ("authorization", &bearer)]).await.err(), Some(401), "both at once");
            // From whatever page: a token says itself who asks.
            shake(&server, &[protocol, ("origin", "https://evil.example")]).await.expect("by protocol");
        }
        for offered in ["kahn.bearer", "kahn.bearer,", "kahn.bearer, nonsense", "other, x", "x, kahn.bearer"] {
            assert_eq!(shake(&server, &[("sec-websocket-protocol", offered)]).await.err(), Some(401), "{offered:?}");
        }
        let own = [("cookie", cookie.as_str()), ("origin", PUBLIC)];
        let (_, chosen) = shake(&server, &own).await.expect("by session");
        assert_eq!(chosen, None);
        for origin in ["https://evil.example", "null", "http://kahn.example", "https://kahn.example.evil.example"] {
            let foreign = [("cookie", cookie.as_str()), ("origin", origin)];
            assert_eq!(shake(&server, &foreign).await.err(), Some(403), "{origin}");
        }
        assert_eq!(shake(&server, &own[..1]).await.err(), Some(403), "a handshake without Origin");
        assert_eq!(shake(&server, &[own[0], own[1], own[1]]).await.err(), Some(403), "two of them");
        assert_eq!(shake(&server, &own[1..]).await.err(), Some(401), "nobody");
    });
}

#[test]
fn a_socket_closes_soon_after_its_person_signed_out() {
    let (server, _database) = two_tenants();
    let mut person = Person::signed_in(&server, "ada@acme");
    let other = Person::signed_in(&server, "ada@acme");
    block_on(async {
        let fields = [person.here.field(), other.here.field()];
        let (socket, _) = shake(&server, &[("cookie", &fields[0]), ("origin", PUBLIC)]).await.expect("a socket");
        let (mut of_other, _) = shake(&server, &[("cookie", &fields[1]), ("origin", PUBLIC)]).await.expect("a socket");
        assert_eq!(person.signs_out().status, 200);
        let out = Instant::now();
        assert_eq!(closes(socket).await, Some(4401));
        assert!(out.elapsed() < Duration::from_secs(5), "{:?}", out.elapsed());
        // The other browser's goes on: its next sign of life comes.
        let hello = of_other.next().await.expect("open").expect("a frame");
        assert!(hello.is_text());
        let beat =
            tokio::time::timeout(PATIENCE, of_other.next()).await.expect("in time").expect("open").expect("a frame");
        assert!(!beat.is_close(), "{beat:?}");
    });
}

#[test]
fn a_socket_closes_soon_after_its_key_was_revoked_or_its_tenant_is_gone() {
    let database = Database::fresh();
    let key = tenant(&database, "acme").1;
    let server = serve(shared(), &database);
    let person = Person::signed_in(&server, "ada@acme");
    block_on(async {
        let offered = format!("kahn.bearer, {key}");
        let (by_key, _) = shake(&server, &[("sec-websocket-protocol", &offered)]).await.expect("a socket");
        let cookie = person.here.field();
        let (by_session, _) = shake(&server, &[("cookie", &cookie), ("origin", PUBLIC)]).await.expect("a socket");
        arrange(&database, "UPDATE api_keys SET revoked_at = now()");
        let revoked = Instant::now();
        assert_eq!(closes(by_key).await, Some(4401));
        assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
        arrange(&database, "UPDATE tenants SET org_id = 'org_another' WHERE name = 'acme'");
        let moved = Instant::now();
        assert_eq!(closes(by_session).await, Some(4401));
        assert!(moved.elapsed() < Duration::from_secs(8), "{:?}", moved.elapsed());
    });
}

#[test]
fn a_key_that_is_revoked_while_its_batch_comes_stores_nothing() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = super::serve(&database);
    let line = "{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"slow\",\"event\":\"run_start\",\"total_nodes\":1}\n";
    let graph = "{\"version\":1,\"nodes\":[]}";
    for (head, body, kind) in [
        ("POST /v1/ingest/transitions", line, "application/x-ndjson"),
        ("PUT /v1/ingest/runs/slow/graph", graph, "application/json"),
    ] {
        database.admin("UPDATE api_keys SET revoked_at = NULL");
        let begun = Instant::now();
        let mut stream = Stream::connect(server.url.trim_start_matches("http://")).expect("a connection");
        let (first, rest) = body.split_at(10);
        let length = body.len();
        let head = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ingest}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{first}"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        // It was let in by now: another request of it is.
        let bearer = format!("Bearer {ingest}");
        let headers = [("authorization", bearer.as_str())];
        assert_ne!(request(&server.url, ("GET", "/v1/ingest/runs/slow"), &headers, None).status, 401);
        database.admin("UPDATE api_keys SET revoked_at = now() WHERE scope = 'ingest'");
        let out = || request(&server.url, ("GET", "/v1/ingest/runs/slow"), &headers, None).status == 401;
        // A body that comes within a second is as good as sent before.
        let is_slow = || begun.elapsed() > Duration::from_millis(1200);
        crate::support::wait_for("the key to be out", || (is_slow() && out()).then_some(()));
        stream.write_all(rest.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let runs = request(&server.url, ("GET", "/api/runs"), &[("authorization", &format!("Bearer {read}"))], None);
    assert_eq!(runs.json()["items"], json!([]), "{}", runs.text());
}
