//! What the server says: JSON, and the bytes of it that go over the wire.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::socket::put_text;
use crate::contract::Lines;
use crate::domain::{LogId, RunId, Timestamp};
use crate::live::Frames;

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
    Resync {
        run_id: &'a RunId,
        from_seq: u64,
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
        let mut wire = BytesMut::new();
        put_text(self.to_text(), &mut wire);
        wire.freeze()
    }
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
