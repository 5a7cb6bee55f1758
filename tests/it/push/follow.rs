//! `kahn push --follow`: what is appended arrives, and so do runs that appear; it ends when it is asked to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::faults::{assert_same, ended, next_seq, spawn};
use super::{Server, event, refuse, reply, write};
use crate::backend;
use crate::support::{Kitchen, PATIENCE, wait_for};

/// A push that follows, and the objects that it prints. It ends with this value.
struct Following {
    push: Option<Child>,
    told: mpsc::Receiver<Value>,
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(push) = &mut self.push {
            drop(push.kill());
            drop(push.wait());
        }
    }
}

impl Following {
    fn of(kitchen: &Kitchen, root: &Path, url: &str) -> Self {
        let mut push = spawn(kitchen, &[root.to_str().unwrap(), "--to", url, "--follow", "--json"]);
        let told = objects(push.stdout.take().unwrap());
        Self { push: Some(push), told }
    }

    /// The next object; its run, whether all is well, and what it says.
    fn next(&self) -> Value {
        self.told.recv_timeout(PATIENCE).expect("an object in time")
    }

    fn pid(&self) -> u32 {
        self.push.as_ref().unwrap().id()
    }

    fn terminate(self) -> (i32, Vec<Value>, String) {
        assert!(Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap().success());
        self.ended()
    }

    fn ended(mut self) -> (i32, Vec<Value>, String) {
        let (code, error) = ended(self.push.take().unwrap());
        (code, self.told.iter().collect(), error)
    }
}

fn objects(out: ChildStdout) -> mpsc::Receiver<Value> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            drop(tell.send(serde_json::from_str(&line).unwrap()));
        }
    });
    told
}

fn append(root: &Path, run_id: &str, text: &str) {
    let folder = root.join("runs").join(run_id);
    std::fs::create_dir_all(&folder).unwrap();
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("transitions.jsonl"));
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

fn end(run_id: &str) -> String {
    format!(
        r#"{{"ts":"2026-04-24T10:00:01.000Z","run_id":"{run_id}","event":"run_end","outcome":"clean","done":0,"failed":0,"blocked":0,"total_duration_s":1.0,"total_attempts":0,"flake_retries":0}}"#
    )
}

fn until(kitchen: &Kitchen, run_id: &str, lines: usize) {
    wait_for(&format!("{lines} lines of {run_id}"), || (next_seq(kitchen, run_id) == lines as u64).then_some(()));
}

#[test]
fn what_is_appended_arrives_and_so_do_runs_that_appear() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    // An archive that has no runs yet.
    let following = Following::of(&kitchen, root.path(), &kitchen.server.url);
    let mut lines: Vec<String> = Vec::new();
    for number in 0..3 {
        lines.push(event("live", number));
        append(root.path(), "live", &(event("live", number) + "\n"));
        until(&kitchen, "live", number + 1);
    }
    // A line whose end is yet to come is not sent: the next run's arrival shows that it was looked at.
    let (head, tail) = (&event("live", 3)[..40], &event("live", 3)[40..]);
    append(root.path(), "live", head);
    write(root.path(), "short", "graph.json", r#"{"version":1,"nodes":[]}"#);
    append(root.path(), "short", &[event("short", 0), end("short"), String::new()].join("\n"));
    let told = following.next();
    assert_eq!((&told["run_id"], &told["ok"], &told["sent"]), (&json!("short"), &json!(true), &json!(2)), "{told}");
    assert_eq!((&told["graph"], &told["sha256_equal"]), (&json!("sent"), &json!(true)), "{told}");
    assert_same(&kitchen, "short", &[event("short", 0), end("short")]);
    assert_eq!(next_seq(&kitchen, "live"), 3);
    append(root.path(), "live", &format!("{tail}\n"));
    lines.push(event("live", 3));
    until(&kitchen, "live", 4);
    // What stands there when the end is asked for arrives, however much it is.
    let rest: Vec<String> = (4..2600).map(|number| event("live", number)).collect();
    append(root.path(), "live", &(rest.join("\n") + "\n"));
    lines.extend(rest);
    let (code, told, error) = following.terminate();
    assert_eq!((code, told.len()), (0, 1), "{told:?} {error}");
    assert_eq!((&told[0]["run_id"], &told[0]["ok"], &told[0]["lines"]), (&json!("live"), &json!(true), &json!(2600)));
    assert_same(&kitchen, "live", &lines);
}

#[test]
fn a_run_that_ended_is_told_once_and_not_asked_about_again() {
    let kitchen = backend::empty();
    let server = Server::honest();
    let root = tempfile::tempdir().unwrap();
    append(root.path(), "a", &[event("a", 0), end("a"), String::new()].join("\n"));
    let following = Following::of(&kitchen, root.path(), &server.url);
    assert_eq!(following.next()["run_id"], "a");
    // Rounds that pass: each run of these is found in a later one.
    for run_id in ["b", "c", "d"] {
        append(root.path(), run_id, &[event(run_id, 0), end(run_id), String::new()].join("\n"));
        assert_eq!(following.next()["run_id"], run_id);
    }
    let about_a: Vec<String> = server.kept().seen.iter().filter(|seen| seen.contains("runs/a")).cloned().collect();
    assert_eq!(about_a, ["GET /v1/ingest/runs/a?digest=true"; 2]);
    // One that goes on all the same is not lost.
    append(root.path(), "a", &(event("a", 2) + "\n"));
    let told = following.next();
    assert_eq!((&told["run_id"], &told["sent"], &told["lines"]), (&json!("a"), &json!(1), &json!(3)));
    let (code, told, error) = following.terminate();
    assert_eq!((code, told), (0, vec![]), "{error}");
}

/// After a power cut a producer's log may lack lines that the server has, and go on with others.
#[test]
fn a_log_that_goes_on_otherwise_than_the_server_knows_is_told_and_spliced_to_nothing() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    let known: Vec<String> = (0..5).map(|number| event("a", number)).collect();
    let body: String = known.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(kitchen.post("/v1/ingest/transitions?from_seq=0", body.as_bytes()).status, 200);
    append(root.path(), "a", &known[..3].iter().map(|line| format!("{line}\n")).collect::<String>());
    append(root.path(), "b", &(event("b", 0) + "\n"));
    let following = Following::of(&kitchen, root.path(), &kitchen.server.url);
    until(&kitchen, "b", 1);
    append(root.path(), "a", &(15..18).map(|number| event("a", number) + "\n").collect::<String>());
    let told = following.next();
    let error = told["error"].as_str().unwrap();
    assert!(told["run_id"] == "a" && error.starts_with("the server has another history of this run: "), "{told}");
    assert_same(&kitchen, "a", &known);
    assert_eq!(following.terminate().0, 1);
}

/// A CR of the line's own stands before the one that ends it.
#[test]
fn a_line_that_ends_in_cr_arrives_as_it_is() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    append(root.path(), "a", &format!("{}\n{}\r\r\n{}\n", event("a", 0), event("a", 1), end("a")));
    let following = Following::of(&kitchen, root.path(), &kitchen.server.url);
    assert_eq!(following.next()["sha256_equal"], true);
    assert_eq!(following.terminate().0, 0);
    assert_same(&kitchen, "a", &[event("a", 0), event("a", 1) + "\r", end("a")]);
}

#[test]
fn a_log_that_is_replaced_or_cut_is_an_error_of_that_run_alone() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    for run_id in ["cut", "good", "moved", "same"] {
        append(root.path(), run_id, &format!("{}\n{}\n", event(run_id, 0), event(run_id, 1)));
    }
    let following = Following::of(&kitchen, root.path(), &kitchen.server.url);
    until(&kitchen, "same", 2);
    // Another log in the same file, as long as the old one or longer, so that its size does not tell.
    write(root.path(), "cut", "transitions.jsonl", &format!("{0}\n{0}\n{0}\n", event("cut", 7)));
    let other = root.path().join("other");
    std::fs::write(&other, format!("{}\n", event("moved", 9))).unwrap();
    std::fs::rename(&other, root.path().join("runs/moved/transitions.jsonl")).unwrap();
    let mut told: Vec<Value> = vec![following.next(), following.next()];
    told.sort_by_key(|told| told["run_id"].to_string());
    for (told, run_id) in told.iter().zip(["cut", "moved"]) {
        let error = told["error"].as_str().unwrap();
        assert!(
            told["run_id"] == run_id && error.starts_with("the server has another log under this run_id ("),
            "{told}"
        );
        assert_same(&kitchen, run_id, &[event(run_id, 0), event(run_id, 1)]);
    }
    // The same log in another file, as a tool that writes anew and renames leaves it, goes on.
    let lines: Vec<String> = (0..4).map(|number| event("same", number)).collect();
    std::fs::write(&other, lines.join("\n") + "\n").unwrap();
    std::fs::rename(&other, root.path().join("runs/same/transitions.jsonl")).unwrap();
    until(&kitchen, "same", 4);
    append(root.path(), "good", &(event("good", 2) + "\n"));
    until(&kitchen, "good", 3);
    let (code, told, error) = following.terminate();
    let told: Vec<(&Value, &Value)> = told.iter().map(|told| (&told["run_id"], &told["ok"])).collect();
    assert_eq!(told, [(&json!("good"), &json!(true)), (&json!("same"), &json!(true))], "{error}");
    assert_eq!(code, 1, "two runs did not arrive");
    assert_same(&kitchen, "same", &lines);
}

#[test]
fn a_server_that_is_away_is_waited_for_and_one_that_refuses_is_not() {
    let kitchen = backend::empty();
    let root = tempfile::tempdir().unwrap();
    append(root.path(), "a", &[event("a", 0), end("a"), String::new()].join("\n"));
    append(root.path(), "gone", &(event("gone", 0) + "\n"));
    append(root.path(), "z", &(event("z", 0) + "\n"));
    let (mut requests, mut is_revoked) = (0, false);
    let server = Server::start(move |request, _| {
        requests += 1;
        is_revoked |= request.target.contains("/revoked");
        match requests {
            _ if is_revoked => refuse(401, "invalid_token"),
            1 | 2 => refuse(500, "storage_failed"),
            3 => refuse(507, "no_space"),
            _ if request.method == "POST" && request.body.starts_with(event("gone", 0).as_bytes()) => {
                refuse(410, "gone")
            }
            _ => None,
        }
    });
    let following = Following::of(&kitchen, root.path(), &server.url);
    assert_eq!(following.next()["run_id"], "a");
    let told = following.next();
    assert_eq!(
        told["error"], "the server has deleted this run; restore it there, or push under another run_id",
        "{told}"
    );
    append(root.path(), "revoked", &(event("revoked", 0) + "\n"));
    let told = following.next();
    assert!(told["error"].as_str().unwrap().contains("; give a key that may ingest with --key-file, or in KAHN_KEY"));
    assert_eq!(following.next()["error"], "not tried, since it would fail like the one before");
    assert_eq!(following.ended().0, 1);
}

#[test]
fn asked_to_end_while_the_server_is_away_it_says_what_did_not_arrive() {
    let kitchen = backend::empty();
    let server = Server::start(|_, kept| {
        kept.graphs.insert("asked".into(), Vec::new());
        Some(super::Instead::Reply(reply(503, json!({"code": "busy", "detail": "later"}))))
    });
    let root = tempfile::tempdir().unwrap();
    append(root.path(), "a", &(event("a", 0) + "\n"));
    let following = Following::of(&kitchen, root.path(), &server.url);
    wait_for("the first request", || server.kept().graphs.contains_key("asked").then_some(()));
    let (code, told, error) = following.terminate();
    assert_eq!((code, told.len()), (1, 1), "{told:?}");
    assert!(
        told[0]["error"].as_str().unwrap().starts_with("the server answered 503 busy: later (tried for "),
        "{told:?}"
    );
    assert!(error.contains("is asked again and again (it answered 503 busy)"), "{error}");
}

/// A log that is larger than what push may hold of it.
#[test]
fn a_large_log_is_not_read_into_memory() {
    let kitchen = backend::empty();
    // Takes everything and keeps nothing.
    let mut next = 0;
    let server = Server::start(move |request, _| {
        if request.method == "GET" {
            let answer = json!({"next_seq": next, "log_id": null, "graph_sha256": null, "lines_sha256": null});
            return Some(super::Instead::Reply(reply(200, answer)));
        }
        let lines = request.body.iter().filter(|byte| **byte == b'\n').count();
        next += lines;
        Some(super::Instead::Reply(reply(200, json!({"accepted": lines, "duplicates": 0}))))
    });
    let root = tempfile::tempdir().unwrap();
    let line = event("r", 1);
    let room = 1024 * 1024 - line.len() - r#","x":"""#.len();
    let long = line.replace('}', &format!(r#","x":"{}"}}"#, "y".repeat(room))) + "\n";
    for _ in 0..96 {
        append(root.path(), "r", &long);
    }
    let following = Following::of(&kitchen, root.path(), &server.url);
    let all = "POST /v1/ingest/transitions?from_seq=93";
    wait_for("the last batch", || server.kept().seen.iter().any(|seen| seen == all).then_some(()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", following.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 48 * 1024, "{peak} KiB for a log of 96 MiB");
    let (code, _, error) = following.terminate();
    // Nothing was kept, and that is found out.
    assert_eq!(code, 1, "{error}");
}
