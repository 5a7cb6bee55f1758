//! Live clients that take their time, by a clock that passes only while nobody has anything to do: the same app as the server's,
//! in this process, with the connection in the test's hand. If these fail, who still reads is thrown out, or who is gone stays.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::web::Bytes;
use futures_util::StreamExt as _;
use kahn::backend::{MODE, Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Part, Principal, RequestFacts};
use kahn::domain::RunId;
use kahn::services::{Services, SystemClock};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// A server's app over an archive of its own; the clock stands still from here on, and passes by itself.
struct Bench {
    services: Services,
    who: Principal,
    folder: tempfile::TempDir,
}

/// What the server sends.
#[derive(Debug, PartialEq)]
enum Said {
    Frame(Value),
    Ping,
    Close(u16),
    End,
}

/// A client's end of the connection.
struct Line {
    body: Pin<Box<BoxBody>>,
    taken: Vec<u8>,
    up: mpsc::UnboundedSender<Bytes>,
    opened: Instant,
}

const LINES: u64 = 700;

impl Bench {
    /// With a run of so many lines of 8 KiB.
    async fn new(lines: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::of_archive(folder.path());
        let config = Config::check(&Typed::default(), &Options::defaults(), &mut Vec::new());
        let backend = select_backend(&options, &config).await.expect("an archive");
        let services = Services::start(backend, Arc::new(SystemClock), MODE, &config);
        let who = services.access.authenticate(&RequestFacts::default()).await.expect("the operator");
        let bench = Self { services, who, folder };
        for from in (0..lines).step_by(100) {
            bench.append(from..(from + 100).min(lines)).await;
        }
        tokio::time::pause();
        bench
    }

    async fn append(&self, seqs: std::ops::Range<u64>) {
        self.store(vec![("r".to_owned(), seqs.start, seqs.map(wide).collect())]).await;
    }

    /// One more event of each of these runs, in one batch.
    async fn touch(&self, runs: std::ops::Range<u64>, seq: u64) {
        let fields = if seq == 0 { r#""run_start","total_nodes":1"# } else { r#""heartbeat""# };
        let line = |n| format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"run{n}","event":{fields}}}"#);
        // Storing takes real time.
        tokio::time::resume();
        self.store(runs.map(|n| (format!("run{n}"), seq, vec![line(n)])).collect()).await;
        tokio::time::pause();
    }

    async fn store(&self, parts: Vec<(String, u64, Vec<String>)>) {
        let count: usize = parts.iter().map(|(_, _, lines)| lines.len()).sum();
        let part = |(run_id, from_seq, lines): (String, u64, Vec<String>)| Part {
            run_id: RunId::parse(&run_id).expect("a run_id"),
            from_seq,
            lines: lines.into_iter().map(Bytes::from).collect(),
        };
        let batch = parts.into_iter().map(part).collect();
        let done = self.services.store.append(&self.who, batch).await.expect("it is appended");
        assert_eq!(done.accepted, count as u64);
    }

    async fn connect(&self) -> Line {
        let app = init_service(kahn::http::app(self.services.clone())).await;
        let (up, mut sent) = mpsc::unbounded_channel();
        let sent = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
        let payload = Payload::Stream { payload: sent.map(Ok::<_, PayloadError>).boxed_local() };
        let request = TestRequest::get()
            .uri("/ws/live")
            .insert_header(("Host", "localhost"))
            .insert_header(("Connection", "Upgrade"))
            .insert_header(("Upgrade", "websocket"))
            .insert_header(("Sec-WebSocket-Version", "13"))
            .insert_header(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="));
        let (request, _) = request.to_request().replace_payload(payload);
        let response = call_service(&app, request).await;
        assert_eq!(response.status(), 101);
        let body = Box::pin(response.into_body());
        let mut line = Line { body, taken: Vec::new(), up, opened: Instant::now() };
        let Said::Frame(hello) = line.next().await else { panic!("no hello") };
        assert_eq!(hello["type"], "hello");
        line
    }
}

fn wide(seq: u64) -> String {
    let event = if seq == 0 { r#""run_start","total_nodes":1"# } else { r#""heartbeat""# };
    let padding = "x".repeat(8000);
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":{event},"n":{seq},"padding":"{padding}"}}"#)
}

impl Line {
    fn send(&self, first: u8, payload: &[u8]) {
        // A mask of zeros changes nothing.
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).expect("a short frame"), 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        // A server that has said goodbye reads no more.
        let _ = self.up.send(frame.into());
    }

    fn follow(&self, run_id: &str) {
        self.follow_from(run_id, 0);
    }

    fn follow_from(&self, run_id: &str, from_seq: u64) {
        self.send(0x81, json!({"type": "subscribe", "run_id": run_id, "from_seq": from_seq}).to_string().as_bytes());
    }

    /// The next event: of which run, and its seq.
    async fn event(&mut self) -> (String, u64) {
        loop {
            match self.next().await {
                Said::Frame(frame) if frame["type"] == "event" => {
                    return (frame["run_id"].as_str().expect("a run_id").into(), frame["seq"].as_u64().expect("a seq"));
                }
                Said::Frame(frame) => assert_eq!(frame["type"], "heartbeat"),
                Said::Ping => self.pong(),
                said => panic!("{said:?} after {} s", self.seconds()),
            }
            assert!(self.seconds() < 600, "nothing comes");
        }
    }

    /// Takes as much as the connection takes at once; false when it has ended.
    async fn take(&mut self) -> bool {
        match poll_fn(|context| self.body.as_mut().poll_next(context)).await {
            Some(piece) => self.taken.extend_from_slice(&piece.expect("a piece")),
            None => return false,
        }
        true
    }

    /// How many bytes the connection has at hand now.
    fn take_now(&mut self) -> Option<Option<usize>> {
        let mut context = Context::from_waker(Waker::noop());
        match self.body.as_mut().poll_next(&mut context) {
            Poll::Ready(piece) => Some(piece.map(|piece| piece.expect("a piece").len())),
            Poll::Pending => None,
        }
    }

    /// The next frame of what was taken.
    fn parse(&mut self) -> Option<Said> {
        let (length, head) = match *self.taken.get(1)? {
            126 => (usize::from(u16::from_be_bytes([*self.taken.get(2)?, *self.taken.get(3)?])), 4),
            127 => panic!("no frame is so long here"),
            short => (usize::from(short), 2),
        };
        if self.taken.len() < head + length {
            return None;
        }
        let frame: Vec<u8> = self.taken.drain(..head + length).collect();
        let payload = &frame[head..];
        Some(match frame[0] {
            0x81 => Said::Frame(serde_json::from_slice(payload).expect("JSON")),
            0x88 => Said::Close(u16::from_be_bytes([payload[0], payload[1]])),
            0x89 => Said::Ping,
            other => panic!("frame {other:x}"),
        })
    }

    async fn next(&mut self) -> Said {
        loop {
            if let Some(said) = self.parse() {
                return said;
            }
            if !self.take().await {
                return Said::End;
            }
        }
    }

    fn pong(&self) {
        self.send(0x8a, b"");
    }

    /// Follows the list; the answer says that it is in force.
    async fn list(&mut self) {
        self.send(0x81, br#"{"type":"subscribe_runs"}"#);
        let Said::Frame(beat) = self.next().await else { panic!("no answer") };
        assert_eq!(beat["type"], "heartbeat");
    }

    fn seconds(&self) -> u64 {
        self.opened.elapsed().as_secs()
    }
}

#[actix_web::test]
async fn who_reads_all_the_time_is_not_taken_for_gone_however_slowly() {
    let bench = Bench::new(LINES).await;
    let mut line = bench.connect().await;
    line.follow("r");
    let mut next = 0;
    // It always takes something, and always has more to take: it cannot be asked whether it is there.
    while next < LINES {
        sleep(Duration::from_millis(90)).await;
        assert!(line.take().await, "it was thrown out after {} s, at {next}", line.seconds());
        while let Some(said) = line.parse() {
            match said {
                Said::Frame(frame) if frame["type"] == "event" => {
                    assert_eq!(frame["seq"], next);
                    next += 1;
                }
                Said::Frame(frame) => assert_eq!(frame["type"], "heartbeat", "after {} s", line.seconds()),
                Said::Ping => line.pong(),
                said => panic!("{said:?} after {} s, at {next}", line.seconds()),
            }
        }
    }
    assert!(line.seconds() > 40, "it was long enough to be thrown out: {} s", line.seconds());
    // Once it can be asked it is, and it answers.
    for _ in 0..6 {
        let beat = line.next().await;
        assert!(
            matches!(&beat, Said::Frame(beat) if beat["type"] == "heartbeat"),
            "{beat:?} after {} s",
            line.seconds()
        );
        assert_eq!(line.next().await, Said::Ping);
        line.pong();
    }
}

#[actix_web::test]
async fn who_gives_no_sign_of_life_is_closed_after_twenty_seconds() {
    let bench = Bench::new(1).await;
    for answers in [0, 1, 5] {
        let mut line = bench.connect().await;
        let mut beats = 0;
        for pings in 0.. {
            let said = line.next().await;
            match said {
                Said::Frame(frame) => {
                    assert_eq!(frame["type"], "heartbeat");
                    beats += 1;
                    assert_eq!(line.seconds(), 5 * beats);
                    assert_eq!(line.next().await, Said::Ping);
                    if pings < answers {
                        line.pong();
                    }
                }
                said => {
                    assert_eq!(said, Said::Close(4008));
                    break;
                }
            }
        }
        assert_eq!((line.seconds(), beats), (20 + 5 * answers, 3 + answers));
        assert_eq!(line.next().await, Said::End);
    }
    assert_eq!(bench.services.metrics.live.dropped.get(), 3, "each is counted");
}

#[actix_web::test]
async fn who_takes_nothing_for_twenty_seconds_is_closed_and_who_takes_a_little_before_is_not() {
    let bench = Bench::new(LINES).await;
    let mut line = bench.connect().await;
    line.follow("r");
    for _ in 0..3 {
        sleep(Duration::from_secs(18)).await;
        assert!(line.take().await, "after {} s", line.seconds());
    }
    // From here on it takes nothing; what it had is not more than an outbox and a piece.
    sleep(Duration::from_secs(26)).await;
    let mut events = 0;
    loop {
        match line.next().await {
            Said::Frame(frame) if frame["type"] == "event" => events += 1,
            Said::Frame(frame) => assert_eq!(frame["type"], "resync"),
            Said::Ping => {}
            said => {
                assert_eq!(said, Said::Close(4008));
                break;
            }
        }
    }
    assert!(events <= 6, "{events} were held for it");
    assert_eq!(line.next().await, Said::End);
    assert_eq!(bench.services.metrics.live.dropped.get(), 1, "and counted once");
}

#[actix_web::test]
async fn who_took_nothing_for_a_second_is_told_and_has_a_minute_to_catch_up() {
    let bench = Bench::new(LINES).await;
    for (pause, per_piece, is_told, is_closed) in
        [(900, 10, false, false), (1100, 10, true, false), (1100, 400, true, true)]
    {
        let mut line = bench.connect().await;
        line.follow("r");
        sleep(Duration::from_millis(pause)).await;
        let (mut next, mut told_at) = (0, None);
        let end = loop {
            if next == LINES {
                break None;
            }
            match line.parse() {
                Some(Said::Frame(frame)) => match frame["type"].as_str() {
                    Some("event") => {
                        assert_eq!(frame["seq"], next);
                        next += 1;
                    }
                    Some("resync") => {
                        assert_eq!((&frame["run_id"], &frame["from_seq"]), (&json!("r"), &json!(next)));
                        told_at.get_or_insert_with(|| line.seconds());
                    }
                    other => {
                        assert_eq!(other, Some("heartbeat"));
                        assert!(line.seconds() < 600, "nothing comes behind {next}");
                    }
                },
                Some(Said::Ping) => line.pong(),
                Some(Said::Close(code)) => break Some(code),
                Some(Said::End) => panic!("it ended"),
                None => {
                    sleep(Duration::from_millis(per_piece)).await;
                    assert!(line.take().await);
                }
            }
        };
        assert_eq!(told_at.is_some(), is_told, "after {pause} ms");
        assert_eq!(end, is_closed.then_some(4008), "after {} s at {next}", line.seconds());
        if let (Some(told_at), true) = (told_at, is_closed) {
            assert!((60..=70).contains(&(line.seconds() - told_at)), "{} s after {told_at} s", line.seconds());
        }
    }
}

#[actix_web::test]
async fn a_list_that_takes_nothing_is_told_to_be_read_again_when_more_than_256_rows_wait() {
    for (runs, is_lost) in [(256, false), (400, true)] {
        let bench = Bench::new(0).await;
        let mut line = bench.connect().await;
        line.list().await;
        bench.touch(0..runs, 0).await;
        // Time for the rows to be told, with nobody there to take them.
        sleep(Duration::from_secs(3)).await;
        bench.touch(0..1, 1).await;
        sleep(Duration::from_secs(3)).await;
        let (mut told, mut resyncs) = (Vec::new(), 0);
        loop {
            let frame = match line.next().await {
                Said::Frame(frame) => frame,
                Said::Ping => {
                    line.pong();
                    continue;
                }
                said => panic!("{said:?} after {} s", line.seconds()),
            };
            match frame["type"].as_str() {
                Some("run") => {
                    let is_last = frame["row"]["next_seq"] == 2;
                    told.push(frame["row"]["run_id"].clone());
                    if is_last {
                        break;
                    }
                }
                Some("resync") => {
                    assert_eq!((&frame["run_id"], &frame["from_seq"]), (&Value::Null, &Value::Null));
                    resyncs += 1;
                }
                other => assert_eq!(other, Some("heartbeat")),
            }
        }
        assert_eq!(resyncs, u64::from(is_lost), "{runs} rows");
        assert!(told.len() < 256 + 20, "{} rows were held for it", told.len());
        tokio::time::resume();
    }
}

#[actix_web::test]
async fn who_follows_a_run_anew_gets_nothing_more_for_the_old_position() {
    let bench = Bench::new(100).await;
    // While the first page is being read, while it is sent, and between.
    for turns in 0..12 {
        let mut line = bench.connect().await;
        line.follow_from("r", 50);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if turns > 8 {
            assert_eq!(line.event().await.1, 50);
        }
        line.follow("r");
        let (mut next, mut is_anew) = (50 + u64::from(turns > 8), false);
        while !is_anew || next < 100 {
            let (_, seq) = line.event().await;
            if seq == 0 && !is_anew {
                (next, is_anew) = (0, true);
            }
            assert_eq!(seq, next, "after {turns} turns");
            next += 1;
        }
    }
}

#[actix_web::test]
async fn a_long_log_does_not_keep_a_short_one_waiting() {
    let bench = Bench::new(LINES).await;
    bench.touch(0..1, 0).await;
    let mut line = bench.connect().await;
    line.follow("r");
    line.follow("run0");
    let mut before = 0;
    while line.event().await.0 != "run0" {
        before += 1;
    }
    assert!(before <= 64, "{before} lines of the other came first: more than two pages");
}

#[actix_web::test]
async fn who_has_no_more_than_a_page_waiting_is_not_told_that_it_was_slow() {
    let bench = Bench::new(20).await;
    let mut line = bench.connect().await;
    line.follow("r");
    sleep(Duration::from_secs(3)).await;
    for seq in 0..20 {
        assert_eq!(line.event().await.1, seq);
    }
}

#[actix_web::test]
async fn who_caught_up_may_stay() {
    let bench = Bench::new(LINES).await;
    let mut line = bench.connect().await;
    line.follow("r");
    sleep(Duration::from_millis(1100)).await;
    let (mut events, mut resyncs) = (0, 0);
    while line.seconds() < 90 {
        match line.next().await {
            Said::Frame(frame) if frame["type"] == "event" => events += 1,
            Said::Frame(frame) => resyncs += u64::from(frame["type"] == "resync"),
            Said::Ping => line.pong(),
            said => panic!("{said:?} after {} s", line.seconds()),
        }
    }
    assert_eq!((events, resyncs), (LINES, 1));
}

#[actix_web::test]
async fn messages_are_counted_by_the_second() {
    let bench = Bench::new(1).await;
    for (pause_s, is_closed) in [(7, false), (5, true)] {
        let mut line = bench.connect().await;
        // All that it may send at once; 50 more each second.
        (0..400).for_each(|_| line.pong());
        sleep(Duration::from_secs(pause_s)).await;
        (0..300).for_each(|_| line.pong());
        sleep(Duration::from_millis(1)).await;
        let end = loop {
            match line.next().await {
                Said::Close(code) => break Some(code),
                Said::Frame(_) if line.seconds() > 20 => break None,
                Said::Ping => line.pong(),
                said => assert!(matches!(said, Said::Frame(_)), "{said:?}"),
            }
        };
        assert_eq!(end, is_closed.then_some(1008), "after {pause_s} s");
    }
}

#[actix_web::test]
async fn who_asks_and_does_not_take_the_answers_is_not_listened_to() {
    let bench = Bench::new(1).await;
    let mut line = bench.connect().await;
    (0..300).for_each(|_| line.send(0x81, b"no JSON"));
    sleep(Duration::from_secs(1)).await;
    let mut waiting = 0;
    while let Some(Some(piece)) = line.take_now() {
        waiting += piece;
    }
    assert!((8 * 1024..10 * 1024).contains(&waiting), "{waiting} bytes wait for it");
}

#[actix_web::test]
async fn a_run_that_is_gone_is_said_to_be_so_once() {
    let bench = Bench::new(3).await;
    let mut line = bench.connect().await;
    line.follow("r");
    for seq in 0..3 {
        assert_eq!(line.event().await.1, seq);
    }
    std::fs::remove_dir_all(bench.folder.path().join("runs/r")).expect("removed");
    let mut told_at = None;
    while told_at.is_none_or(|at| line.seconds() < at + 60) {
        match line.next().await {
            Said::Frame(frame) if frame["type"] == "error" => {
                assert_eq!((&frame["code"], told_at), (&json!("unknown_run"), None));
                told_at = Some(line.seconds());
            }
            Said::Frame(frame) => assert_eq!(frame["type"], "heartbeat"),
            Said::Ping => line.pong(),
            said => panic!("{said:?} after {} s", line.seconds()),
        }
    }
}
