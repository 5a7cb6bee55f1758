//! What is read from the files for one answer: kept lines by seq, and graph.json's bytes.
//!
//! The index says where a line stands; the file says what it is. An answer counts only when the file still holds what the
//! index saw, else the tail reader looks again first.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::archive::Shared;
use super::index::MARK_EVERY;
use super::tail::is_same_log;
use crate::archive_reader::{Found, GraphBytes, Judged, LogReader};
use crate::contract::{GraphFile, Lines, ReadLimit, StoreError};
use crate::domain::RunId;
use crate::domain::id::sha256_hex;

/// How often an answer is tried while a file changes under it.
const ATTEMPTS: usize = 5;

/// Kept lines from `from_seq` on; `None` when the run is not listed.
pub(super) fn lines(
    shared: &Shared,
    run_id: &RunId,
    from_seq: u64,
    limit: ReadLimit,
) -> Result<Option<Lines>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(run) = shared.index.listing().run(run_id) else { return Ok(None) };
        let (seen, log_id, next_seq, mark) = {
            let data = run.data();
            let mark = usize::try_from(from_seq / MARK_EVERY).ok().and_then(|at| data.marks.get(at)).copied();
            (data.seen, data.state.log_id.clone(), data.state.next_seq, mark)
        };
        let mut answer = Lines { log_id, next_seq, lines: Vec::new() };
        let Some(mark) = mark.filter(|_| from_seq < next_seq && limit.lines > 0) else { return Ok(Some(answer)) };
        let archive = shared.archive();
        let folder = archive.as_ref().map_or(Ok(None), |archive| archive.run(run_id)).map_err(super::failed)?;
        if let Some(folder) = folder
            && let Found::File(log) = folder.log().map_err(super::failed)?
        {
            let mut reader = LogReader::at_mark(run_id, mark, from_seq / MARK_EVERY * MARK_EVERY);
            let wanted = from_seq..next_seq.min(from_seq.saturating_add(limit.lines as u64));
            answer.lines = collect(&mut reader, &log, (wanted, limit.bytes)).map_err(super::failed)?;
            if !answer.lines.is_empty() && is_same_log(&log, &seen, answer.log_id.as_ref()).map_err(super::failed)? {
                return Ok(Some(answer));
            }
        }
        run.tail().distrust();
        shared.look(&run)?;
    }
    Err(StoreError::Unavailable(format!("the log of run {run_id} changes faster than it can be read").into()))
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
        let Some(sha256) = run.data().graph_sha256.clone() else { return Ok(Some(None)) };
        let archive = shared.archive();
        let folder = archive.as_ref().map_or(Ok(None), |archive| archive.run(run_id)).map_err(super::failed)?;
        if let Some(folder) = folder
            && let Found::File(GraphBytes { bytes, .. }) = folder.graph().map_err(super::failed)?
            && sha256_hex(&bytes) == sha256
        {
            return Ok(Some(Some(GraphFile { bytes: bytes.into(), sha256 })));
        }
        run.tail().distrust();
        shared.look(&run)?;
    }
    Err(StoreError::Unavailable(format!("the graph of run {run_id} changes faster than it can be read").into()))
}
