//! What every command has in common, and the small ones: help that names each variable, completions, `kahn mode`, exit
//! codes, readers that go away. Lost, and scripts and deployments are written against guesses.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::backend;
use crate::support::{kahn, run};

/// Stdout of a command that succeeds.
fn said(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = run(args, env);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command line that has a help of its own: kahn, its subcommands, and theirs.
fn all_commands() -> Vec<Vec<String>> {
    let mut found = vec![vec![]];
    let mut at = 0;
    while let Some(command) = found.get(at).cloned() {
        at += 1;
        for name in subcommands(&help(&command)) {
            found.push([command.clone(), vec![name]].concat());
        }
    }
    found
}

fn help(command: &[String]) -> String {
    let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    said(&args, &[])
}

#[test]
fn help_shows_the_variable_of_each_flag() {
    let commands = all_commands();
    for name in ["serve", "push", "validate", "diff", "mode", "completions"] {
        assert!(commands.contains(&vec![name.to_owned()]), "{name} is missing: {commands:?}");
    }
    let mut silent = Vec::new();
    for command in commands {
        let text = help(&command);
        // A flag begins at the left; what is further in goes on with it.
        let mut entries: Vec<String> = Vec::new();
        for line in text.lines().skip_while(|line| *line != "Options:").skip(1) {
            let flag = line.trim_start();
            if flag.starts_with('-') && line.len() - flag.len() <= 6 {
                entries.push(flag.to_owned());
            } else if let Some(entry) = entries.last_mut() {
                entry.push_str(flag);
            }
        }
        assert!(!entries.is_empty(), "{command:?} has no options: {text}");
        let own = entries.into_iter().filter(|entry| !entry.starts_with("-h,") && !entry.starts_with("-V,"));
        silent.extend(own.filter(|entry| !entry.contains("[env:")).map(|entry| (command.clone(), entry)));
        silent.retain(|(_, entry)| !entry.contains("KAHN_"));
    }
    assert!(silent.is_empty(), "flags without a variable: {silent:#?}");
}

/// The names behind each `[env: NAME=` of every help, and those that have no flag.
fn variables() -> Vec<String> {
    let helps: String = all_commands().iter().map(|command| help(command)).collect();
    // Where help breaks a line matters to nobody here.
    let helps = helps.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names: Vec<String> =
        helps.split("[env: ").skip(1).filter_map(|rest| Some(rest.split_once(['=', ']'])?.0.to_owned())).collect();
    names.extend(["KAHN_KEY".to_owned(), "KAHN_LOG".to_owned()]);
    names.sort();
    names.dedup();
    names
}

/// Manifests write a variable that has no value so. Taken for a value, it is refused with words about a flag that nobody
/// typed.
#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let names = variables();
    for name in ["KAHN_BIND", "KAHN_JSON", "KAHN_KEY_FILE", "KAHN_MODE", "KAHN_STALL_AFTER", "KAHN_TO"] {
        assert!(names.iter().any(|known| known == name), "{name} is missing: {names:?}");
    }
    let empty: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let mut lines: Vec<Vec<String>> =
        [&["mode"][..], &["mode", "--json"], &["--version"], &["validate", data], &["push", data], &["diff", "a", "b"]]
            .iter()
            .map(|args| args.iter().map(|arg| (*arg).to_owned()).collect())
            .collect();
    lines.extend(all_commands().into_iter().map(|command| [command, vec!["--help".to_owned()]].concat()));
    for line in lines {
        let args: Vec<&str> = line.iter().map(String::as_str).collect();
        let said = |env: &[(&str, &str)]| {
            let output = run(&args, env);
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
            (output.status.code(), text(output.stdout), text(output.stderr))
        };
        assert_eq!(said(&empty), said(&[]), "{args:?}");
    }
    // The log has a variable and no flag.
    let args = ["push", data, "--to", "http://127.0.0.1:1", "--patience", "1"];
    let told = run(&args, &[("KAHN_LOG", "")]).stderr;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("is asked again and again"), "{told}");
}

#[test]
fn completions_know_every_subcommand() {
    let commands = subcommands(&help(&[]));
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = said(&["completions", shell], &[]);
        for name in &commands {
            assert!(script.contains(name.as_str()), "{shell} does not know {name}");
        }
    }
    let refused = run(&["completions", "tcsh"], &[]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    assert!(words.contains("[possible values: bash, elvish, fish, powershell, zsh]"), "{words}");
}

/// bash itself completes with it, so that the script is more than text.
#[test]
fn bash_completes_a_subcommand() {
    let script = said(&["completions", "bash"], &[]);
    let ask =
        format!("{script}\nCOMP_WORDS=(kahn vali); COMP_CWORD=1; _kahn kahn vali kahn; echo \"${{COMPREPLY[@]}}\"");
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "validate\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mode_says_what_this_binary_is() {
    let text = said(&["mode"], &[]);
    let first = text.lines().next().expect("a line");
    assert!(first.starts_with(&format!("kahn {} ({}), commit ", env!("CARGO_PKG_VERSION"), backend::MODE)), "{text}");
    let env = [("KAHN_BIND", "127.0.0.1:9999"), ("KAHN_STALL_AFTER", "60"), ("KAHN_AGENT_VIEWS", "off")];
    let view: Value = serde_json::from_str(&said(&["mode", "--json"], &env)).expect("JSON");
    let keys: Vec<&String> = view.as_object().expect("an object").keys().collect();
    for key in ["name", "version", "commit", "mode", "bind", "storage", "auth", "tenancy", "limits", "boot_checks"] {
        assert!(keys.iter().any(|name| *name == key), "{key} is missing: {keys:?}");
    }
    assert_eq!(view["mode"], backend::MODE);
    assert_eq!(view["bind"], "127.0.0.1:9999");
    assert_eq!((&view["stall_after_s"], &view["agent_views"]), (&60.into(), &false.into()));
    assert_eq!(view["limits"]["batch_events"], 10_000);
    assert!(view["boot_checks"].as_array().is_some_and(|checks| checks.len() >= 3), "{view}");
    assert!(said(&["mode"], &env).contains("\nagents      hidden\nstalled     after 60 s of silence\n"));
    // A flag wins over its variable, as it does for serve.
    let view: Value = serde_json::from_str(&said(&["mode", "--json", "--bind", "127.0.0.1:7"], &env)).expect("JSON");
    assert_eq!(view["bind"], "127.0.0.1:7");
}

/// What serve would refuse is told, and is no failure of the question.
#[test]
fn mode_tells_what_would_be_refused() {
    let env = [("KAHN_STALL_AFTER", "soon")];
    let view: Value = serde_json::from_str(&said(&["mode", "--json"], &env)).expect("JSON");
    let told = view["mistakes"].to_string();
    assert!(told.contains("--stall-after (KAHN_STALL_AFTER) is \\\"soon\\\""), "{told}");
    assert!(said(&["mode"], &env).contains("would refuse to start:\n"), "people see it too");
}

/// A pipe whose reader is gone before anything is written.
#[test]
fn a_reader_that_went_away_is_no_panic() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let none = format!("{data}/none");
    for args in [
        &["--help"][..],
        &["--version"],
        &["mode"],
        &["mode", "--json"],
        &["completions", "zsh"],
        &["validate", data],
        &["push", data, "--to", "http://127.0.0.1:1", "--patience", "0"],
        &["validate", &none],
    ] {
        let mut child =
            kahn(args, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(matches!(output.status.code(), Some(0..=2)), "{args:?}: {:?}", output.status);
    }
}
