//! A process that may have few descriptors, and a path that means harm.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::support::{Server, kahn, request};
use crate::wire::Wire;

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// A server that may have so many descriptors, and its archive.
fn poor(descriptors: u32) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().display().to_string();
    let args = ["serve", "--bind", "127.0.0.1:0", "--archive", archive.as_str()];
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_kahn")]).args(args);
    (Server::of(command, &args, &[]), folder)
}

fn starts(runs: std::ops::Range<u32>) -> String {
    runs.map(|number| {
        format!("{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r{number}\",\"event\":\"run_start\",\"total_nodes\":1}}\n")
    })
    .collect()
}

/// If this failed, half of a batch would be stored, and the other half never.
#[test]
fn a_batch_of_more_runs_than_there_are_descriptors_leaves_nothing() {
    let (server, _folder) = poor(160);
    let post =
        |batch: String| request(&server.url, ("POST", "/v1/ingest/transitions"), &NDJSON, Some(batch.as_bytes()));
    let total = || request(&server.url, ("GET", "/api/runs"), &[], None).json()["total"].clone();
    for runs in [300, 80] {
        assert_eq!(post(starts(0..runs)).problem(), (503, "storage_unavailable".into()), "{runs}");
        assert_eq!(total(), 0, "{runs}");
    }
    assert_eq!(post(starts(0..20)).status, 200, "what it left behind is in nobody's way");
    assert_eq!(total(), 20);
}

/// If this failed, a few idle connections would keep the server from its archive.
#[test]
fn connections_leave_descriptors_to_files() {
    let (server, _folder) = poor(160);
    let host = server.url.strip_prefix("http://").expect("an address");
    let mut wire = Wire::open(&server.url);
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(host).expect("the system takes it");
        stream.write_all(b"GET /").expect("a little is taken");
        idle.push(stream);
        let batch = starts(number..number + 1);
        let head = format!(
            "POST /v1/ingest/transitions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}",
            batch.len()
        );
        let reply = wire.ask(&head, batch.as_bytes());
        assert_eq!(reply.status, 200, "beside {} connections: {}", idle.len(), reply.text());
    }
}

/// If this failed, whoever names a folder would write the log, and steer the terminal that shows it.
#[test]
fn a_log_line_is_one_line_whatever_stands_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("a\n[2026-04-24T10:00:00Z ERROR] forged\u{1b}[2J\r\u{202e}b");
    std::fs::create_dir(&archive).expect("a folder");
    let archive = archive.to_str().expect("text");
    let args = ["serve", "--bind", "127.0.0.1:0", "--archive", archive];
    let _first = Server::start(&args, &[]);
    let mut second = kahn(&args, &[]).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let said = BufReader::new(second.stderr.take().expect("stderr is a pipe"));
    let mut lines = said.lines().map(|line| line.expect("a line"));
    let told = lines.find(|line| line.contains("read-only") || line.contains("listens on"));
    let _ = second.kill();
    let _ = second.wait();
    let told = told.expect("a word about the archive");
    assert!(
        told.contains(r"a\n[2026-04-24T10:00:00Z ERROR] forged\u{1b}[2J\r\u{202e}b may not be written"),
        "{told:?}"
    );
    assert!(!told.contains(char::is_control) && told.starts_with("[20"), "{told:?}");
}
