//! The archive folder as a store: `ArchiveFileBackend`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, watch};

use super::index::{Index, Run};
use super::tail::{self, Effort};
use super::watcher::{self, Watcher};
use super::writer::{self, Lease};
use super::{append, failed, list, put_graph, read};
use crate::archive_reader::{Archive, ReaderError};
use crate::contract::{
    About, Appended, Change, Changes, GraphFile, GraphPut, Lines, ListPage, ListQuery, Loaded, Part, Principal,
    Problems, ReadLimit, Selection, Spawned, Store, StoreError, Summaries,
};
use crate::domain::RunId;
use crate::reduce::Summary;

/// How many batches are written at the same time; the others wait without holding a thread.
const WRITERS: usize = 32;

/// Whether anything may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// Ingest into runs of kahn's own.
    Own,
    /// Nothing at all.
    Nothing,
}

/// What the store, the tail reader and the writers have in common.
pub(super) struct Shared {
    root: PathBuf,
    writes: Writes,
    archive: RwLock<Option<Arc<Archive>>>,
    lease: Mutex<Option<Lease>>,
    is_read: watch::Sender<bool>,
    pub(super) index: Index,
}

impl Shared {
    /// The archive, opened; `None` while it is missing.
    pub(super) fn archive(&self) -> Option<Arc<Archive>> {
        self.archive.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder that was named.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the archive again, whatever stands in its place now.
    pub(super) fn reopen(&self) -> Result<(), ReaderError> {
        let found = match Archive::open(&self.root) {
            Ok(archive) => Some(Arc::new(archive)),
            Err(ReaderError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        *self.archive.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// Lets the tail reader read to the end of a run's log.
    pub(super) fn look(&self, run: &Arc<Run>, effort: Effort) -> Result<(), StoreError> {
        tail::look(&self.index, self.archive().as_deref(), run, effort).map(|_| ()).map_err(failed)
    }

    /// Whether a run's folder is known to be gone.
    pub(super) fn is_gone(&self, run_id: &RunId) -> bool {
        self.archive().is_none_or(|archive| matches!(archive.run(run_id), Ok(None)))
    }

    /// Takes the right to write, while there is an archive: one server writes an archive, a second one reads it. What is
    /// written then goes to the folder that stands there now, and not to one that was moved away.
    pub(super) fn prepare_to_write(&self) -> Result<(), StoreError> {
        if self.writes == Writes::Nothing {
            return Err(StoreError::ReadOnly);
        }
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        writer::renew_lease(&self.root, &mut lease)?;
        self.reopen().map_err(failed)
    }

    /// The archive folder to write the cache to; `None` when that is not this server's.
    pub(super) fn cache_folder(&self) -> Option<OwnedFd> {
        self.prepare_to_write().ok()?;
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().and_then(|lease| lease.folder().ok())
    }

    /// Says that every run was read.
    pub(super) fn has_read_all(&self) {
        self.is_read.send_replace(true);
    }

    /// The archive to write to, made when it is missing.
    pub(super) fn made_archive(&self) -> Result<Arc<Archive>, StoreError> {
        writer::make_archive(&self.root)?;
        self.prepare_to_write()?;
        self.archive().ok_or_else(|| StoreError::Unavailable("the archive vanished".into()))
    }
}

/// Log files in a folder, and what was reduced from them in memory.
pub(super) struct ArchiveFileBackend {
    shared: Arc<Shared>,
    writers: Arc<Semaphore>,
    _watcher: Watcher,
}

impl ArchiveFileBackend {
    /// Opens the archive; all of it is read while the server already listens, and then kept up to date.
    ///
    /// # Errors
    ///
    /// When the archive is there and cannot be read, or the poll cannot start.
    pub(super) fn open(root: &Path, writes: Writes) -> Result<(Self, Writes), ReaderError> {
        let mut lease = None;
        let mut writes = writes;
        if writes == Writes::Own
            && let Err(StoreError::ReadOnly) = writer::renew_lease(root, &mut lease)
        {
            log::warn!("{} may not be written, or another kahn writes it; it is served read-only", root.display());
            writes = Writes::Nothing;
        }
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            writes,
            archive: RwLock::default(),
            lease: Mutex::new(lease),
            is_read: watch::Sender::new(false),
            index: Index::new(),
        });
        shared.reopen()?;
        let run_ids = shared.archive().map_or(Ok(Vec::new()), |archive| archive.run_ids())?;
        let watcher = watcher::start(&shared, run_ids)
            .map_err(|source| ReaderError::Io { what: "the archive (no thread to read it)".into(), source })?;
        Ok((Self { shared, writers: Arc::new(Semaphore::new(WRITERS)), _watcher: watcher }, writes))
    }

    /// Waits until every run was read: no answer shows a part of the archive as if it were all of it.
    async fn read_all(&self) -> Result<&Shared, StoreError> {
        if !*self.shared.is_read.borrow() {
            let mut is_read = self.shared.is_read.subscribe();
            let waited = is_read.wait_for(|is_read| *is_read).await.map(|_| ());
            waited.map_err(|error| StoreError::Failed(error.into()))?;
        }
        Ok(&self.shared)
    }

    /// Does file work away from the threads that serve requests. Work that was begun is finished, whoever stops waiting.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_all().await?;
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|error| Err(StoreError::Failed(error.into())))
    }

    async fn writing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.writers).acquire_owned().await;
        let permit = permit.map_err(|error| StoreError::Unavailable(error.into()))?;
        self.blocking(move |shared| {
            let _permit = permit;
            work(shared)
        })
        .await
    }
}

#[async_trait]
impl Store for ArchiveFileBackend {
    async fn list(&self, _who: &Principal, query: &ListQuery) -> Result<ListPage, StoreError> {
        {
            let listing = self.read_all().await?.index.listing();
            if list::is_cheap(query, &listing) {
                return Ok(list::page(&listing, query));
            }
        }
        let query = query.clone();
        self.blocking(move |shared| Ok(list::page(&shared.index.listing(), &query))).await
    }

    async fn summaries(&self, _who: &Principal, selection: Selection) -> Result<Summaries, StoreError> {
        // All are held anyway.
        let all = self.blocking(move |shared| Ok(list::summaries(&shared.index.listing(), selection))).await?;
        Ok(stream::iter([Ok(all)]).boxed())
    }

    async fn summary(&self, _who: &Principal, run_id: &RunId) -> Result<Option<Arc<Summary>>, StoreError> {
        Ok(self.read_all().await?.index.listing().row(run_id).map(Arc::clone))
    }

    async fn load(&self, _who: &Principal, run_id: &RunId) -> Result<Option<Loaded>, StoreError> {
        let Some(run) = self.read_all().await?.index.listing().run(run_id) else { return Ok(None) };
        if let Some(loaded) = run.loaded() {
            self.shared.index.touch(&run);
            return Ok(Some(loaded));
        }
        let run_id = run_id.clone();
        self.blocking(move |shared| read::loaded(shared, &run_id)).await
    }

    async fn spawned(&self, _who: &Principal, run_id: &RunId) -> Result<Vec<Spawned>, StoreError> {
        Ok(self.read_all().await?.index.listing().spawned(run_id))
    }

    async fn read(
        &self,
        _who: &Principal,
        run_id: &RunId,
        from_seq: u64,
        limit: ReadLimit,
    ) -> Result<Option<Lines>, StoreError> {
        let run_id = run_id.clone();
        self.blocking(move |shared| read::lines(shared, &run_id, from_seq, limit)).await
    }

    async fn graph(&self, _who: &Principal, run_id: &RunId) -> Result<Option<Option<GraphFile>>, StoreError> {
        let run_id = run_id.clone();
        self.blocking(move |shared| read::graph(shared, &run_id)).await
    }

    async fn put_graph(&self, _who: &Principal, run_id: &RunId, bytes: Bytes) -> Result<GraphPut, StoreError> {
        let run_id = run_id.clone();
        self.writing(move |shared| put_graph::put_graph(shared, &run_id, &bytes)).await
    }

    async fn append(&self, _who: &Principal, batch: Vec<Part>) -> Result<Appended, StoreError> {
        self.writing(move |shared| append::append(shared, &batch)).await
    }

    async fn problems(&self, _who: &Principal, run_id: &RunId) -> Result<Option<Problems>, StoreError> {
        let Some(run) = self.read_all().await?.index.listing().run(run_id) else { return Ok(None) };
        if let Some(problems) = read::known_problems(&run) {
            return Ok(Some(problems));
        }
        let run_id = run_id.clone();
        self.blocking(move |shared| read::problems(shared, &run_id)).await
    }

    async fn follow(&self, _who: &Principal) -> Result<Changes, StoreError> {
        let changes = self.shared.index.subscribe();
        let stream = futures_util::stream::unfold(changes, |mut changes| async move {
            match changes.recv().await {
                Ok(change) => Some((change, changes)),
                Err(RecvError::Lagged(_)) => Some((Change::All, changes)),
                Err(RecvError::Closed) => None,
            }
        });
        Ok(stream.boxed())
    }

    fn revision(&self, _who: &Principal, of: About<'_>) -> Option<u64> {
        let listing = self.shared.index.listing();
        match of {
            About::Everything => Some(listing.revision()),
            About::Run(run_id) => listing.run(run_id).map(|run| run.revision.load(Ordering::Relaxed)),
        }
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if !*self.shared.is_read.borrow() {
            return Err(StoreError::Unavailable("the archive is being read".into()));
        }
        self.blocking(|shared| match (Archive::open(&shared.root), shared.writes) {
            (Ok(_), _) | (Err(ReaderError::Missing(_)), Writes::Own) => Ok(()),
            (Err(error), _) => Err(StoreError::Unavailable(error.into())),
        })
        .await
    }
}
