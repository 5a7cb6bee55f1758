//! Reads archives: opens run folders beneath a directory handle and yields the bounded lines of a log.
//!
//! Links below the folder that the user named are never followed, and only regular files are read: a FIFO would hang a
//! thread, a device may never end. What would not be opened is not listed. Nothing is written, and there is no store here:
//! the oss backend and the command line both read through this one door.

mod log;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::domain::{Graph, MAX_GRAPH_BYTES, RunId};

pub use log::{CHUNK_BYTES, FOREIGN_RUN_ID, Judged, LogFile, LogReader, PROBLEMS_KEPT};

/// The folder of an archive that holds the run folders.
pub const RUNS: &str = "runs";
/// A run's log.
pub const LOG: &str = "transitions.jsonl";
/// A run's graph.
pub const GRAPH: &str = "graph.json";

/// Why an archive or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// Nothing is there.
    #[error("{} does not exist; give the path of an archive or of a run folder", .0.display())]
    Missing(PathBuf),
    /// Something else is there.
    #[error("{} is not a folder; give the path of an archive or of a run folder", .0.display())]
    NotAFolder(PathBuf),
    /// The runs are behind a link, or a file has their name.
    #[error("{} is a link or no folder; links in an archive are not followed: name the folder that holds the real runs/", .0.display())]
    RunsNotAFolder(PathBuf),
    /// A folder without runs and without the files of a run.
    #[error("{} is neither an archive (a folder with runs/) nor a run folder (one with transitions.jsonl or graph.json, named like its run)", .0.display())]
    NotAnArchive(PathBuf),
    /// The system refused.
    #[error("{what} cannot be read: {source}; check that it is there and that this user may read it")]
    Io {
        /// The file or folder.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ReaderError {
    fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}

/// Tells a file that was replaced, cut or written from one that is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: i128,
    inode: i128,
    mtime_ns: i128,
    /// Bytes.
    pub size: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        // The types of these fields differ between systems; i128 holds each of them.
        let mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Self {
            device: i128::from(stat.st_dev),
            inode: i128::from(stat.st_ino),
            mtime_ns,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }

    /// Whether both are the same file, however it grew or changed.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What stands where a file is looked for.
#[derive(Debug)]
pub enum Found<T> {
    /// Nothing.
    Nothing,
    /// A link, a folder, a FIFO, a device: not opened.
    NotRegular,
    /// The file.
    File(T),
}

/// A folder with runs, by its handle.
#[derive(Debug)]
pub struct Archive {
    /// The folder of the run folders; `None` while the archive has none.
    runs: Option<OwnedFd>,
    /// The one run that was named, when it was a run folder.
    only: Option<RunId>,
}

impl Archive {
    /// Opens an archive: a folder with `runs/`. One without `runs/` has no runs yet.
    ///
    /// # Errors
    ///
    /// When the path or its `runs` is missing, no folder, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, ReaderError> {
        let root = open_root(path)?;
        let runs = match open_folder(root.as_fd(), RUNS) {
            Ok(runs) => Some(runs),
            Err(Errno::NOENT) => None,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(ReaderError::RunsNotAFolder(path.join(RUNS))),
            Err(error) => return Err(ReaderError::io(path.join(RUNS).display().to_string(), error)),
        };
        Ok(Self { runs, only: None })
    }

    /// Opens what a person named: an archive, or one run folder (then it is the only run).
    ///
    /// # Errors
    ///
    /// As [`Archive::open`], and when the folder is neither.
    pub fn open_archive_or_run(path: &Path) -> Result<Self, ReaderError> {
        let archive = Self::open(path)?;
        if archive.runs.is_some() {
            return Ok(archive);
        }
        let neither = || ReaderError::NotAnArchive(path.to_owned());
        // The folder's own name, however it was typed (`.` or through a link of the user's).
        let real = path.canonicalize().map_err(|error| ReaderError::io(path.display().to_string(), error))?;
        let run_id = real.file_name().and_then(|name| name.to_str()).and_then(RunId::parse).ok_or_else(neither)?;
        let above = real.parent().ok_or_else(neither)?;
        let single = Self { runs: Some(open_root(above)?), only: Some(run_id.clone()) };
        let glance = single.glance(&run_id)?;
        if glance.log.is_none() && glance.graph.is_none() { Err(neither()) } else { Ok(single) }
    }

    /// The run folders, by name. Links and files among them are left out, and so is any name that is no run_id.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed.
    pub fn run_ids(&self) -> Result<Vec<RunId>, ReaderError> {
        let Some(runs) = &self.runs else { return Ok(Vec::new()) };
        if let Some(only) = &self.only {
            return Ok(vec![only.clone()]);
        }
        let entries = Dir::read_from(runs).map_err(|error| ReaderError::io(RUNS, error))?;
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| ReaderError::io(RUNS, error))?;
            let Some(run_id) = entry.file_name().to_str().ok().and_then(RunId::parse) else { continue };
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say in the listing.
                FileType::Unknown => rustix::fs::statat(runs, run_id.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                _ => false,
            };
            if is_folder {
                ids.push(run_id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Opens a run's folder; `None` when there is none (a link is none).
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn run(&self, run_id: &RunId) -> Result<Option<RunFolder>, ReaderError> {
        let Some(runs) = &self.runs else { return Ok(None) };
        match open_folder(runs.as_fd(), run_id.as_str()) {
            Ok(folder) => Ok(Some(RunFolder { folder, run_id: run_id.clone() })),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(ReaderError::io(format!("{RUNS}/{run_id}"), error)),
        }
    }

    /// What a run's files look like from outside; opens nothing, so that a run that did not change costs two stats.
    ///
    /// # Errors
    ///
    /// When the system refuses for another reason than that there is nothing.
    pub fn glance(&self, run_id: &RunId) -> Result<Glance, ReaderError> {
        let Some(runs) = &self.runs else { return Ok(Glance::default()) };
        let look = |name: &str| {
            let path = format!("{run_id}/{name}");
            match rustix::fs::statat(runs, &path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Ok(Some(Identity::of(&stat))),
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
                Err(error) => Err(ReaderError::io(format!("{RUNS}/{path}"), error)),
            }
        };
        Ok(Glance { log: look(LOG)?, graph: look(GRAPH)? })
    }

    /// The handle of the folder of the run folders.
    pub fn runs_handle(&self) -> Option<BorrowedFd<'_>> {
        self.runs.as_ref().map(AsFd::as_fd)
    }
}

/// What a run's files look like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Glance {
    /// The log.
    pub log: Option<Identity>,
    /// The graph.
    pub graph: Option<Identity>,
}

/// One run's folder, by its handle.
#[derive(Debug)]
pub struct RunFolder {
    folder: OwnedFd,
    run_id: RunId,
}

impl RunFolder {
    /// The run.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The folder's handle.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Opens the log.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be opened.
    pub fn log(&self) -> Result<Found<LogFile>, ReaderError> {
        Ok(match self.open(LOG)? {
            Found::Nothing => Found::Nothing,
            Found::NotRegular => Found::NotRegular,
            Found::File((file, identity)) => Found::File(LogFile::new(file, identity, self.name_of(LOG))),
        })
    }

    /// Reads graph.json, bounded.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn graph(&self) -> Result<Found<GraphBytes>, ReaderError> {
        let (file, identity) = match self.open(GRAPH)? {
            Found::Nothing => return Ok(Found::Nothing),
            Found::NotRegular => return Ok(Found::NotRegular),
            Found::File(opened) => opened,
        };
        let mut bytes = Vec::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        // One byte past the limit is enough for Graph::parse to say that it is too large.
        while bytes.len() <= MAX_GRAPH_BYTES {
            let read = log::read_at(&file, &mut chunk, bytes.len() as u64)
                .map_err(|error| ReaderError::io(self.name_of(GRAPH), error))?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..read]);
        }
        bytes.truncate(MAX_GRAPH_BYTES + 1);
        let graph = Graph::parse(&bytes).map_err(|error| error.to_string());
        Ok(Found::File(GraphBytes { bytes, identity, graph }))
    }

    fn name_of(&self, name: &str) -> String {
        format!("{RUNS}/{}/{name}", self.run_id)
    }

    fn open(&self, name: &str) -> Result<Found<(File, Identity)>, ReaderError> {
        // Non-blocking: opening a FIFO that nobody writes would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let refused = |error: Errno| ReaderError::io(self.name_of(name), error);
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            // A link; a socket; a device without a driver.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(Found::NotRegular),
            Err(error) => return Err(refused(error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(refused)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Found::NotRegular);
        }
        Ok(Found::File((File::from(file), Identity::of(&stat))))
    }
}

/// graph.json as it was read.
#[derive(Debug)]
pub struct GraphBytes {
    /// Its bytes (cut behind the limit when it is over it).
    pub bytes: Vec<u8>,
    /// The file they are of.
    pub identity: Identity,
    /// What can be used of it, or why it counts as absent.
    pub graph: Result<Graph, String>,
}

/// The folder that the user named: links on the way to it are the user's own.
fn open_root(path: &Path) -> Result<OwnedFd, ReaderError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => ReaderError::Missing(path.to_owned()),
        Errno::NOTDIR => ReaderError::NotAFolder(path.to_owned()),
        error => ReaderError::io(path.display().to_string(), error),
    })
}

fn open_folder(above: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}
