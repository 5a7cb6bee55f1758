//! `kahn diff`, black box: a folder and a server give the same words, and the exit code is that of a gate. Lost, and a
//! pipeline passes what it should stop, or stops for a typing mistake.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use crate::backend;
use crate::support::{Kitchen, run};

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

fn samples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").display().to_string()
}

/// The comparison of two sample runs, read from the folder.
fn of_folder(runs: [&str; 2], more: &[&str]) -> (i32, String, String) {
    let samples = samples();
    let mut args = vec!["diff", runs[0], runs[1], "--archive", &samples];
    args.extend(more);
    told(&run(&args, &[]))
}

/// The same, asked of a server.
fn of_server(kitchen: &Kitchen, runs: [&str; 2], more: &[&str]) -> (i32, String, String) {
    let mut args = vec!["diff", runs[0], runs[1], "--from", &kitchen.server.url];
    args.extend(more);
    let key = kitchen.reader().map(|bearer| bearer.replace("Bearer ", ""));
    let env: Vec<(&str, &str)> = key.iter().map(|key| ("KAHN_KEY", key.as_str())).collect();
    told(&run(&args, &env))
}

const PAIRS: [[&str; 2]; 6] = [
    ["release-317", "release-318"],
    ["release-316", "release-317"],
    ["nightly-0412", "nightly-0413"],
    ["review-55", "fix-api-events-1"],
    ["planned-1", "torn-1"],
    ["hotfix-77", "hotfix-77"],
];

#[test]
fn a_folder_and_a_server_give_the_same_words() {
    let kitchen = backend::with_samples();
    for runs in PAIRS {
        for more in [&[][..], &["--json"], &["--markdown"], &["--fail-on", "regression,new-failure,slower:20%"]] {
            assert_eq!(of_folder(runs, more), of_server(&kitchen, runs, more), "{runs:?} {more:?}");
        }
        // --json is the server's answer, byte for byte.
        let (_, json, _) = of_folder(runs, &["--json"]);
        let answer = kitchen.get(&format!("/api/compare?base={}&head={}", runs[0], runs[1]));
        assert_eq!(json, answer.text() + "\n", "{runs:?}");
    }
}

#[test]
fn what_people_read() {
    let mut pages = String::new();
    for runs in PAIRS {
        for more in [&[][..], &["--markdown"]] {
            let (code, said, warned) = of_folder(runs, more);
            assert_eq!((code, warned.as_str()), (0, ""), "{runs:?}");
            // Whether a silent run counts as stalled is the clock's to say, which a snapshot does not have.
            let said = said.replace("stalled", "live   ");
            pages.push_str(&format!("$ kahn diff {} {}\n{said}\n", runs.join(" "), more.join(" ")));
        }
    }
    insta::assert_snapshot!(pages);
}

#[test]
fn a_gate_fails_on_what_it_was_told_and_on_nothing_else() {
    // (runs, the conditions that hold for them)
    let held = [
        (["release-316", "release-316"], &[][..]),
        (["release-317", "release-318"], &["regression", "new-failure", "slower:20%", "slower:99.9%"]),
        (["release-318", "release-317"], &[]),
        (["release-316", "release-317"], &["regression", "slower:20%"]),
        (["nightly-0413", "nightly-0412"], &["new-failure", "slower:20%"]),
        (["fix-api-events-1", "review-55"], &["regression", "slower:20%", "slower:99.9%"]),
        // Of different kinds: nothing to hold against each other.
        (["triage-201", "hotfix-77"], &[]),
    ];
    let conditions = ["regression", "new-failure", "slower:20%", "slower:99.9%", "slower:1000%"];
    for (runs, held) in held {
        for condition in conditions {
            let (code, said, warned) = of_folder(runs, &["--fail-on", condition]);
            let holds = held.contains(&condition);
            assert_eq!(code, i32::from(holds), "{runs:?} {condition}: {warned}");
            // The page is printed either way, and the reason beside it.
            assert!(said.starts_with("base  "), "{said}");
            assert_eq!(warned.starts_with(&format!("fail-on: {condition}: ")), holds, "{warned}");
        }
        let (code, _, warned) = of_folder(runs, &["--fail-on", &conditions.join(", ")]);
        assert_eq!((code, warned.lines().count()), (i32::from(!held.is_empty()), held.len()), "{warned}");
    }
}

#[test]
fn what_keeps_the_comparison_from_being_made_is_never_a_finding() {
    let missing = "/nonexistent/archive";
    let strange = somebody_else();
    let samples = samples();
    let cases: [(&[&str], &str); 12] = [
        (&["release-317", "nobody", "--archive", &samples], "there is no run nobody in "),
        (&["nobody", "release-317", "--archive", &samples], "there is no run nobody in "),
        (&["release-317", "../data", "--archive", &samples], "HEAD is \"../data\", which is no run_id; "),
        (&["", "release-317", "--archive", &samples], "BASE is \"\", which is no run_id; "),
        (&["a", "b", "--archive", missing], "--archive (KAHN_ARCHIVE): /nonexistent/archive does not exist; "),
        (&["a", "b", "--from", &strange], &format!("{strange} gave an answer that kahn does not give (")),
        (&["a", "b", "--from", "kahn.example.org"], "--from is \"kahn.example.org\", which is no "),
        (&["a", "b", "--from", "https://u:p@kahn.example.org"], "--from holds a user or password; "),
        (&["a", "b", "--fail-on", "slower"], "--fail-on (KAHN_DIFF_FAIL_ON) has \"slower\", which is no condition; "),
        (&["a", "b", "--fail-on", "regression,slower:-1%"], "--fail-on (KAHN_DIFF_FAIL_ON) has \"slower:-1%\", "),
        (&["a", "b", "--fail-on", "slower:1e3%"], "--fail-on (KAHN_DIFF_FAIL_ON) has \"slower:1e3%\", "),
        (
            &["a", "b", "--json", "--markdown"],
            "--json (KAHN_JSON) and --markdown (KAHN_DIFF_MARKDOWN) are both given; ",
        ),
    ];
    for (args, sentence) in cases {
        let args: Vec<&str> = [&["diff"], args].concat();
        let (code, said, warned) = told(&run(&args, &[]));
        assert_eq!((code, said.as_str()), (2, ""), "{args:?}: {warned}");
        assert!(warned.starts_with(&format!("error: {sentence}")), "{args:?}: {warned}");
        assert_eq!(warned.lines().count(), 1, "{args:?}: {warned}");
    }
    let (code, _, warned) = told(&run(&["diff", "release-317"], &[]));
    assert_eq!(code, 2, "{warned}");
}

/// A server that is none of kahn's: it says hello to whoever asks.
fn somebody_else() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut head = BufReader::new(stream.try_clone().expect("the same")).lines().map_while(Result::ok);
            while head.next().is_some_and(|line| !line.is_empty()) {}
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    url
}

#[test]
fn a_server_that_does_not_know_a_run_says_which() {
    let kitchen = backend::with_samples();
    for (runs, side) in [(["nobody", "release-317"], "base"), (["release-317", "nobody"], "head")] {
        let (code, said, warned) = of_server(&kitchen, runs, &["--fail-on", "regression"]);
        assert_eq!((code, said.as_str()), (2, ""), "{warned}");
        assert!(warned.contains(&format!("404 unknown_run: {side}: there is no such run; give run_ids")), "{warned}");
    }
}

/// Commands are anybody's text: nothing in them steers a terminal or breaks a table.
#[test]
fn hostile_commands_stay_in_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let event = |run: &str, fields: &str| {
        format!("{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"{run}\",\"event\":{fields}}}\n")
    };
    for (run, rc) in [("a", 0), ("b", 1)] {
        let moves = |from: &str, to: &str, more: &str| {
            event(run, &format!("\"node_transition\",\"node_id\":\"n\",\"from\":\"{from}\",\"to\":\"{to}\"{more}"))
        };
        let check = format!(r#"{{"cmd":"a|b \u001b[31m`x` ``y``\n| <b>","rc":{rc},"duration_s":1.0}}"#);
        let attempt = format!(
            "\"node_attempt\",\"node_id\":\"n\",\"attempt\":1,\"duration_s\":1.0,\"converged\":{},\"done_when_results\":[{check}]",
            rc == 0
        );
        let log = [
            event(run, "\"run_start\",\"total_nodes\":1"),
            moves("pending", "ready", ""),
            moves("ready", "running", ",\"attempt\":1"),
            event(run, &attempt),
            moves("running", if rc == 0 { "done" } else { "failed" }, ""),
        ];
        let run_folder = folder.path().join("runs").join(run);
        std::fs::create_dir_all(&run_folder).expect("a folder");
        std::fs::write(run_folder.join("transitions.jsonl"), log.concat()).expect("a log");
    }
    let archive = folder.path().display().to_string();
    let (_, text, _) = told(&run(&["diff", "a", "b", "--archive", &archive], &[]));
    assert!(text.contains("\n    newly failing: a|b \u{fffd}[31m`x` ``y``\u{fffd}| <b>\n"), "{text}");
    let (_, markdown, _) = told(&run(&["diff", "a", "b", "--archive", &archive, "--markdown"], &[]));
    let row = markdown.lines().find(|line| line.starts_with("| `n`")).expect("the node's row");
    assert!(row.ends_with("| ``` a\\|b  [31m`x` ``y`` \\| <b> ``` |"), "{row}");
    assert!(!markdown.contains('\u{1b}'));
}
