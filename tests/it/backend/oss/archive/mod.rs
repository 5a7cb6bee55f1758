//! The store of the oss build, asked directly: an archive folder that is watched and written.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod damage;
mod door;
mod foreign;
mod index;
mod ingest;
mod malformed;
mod read;
mod tail;

use std::fs::OpenOptions;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::everything;
use bytes::Bytes;
use clap::Parser;
use futures_util::StreamExt;
use kahn::backend::{Options, select_backend};
use kahn::config::{BootError, Config, Typed};
use kahn::contract::{
    Appended, Backend, GraphPut, ListPosition, ListQuery, Order, Part, Principal, Problems, ReadLimit, RequestFacts,
    Sort, StoreError,
};
use kahn::domain::{LogId, RunId};

/// Long enough for any condition that comes true at all.
const DEADLINE: Duration = Duration::from_secs(30);

/// The options as they are typed.
pub(crate) fn options(arguments: &[&str]) -> Options {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    Line::parse_from(std::iter::once("kahn").chain(arguments.iter().copied())).options
}

/// A configuration that listens on this address.
pub(crate) fn config(bind: &str) -> Config {
    let mut mistakes = Vec::new();
    let typed = Typed { bind: Some(bind.into()), ..Typed::default() };
    let config = Config::check(&typed, &Options::defaults(), &mut mistakes);
    assert_eq!(mistakes, [""; 0]);
    config
}

pub(crate) fn id(run_id: &str) -> RunId {
    RunId::parse(run_id).unwrap()
}

/// A line of this run with this event and further fields.
pub(crate) fn line(run_id: &str, event: &str, fields: &str) -> String {
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"{event}"{fields}}}"#)
}

pub(crate) fn start(run_id: &str) -> String {
    line(run_id, "run_start", r#","total_nodes":2"#)
}

/// A heartbeat that is told from the others by its number.
pub(crate) fn beat(run_id: &str, n: usize) -> String {
    line(run_id, "heartbeat", &format!(r#","n":{n}"#))
}

/// A start event and heartbeats: so many lines.
pub(crate) fn lines(run_id: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| if n == 0 { start(run_id) } else { beat(run_id, n) }).collect()
}

pub(crate) fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub(crate) fn part(run_id: &str, from_seq: u64, lines: &[String]) -> Part {
    Part { run_id: id(run_id), from_seq, lines: lines.iter().map(|line| Bytes::from(line.clone())).collect() }
}

pub(crate) const GRAPH: &str =
    r#"{"version":1,"nodes":[{"id":"a","deliverable":"x","depends_on":[],"touches":[],"done_when":["true"]}]}"#;

/// A temporary folder with an archive, which may not be there yet.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    pub(crate) fn run(&self, run_id: &str) -> PathBuf {
        self.archive().join("runs").join(run_id)
    }

    pub(crate) fn log(&self, run_id: &str) -> PathBuf {
        self.run(run_id).join("transitions.jsonl")
    }

    /// Writes a file of a run, as a producer would; makes the folders.
    pub(crate) fn put(&self, run_id: &str, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.run(run_id)).unwrap();
        std::fs::write(self.run(run_id).join(name), bytes).unwrap();
    }

    pub(crate) fn put_log(&self, run_id: &str, bytes: impl AsRef<[u8]>) {
        self.put(run_id, "transitions.jsonl", bytes);
    }

    pub(crate) fn add(&self, run_id: &str, bytes: impl AsRef<[u8]>) {
        let mut log = OpenOptions::new().append(true).open(self.log(run_id)).unwrap();
        log.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) async fn open(&self) -> Served {
        let archive = self.archive();
        Served::open(&["--archive", archive.to_str().unwrap()]).await.unwrap()
    }
}

/// A backend and its one caller.
pub(crate) struct Served {
    pub(crate) backend: Backend,
    pub(crate) who: Principal,
}

impl Served {
    pub(crate) async fn open(arguments: &[&str]) -> Result<Self, BootError> {
        let backend = select_backend(&options(arguments), &config("127.0.0.1:8080")).await?;
        let who = backend.access.authenticate(&RequestFacts::default()).await.unwrap();
        Ok(Self { backend, who })
    }

    /// The kept lines from a seq on.
    pub(crate) async fn kept_from(&self, run_id: &str, from_seq: u64) -> Option<Vec<String>> {
        let limit = ReadLimit { lines: 100_000, bytes: usize::MAX };
        let lines = self.backend.store.read(&self.who, &id(run_id), from_seq, limit).await.unwrap()?;
        Some(lines.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }

    pub(crate) async fn kept(&self, run_id: &str) -> Option<Vec<String>> {
        self.kept_from(run_id, 0).await
    }

    pub(crate) async fn next_seq(&self, run_id: &str) -> Option<u64> {
        self.backend.store.summary(&self.who, &id(run_id)).await.unwrap().map(|summary| summary.next_seq)
    }

    pub(crate) async fn problems(&self, run_id: &str) -> Problems {
        self.backend.store.problems(&self.who, &id(run_id)).await.unwrap().unwrap()
    }

    pub(crate) async fn append(&self, batch: Vec<Part>) -> Result<Appended, StoreError> {
        self.backend.store.append(&self.who, batch).await
    }

    pub(crate) async fn put_graph(&self, run_id: &str, bytes: &str) -> Result<GraphPut, StoreError> {
        self.backend.store.put_graph(&self.who, &id(run_id), Bytes::from(bytes.to_owned())).await
    }

    /// The run_ids of a page, in its order.
    pub(crate) async fn list(&self, query: &ListQuery) -> Vec<String> {
        let page = self.backend.store.list(&self.who, query).await.unwrap();
        page.items.iter().map(|summary| summary.run_id.to_string()).collect()
    }

    /// Waits until a condition holds; it is asked again at every wake-up, so a change without one fails.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let mut changes = self.backend.store.follow(&self.who).await.unwrap();
        let waiting = async {
            while !holds().await {
                changes.next().await.unwrap();
            }
        };
        assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "never came: {what}");
    }

    /// Waits until the log's lines are these, and its state is theirs.
    pub(crate) async fn until_kept(&self, run_id: &str, wanted: &[String]) {
        let log_id = wanted.first().map(|line| LogId::of_first_line(line.as_bytes()));
        self.until(&format!("{} lines of {run_id}", wanted.len()), || async {
            let loaded = self.backend.store.load(&self.who, &id(run_id)).await.unwrap();
            let state = loaded.map(|loaded| (loaded.state.next_seq, loaded.state.log_id.clone()));
            state == Some((wanted.len() as u64, log_id.clone())) && self.kept(run_id).await.as_deref() == Some(wanted)
        })
        .await;
    }
}

/// Every path below a folder with its bytes.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push((path.clone(), Vec::new()));
            all.extend(contents(&path));
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}
