//! `kahn validate`, black box: each kind of fault is told with its file and line, what is right is silent, and a program
//! can read all of it. Lost, and producers find out from a strange page instead of from their own build.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{kahn, run, wait_for};

/// An archive that a test writes.
struct Archive(tempfile::TempDir);

impl Archive {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, run_id: &str, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let folder = self.0.path().join("runs").join(run_id);
        std::fs::create_dir_all(&folder).expect("a run folder");
        std::fs::write(folder.join(name), bytes).expect("a file");
        folder.join(name)
    }

    /// What is said of the whole archive: the exit code, and each line without the archive's own path.
    fn validate(&self) -> (i32, Vec<String>) {
        validate(self.0.path(), self.0.path())
    }
}

fn validate(path: &Path, less: &Path) -> (i32, Vec<String>) {
    let output = run(&["validate", path.to_str().expect("a path")], &[]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    let less = format!("{}/", less.display());
    let lines = said.lines().map(|line| line.strip_prefix(&less).unwrap_or(line).to_owned()).collect();
    (output.status.code().expect("a code"), lines)
}

/// An event of run r1.
fn event(name: &str, fields: Value) -> String {
    let mut event = json!({"ts": "2026-04-24T10:00:00.000Z", "run_id": "r1", "event": name});
    if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
        event.extend(fields);
    }
    event.to_string()
}

fn moves(node: &str, from: &str, to: &str) -> String {
    event("node_transition", json!({"node_id": node, "from": from, "to": to}))
}

fn runs(node: &str, attempt: u64) -> String {
    event("node_transition", json!({"node_id": node, "from": "ready", "to": "running", "attempt": attempt}))
}

fn attempt(node: &str, attempt: u64, rcs: &[i32]) -> String {
    let checks: Vec<Value> = rcs.iter().map(|rc| json!({"cmd": "check", "rc": rc, "duration_s": 1.0})).collect();
    let converged = rcs.iter().all(|rc| *rc == 0);
    event(
        "node_attempt",
        json!({"node_id": node, "attempt": attempt, "duration_s": 1.0, "converged": converged, "done_when_results": checks}),
    )
}

/// A node from pending to done, without a retry: four lines.
fn done(node: &str) -> Vec<String> {
    vec![moves(node, "pending", "ready"), runs(node, 1), attempt(node, 1, &[0]), moves(node, "running", "done")]
}

fn end(outcome: &str, [done, failed, blocked]: [u64; 3]) -> String {
    event(
        "run_end",
        json!({"outcome": outcome, "done": done, "failed": failed, "blocked": blocked, "total_duration_s": 2.5}),
    )
}

fn log(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn start(total_nodes: u64) -> String {
    event("run_start", json!({"total_nodes": total_nodes}))
}

/// A run of one node that went well: six lines.
fn clean() -> Vec<String> {
    [vec![start(1)], done("a"), vec![end("clean", [1, 0, 0])]].concat()
}

fn graph(nodes: &[(&str, &[&str])]) -> String {
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|(id, needs)| json!({"id": id, "deliverable": "", "depends_on": needs, "touches": [], "done_when": ["check"]}))
        .collect();
    json!({"version": 1, "nodes": nodes}).to_string()
}

/// The summary of [`clean`].
fn summary() -> Value {
    json!({
        "run_id": "r1", "started": "2026-04-24T10:00:00.000Z", "ended": "2026-04-24T10:00:00.000Z", "duration_s": 2.5,
        "outcome": "clean", "total_nodes": 1, "done": 1, "failed": 0, "blocked": 0, "total_attempts": 1, "flake_retries": 0,
        "exit_code": 0, "failed_nodes": [], "node_attempts": {"a": 1},
    })
}

/// What is said of the log of a run r1, line by line, without the count at the end.
fn said_of(lines: &[String]) -> (i32, Vec<String>) {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", log(lines));
    let (code, mut said) = archive.validate();
    said.pop();
    let prefix = "runs/r1/transitions.jsonl";
    (code, said.iter().map(|line| line.strip_prefix(prefix).unwrap_or(line).to_owned()).collect())
}

#[test]
fn what_is_right_is_silent() {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", log(&clean()));
    archive.write("r1", "graph.json", graph(&[("a", &[])]));
    archive.write("r1", "summary.json", summary().to_string());
    assert_eq!(archive.validate(), (0, vec!["1 run, 6 lines: no faults".to_owned()]));
    // An archive without runs, and one whose producer is half way.
    let archive = Archive::new();
    archive.write("r1", "graph.json", graph(&[("a", &[]), ("b", &["a"])]));
    archive.write("r1", "transitions.jsonl", log(&[start(2), moves("a", "pending", "ready"), runs("a", 1)]));
    assert_eq!(archive.validate(), (0, vec!["1 run, 3 lines: no faults".to_owned()]));
}

#[test]
fn the_samples_have_only_the_faults_that_they_show() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let (code, said) = validate(&data, &data);
    let expected = [
        ":4: empty line",
        ":5: warning: unknown event: deploy_marker",
        ":8: not JSON: EOF while parsing a string at column 28",
        ":12: not UTF-8 at byte 186",
        ":13: run_id differs from the folder's",
        ":14: no valid ts",
        ":15: audit_checkpoint: invalid type: string \"0.2\", expected f64 at column 164",
        ":17: NUL byte",
        ":22: no newline at the end: a torn write, or one under way",
    ];
    let mut expected: Vec<String> =
        expected.iter().map(|line| format!("runs/torn-1/transitions.jsonl{line}")).collect();
    expected.push("14 runs, 630 lines: 8 faults, 1 warning".into());
    assert_eq!((code, said), (1, expected));
}

#[test]
fn a_breach_of_order_stands_at_its_line() {
    let breach = |line: &str| (1, vec![line.to_owned()]);
    assert_eq!(said_of(&clean()[1..]), breach(":1: the log does not begin with a start event"));
    let again = [vec![start(1)], clean()].concat();
    assert_eq!(said_of(&again), breach(":2: a second start event"));
    let after = [clean(), vec![event("heartbeat", json!({}))]].concat();
    assert_eq!(said_of(&after), breach(":7: an event after the end event"));
    // It adds nothing to what the first one said.
    let archive = Archive::new();
    archive.write("r1", "graph.json", graph(&[("a", &[])]));
    archive.write("r1", "transitions.jsonl", log(&[vec![start(1), start(7)], clean()[1..].to_vec()].concat()));
    assert_eq!(archive.validate().1.len(), 2, "{:?}", archive.validate());
    let skips = [start(1), moves("a", "pending", "done")];
    assert_eq!(said_of(&skips), breach(":2: node a moved from pending to done"));
    let elsewhere = [start(1), moves("a", "running", "done")];
    assert_eq!(said_of(&elsewhere), breach(":2: node a moved from running, but was pending"));
    let agent = |name: &str, fields: Value| {
        let mut fields = fields;
        fields["agent_id"] = json!("coder");
        event(name, fields)
    };
    let agent_log = [
        agent("agent_run_start", json!({"task": "t"})),
        agent("agent_transition", json!({"step": 0, "from": "thinking", "to": "tool_call"})),
        agent("agent_transition", json!({"step": 1, "from": "reflect", "to": "thinking"})),
    ];
    assert_eq!(said_of(&agent_log), breach(":3: the agent moved from reflect, but was tool_call"));
}

#[test]
fn more_breaches_than_a_state_keeps_are_all_told() {
    let mut lines = vec![start(1)];
    lines.extend((0..150).map(|_| moves("a", "running", "done")));
    let (code, said) = said_of(&lines);
    assert_eq!((code, said.len()), (1, 150), "{said:?}");
    assert!(said[149].starts_with(":151: node a moved from running"), "{}", said[149]);
}

#[test]
fn a_move_to_running_without_its_attempt_is_a_fault_once_the_run_has_ended() {
    let mut lines = vec![start(2), moves("b", "pending", "ready"), runs("b", 1), moves("b", "running", "failed")];
    lines.extend(done("a"));
    assert_eq!(said_of(&lines), (0, vec![]), "it may still come");
    let catastrophic = [lines.clone(), vec![end("catastrophic", [1, 1, 0])]].concat();
    assert_eq!(said_of(&catastrophic), (0, vec![]), "the producer died");
    lines.push(end("partial", [1, 1, 0]));
    let said = ":3: node b began attempt 1, and no node_attempt of it follows".to_owned();
    assert_eq!(said_of(&lines), (1, vec![said]));
}

/// An attempt of another number is not the one that the move began.
#[test]
fn the_attempt_of_a_move_has_its_number() {
    let mut lines = [vec![start(1), moves("a", "pending", "ready"), runs("a", 1), attempt("a", 1, &[1])]].concat();
    lines.extend([moves("a", "running", "ready"), runs("a", 3), attempt("a", 2, &[0]), moves("a", "running", "done")]);
    lines.push(end("clean_with_flake", [1, 0, 0]));
    let said = ":6: node a began attempt 3, and no node_attempt of it follows".to_owned();
    assert_eq!(said_of(&lines), (1, vec![said]));
}

/// The next move of a node does not hide one before it that no attempt followed.
#[test]
fn each_move_to_running_waits_for_its_own_attempt() {
    let mut lines = vec![start(1), moves("a", "pending", "ready"), runs("a", 1), moves("a", "running", "ready")];
    lines.extend([runs("a", 2), attempt("a", 2, &[0]), moves("a", "running", "done"), end("clean", [1, 0, 0])]);
    let told =
        |line: u64, number: u64| format!(":{line}: node a began attempt {number}, and no node_attempt of it follows");
    let warned = ":6: warning: attempt 2 of node a comes after attempt 0".to_owned();
    assert_eq!(said_of(&lines), (1, vec![warned, told(3, 1)]));
    // More at a time than are kept: none of them is forgotten, and those that were answered are none.
    let mut lines = vec![start(1), moves("a", "pending", "ready")];
    lines.extend((1..=20).flat_map(|number| [runs("a", number), moves("a", "running", "ready")]));
    lines.extend((13..=20).map(|number| attempt("a", number, &[1])));
    lines.extend([runs("a", 21), attempt("a", 21, &[0]), moves("a", "running", "done")]);
    lines.push(end("clean_with_flake", [1, 0, 0]));
    let (code, said) = said_of(&lines);
    let faults: Vec<String> = said.into_iter().filter(|line| !line.contains(" warning: ")).collect();
    assert_eq!((code, faults), (1, (1..=12).map(|number| told(1 + 2 * number, number)).collect()));
}

#[test]
fn a_node_that_did_not_wait_is_told() {
    let archive = Archive::new();
    archive.write("r1", "graph.json", graph(&[("a", &[]), ("b", &["a"])]));
    let mut lines = [vec![start(2)], done("b"), done("a")].concat();
    archive.write("r1", "transitions.jsonl", log(&lines));
    let expected = vec![
        "runs/r1/transitions.jsonl:3: warning: node b runs, but a, which it needs, is pending".to_owned(),
        "1 run, 9 lines: no faults, 1 warning".to_owned(),
    ];
    assert_eq!(archive.validate(), (0, expected));
    lines = [vec![start(2)], done("a"), done("b")].concat();
    archive.write("r1", "transitions.jsonl", log(&lines));
    assert_eq!(archive.validate(), (0, vec!["1 run, 9 lines: no faults".to_owned()]));
}

/// Without a graph the nodes that appear are all that is known.
#[test]
fn more_nodes_than_were_announced_need_no_graph_to_be_seen() {
    let lines = [vec![start(1)], done("a"), done("b")].concat();
    assert_eq!(said_of(&lines), (1, vec![":1: total_nodes is 1, counted 2".to_owned()]));
    let lines = [vec![start(3)], done("a"), done("b")].concat();
    assert_eq!(said_of(&lines), (0, vec![]));
}

#[test]
fn a_long_name_is_cut() {
    let (_, said) = said_of(&[start(1), event(&"é".repeat(500), json!({}))]);
    assert_eq!(said, [format!(":2: warning: unknown event: {}...", "é".repeat(120))]);
}

/// In a terminal (its own, both stdout and stderr), a line says how far the work is, and is gone at the end.
#[test]
fn progress_is_shown_on_a_terminal_alone() {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", log(&clean()));
    let output = Command::new("python3")
        .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_kahn"), archive.0.path().to_str().expect("a path")])
        .output()
        .expect("python3");
    let said = String::from_utf8(output.stdout).expect("text");
    let expected = "\r\u{1b}[Kchecking: 1 of 1 runs, 0 lines\r\u{1b}[K1 run, 6 lines: no faults\r\n";
    assert_eq!(said, expected);
}

/// Runs validate in a terminal and prints what came to it.
const TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'validate', sys.argv[2]])
said = b''
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    said += more
os.waitpid(pid, 0)
os.write(1, said)
";

#[test]
fn an_attempt_converges_when_every_check_exits_0() {
    let wrong = |rcs: &[i32], converged: bool| {
        let mut event: Value = serde_json::from_str(&attempt("a", 1, rcs)).expect("JSON");
        event["converged"] = json!(converged);
        said_of(&[start(1), moves("a", "pending", "ready"), runs("a", 1), event.to_string()])
    };
    assert_eq!(wrong(&[0, 1], true), (1, vec![":4: node a converged in attempt 1, but `check` exited 1".to_owned()]));
    assert_eq!(
        wrong(&[0, 0], false),
        (1, vec![":4: node a did not converge in attempt 1, but every check exited 0".to_owned()])
    );
    assert_eq!(wrong(&[], false), (0, vec![]), "it ended before its checks");
}

#[test]
fn what_is_declared_is_held_against_what_is_counted() {
    let mut lines = [vec![start(3)], done("a")].concat();
    lines.extend([moves("b", "pending", "ready"), runs("b", 1), attempt("b", 1, &[1]), attempt("b", 2, &[0])]);
    lines.push(moves("b", "running", "done"));
    let end = |outcome: &str, figures: [u64; 5]| {
        let [done, failed, blocked, total_attempts, flake_retries] = figures;
        event(
            "run_end",
            json!({"outcome": outcome, "done": done, "failed": failed, "blocked": blocked, "total_duration_s": 1,
                   "total_attempts": total_attempts, "flake_retries": flake_retries}),
        )
    };
    let archive = Archive::new();
    let graph_of = |nodes: &[(&str, &[&str])]| archive.write("r1", "graph.json", graph(nodes));
    let said = |lines: Vec<String>| {
        archive.write("r1", "transitions.jsonl", log(&lines));
        archive.validate()
    };
    graph_of(&[("a", &[]), ("b", &[]), ("c", &["a"])]);
    let right = [lines.clone(), vec![end("partial", [2, 0, 0, 3, 1])]].concat();
    assert_eq!(said(right), (0, vec!["1 run, 11 lines: no faults".to_owned()]));
    let wrong = [lines.clone(), vec![end("clean", [3, 1, 1, 4, 0])]].concat();
    let at = "runs/r1/transitions.jsonl:11:";
    let expected = vec![
        format!("{at} done is 3, counted 2"),
        format!("{at} failed is 1, counted 0"),
        format!("{at} blocked is 1, counted 0"),
        format!("{at} total_attempts is 4, counted 3"),
        format!("{at} flake_retries is 0, counted 1"),
        format!("{at} outcome is clean, but its nodes show partial"),
        "1 run, 11 lines: 6 faults".to_owned(),
    ];
    assert_eq!(said(wrong), (1, expected));
    // Of a graph that has another number of nodes than the run set out to walk.
    graph_of(&[("a", &[]), ("b", &[])]);
    let expected = vec![
        "runs/r1/transitions.jsonl:1: total_nodes is 3, counted 2".to_owned(),
        "1 run, 11 lines: 1 fault".to_owned(),
    ];
    assert_eq!(said([lines, vec![end("clean_with_flake", [2, 0, 0, 3, 1])]].concat()), (1, expected));
    let stuck = [start(1), moves("a", "pending", "blocked"), end("partial", [0, 0, 1, 0, 0])];
    graph_of(&[("a", &[])]);
    assert_eq!(said(stuck.to_vec()).1[0], "runs/r1/transitions.jsonl:3: outcome is partial, but its nodes show stuck");
}

#[test]
fn an_agent_that_miscounts_is_told() {
    let agent = |name: &str, mut fields: Value| {
        fields["agent_id"] = json!("coder");
        event(name, fields)
    };
    let audit = |result: &str| {
        agent("audit_checkpoint", json!({"checkpoint_id": "audit:x", "result": result, "duration_s": 0.1}))
    };
    let end = |figures: [u64; 5]| {
        let [steps, calls, audits, passed, failed] = figures;
        agent(
            "agent_run_end",
            json!({"outcome": "converged", "total_steps": steps, "total_tool_calls": calls, "total_audit_checkpoints": audits,
                   "audits_passed": passed, "audits_failed": failed, "total_duration_s": 1}),
        )
    };
    let mut lines = vec![
        agent("agent_run_start", json!({"task": "t"})),
        agent("tool_invocation", json!({"step": 4, "tool_name": "t", "duration_s": 1, "ok": true})),
        audit("pass"),
        audit("warn"),
        audit("fail"),
        end([5, 1, 3, 1, 1]),
    ];
    assert_eq!(said_of(&lines), (0, vec![]));
    lines[5] = end([4, 2, 2, 2, 0]);
    let expected = [
        ":6: total_steps is 4, counted 5",
        ":6: total_tool_calls is 2, counted 1",
        ":6: total_audit_checkpoints is 2, counted 3",
        ":6: audits_passed is 2, counted 1",
        ":6: audits_failed is 0, counted 1",
    ];
    assert_eq!(said_of(&lines), (1, expected.iter().map(|&line| line.to_owned()).collect()));
}

#[test]
fn what_is_allowed_and_seldom_meant_is_a_warning() {
    let with = |line: String, fields: Value| {
        let mut event: Value = serde_json::from_str(&line).expect("JSON");
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        event.to_string()
    };
    let checks = json!([
        {"cmd": "lint", "rc": 0, "duration_s": 1, "tail": "all well"},
        {"cmd": "test", "rc": 1, "duration_s": 1, "tail": "x".repeat(4097)},
    ]);
    let lines = vec![
        start(1),
        event("deploy", json!({})),
        with(moves("a", "pending", "ready"), json!({"attempt": 1})),
        runs("a", 1),
        with(attempt("a", 1, &[1]), json!({"backoff_s": 0, "done_when_results": checks})),
        attempt("a", 3, &[1]),
        moves("a", "running", "done"),
        event("heartbeat", json!({"note": "x".repeat(64 * 1024)})),
        with(end("clean", [1, 0, 0]), json!({"exit_code": 0})),
    ];
    let (code, said) = said_of(&lines);
    let expected = [
        ":2: warning: unknown event: deploy",
        ":3: warning: attempt with a move to ready; only one to running has it",
        ":5: warning: backoff_s on attempt 1; nothing was waited for",
        ":5: warning: tail of `lint`, which exited 0; it is left out then",
        ":5: warning: tail of `test` over 4096 characters",
        ":6: warning: attempt 3 of node a comes after attempt 1",
        ":7: warning: node a is done, but its last attempt failed",
        ":8: warning: line of 65613 bytes; emitters keep to 64 KiB",
        ":9: warning: exit_code is 0; it is left out then",
    ];
    assert_eq!((code, said), (0, expected.iter().map(|&line| line.to_owned()).collect()));
}

#[test]
fn each_fault_of_a_graph_is_named() {
    let said = |text: &str| {
        let archive = Archive::new();
        archive.write("r1", "graph.json", text);
        let (code, mut said) = archive.validate();
        said.pop();
        (code, said.into_iter().map(|line| line.replace("runs/r1/graph.json: ", "")).collect::<Vec<_>>())
    };
    for (text, expected) in [
        ("[]".to_owned(), "graph.json is not one JSON object: it is another JSON value"),
        (
            "{\"version\": 1".to_owned(),
            "graph.json is not one JSON object: EOF while parsing an object at line 1 column 13",
        ),
        (graph(&[]).replace(":1", ":2"), "version is not 1"),
        (graph(&[("a", &["a"])]), "node a depends on a, which closes a cycle"),
        (graph(&[("a", &["b"]), ("b", &["a"])]), "node b depends on a, which closes a cycle"),
        (graph(&[("a", &["nobody"])]), "node a depends on nobody, which is not in the graph"),
        (graph(&[("a", &[]), ("a", &[])]), "node id a stands twice"),
        (graph(&[("A", &[])]), "node 1 has no valid id"),
        (graph(&[("a", &[])]).replace("[\"check\"]", "[]"), "node a has no done_when command"),
        (graph(&[("a", &[])]).replace("\"touches\":[]", "\"touches\":7"), "node a has no valid touches"),
    ] {
        assert_eq!(said(&text), (1, vec![expected.to_owned()]), "{text}");
    }
    let many = json!({"version": 1, "nodes": vec![0; 10_001]}).to_string();
    assert_eq!(said(&many).1, ["graph.json has more than 10,000 nodes"]);
    let large = format!("{{\"version\":1,\"nodes\":[],\"x\":\"{}\"}}", "x".repeat(8 * 1024 * 1024));
    assert_eq!(said(&large).1, ["graph.json is over 8 MiB"]);
}

#[test]
fn a_node_that_the_graph_lacks_stands_at_its_first_line() {
    let archive = Archive::new();
    archive.write("r1", "graph.json", graph(&[("b", &[])]));
    archive.write("r1", "transitions.jsonl", log(&[[vec![start(2)], done("b"), done("a")].concat(), vec![]].concat()));
    let expected = vec![
        "runs/r1/transitions.jsonl:6: node a is not in the graph".to_owned(),
        "1 run, 9 lines: 1 fault".to_owned(),
    ];
    assert_eq!(archive.validate(), (1, expected));
}

#[test]
fn summary_json_says_what_the_log_shows() {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", log(&clean()));
    let said = |field: &str, value: Option<Value>| {
        let mut summary = summary();
        match value {
            Some(value) => summary[field] = value,
            None => {
                summary.as_object_mut().expect("an object").remove(field);
            }
        }
        archive.write("r1", "summary.json", summary.to_string());
        let (code, mut said) = archive.validate();
        said.pop();
        (code, said.join("\n").replace("runs/r1/summary.json: ", ""))
    };
    let fault = |said: &str| (1, said.to_owned());
    let ts = "2026-04-24T10:00:00.000Z";
    assert_eq!(said("run_id", Some(json!("r2"))), fault("run_id is \"r2\", the log shows r1"));
    assert_eq!(said("started", Some(json!(1))), fault(&format!("started is 1, the log shows {ts}")));
    assert_eq!(said("ended", None), fault(&format!("no ended; the log shows {ts}")));
    assert_eq!(said("duration_s", Some(json!(2.5009))), (0, String::new()), "within a thousandth");
    assert_eq!(said("duration_s", Some(json!(2.502))), fault("duration_s is 2.502, the log shows 2.5"));
    assert_eq!(said("outcome", Some(json!("partial"))), fault("outcome is \"partial\", the log shows clean"));
    for (field, counted) in
        [("total_nodes", 1), ("done", 1), ("failed", 0), ("blocked", 0), ("total_attempts", 1), ("flake_retries", 0)]
    {
        assert_eq!(said(field, Some(json!(7))), fault(&format!("{field} is 7, the log shows {counted}")));
        assert_eq!(said(field, None), fault(&format!("no {field}; the log shows {counted}")));
    }
    assert_eq!(said("exit_code", None), (0, String::new()), "absent it is 0");
    assert_eq!(said("exit_code", Some(json!(1))), fault("exit_code is 1, the log shows 0"));
    assert_eq!(said("failed_nodes", Some(json!(["a"]))), fault("failed_nodes is [\"a\"], the log shows []"));
    assert_eq!(said("node_attempts", Some(json!({"a": 2, "b": 0}))), fault("node_attempts of a is 2, the log shows 1"));
    assert_eq!(said("node_attempts", Some(json!({}))), fault("node_attempts of a is left out, the log shows 1"));
    assert_eq!(said("node_attempts", Some(json!({"a": 1, "b": 1}))), fault("node_attempts of b is 1, the log shows 0"));
    let failed = [clean()[..5].to_vec(), vec![clean()[5].replace('}', r#","exit_code":3}"#)]].concat();
    archive.write("r1", "transitions.jsonl", log(&failed));
    assert_eq!(said("exit_code", None), fault("no exit_code; the log shows 3"));
    assert_eq!(said("exit_code", Some(json!(3))), (0, String::new()));
    archive.write("r1", "summary.json", "[1]");
    assert_eq!(archive.validate().1[0], "runs/r1/summary.json: summary.json is not a JSON object");
    archive.write("r1", "summary.json", summary().to_string());
    archive.write("r1", "transitions.jsonl", log(&clean()[..5]));
    let said = "runs/r1/summary.json: summary.json stands here, but the log has no end event";
    assert_eq!(archive.validate().1[0], said);
}

#[test]
fn failed_nodes_are_a_set_and_nodes_without_attempts_are_left_out() {
    let archive = Archive::new();
    let mut lines = vec![start(3)];
    for node in ["b", "a"] {
        lines.extend([
            moves(node, "pending", "ready"),
            runs(node, 1),
            attempt(node, 1, &[1]),
            moves(node, "running", "failed"),
        ]);
    }
    lines.extend([moves("c", "pending", "blocked"), end("stuck", [0, 2, 1])]);
    archive.write("r1", "transitions.jsonl", log(&lines));
    let mut said = summary();
    let fields = json!({"outcome": "stuck", "total_nodes": 3, "done": 0, "failed": 2, "blocked": 1, "total_attempts": 2,
                        "failed_nodes": ["a", "b"], "node_attempts": {"a": 1, "b": 1}});
    said.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    for order in [json!(["a", "b"]), json!(["b", "a"])] {
        said["failed_nodes"] = order;
        archive.write("r1", "summary.json", said.to_string());
        assert_eq!(archive.validate(), (0, vec!["1 run, 11 lines: no faults".to_owned()]));
    }
}

#[test]
fn of_many_faults_of_one_graph_the_first_are_told_and_all_are_counted() {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", log(&clean()));
    archive.write("r1", "graph.json", graph(&[("a", &["ghost"; 1500])]));
    let (code, mut said) = archive.validate();
    assert_eq!((code, said.pop()), (1, Some("1 run, 6 lines: 1500 faults".to_owned())));
    let more = said.pop();
    assert_eq!(more.as_deref(), Some("runs/r1/graph.json: 1400 more faults beside those that are told one by one"));
    assert_eq!(said, vec!["runs/r1/graph.json: node a depends on ghost, which is not in the graph"; 100]);
}

#[test]
fn links_and_strange_files_are_told_and_not_opened() {
    let archive = Archive::new();
    let log = archive.write("r1", "transitions.jsonl", log(&clean()));
    let elsewhere = archive.0.path().join("elsewhere");
    std::fs::rename(&log, &elsewhere).expect("a move");
    std::os::unix::fs::symlink(&elsewhere, &log).expect("a link");
    let runs = archive.0.path().join("runs");
    std::os::unix::fs::symlink(&runs, runs.join("r0")).expect("a link");
    std::fs::create_dir(runs.join("r1/graph.json")).expect("a folder");
    std::fs::create_dir(runs.join("my run")).expect("a folder");
    std::fs::write(runs.join("notes"), "").expect("a file");
    let left_out = "warning: not a run folder: it is a link or a file, or its name is no run_id; it is left out";
    let expected = vec![
        format!("runs/my run: {left_out}"),
        format!("runs/notes: {left_out}"),
        format!("runs/r0: {left_out}"),
        "runs/r1/graph.json: a link or no regular file; it is not opened".to_owned(),
        "runs/r1/transitions.jsonl: a link or no regular file; it is not opened".to_owned(),
        "1 run, 0 lines: 2 faults, 3 warnings".to_owned(),
    ];
    assert_eq!(archive.validate(), (1, expected));
}

#[test]
fn a_run_folder_and_a_log_can_be_named() {
    let archive = Archive::new();
    let mut lines = clean();
    lines[2] = "{}".into();
    let path = archive.write("r1", "transitions.jsonl", log(&lines));
    archive.write("r2", "transitions.jsonl", "x\n");
    let (code, said) = validate(path.parent().expect("a folder"), archive.0.path());
    assert_eq!((code, said[0].as_str()), (1, "runs/r1/transitions.jsonl:3: no valid ts"));
    assert!(said.last().is_some_and(|total| total.starts_with("1 run, 6 lines: ")), "{said:?}");
    let (code, of_log) = validate(&path, archive.0.path());
    assert_eq!((code, &of_log), (1, &said));
    // Where an archive keeps it, the folder names the run; anywhere else its first event does.
    let foreign = archive.write("r3", "transitions.jsonl", log(&clean()));
    assert_eq!(
        validate(&foreign, archive.0.path()).1[0],
        "runs/r3/transitions.jsonl:1: run_id differs from the folder's"
    );
    let alone = archive.0.path().join("events.log");
    std::fs::write(&alone, format!("\n{}", log(&clean()))).expect("a file");
    assert_eq!(validate(&alone, archive.0.path()).1, ["events.log:1: empty line", "1 run, 7 lines: 1 fault"]);
    // The graph beside a log tells which nodes there are.
    archive.write("r1", "transitions.jsonl", log(&clean()));
    archive.write("r1", "graph.json", graph(&[("a", &[]), ("b", &[])]));
    let expected = [
        "runs/r1/transitions.jsonl:1: total_nodes is 1, counted 2",
        "runs/r1/transitions.jsonl:6: outcome is clean, but its nodes show partial",
        "1 run, 6 lines: 2 faults",
    ];
    assert_eq!(validate(&path, archive.0.path()).1, expected);
}

#[test]
fn json_is_one_object_a_finding_and_one_that_counts() {
    let archive = Archive::new();
    let path = archive.write("r1", "transitions.jsonl", "{}\n");
    let root = archive.0.path().to_str().expect("a path");
    let output = run(&["validate", root, "--json"], &[]);
    let said: Vec<Value> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let expected = [
        json!({"severity": "fault", "code": "skipped_line", "file": path.display().to_string(), "line": 1, "reason": "no valid ts"}),
        json!({"ok": false, "runs": 1, "lines": 1, "faults": 1, "warnings": 0}),
    ];
    assert_eq!(said, expected);
    assert_eq!(output.status.code(), Some(1));
    // The variable does what the flag does.
    let output = run(&["validate", root], &[("KAHN_JSON", "true")]);
    assert!(output.stdout.starts_with(b"{"));
}

#[test]
fn mistakes_of_usage_are_exit_code_2() {
    let archive = Archive::new();
    let root = archive.0.path().to_str().expect("a path");
    let none = format!("{root}/none");
    for (args, said) in [
        (vec!["validate"], "required arguments were not provided"),
        (vec!["validate", &none, root], "none does not exist; give the path of an archive or of a run folder"),
        (vec!["validate", root], "is neither an archive (a folder with runs/) nor a run folder"),
        (vec!["validate", "/dev/null"], "is not a folder"),
    ] {
        let output = run(&args, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn control_characters_of_a_log_do_not_steer_the_terminal() {
    let (_, said) = said_of(&[start(1), event("\u{1b}[2Jdeploy", json!({}))]);
    assert_eq!(said, [":2: warning: unknown event: \u{fffd}[2Jdeploy"]);
}

/// `kahn validate ... | head -1`: the reader goes away, and that is no panic.
#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let archive = Archive::new();
    archive.write("r1", "transitions.jsonl", "{}\n".repeat(200_000));
    let mut child = kahn(&["validate", archive.0.path().to_str().expect("a path")], &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
    assert!(first.ends_with("transitions.jsonl:1: no valid ts\n"), "{first}");
    let status = wait_for("validate to end", || child.try_wait().expect("a child"));
    let mut stderr = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut stderr).expect("text");
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""));
}
