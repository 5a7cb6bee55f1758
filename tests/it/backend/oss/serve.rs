//! `kahn serve` of this build: when it refuses to start, and how a file becomes a live event.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::feed::{Socket, block_on};
use crate::support::{Server, request, run};

fn refusal(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(args, env);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_taken_port_names_the_option_that_chooses_another() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().display().to_string();
    let expected = format!(
        "error: cannot listen on {address}: another program has this port; choose another with --bind (KAHN_BIND), such as --bind 127.0.0.1:8081\n"
    );
    assert_eq!(refusal(&["serve", "--bind", &address, "--archive", &archive], &[]), (Some(1), expected));
}

#[test]
fn an_address_that_others_can_reach_has_to_be_allowed() {
    let expected = "error: --bind (KAHN_BIND) is 0.0.0.0:0, which other machines can reach, and there is no login; \
                    bind to 127.0.0.1, or add --allow-remote (KAHN_ALLOW_REMOTE=true)\n";
    assert_eq!(refusal(&["--bind", "0.0.0.0:0"], &[]), (Some(2), expected.into()));
}

#[test]
fn what_only_tenants_have_is_not_here_and_says_where_it_is() {
    let kitchen = super::empty();
    let answer = kitchen.get("/api/billing");
    assert_eq!(answer.problem(), (404, "only_in_cloud".to_owned()));
    assert_eq!(answer.json()["only_in"], "cloud");
}

#[test]
fn every_mistake_is_told_at_once() {
    let (code, told) = refusal(
        &["serve", "--bind", "here", "--archive", "a", "--fixture-dir", "b", "--allowed-host", "http://x"],
        &[("KAHN_STALL_AFTER", "soon"), ("KAHN_AGENT_VIEWS", "maybe")],
    );
    assert_eq!(code, Some(2));
    let named = ["--bind (KAHN_BIND)", "--stall-after", "--agent-views", "--archive (KAHN_ARCHIVE)", "--allowed-host"];
    assert_eq!(told.lines().count(), named.len(), "{told}");
    for (line, name) in told.lines().zip(named) {
        assert!(line.starts_with("error: ") && line.contains(name), "{line} names {name}");
    }
}

/// A flag wins over its own variable, and `--fixture-dir` and `--archive` are one question: which folder.
#[test]
fn a_folder_that_was_typed_wins_over_one_of_the_environment() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let image = [("KAHN_ARCHIVE", "/archive")];
    let server = Server::start(&["--bind", "127.0.0.1:0", "--fixture-dir", data], &image);
    let config = request(&server.url, ("GET", "/api/config"), &[], None).json();
    let runs = request(&server.url, ("GET", "/api/runs"), &[], None).json();
    assert_eq!((&config["read_only"], &runs["total"]), (&true.into(), &14.into()));
    // `kahn mode` says what serve would do.
    let mode = |args: &[&str], env: &[(&str, &str)]| {
        let said = run(&[&["mode", "--json"], args].concat(), env).stdout;
        let view: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
        (view["storage"].as_str().expect("text").to_owned(), view["mistakes"].as_array().expect("mistakes").len())
    };
    let fixture = "log files of the archive typed, strictly read-only; no database".to_owned();
    let archive = "log files of the archive typed; no database".to_owned();
    let variables = [("KAHN_ARCHIVE", "/archive"), ("KAHN_FIXTURE_DIR", "/fixture")];
    assert_eq!(mode(&["--fixture-dir", "typed"], &variables), (fixture, 0));
    assert_eq!(mode(&["--archive", "typed"], &variables), (archive, 0));
    assert_eq!(mode(&["--fixture-dir", "typed", "--archive", "other"], &[]).1, 1);
    assert_eq!(mode(&[], &variables).1, 1);
    let (code, told) = refusal(&["serve"], &variables);
    assert!(code == Some(2) && told.contains("leave one of them out"), "{told}");
}

/// A server takes an archive; the words of commands that take a run's folder too would send people in a circle.
#[test]
fn a_folder_that_is_no_archive_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("file"), "not a folder").expect("a file");
    let refused = |option: &str, name: &str| {
        let told = refusal(&["serve", "--bind", "127.0.0.1:0", option, &path(name)], &[]);
        let variable = if option == "--archive" { "KAHN_ARCHIVE" } else { "KAHN_FIXTURE_DIR" };
        let said = told.1.strip_prefix(&format!("error: {option} ({variable}): {} ", path(name))).map(str::to_owned);
        (told.0, said.unwrap_or(told.1))
    };
    let no_folder = "is not a folder; give the folder of an archive, the one above runs/\n";
    assert_eq!(refused("--archive", "file"), (Some(2), no_folder.to_owned()));
    assert_eq!(refused("--fixture-dir", "file"), (Some(2), no_folder.to_owned()));
    let missing = "does not exist; give the folder of an archive, the one above runs/\n";
    assert_eq!(refused("--fixture-dir", "missing"), (Some(2), missing.to_owned()));
    let one_run = "is the folder of one run (transitions.jsonl or graph.json is in it, and no runs/); give the folder above runs/\n";
    for (run, file) in [("r1", "transitions.jsonl"), ("r2", "graph.json")] {
        fs::create_dir_all(path(&format!("runs/{run}"))).expect("a run folder");
        fs::write(path(&format!("runs/{run}/{file}")), "").expect("a file");
        assert_eq!(refused("--fixture-dir", &format!("runs/{run}")), (Some(2), one_run.to_owned()));
        // An archive may have its runs/ later.
        let archive = path(&format!("runs/{run}"));
        let server = Server::start(&["serve", "--bind", "127.0.0.1:0", "--archive", &archive], &[]);
        let warned = format!("--archive (KAHN_ARCHIVE): {archive} {one_run}");
        assert!(server.log().contains(&warned), "{}", server.log());
    }
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0", "--fixture-dir", &path("")], &[]);
    assert!(!server.log().contains("give the folder above"), "{}", server.log());
}

/// What read-only can mean, and what mends each: there may be no other server.
#[test]
fn push_to_a_server_that_only_reads_is_told_what_that_can_mean() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().display().to_string();
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0", "--fixture-dir", &empty], &[]);
    let output = run(&["push", data, "--to", &server.url], &[]);
    let told = String::from_utf8(output.stdout).expect("text") + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let said = "403 read_only: this archive is served read-only; where it was started with --fixture-dir, start it with --archive; where another server has the archive, push to that one, or end it and start this one again; where its user may not write to the folder, let it";
    assert!(told.contains(said), "{told}");
}

fn line(number: u64) -> String {
    match number {
        0 => r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_start","total_nodes":1}"#.into(),
        _ => format!(r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"r","event":"heartbeat","n":{number}}}"#),
    }
}

fn append(log: &std::path::Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(log).expect("a log");
    file.write_all(text.as_bytes()).expect("it takes a line");
}

#[test]
fn an_event_appended_to_a_file_reaches_a_client_that_loses_its_connection_and_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("runs/r");
    fs::create_dir_all(&run).expect("a run folder");
    let log = run.join("transitions.jsonl");
    append(&log, &(line(0) + "\n"));
    let archive = folder.path().display().to_string();
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0", "--archive", &archive], &[]);
    block_on(async {
        let mut socket = Socket::open_at(&server.url, None).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        assert_eq!(socket.events(1).await, [(0, line(0))]);
        append(&log, &(line(1) + "\n" + &line(2)[..20]));
        assert_eq!(socket.events(1).await, [(1, line(1))], "a torn line waits until it is whole");
        drop(socket);
        append(&log, &(line(2)[20..].to_owned() + "\n" + &line(3) + "\n"));
        let mut socket = Socket::open_at(&server.url, None).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 2})).await;
        assert_eq!(socket.events(2).await, [(2, line(2)), (3, line(3))], "no gap, no repeat");
        // Another log under the same run_id is read anew.
        let other = line(0).replace("total_nodes\":1", "total_nodes\":2");
        fs::write(run.join("new"), other.clone() + "\n").expect("a file");
        fs::rename(run.join("new"), &log).expect("a replaced log");
        assert_eq!(socket.next().await["type"], "reset");
        assert_eq!(socket.events(1).await, [(0, other)]);
    });
}

#[test]
fn a_disk_that_takes_no_more_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().display().to_string();
    let args = ["serve", "--bind", "127.0.0.1:0", "--archive", archive.as_str()];
    let ndjson = [("content-type", "application/x-ndjson")];
    let post = |server: &Server, seqs: std::ops::Range<u64>| {
        let path = format!("/v1/ingest/transitions?from_seq={}", seqs.start);
        let batch: String = seqs.map(|number| line(number) + "\n").collect();
        request(&server.url, ("POST", &path), &ndjson, Some(batch.as_bytes()))
    };
    let events = |server: &Server| request(&server.url, ("GET", "/api/runs/r/events?limit=5000"), &[], None).text();
    let all: String = (0..400).map(|number| line(number) + "\n").collect();
    // A limit on the size of files answers writes as a full disk does: first a short one, then an error.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kahn")]).args(args);
    let limited = Server::of(command, &args, &[]);
    let mut acknowledged = 0;
    let refused = loop {
        let answer = post(&limited, acknowledged..acknowledged + 7);
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 7;
    };
    assert!(acknowledged > 0);
    assert_eq!(refused.problem(), (507, "no_space".into()));
    for _ in 0..3 {
        assert_eq!(post(&limited, acknowledged..400).problem(), (507, "no_space".into()));
    }
    let kept = events(&limited);
    assert!(kept.lines().count() as u64 >= acknowledged && all.starts_with(&kept), "reads go on");
    drop(limited);
    let freed = Server::start(&args, &[]);
    assert!(events(&freed).lines().count() as u64 >= acknowledged);
    let answer = post(&freed, 0..400).json();
    let (accepted, duplicates) = (answer["accepted"].as_u64(), answer["duplicates"].as_u64());
    assert!(duplicates >= Some(acknowledged) && accepted.zip(duplicates).map(|(a, b)| a + b) == Some(400), "{answer}");
    assert_eq!(events(&freed), all);
    let problems = request(&freed.url, ("GET", "/api/runs/r/problems"), &[], None).json();
    let ledger = json!({"lines": 401, "kept": 400, "skipped": 1, "pending": 0, "unknown": 0});
    assert_eq!(problems["ledger"], ledger, "the torn line is counted");
}
