//! The live feed, over a real socket. If these fail, a client shows a run that is not the one that was stored.
//!
//! - here: what a client that behaves gets.
//! - `limits`: clients that do not behave, and those that do not read.
//! - `list`: rows of the list as they change.
//! - `crowd`: many clients at once.

mod crowd;
mod limits;
mod list;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::backend;
use crate::support::{Kitchen, PATIENCE};

pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(kitchen: &Kitchen) -> Self {
        Self::open_at(&kitchen.server.url, kitchen.reader()).await
    }

    /// A socket to this server, past its hello.
    pub(crate) async fn open_at(url: &str, bearer: Option<String>) -> Self {
        let url = url.replace("http://", "ws://") + "/ws/live";
        let mut request = url.into_client_request().expect("a request");
        if let Some(bearer) = bearer {
            request.headers_mut().insert("authorization", bearer.parse().expect("a header"));
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("a socket");
        let mut socket = Self(socket);
        let hello = socket.next().await;
        assert_eq!((&hello["type"], &hello["heartbeat_s"]), (&json!("hello"), &json!(5)));
        socket
    }

    pub(crate) async fn say(&mut self, frame: Value) {
        self.say_text(frame.to_string()).await;
    }

    async fn say_text(&mut self, text: String) {
        self.0.send(Message::text(text)).await.expect("the socket takes frames");
    }

    /// The next frame that is not a heartbeat. Signs of life do not make up for a frame that never comes.
    pub(crate) async fn next(&mut self) -> Value {
        let frame = async {
            loop {
                let frame = self.any().await;
                if frame["type"] != "heartbeat" {
                    return frame;
                }
            }
        };
        tokio::time::timeout(PATIENCE, frame).await.expect("a frame in time")
    }

    /// The next frame, heartbeats too.
    pub(crate) async fn any(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame in time");
            match message.expect("the socket is open").expect("a frame") {
                Message::Text(text) => return serde_json::from_str(&text).expect("a JSON frame"),
                Message::Close(reason) => return json!({"type": "close", "code": reason.map(|r| u16::from(r.code))}),
                _ => {}
            }
        }
    }

    /// Nothing but the answer to a senseless frame comes: what was to be sent was sent, once.
    pub(crate) async fn is_quiet(&mut self) {
        self.say(json!({"type": "nothing"})).await;
        let frame = self.next().await;
        assert_eq!(frame["code"], "invalid_frame", "a frame too many: {frame}");
    }

    /// The next events, as (seq, line).
    pub(crate) async fn events(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut events = Vec::new();
        while events.len() < count {
            let frame = self.next().await;
            assert_eq!(frame["type"], "event", "{frame}");
            events.push((frame["seq"].as_u64().expect("a seq"), frame["line"].as_str().expect("a line").to_owned()));
        }
        events
    }
}

fn line(number: u64) -> String {
    if number == 0 {
        r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_start","total_nodes":1}"#.into()
    } else {
        format!(r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"r","event":"heartbeat","n":{number}}}"#)
    }
}

fn append(kitchen: &Kitchen, seqs: std::ops::Range<u64>) {
    let path = format!("/v1/ingest/transitions?from_seq={}", seqs.start);
    let batch: String = seqs.map(|number| line(number) + "\n").collect();
    let answer = kitchen.post(&path, batch.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn expected(seqs: std::ops::Range<u64>) -> Vec<(u64, String)> {
    seqs.map(|number| (number, line(number))).collect()
}

/// What a client knows of the one run that it follows.
pub(crate) struct Mirror {
    pub(crate) socket: Socket,
    /// The lines, by seq.
    pub(crate) lines: Vec<String>,
    pub(crate) log_id: Value,
    /// How often it was told to begin again.
    pub(crate) resets: usize,
    /// The codes of what it was told besides.
    pub(crate) errors: Vec<String>,
}

impl Mirror {
    /// Follows a run from its start.
    pub(crate) async fn of(mut socket: Socket, run_id: &str) -> Self {
        socket.say(json!({"type": "subscribe", "run_id": run_id, "from_seq": 0})).await;
        Self { socket, lines: Vec::new(), log_id: Value::Null, resets: 0, errors: Vec::new() }
    }

    /// Takes the next frame, as a client must.
    pub(crate) async fn take(&mut self) {
        let frame = self.socket.next().await;
        match frame["type"].as_str() {
            Some("event") => {
                assert_eq!(frame["seq"], self.lines.len(), "missed, doubled or out of order: {frame}");
                self.lines.push(frame["line"].as_str().expect("a line").to_owned());
                self.log_id = frame["log_id"].clone();
            }
            Some("reset") => {
                self.lines.clear();
                self.log_id = frame["log_id"].clone();
                self.resets += 1;
            }
            Some("error") => self.errors.push(frame["code"].as_str().expect("a code").to_owned()),
            Some("resync") => assert_eq!(frame["from_seq"], self.lines.len(), "{frame}"),
            _ => panic!("{frame}"),
        }
    }

    /// Takes frames until it knows exactly these lines.
    pub(crate) async fn until(&mut self, lines: &[String]) {
        while self.lines != lines {
            self.take().await;
        }
    }
}

pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

#[test]
fn a_client_that_loses_its_connection_resumes_without_a_gap_or_a_repeat() {
    let kitchen = backend::empty();
    append(&kitchen, 0..3);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        assert_eq!(socket.events(3).await, expected(0..3), "what was stored before");
        append(&kitchen, 3..5);
        assert_eq!(socket.events(2).await, expected(3..5), "what is stored now");
        socket.is_quiet().await;
        drop(socket);
        append(&kitchen, 5..700);
        let log_id = kitchen.get("/api/runs/r").json()["log_id"].clone();
        let mut socket = Socket::open(&kitchen).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "log_id": log_id, "from_seq": 5})).await;
        assert_eq!(socket.events(695).await, expected(5..700), "what was missed");
        append(&kitchen, 700..702);
        assert_eq!(socket.events(2).await, expected(700..702), "and goes on");
        socket.is_quiet().await;
        socket.say(json!({"type": "unsubscribe", "run_id": "r"})).await;
    });
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_gone_on_with() {
    let mut kitchen = backend::empty();
    append(&kitchen, 0..5);
    let log_id = block_on(async {
        let mut mirror = Mirror::of(Socket::open(&kitchen).await, "r").await;
        mirror.until(&(0..5).map(line).collect::<Vec<_>>()).await;
        mirror.log_id
    });
    kitchen.server.kill();
    kitchen.restart();
    append(&kitchen, 5..9);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "log_id": log_id, "from_seq": 5})).await;
        assert_eq!(socket.events(4).await, expected(5..9));
        append(&kitchen, 9..10);
        assert_eq!(socket.events(1).await, expected(9..10));
        socket.is_quiet().await;
    });
}

#[test]
fn a_position_of_another_log_is_reset() {
    let kitchen = backend::empty();
    append(&kitchen, 0..2);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "log_id": "0000000000000000", "from_seq": 1})).await;
        let reset = socket.next().await;
        assert_eq!((&reset["type"], &reset["run_id"]), (&json!("reset"), &json!("r")));
        assert_eq!(socket.events(2).await, expected(0..2));
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 9})).await;
        assert_eq!(socket.next().await["type"], "reset", "a position behind the end is of another log too");
        assert_eq!(socket.events(2).await, expected(0..2));
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 2})).await;
        append(&kitchen, 2..3);
        assert_eq!(socket.events(1).await, expected(2..3), "the end is a position of this log");
    });
}

#[test]
fn a_bad_frame_is_answered_and_harms_nobody() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        for bad in [
            json!({"type": "drive"}),
            json!([]),
            json!({"type": "subscribe", "run_id": "r"}),
            json!({"type": "subscribe", "run_id": "r", "from_seq": -1}),
        ] {
            socket.say(bad).await;
            let error = socket.next().await;
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("invalid_frame")));
        }
        for run_id in ["nobody", "../r", ""] {
            socket.say(json!({"type": "subscribe", "run_id": run_id, "from_seq": 0})).await;
            let error = socket.next().await;
            assert_eq!((&error["code"], &error["run_id"]), (&json!("unknown_run"), &json!(run_id)));
        }
        // What was refused is not followed, even when it comes.
        let nobody = line(0).replace(r#""r""#, r#""nobody""#) + "\n";
        assert_eq!(kitchen.post("/v1/ingest/transitions", nobody.as_bytes()).status, 200);
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        assert_eq!(socket.events(1).await, expected(0..1));
        socket.is_quiet().await;
    });
}

#[test]
fn a_long_line_is_announced_and_fetched_over_http() {
    let kitchen = backend::empty();
    let text = format!(
        r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_start","total_nodes":1,"v":"{}"}}"#,
        "é".repeat(200_000)
    );
    assert_eq!(kitchen.post("/v1/ingest/transitions", (text.clone() + "\n").as_bytes()).status, 200);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        let frame = socket.next().await;
        assert_eq!((&frame["seq"], &frame["line"], &frame["bytes"]), (&json!(0), &Value::Null, &json!(text.len())));
        // One that is too long only as it would be written out.
        let quotes = r#"\""#.repeat(80_000);
        let text =
            format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"heartbeat","v":"{quotes}"}}"#) + "\n";
        assert_eq!(kitchen.post("/v1/ingest/transitions?from_seq=1", text.as_bytes()).status, 200);
        let frame = socket.next().await;
        let bytes = json!(text.len() - 1);
        assert_eq!((&frame["seq"], &frame["line"], &frame["bytes"]), (&json!(1), &Value::Null, &bytes));
    });
}

#[test]
fn the_server_gives_signs_of_life_and_says_goodbye() {
    let kitchen = backend::empty();
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        let beat = socket.any().await;
        assert_eq!(beat["type"], "heartbeat");
        assert!(beat["now"].as_str().is_some_and(|now| now.len() == 24), "{beat}");
        let ended = std::thread::spawn(move || kitchen.terminate());
        assert_eq!(socket.next().await, json!({"type": "close", "code": 1001}));
        drop(socket);
        assert_eq!(ended.join().expect("it ended"), Some(0));
    });
}

/// A browser's socket takes no Authorization header: without this the page is never live where a key is asked for.
#[test]
fn a_page_offers_its_key_as_a_protocol() {
    let kitchen = backend::with_samples();
    let offer = |token: &str| {
        let url = kitchen.server.url.replace("http://", "ws://") + "/ws/live";
        let mut request = url.into_client_request().expect("a request");
        let offered = format!("kahn.bearer, {token}").parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", offered);
        block_on(tokio_tungstenite::connect_async(request))
    };
    let key = kitchen.reader().map(|bearer| bearer.replace("Bearer ", ""));
    let (_, response) = offer(key.as_deref().unwrap_or("none")).expect("a socket");
    assert_eq!(response.headers()["sec-websocket-protocol"], "kahn.bearer");
    // Where no key is asked for none is looked at.
    assert_eq!(offer("none").is_ok(), key.is_none());
}
