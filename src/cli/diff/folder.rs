//! Two runs of an archive folder: read, folded, and compared as a server would.

use std::ops::ControlFlow;
use std::path::Path;

use crate::archive_reader::{Archive, Found, Judged, LogReader, ReaderError};
use crate::config::{BootError, Config};
use crate::domain::event::EventBody;
use crate::domain::id::sha256_hex;
use crate::domain::{Graph, RunId};
use crate::http;
use crate::insight::compare::{self, FailingChecks, Side};
use crate::reduce::{RunState, Summary};
use crate::services::{Clock as _, SystemClock};

/// The answer of `/api/compare`.
pub(super) fn compare(path: &Path, base: &RunId, head: &RunId) -> Result<Vec<u8>, BootError> {
    let unread = |error: ReaderError| BootError::configuration(format!("--archive (KAHN_ARCHIVE): {error}"));
    let archive = Archive::open(path).map_err(unread)?;
    let read = |run_id: &RunId| {
        read(&archive, run_id).map_err(unread)?.ok_or_else(|| {
            BootError::configuration(format!(
                "there is no run {run_id} in {}; give the run_id of one of its runs, or another archive with --archive (KAHN_ARCHIVE)",
                path.display()
            ))
        })
    };
    let (base, head) = (read(base)?, read(head)?);
    http::comparison_json(base.side(), head.side(), SystemClock.now(), Config::default_stall_after_ms())
        .map_err(|error| BootError::configuration(format!("the comparison cannot be written: {error}")))
}

/// What is known of one run.
struct Run {
    summary: Summary,
    graph: Option<Graph>,
    failing: FailingChecks,
}

impl Run {
    fn side(&self) -> Side<'_> {
        Side { summary: &self.summary, graph: self.graph.as_ref(), failing: &self.failing }
    }
}

/// Reads a run; `None` when there is neither a kept line nor a graph of it, so that no list shows it.
fn read(archive: &Archive, run_id: &RunId) -> Result<Option<Run>, ReaderError> {
    let Some(folder) = archive.run(run_id)? else { return Ok(None) };
    let graph = match folder.graph()? {
        Found::File(file) => file.graph.ok().map(|graph| (graph, sha256_hex(&file.bytes))),
        Found::Nothing | Found::NotRegular => None,
    };
    let mut state = RunState::default();
    let mut failing = FailingChecks::new();
    if let Found::File(log) = folder.log()? {
        LogReader::new(run_id).read(&log, |judged| {
            if let Judged::Kept { line, event, .. } = judged {
                if let EventBody::NodeAttempt(attempt) = &event.body {
                    failing.insert(attempt.node_id.to_string(), compare::failing_checks(&event));
                }
                state.fold(&event, line);
            }
            ControlFlow::Continue(())
        })?;
    }
    if state.next_seq == 0 && graph.is_none() {
        return Ok(None);
    }
    let summary = Summary::of(run_id, &state, graph.as_ref().map(|(graph, sha256)| (graph, sha256.as_str())));
    Ok(Some(Run { summary, graph: graph.map(|(graph, _)| graph), failing }))
}
