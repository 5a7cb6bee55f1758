//! The lines of a log: each is judged once, and the reader keeps account of what became of it.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::{Identity, ReaderError};
use crate::domain::line::LINE_TOO_LONG;
use crate::domain::{Event, Ledger, LineSplitter, MAX_LINE_BYTES, Piece, Problem, RunId, parse_line};

/// The reason of a line that another run's folder holds.
pub const FOREIGN_RUN_ID: &str = "run_id differs from the folder's";

/// How many problems a reader keeps; the ledger counts them all.
pub const PROBLEMS_KEPT: usize = 1000;

/// How much is read at once.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// An opened log.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    identity: Identity,
    name: String,
}

impl LogFile {
    pub(super) fn new(file: File, identity: Identity, name: String) -> Self {
        Self { file, identity, name }
    }

    /// The file as it was when it was opened.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The file as it is now.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn identity_now(&self) -> Result<Identity, ReaderError> {
        let stat = rustix::fs::fstat(&self.file).map_err(|error| self.failed(error))?;
        Ok(Identity::of(&stat))
    }

    /// Reads at an offset; 0 is the end of the file.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReaderError> {
        read_at(&self.file, buffer, offset).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<io::Error>) -> ReaderError {
        ReaderError::io(self.name.clone(), error)
    }
}

/// What a reader says of one line.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a line, on the stack; a box would cost an allocation a line")]
pub enum Judged<'a> {
    /// An event of the log.
    Kept {
        /// Its seq.
        seq: u64,
        /// Its bytes, without LF.
        line: &'a [u8],
        /// What they say.
        event: Event<'a>,
        /// The offset in the file where the line begins: [`LogReader::at_mark`] goes on there.
        start: u64,
    },
    /// A line that counts for nothing.
    Skipped {
        /// Its number in the file, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
}

/// Reads a log line by line, judges each line and keeps account; goes on where it stopped.
///
/// Holds one chunk and at most one line of the limit's length.
#[derive(Debug, Clone)]
pub struct LogReader {
    run_id: RunId,
    splitter: LineSplitter,
    counted: Ledger,
    problems: Vec<Problem>,
}

impl LogReader {
    /// A reader at the start of this run's log.
    pub fn new(run_id: &RunId) -> Self {
        Self::at_mark(run_id, 0, 0)
    }

    /// A reader at the kept line `seq`, which begins at `offset`. Its ledger and line numbers count from there.
    pub fn at_mark(run_id: &RunId, offset: u64, seq: u64) -> Self {
        Self {
            run_id: run_id.clone(),
            splitter: LineSplitter::at(offset),
            counted: Ledger { kept: seq, ..Ledger::default() },
            problems: Vec::new(),
        }
    }

    /// Reads to the end of the file, or until `each` breaks: then the next read goes on behind that line.
    ///
    /// # Errors
    ///
    /// When the file cannot be read; what was read before stays read.
    pub fn read(
        &mut self,
        log: &LogFile,
        mut each: impl FnMut(Judged<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReaderError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut broken = false;
        while !broken
            && self.read_chunk(log, &mut buffer, |judged| {
                let flow = each(judged);
                broken = flow.is_break();
                flow
            })? > 0
        {}
        Ok(())
    }

    /// Reads one chunk into the caller's buffer; returns how many bytes it was, 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read_chunk(
        &mut self,
        log: &LogFile,
        buffer: &mut [u8],
        each: impl FnMut(Judged<'_>) -> ControlFlow<()>,
    ) -> Result<usize, ReaderError> {
        let read = log.read_at(buffer, self.end())?;
        self.judge(&buffer[..read], each);
        Ok(read)
    }

    /// Judges the next bytes of the file, those at [`LogReader::end`].
    pub fn judge(&mut self, bytes: &[u8], mut each: impl FnMut(Judged<'_>) -> ControlFlow<()>) {
        let Self { run_id, splitter, counted, problems } = self;
        let mut stopped_at = None;
        splitter.push(bytes, |piece, start, end| {
            if stopped_at.is_some() {
                return;
            }
            counted.lines += 1;
            let verdict = match judge(run_id, &piece) {
                Ok((line, event)) => {
                    let seq = counted.kept;
                    counted.kept += 1;
                    counted.unknown += u64::from(event.body.is_unknown());
                    Judged::Kept { seq, line, event, start }
                }
                Err(reason) => {
                    counted.skipped += 1;
                    if counted.skipped <= PROBLEMS_KEPT as u64 {
                        problems.push(Problem { line: Some(counted.lines), reason: reason.clone() });
                    }
                    Judged::Skipped { line: counted.lines, reason }
                }
            };
            if each(verdict).is_break() {
                stopped_at = Some(end);
            }
        });
        if let Some(end) = stopped_at {
            self.splitter = LineSplitter::at(end);
        }
    }

    /// What became of every line so far.
    pub fn ledger(&self) -> Ledger {
        let pending = u64::from(self.splitter.has_pending());
        Ledger { lines: self.counted.lines + pending, pending, ..self.counted }
    }

    /// The first [`PROBLEMS_KEPT`] skipped lines, less those that were taken.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Hands over the problems that were found since the last time.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// The offset behind the last whole line.
    pub fn offset(&self) -> u64 {
        self.splitter.offset()
    }

    /// The offset behind everything that was read, a torn last line included.
    pub fn end(&self) -> u64 {
        self.splitter.end()
    }

    /// Lets go of a torn last line's bytes; the next read gets them again. A line that is known to be too long is not
    /// read twice: it has no bytes to let go of.
    pub fn release(&mut self) {
        if self.splitter.end() - self.splitter.offset() <= MAX_LINE_BYTES as u64 {
            self.splitter = LineSplitter::at(self.splitter.offset());
        }
    }
}

/// The run that the first readable line of a log names; `None` when there is no such line.
pub(super) fn first_run_id(log: &LogFile) -> Result<Option<RunId>, ReaderError> {
    let mut splitter = LineSplitter::default();
    let mut found = None;
    let mut buffer = vec![0; CHUNK_BYTES];
    while found.is_none() {
        let read = log.read_at(&mut buffer, splitter.end())?;
        if read == 0 {
            break;
        }
        splitter.push(&buffer[..read], |piece, _, _| {
            if let (None, Piece::Line(line)) = (&found, piece) {
                found = parse_line(line).ok().and_then(|event| RunId::parse(&event.run_id));
            }
        });
    }
    Ok(found)
}

fn judge<'a>(run_id: &RunId, piece: &Piece<'a>) -> Result<(&'a [u8], Event<'a>), String> {
    let Piece::Line(line) = *piece else { return Err(LINE_TOO_LONG.into()) };
    let event = parse_line(line)?;
    if event.run_id == run_id.as_str() { Ok((line, event)) } else { Err(FOREIGN_RUN_ID.into()) }
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive_reader::{Archive, Found, LOG, RUNS};

    /// What a reader makes of these bytes: the kept lines and the ledger.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, LogReader) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(RUNS).join("r1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(LOG), bytes).unwrap();
        let run_id = RunId::parse("r1").unwrap();
        let archive = Archive::open(root.path()).unwrap();
        let Found::File(log) = archive.run(&run_id).unwrap().unwrap().log().unwrap() else { panic!("no log") };
        let mut reader = LogReader::new(&run_id);
        let mut kept = Vec::new();
        reader
            .read(&log, |judged| {
                if let Judged::Kept { line, .. } = judged {
                    kept.push(line.to_vec());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        (kept, reader)
    }

    fn event(run_id: &str, n: usize) -> String {
        format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"heartbeat","n":{n}}}"#)
    }

    #[test]
    fn lines_are_judged_and_counted() {
        let log =
            format!("\u{feff}{}\r\n\n{}\n{}\n[]\n{}", event("r1", 0), event("r2", 1), event("r1", 2), event("r1", 3));
        let (kept, reader) = read(log.as_bytes());
        assert_eq!(kept, [event("r1", 0).into_bytes(), event("r1", 2).into_bytes()]);
        assert_eq!(reader.ledger(), Ledger { lines: 6, kept: 2, skipped: 3, pending: 1, unknown: 0 });
        let problems: Vec<_> = reader.problems().iter().map(|p| (p.line.unwrap(), p.reason.as_str())).collect();
        assert_eq!(problems, [(2, "empty line"), (3, FOREIGN_RUN_ID), (5, "not an object")]);
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_not_held() {
        let log = [
            event("r1", 0).as_bytes(),
            b"\n",
            &vec![b'x'; 3 * MAX_LINE_BYTES],
            b"\n",
            event("r1", 1).as_bytes(),
            b"\n",
        ]
        .concat();
        let (kept, reader) = read(&log);
        assert_eq!(kept.len(), 2);
        assert_eq!(reader.problems()[0], Problem { line: Some(2), reason: LINE_TOO_LONG.into() });
    }

    #[test]
    fn a_reader_goes_on_where_it_broke_off_and_where_a_mark_stands() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("r1");
        std::fs::create_dir_all(&folder).unwrap();
        let log: String = (0..2000).map(|n| event("r1", n) + "\n").collect();
        std::fs::write(folder.join(LOG), &log).unwrap();
        let archive = Archive::open_archive_or_run(&folder).unwrap();
        let run_id = archive.run_ids().unwrap().remove(0);
        let Found::File(log) = archive.run(&run_id).unwrap().unwrap().log().unwrap() else { panic!("no log") };
        let mut reader = LogReader::new(&run_id);
        let mut seen = Vec::new();
        while seen.len() < 2000 {
            reader
                .read(&log, |judged| {
                    let Judged::Kept { seq, start, .. } = judged else { panic!("skipped") };
                    seen.push((seq, start));
                    if seq % 7 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
        }
        assert!(seen.iter().map(|(seq, _)| *seq).eq(0..2000));
        let (seq, start) = seen[1234];
        let mut from_mark = None;
        LogReader::at_mark(&run_id, start, seq)
            .read(&log, |judged| {
                if let Judged::Kept { seq, line, .. } = judged {
                    from_mark = Some((seq, line.to_vec()));
                }
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(from_mark, Some((1234, event("r1", 1234).into_bytes())));
    }
}
