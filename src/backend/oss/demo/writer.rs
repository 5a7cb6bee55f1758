//! Writes the demo's runs as producers do: graph.json first, then the log by appending one line at a time, and
//! summary.json when the run has ended.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::event::{Body, GraphFile, Line};
use super::walk::{Beat, Round, RunFiles};
use crate::archive_reader::{GRAPH, LOG, RUNS, SUMMARY};
use crate::domain::Timestamp;

/// The runs of an archive that are being written.
pub(super) struct Writer {
    runs: PathBuf,
    open: HashMap<String, OpenRun>,
}

struct OpenRun {
    log: File,
    started: Timestamp,
}

impl Writer {
    /// A writer into this archive.
    pub(super) fn new(archive: &Path) -> Self {
        Self { runs: archive.join(RUNS), open: HashMap::new() }
    }

    /// Writes a whole round that is past.
    pub(super) fn write_round(&mut self, round: &Round, began: Timestamp) -> io::Result<()> {
        round.beats.iter().try_for_each(|beat| self.write(round, beat, after(began, beat.at_ms)))
    }

    /// Appends one event, in one write.
    pub(super) fn write(&mut self, round: &Round, beat: &Beat, ts: Timestamp) -> io::Result<()> {
        let files = &round.runs[beat.run];
        let folder = self.runs.join(&files.run_id);
        if !self.open.contains_key(&files.run_id) {
            let run = begin(&folder, files, ts)?;
            self.open.insert(files.run_id.clone(), run);
        }
        let Some(run) = self.open.get_mut(&files.run_id) else { return Ok(()) };
        let mut line = serde_json::to_vec(&Line { ts, run_id: &files.run_id, body: &beat.body })?;
        line.push(b'\n');
        run.log.write_all(&line)?;
        if matches!(beat.body, Body::RunEnd { .. } | Body::AgentRunEnd { .. }) {
            let started = run.started;
            self.open.remove(&files.run_id);
            if let Some(summary) = &files.summary {
                let mut summary = summary.clone();
                (summary.started, summary.ended) = (Some(started), Some(ts));
                put(&folder, SUMMARY, &summary)?;
            }
        }
        Ok(())
    }
}

fn begin(folder: &Path, files: &RunFiles, started: Timestamp) -> io::Result<OpenRun> {
    fs::create_dir_all(folder)?;
    if let Some(nodes) = files.nodes {
        put(folder, GRAPH, &GraphFile { version: 1, nodes })?;
    }
    let log = OpenOptions::new().append(true).create_new(true).open(folder.join(LOG))?;
    Ok(OpenRun { log, started })
}

/// Writes a small file whole: it takes its name when it is complete.
fn put(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, serde_json::to_vec_pretty(value)?)?;
    fs::rename(draft, folder.join(name))
}

/// So many milliseconds later.
pub(super) fn after(ts: Timestamp, millis: u64) -> Timestamp {
    Timestamp::from_millis(ts.millis().saturating_add_unsigned(millis))
}
