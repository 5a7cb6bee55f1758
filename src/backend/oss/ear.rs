//! Hears of changes at once, where the system tells of them: a hint to look, beside the poll that is correct alone.
//!
//! Linux's inotify through rustix, which the build has anyway: one descriptor that the polling thread waits on, links not
//! followed, and no further crate or thread. Elsewhere, and where inotify is refused (its limits are reached, some network
//! file systems, some containers), nothing is heard and the poll is all there is.

use std::collections::HashSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use self::imp::Inotify;
use crate::domain::RunId;

/// Waits for changes of an archive.
pub(super) struct Ear {
    /// Its other end is dropped when the store is.
    stop: UnixStream,
    inotify: Option<Inotify>,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The store is gone.
    pub(super) has_stopped: bool,
    /// Runs that changed, came or went.
    pub(super) runs: HashSet<RunId>,
    /// The folder of the runs came or went, or something was missed: look at everything.
    pub(super) is_lost: bool,
}

/// Whether a folder is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listening {
    /// From now on: what was written before is not told, so it has to be read once.
    Begun,
    /// It was before.
    Already,
    /// It cannot be.
    Deaf,
}

impl Ear {
    /// Listens to nothing yet; whoever drops the returned stream ends the waiting for good.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptors.
    pub(super) fn new() -> io::Result<(Self, UnixStream)> {
        let (stop, other) = UnixStream::pair()?;
        Ok((Self { stop, inotify: Inotify::new() }, other))
    }

    /// Whether changes are heard of at all.
    pub(super) fn is_deaf(&self) -> bool {
        self.inotify.is_none()
    }

    /// Listens to this archive's folders, and to no run of what was listened to before.
    pub(super) fn listen_to_archive(&mut self, root: &Path) {
        if let Some(inotify) = &mut self.inotify
            && !inotify.listen_to_archive(root)
        {
            self.inotify = Inotify::new();
        }
    }

    /// Listens to the folder of a run.
    pub(super) fn listen_to_run(&mut self, root: &Path, run_id: &RunId) -> Listening {
        self.inotify.as_mut().map_or(Listening::Deaf, |inotify| inotify.listen_to_run(root, run_id))
    }

    /// Stops listening to the folder of a run.
    pub(super) fn leave_run(&mut self, run_id: &RunId) {
        if let Some(inotify) = &mut self.inotify {
            inotify.leave_run(run_id);
        }
    }

    /// Waits until something is heard, at most so long.
    pub(super) fn wait(&mut self, at_most: Duration) -> Heard {
        let timeout = Timespec::try_from(at_most).ok();
        let mut descriptors = vec![PollFd::new(&self.stop, PollFlags::IN)];
        if let Some(inotify) = &self.inotify {
            descriptors.push(PollFd::new(inotify, PollFlags::IN));
        }
        let polled = rustix::event::poll(&mut descriptors, timeout.as_ref());
        // Nothing is ever written to it: readable means that the other end is gone.
        let has_stopped = !descriptors[0].revents().is_empty();
        let is_told = descriptors.get(1).is_some_and(|descriptor| !descriptor.revents().is_empty());
        let mut heard = Heard { has_stopped, ..Heard::default() };
        match polled {
            Ok(_) if is_told => {
                if let Some(inotify) = &mut self.inotify {
                    inotify.take(&mut heard);
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            // It must not turn into a loop that never rests.
            Err(_) => std::thread::park_timeout(at_most),
        }
        heard
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

    use super::{Heard, Listening};
    use crate::archive_reader::{GRAPH, LOG, RUNS};
    use crate::domain::RunId;

    /// Runs that are listened to at once; the poll has the rest.
    const MOST_RUNS: usize = 4096;

    /// One inotify instance.
    pub(super) struct Inotify {
        descriptor: OwnedFd,
        folders: HashMap<i32, Folder>,
        runs: HashMap<RunId, i32>,
    }

    enum Folder {
        /// The archive.
        Root,
        /// Its folder of run folders.
        Runs,
        Run(RunId),
    }

    impl AsFd for Inotify {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.descriptor.as_fd()
        }
    }

    impl Inotify {
        pub(super) fn new() -> Option<Self> {
            let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|error| log::info!("changes are not told by the system ({error}); the archive is polled"))
                .ok()?;
            Some(Self { descriptor, folders: HashMap::new(), runs: HashMap::new() })
        }

        /// `false` when folders of before are listened to: begin with a new instance.
        pub(super) fn listen_to_archive(&mut self, root: &Path) -> bool {
            if !self.folders.is_empty() {
                let Some(new) = Self::new() else { return false };
                *self = new;
            }
            let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
            for (path, folder) in [(root.to_owned(), Folder::Root), (root.join(RUNS), Folder::Runs)] {
                // The root may be a link of the user's own; it is missing when the archive is.
                if let Ok(watch) = inotify::add_watch(&self.descriptor, path, entries | WatchFlags::ONLYDIR) {
                    self.folders.insert(watch, folder);
                }
            }
            true
        }

        pub(super) fn listen_to_run(&mut self, root: &Path, run_id: &RunId) -> Listening {
            if self.runs.contains_key(run_id) {
                return Listening::Already;
            }
            if self.runs.len() >= MOST_RUNS {
                return Listening::Deaf;
            }
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
            let flags = flags | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW | WatchFlags::EXCL_UNLINK;
            match inotify::add_watch(&self.descriptor, root.join(RUNS).join(run_id.as_str()), flags) {
                Ok(watch) => {
                    // A folder that was renamed keeps its watch.
                    if let Some(Folder::Run(before)) = self.folders.insert(watch, Folder::Run(run_id.clone())) {
                        self.runs.remove(&before);
                    }
                    self.runs.insert(run_id.clone(), watch);
                    Listening::Begun
                }
                Err(_) => Listening::Deaf,
            }
        }

        pub(super) fn leave_run(&mut self, run_id: &RunId) {
            if let Some(watch) = self.runs.remove(run_id) {
                self.folders.remove(&watch);
                // The folder may be gone, and its watch with it.
                let _ = inotify::remove_watch(&self.descriptor, watch);
            }
        }

        /// Takes everything that was told.
        pub(super) fn take(&mut self, heard: &mut Heard) {
            let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
            let mut reader = Reader::new(self.descriptor.as_fd(), &mut buffer);
            let mut ended = Vec::new();
            // It ends with WOULDBLOCK; after any other error the poll goes on.
            while let Ok(event) = reader.next() {
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    heard.is_lost = true;
                }
                let name = event.file_name().and_then(|name| name.to_str().ok());
                match self.folders.get(&event.wd()) {
                    // Folders that were replaced are listened to anew once the poll has seen it.
                    Some(Folder::Root) => heard.is_lost |= name.is_none_or(|name| name == RUNS),
                    Some(Folder::Runs) => heard.runs.extend(name.and_then(RunId::parse)),
                    Some(Folder::Run(run_id)) if event.events().contains(ReadFlags::IGNORED) => {
                        ended.push(event.wd());
                        heard.runs.insert(run_id.clone());
                    }
                    Some(Folder::Run(run_id)) if name.is_none_or(|name| name == LOG || name == GRAPH) => {
                        if !heard.runs.contains(run_id) {
                            heard.runs.insert(run_id.clone());
                        }
                    }
                    Some(Folder::Run(_)) | None => {}
                }
            }
            for watch in ended {
                if let Some(Folder::Run(run_id)) = self.folders.remove(&watch) {
                    self.runs.remove(&run_id);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::os::fd::{AsFd, BorrowedFd};
    use std::path::Path;

    use super::{Heard, Listening};
    use crate::domain::RunId;

    /// This system tells nothing that kahn listens to: the poll is all there is.
    pub(super) enum Inotify {}

    impl AsFd for Inotify {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }

    impl Inotify {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn listen_to_archive(&mut self, _root: &Path) -> bool {
            match *self {}
        }

        pub(super) fn listen_to_run(&mut self, _root: &Path, _run_id: &RunId) -> Listening {
            match *self {}
        }

        pub(super) fn leave_run(&mut self, _run_id: &RunId) {
            match *self {}
        }

        pub(super) fn take(&mut self, _heard: &mut Heard) {
            match *self {}
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[expect(clippy::unwrap_used, reason = "the names of these tests are run_ids")]
    fn id(name: &str) -> RunId {
        RunId::parse(name).unwrap()
    }

    /// Waits until something was heard that fits.
    fn hear(ear: &mut Ear, what: &str, fits: impl Fn(&Heard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fits(&ear.wait(PATIENCE)) {
            assert!(Instant::now() < deadline, "never heard: {what}");
        }
    }

    /// If it told nothing, every change would wait for the poll, and no other test would say so.
    #[test]
    fn what_happens_to_runs_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (root, runs) = (folder.path().join("archive"), folder.path().join("archive/runs"));
        let (mut ear, stop) = Ear::new().unwrap();
        assert!(!ear.is_deaf());
        fs::create_dir(&root).unwrap();
        ear.listen_to_archive(&root);
        fs::create_dir(&runs).unwrap();
        hear(&mut ear, "runs/ came", |heard| heard.is_lost);
        ear.listen_to_archive(&root);
        fs::create_dir(runs.join("r1")).unwrap();
        hear(&mut ear, "r1 came", |heard| heard.runs.contains(&id("r1")));
        assert_eq!(ear.listen_to_run(&root, &id("r1")), Listening::Begun);
        assert_eq!(ear.listen_to_run(&root, &id("r1")), Listening::Already);
        let log = runs.join("r1").join("transitions.jsonl");
        fs::write(&log, "x").unwrap();
        hear(&mut ear, "a log came", |heard| heard.runs.contains(&id("r1")));
        fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
        hear(&mut ear, "it was cut", |heard| heard.runs.contains(&id("r1")));
        fs::rename(runs.join("r1"), runs.join("r2")).unwrap();
        hear(&mut ear, "it was renamed", |heard| heard.runs.contains(&id("r2")));
        assert_eq!(ear.listen_to_run(&root, &id("r2")), Listening::Begun);
        fs::write(runs.join("r2").join("graph.json"), "{}").unwrap();
        hear(&mut ear, "a graph came", |heard| heard.runs.contains(&id("r2")) && !heard.runs.contains(&id("r1")));
        fs::remove_dir_all(runs.join("r2")).unwrap();
        hear(&mut ear, "it went", |heard| heard.runs.contains(&id("r2")));
        std::os::unix::fs::symlink(&root, runs.join("link")).unwrap();
        assert_eq!(ear.listen_to_run(&root, &id("link")), Listening::Deaf, "links are not followed");
        drop(stop);
        assert!(ear.wait(PATIENCE).has_stopped);
    }

    /// A folder that is left is not told of any longer, whatever was told before.
    #[test]
    fn a_run_that_was_left_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        for name in ["r1", "r2"] {
            fs::create_dir_all(runs.join(name)).unwrap();
        }
        let (mut ear, _stop) = Ear::new().unwrap();
        ear.listen_to_archive(folder.path());
        for name in ["r1", "r2"] {
            assert_eq!(ear.listen_to_run(folder.path(), &id(name)), Listening::Begun);
        }
        ear.leave_run(&id("r1"));
        for name in ["r1", "r2"] {
            fs::write(runs.join(name).join("transitions.jsonl"), "x").unwrap();
        }
        let heard = ear.wait(PATIENCE);
        assert!(!heard.runs.contains(&id("r1")) && heard.runs.contains(&id("r2")), "{heard:?}");
        assert_eq!(ear.listen_to_run(folder.path(), &id("r1")), Listening::Begun);
    }
}
