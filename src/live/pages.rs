//! Shared pages of logs. A page is read and written out once for all clients that want it at the same time, and the frames
//! that are held at any moment are bounded over the whole server.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::house::Topic;
use super::seats::held;
use crate::contract::{Lines, Principal, ReadLimit, Store, StoreError};
use crate::domain::{LogId, RunId};

/// How much of a log one page holds: the queue of a client.
const PAGE: ReadLimit = ReadLimit { lines: 256, bytes: 256 * 1024 };
/// Pages that are read at the same time.
const READERS: usize = 16;
/// Frames held at the same time, over all clients.
const ROOM_KIB: u32 = 96 * 1024;
/// Pages that stay for clients that come a little later, in bytes.
const KEPT: usize = 16 * 1024 * 1024;
/// Places of one log that are remembered before they are swept.
const CELLS: usize = 64;

/// Frames as they go over the wire, one behind the other.
#[derive(Debug, Default)]
pub struct Frames {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Where each one ends.
    pub ends: Vec<usize>,
}

/// How lines of a log, the first with this seq, become frames.
pub type RenderPage = fn(&RunId, u64, &Lines) -> Frames;

/// Some lines of a log, as frames.
#[derive(Debug)]
pub struct Page {
    /// The log; `None` while it has no line.
    pub log_id: Option<LogId>,
    /// How many lines the log had when it was read.
    pub next_seq: u64,
    /// See [`Lines::generation`].
    pub generation: u64,
    /// One frame a line, from the seq on that was asked for.
    pub frames: Vec<Bytes>,
    size: usize,
}

/// Where a client goes on in a log.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The seq of the next line it wants.
    pub from_seq: u64,
    /// The generation of the lines it has, or 0: a page of an older one does not go on with them.
    pub generation: u64,
}

/// Bytes that count as held until the last of their parts is dropped.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The pages of one run since its last wake-up, by their first seq.
#[derive(Default)]
pub(super) struct Shelf(Mutex<HashMap<u64, Arc<Cell>>>);

/// One page; whoever locks it first reads it.
type Cell = tokio::sync::Mutex<Weak<Page>>;

impl Shelf {
    /// What comes from here on is read anew.
    pub(super) fn clear(&self) {
        held(&self.0).clear();
    }

    fn cell(&self, from_seq: u64) -> Arc<Cell> {
        let mut cells = held(&self.0);
        if cells.len() >= CELLS {
            let is_used = |cell: &Arc<Cell>| {
                Arc::strong_count(cell) > 1 || cell.try_lock().is_ok_and(|page| page.strong_count() > 0)
            };
            cells.retain(|_, cell| is_used(cell));
        }
        Arc::clone(cells.entry(from_seq).or_default())
    }
}

/// The reader of all pages.
pub(super) struct Pages {
    store: Arc<dyn Store>,
    readers: Semaphore,
    room: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

/// The pages that were read last.
#[derive(Default)]
struct Kept {
    pages: VecDeque<Arc<Page>>,
    size: usize,
}

impl Pages {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            readers: Semaphore::new(READERS),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            kept: Mutex::default(),
        }
    }

    pub(super) async fn page(
        &self,
        who: &Principal,
        topic: &Topic,
        wanted: Wanted,
        render: RenderPage,
    ) -> Result<Option<Arc<Page>>, StoreError> {
        let from_seq = wanted.from_seq;
        let cell = topic.shelf.cell(from_seq);
        let mut shared = cell.lock().await;
        // The shelf is cleared a little after the log has become another one.
        if let Some(page) = shared.upgrade().filter(|page| page.generation >= wanted.generation) {
            return Ok(Some(page));
        }
        let closed = |error: tokio::sync::AcquireError| StoreError::Unavailable(error.into());
        let frames;
        let (log_id, next_seq, generation) = {
            let _reader = self.readers.acquire().await.map_err(closed)?;
            let Some(lines) = self.store.read(who, &topic.run_id, from_seq, PAGE).await? else { return Ok(None) };
            frames = render(&topic.run_id, from_seq, &lines);
            (lines.log_id, lines.next_seq, lines.generation)
        };
        let size = frames.bytes.len();
        let kib = u32::try_from(size.div_ceil(1024)).unwrap_or(ROOM_KIB).min(ROOM_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(closed)?;
        let bytes = Bytes::from_owner(Held { bytes: frames.bytes, _room: room });
        let starts = std::iter::once(0).chain(frames.ends.iter().copied());
        let frames = starts.zip(frames.ends.iter()).map(|(start, end)| bytes.slice(start..*end)).collect();
        let page = Arc::new(Page { log_id, next_seq, generation, frames, size });
        *shared = Arc::downgrade(&page);
        self.keep(&page);
        Ok(Some(page))
    }

    fn keep(&self, page: &Arc<Page>) {
        if page.frames.is_empty() {
            return;
        }
        let mut kept = held(&self.kept);
        kept.size += page.size;
        kept.pages.push_back(Arc::clone(page));
        while kept.size > KEPT
            && let Some(oldest) = kept.pages.pop_front()
        {
            kept.size -= oldest.size;
        }
    }
}
