//! Ten thousand WebSockets, a tenth of which never read, while a hundred events a second come.

use std::fs::{self, File};
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

use crate::archives::Archives;
use crate::generate;
use crate::measure::{Row, Verdict, megabytes, quantile, span, wait_until};
use crate::process::{Process, say_ready};
use crate::websocket::{self, Incoming};

/// Runs that grow; each client follows one, a client that never reads follows twenty.
const RUNS: usize = 100;
const RUNS_OF_STUCK: usize = 20;
/// Bytes of an event besides its fields.
const PADDING: usize = 1000;
const PER_SECOND: u64 = 100;

/// What the clients saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    frames: u64,
    gaps: u64,
    resyncs: u64,
    complete: usize,
    p50_s: f64,
    p99_s: f64,
}

/// Latency, gaps, memory, and what is left when all are gone.
pub(crate) fn crowd(archives: &mut Archives, rows: &mut Vec<Row>) {
    let wanted = if archives.is_quick() { 1000 } else { 10_000 };
    // A descriptor a socket in each of two processes, and some to spare.
    let limit =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let sockets = wanted.min(limit.saturating_sub(500));
    let stuck = sockets / 10;
    let healthy = sockets - stuck;
    let root = archives.empty("crowd");
    let mut logs = Vec::new();
    for run in 0..RUNS {
        let folder = root.join("runs").join(name(run));
        fs::create_dir_all(&folder).expect("a run folder");
        fs::write(folder.join("transitions.jsonl"), generate::run_start(&name(run))).expect("a log");
        logs.push(File::options().append(true).open(folder.join("transitions.jsonl")).expect("a log"));
    }
    let kahn = Process::serving(&root);
    let (before_fds, before) = (kahn.descriptors(), kahn.resident());
    let mut clients = Process::part(&["part-crowd", &kahn.address, &healthy.to_string(), &stuck.to_string()]);
    let rounds = archives.times(30) as u64;
    let begun = Instant::now();
    for at in 0..rounds * PER_SECOND {
        let run = usize::try_from(at).unwrap_or(0) % RUNS;
        let line = generate::heartbeat(&name(run), at, &format!("mark-{}-here", monotonic_ns()), PADDING);
        logs[run].write_all(line.as_bytes()).expect("a disk");
        let due = Duration::from_millis((at + 1) * 1000 / PER_SECOND);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    clients.tell(&(1 + rounds * PER_SECOND / RUNS as u64).to_string());
    let peak = kahn.peak();
    let seen: Seen = serde_json::from_str(&clients.finish()).expect("the clients' report");
    wait_until("all sockets to be gone", Duration::from_secs(60), || kahn.descriptors() <= before_fds + 8);
    let what = format!("{sockets} WebSockets, {stuck} never read, {PER_SECOND} events/s");
    let is_whole = seen.gaps == 0 && seen.complete == healthy;
    rows.push(Row::absolute(
        &format!("{what}: p99 of those that read"),
        format!("{} (p50 {}), {} frames", span(seen.p99_s), span(seen.p50_s), seen.frames),
        "< 500 ms",
        seen.p99_s < 0.5,
    ));
    rows.push(Row::absolute(
        "the same: no gap, every event at every client that reads",
        format!("{} gaps, {} of {healthy} whole, {} resyncs", seen.gaps, seen.complete, seen.resyncs),
        "none, all",
        is_whole,
    ));
    let most = 512.0 * 1024.0 * 1024.0 + 40.0 * 1024.0 * sockets as f64;
    rows.push(Row::absolute(
        "the same: memory at its peak",
        format!("{} (before: {})", megabytes(peak), megabytes(before)),
        &format!("< 512 MiB + 40 KiB each = {}", megabytes(most)),
        peak < most,
    ));
    rows.push(Row {
        what: "the same: descriptors and memory when all are gone".into(),
        limit: format!("{before_fds} descriptors"),
        kahn: format!("{} descriptors, {}", kahn.descriptors(), megabytes(kahn.resident())),
        ratio: "-".into(),
        bar: "descriptors back".into(),
        verdict: Verdict::of(kahn.descriptors() <= before_fds + 8),
    });
}

fn name(run: usize) -> String {
    format!("crowd-{run}")
}

/// A clock that all processes of the machine share.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What all clients share.
#[derive(Default)]
struct Shared {
    connected: AtomicUsize,
    frames: AtomicU64,
    gaps: AtomicU64,
    resyncs: AtomicU64,
    /// Events that a whole run has; 0 until it is known.
    expected: AtomicU64,
    complete: AtomicUsize,
    stop: AtomicBool,
}

/// The clients, a process of their own: ready when all are connected, ends when the bench says how many events there were and
/// every client that reads has them (or half a minute later).
pub(crate) fn clients(address: &str, healthy: usize, stuck: usize) {
    const THREADS: usize = 2;
    let shared = Arc::new(Shared::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (shared, address) = (Arc::clone(&shared), address.to_owned());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                LocalSet::new().block_on(&runtime, crowd_of(thread, THREADS, (healthy, stuck), address, shared))
            })
        })
        .collect();
    wait_until("the clients", Duration::from_secs(120), || shared.connected.load(Ordering::Relaxed) == healthy + stuck);
    say_ready("");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("the bench says how many");
    shared.expected.store(line.trim().parse().expect("a number"), Ordering::Relaxed);
    let begun = Instant::now();
    while shared.complete.load(Ordering::Relaxed) < healthy && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let complete = shared.complete.load(Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);
    let latencies: Vec<f64> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).map(f64::from).collect();
    let seen = Seen {
        frames: shared.frames.load(Ordering::Relaxed),
        gaps: shared.gaps.load(Ordering::Relaxed),
        resyncs: shared.resyncs.load(Ordering::Relaxed),
        complete,
        p50_s: quantile(&latencies, 0.5),
        p99_s: quantile(&latencies, 0.99),
    };
    println!("{}", serde_json::to_string(&seen).expect("figures"));
}

async fn crowd_of(
    thread: usize,
    threads: usize,
    (healthy, stuck): (usize, usize),
    address: String,
    shared: Arc<Shared>,
) -> Vec<f32> {
    let mut held = Vec::new();
    let mut clients = Vec::new();
    for at in (0..healthy + stuck).filter(|at| at % threads == thread) {
        let is_stuck = at >= healthy;
        let runs: Vec<String> = (0..if is_stuck { RUNS_OF_STUCK } else { 1 }).map(|n| name((at + n) % RUNS)).collect();
        let mut stream = connect(&address, is_stuck).await;
        let mut hello = websocket::handshake(&address).into_bytes();
        for run_id in &runs {
            let subscribe = format!("{{\"type\":\"subscribe\",\"run_id\":\"{run_id}\",\"from_seq\":0}}");
            hello.extend(websocket::text(&subscribe));
        }
        stream.write_all(&hello).await.expect("it reads");
        if is_stuck {
            held.push(stream);
            shared.connected.fetch_add(1, Ordering::Relaxed);
        } else {
            clients.push(tokio::task::spawn_local(reads(stream, Arc::clone(&shared))));
        }
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.expect("a client"));
    }
    latencies
}

async fn connect(address: &str, is_stuck: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    if is_stuck {
        socket.set_recv_buffer_size(4096).expect("a socket");
    }
    socket.connect(address.parse().expect("an address")).await.expect("it listens")
}

/// A client that reads: each event's delay. It counts as connected when its first event is there.
async fn reads(mut stream: TcpStream, shared: Arc<Shared>) -> Vec<f32> {
    let mut latencies = Vec::new();
    let mut bytes: Vec<u8> = Vec::with_capacity(4096);
    let (mut next_seq, mut is_open, mut is_complete) = (0_u64, false, false);
    let mut check = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            read = stream.read_buf(&mut bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            },
            _ = check.tick() => {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let expected = shared.expected.load(Ordering::Relaxed);
                if expected > 0 && next_seq == expected && !is_complete {
                    is_complete = true;
                    shared.complete.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
        }
        let mut taken = 0;
        if !is_open {
            let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else { continue };
            assert!(bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&bytes));
            (taken, is_open) = (end + 4, true);
        }
        let mut pongs = Vec::new();
        while let Some((frame, length)) = websocket::first(&bytes[taken..]).expect("frames") {
            match frame {
                Incoming::Text(text) => {
                    if let Some(seq) = number_behind(text, b"\"seq\":") {
                        shared.frames.fetch_add(1, Ordering::Relaxed);
                        shared.gaps.fetch_add(u64::from(seq != next_seq), Ordering::Relaxed);
                        if next_seq == 0 {
                            shared.connected.fetch_add(1, Ordering::Relaxed);
                        }
                        next_seq = seq + 1;
                        if let Some(sent) = number_behind(text, b"mark-") {
                            latencies.push((monotonic_ns().saturating_sub(sent)) as f32 / 1e9);
                        }
                    } else if memchr::memmem::find(text, b"\"resync\"").is_some() {
                        shared.resyncs.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Incoming::Ping(payload) => pongs.extend(websocket::pong(payload)),
                Incoming::Close => return latencies,
                Incoming::Other => {}
            }
            taken += length;
        }
        bytes.drain(..taken);
        if !pongs.is_empty() && stream.write_all(&pongs).await.is_err() {
            break;
        }
    }
    latencies
}

fn number_behind(text: &[u8], name: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(text, name)? + name.len();
    let digits: Vec<u8> = text[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}
