//! The archives that rows share: made when the first row asks, gone with the bench.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::generate::{Length, Plan, archive};

/// Archives by what they are for.
pub(crate) struct Archives {
    folder: TempDir,
    is_quick: bool,
}

impl Archives {
    /// In the target folder: on the disk that the project is on.
    pub(crate) fn new(is_quick: bool) -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for archives");
        Self { folder, is_quick }
    }

    /// Whether there is little time.
    pub(crate) fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// How often something is measured: a third of it, at least twice, when there is little time.
    pub(crate) fn times(&self, count: usize) -> usize {
        if self.is_quick { (count / 3).max(2) } else { count }
    }

    /// A tenth of the size when there is little time.
    fn scaled(&self, runs: usize) -> usize {
        if self.is_quick { runs / 10 } else { runs }
    }

    /// M: 10,000 runs, about 1 M events, 200 MB.
    pub(crate) fn medium(&mut self) -> PathBuf {
        self.made("medium", self.scaled(10_000), Length::Usual)
    }

    /// L: 50,000 runs, about 5 M events, 1 GB.
    pub(crate) fn large(&mut self) -> PathBuf {
        self.made("large", self.scaled(50_000), Length::Usual)
    }

    /// A hundred runs.
    pub(crate) fn few(&mut self) -> PathBuf {
        self.made("few", 100, Length::Usual)
    }

    /// Short runs: 10,000 and 100,000.
    pub(crate) fn short(&mut self) -> [PathBuf; 2] {
        [
            self.made("short-10", self.scaled(10_000), Length::Short),
            self.made("short-100", self.scaled(100_000), Length::Short),
        ]
    }

    /// A folder for a row of its own.
    pub(crate) fn empty(&mut self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    fn made(&mut self, name: &str, runs: usize, length: Length) -> PathBuf {
        let path = self.folder.path().join(name);
        if !path.exists() {
            let made = archive(&path, Plan { runs, length, seed: 1 });
            eprintln!("{name}: {runs} runs, {} events, {} bytes", made.events, made.bytes);
            warm(&path);
        }
        path
    }
}

/// Reads every file once, so that neither side of a pair meets a cold disk.
fn warm(root: &Path) {
    let mut bytes = vec![0; 1 << 16];
    for folder in std::fs::read_dir(root.join("runs")).expect("an archive") {
        let folder = folder.expect("an entry").path();
        for file in std::fs::read_dir(folder).expect("a run folder") {
            let mut file = File::open(file.expect("an entry").path()).expect("a file");
            while file.read(&mut bytes).is_ok_and(|read| read > 0) {}
        }
    }
}
