//! What the server says: JSON, and the bytes of it that go over the wire.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::socket::put_text;
use crate::contract::Lines;
use crate::domain::{LogId, RunId, Timestamp};
use crate::http::view::RowView;
use crate::live::{Frames, RenderRows};
use crate::reduce::Summary;

/// The largest frame that a client gets; longer lines are fetched over HTTP.
const MAX_OUTGOING: usize = 256 * 1024;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Frame<'a> {
    Hello {
        version: &'static str,
        now: Timestamp,
        heartbeat_s: u64,
    },
    Heartbeat {
        now: Timestamp,
    },
    Event {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
        seq: u64,
        line: Option<&'a str>,
    },
    #[serde(rename = "event")]
    LongEvent {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
        seq: u64,
        line: Option<&'a str>,
        bytes: usize,
    },
    Run {
        row: RowView<'a>,
    },
    #[serde(rename = "run")]
    LongRun {
        run_id: &'a RunId,
        row: Option<RowView<'a>>,
        bytes: usize,
    },
    RunRemoved {
        run_id: &'a RunId,
    },
    /// Without a run, the list is meant: it has to be read again.
    Resync {
        run_id: Option<&'a RunId>,
        from_seq: Option<u64>,
    },
    Reset {
        run_id: &'a RunId,
        log_id: Option<&'a LogId>,
    },
    Error {
        code: &'static str,
        detail: &'a str,
        run_id: Option<&'a str>,
    },
}

impl Frame<'_> {
    fn to_text(&self) -> String {
        // Strings and integers always print.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As it goes over the wire.
    pub(super) fn to_wire(&self) -> Bytes {
        wire_of(self.to_text())
    }
}

fn wire_of(text: String) -> Bytes {
    let mut wire = BytesMut::new();
    put_text(text, &mut wire);
    wire.freeze()
}

/// The frames of the list, for every client that has it.
pub(super) const ROWS: RenderRows =
    RenderRows { row: of_row, removed: |run_id| Frame::RunRemoved { run_id }.to_wire() };

fn of_row(run: &Summary, now: Timestamp, stall_after_ms: u64) -> Bytes {
    let text = Frame::Run { row: RowView::of(run, now, stall_after_ms) }.to_text();
    if text.len() <= MAX_OUTGOING {
        return wire_of(text);
    }
    Frame::LongRun { run_id: &run.run_id, row: None, bytes: text.len() }.to_wire()
}

/// The frames of some lines, for every client that wants them.
pub(super) fn of_lines(run_id: &RunId, from_seq: u64, lines: &Lines) -> Frames {
    let log_id = lines.log_id.as_ref();
    let mut wire = BytesMut::new();
    let mut ends = Vec::with_capacity(lines.lines.len());
    for (seq, line) in (from_seq..).zip(&lines.lines) {
        let whole = (line.len() <= MAX_OUTGOING)
            .then(|| Frame::Event { run_id, log_id, seq, line: std::str::from_utf8(line).ok() }.to_text());
        let text = whole
            .filter(|text| text.len() <= MAX_OUTGOING)
            .unwrap_or_else(|| Frame::LongEvent { run_id, log_id, seq, line: None, bytes: line.len() }.to_text());
        put_text(text, &mut wire);
        ends.push(wire.len());
    }
    Frames { bytes: wire.into(), ends }
}
