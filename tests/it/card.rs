//! The questions of the first slice that a person would try at once: may this binary be told to be the other one, and
//! can a container of it be reached from another machine? (What cloud says without a DSN stands with the cloud twin.)

use std::path::Path;

use crate::support::run;

/// The mode that the binary says it is, and the other one.
fn modes() -> (String, &'static str) {
    let said = String::from_utf8(run(&["--version"], &[]).stdout).expect("text");
    let own = said.trim_end().strip_suffix(')').and_then(|said| said.split_once(" (")).expect("kahn VERSION (MODE)").1;
    let other = ["oss", "cloud"].into_iter().find(|mode| *mode != own).expect("there are two");
    (own.to_owned(), other)
}

/// Exit code and stderr.
fn refused(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(args, env);
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_binary_of_the_other_mode_refuses_to_start() {
    let (own, other) = modes();
    let sentence = |source: &str| {
        format!(
            "error: {source} is {other}, but this binary is the {own} build; build the other one: cargo install kahn --features {other}\n"
        )
    };
    let variable = [("KAHN_MODE", other)];
    assert_eq!(refused(&["--mode", other], &[]), (Some(2), sentence("--mode")));
    assert_eq!(refused(&["serve", "--mode", other], &[]), (Some(2), sentence("--mode")));
    assert_eq!(refused(&[], &variable), (Some(2), sentence("KAHN_MODE")));
    // Each one given must fit; every mistake is told at once.
    assert_eq!(refused(&["--mode", other], &variable), (Some(2), sentence("--mode") + &sentence("KAHN_MODE")));
    assert_eq!(refused(&["--mode", &own], &variable), (Some(2), sentence("KAHN_MODE")));
    let no_mode = format!(
        "error: --mode is \"postgres\", which is no mode; this binary is the {own} build: set --mode to {own}\n"
    );
    assert_eq!(refused(&["--mode", "postgres"], &[]), (Some(2), no_mode));
}

#[test]
fn stating_the_own_mode_changes_nothing() {
    let (own, _) = modes();
    // Behind the check of the mode: a command that refuses for a reason of its own.
    let push = ["push", "/nonexistent", "--to", "http://127.0.0.1:1"];
    let sentence = "error: /nonexistent does not exist; give the path of an archive or of a run folder\n";
    let with_flag: Vec<&str> = push.into_iter().chain(["--mode", &own]).collect();
    assert_eq!(refused(&push, &[]), (Some(2), sentence.into()));
    assert_eq!(refused(&with_flag, &[("KAHN_MODE", &own)]), (Some(2), sentence.into()));
}

/// The container binds to all of its own addresses, so the host's side of the port is the wall.
#[test]
fn compose_publishes_on_loopback_alone() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose.yaml");
    let text = std::fs::read_to_string(&path).expect("compose.yaml");
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let is_port =
        |line: &str| line.chars().all(|character| character.is_ascii_digit() || "-. :/\"".contains(character));
    let ports: Vec<&str> = lines().filter(|line| line.starts_with('-') && line.len() > 1 && is_port(line)).collect();
    assert_eq!(ports, [r#"- "127.0.0.1:8080:8080""#, r#"- "127.0.0.1:8081:8080""#]);
    for widens in ["network_mode", "privileged", "expose:"] {
        assert!(!lines().any(|line| line.contains(widens)), "{widens} goes around the published port");
    }
    assert_eq!(lines().filter(|line| *line == "ports:").count(), ports.len());
    assert!(lines().any(|line| line == "KAHN_MODE: oss"), "the deployment states the mode that it expects");
}
