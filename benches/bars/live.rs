//! From an append to a file until a client has it: beside bare inotify that writes to a socket.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::archives::Archives;
use crate::generate;
use crate::measure::{Row, Verdict, quantile, span};
use crate::process::Process;
use crate::websocket;

/// A slow way gives fewer figures.
const LONGEST: Duration = Duration::from_secs(45);

/// p50 and p99 of both ways, line by line in turn.
pub(crate) fn append_to_frame(archives: &mut Archives, rows: &mut Vec<Row>) {
    let (medium, bare) = (archives.medium(), archives.empty("followed"));
    let folder = medium.join("runs/followed");
    fs::create_dir_all(&folder).expect("a run folder");
    let logs = [bare.join("transitions.jsonl"), folder.join("transitions.jsonl")];
    for log in &logs {
        fs::write(log, generate::run_start("followed")).expect("a log");
    }
    let follower = Process::part(&["part-follow", &logs[0].display().to_string()]);
    let kahn = Process::serving(&medium);
    let mut bare = Client::open(&follower.address);
    let mut client = Client::open(&kahn.address);
    client.send(websocket::handshake(&kahn.address).as_bytes());
    client.read_past(b"\r\n\r\n");
    client.send(&websocket::text(r#"{"type":"subscribe","run_id":"followed","from_seq":0}"#));
    client.read_past(b"run_start");
    let mut logs = logs.map(|path| File::options().append(true).open(path).expect("a log"));
    let (mut limit, mut kahn_s) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for at in 0..archives.times(1500) as u64 {
        if begun.elapsed() > LONGEST {
            break;
        }
        let mark = format!("mark-{at}-here");
        let line = generate::heartbeat("followed", at, &mark, 40);
        // The client's answers to pings are not part of what is measured; the server bounds how many it takes a second.
        if at % 64 == 0 {
            client.answer_pings();
        }
        for (log, (client, times)) in logs.iter_mut().zip([(&mut bare, &mut limit), (&mut client, &mut kahn_s)]) {
            let begun = Instant::now();
            log.write_all(line.as_bytes()).expect("a disk");
            client.read_past(mark.as_bytes());
            times.push(begun.elapsed().as_secs_f64());
            // Long enough for both to come to rest, and not in step with any poll.
            std::thread::sleep(Duration::from_micros(2000 + (at * 7919) % 3000));
        }
    }
    let (p50, p99) = (|times: &[f64]| quantile(times, 0.5), |times: &[f64]| quantile(times, 0.99));
    let ratio = p50(&kahn_s) / p50(&limit);
    rows.push(Row::at_most("append to a file -> frame: p50", (span(p50(&limit)), span(p50(&kahn_s))), ratio, 5.0));
    let over = p99(&kahn_s) - p99(&limit);
    rows.push(Row {
        what: "append to a file -> frame: p99".into(),
        limit: span(p99(&limit)),
        kahn: span(p99(&kahn_s)),
        ratio: format!("+{}", span(over.max(0.0))),
        bar: "<= limit + 5 ms".into(),
        verdict: Verdict::of(over <= 0.005),
    });
}

/// A blocking client of either way.
pub(crate) struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        Self { stream, bytes: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    /// Reads until these bytes came, and keeps what came behind them.
    pub(crate) fn read_past(&mut self, wanted: &[u8]) {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(at) = memchr::memmem::find(&self.bytes, wanted) {
                self.bytes.drain(..at + wanted.len());
                return;
            }
            let read = self.stream.read(&mut chunk).expect("it came in time");
            assert!(read > 0, "the server closed");
            self.bytes.extend_from_slice(&chunk[..read]);
        }
    }

    /// A pong for good measure: the server counts any frame as a sign of life.
    pub(crate) fn answer_pings(&mut self) {
        self.send(&websocket::pong(b""));
    }
}
