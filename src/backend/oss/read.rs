//! What is read from the files for one answer: kept lines by seq, graph.json's bytes, the state of a run that is not hot.
//!
//! The index says where a line stands; the file says what it is. An answer counts only when the file still holds what the
//! index saw, else the tail reader looks again first.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::archive::Shared;
use super::index::{MARK_EVERY, Run};
use super::tail::{Effort, is_same_log};
use crate::archive_reader::{Found, GraphBytes, Judged, LogReader};
use crate::contract::store::MAX_PROBLEMS;
use crate::contract::{GraphFile, Lines, Loaded, Problems, ReadLimit, StoreError};
use crate::domain::RunId;
use crate::domain::id::sha256_hex;
use crate::reduce::Summary;

/// How often an answer is tried while a file changes under it.
const ATTEMPTS: usize = 5;

/// Lines before this seq are found from the start of the log, when its marks are not known: that takes less than to fold it.
const NEAR_START: u64 = 1000;

/// What a run's page needs; `None` when the run is not listed.
pub(super) fn loaded(shared: &Shared, run_id: &RunId) -> Result<Option<Loaded>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(run) = shared.index.listing().run(run_id) else { return Ok(None) };
        shared.look(&run, Effort::State)?;
        if let Some(loaded) = run.loaded() {
            shared.index.touch(&run);
            return Ok(shared.index.listing().run(run_id).map(|_| loaded));
        }
    }
    Err(changes_too_fast("log", run_id))
}

/// The ledger and the skipped lines; `None` when the run is not listed.
pub(super) fn problems(shared: &Shared, run_id: &RunId) -> Result<Option<Problems>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(run) = shared.index.listing().run(run_id) else { return Ok(None) };
        if let Some(problems) = known_problems(&run) {
            return Ok(Some(problems));
        }
        shared.look(&run, Effort::State)?;
    }
    Err(changes_too_fast("log", run_id))
}

/// The same without reading a file, if they are known.
pub(super) fn known_problems(run: &Run) -> Option<Problems> {
    let data = run.data();
    let skipped: &[_] = match &data.hot {
        Some(hot) => &hot.problems,
        None if data.ledger.skipped == 0 => &[],
        None => return None,
    };
    let items: Vec<_> = data.file_problems.iter().chain(skipped).take(MAX_PROBLEMS).cloned().collect();
    let all = data.ledger.skipped + data.file_problems.len() as u64;
    Some(Problems { ledger: data.ledger, truncated: all > items.len() as u64, items })
}

fn changes_too_fast(file: &str, run_id: &RunId) -> StoreError {
    StoreError::Unavailable(format!("the {file} of run {run_id} changes faster than it can be read").into())
}

/// Kept lines from `from_seq` on; `None` when the run is not listed.
pub(super) fn lines(
    shared: &Shared,
    run_id: &RunId,
    from_seq: u64,
    limit: ReadLimit,
) -> Result<Option<Lines>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(run) = shared.index.listing().run(run_id) else { return Ok(None) };
        let (seen, mut answer, mark) = {
            let data = run.data();
            let Summary { log_id, next_seq, .. } = &*data.summary;
            let generation = data.lineage.generation;
            let answer = Lines { log_id: log_id.clone(), next_seq: *next_seq, generation, lines: Vec::new() };
            if from_seq >= *next_seq || limit.lines == 0 {
                return Ok(Some(answer));
            }
            let mark = match &data.hot {
                Some(hot) => Some(mark_before(&hot.marks, from_seq)),
                None if from_seq < NEAR_START => Some(Some((0, 0))),
                None => None,
            };
            (data.seen, answer, mark)
        };
        let Some(mark) = mark else {
            shared.look(&run, Effort::State)?;
            continue;
        };
        let Some((offset, seq)) = mark else { return Ok(Some(answer)) };
        shared.index.touch(&run);
        let archive = shared.archive();
        let folder = archive.as_ref().map_or(Ok(None), |archive| archive.run(run_id)).map_err(super::failed)?;
        if let Some(folder) = folder
            && let Found::File(log) = folder.log().map_err(super::failed)?
        {
            let mut reader = LogReader::at_mark(run_id, offset, seq);
            let wanted = from_seq..answer.next_seq.min(from_seq.saturating_add(limit.lines as u64));
            answer.lines = collect(&mut reader, &log, (wanted, limit.bytes)).map_err(super::failed)?;
            if !answer.lines.is_empty() && is_same_log(&log, &seen, answer.log_id.as_ref()).map_err(super::failed)? {
                return Ok(Some(answer));
            }
        }
        run.tail().distrust();
        shared.look(&run, Effort::Whole)?;
    }
    Err(changes_too_fast("log", run_id))
}

/// Where the last mark at or before this seq stands, and its own seq; `None` behind the end.
fn mark_before(marks: &[u64], seq: u64) -> Option<(u64, u64)> {
    let at = seq / MARK_EVERY;
    let offset = marks.get(usize::try_from(at).ok()?)?;
    Some((*offset, at * MARK_EVERY))
}

/// The lines of these seqs, up to the one that passes so many bytes.
fn collect(
    reader: &mut LogReader,
    log: &crate::archive_reader::LogFile,
    (wanted, most_bytes): (std::ops::Range<u64>, usize),
) -> Result<Vec<Bytes>, crate::archive_reader::ReaderError> {
    // One buffer for all lines, cut without copying again.
    let mut text = Vec::new();
    let mut ends = Vec::new();
    reader.read(log, |judged| {
        let Judged::Kept { seq, line, .. } = judged else { return ControlFlow::Continue(()) };
        if wanted.contains(&seq) {
            text.extend_from_slice(line);
            ends.push(text.len());
        }
        if seq + 1 >= wanted.end || text.len() > most_bytes {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    let text = Bytes::from(text);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(ends.iter()).map(|(start, end)| text.slice(start..*end)).collect())
}

/// graph.json's bytes; the outer `None` is a run that is not listed.
pub(super) fn graph(shared: &Shared, run_id: &RunId) -> Result<Option<Option<GraphFile>>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(run) = shared.index.listing().run(run_id) else { return Ok(None) };
        let Some(sha256) = run.data().summary.graph_sha256.clone() else { return Ok(Some(None)) };
        let archive = shared.archive();
        let folder = archive.as_ref().map_or(Ok(None), |archive| archive.run(run_id)).map_err(super::failed)?;
        if let Some(folder) = folder
            && let Found::File(GraphBytes { bytes, .. }) = folder.graph().map_err(super::failed)?
            && sha256_hex(&bytes) == sha256
        {
            return Ok(Some(Some(GraphFile { bytes: bytes.into(), sha256 })));
        }
        run.tail().distrust();
        shared.look(&run, Effort::Whole)?;
    }
    Err(changes_too_fast("graph", run_id))
}
