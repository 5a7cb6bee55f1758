//! Clients that do not behave, and those that do not read. If these fail, one client takes memory or time from all others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Socket, append, block_on, expected};
use crate::backend;
use crate::support::{Kitchen, PATIENCE, wait_for};

const KEY: [u8; 4] = [7, 1, 3, 9];

/// A socket below the protocol: what a client can send that no library sends.
struct Raw(TcpStream);

impl Raw {
    fn open(kitchen: &Kitchen) -> Self {
        let (head, stream) = handshake(kitchen);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(stream)
    }

    /// A frame of a client; `claimed` is the length that it says it has.
    fn frame(first: u8, payload: &[u8], claimed: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(claimed) {
            Ok(short) if short < 126 => frame.push(0x80 | short as u8),
            Ok(short) => {
                [&[0x80 | 126][..], &short.to_be_bytes()].iter().for_each(|part| frame.extend_from_slice(part))
            }
            Err(_) => [&[0x80 | 127][..], &(claimed as u64).to_be_bytes()]
                .iter()
                .for_each(|part| frame.extend_from_slice(part)),
        }
        frame.extend_from_slice(&KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.0.write_all(&Self::frame(first, payload, payload.len())).expect("it takes the frame");
    }

    /// The next frame that is not a sign of life: its first byte and what it carries.
    fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).expect("a frame");
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.0.read_exact(&mut length).expect("a length");
                    u16::from_be_bytes(length).into()
                }
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).expect("a payload");
            let is_beat = |text: &[u8]| text.starts_with(br#"{"type":"heartbeat""#);
            if head[0] != 0x89 && !(head[0] == 0x81 && is_beat(&payload)) {
                return (head[0], payload);
            }
        }
    }

    /// The code that the server closes with; nothing but this comes.
    fn closed(&mut self) -> u16 {
        let (first, payload) = self.next();
        assert_eq!(first, 0x88, "{}", String::from_utf8_lossy(&payload));
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

/// A handshake: the head of the answer, and the connection.
fn handshake(kitchen: &Kitchen) -> (String, TcpStream) {
    let address = kitchen.server.url.replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let bearer = kitchen.reader().map(|bearer| format!("Authorization: {bearer}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /ws/live HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{bearer}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    (String::from_utf8(head).expect("a head"), stream)
}

fn past_hello(kitchen: &Kitchen) -> Raw {
    let mut raw = Raw::open(kitchen);
    let (first, hello) = raw.next();
    assert_eq!((first, &hello[..15]), (0x81, &br#"{"type":"hello""#[..]));
    raw
}

#[test]
fn what_is_no_message_closes_the_socket_with_its_reason() {
    let kitchen = backend::empty();
    let cases: [(&str, &[Vec<u8>], u16); 8] = [
        ("a long message", &[Raw::frame(0x81, &[b'x'; 4097], 4097)], 1009),
        ("a long message in pieces", &[Raw::frame(0x01, &[b'x'; 4000], 4000), Raw::frame(0x80, &[b'x'; 97], 97)], 1009),
        ("binary", &[Raw::frame(0x82, b"{}", 2)], 1003),
        ("binary in pieces", &[Raw::frame(0x02, b"{}", 2)], 1003),
        ("text that is not UTF-8", &[Raw::frame(0x81, &[0xff], 1)], 1007),
        ("a piece of nothing", &[Raw::frame(0x80, b"{}", 2)], 1002),
        ("a reserved bit, as of compression", &[Raw::frame(0xc1, b"{}", 2)], 1002),
        ("a frame without its mask", &[vec![0x81, 2, b'{', b'}']], 1002),
    ];
    for (name, frames, code) in cases {
        let mut raw = past_hello(&kitchen);
        frames.iter().for_each(|frame| raw.0.write_all(frame).expect("it takes the frame"));
        assert_eq!(raw.closed(), code, "{name}");
    }
}

#[test]
fn a_frame_is_refused_by_the_length_that_it_has_reached_and_not_held() {
    let kitchen = backend::empty();
    let before = kitchen.server.peak_kib();
    let mut raw = past_hello(&kitchen);
    let mut writer = raw.0.try_clone().expect("a handle");
    // A gigabyte is said to come, and as much of it comes as is taken, at most 64 MiB.
    let sent = std::thread::spawn(move || {
        let _ = writer.write_all(&Raw::frame(0x81, b"", 1 << 30));
        (0..1024).take_while(|_| writer.write_all(&[b'x'; 64 * 1024]).is_ok()).count()
    });
    assert_eq!(raw.closed(), 1009);
    drop(raw);
    sent.join().expect("a thread");
    let grown = kitchen.server.peak_kib() - before;
    assert!(grown < 16 * 1024, "the server held {grown} KiB more at its peak");
}

#[test]
fn a_message_may_come_in_pieces() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    let mut raw = past_hello(&kitchen);
    let text = br#"{"type":"subscribe","run_id":"r","from_seq":0}"#;
    raw.send(0x01, &text[..10]);
    raw.send(0x89, b"still there?");
    raw.send(0x00, &text[10..20]);
    raw.send(0x80, &text[20..]);
    assert_eq!(raw.next(), (0x8a, b"still there?".to_vec()), "a question between the pieces");
    let (first, event) = raw.next();
    let event: Value = serde_json::from_slice(&event).expect("JSON");
    assert_eq!((first, &event["type"], &event["seq"]), (0x81, &json!("event"), &json!(0)));
}

#[test]
fn a_flood_of_messages_ends_its_own_socket_and_no_other() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    let subscribe = |n: usize| json!({"type": "subscribe", "run_id": format!("r{n}"), "from_seq": 0}).to_string();
    let floods: [Box<dyn Fn(usize) -> Message>; 3] = [
        Box::new(|_| Message::Ping("?".into())),
        Box::new(move |n| Message::text(subscribe(n))),
        Box::new(|_| Message::text("no JSON")),
    ];
    block_on(async {
        let mut other = Socket::open(&kitchen).await;
        for flood in floods {
            let mut socket = Socket::open(&kitchen).await;
            for n in 0..10_000 {
                if socket.0.feed(flood(n)).await.is_err() {
                    break;
                }
            }
            let _ = socket.0.flush().await;
            loop {
                let frame = socket.next().await;
                if frame["type"] == "close" {
                    assert_eq!(frame["code"], 1008);
                    break;
                }
                assert_eq!(frame["type"], "error", "{frame}");
            }
        }
        other.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        assert_eq!(other.events(1).await, expected(0..1));
    });
}

#[test]
fn one_socket_follows_a_hundred_runs_and_no_more() {
    let kitchen = backend::empty();
    let batch: String = (0..101)
        .map(|n| {
            format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r{n}","event":"run_start","total_nodes":1}}"#) + "\n"
        })
        .collect();
    assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status, 200);
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        for n in 0..100 {
            socket.say(json!({"type": "subscribe", "run_id": format!("r{n}"), "from_seq": 0})).await;
        }
        socket.events(100).await;
        let last = json!({"type": "subscribe", "run_id": "r100", "from_seq": 0});
        socket.say(last.clone()).await;
        let refused = socket.next().await;
        assert_eq!((&refused["code"], &refused["run_id"]), (&json!("too_many_subscriptions"), &json!("r100")));
        // One that is followed may be taken up again from elsewhere, and one that is left makes room.
        socket.say(json!({"type": "subscribe", "run_id": "r5", "from_seq": 0})).await;
        socket.events(1).await;
        socket.say(json!({"type": "unsubscribe", "run_id": "r5"})).await;
        socket.say(last).await;
        socket.events(1).await;
        socket.is_quiet().await;
    });
}

#[test]
fn a_server_takes_so_many_sockets_and_says_so_before_the_handshake() {
    let kitchen = backend::empty_with(&["--max-sockets", "2"]);
    let (first, second) = (past_hello(&kitchen), past_hello(&kitchen));
    let refused = refused(&kitchen);
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.to_lowercase().contains("\r\nretry-after: 5\r\n"),
        "{refused}"
    );
    drop(first);
    wait_for("the place of the one that left", || handshake(&kitchen).0.starts_with("HTTP/1.1 101 ").then_some(()));
    drop(second);
}

/// The head of a refusal.
pub(super) fn refused(kitchen: &Kitchen) -> String {
    let (head, _) = handshake(kitchen);
    assert!(head.contains("application/problem+json"), "{head}");
    head
}

/// Lines of 8 KiB, more than the system holds for a client that does not read.
pub(super) fn append_much(kitchen: &Kitchen, seqs: std::ops::Range<u64>) {
    let padding = "x".repeat(8000);
    for from in seqs.clone().step_by(500) {
        let batch: String = (from..(from + 500).min(seqs.end)).map(|number| wide(number, &padding) + "\n").collect();
        let answer = kitchen.post(&format!("/v1/ingest/transitions?from_seq={from}"), batch.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn wide(number: u64, padding: &str) -> String {
    let event = if number == 0 { r#""run_start","total_nodes":1"# } else { r#""heartbeat""# };
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":{event},"n":{number},"padding":"{padding}"}}"#)
}

#[test]
fn a_client_that_stops_reading_and_goes_on_is_told_and_misses_nothing() {
    let kitchen = backend::empty();
    let all = 2500;
    append_much(&kitchen, 0..all);
    block_on(async {
        let mut healthy = Socket::open(&kitchen).await;
        let mut slow = Socket::open(&kitchen).await;
        slow.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        // For longer than a second it takes nothing, with more to take than the system holds for it.
        for _ in 0..2 {
            while healthy.any().await["type"] != "heartbeat" {}
        }
        let (mut next, mut resyncs) = (0, 0);
        let padding = "x".repeat(8000);
        while next < all {
            // The other one answers meanwhile, or it would be taken for gone.
            let frame = tokio::select! {
                biased;
                frame = slow.next() => frame,
                beat = healthy.any() => {
                    assert_eq!(beat["type"], "heartbeat");
                    continue;
                }
            };
            match frame["type"].as_str() {
                Some("event") => {
                    assert_eq!(frame["seq"], next, "nothing missed, doubled or out of order");
                    assert_eq!(frame["line"], wide(next, &padding));
                    next += 1;
                }
                Some("resync") => {
                    assert_eq!((&frame["run_id"], &frame["from_seq"]), (&json!("r"), &json!(next)));
                    resyncs += 1;
                }
                _ => panic!("{frame}"),
            }
        }
        assert!(resyncs > 0, "it was never told that it is slow");
        let counted = format!("kahn_live_resyncs_total {resyncs}\n");
        assert!(kitchen.get("/metrics").text().contains(&counted), "{counted}");
        slow.is_quiet().await;
        // Who takes what it gets is not told so, however much it is.
        healthy.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 1000})).await;
        healthy.events(1500).await;
        healthy.is_quiet().await;
    });
}

#[test]
fn a_client_that_stays_slow_is_closed() {
    let kitchen = backend::empty();
    block_on(async {
        append_much(&kitchen, 0..2500);
        let mut slow = Socket::open(&kitchen).await;
        let mut healthy = Socket::open(&kitchen).await;
        slow.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        for _ in 0..6 {
            while healthy.any().await["type"] != "heartbeat" {}
        }
        let mut next = 0;
        loop {
            let frame = slow.any().await;
            match frame["type"].as_str() {
                Some("event") => {
                    assert_eq!(frame["seq"], next);
                    next += 1;
                }
                Some("heartbeat") => {}
                _ => {
                    assert_eq!(frame, json!({"type": "close", "code": 4008}));
                    break;
                }
            }
        }
        assert!(next < 2500, "it was closed in the middle");
    });
}
