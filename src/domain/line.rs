//! Lines of a log: where one ends, which bytes are its own, and the ledger of what became of each.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::MAX_LINE_BYTES;

/// What became of every line of a log: `lines = kept + skipped + pending`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// All lines, the torn last one included.
    pub lines: u64,
    /// Lines that are events of the log; the next seq.
    pub kept: u64,
    /// Lines that could not be read.
    pub skipped: u64,
    /// A torn last line without a newline: 0 or 1.
    pub pending: u64,
    /// Kept lines whose event name is not known.
    pub unknown: u64,
}

/// A line that was skipped (or, with line null, a fault of graph.json).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its number in the file, from 1; null for graph.json.
    pub line: Option<u64>,
    /// Why, as one short clause.
    pub reason: String,
}

/// The reason of an empty line.
pub const EMPTY_LINE: &str = "empty line";
/// The reason of a line over the limit.
pub const LINE_TOO_LONG: &str = "line over 1 MiB";

/// What the splitter found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole line: its bytes less LF, one trailing CR and, at the start of the file, a BOM.
    Line(&'a [u8]),
    /// A whole line longer than the limit; its bytes were not held.
    TooLong,
}

/// Cuts a stream of bytes into lines, holding at most one line of the limit's length.
///
/// Feed it with [`LineSplitter::push`]; what is behind the last newline stays pending.
#[derive(Debug, Clone, Default)]
pub struct LineSplitter {
    /// The start of a line whose newline has not come yet.
    held: Vec<u8>,
    /// The pending line is over the limit and its bytes were dropped.
    dropping: bool,
    /// Bytes before the pending line.
    consumed: u64,
    /// Bytes of the pending line, held or dropped.
    pending_len: u64,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

impl LineSplitter {
    /// A splitter whose next byte stands at `offset` of the file (a BOM counts only at 0).
    pub fn at(offset: u64) -> Self {
        Self { consumed: offset, ..Self::default() }
    }

    /// Cuts `bytes`; `each` gets every line that they complete, with the offset where it begins and the offset behind its LF.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>, u64, u64)) {
        while let Some(at) = find_newline(bytes) {
            let (head, tail) = bytes.split_at(at);
            let start = self.consumed;
            let end = start + self.pending_len + head.len() as u64 + 1;
            if self.dropping {
                each(Piece::TooLong, start, end);
            } else if self.held.is_empty() {
                each(piece(head, start), start, end);
            } else {
                // One more than a line with BOM and CR could have: enough to know that it is too long.
                let room = (HOLD_AT_MOST + 1).saturating_sub(self.held.len());
                self.held.extend_from_slice(&head[..head.len().min(room)]);
                each(piece(&self.held, start), start, end);
            }
            self.held.clear();
            self.dropping = false;
            self.pending_len = 0;
            self.consumed = end;
            bytes = &tail[1..];
        }
        if bytes.is_empty() {
            return;
        }
        self.pending_len += bytes.len() as u64;
        if self.dropping || self.held.len() + bytes.len() > HOLD_AT_MOST {
            self.dropping = true;
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    /// Whether bytes stand behind the last newline: a torn line.
    pub fn has_pending(&self) -> bool {
        self.pending_len > 0
    }

    /// The offset where the pending (or next) line begins.
    pub fn offset(&self) -> u64 {
        self.consumed
    }

    /// The offset behind every byte that was pushed.
    pub fn end(&self) -> u64 {
        self.consumed + self.pending_len
    }
}

/// A line of the limit's length with a BOM before it and a CR behind it.
const HOLD_AT_MOST: usize = MAX_LINE_BYTES + BOM.len() + 1;

/// What has to stand before a line's LF for [`LineSplitter`] to give the line back: a CR of its own needs one more behind it.
pub fn written(line: &[u8]) -> Cow<'_, [u8]> {
    if line.ends_with(b"\r") { Cow::Owned([line, b"\r"].concat()) } else { Cow::Borrowed(line) }
}

fn piece(raw: &[u8], offset: u64) -> Piece<'_> {
    let line = if offset == 0 { raw.strip_prefix(BOM).unwrap_or(raw) } else { raw };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MAX_LINE_BYTES { Piece::TooLong } else { Piece::Line(line) }
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}
