//! `kahn push`, black box: the binary against a small server that keeps what it is sent and can be told to misbehave.
//!
//! - `faults`: a real server behind a proxy that loses, delays and refuses; ends by kill -9 of either side.
//! - `follow`: runs that grow, and runs that appear.

mod faults;
mod follow;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const KEY: &str = "kahn_live_sk_test_secret";

struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

#[derive(Clone)]
struct Reply {
    status: u16,
    body: Value,
}

/// What a test makes the server do instead of answering; `None` lets it answer.
enum Instead {
    Reply(Reply),
    HangUp,
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    /// The same, a byte at a time.
    Slowly(Vec<u8>),
}

/// What the server keeps.
#[derive(Default)]
struct Kept {
    runs: BTreeMap<String, Vec<Vec<u8>>>,
    graphs: BTreeMap<String, Vec<u8>>,
    seen: Vec<String>,
    keys: Vec<Option<String>>,
}

struct Server {
    url: String,
    kept: Arc<Mutex<Kept>>,
}

impl Server {
    fn start(mut trick: impl FnMut(&Request, &mut Kept) -> Option<Instead> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.unwrap(), &mut shared.lock().unwrap(), &mut trick);
            }
        });
        Self { url, kept }
    }

    fn honest() -> Self {
        Self::start(|_, _| None)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

/// One request a connection, so that nothing is left to agree about.
fn serve(mut stream: &TcpStream, kept: &mut Kept, trick: &mut impl FnMut(&Request, &mut Kept) -> Option<Instead>) {
    let Some(request) = read_request(stream) else { return };
    kept.seen.push(format!("{} {}", request.method, request.target));
    kept.keys.push(request.headers.get("authorization").cloned());
    let reply = match trick(&request, kept) {
        Some(Instead::HangUp) => return,
        // A client that was killed meanwhile takes nothing.
        Some(Instead::Bytes(bytes)) => return drop(stream.write_all(&bytes)),
        Some(Instead::Slowly(bytes)) => {
            for byte in bytes {
                std::thread::park_timeout(std::time::Duration::from_micros(200));
                drop(stream.write_all(&[byte]));
            }
            return;
        }
        Some(Instead::Reply(reply)) => reply,
        None => kept.answer(&request),
    };
    let body = reply.body.to_string();
    let head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nRetry-After: 0\r\nConnection: close\r\n\r\n",
        reply.status,
        body.len()
    );
    drop(stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()));
}

/// `None` when the client went away before its request was whole.
fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    loop {
        let field = line()?;
        let Some((name, value)) = field.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}

fn reply(status: u16, body: Value) -> Reply {
    Reply { status, body }
}

fn refuse(status: u16, code: &str) -> Option<Instead> {
    Some(Instead::Reply(reply(status, json!({"code": code, "detail": format!("this is {code}")}))))
}

impl Kept {
    fn answer(&mut self, request: &Request) -> Reply {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let run = path.strip_prefix("/v1/ingest/runs/");
        match (request.method.as_str(), run) {
            ("GET", Some(run)) => self.position(run, query == "digest=true"),
            ("PUT", Some(run)) => {
                self.graphs.insert(run.trim_end_matches("/graph").to_owned(), request.body.clone());
                reply(201, json!({}))
            }
            ("POST", None) => self.append(query.strip_prefix("from_seq=").unwrap().parse().unwrap(), &request.body),
            _ => reply(404, json!({"code": "not_found", "detail": path})),
        }
    }

    fn position(&self, run: &str, digest: bool) -> Reply {
        let lines = self.runs.get(run);
        if lines.is_none() && !self.graphs.contains_key(run) {
            return reply(404, json!({"code": "unknown_run", "detail": "no such run"}));
        }
        let lines = lines.map_or(&[][..], Vec::as_slice);
        let all: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        reply(
            200,
            json!({
                "next_seq": lines.len(),
                "log_id": lines.first().map(|line| hex::encode(&Sha256::digest(line)[..8])),
                "graph_sha256": self.graphs.get(run).map(|graph| hex::encode(Sha256::digest(graph))),
                "lines_sha256": digest.then(|| hex::encode(Sha256::digest(&all))),
            }),
        )
    }

    fn append(&mut self, from_seq: usize, body: &[u8]) -> Reply {
        let lines: Vec<Vec<u8>> =
            body.split_inclusive(|byte| *byte == b'\n').map(|l| l[..l.len() - 1].to_vec()).collect();
        assert!(
            lines.len() <= 500 && body.len() <= 4 * 1024 * 1024,
            "a batch of {} lines, {} bytes",
            lines.len(),
            body.len()
        );
        let run_id = serde_json::from_slice::<Value>(&lines[0]).unwrap()["run_id"].as_str().unwrap().to_owned();
        let stored = self.runs.entry(run_id).or_default();
        if from_seq > stored.len() {
            return reply(409, json!({"code": "gap", "detail": "a gap", "next_seq": stored.len()}));
        }
        let duplicates = (stored.len() - from_seq).min(lines.len());
        if let Some(at) = (0..duplicates).find(|at| stored[from_seq + at] != lines[*at]) {
            return reply(409, json!({"code": "conflict", "detail": "another line", "seq": from_seq + at}));
        }
        stored.extend_from_slice(&lines[duplicates..]);
        reply(200, json!({"accepted": lines.len() - duplicates, "duplicates": duplicates}))
    }
}

fn event(run_id: &str, n: usize) -> String {
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"heartbeat","n":{n}}}"#)
}

/// An archive with a run of so many lines.
fn archive(run_id: &str, lines: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), run_id, "transitions.jsonl", &(0..lines).map(|n| event(run_id, n) + "\n").collect::<String>());
    root
}

fn write(root: &Path, run_id: &str, name: &str, text: &str) {
    let folder = root.join("runs").join(run_id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

fn push(arguments: &[&str], key: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kahn"));
    command.arg("push").args(arguments).env_clear();
    key.map(|key| command.env("KAHN_KEY", key));
    command.output().unwrap()
}

/// Pushes the archive; the exit code, what it printed, and its errors.
fn push_to(server: &Server, root: &tempfile::TempDir) -> (i32, String, String) {
    told(&push(&[root.path().to_str().unwrap(), "--to", &server.url], Some(KEY)))
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_run_arrives_in_batches_and_a_second_push_sends_nothing() {
    let server = Server::honest();
    let root = archive("r1", 1200);
    write(root.path(), "r1", "graph.json", r#"{"version":1,"nodes":[]}"#);
    let sent = "r1                       1200 sent, 0 already there, graph sent, sha256 equal\n\
                1200 events sent, 0 already there, 0 lines left out; sha256 equal in 1 of 1 runs\n";
    assert_eq!(push_to(&server, &root), (0, sent.into(), String::new()));
    assert_eq!(
        server.kept().seen,
        [
            "GET /v1/ingest/runs/r1?digest=true",
            "PUT /v1/ingest/runs/r1/graph",
            "POST /v1/ingest/transitions?from_seq=0",
            "POST /v1/ingest/transitions?from_seq=500",
            "POST /v1/ingest/transitions?from_seq=1000",
            "GET /v1/ingest/runs/r1?digest=true",
        ]
    );
    assert!(server.kept().keys.iter().all(|key| key.as_deref() == Some(&format!("Bearer {KEY}"))));
    let again = "r1                       0 sent, 1200 already there, graph already there, sha256 equal\n\
                 0 events sent, 1200 already there, 0 lines left out; sha256 equal in 1 of 1 runs\n";
    assert_eq!(push_to(&server, &root), (0, again.into(), String::new()));
}

#[test]
fn long_lines_make_batches_of_at_most_4_mib() {
    let server = Server::honest();
    let root = tempfile::tempdir().unwrap();
    let long = |n| {
        let line = event("r1", n);
        let room = 1024 * 1024 - line.len() - r#","x":"""#.len();
        line.replace('}', &format!(r#","x":"{}"}}"#, "y".repeat(room))) + "\n"
    };
    write(root.path(), "r1", "transitions.jsonl", &(0..9).map(long).collect::<String>());
    assert_eq!(push_to(&server, &root).0, 0);
    assert_eq!(server.kept().runs["r1"].len(), 9);
}

#[test]
fn damaged_lines_and_graphs_are_left_out_and_named() {
    let server = Server::honest();
    let root = archive("r1", 2);
    let log = format!("{}\n\n[]\n\n\n{}\n{}", event("r1", 0), event("r1", 1), event("r1", 2));
    write(root.path(), "r1", "transitions.jsonl", &log);
    write(root.path(), "r1", "graph.json", "[]");
    let told = "r1                       2 sent, 0 already there, sha256 equal; left out: line 2 (empty line), \
                line 3 (not an object), line 4 (empty line), 1 more line, an unfinished last line, \
                graph.json is not one JSON object: it is another JSON value\n\
                2 events sent, 0 already there, 5 lines left out; sha256 equal in 1 of 1 runs\n";
    assert_eq!(push_to(&server, &root), (0, told.into(), String::new()));
    assert!(server.kept().graphs.is_empty());
}

#[test]
fn what_passes_is_tried_again_and_stored_once() {
    let mut posts = 0;
    let server = Server::start(move |request, kept| {
        if request.method != "POST" {
            return None;
        }
        posts += 1;
        match posts {
            1 => refuse(503, "unavailable"),
            2 => refuse(429, "rate_limited"),
            // Stored, and the answer is lost.
            3 => {
                kept.answer(request);
                Some(Instead::HangUp)
            }
            _ => None,
        }
    });
    let (code, told, _) = push_to(&server, &archive("r1", 700));
    assert!(told.starts_with("r1                       200 sent, 500 already there, sha256 equal\n"), "{told}");
    assert_eq!((code, server.kept().runs["r1"].len()), (0, 700));
}

#[test]
fn a_server_that_stays_away_ends_the_push_when_patience_ends() {
    let server = Server::start(|_, _| refuse(503, "unavailable"));
    let root = archive("r1", 1);
    write(root.path(), "r2", "transitions.jsonl", &(event("r2", 0) + "\n"));
    let (code, said, error) =
        told(&push(&[root.path().to_str().unwrap(), "--to", &server.url, "--patience", "1"], Some(KEY)));
    assert_eq!(code, 1, "{said}");
    // Pauses of at least 0.125, 0.25 and 0.5 s, and the last try when the second is over.
    assert!((3..=5).contains(&server.kept().seen.len()), "{:?}", server.kept().seen);
    let sentence = "FAILED: the server answered 503 unavailable: this is unavailable (tried for 1 s; push again later, it goes on where it stopped)\nr2 ";
    assert!(said.contains(sentence), "{said}");
    assert!(said.contains("FAILED: not tried, since it would fail like the one before"), "{said}");
    assert_eq!(error.matches("is asked again and again (it answered 503 unavailable)").count(), 1, "{error}");
}

#[test]
fn a_gap_is_filled_from_where_the_server_says() {
    let mut is_first = true;
    let server = Server::start(move |request, kept| {
        if !std::mem::take(&mut is_first) {
            return None;
        }
        // It says 900 and then has lost all but 100.
        assert_eq!(request.method, "GET");
        kept.runs.insert("r1".into(), (0..900).map(|n| event("r1", n).into_bytes()).collect());
        let answer = kept.answer(request);
        kept.runs.get_mut("r1").unwrap().truncate(100);
        Some(Instead::Reply(answer))
    });
    assert_eq!(push_to(&server, &archive("r1", 1000)).0, 0);
    let posts: Vec<_> = server.kept().seen.iter().filter(|seen| seen.starts_with("POST")).cloned().collect();
    let from = |seq| format!("POST /v1/ingest/transitions?from_seq={seq}");
    assert_eq!(posts, [from(900), from(100), from(600)]);
}

#[test]
fn another_log_under_the_run_id_gets_nothing() {
    let server = Server::honest();
    server.kept().runs.insert("r1".into(), vec![event("r1", 7).into_bytes()]);
    let root = archive("r1", 3);
    write(root.path(), "r1", "graph.json", r#"{"version":1,"nodes":[]}"#);
    let (code, told, _) = push_to(&server, &root);
    assert_eq!((code, server.kept().seen.len()), (1, 1));
    assert!(told.contains("FAILED: the server has another log under this run_id ("), "{told}");
}

#[test]
fn a_different_line_and_an_older_copy_are_told() {
    let server = Server::honest();
    server.kept().runs.insert("r1".into(), vec![event("r1", 0).into_bytes(), event("r1", 9).into_bytes()]);
    let (code, told, _) = push_to(&server, &archive("r1", 1));
    assert_eq!(code, 1);
    assert!(
        told.contains("FAILED: the server has 2 lines of this log and this folder 1: it is an older copy"),
        "{told}"
    );
    let (code, told, _) = push_to(&server, &archive("r1", 5));
    assert_eq!(code, 1);
    assert!(
        told.contains(
            "FAILED: the server has another history of this run: its first 2 lines are not the ones that stand here"
        ),
        "{told}"
    );
    assert_eq!(server.kept().runs["r1"].len(), 2, "two histories are never one log");
}

#[test]
fn a_server_that_changes_a_line_is_found_out() {
    let server = Server::start(|request, kept| {
        if request.target.ends_with("digest=true")
            && let Some(lines) = kept.runs.get_mut("r1")
        {
            lines[1] = b"{}".to_vec();
        }
        None
    });
    let (code, told, _) = push_to(&server, &archive("r1", 3));
    assert_eq!(code, 1);
    assert!(told.contains("the server's lines are not the ones that were sent (SHA-256 "), "{told}");
    assert!(told.ends_with("sha256 equal in 0 of 1 runs\n"), "{told}");
}

#[test]
fn a_refused_key_ends_the_push_at_once() {
    let server = Server::start(|_, _| refuse(401, "unauthorized"));
    let root = archive("r1", 1);
    write(root.path(), "r2", "transitions.jsonl", &(event("r2", 0) + "\n"));
    let (code, told, _) = push_to(&server, &root);
    assert_eq!((code, server.kept().seen.len()), (1, 1));
    assert!(told.contains("; give a key that may ingest with --key-file, or in KAHN_KEY\nr2 "), "{told}");
    assert!(told.contains("FAILED: not tried"), "{told}");
    assert!(!told.contains(KEY), "{told}");
}

#[test]
fn a_key_never_crosses_a_network_in_the_clear() {
    let root = archive("r1", 1);
    let path = root.path().to_str().unwrap();
    let (code, _, error) = told(&push(&[path, "--to", "http://192.0.2.1:8080"], Some(KEY)));
    let sentence = "error: the key would cross the network in the clear: --to http://192.0.2.1:8080 is plain http to \
                    another machine; use its https:// address\n";
    assert_eq!((code, error.as_str()), (2, sentence));
}

#[test]
fn mistakes_of_usage_are_told_before_anything_is_sent() {
    let root = archive("r1", 1);
    let path = root.path().to_str().unwrap();
    let none = root.path().join("none");
    let none = none.to_str().unwrap();
    let key_file = root.path().join("key");
    std::fs::write(&key_file, "two words\n").unwrap();
    let key_file = key_file.to_str().unwrap();
    for (arguments, said) in [
        (vec![none, "--to", "http://127.0.0.1:1"], "does not exist; give the path of an archive or of a run folder"),
        (vec![path, "--to", "kahn.example.org"], "write it as --to https://kahn.example.org"),
        (vec![path, "--to", "ftp://kahn.example.org"], "which is no http:// or https:// address"),
        (vec![path, "--to", "https://u:p@kahn.example.org"], "--to holds a user or password"),
        (vec![path, "--to", "https://kahn.example.org/?a=b"], "which has more than a host and a path"),
        (vec![path, "--to", "http://127.0.0.1:1", "--key-file", none], "cannot be read"),
        (vec![path, "--to", "http://127.0.0.1:1", "--key-file", key_file], "holds no key"),
    ] {
        let (code, _, error) = told(&push(&arguments, None));
        assert!(code == 2 && error.contains(said), "{arguments:?}: {code} {error}");
        assert!(!error.contains("u:p"), "{error}");
    }
}

#[test]
fn json_is_one_object_a_run() {
    let server = Server::honest();
    let root = archive("r1", 2);
    let (code, out, _) = told(&push(&[root.path().to_str().unwrap(), "--to", &server.url, "--json"], None));
    assert_eq!(code, 0);
    let lines = [event("r1", 0), event("r1", 1), String::new()].join("\n");
    let wanted = json!({
        "run_id": "r1", "ok": true, "sent": 2, "already_there": 0, "graph": "none",
        "left_out": {"lines": 0, "problems": [], "unfinished_line": false, "log": null, "graph": null},
        "lines": 2, "lines_sha256": hex::encode(Sha256::digest(lines)), "sha256_equal": true, "error": null,
    });
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), wanted);
    assert_eq!(out.lines().count(), 1);
}
