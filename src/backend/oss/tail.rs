//! The tail reader: the one way from a log's bytes to state, whoever calls it, so that nothing counts twice.
//!
//! A look costs two stats when nothing changed. Bytes that were added are read from where the last look stopped, as long as
//! the bytes before them are still the ones that were read; else the run is read anew.

use std::ops::ControlFlow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::index::{Index, MARK_EVERY, Run, RunData, Seen};
use crate::archive_reader::{
    Archive, CHUNK_BYTES, Found, GRAPH, Glance, GraphBytes, Identity, Judged, LOG, LogFile, LogReader, ReaderError,
    RunFolder,
};
use crate::contract::store::MAX_PROBLEMS;
use crate::domain::id::sha256_hex;
use crate::domain::{LogId, Problem};

/// How many bytes before the end are compared to know a log again.
const EDGE_BYTES: usize = 512;

/// Where the tail reader stands in one run.
#[derive(Debug, Default)]
pub(super) struct Tail {
    log: Watched,
    graph: Watched,
    reader: Option<LogReader>,
    /// The last look failed; it was told once.
    refused: bool,
    /// The run's data changed and was not published yet.
    has_news: bool,
}

impl Tail {
    /// The next look reads, whatever the stats say.
    pub(super) fn distrust(&mut self) {
        self.log.is_settled = false;
        self.graph.is_settled = false;
    }
}

/// A file as the last look found it.
#[derive(Debug)]
struct Watched {
    identity: Option<Identity>,
    /// It was read again with the same stat and was the same. A file that changes once more within one tick of its clock, to
    /// the same size, does not look it: so the look after a change reads again.
    is_settled: bool,
}

impl Default for Watched {
    /// Nothing is there, and nothing was there.
    fn default() -> Self {
        Self { identity: None, is_settled: true }
    }
}

impl Watched {
    fn is_due(&self, found: Option<Identity>) -> bool {
        !self.is_settled || self.identity != found
    }

    /// Takes note of what was read, and whether it was what was known.
    fn note(&mut self, found: Option<Identity>, was_same: bool) {
        self.is_settled = was_same && self.identity == found;
        self.identity = found;
    }
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looked {
    /// Something that answers show is another one than before.
    pub(super) has_changed: bool,
    /// The run has its end event.
    pub(super) is_ended: bool,
}

/// Looks at a run's files and reads what is new. `archive` is `None` while there is no archive.
///
/// # Errors
///
/// When a file is there and cannot be read; what was known stays.
pub(super) fn look(index: &Index, archive: Option<&Archive>, run: &Arc<Run>) -> Result<Looked, ReaderError> {
    let mut tail = run.tail();
    let looked = look_inside(index, archive, run, &mut tail);
    match &looked {
        Ok(_) => tail.refused = false,
        Err(error) if !tail.refused => {
            tail.refused = true;
            tail.distrust();
            log::warn!("{error}");
        }
        Err(_) => tail.distrust(),
    }
    looked
}

fn look_inside(
    index: &Index,
    archive: Option<&Archive>,
    run: &Arc<Run>,
    tail: &mut Tail,
) -> Result<Looked, ReaderError> {
    let glance = archive.map_or(Ok(Glance::default()), |archive| archive.glance(&run.run_id))?;
    let (log_due, graph_due) = (tail.log.is_due(glance.log), tail.graph.is_due(glance.graph));
    if !log_due && !graph_due {
        return Ok(Looked { has_changed: false, is_ended: run.data().state.end.is_some() });
    }
    let folder = archive.map_or(Ok(None), |archive| archive.run(&run.run_id))?;
    let folder = folder.as_ref();
    // The graph first: a run that starts is then listed with its nodes at once.
    let graph = if graph_due { look_at_graph(folder, run, tail) } else { Ok(()) };
    let log = if log_due { look_at_log(index, folder, run, tail) } else { Ok(()) };
    let is_ended = run.data().state.end.is_some();
    let has_changed = std::mem::take(&mut tail.has_news);
    if log_due && log.is_ok() {
        tail.log.note(glance.log, !has_changed);
    }
    if graph_due && graph.is_ok() {
        tail.graph.note(glance.graph, !has_changed);
    }
    // The bytes of a run that has ended are believed at once: an archive of many costs one reading.
    tail.log.is_settled |= is_ended && log.is_ok();
    tail.graph.is_settled |= is_ended && graph.is_ok();
    if has_changed {
        index.publish(run, tail);
    }
    log.and(graph).map(|()| Looked { has_changed, is_ended })
}

fn look_at_graph(folder: Option<&RunFolder>, run: &Run, tail: &mut Tail) -> Result<(), ReaderError> {
    let found = folder.map_or(Ok(Found::Nothing), RunFolder::graph)?;
    let (graph, fault) = match found {
        Found::Nothing => (None, None),
        Found::NotRegular => (None, Some(not_regular(GRAPH))),
        Found::File(GraphBytes { bytes, graph: Ok(graph), .. }) => (Some((Arc::new(graph), sha256_hex(&bytes))), None),
        Found::File(GraphBytes { graph: Err(reason), .. }) => (None, Some(Problem { line: None, reason })),
    };
    let mut data = run.data_mut(tail);
    let sha256 = graph.as_ref().map(|(_, sha256)| sha256);
    let known_fault = data.file_problems.iter().find(|known| known.reason.starts_with(GRAPH));
    if data.graph_sha256.as_ref() == sha256 && known_fault == fault.as_ref() {
        return Ok(());
    }
    tail.has_news = true;
    set_file_problem(&mut data, GRAPH, fault);
    let (graph, sha256) = graph.unzip();
    data.graph = graph;
    data.graph_sha256 = sha256;
    data.summarize(&run.run_id);
    Ok(())
}

fn look_at_log(index: &Index, folder: Option<&RunFolder>, run: &Arc<Run>, tail: &mut Tail) -> Result<(), ReaderError> {
    let found = folder.map_or(Ok(Found::Nothing), RunFolder::log)?;
    let log = match found {
        Found::File(log) => log,
        Found::Nothing => return forget_log(run, tail, None),
        Found::NotRegular => return forget_log(run, tail, Some(not_regular(LOG))),
    };
    match tail.reader.take() {
        Some(reader) if is_continued(run, &log, &reader)? => read_on(index, run, tail, (&log, reader)),
        _ => read_anew(run, tail, &log),
    }
}

/// There is no log that could be read.
fn forget_log(run: &Run, tail: &mut Tail, fault: Option<Problem>) -> Result<(), ReaderError> {
    tail.reader = None;
    let mut fresh = RunData::new(&run.run_id);
    set_file_problem(&mut fresh, LOG, fault);
    replace(run, tail, fresh);
    Ok(())
}

/// Whether the log begins with the bytes that were read.
fn is_continued(run: &Run, log: &LogFile, reader: &LogReader) -> Result<bool, ReaderError> {
    let (seen, log_id) = {
        let data = run.data();
        (data.seen, data.state.log_id.clone())
    };
    Ok(log.identity().size >= reader.end() && is_same_log(log, &seen, log_id.as_ref())?)
}

/// Whether this file is the one that was seen, and still holds what was seen.
pub(super) fn is_same_log(log: &LogFile, seen: &Seen, log_id: Option<&LogId>) -> Result<bool, ReaderError> {
    if !seen.identity.is_some_and(|known| known.is_same_file(&log.identity())) || log.identity_now()?.size < seen.offset
    {
        return Ok(false);
    }
    if let Some((start, length)) = seen.first {
        const BOM: &[u8] = b"\xEF\xBB\xBF";
        let bytes = read_exactly(log, start, length + BOM.len())?;
        let line = if start == 0 { bytes.strip_prefix(BOM).unwrap_or(&bytes) } else { &bytes };
        let first = line.get(..length).map(LogId::of_first_line);
        if first.as_ref() != log_id {
            return Ok(false);
        }
    }
    match seen.edge {
        Some((length, hash)) => Ok(short_hash(&read_exactly(log, seen.offset - length as u64, length)?) == hash),
        None => Ok(true),
    }
}

/// Reads what was added, chunk by chunk; between two of them answers see the log as far as it was read.
fn read_on(
    index: &Index,
    run: &Arc<Run>,
    tail: &mut Tail,
    (log, mut reader): (&LogFile, LogReader),
) -> Result<(), ReaderError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let before = run.data().ledger;
    let mut is_unshown = false;
    let outcome = loop {
        let bytes = match log.read_at(&mut buffer, reader.end()) {
            Ok(0) => break Ok(()),
            Ok(read) => &buffer[..read],
            Err(error) => break Err(error),
        };
        if is_unshown {
            index.publish(run, tail);
        }
        let mut data = run.data_mut(tail);
        let kept = data.ledger.kept;
        feed(&mut data, &mut reader, bytes);
        is_unshown = data.ledger.kept != kept;
        if is_unshown {
            data.summarize(&run.run_id);
        }
    };
    {
        let mut data = run.data_mut(tail);
        // A torn line may have been taken back.
        data.ledger = reader.ledger();
        data.seen.identity = Some(log.identity());
        tail.has_news |= data.ledger != before;
    }
    reader.release();
    tail.reader = Some(reader);
    outcome
}

/// Reads the log from its start and shows it when it was read to its end.
fn read_anew(run: &Run, tail: &mut Tail, log: &LogFile) -> Result<(), ReaderError> {
    let mut fresh = RunData::new(&run.run_id);
    fresh.seen.identity = Some(log.identity());
    let mut reader = LogReader::new(&run.run_id);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = log.read_at(&mut buffer, reader.end())?;
        if read == 0 {
            break;
        }
        feed(&mut fresh, &mut reader, &buffer[..read]);
    }
    reader.release();
    tail.reader = Some(reader);
    replace(run, tail, fresh);
    Ok(())
}

/// Puts what a log gave in the place of what is known; the graph is none of it.
fn replace(run: &Run, tail: &mut Tail, mut fresh: RunData) {
    let mut data = run.data_mut(tail);
    let faults = |data: &RunData| data.file_problems.iter().filter(|known| known.reason.starts_with(LOG)).count();
    tail.has_news |= data.ledger != fresh.ledger
        || data.state.log_id != fresh.state.log_id
        || data.seen.edge != fresh.seen.edge
        || faults(&data) != faults(&fresh);
    fresh.graph = data.graph.take();
    fresh.graph_sha256 = data.graph_sha256.take();
    let graph_fault = data.file_problems.iter().find(|known| known.reason.starts_with(GRAPH)).cloned();
    set_file_problem(&mut fresh, GRAPH, graph_fault);
    fresh.summarize(&run.run_id);
    *data = fresh;
}

/// Judges the next bytes of a log and folds the events among them.
fn feed(data: &mut RunData, reader: &mut LogReader, bytes: &[u8]) {
    let RunData { state, marks, seen, problems, ledger, .. } = data;
    let state = Arc::make_mut(state);
    let chunk_start = reader.end();
    reader.judge(bytes, |judged| {
        if let Judged::Kept { seq, line, event, start } = judged {
            if seq % MARK_EVERY == 0 {
                marks.push(start);
            }
            seen.first.get_or_insert((start, line.len()));
            state.fold(&event, line);
        }
        ControlFlow::Continue(())
    });
    problems.extend(reader.take_problems());
    *ledger = reader.ledger();
    seen.offset = reader.offset();
    // The bytes of this chunk that stand before the new offset; with no newline in it, the edge stays what it was.
    let behind = usize::try_from(seen.offset.saturating_sub(chunk_start)).unwrap_or(0);
    if behind > 0 {
        let edge = &bytes[behind.saturating_sub(EDGE_BYTES)..behind];
        seen.edge = Some((edge.len(), short_hash(edge)));
    }
}

fn set_file_problem(data: &mut RunData, name: &str, problem: Option<Problem>) {
    data.file_problems.retain(|known| !known.reason.starts_with(name));
    data.file_problems.extend(problem);
    // graph.json first.
    data.file_problems.sort_by(|a, b| a.reason.cmp(&b.reason));
}

fn not_regular(name: &str) -> Problem {
    Problem { line: None, reason: format!("{name} is a link or no file; it is not opened") }
}

fn short_hash(bytes: &[u8]) -> [u8; 8] {
    let mut start = [0; 8];
    start.copy_from_slice(&Sha256::digest(bytes)[..8]);
    start
}

/// The bytes there, fewer when the file ends before.
fn read_exactly(log: &LogFile, start: u64, length: usize) -> Result<Vec<u8>, ReaderError> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match log.read_at(&mut bytes[filled..], start + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

// The reader's bound is the answer's.
const _: () = assert!(crate::archive_reader::PROBLEMS_KEPT == MAX_PROBLEMS);

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::archive_reader::RUNS;
    use crate::domain::RunId;

    /// A file system's clock ticks: a rewrite within one tick, to the same size, has the same stat.
    #[test]
    fn a_change_that_the_stat_does_not_show_is_seen_by_the_next_look() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(RUNS).join("r1").join(LOG);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = |n: usize| {
            let line = format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r1","event":"heartbeat","n":{n}}}"#);
            std::fs::write(&path, line.clone() + "\n").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            LogId::of_first_line(line.as_bytes())
        };
        let archive = Archive::open(root.path()).unwrap();
        let index = Index::new();
        let run = index.run_of_folder(&RunId::parse("r1").unwrap());
        for n in 0..3 {
            let log_id = write(n);
            assert!(look(&index, Some(&archive), &run).unwrap().has_changed, "{n}");
            assert_eq!(run.data().state.log_id, Some(log_id));
        }
        // Two looks at the same bytes, then a stat is enough.
        assert!(!look(&index, Some(&archive), &run).unwrap().has_changed);
        assert!(run.tail().log.is_settled);
    }
}
