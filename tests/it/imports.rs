//! Which room may use which other room, held against the source. ARCHITECTURE.md says what each room is for; the table
//! here is the whole of what it may import from kahn, and a few words that must never stand in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A room of src, the rooms that it may use besides itself, and words that never stand in it.
struct Room {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const fn room(name: &'static str, may_use: &'static [&'static str], never: &'static [&'static str]) -> Room {
    Room { name, may_use, never }
}

const EVERYTHING: &[&str] = &[
    "archive_reader",
    "backend",
    "config",
    "contract",
    "domain",
    "http",
    "insight",
    "live",
    "memory",
    "metrics",
    "reduce",
    "services",
    "ui",
];

#[rustfmt::skip]
const ROOMS: &[Room] = &[
    room("domain",         &[],                                                  &["actix", "tokio", "std::fs", "SystemTime"]),
    room("reduce",         &["domain"],                                          &["actix", "tokio", "std::fs", "SystemTime", "async"]),
    room("insight",        &["domain", "reduce"],                                &["actix", "tokio", "std::fs", "SystemTime", "async"]),
    room("archive_reader", &["domain"],                                          &["actix", "tokio", "async", "WRONLY", "RDWR", "CREATE"]),
    room("contract",       &["domain", "reduce"],                                &["actix", "tokio_postgres", "openidconnect"]),
    room("config",         &[],                                                  &["actix", "tokio", "tokio_postgres"]),
    room("backend",        &[],                                                  &["actix"]),
    room("backend/oss",    &["archive_reader", "config", "contract", "domain", "reduce"], &["actix", "tokio_postgres", "openidconnect"]),
    room("backend/cloud",  &["config", "contract", "domain", "reduce"],          &["actix", "transitions.jsonl"]),
    room("memory",         &["config", "contract", "domain", "insight", "reduce", "live", "services"], &["actix", "tokio_postgres", "unbounded_channel"]),
    room("live",           &["config", "contract", "domain", "insight", "reduce", "memory", "services"], &["actix", "tokio_postgres", "unbounded_channel"]),
    room("metrics",        &[],                                                  &["actix", "tokio", "async", "unbounded_channel"]),
    room("services",       &["config", "contract", "domain", "insight", "reduce", "live", "memory", "metrics"], &["actix", "tokio_postgres", "unbounded_channel"]),
    room("http",           &["config", "contract", "domain", "insight", "live", "memory", "metrics", "reduce", "services", "ui"], &["tokio_postgres", "std::env", "std::fs"]),
    room("ui",             &[],                                                  &["actix", "tokio"]),
    room("cli",            EVERYTHING,                                           &[]),
];

/// The only files that may look at a feature; Cargo.toml declares them.
const SWITCHES: &[&str] = &["src/backend/mod.rs", "tests/it/backend/mod.rs"];
const MOST_LINES: usize = 800;
const MOST_LINES_OF_MAIN: usize = 30;

#[test]
fn rooms_use_only_what_the_table_allows() {
    let mut breaches = Vec::new();
    for (file, text) in sources("src") {
        let Some(name) = room_of(&file) else { continue };
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            breaches
                .push(format!("{file}: {name} is no room of the table in {}; add it with what it may use", file!()));
            continue;
        };
        let code = code_of(&text);
        for used in rooms_used(&code).difference(&BTreeSet::from([room.name.to_owned()])) {
            if !room.may_use.contains(&used.as_str()) {
                let allowed = if room.may_use.is_empty() { "nothing".to_owned() } else { room.may_use.join(", ") };
                breaches.push(format!("{file} uses crate::{used}; of kahn, {name} may use {allowed}"));
            }
        }
        for word in room.never.iter().filter(|word| has_word(&code, word)) {
            breaches.push(format!("{file} has `{word}`, which never stands in {name}"));
        }
        for line in code.lines().filter(|line| leaves_by_super(&file, line)) {
            breaches.push(format!("{file}: `{}` leaves the room; write it with crate::", line.trim()));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn only_the_switch_looks_at_a_feature() {
    // Put together here, so that this file does not hold what it looks for.
    let [look, variable] = [["fea", "ture="].concat(), ["CARGO_", "FEATURE"].concat()];
    let mut files = sources("src");
    files.extend(sources("tests"));
    files.push(("build.rs".into(), read(&root().join("build.rs"))));
    let looking: BTreeSet<String> = files
        .into_iter()
        .filter(|(_, text)| {
            let text: String = text.split_whitespace().collect();
            text.contains(&look) || text.contains(&variable)
        })
        .map(|(file, _)| file)
        .collect();
    let switches: BTreeSet<String> = SWITCHES.iter().map(|&file| file.to_owned()).collect();
    assert_eq!(looking, switches, "the build is chosen in one place; everything else asks the backend");
}

#[test]
fn files_stay_readable() {
    let mut files = sources("src");
    files.extend(sources("tests"));
    let long = files.iter().filter_map(|(file, text)| {
        let most = if file == "src/main.rs" { MOST_LINES_OF_MAIN } else { MOST_LINES };
        let lines = text.lines().count();
        (lines > most).then(|| format!("{file} has {lines} lines; split it, {most} is the most"))
    });
    let long: Vec<String> = long.collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_look_is_not_blind() {
    let code = code_of(
        "use crate::{alpha::{A, b::C}, beta, gamma as g};\n// crate::comment\nfn f() -> crate::delta::D { crate :: epsilon::e() }\n\
         #[cfg(test)]\nmod tests { use crate::in_tests::T; }\n",
    );
    let used: Vec<String> = rooms_used(&code).into_iter().collect();
    assert_eq!(used, ["alpha", "beta", "delta", "epsilon", "gamma"]);
    assert!(has_word("use tokio::fs", "tokio") && !has_word("use tokio_postgres", "tokio"));
    assert_eq!(room_of("src/backend/cloud/store.rs").as_deref(), Some("backend/cloud"));
    assert_eq!(room_of("src/backend/mod.rs").as_deref(), Some("backend"));
    assert_eq!(room_of("src/config.rs").as_deref(), Some("config"));
    assert!(
        leaves_by_super("src/http/mod.rs", "use super::backend;")
            && leaves_by_super("src/backend/oss/mod.rs", "use super::cloud;")
            && !leaves_by_super("src/http/app.rs", "use super::error;")
            && !leaves_by_super("src/backend/oss/demo/mod.rs", "use super::Options;")
    );
    assert!(sources("src").len() > 20);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder, by its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the package") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, read(&path)));
            }
        }
    }
    found.sort();
    found
}

/// The room that a file belongs to; none for lib.rs and main.rs, which declare and start.
fn room_of(file: &str) -> Option<String> {
    let path = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts = path.split('/');
    let first = parts.next()?;
    match (first, parts.next()) {
        ("lib" | "main", _) => None,
        ("backend", Some(twin @ ("oss" | "cloud"))) => Some(format!("backend/{twin}")),
        _ => Some(first.to_owned()),
    }
}

/// The code without comments and without the unit tests at the end of the file.
fn code_of(text: &str) -> String {
    let without_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    without_tests.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms behind every `crate::` of the code, in `use` lines, grouped or not, and in paths.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let code = code.replace(" :: ", "::");
    let mut used: BTreeSet<String> = code
        .split("crate::")
        .skip(1)
        .flat_map(|after| match after.strip_prefix('{') {
            Some(group) => names_of_group(group),
            None => vec![first_name(after)],
        })
        .collect();
    used.retain(|name| !name.is_empty());
    used
}

/// The first name of each item of `a::{b}, c as d}`.
fn names_of_group(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut items = vec![String::new()];
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => items.push(String::new()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if let Some(item) = items.last_mut().filter(|_| character != ',') {
            item.push(character);
        }
    }
    items.iter().map(|item| first_name(item)).collect()
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part))
}

/// `super` that climbs out of the room: twice anywhere, or once from the file that is the room's root.
fn leaves_by_super(file: &str, line: &str) -> bool {
    let is_root =
        file.matches('/').count() == 1 || room_of(file).is_some_and(|room| file == format!("src/{room}/mod.rs"));
    line.contains("super::super::") || (is_root && line.trim_start_matches("pub ").starts_with("use super::"))
}
