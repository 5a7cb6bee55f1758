//! A real server behind a proxy that loses, delays and refuses; either side killed at any moment. At the end the server's
//! lines are the kept ones, byte for byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Instead, Request, Server, event, write};
use crate::backend;
use crate::support::{Kitchen, PATIENCE, wait_for};

/// The same request to the real server; its answer as it came, or nothing when it is away.
fn forward(url: &str, request: &Request) -> Option<Vec<u8>> {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).ok()?;
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n", request.method, request.target);
    for name in ["authorization", "content-type", "content-length"] {
        if let Some(value) = request.headers.get(name) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// What the proxy does to one request.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Not let through, with a time to wait.
    TooMany,
    Unavailable,
    HangUp,
    /// Stored, and half of the answer comes.
    HalfAnswer,
    /// Stored, and no answer comes.
    NoAnswer,
    Slow,
}

/// A proxy before the server at this address, which may change; each request meets the fault of its number.
fn proxy(
    url: &Arc<Mutex<String>>,
    fault: impl Fn(usize) -> Fault + Send + 'static,
) -> (Server, Arc<Mutex<Vec<Instant>>>) {
    let (url, asked_to_wait) = (Arc::clone(url), Arc::<Mutex<Vec<Instant>>>::default());
    let (mut number, mut until, waits) = (0, None::<Instant>, Arc::clone(&asked_to_wait));
    let server = Server::start(move |request, _| {
        if let Some(until) = until.take() {
            assert!(Instant::now() >= until, "it came back before Retry-After");
        }
        number += 1;
        let forward = || forward(&url.lock().unwrap(), request);
        Some(match fault(number) {
            Fault::TooMany => {
                let now = Instant::now();
                until = Some(now + Duration::from_secs(1));
                waits.lock().unwrap().push(now);
                let answer = "HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                Instead::Bytes(answer.into())
            }
            Fault::Unavailable => {
                Instead::Bytes(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec())
            }
            Fault::HangUp => Instead::HangUp,
            Fault::NoAnswer => {
                forward();
                Instead::HangUp
            }
            Fault::HalfAnswer => {
                forward().map_or(Instead::HangUp, |answer| Instead::Bytes(answer[..answer.len() / 2].to_vec()))
            }
            Fault::Slow => forward().map_or(Instead::HangUp, Instead::Slowly),
            Fault::None => forward().map_or(Instead::HangUp, Instead::Bytes),
        })
    });
    (server, asked_to_wait)
}

/// A push that runs by itself.
pub(super) fn spawn(kitchen: &Kitchen, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kahn"));
    command.arg("push").args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(bearer) = kitchen.bearer("/v1/ingest") {
        command.env("KAHN_KEY", bearer.trim_start_matches("Bearer "));
    }
    command.spawn().unwrap()
}

/// Waits for the end of a push: its exit code and what it printed.
pub(super) fn ended(mut push: Child) -> (i32, String) {
    let code = wait_for("the push to end", || push.try_wait().unwrap()).code().unwrap();
    let output = push.wait_with_output().unwrap();
    (code, String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Where the run's log goes on at the server.
pub(super) fn next_seq(kitchen: &Kitchen, run_id: &str) -> u64 {
    let answer = kitchen.get(&format!("/v1/ingest/runs/{run_id}"));
    if answer.status == 404 { 0 } else { answer.json()["next_seq"].as_u64().unwrap() }
}

/// The server's lines are exactly these.
pub(super) fn assert_same(kitchen: &Kitchen, run_id: &str, lines: &[String]) {
    let mut theirs = Vec::new();
    let mut seq = 0;
    while seq < lines.len() + 1 {
        let page = kitchen.get(&format!("/api/runs/{run_id}/events?from_seq={seq}&limit=5000"));
        assert_eq!(page.status, 200, "{}", page.text());
        if page.body.is_empty() {
            break;
        }
        theirs.extend_from_slice(&page.body);
        seq = page.header("kahn-next-seq").parse().unwrap();
    }
    let own: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
    let (theirs, own) = (hex::encode(Sha256::digest(&theirs)), hex::encode(Sha256::digest(&own)));
    assert_eq!((seq, theirs), (lines.len(), own.clone()), "{run_id}");
    let said = kitchen.get(&format!("/v1/ingest/runs/{run_id}?digest=true")).json();
    assert_eq!(said["lines_sha256"], own, "{run_id}");
}

/// A log with everything that is hard to carry, and the lines of it that are kept.
fn hard_log(root: &Path, run_id: &str, lines: usize) -> Vec<String> {
    let (mut log, mut kept) = (Vec::new(), Vec::new());
    for number in 0..lines {
        let plain = event(run_id, number);
        let line = match number % 500 {
            3 => plain.replace('}', r#","x":"\u0000 \ud83d\ude00 "}"#),
            4 => plain.replace('}', r#","x":"é 😀 	tab"}"#).replace('\t', "\\t"),
            5 if number < 2000 => {
                let room = 1024 * 1024 - plain.len() - r#","x":"""#.len();
                plain.replace('}', &format!(r#","x":"{}"}}"#, "y".repeat(room)))
            }
            _ => plain,
        };
        log.extend_from_slice(line.as_bytes());
        log.extend_from_slice(if number % 7 == 0 { b"\r\n" } else { b"\n" });
        if number % 400 == 9 {
            log.extend_from_slice(b"{\"torn\n\n");
        }
        kept.push(line);
    }
    let folder = root.join("runs").join(run_id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("transitions.jsonl"), log).unwrap();
    kept
}

#[test]
fn whatever_a_network_does_every_line_arrives_once() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    let logs: Vec<(&str, Vec<String>)> = [("a", 4000), ("b", 3), ("c", 2600)]
        .map(|(run_id, lines)| (run_id, hard_log(root.path(), run_id, lines)))
        .into();
    write(root.path(), "b", "graph.json", r#"{"version":1,"nodes":[]}"#);
    let url = Arc::new(Mutex::new(kitchen.server.url.clone()));
    let faults = [
        Fault::TooMany,
        Fault::HalfAnswer,
        Fault::None,
        Fault::NoAnswer,
        Fault::Slow,
        Fault::Unavailable,
        Fault::HangUp,
        Fault::HalfAnswer,
        Fault::None,
        Fault::None,
    ];
    let (proxy, asked_to_wait) = proxy(&url, move |number| faults[number % faults.len()]);
    let (code, said) = ended(spawn(&kitchen, &[root.path().to_str().unwrap(), "--to", &proxy.url]));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("sha256 equal in 3 of 3 runs"), "{said}");
    for (run_id, lines) in &logs {
        assert_same(&kitchen, run_id, lines);
    }
    assert_eq!(kitchen.get("/api/runs/b/graph").status, 200);
    let (requests, waits) = (proxy.kept().seen.len(), asked_to_wait.lock().unwrap().len());
    // 4,000 and 2,600 lines are at least 14 batches, and more than half of all requests fail.
    assert!(requests > 30 && waits > 2, "{requests} requests, {waits} times asked to wait");
}

#[test]
fn a_push_that_is_killed_at_any_moment_goes_on_and_so_does_one_whose_server_is_killed() {
    let mut kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    let lines = hard_log(root.path(), "r", 12_000);
    let url = Arc::new(Mutex::new(kitchen.server.url.clone()));
    let faults = [Fault::None, Fault::Slow, Fault::None, Fault::NoAnswer];
    let (proxy, _) = proxy(&url, move |number| faults[number % faults.len()]);
    let arguments = [root.path().to_str().unwrap(), "--to", &proxy.url];
    let (mut kills, mut server_kills, mut before) = (0, 0, 0);
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{kills} kills, and it came to {before}");
        let mut push = spawn(&kitchen, &arguments);
        // Until it has come further, or has ended.
        let done = wait_for("progress", || {
            let done = push.try_wait().unwrap();
            let now = next_seq(&kitchen, "r");
            (done.is_some() || now > before).then_some(done)
        });
        if done.is_some() {
            let (code, said) = ended(push);
            assert_eq!(code, 0, "{said}");
            break;
        }
        if kills % 4 == 3 {
            // The push is left alone and meets a server that is gone, and then another one at another address.
            kitchen.server.kill();
            kitchen.restart();
            url.lock().unwrap().clone_from(&kitchen.server.url);
            server_kills += 1;
            let now = next_seq(&kitchen, "r");
            wait_for("progress after the server's death", || {
                (push.try_wait().unwrap().is_some() || next_seq(&kitchen, "r") > now).then_some(())
            });
        }
        push.kill().unwrap();
        push.wait().unwrap();
        kills += 1;
        before = next_seq(&kitchen, "r");
    }
    assert_same(&kitchen, "r", &lines);
    assert!(
        kills >= 8 && server_kills >= 2,
        "{kills} kills of the push, {server_kills} of the server: too few to tell"
    );
}
