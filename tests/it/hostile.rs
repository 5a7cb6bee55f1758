//! Bodies, cursors and clients that mean harm. If these fail, a request can crash the server, store what was refused, or
//! take memory that is never given back. Every random choice has a seed: a failure comes again.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::backend;
use crate::support::{Kitchen, wait_for};
use crate::wire::{Reply, Wire, head};

/// Numbers that look random and come again with the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % (sides as u64)).expect("a small number")
    }

    fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.roll(items.len())]
    }

    /// The same bytes with a few of them changed, doubled or left out.
    fn harm(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.roll(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.roll(bytes.len());
            match self.roll(6) {
                0 => bytes[at] ^= 1 << self.roll(8),
                1 => bytes[at] = u8::try_from(self.roll(256)).expect("a byte"),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, bytes[at]),
                4 => bytes.truncate(at),
                _ => {
                    let odd: &[u8] = self.pick(&[
                        b"\"", b"{", b"[", b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\0", b"1e999", b",", b"\r", b"\n",
                    ]);
                    bytes.splice(at..at, odd.iter().copied());
                }
            }
        }
    }
}

/// Sends a batch over an open connection, which is opened anew where the server ended it.
fn post(kitchen: &Kitchen, wire: &mut Wire, query: &str, coding: &str, body: &[u8]) -> Reply {
    let target = format!("/v1/ingest/transitions{query}");
    let head = head(kitchen, "POST", &target);
    let length = body.len();
    let reply =
        wire.ask(&format!("{head}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}{coding}"), body);
    if reply.all("connection").contains(&"close") {
        *wire = Wire::open(&kitchen.server.url);
    }
    reply
}

fn get(kitchen: &Kitchen, wire: &mut Wire, target: &str) -> Reply {
    wire.ask(&head(kitchen, "GET", target), b"")
}

const START: &str = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"h","event":"run_start","total_nodes":1}"#;

#[test]
fn ten_thousand_harmed_cursors_are_refused_or_read() {
    let kitchen = backend::with_samples();
    let mut wire = Wire::open(&kitchen.server.url);
    let lists = ["", "&sort=duration&order=asc", "&sort=outcome&kind=ci", "&q=release&window=7d", "&offset=1"];
    let cursors: Vec<Vec<u8>> = lists
        .iter()
        .map(|list| {
            let page = get(&kitchen, &mut wire, &format!("/api/runs?as_of=2026-04-24T10:20:00.000Z&limit=1{list}"));
            URL_SAFE_NO_PAD.decode(page.json()["next_cursor"].as_str().expect("a cursor")).expect("base64url")
        })
        .collect();
    let mut dice = Dice(1);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..10_000 {
        let mut cursor = cursors[dice.roll(cursors.len())].clone();
        let text = if dice.roll(4) == 0 {
            let mut text = URL_SAFE_NO_PAD.encode(&cursor).into_bytes();
            dice.harm(&mut text);
            text.iter().map(|byte| format!("%{byte:02x}")).collect()
        } else {
            dice.harm(&mut cursor);
            URL_SAFE_NO_PAD.encode(&cursor)
        };
        let reply = get(&kitchen, &mut wire, &format!("/api/runs?limit=1&cursor={text}"));
        match reply.status {
            200 => read += 1,
            400 => {
                let code = reply.problem();
                assert!(["invalid_cursor", "invalid_encoding"].contains(&code.as_str()), "{text}: {code}");
                refused += 1;
            }
            status => panic!("{status} to cursor {text}: {}", reply.text()),
        }
    }
    assert!(read > 100 && refused > 5000, "{read} read, {refused} refused");
}

/// Values that a field may not have, or may have where nobody expects it.
const VALUES: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e3",
    "1e999",
    "-0",
    "9007199254740992",
    "99999999999999999999999",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\u{202e}\"",
    "\"../../etc/passwd\"",
    "\"h\\n\"",
    "{}",
    "[]",
    "[[[[[[[[[[]]]]]]]]]]",
    "{\"a\":{\"a\":{\"a\":{}}}}",
    "NaN",
    "Infinity",
    "'h'",
    "\"2026-04-24T10:00:00.000Z\"",
    "\"h\"",
    "\"run_start\"",
];
const FIELDS: &[&str] = &[
    "ts",
    "run_id",
    "event",
    "total_nodes",
    "node_id",
    "from",
    "to",
    "attempt",
    "outcome",
    "usage",
    "parent",
    "done_when_results",
    "agent_id",
    "evidence",
    "duration_s",
    "n",
    "__proto__",
    "",
];
const EVENTS: &[&str] = &[
    "run_start",
    "node_transition",
    "node_attempt",
    "run_end",
    "agent_run_start",
    "agent_transition",
    "tool_invocation",
    "audit_checkpoint",
    "agent_run_end",
    "heartbeat",
    "unheard-of",
];

fn hostile_line(dice: &mut Dice, number: usize) -> Vec<u8> {
    let mut fields: Vec<(String, String)> = vec![
        ("ts".into(), "\"2026-04-24T10:00:00.000Z\"".into()),
        ("run_id".into(), "\"h\"".into()),
        ("event".into(), format!("\"{}\"", if dice.roll(3) > 0 { "heartbeat" } else { dice.pick(EVENTS) })),
        ("n".into(), number.to_string()),
    ];
    for _ in 0..dice.roll(4).saturating_sub(1) {
        let field = ((*dice.pick(FIELDS)).to_owned(), (*dice.pick(VALUES)).to_owned());
        let at = dice.roll(fields.len());
        if dice.roll(2) == 0 { fields[at] = field } else { fields.insert(at, field) }
    }
    if dice.roll(50) == 0 {
        let depth = [63, 64, 65, 1000, 100_000][dice.roll(5)];
        fields.push(("deep".into(), "[".repeat(depth) + &"]".repeat(depth)));
    }
    if dice.roll(200) == 0 {
        fields.push(("long".into(), format!("\"{}\"", "x".repeat([1 << 10, 1 << 20][dice.roll(2)]))));
    }
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let mut line = format!("{{{}}}", fields.join(",")).into_bytes();
    if dice.roll(5) == 0 {
        dice.harm(&mut line);
    }
    line
}

#[test]
fn ten_thousand_hostile_batches_are_stored_whole_or_not_at_all() {
    let kitchen = backend::empty();
    let mut wire = Wire::open(&kitchen.server.url);
    let mut dice = Dice(2);
    assert_eq!(post(&kitchen, &mut wire, "", "", format!("{START}\n").as_bytes()).status, 200);
    // What must be there: the lines of h, and how many every run has.
    let mut lines = vec![START.as_bytes().to_vec()];
    let mut counts = BTreeMap::from([("h".to_owned(), 1)]);
    let (mut stored, mut refused) = (0, BTreeMap::<String, u32>::new());
    for number in 0..10_000 {
        let mut batch = Vec::new();
        for _ in 0..=dice.roll(2) {
            batch.extend(hostile_line(&mut dice, number));
            batch.extend(dice.pick::<[u8]>(&[b"\n", b"\n", b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b""]));
        }
        let from_seq = if dice.roll(20) == 0 { dice.roll(lines.len() + 2) } else { lines.len() };
        let query = if dice.roll(40) == 0 { String::new() } else { format!("?from_seq={from_seq}") };
        let reply = post(&kitchen, &mut wire, &query, "", &batch);
        if reply.status != 200 {
            assert!(
                (400..500).contains(&reply.status),
                "{number}: {} to {}",
                reply.status,
                String::from_utf8_lossy(&batch)
            );
            *refused.entry(reply.problem()).or_default() += 1;
            continue;
        }
        stored += 1;
        let answer = reply.json();
        let text = batch.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&batch);
        let sent: Vec<&[u8]> = text
            .strip_suffix(b"\n")
            .expect("a batch ends in a newline")
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .collect();
        for (run_id, written) in answer["runs"].as_object().expect("runs") {
            let next_seq = written["next_seq"].as_u64().expect("a seq");
            counts.insert(run_id.clone(), next_seq);
            if run_id == "h" {
                let new = usize::try_from(next_seq).expect("a count") - lines.len();
                lines.extend(sent[sent.len() - new..].iter().map(|line| line.to_vec()));
            }
        }
    }
    let rows = get(&kitchen, &mut wire, "/api/runs?limit=500").json();
    let found: BTreeMap<String, u64> = rows["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|row| (row["run_id"].as_str().expect("a run_id").to_owned(), row["next_seq"].as_u64().expect("a seq")))
        .collect();
    assert_eq!(found, counts, "nothing else was stored");
    let mut kept = Vec::new();
    while kept.iter().filter(|byte| **byte == b'\n').count() < lines.len() {
        let from = kept.iter().filter(|byte| **byte == b'\n').count();
        kept.extend(get(&kitchen, &mut wire, &format!("/api/runs/h/events?limit=5000&from_seq={from}")).body);
    }
    let expected: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
    assert!(kept == expected, "the log is what was acknowledged, byte for byte");
    assert_eq!(get(&kitchen, &mut wire, "/api/runs/h").status, 200);
    assert!(stored > 500, "{stored} stored, {refused:?}");
    for code in ["malformed_line", "incomplete_line", "gap", "conflict", "line_too_long", "from_seq_required"] {
        assert!(refused.contains_key(code), "{code} was not among {refused:?}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

const GZIP: &str = "\r\nContent-Encoding: gzip";

#[test]
fn a_coded_body_is_one_whole_gzip_stream_within_its_limits() {
    let kitchen = backend::empty();
    let mut wire = Wire::open(&kitchen.server.url);
    let mut send = |body: &[u8]| {
        let reply = post(&kitchen, &mut wire, "", GZIP, body);
        (
            reply.status,
            if reply.status == 200 { String::new() } else { reply.problem() },
            reply.json()["limit"].as_u64(),
        )
    };
    let invalid = || (400, "invalid_gzip".to_owned(), None);
    let too_large = |limit| (413, "batch_too_large".to_owned(), Some(limit));
    let whole = gzip(format!("{START}\n").as_bytes());
    for cut in [0, 1, 5, 9, 10, 11, whole.len() / 2, whole.len() - 9, whole.len() - 8, whole.len() - 4, whole.len() - 1]
    {
        assert_eq!(send(&whole[..cut]), invalid(), "cut at {cut}");
    }
    for at in [0, 1, 2, whole.len() - 8, whole.len() - 4, whole.len() / 2] {
        let mut harmed = whole.clone();
        harmed[at] ^= 0x11;
        assert_eq!(send(&harmed), invalid(), "byte {at}");
    }
    for behind in [&b"x"[..], b"\0", b"\n", &whole[..5], b"\x1f\x8b"] {
        assert_eq!(send(&[&whole, behind].concat()), invalid(), "{behind:?} behind it");
    }
    assert_eq!(send(&gzip(&whole)).1, "malformed_line", "a coding inside the coding is no batch");
    // Spaces: a thousand to one.
    let bomb = gzip(&vec![b' '; 4 << 20]);
    assert_eq!(send(&bomb), too_large(bomb.len() as u64 * 100));
    // Half random: within the ratio, past the limit.
    let mut dice = Dice(3);
    let half: Vec<u8> = (0..1 << 20)
        .map(|at| if at % 24 == 0 { b'a' + u8::try_from(dice.roll(26)).expect("a letter") } else { b' ' })
        .collect();
    let member = gzip(&half);
    assert!((1 << 20) / member.len() < 90 && member.len() * 65 < 8 << 20, "{}", member.len());
    assert_eq!(send(&member.repeat(65)), too_large(64 << 20));
    assert_eq!(send(&gzip(b"").repeat(10_001)), too_large(10_000));
    assert_eq!(send(&vec![0; (8 << 20) + 1]).0, 413);
    assert_eq!(kitchen.get("/api/runs").json()["total"], 0, "nothing of it was stored");
    // Members in a row are one stream.
    let beat = START.replace("run_start", "heartbeat");
    let members = [gzip(format!("{START}\n").as_bytes()), gzip(b""), gzip(format!("{beat}\n").as_bytes())].concat();
    assert_eq!(send(&members).0, 200);
    assert_eq!(kitchen.get("/api/runs/h").json()["next_seq"], 2);
}

#[test]
fn a_body_in_chunks_has_the_same_limits() {
    let kitchen = backend::empty();
    let own = head(&kitchen, "POST", "/v1/ingest/transitions")
        + "\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked";
    let whole = format!("{START}\n");
    let (first, second) = whole.split_at(40);
    let chunks = format!("{:x};extension=1\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    assert_eq!(Wire::open(&kitchen.server.url).ask(&own, chunks.as_bytes()).status, 200);
    for broken in ["zz\r\n", "-1\r\nx\r\n", "ffffffffffffffffff\r\nx", "5\r\nabcdefgh\r\n0\r\n\r\n"] {
        let mut wire = Wire::open(&kitchen.server.url);
        wire.send(format!("{own}\r\n\r\n{broken}").as_bytes());
        // The parser may end the connection before the handler has looked at it.
        if let Some(reply) = wire.reply(false) {
            assert_eq!(
                (reply.status, reply.body.is_empty() || reply.problem() == "body_broken"),
                (400, true),
                "{broken}"
            );
        }
    }
    // Without a length the limit is found on the way, and told before the body ends.
    let mut wire = Wire::open(&kitchen.server.url);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    wire.send(format!("{own}\r\n\r\n{}", chunk.repeat(129)).as_bytes());
    let reply = wire.reply(false).expect("an answer");
    assert_eq!((reply.status, reply.problem().as_str()), (413, "batch_too_large"));
    assert_eq!(kitchen.get("/api/runs").json()["total"], 1);
    // A length beside chunks is how requests are smuggled.
    let both = own + "\r\nContent-Length: 5";
    assert_eq!(Wire::open(&kitchen.server.url).ask(&both, b"0\r\n\r\n").status, 400);
}

#[test]
fn only_content_types_that_no_form_sends_are_taken() {
    let kitchen = backend::empty();
    for (method, target, own) in [
        ("POST", "/v1/ingest/transitions", "application/x-ndjson"),
        ("PUT", "/v1/ingest/runs/g/graph", "application/json"),
    ] {
        let body = if method == "POST" { format!("{START}\n") } else { "{}".to_owned() };
        let ask = |content_type: Option<&str>| {
            let mut head = format!("{}\r\nContent-Length: {}", head(&kitchen, method, target), body.len());
            head.extend(content_type.map(|content_type| format!("\r\nContent-Type: {content_type}")));
            Wire::open(&kitchen.server.url).ask(&head, body.as_bytes())
        };
        let other = if method == "POST" { "application/json" } else { "application/x-ndjson" };
        let near = [
            format!("text/plain; {own}"),
            format!("text/plain, {own}"),
            format!("{own}x"),
            format!("x{own}"),
            format!("\"{own}\""),
        ];
        let foreign = [
            "text/plain",
            "text/plain;charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "*/*",
            other,
        ];
        for content_type in foreign.into_iter().chain(near.iter().map(String::as_str)).map(Some).chain([None]) {
            let reply = ask(content_type);
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (415, "unsupported_media_type"),
                "{method} {content_type:?}"
            );
            assert_eq!(reply.json()["allowed"], serde_json::json!([own]));
        }
        assert_eq!(kitchen.get("/api/runs").json()["total"], u8::from(method == "PUT"), "nothing was stored");
        for content_type in
            [own.to_owned(), own.to_uppercase(), format!("{own}; charset=utf-8"), format!(" {own} ;x=y")]
        {
            assert!([200, 201].contains(&ask(Some(&content_type)).status), "{method} {content_type}");
        }
    }
}

/// A connection whose system takes in little of what its owner does not read.
fn deaf(address: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a small buffer");
    let address: std::net::SocketAddr = address.parse().expect("an address");
    rustix::net::connect(&socket, &address).expect("a connection");
    TcpStream::from(socket)
}

/// What the process holds now, and the most that it ever held, in MB.
fn memory(kitchen: &Kitchen) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", kitchen.server.pid())).expect("a process");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") / 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Promise 7: memory stays bounded whatever clients send, and whatever they do not read.
#[test]
fn a_storm_leaves_memory_bounded_and_the_server_at_work() {
    let kitchen = backend::empty();
    let address = kitchen.server.url.strip_prefix("http://").expect("an address").to_owned();
    let mut wire = Wire::open(&kitchen.server.url);
    let text = "x".repeat(900_000);
    let start = START.replace("}", &format!(",\"text\":\"{text}\"}}"));
    for from in [0, 8] {
        let batch = format!("{start}\n").repeat(8);
        assert_eq!(post(&kitchen, &mut wire, &format!("?from_seq={from}"), "", batch.as_bytes()).status, 200);
    }
    let mut dice = Dice(4);
    let half: Vec<u8> = (0..1 << 20)
        .map(|at| if at % 24 == 0 { b'a' + u8::try_from(dice.roll(26)).expect("a letter") } else { b' ' })
        .collect();
    let coded = gzip(&half).repeat(60);
    let own = head(&kitchen, "POST", "/v1/ingest/transitions") + "\r\nContent-Type: application/x-ndjson";
    let page = head(&kitchen, "GET", "/api/runs/h/events?limit=5000") + "\r\n\r\n";
    // Pages that nobody reads: far more of them than there is room for.
    let mut unread: Vec<TcpStream> = (0..120)
        .map(|_| {
            let mut stream = deaf(&address);
            stream.write_all(page.as_bytes()).expect("the request is taken");
            stream
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (url, own, coded, address) = (&kitchen.server.url, &own, &coded, &address);
            scope.spawn(move || {
                for _ in 0..4 {
                    // 60 MiB in 2 of them; the lines are malformed.
                    let reply = Wire::open(url).ask(&format!("{own}{GZIP}\r\nContent-Length: {}", coded.len()), coded);
                    assert!([400, 503].contains(&reply.status), "{}", reply.text());
                    // Half a body, and gone; a whole one, and gone without the answer.
                    for (length, sent) in [(8 << 20, 4 << 20), (coded.len(), coded.len())] {
                        let mut stream = TcpStream::connect(address).expect("a connection");
                        let head = format!("{own}{GZIP}\r\nContent-Length: {length}\r\n\r\n");
                        let body: Vec<u8> = coded.iter().copied().cycle().take(sent).collect();
                        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                    }
                }
            });
        }
    });
    let (_, most) = memory(&kitchen);
    assert!(most < 512, "{most} MB at most");
    // Small answers go on meanwhile.
    let mut wire = Wire::open(&kitchen.server.url);
    assert_eq!(get(&kitchen, &mut wire, "/api/runs/h/problems").status, 200);
    for stream in unread.drain(..) {
        drop(stream);
    }
    let mut first = [0; 12];
    wait_for("room for a page again", || {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream.write_all(page.as_bytes()).expect("the request is taken");
        stream.read_exact(&mut first).expect("an answer");
        first.ends_with(b"200").then_some(())
    });
    let mut wire = Wire::open(&kitchen.server.url);
    wait_for("room for a batch again", || {
        (post(&kitchen, &mut wire, "?from_seq=16", "", format!("{START}\n").as_bytes()).status == 200).then_some(())
    });
    // An allocator keeps some of what was given back.
    wait_for("memory to come back", || (memory(&kitchen).0 < 384).then_some(()));
}
