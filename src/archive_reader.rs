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
/// What a producer says of a run that ended.
pub const SUMMARY: &str = "summary.json";

/// The largest summary.json that is read, in bytes (8 MiB): more than the most nodes a graph may have can fill.
const MAX_SUMMARY_BYTES: usize = 8 * 1024 * 1024;

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
    device: u64,
    /// Its number on its device.
    pub inode: u64,
    /// When it was last written: seconds since the epoch, and nanoseconds.
    pub modified: (i64, u32),
    /// When it last changed in any way; nobody can set this back.
    changed: (i64, u32),
    /// Bytes.
    pub size: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        // The types of these fields differ between systems; i128 holds each of them. What cannot be is cut to its bound.
        let whole = |value: i128| u64::try_from(value).unwrap_or(u64::MAX);
        let time = |seconds: i128, nanoseconds: i128| {
            (i64::try_from(seconds).unwrap_or(i64::MAX), u32::try_from(nanoseconds).unwrap_or(u32::MAX))
        };
        Self {
            device: whole(i128::from(stat.st_dev)),
            inode: whole(i128::from(stat.st_ino)),
            modified: time(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            changed: time(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
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
        self.listing().map(|listing| listing.run_ids)
    }

    /// Everything in the folder of the run folders, by name.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed.
    pub fn listing(&self) -> Result<Listing, ReaderError> {
        let mut listing = Listing::default();
        let Some(runs) = &self.runs else { return Ok(listing) };
        if let Some(only) = &self.only {
            listing.run_ids.push(only.clone());
            return Ok(listing);
        }
        let entries = Dir::read_from(runs).map_err(|error| ReaderError::io(RUNS, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| ReaderError::io(RUNS, error))?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            let Some(run_id) = entry.file_name().to_str().ok().and_then(RunId::parse) else {
                listing.others.push(name.into_owned());
                continue;
            };
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say in the listing.
                FileType::Unknown => rustix::fs::statat(runs, run_id.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                _ => false,
            };
            if is_folder {
                listing.run_ids.push(run_id);
            } else {
                listing.others.push(name.into_owned());
            }
        }
        listing.run_ids.sort_unstable();
        listing.others.sort_unstable();
        Ok(listing)
    }

    /// Whether a run folder was named, which is then the only run.
    pub fn is_one_run(&self) -> bool {
        self.only.is_some()
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

    /// Opens a run's log; one call of the system where it knows how to follow no link on the whole way.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be opened.
    pub fn log(&self, run_id: &RunId) -> Result<Found<LogFile>, ReaderError> {
        #[cfg(target_os = "linux")]
        if let Some(runs) = &self.runs {
            let path = format!("{run_id}/{LOG}");
            let links = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
            // What does not open so is asked about step by step.
            if let Ok(file) = rustix::fs::openat2(runs, &path, READ_ONLY, Mode::empty(), links) {
                let name = format!("{RUNS}/{path}");
                return Ok(match regular(file).map_err(|error| ReaderError::io(name.clone(), error))? {
                    Found::File((file, identity)) => Found::File(LogFile::new(file, identity, name)),
                    Found::Nothing => Found::Nothing,
                    Found::NotRegular => Found::NotRegular,
                });
            }
        }
        self.run(run_id)?.map_or(Ok(Found::Nothing), |folder| folder.log())
    }

    /// What a run's graph.json looks like from outside.
    ///
    /// # Errors
    ///
    /// When the system refuses for another reason than that there is nothing.
    pub fn graph_identity(&self, run_id: &RunId) -> Result<Option<Identity>, ReaderError> {
        self.runs.as_ref().map_or(Ok(None), |runs| identity_at(runs.as_fd(), run_id, GRAPH))
    }

    /// What a run's files look like from outside; opens nothing, so that a run that did not change costs two stats.
    ///
    /// # Errors
    ///
    /// When the system refuses for another reason than that there is nothing.
    pub fn glance(&self, run_id: &RunId) -> Result<Glance, ReaderError> {
        let Some(runs) = &self.runs else { return Ok(Glance::default()) };
        let look = |name| identity_at(runs.as_fd(), run_id, name);
        Ok(Glance { log: look(LOG)?, graph: look(GRAPH)? })
    }

    /// The folder of the run folders as it is now; its times tell that an entry came or went.
    pub fn runs_identity(&self) -> Option<Identity> {
        self.runs.as_ref().and_then(|runs| rustix::fs::fstat(runs).ok()).map(|stat| Identity::of(&stat))
    }

    /// The handle of the folder of the run folders.
    pub fn runs_handle(&self) -> Option<BorrowedFd<'_>> {
        self.runs.as_ref().map(AsFd::as_fd)
    }
}

/// Whether this is the folder of one run and no archive: a log or a graph is in it, and no `runs`.
pub fn is_run_folder(path: &Path) -> bool {
    let has = |name: &str| path.join(name).symlink_metadata().is_ok();
    !has(RUNS) && (has(LOG) || has(GRAPH))
}

/// What stands beside each other in the folder of the run folders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The run folders.
    pub run_ids: Vec<RunId>,
    /// What is no run folder: a link, a file, a folder whose name is no run_id. Names may be hostile.
    pub others: Vec<String>,
}

fn identity_at(runs: BorrowedFd<'_>, run_id: &RunId, name: &str) -> Result<Option<Identity>, ReaderError> {
    let path = format!("{run_id}/{name}");
    match rustix::fs::statat(runs, &path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Identity::of(&stat))),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(ReaderError::io(format!("{RUNS}/{path}"), error)),
    }
}

/// Non-blocking: opening a FIFO that nobody writes would wait for ever.
const READ_ONLY: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The file, if it is one.
fn regular(file: OwnedFd) -> Result<Found<(File, Identity)>, Errno> {
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Found::NotRegular);
    }
    Ok(Found::File((File::from(file), Identity::of(&stat))))
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

/// A log that a person named by its own path, and the folder that it stands in.
#[derive(Debug)]
pub struct NamedLog {
    folder: RunFolder,
    name: String,
}

impl NamedLog {
    /// Opens the folder of the log at `path`. The run is the one that its folder is named after when it stands where an
    /// archive keeps it (`runs/RUN_ID/transitions.jsonl`), else the one of its first event.
    ///
    /// # Errors
    ///
    /// When the path is missing, or it or its folder cannot be read.
    pub fn open(path: &Path) -> Result<Self, ReaderError> {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ReaderError::Missing(path.to_owned()),
            _ => ReaderError::io(path.display().to_string(), error),
        };
        // The file's own place, however it was typed: links on the way to it are the user's own.
        let real = path.canonicalize().map_err(refused)?;
        let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let above = real.parent().unwrap_or(Path::new("/"));
        let is_in_archive = name == LOG && above.parent().and_then(Path::file_name).is_some_and(|name| name == RUNS);
        let folder_name = above.file_name().and_then(|name| name.to_str()).and_then(RunId::parse);
        let stands_in = folder_name.filter(|_| is_in_archive);
        let any = RunId::parse("log").ok_or_else(|| ReaderError::Missing(path.to_owned()))?;
        let folder = RunFolder { folder: open_root(above)?, run_id: stands_in.clone().unwrap_or(any) };
        let mut log = Self { folder, name };
        if stands_in.is_none()
            && let Found::File(file) = log.log()?
            && let Some(run_id) = log::first_run_id(&file)?
        {
            log.folder.run_id = run_id;
        }
        Ok(log)
    }

    /// The folder; its run_id is the run that the log is of.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Opens the log.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn log(&self) -> Result<Found<LogFile>, ReaderError> {
        self.folder.log_named(&self.name)
    }
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
        self.log_named(LOG)
    }

    fn log_named(&self, name: &str) -> Result<Found<LogFile>, ReaderError> {
        Ok(match self.open(name)? {
            Found::Nothing => Found::Nothing,
            Found::NotRegular => Found::NotRegular,
            Found::File((file, identity)) => Found::File(LogFile::new(file, identity, self.name_of(name))),
        })
    }

    /// Reads graph.json, bounded.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn graph(&self) -> Result<Found<GraphBytes>, ReaderError> {
        Ok(match self.read(GRAPH, MAX_GRAPH_BYTES)? {
            Found::Nothing => Found::Nothing,
            Found::NotRegular => Found::NotRegular,
            Found::File((bytes, identity)) => {
                let graph = Graph::parse(&bytes).map_err(|error| error.to_string());
                Found::File(GraphBytes { bytes, identity, graph })
            }
        })
    }

    /// Reads summary.json; `Err` says why its bytes are not taken.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn summary(&self) -> Result<Found<Result<Vec<u8>, String>>, ReaderError> {
        Ok(match self.read(SUMMARY, MAX_SUMMARY_BYTES)? {
            Found::Nothing => Found::Nothing,
            Found::NotRegular => Found::NotRegular,
            Found::File((bytes, _)) if bytes.len() > MAX_SUMMARY_BYTES => {
                Found::File(Err(format!("{SUMMARY} is over 8 MiB")))
            }
            Found::File((bytes, _)) => Found::File(Ok(bytes)),
        })
    }

    /// Reads a file; one byte past the limit is enough to know that it is too large.
    fn read(&self, name: &str, most: usize) -> Result<Found<(Vec<u8>, Identity)>, ReaderError> {
        let (file, identity) = match self.open(name)? {
            Found::Nothing => return Ok(Found::Nothing),
            Found::NotRegular => return Ok(Found::NotRegular),
            Found::File(opened) => opened,
        };
        let mut bytes = Vec::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        while bytes.len() <= most {
            let read = log::read_at(&file, &mut chunk, bytes.len() as u64)
                .map_err(|error| ReaderError::io(self.name_of(name), error))?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..read]);
        }
        bytes.truncate(most + 1);
        Ok(Found::File((bytes, identity)))
    }

    fn name_of(&self, name: &str) -> String {
        format!("{RUNS}/{}/{name}", self.run_id)
    }

    fn open(&self, name: &str) -> Result<Found<(File, Identity)>, ReaderError> {
        let refused = |error: Errno| ReaderError::io(self.name_of(name), error);
        let file = match rustix::fs::openat(&self.folder, name, READ_ONLY, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            // A link; a socket; a device without a driver.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(Found::NotRegular),
            Err(error) => return Err(refused(error)),
        };
        regular(file).map_err(refused)
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
