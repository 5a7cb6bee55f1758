//! What goes to the terminal: lines of stdout, and a progress line on stderr while work is long.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::{Duration, Instant};

/// Lines on stdout. A reader that went away is remembered, not told: `kahn ... | head` is no mistake.
pub(super) struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
    is_gone: bool,
}

impl Lines {
    pub(super) fn stdout() -> Self {
        let out = io::stdout().lock();
        Self { is_terminal: out.is_terminal(), out: BufWriter::new(out), is_gone: false }
    }

    /// Prints a line, fit for a terminal: a control character of somebody's file never steers it.
    pub(super) fn say(&mut self, line: &str) {
        if line.contains(char::is_control) {
            self.put(&line.replace(char::is_control, "\u{fffd}"));
        } else {
            self.put(line);
        }
    }

    /// Prints one JSON value as a line.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) {
        if let Ok(line) = serde_json::to_string(value) {
            self.put(&line);
        }
    }

    /// Prints JSON that is written already, as a line.
    pub(super) fn json_bytes(&mut self, json: &[u8]) {
        self.put(&String::from_utf8_lossy(json));
    }

    fn put(&mut self, line: &str) {
        self.is_gone |= writeln!(self.out, "{line}").is_err();
        if self.is_terminal {
            self.flush();
        }
    }

    /// Hands over what is held back, so that a person sees it before the next long piece of work.
    pub(super) fn flush(&mut self) {
        self.is_gone |= self.out.flush().is_err();
    }

    /// Whether nobody reads any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }
}

/// How often the progress line changes at the most.
const EVERY: Duration = Duration::from_millis(100);

/// One line on stderr that says how far the work is; only where stderr is a terminal.
pub(super) struct Progress {
    last: Option<Instant>,
    is_shown: bool,
    is_on: bool,
}

impl Progress {
    pub(super) fn stderr() -> Self {
        Self { last: None, is_shown: false, is_on: io::stderr().is_terminal() }
    }

    /// Shows how far the work is, unless that was shown a moment ago.
    pub(super) fn show(&mut self, how_far: impl FnOnce() -> String) {
        if !self.is_on || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        self.is_shown = true;
        let _ = write!(io::stderr(), "\r\x1b[K{}", how_far());
    }

    /// Takes the line away, so that another one may be printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Words of somebody's file, cut to fit a line.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
