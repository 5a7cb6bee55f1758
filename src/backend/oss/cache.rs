//! index.json: the summaries of the last time, so that a start need not read every log again.
//!
//! It is a hint that may lie or vanish. Each line of it is a run and stands alone, with a checksum; a line is believed only
//! where the files that it speaks of still look and begin and end as it says, and where the same reducer made it. Whatever
//! else is in it counts as not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::index::{Index, Run, RunData, Seen};
use super::lineage::Lineage;
use super::tail::{self, Ends};
use crate::archive_reader::{Archive, Found, Glance, Identity};
use crate::domain::{Ledger, MAX_LINE_BYTES, RunId};
use crate::reduce::{REDUCER_VERSION, Summary};

/// The cache, in the archive folder.
const NAME: &str = "index.json";
/// Where it stands until it is whole. One server writes an archive, so one name is enough.
const TEMPORARY: &str = ".index.json.kahn-new";

/// The shape of the file. It rises with any change of it.
const FORMAT: u32 = 2;

/// How much of the file one thread takes at a time: little, so that all of them are done at about the same time.
const BLOCK: u64 = 128 * 1024;
/// How much is read at least in search of the end of a block's last line.
const REST: usize = 8 * 1024;
/// A line that is longer is not believed.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// One run: what its files looked like, and what was made of them.
#[derive(Serialize, Deserialize)]
struct Entry {
    log: Option<Stamp>,
    graph: Option<Stamp>,
    ends: Ends,
    offset: u64,
    first: Option<(u64, usize)>,
    edge: Option<(usize, [u8; 8])>,
    /// Of the kept lines.
    sum: u32,
    ledger: Ledger,
    summary: Arc<Summary>,
}

impl Entry {
    /// Whether its places lie within the log, so that they can be read.
    fn fits(&self) -> bool {
        let size = self.log.map_or(0, |log| log.size);
        let first = self.first.is_none_or(|(start, length)| {
            length <= MAX_LINE_BYTES && start.saturating_add(length as u64) <= self.offset
        });
        let edge = self.edge.is_none_or(|(length, _)| length <= MAX_LINE_BYTES && length as u64 <= self.offset);
        first && edge && self.offset <= size
    }
}

/// What tells a file that changed; the number of its device may be another one after each start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, u32),
}

impl Stamp {
    fn of(identity: &Identity) -> Self {
        Self { size: identity.size, inode: identity.inode, modified: identity.modified }
    }
}

/// The first line of the file. Whatever differs in it, the rest is of another kahn.
fn head() -> String {
    let made_by = format!("{} {}", env!("CARGO_PKG_VERSION"), env!("KAHN_COMMIT"));
    format!(r#"{{"format":{FORMAT},"reducer":{REDUCER_VERSION},"kahn":"{made_by}","runs":["#)
}

const FOOT: &str = "]}\n";

/// A line: the checksum of head and entry, and the entry.
fn line_of(head: &str, entry: &Entry) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(entry)?;
    Ok(format!(r#"["{:08x}",{text}]"#, checksum(head, &text)))
}

fn entry_of(head: &str, line: &str) -> Option<Entry> {
    let line = line.strip_suffix(',').unwrap_or(line);
    let (sum, text) = line.strip_prefix("[\"")?.strip_suffix(']')?.split_once("\",")?;
    if u32::from_str_radix(sum, 16) != Ok(checksum(head, text)) {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn checksum(head: &str, text: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head.as_bytes());
    hasher.update(text.as_bytes());
    hasher.finalize()
}

/// The cache of an archive, opened to be read.
pub(super) struct Cache {
    file: File,
    size: u64,
    head: String,
    next_block: AtomicU64,
}

impl Cache {
    /// Opens it; `None` when there is none that could be believed.
    pub(super) fn open(root: &Path) -> Option<Self> {
        let folder =
            rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, NAME, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let (file, head) = (File::from(file), head());
        let mut first = vec![0; head.len() + 1];
        file.read_exact_at(&mut first, 0).ok()?;
        if first.strip_suffix(b"\n") != Some(head.as_bytes()) {
            return None;
        }
        let size = u64::try_from(stat.st_size).ok()?;
        Some(Self { file, size, head, next_block: AtomicU64::new(0) })
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes over what can be believed; several threads may do so at once, each with a part of it.
    pub(super) fn take_over(&self, index: &Index, archive: &Archive) {
        loop {
            let at = self.next_block.fetch_add(1, Ordering::Relaxed).saturating_mul(BLOCK);
            if at >= self.size {
                return;
            }
            let take = |line: &[u8]| {
                if let Some(entry) = std::str::from_utf8(line).ok().and_then(|line| entry_of(&self.head, line)) {
                    // A run that cannot be looked at now is read later, and told then.
                    let _ = adopt(index, archive, entry);
                }
            };
            if self.lines_of_block(at, take).is_err() {
                return;
            }
        }
    }

    /// The whole lines that begin in this block.
    fn lines_of_block(&self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        // A line begins behind a newline: the byte before the block is looked at too.
        let from = at.saturating_sub(1);
        let mut text = self.bytes(from, usize::try_from(at + BLOCK - from).unwrap_or(usize::MAX))?;
        let mut begin = match memchr::memchr(b'\n', &text) {
            _ if at == 0 => 0,
            Some(newline) => newline + 1,
            None => return Ok(()),
        };
        while from + (begin as u64) < at + BLOCK {
            match memchr::memchr(b'\n', &text[begin..]) {
                Some(length) => {
                    each(&text[begin..begin + length]);
                    begin += length + 1;
                }
                None if text.len() - begin > LONGEST_LINE => return Ok(()),
                None => {
                    // Twice as much each time: a long line is not searched over and over.
                    let more = self.bytes(from + text.len() as u64, (text.len() - begin).max(REST))?;
                    if more.is_empty() {
                        return Ok(());
                    }
                    text.extend_from_slice(&more);
                }
            }
        }
        Ok(())
    }

    fn bytes(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut filled = 0;
        while filled < most {
            match self.file.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// Believes an entry if the run's files are as it says.
fn adopt(index: &Index, archive: &Archive, entry: Entry) -> Result<(), crate::archive_reader::ReaderError> {
    let run_id = entry.summary.run_id.clone();
    // The pattern of an id holds for what a file says, too.
    if RunId::parse(run_id.as_str()).is_none() {
        return Ok(());
    }
    let stamp = |identity: &Option<Identity>| identity.as_ref().map(Stamp::of);
    let (log, is_same) = match archive.log(&run_id)? {
        Found::File(log) => {
            let identity = Some(log.identity());
            let is_same = stamp(&identity) == entry.log && entry.fits() && Ends::of(&log)? == entry.ends;
            (identity, is_same)
        }
        Found::Nothing => (None, entry.log.is_none() && entry.ends == Ends::default()),
        Found::NotRegular => (None, false),
    };
    let glance = Glance { log, graph: archive.graph_identity(&run_id)? };
    let is_same = is_same && stamp(&glance.graph) == entry.graph;
    if is_same {
        let seen = Seen { identity: glance.log, offset: entry.offset, first: entry.first, edge: entry.edge };
        let run = index.run_of_folder(&run_id);
        let generation = run.data().lineage.generation;
        let lineage = Lineage { generation, kept: entry.summary.next_seq, sum: entry.sum };
        let data = RunData { seen, lineage, ends: Some(entry.ends), ..RunData::cold(entry.summary, entry.ledger) };
        tail::adopt(index, &run, data, glance);
    }
    Ok(())
}

/// Writes the cache anew: all of it under another name, which then takes its place. Returns its size in bytes.
pub(super) fn write(folder: impl AsFd, archive: &Archive, index: &Index) -> io::Result<u64> {
    let remove = || match rustix::fs::unlinkat(&folder, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    };
    // A process that was killed may have left one.
    remove()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, TEMPORARY, flags, Mode::from_raw_mode(0o644))?;
    let written = write_lines(File::from(file), archive, index);
    let named = written.and_then(|written| {
        rustix::fs::renameat(&folder, TEMPORARY, &folder, NAME)?;
        Ok(written)
    });
    if named.is_err() {
        remove()?;
    }
    named
}

fn write_lines(file: File, archive: &Archive, index: &Index) -> io::Result<u64> {
    let head = head();
    let mut runs: Vec<Arc<Run>> = index.listing().folders().map(Arc::clone).collect();
    runs.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
    let mut out = BufWriter::with_capacity(256 * 1024, file);
    let mut size = head.len() as u64 + 1;
    writeln!(out, "{head}")?;
    let mut separator = "";
    for run in runs {
        if run.try_tail().is_some_and(|tail| tail.settled().is_none()) {
            // It changed just now: it is known once a second look finds it the same. Errors are told by the look.
            let _ = tail::try_look(index, Some(archive), &run);
        }
        let Some(entry) = entry_for(archive, &run) else { continue };
        let line = line_of(&head, &entry)?;
        write!(out, "{separator}{line}")?;
        size += line.len() as u64 + 2;
        separator = ",\n";
    }
    write!(out, "\n{FOOT}")?;
    out.flush()?;
    Ok(size)
}

/// What the cache says of a run; `None` when nothing sure can be said of it now.
fn entry_for(archive: &Archive, run: &Arc<Run>) -> Option<Entry> {
    let mut tail = run.try_tail()?;
    let Glance { log, graph } = tail.settled()?;
    let (seen, known, sum, ledger, summary) = {
        let data = run.data();
        if !data.is_listed() || !data.file_problems.is_empty() || data.seen.identity != log {
            return None;
        }
        (data.seen, data.ends, data.lineage.sum, data.ledger, Arc::clone(&data.summary))
    };
    let ends = match known {
        Some(ends) => ends,
        None => {
            // A log that cannot be read is told by the looks at it.
            let ends = tail::ends_of(archive, run, &seen).ok()??;
            run.data_mut(&mut tail).ends = Some(ends);
            ends
        }
    };
    run.is_counted_stale.store(false, Ordering::Relaxed);
    Some(Entry {
        log: log.as_ref().map(Stamp::of),
        graph: graph.as_ref().map(Stamp::of),
        ends,
        offset: seen.offset,
        first: seen.first,
        edge: seen.edge,
        sum,
        ledger,
        summary,
    })
}
