//! Writing in the archive: the right to it, the folder of a run of kahn's own, its log.
//!
//! Nothing is written outside the archive folder, and a log is only ever appended to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::archive_reader::{Archive, Found, GRAPH, LOG, RUNS, RunFolder};
use crate::contract::StoreError;
use crate::domain::line::written;
use crate::domain::{RunId, parse_line};

/// An empty file that says: this log is kahn's.
const MARKER: &str = ".kahn-writer";

/// About how much is written at once.
const WRITE: usize = 4 * 1024 * 1024;

const NEW_FOLDER: Mode = Mode::from_raw_mode(0o755);
const NEW_FILE: Mode = Mode::from_raw_mode(0o644);

/// The right to write an archive, held by a lock on its folder; it ends with the process.
pub(super) struct Lease {
    folder: OwnedFd,
}

impl Lease {
    /// The folder's handle; the lease lasts as long as one of its handles.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }
}

/// Takes the lease of the archive that stands there now; without an archive there is none to take.
///
/// # Errors
///
/// [`StoreError::ReadOnly`] when another server has it.
pub(super) fn renew_lease(root: &Path, lease: &mut Option<Lease>) -> Result<(), StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(root, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(write_failed(error)),
    };
    if let Some(held) = lease
        && is_same(&held.folder, &folder).map_err(write_failed)?
    {
        return Ok(());
    }
    match lock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => *lease = Some(Lease { folder }),
        Err(Errno::WOULDBLOCK) => return Err(StoreError::ReadOnly),
        Err(error) => return Err(write_failed(error)),
    }
    Ok(())
}

/// Makes the archive folder and its `runs/` where they are missing.
pub(super) fn make_archive(root: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> =
        root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(write_failed(error)),
            _ => {}
        }
        if let Some(above) = path.parent() {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            File::open(above).and_then(|above| above.sync_all()).map_err(write_failed)?;
        }
    }
    let root = File::open(root).map_err(write_failed)?;
    match rustix::fs::mkdirat(&root, RUNS, NEW_FOLDER) {
        Ok(()) => root.sync_all().map_err(write_failed),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(write_failed(error)),
    }
}

/// Whose a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It bears the mark.
    Kahn,
    /// Another program's: it has a log or a graph and no mark.
    Other,
    /// An empty folder.
    Nobody,
}

/// A run folder under its lock: nobody else who asks for the lock writes there meanwhile.
pub(super) struct Claim {
    folder: RunFolder,
    owner: Owner,
    log: Option<File>,
    /// So many bytes of the next line to be appended stand there already, torn off.
    begun: usize,
    /// The log is new: its entry in the folder is not durable yet.
    has_new_log: bool,
}

/// What came of asking for a run folder.
pub(super) enum Claimed {
    /// It is there and locked.
    Folder(Claim),
    /// There is none.
    Nothing,
    /// It changed meanwhile: ask again, holding nothing.
    Again,
}

impl Claim {
    /// Locks the folder that is there; waits for whoever has the lock.
    pub(super) fn existing(archive: &Archive, run_id: &RunId) -> Result<Claimed, StoreError> {
        let Some(folder) = archive.run(run_id).map_err(super::failed)? else { return Ok(Claimed::Nothing) };
        lock(folder.handle(), FlockOperation::LockExclusive).map_err(write_failed)?;
        // It may have been removed while the lock was waited for.
        match archive.run(run_id).map_err(super::failed)? {
            Some(now) if is_same(folder.handle(), now.handle()).map_err(write_failed)? => Self::of(folder),
            _ => Ok(Claimed::Again),
        }
    }

    /// Makes the folder. It does not wait: a lock that another one got first, while others are held, could be waited for in
    /// a circle.
    pub(super) fn made(archive: &Archive, run_id: &RunId) -> Result<Claimed, StoreError> {
        let Some(runs) = archive.runs_handle() else { return Ok(Claimed::Again) };
        match rustix::fs::mkdirat(runs, run_id.as_str(), NEW_FOLDER) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A folder is there by now; anything else by this name is not kahn's.
                let found = archive.run(run_id).map_err(super::failed)?;
                return if found.is_some() { Ok(Claimed::Again) } else { Err(foreign(run_id)) };
            }
            Err(error) => return Err(write_failed(error)),
        }
        let Some(folder) = archive.run(run_id).map_err(super::failed)? else { return Ok(Claimed::Again) };
        match lock(folder.handle(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::of(folder),
            Err(Errno::WOULDBLOCK) => Ok(Claimed::Again),
            Err(error) => Err(write_failed(error)),
        }
    }

    fn of(folder: RunFolder) -> Result<Claimed, StoreError> {
        let kind_of = |name: &str| match rustix::fs::statat(folder.handle(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(write_failed(error)),
        };
        let owner = match kind_of(MARKER)? {
            Some(FileType::RegularFile) => Owner::Kahn,
            Some(_) => Owner::Other,
            None if kind_of(LOG)?.is_some() || kind_of(GRAPH)?.is_some() => Owner::Other,
            None => Owner::Nobody,
        };
        Ok(Claimed::Folder(Self { folder, owner, log: None, begun: 0, has_new_log: false }))
    }

    /// Whose the run is.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// The folder.
    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Makes the run kahn's: the mark is durable in its folder before there is a log. The folder's own entry may wait until the
    /// log is made durable: without it there is neither.
    pub(super) fn mark(&mut self) -> Result<(), StoreError> {
        if self.owner == Owner::Nobody {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let marker = rustix::fs::openat(self.folder.handle(), MARKER, flags, NEW_FILE).map_err(write_failed)?;
            rustix::fs::fsync(&marker).map_err(write_failed)?;
            rustix::fs::fsync(self.folder.handle()).map_err(write_failed)?;
            self.owner = Owner::Kahn;
        }
        Ok(())
    }

    /// Makes the entries of the run's folder and of the folder above it durable.
    pub(super) fn anchor(&self, archive: &Archive) -> Result<(), StoreError> {
        rustix::fs::fsync(self.folder.handle()).map_err(write_failed)?;
        match archive.runs_handle() {
            Some(runs) => rustix::fs::fsync(runs).map_err(write_failed),
            None => Ok(()),
        }
    }

    /// Whether this line can be appended as things are: the log ends in whole lines, or in a beginning of this very line that a
    /// newline would turn into an event of its own: `{...}` of a line with spaces behind it. The rest makes that one whole.
    pub(super) fn goes_on_with(&mut self, line: &[u8]) -> Result<bool, StoreError> {
        let line = written(line);
        self.begun = 0;
        let Found::File(log) = self.folder.log().map_err(super::failed)? else { return Ok(true) };
        let size = log.identity().size;
        let wanted = size.min(line.len() as u64 + 1);
        let mut end = vec![0; usize::try_from(wanted).unwrap_or_default()];
        if log.read_at(&mut end, size - wanted).map_err(super::failed)? < end.len() {
            return Ok(false);
        }
        let torn = match memchr::memrchr(b'\n', &end) {
            Some(newline) => &end[newline + 1..],
            None if wanted == size => &end,
            None => return Ok(false),
        };
        let is_begun = line.len() > torn.len() && line.starts_with(torn) && parse_line(torn).is_ok();
        self.begun = if is_begun { torn.len() } else { 0 };
        Ok(torn.is_empty() || is_begun)
    }

    /// Ends a torn last line: it counts as whatever it then is.
    pub(super) fn end_torn_line(&mut self) -> Result<(), StoreError> {
        let log = match self.folder.log().map_err(super::failed)? {
            Found::File(log) => log,
            Found::Nothing => return Ok(()),
            Found::NotRegular => return Err(foreign(self.folder.run_id())),
        };
        let mut last = [0];
        let size = log.identity().size;
        if size > 0 && log.read_at(&mut last, size - 1).map_err(super::failed)? == 1 && last != *b"\n" {
            self.write(b"\n")?;
        }
        Ok(())
    }

    /// Opens the log. A batch opens all of its logs before it writes to one: a lack of descriptors must not leave half of it.
    pub(super) fn open(&mut self) -> Result<(), StoreError> {
        self.open_log().map(|_| ())
    }

    /// Appends whole lines, in few writes: a large batch is not held a second time.
    pub(super) fn append(&mut self, lines: &[Bytes]) -> Result<(), StoreError> {
        let size: usize = lines.iter().map(|line| line.len() + 1).sum();
        let mut text = Vec::with_capacity(size.min(WRITE));
        let mut begun = std::mem::take(&mut self.begun);
        for line in lines {
            if !text.is_empty() && text.len() + line.len() >= WRITE {
                self.write(&text)?;
                text.clear();
            }
            text.extend_from_slice(written(line).get(std::mem::take(&mut begun)..).unwrap_or_default());
            text.push(b'\n');
        }
        self.write(&text)
    }

    /// The log was made by this claim.
    pub(super) fn has_new_log(&self) -> bool {
        self.has_new_log
    }

    /// Lets others write; what was written can still be made durable.
    pub(super) fn unlock(&self) -> Result<(), StoreError> {
        lock(self.folder.handle(), FlockOperation::Unlock).map_err(write_failed)
    }

    /// After a failed sync: what the system holds of the log and could not write must not be taken for what the disk holds.
    /// It is a request; a system that does not know it keeps what it has.
    pub(super) fn forget_unwritten(&self) {
        #[cfg(target_os = "linux")]
        if let Some(log) = &self.log {
            let _ = rustix::fs::fadvise(log, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// Makes everything that was appended durable. The entries above the log too, once a process: lines that were there
    /// already may be another one's, killed before it did so.
    pub(super) fn sync(&self, archive: &Archive, is_anchored: &AtomicBool) -> Result<(), StoreError> {
        self.opened()?.sync_data().map_err(write_failed)?;
        if self.has_new_log || !is_anchored.load(Ordering::Acquire) {
            self.anchor(archive)?;
            is_anchored.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut log: &File = self.open_log()?;
        let count = loop {
            match log.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done.map_err(write_failed)?,
            }
        };
        // What was written stays: the next append ends the torn line, and a sender sends the batch again.
        if count < bytes.len() { Err(StoreError::NoSpace(io::ErrorKind::StorageFull.into())) } else { Ok(()) }
    }

    /// The log, to append to; made when it is missing.
    fn open_log(&mut self) -> Result<&File, StoreError> {
        if self.log.is_none() {
            let base = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let open = |flags| rustix::fs::openat(self.folder.handle(), LOG, flags, NEW_FILE);
            let log = match open(base) {
                Err(Errno::NOENT) => {
                    self.has_new_log = true;
                    open(base | OFlags::CREATE | OFlags::EXCL)
                }
                opened => opened,
            };
            let log = match log {
                Ok(log) => log,
                Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(foreign(self.folder.run_id())),
                Err(error) => return Err(write_failed(error)),
            };
            let stat = rustix::fs::fstat(&log).map_err(write_failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(foreign(self.folder.run_id()));
            }
            self.log = Some(log.into());
        }
        self.opened()
    }

    fn opened(&self) -> Result<&File, StoreError> {
        self.log.as_ref().ok_or_else(|| StoreError::Failed("the log is not open".into()))
    }
}

/// Another program's run.
pub(super) fn foreign(run_id: &RunId) -> StoreError {
    StoreError::ForeignLog { run_id: run_id.clone() }
}

/// What a failed write means to whoever asked for it.
pub(super) fn write_failed(error: impl Into<io::Error>) -> StoreError {
    let error: io::Error = error.into();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG) => StoreError::NoSpace(error),
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
            log::warn!("the archive takes no writes: {error}");
            StoreError::ReadOnly
        }
        _ => StoreError::Unavailable(error.into()),
    }
}

fn lock(folder: BorrowedFd<'_>, operation: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(folder, operation) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn is_same(a: impl AsFd, b: impl AsFd) -> Result<bool, Errno> {
    let place = |stat: Stat| (stat.st_dev, stat.st_ino);
    Ok(place(rustix::fs::fstat(a)?) == place(rustix::fs::fstat(b)?))
}
