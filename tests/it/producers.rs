//! What the emitters of producers/python write, read by kahn. If these fail, a producer that does all as it is told has
//! lines that no page shows, or figures that its own end event does not say. `tests/producers` tests them alone.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kahn::domain::{LineSplitter, MAX_LINE_BYTES, Piece, parse_line};
use serde_json::Value;

use crate::backend;
use crate::schema::Schema;
use crate::support::{run, wait_for};

/// A Python process with the emitters at hand, as `ci` and `agents`, and the archive as `archive`.
fn python(archive: &Path, script: &str) -> Child {
    let head = "import sys\nsys.dont_write_bytecode = True\nsys.path.insert(0, sys.argv[1])\n\
                import kahn_emit as ci, kahn_agent_emit as agents\narchive = sys.argv[2]\n";
    Command::new("python3")
        .args(["-c", &format!("{head}{script}"), concat!(env!("CARGO_MANIFEST_DIR"), "/producers/python")])
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts")
}

fn emit(archive: &Path, script: &str) {
    assert!(python(archive, script).wait().expect("it ends").success());
}

fn log(archive: &Path, run_id: &str) -> Vec<u8> {
    std::fs::read(archive.join("runs").join(run_id).join("transitions.jsonl")).expect("a log")
}

/// Every line of a log as kahn reads it; a torn last one is left out.
fn lines(log: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    LineSplitter::default().push(log, |piece, _, _| match piece {
        Piece::Line(line) => lines.push(line.to_vec()),
        Piece::TooLong => panic!("a line over {MAX_LINE_BYTES} bytes"),
    });
    lines
}

const STORY: &str = r#"
node = lambda id, needs, *checks, **more: {"id": id, "deliverable": "", "depends_on": needs, "touches": [], "done_when": checks, **more}
counter = archive + ".count"
plan = {"version": 1, "nodes": [
    node("flaky", [], f"echo x >> {counter}; test $(wc -l < {counter}) -ge 3"),
    node("big", [], *[f"seq {at} 99999 | head -c 9000; exit 1" for at in range(1, 3)], max_ralph_iters=2),
    node("behind", ["big"], "true"),
    node("last", ["flaky"], "true"),
]}
with ci.Run(archive, "walked", plan, parent={"run_id": "up", "node_id": "n", "attempt": 1}, max_backoff_s=0, echo=False) as run:
    run.audit("audit:plan", "pass", 0.25, {"n": 1})
    run.heartbeat()
    run.walk(lambda attempt: setattr(attempt, "usage", {"input_tokens": 10, "cost_usd": 0.5}), jobs=2)

try:
    with ci.Run(archive, "broke", plan, echo=False) as run:
        with run.node("flaky"):
            raise RuntimeError
except RuntimeError:
    pass

log = ci.Log(archive, "cut")
log.emit("run_start", total_nodes=1)
for step in ("pending", "ready"), ("ready", "running"):
    log.emit("node_transition", node_id="a", **{"from": step[0]}, to=step[1], attempt=1 if step[1] == "running" else None)
checks = [{"cmd": f"check {at} \ud800", "rc": 1, "duration_s": 0, "tail": "\U0001f600\n\x00é" * 2000} for at in range(40)]
log.emit("node_attempt", node_id="a", attempt=1, duration_s=0, converged=False, done_when_results=checks)
log.emit("node_transition", node_id="a", **{"from": "running"}, to="failed", reason="max_ralph_iters_reached")
log.emit("run_end", outcome="stuck", done=0, failed=1, blocked=0, total_duration_s=0)

with agents.AgentRun(archive, "agent", "coder", "mend it", model="m", parent={"run_id": "walked", "node_id": "big"}) as agent:
    with agent.tool("grep", "x") as call:
        call.output = "y" * 100_000
    agent.audit("audit:x", "fail", 0.1, {"files": 2})
    agent.think(usage={"output_tokens": 5})
    with agent.tool("cargo test") as call:
        call.error = "exit 101"
    agent.end("converged", score=0.75)
"#;

#[test]
fn what_the_emitters_write_is_without_fault_and_served_as_it_happened() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("archive");
    emit(&archive, STORY);

    let output = run(&["validate", archive.to_str().expect("a path")], &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.lines().count() == 1 && said.ends_with("lines: no faults\n"), "{said}");
    let (events, graphs) = (Schema::load("event"), Schema::load("graph"));

    let kitchen = backend::empty();
    for run_id in ["walked", "broke", "cut", "agent"] {
        let log = log(&archive, run_id);
        for line in lines(&log) {
            let value: Value = serde_json::from_slice(&line).expect("JSON");
            assert!(events.takes(&value) && line.len() < 64 * 1024, "{value}");
        }
        let graph = std::fs::read(archive.join("runs").join(run_id).join("graph.json"));
        assert_eq!(graph.is_ok(), ["walked", "broke"].contains(&run_id));
        if let Ok(graph) = graph {
            assert!(graphs.takes(&serde_json::from_slice(&graph).expect("JSON")));
            assert_eq!(kitchen.put(&format!("/v1/ingest/runs/{run_id}/graph"), &graph).status, 201);
        }
        let answer = kitchen.post("/v1/ingest/transitions", &log);
        assert_eq!((answer.status, &answer.json()["warnings"]), (200, &Value::Array(Vec::new())), "{}", answer.text());
    }

    let state = |run_id: &str| kitchen.get(&format!("/api/runs/{run_id}")).json();
    let walked = state("walked");
    assert_eq!(walked["outcome"], "partial");
    assert_eq!(walked["parent"]["run_id"], "up");
    assert_eq!((&walked["nodes"]["done"], &walked["nodes"]["blocked"]), (&2.into(), &1.into()));
    assert_eq!((&walked["total_attempts"], &walked["flake_retries"]), (&6.into(), &2.into()));
    assert_eq!((&walked["usage"]["input_tokens"], &walked["usage"]["cost_usd"]), (&60.into(), &3.0.into()));
    assert_eq!(walked["flaky_nodes"], serde_json::json!(["flaky"]));
    assert_eq!(walked["first_failure"]["node_id"], "big");
    assert_eq!(state("broke")["outcome"], "catastrophic");
    assert_eq!(state("cut")["nodes"]["failed"], 1);
    let agent = state("agent");
    assert_eq!((&agent["outcome"], &agent["convergence_score"]), (&"converged".into(), &0.75.into()));
    assert_eq!((&agent["steps"], &agent["tool_calls"]["failed"]), (&2.into(), &1.into()));
    assert_eq!(agent["agent"]["status"], "converged");
}

#[test]
fn eight_processes_append_to_one_log_and_kahn_keeps_every_line_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = |who: usize| {
        format!(
            "log = ci.Log(archive, 'r')\nfor at in range(100):\n    log.emit('note', who={who}, at=at, text='é' * (at * 997 % 31_000))\n"
        )
    };
    let children: Vec<Child> = (0..8).map(|who| python(folder.path(), &script(who))).collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    let log = log(folder.path(), "r");
    assert_eq!(log.last(), Some(&b'\n'));
    let mut next = [0_u64; 8];
    for line in lines(&log) {
        parse_line(&line).unwrap_or_else(|reason| panic!("{reason}: {}", String::from_utf8_lossy(&line)));
        let value: Value = serde_json::from_slice(&line).expect("JSON");
        let who = usize::try_from(value["who"].as_u64().expect("who")).expect("one of eight");
        assert_eq!(value["at"], next[who], "the lines of {who}, in order");
        next[who] += 1;
    }
    assert_eq!(next, [100; 8]);
}

#[test]
fn a_killed_producer_leaves_a_log_that_is_whole_but_for_its_last_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "run = ci.Run(archive, 'r', total_nodes=1)\nprint('begun', flush=True)\n\
                  while True:\n    run.emit('note', text='x' * 50_000)\n";
    let mut child = python(folder.path(), script);
    let mut said = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut said).expect("a line");
    assert_eq!(said, "begun\n");
    wait_for("some lines", || (log(folder.path(), "r").len() > 2_000_000).then_some(()));
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    let log = log(folder.path(), "r");
    let lines = lines(&log);
    assert!(lines.len() > 30, "{} lines", lines.len());
    for line in &lines {
        parse_line(line).unwrap_or_else(|reason| panic!("{reason}"));
    }
    let output = run(&["validate", folder.path().to_str().expect("a path")], &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // The event's name is this test's own.
    let faults =
        said.lines().filter(|line| line.contains("transitions.jsonl:") && !line.contains("unknown event: note"));
    let torn = log.last() != Some(&b'\n');
    assert_eq!(faults.count(), usize::from(torn), "{said}");
}

#[test]
fn the_command_line_of_the_emitter_says_how_the_run_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("plan.json");
    let node = |id: &str, check: &str| serde_json::json!({"id": id, "deliverable": "", "depends_on": [], "touches": [], "done_when": [check], "max_ralph_iters": 1});
    for (run_id, check, code) in [("good", "true", 0), ("bad", "exit 9", 1)] {
        let text = serde_json::json!({"version": 1, "nodes": [node("a", "echo live"), node("b", check)]}).to_string();
        std::fs::write(&plan, text).expect("a plan");
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/producers/python/kahn_emit.py"))
            .args(["run", &plan.display().to_string(), "--run-id", run_id, "--archive"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{said}");
        assert!(said.contains("\nlive\n"), "{said}");
    }
    let output = run(&["validate", folder.path().to_str().expect("a path")], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
