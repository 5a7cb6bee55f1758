//! The tail reader: the one way from a log's bytes to state, whoever calls it, so that nothing counts twice.
//!
//! A look costs two stats when nothing changed. Bytes that were added are read from where the last look stopped, as long as
//! the bytes before them are still the ones that were read; else the run is read anew, and shown when that is done. A look of
//! the poll reads no more than its share, so that one huge log does not hold up the others.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::index::{Hot, Index, MARK_EVERY, Run, RunData, Seen};
use super::lineage::Lineage;
use crate::archive_reader::{
    Archive, CHUNK_BYTES, Found, GRAPH, Glance, GraphBytes, Identity, Judged, LOG, LogFile, LogReader, ReaderError,
    RunFolder,
};
use crate::contract::store::MAX_PROBLEMS;
use crate::domain::id::sha256_hex;
use crate::domain::{Graph, LogId, MAX_LINE_BYTES, Problem};

/// How many bytes before the end are compared to know a log again.
const EDGE_BYTES: usize = 512;

/// How many bytes one look of the poll reads of one log.
const SHARE: u64 = 8 * 1024 * 1024;

/// Where the tail reader stands in one run.
#[derive(Debug, Default)]
pub(super) struct Tail {
    log: Watched,
    graph: Watched,
    /// Behind what the run's hot data holds.
    reader: Option<Box<LogReader>>,
    /// A log that is read from its start, and not shown before that is done.
    fresh: Option<Box<Fresh>>,
    /// The last look failed; it was told once.
    refused: bool,
    /// The run's data changed and was not published yet.
    has_news: bool,
}

#[derive(Debug)]
struct Fresh {
    data: RunData,
    reader: LogReader,
    /// The size of the log when its reading began: so far it is read before it is shown.
    until: u64,
    /// It begins with all the lines that were shown.
    goes_on: bool,
}

impl Fresh {
    fn of(run: &Run) -> Box<Self> {
        Box::new(Self {
            data: RunData::empty(&run.run_id),
            reader: LogReader::new(&run.run_id),
            until: 0,
            goes_on: run.data().lineage.kept == 0,
        })
    }
}

impl Tail {
    /// The files as they were when they were found unchanged; `None` while they are being read or doubted.
    pub(super) fn settled(&self) -> Option<Glance> {
        let is_settled = self.log.is_settled && self.graph.is_settled && self.fresh.is_none() && !self.refused;
        is_settled.then_some(Glance { log: self.log.identity, graph: self.graph.identity })
    }

    /// The next look reads, whatever the stats say.
    pub(super) fn distrust(&mut self) {
        self.log.is_settled = false;
        self.graph.is_settled = false;
    }

    /// The next look reads all of it, and believes nothing of what was read.
    pub(super) fn forget(&mut self) {
        self.log = Watched { identity: None, is_settled: false };
        self.forget_place();
    }

    /// The next read begins at the start of the log.
    pub(super) fn forget_place(&mut self) {
        self.reader = None;
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

/// How much a look does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// What is new, a share of it at a time.
    Share,
    /// All that is new.
    Whole,
    /// All that is new; and the state is there afterwards, if the log can be read.
    State,
}

/// How a log begins and ends: the hashes of its first and its last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    first: [u8; 8],
    last: [u8; 8],
}

/// How much is read at a time in search of a line's end. A line over the limit counts only so far.
const WINDOWS: [usize; 3] = [1024, 64 * 1024, MAX_LINE_BYTES + 4 * 1024];

impl Ends {
    /// Of a log as it was when it was opened.
    pub(super) fn of(log: &LogFile) -> Result<Self, ReaderError> {
        let size = log.identity().size;
        let mut ends = Self::default();
        for window in WINDOWS {
            let bytes = read_exactly(log, 0, within(window, size))?;
            let end = memchr::memchr(b'\n', &bytes);
            ends.first = short_hash(&bytes[..end.map_or(bytes.len(), |at| at + 1)]);
            if end.is_some() {
                break;
            }
        }
        for window in WINDOWS {
            let length = within(window, size);
            let bytes = read_exactly(log, size - length as u64, length)?;
            let before = memchr::memrchr(b'\n', bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            ends.last = short_hash(&bytes[before.map_or(0, |at| at + 1)..]);
            if before.is_some() {
                break;
            }
        }
        Ok(ends)
    }
}

fn within(window: usize, size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).min(window)
}

/// The ends of a run's log, if it still is the one that was seen.
pub(super) fn ends_of(archive: &Archive, run: &Run, seen: &Seen) -> Result<Option<Ends>, ReaderError> {
    let log_id = run.data().summary.log_id.clone();
    let Some(folder) = archive.run(&run.run_id)? else { return Ok(None) };
    Ok(match folder.log()? {
        Found::File(log) if seen.identity == Some(log.identity()) && is_same_log(&log, seen, log_id.as_ref())? => {
            Some(Ends::of(&log)?)
        }
        Found::Nothing if seen.identity.is_none() => Some(Ends::default()),
        _ => None,
    })
}

/// Takes over what was known of a run whose files still are as they were then.
pub(super) fn adopt(index: &Index, run: &Arc<Run>, data: RunData, glance: Glance) {
    let mut tail = run.tail();
    if run.data().is_listed() {
        return;
    }
    tail.log = Watched { identity: glance.log, is_settled: true };
    tail.graph = Watched { identity: glance.graph, is_settled: true };
    *run.data_mut(&mut tail) = data;
    index.show(run, &tail);
}

/// What a look found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Something that answers show is another one than before.
    pub(super) has_changed: bool,
    /// The run has its end event.
    pub(super) is_ended: bool,
    /// The run is in the list.
    pub(super) is_listed: bool,
    /// There is more to read now.
    pub(super) has_more: bool,
}

/// Looks at a run's files and reads what is new. `archive` is `None` while there is no archive.
///
/// # Errors
///
/// When a file is there and cannot be read; what was known stays.
pub(super) fn look(
    index: &Index,
    archive: Option<&Archive>,
    run: &Arc<Run>,
    effort: Effort,
) -> Result<Looked, ReaderError> {
    look_holding(index, archive, run, (&mut run.tail(), effort))
}

/// The same, unless somebody reads this run now.
pub(super) fn try_look(
    index: &Index,
    archive: Option<&Archive>,
    run: &Arc<Run>,
) -> Option<Result<Looked, ReaderError>> {
    let mut tail = run.try_tail()?;
    Some(look_holding(index, archive, run, (&mut tail, Effort::Share)))
}

fn look_holding(
    index: &Index,
    archive: Option<&Archive>,
    run: &Arc<Run>,
    (tail, effort): (&mut Tail, Effort),
) -> Result<Looked, ReaderError> {
    let was_hot = run.data().hot.is_some();
    let looked = look_inside(index, archive, run, (tail, effort));
    match &looked {
        Ok(_) => tail.refused = false,
        Err(error) if !tail.refused => {
            tail.refused = true;
            tail.distrust();
            log::warn!("{error}");
        }
        Err(_) => tail.distrust(),
    }
    let (is_hot, is_ended) = {
        let data = run.data();
        (data.hot.is_some(), data.summary.ended.is_some())
    };
    if is_hot && is_ended && !was_hot && effort != Effort::State {
        // It was read for its summary; an archive of many holds no states for that.
        run.cool(tail);
    } else if is_hot && (!was_hot || looked.as_ref().is_ok_and(|looked| looked.has_changed)) {
        index.hold(run, tail);
    }
    looked
}

fn look_inside(
    index: &Index,
    archive: Option<&Archive>,
    run: &Arc<Run>,
    (tail, effort): (&mut Tail, Effort),
) -> Result<Looked, ReaderError> {
    let glance = archive.map_or(Ok(Glance::default()), |archive| archive.glance(&run.run_id))?;
    let is_cold = run.data().hot.is_none();
    let mut log_due = tail.log.is_due(glance.log) || tail.fresh.is_some();
    let mut graph_due = tail.graph.is_due(glance.graph);
    let wants_state = is_cold && effort == Effort::State;
    if !log_due && !graph_due && !wants_state {
        return Ok(told(run));
    }
    let folder = archive.map_or(Ok(None), |archive| archive.run(&run.run_id))?;
    let folder = folder.as_ref();
    if is_cold && tail.fresh.is_none() {
        let is_same = (tail.log.identity, tail.graph.identity) == (glance.log, glance.graph);
        if is_same && !wants_state && is_as_known(folder, run)? {
            tail.log.note(glance.log, true);
            tail.graph.note(glance.graph, true);
            return Ok(told(run));
        }
        (log_due, graph_due) = (true, true);
        tail.fresh = Some(Fresh::of(run));
    }
    // The graph first: a run that starts is then listed with its nodes at once.
    let graph = if graph_due { look_at_graph(folder, run, tail) } else { Ok(()) };
    let log = if log_due { look_at_log(index, folder, run, (tail, effort)) } else { Ok(false) };
    if log.is_err() {
        show_graph_alone(run, tail);
    }
    let has_changed = std::mem::take(&mut tail.has_news);
    if has_changed {
        index.publish(run, tail);
    }
    let looked = Looked { has_changed, has_more: matches!(log, Ok(true)), ..told(run) };
    if log_due && let Ok(has_more) = log {
        if has_more {
            tail.log.is_settled = false;
        } else {
            tail.log.note(glance.log, !has_changed);
        }
    }
    if graph_due && graph.is_ok() {
        tail.graph.note(glance.graph, !has_changed);
    }
    // The bytes of a run that has ended are believed at once: an archive of many costs one reading.
    tail.log.is_settled |= looked.is_ended && matches!(log, Ok(false));
    tail.graph.is_settled |= looked.is_ended && graph.is_ok();
    log.and(graph).map(|()| looked)
}

/// What is known of a run that did not change.
fn told(run: &Run) -> Looked {
    let data = run.data();
    Looked { is_ended: data.summary.ended.is_some(), is_listed: data.is_listed(), ..Looked::default() }
}

/// Whether the files of a run whose state is not held are still the ones that were read; their stats are the same.
fn is_as_known(folder: Option<&RunFolder>, run: &Run) -> Result<bool, ReaderError> {
    let (seen, log_id, graph_sha256, has_faults) = {
        let data = run.data();
        let summary = &data.summary;
        (data.seen, summary.log_id.clone(), summary.graph_sha256.clone(), !data.file_problems.is_empty())
    };
    let Some(folder) = folder.filter(|_| !has_faults) else { return Ok(false) };
    let is_log = match folder.log()? {
        Found::File(log) => seen.identity == Some(log.identity()) && is_same_log(&log, &seen, log_id.as_ref())?,
        Found::Nothing => seen.identity.is_none(),
        Found::NotRegular => false,
    };
    let is_graph = match folder.graph()? {
        Found::File(graph) => graph_sha256 == Some(sha256_hex(&graph.bytes)),
        Found::Nothing => graph_sha256.is_none(),
        Found::NotRegular => false,
    };
    Ok(is_log && is_graph)
}

fn look_at_graph(folder: Option<&RunFolder>, run: &Run, tail: &mut Tail) -> Result<(), ReaderError> {
    let found = folder.map_or(Ok(Found::Nothing), RunFolder::graph)?;
    let (graph, fault) = match found {
        Found::Nothing => (None, None),
        Found::NotRegular => (None, Some(not_regular(GRAPH))),
        Found::File(GraphBytes { bytes, graph: Ok(graph), .. }) => (Some((Arc::new(graph), sha256_hex(&bytes))), None),
        Found::File(GraphBytes { graph: Err(reason), .. }) => (None, Some(Problem { line: None, reason })),
    };
    if let Some(fresh) = &mut tail.fresh {
        set_graph(&mut fresh.data, run, graph, fault);
        return Ok(());
    }
    let has_changed = set_graph(&mut run.data_mut(tail), run, graph, fault);
    tail.has_news |= has_changed;
    Ok(())
}

/// Whether it is another graph, or another fault of one, than before.
fn set_graph(data: &mut RunData, run: &Run, graph: Option<(Arc<Graph>, String)>, fault: Option<Problem>) -> bool {
    let known_fault = data.file_problems.iter().find(|known| known.reason.starts_with(GRAPH));
    let sha256 = graph.as_ref().map(|(_, sha256)| sha256);
    if data.summary.graph_sha256.as_ref() == sha256 && known_fault == fault.as_ref() {
        return false;
    }
    set_file_problem(data, GRAPH, fault);
    if let Some(hot) = &mut data.hot {
        hot.set_graph(graph);
    }
    data.summarize(&run.run_id);
    true
}

/// Whether there is more to read.
fn look_at_log(
    index: &Index,
    folder: Option<&RunFolder>,
    run: &Arc<Run>,
    (tail, effort): (&mut Tail, Effort),
) -> Result<bool, ReaderError> {
    let share = if effort == Effort::Share { SHARE } else { u64::MAX };
    let found = folder.map_or(Ok(Found::Nothing), RunFolder::log)?;
    let log = match found {
        Found::File(log) => log,
        Found::Nothing => return forget_log(run, tail, None),
        Found::NotRegular => return forget_log(run, tail, Some(not_regular(LOG))),
    };
    if tail.fresh.is_none() {
        if let Some(reader) = tail.reader.take() {
            let is_continued = is_continued(&run.data(), &log, &reader)?;
            if is_continued {
                return read_on(index, run, tail, (&log, reader, share));
            }
        }
        let mut fresh = Fresh::of(run);
        take_graph(&mut fresh.data, &run.data(), run);
        tail.fresh = Some(fresh);
    }
    read_anew(run, tail, (&log, share))
}

/// A new run whose log cannot be read is shown by its graph.
fn show_graph_alone(run: &Run, tail: &mut Tail) {
    if let Some(mut fresh) = tail.fresh.take_if(|fresh| fresh.data.is_listed() && fresh.data.seen.identity.is_none())
        && !run.data().is_listed()
    {
        fresh.data.lineage = run.data().lineage;
        replace(run, tail, fresh.data);
    }
}

/// A log that is read anew keeps the graph that is known.
fn take_graph(fresh: &mut RunData, known: &RunData, run: &Run) {
    let graph = known.hot.as_ref().and_then(|hot| hot.graph.clone());
    let fault = known.file_problems.iter().find(|known| known.reason.starts_with(GRAPH)).cloned();
    set_graph(fresh, run, graph, fault);
}

/// There is no log that could be read.
fn forget_log(run: &Run, tail: &mut Tail, fault: Option<Problem>) -> Result<bool, ReaderError> {
    tail.reader = None;
    let mut empty = RunData::empty(&run.run_id);
    match tail.fresh.take() {
        Some(fresh) => take_graph(&mut empty, &fresh.data, run),
        None => take_graph(&mut empty, &run.data(), run),
    }
    set_file_problem(&mut empty, LOG, fault);
    // It may come back.
    empty.lineage = run.data().lineage;
    replace(run, tail, empty);
    Ok(false)
}

/// Whether the log begins with the bytes that were read.
fn is_continued(data: &RunData, log: &LogFile, reader: &LogReader) -> Result<bool, ReaderError> {
    let log_id = data.hot.as_ref().and_then(|hot| hot.state.log_id.as_ref());
    Ok(log.identity().size >= reader.end() && is_same_log(log, &data.seen, log_id)?)
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

/// Reads what was added, chunk by chunk; between two of them answers see the log as far as it was read. Returns whether
/// there is more.
fn read_on(
    index: &Index,
    run: &Arc<Run>,
    tail: &mut Tail,
    (log, mut reader, share): (&LogFile, Box<LogReader>, u64),
) -> Result<bool, ReaderError> {
    let mut buffer = chunk_for(log, &reader);
    let stop_at = reader.end().saturating_add(share);
    let before = run.data().ledger;
    let mut is_unshown = false;
    let outcome = loop {
        if reader.end() >= stop_at {
            break Ok(true);
        }
        let bytes = match log.read_at(&mut buffer, reader.end()) {
            Ok(0) => break Ok(false),
            Ok(read) => &buffer[..read],
            Err(error) => break Err(error),
        };
        if is_unshown {
            index.publish(run, tail);
        }
        let mut data = run.data_mut(tail);
        data.ends = None;
        let kept = data.ledger.kept;
        feed(&mut data, &mut reader, bytes, |_| {});
        is_unshown = data.ledger.kept != kept;
        if is_unshown {
            data.summarize(&run.run_id);
        }
    };
    {
        let mut data = run.data_mut(tail);
        // A torn line may have been taken back.
        data.ledger = reader.ledger();
        if data.seen.identity != Some(log.identity()) {
            data.seen.identity = Some(log.identity());
            data.ends = None;
        }
        tail.has_news |= data.ledger != before;
    }
    reader.release();
    tail.reader = Some(reader);
    outcome
}

/// Reads on in a log that is read from its start, and shows it when it was read as far as it went at the beginning. Returns
/// whether there is more.
fn read_anew(run: &Run, tail: &mut Tail, (log, share): (&LogFile, u64)) -> Result<bool, ReaderError> {
    let mut fresh = tail.fresh.take().unwrap_or_else(|| Fresh::of(run));
    let known = run.data().lineage;
    let is_begun = fresh.data.seen.identity.is_some();
    if is_begun && !is_continued(&fresh.data, log, &fresh.reader)? {
        let mut again = Fresh::of(run);
        take_graph(&mut again.data, &fresh.data, run);
        fresh = again;
    }
    if fresh.data.seen.identity.is_none() {
        fresh.until = log.identity().size;
    }
    fresh.data.seen.identity = Some(log.identity());
    let mut buffer = chunk_for(log, &fresh.reader);
    let stop_at = fresh.reader.end().saturating_add(share);
    let is_whole = loop {
        if fresh.reader.end() >= stop_at {
            break fresh.reader.end() >= fresh.until;
        }
        let read = log.read_at(&mut buffer, fresh.reader.end())?;
        if read == 0 {
            break true;
        }
        let Fresh { data, reader, goes_on, .. } = &mut *fresh;
        feed(data, reader, &buffer[..read], |lineage| *goes_on |= lineage.has_lines_of(&known));
    };
    let has_more = fresh.reader.end() >= stop_at;
    if is_whole {
        let Fresh { mut data, mut reader, goes_on, .. } = *fresh;
        data.lineage.generation = known.generation + u64::from(!goes_on);
        reader.release();
        tail.reader = Some(Box::new(reader));
        data.summarize(&run.run_id);
        replace(run, tail, data);
    } else {
        tail.fresh = Some(fresh);
    }
    Ok(has_more)
}

/// Room for the rest of the log, and a little for what comes while it is read.
fn chunk_for(log: &LogFile, reader: &LogReader) -> Vec<u8> {
    let rest = log.identity().size.saturating_sub(reader.end());
    let rest = usize::try_from(rest).unwrap_or(CHUNK_BYTES);
    vec![0; (rest + 4096).min(CHUNK_BYTES)]
}

/// Puts what the files gave in the place of what is known.
fn replace(run: &Run, tail: &mut Tail, mut fresh: RunData) {
    let mut data = run.data_mut(tail);
    let has_changed = data.ledger != fresh.ledger
        || data.seen.edge != fresh.seen.edge
        || data.lineage != fresh.lineage
        || data.file_problems != fresh.file_problems
        || data.summary != fresh.summary;
    if data.summary == fresh.summary {
        // Lists hold this one.
        fresh.summary = Arc::clone(&data.summary);
    }
    let before = std::mem::replace(&mut *data, fresh);
    drop(data);
    drop(before);
    tail.has_news |= has_changed;
}

/// Judges the next bytes of a log and folds the events among them. `kept` hears of each.
fn feed(data: &mut RunData, reader: &mut LogReader, bytes: &[u8], mut kept: impl FnMut(&Lineage)) {
    let RunData { seen, lineage, ledger, hot, .. } = data;
    let Hot { state, problems, marks, .. } = &mut **hot.get_or_insert_default();
    let state = Arc::make_mut(state);
    let chunk_start = reader.end();
    reader.judge(bytes, |judged| {
        if let Judged::Kept { seq, line, event, start } = judged {
            if seq % MARK_EVERY == 0 {
                marks.push(start);
            }
            seen.first.get_or_insert((start, line.len()));
            state.fold(&event, line);
            lineage.add(line);
            kept(lineage);
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
            assert!(look(&index, Some(&archive), &run, Effort::Share).unwrap().has_changed, "{n}");
            assert_eq!(run.data().summary.log_id, Some(log_id));
        }
        // Two looks at the same bytes, then a stat is enough.
        assert!(!look(&index, Some(&archive), &run, Effort::Share).unwrap().has_changed);
        assert!(run.tail().log.is_settled);
    }
}
