//! The folder that is served: the options that name it, which of them holds, and why one is refused.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};

use super::archive::Writes;
use crate::archive_reader::{GRAPH, LOG, ReaderError};
use crate::config::BootError;

/// The archive that is served when none is named.
const DEFAULT_ARCHIVE: &str = ".kahn/archive";

/// The options that name the folder.
#[derive(Debug, Clone, Default, Args)]
struct Named {
    /// The archive folder to serve; it may appear later [default: .kahn/archive]
    #[arg(long, env = "KAHN_ARCHIVE", value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Serve a folder of the same shape strictly read-only
    #[arg(long, env = "KAHN_FIXTURE_DIR", value_name = "DIR")]
    fixture_dir: Option<PathBuf>,
}

/// The options that hold: one that was typed wins over the other's variable, as it does over its own. An image that names
/// its archive in its environment can so be told to serve another folder.
#[derive(Debug, Clone, Default)]
pub(super) struct FolderOptions(Named);

impl FromArgMatches for FolderOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        use ValueSource::{CommandLine, EnvVariable};
        let mut named = Named::from_arg_matches(matches)?;
        match (matches.value_source("archive"), matches.value_source("fixture_dir")) {
            (Some(CommandLine), Some(EnvVariable)) => named.fixture_dir = None,
            (Some(EnvVariable), Some(CommandLine)) => named.archive = None,
            _ => {}
        }
        Ok(Self(named))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for FolderOptions {
    fn augment_args(command: clap::Command) -> clap::Command {
        Named::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Named::augment_args_for_update(command)
    }
}

/// The folder that is served.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// The option that names it.
    pub(super) flag: &'static str,
    pub(super) writes: Writes,
}

impl FolderOptions {
    /// As if this archive had been typed.
    pub(super) fn of_archive(archive: PathBuf) -> Self {
        Self(Named { archive: Some(archive), fixture_dir: None })
    }

    /// As if this folder had been typed.
    pub(super) fn of_fixture_dir(fixture_dir: PathBuf) -> Self {
        Self(Named { archive: None, fixture_dir: Some(fixture_dir) })
    }

    /// What is wrong with them, in one sentence.
    pub(super) fn mistake(&self) -> Option<String> {
        let (archive, fixture_dir) = self.0.archive.as_ref().zip(self.0.fixture_dir.as_ref())?;
        Some(format!(
            "--archive (KAHN_ARCHIVE) is {} and --fixture-dir (KAHN_FIXTURE_DIR) is {}; one folder is served: leave one of them out",
            archive.display(),
            fixture_dir.display()
        ))
    }

    pub(super) fn folder(&self) -> Folder {
        let archive = |path: PathBuf| Folder { path, flag: "--archive (KAHN_ARCHIVE)", writes: Writes::Own };
        match (&self.0.fixture_dir, &self.0.archive) {
            (Some(fixture_dir), _) => {
                Folder { path: fixture_dir.clone(), flag: "--fixture-dir (KAHN_FIXTURE_DIR)", writes: Writes::Nothing }
            }
            (None, Some(path)) => archive(path.clone()),
            (None, None) => archive(DEFAULT_ARCHIVE.into()),
        }
    }
}

impl Folder {
    /// Why it cannot be served. A reader also takes the folder of one run, a server does not.
    pub(super) fn refuse(&self, error: &ReaderError) -> BootError {
        let flag = self.flag;
        match error {
            ReaderError::Missing(path) => BootError::configuration(format!(
                "{flag}: {} does not exist; give the folder of an archive, the one above runs/",
                path.display()
            )),
            ReaderError::NotAFolder(path) => BootError::configuration(format!(
                "{flag}: {} is not a folder; give the folder of an archive, the one above runs/",
                path.display()
            )),
            error => BootError::Failure(format!("{flag}: {error}")),
        }
    }

    /// What to say of a folder that is one run's own: it would be served as an archive without runs.
    pub(super) fn is_of_one_run(&self) -> String {
        format!(
            "{}: {} is the folder of one run ({LOG} or {GRAPH} is in it, and no runs/); give the folder above runs/",
            self.flag,
            self.path.display()
        )
    }
}
