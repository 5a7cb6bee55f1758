//! The oss build: log files in an archive folder, one operator on one machine.

mod append;
mod archive;
mod cache;
mod commit;
mod demo;
mod ear;
mod folder;
mod index;
mod lineage;
mod list;
mod local;
mod ordered;
mod put_graph;
mod read;
mod tail;
mod watcher;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use rustix::io::Errno;

use self::archive::{ArchiveFileBackend, Writes};
use self::demo::DemoOptions;
use self::folder::{Folder, FolderOptions};
use self::local::LocalAccess;
use crate::archive_reader::{Archive, ReaderError, is_run_folder};
use crate::config::{BootError, Config, Defaults, Serving};
use crate::contract::{Backend, Description, StoreError};
use crate::domain::Timestamp;

/// The mode that this binary was built for.
pub const MODE: &str = "oss";

/// Options of `kahn serve` that only this build has, as they were typed.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    #[command(flatten)]
    folder: FolderOptions,
    #[command(flatten)]
    reach: Reach,
}

/// Options of every command that serves: who may reach it.
#[derive(Debug, Clone, Default, Args)]
struct Reach {
    /// Allow --bind to an address that other machines can reach; there is no login
    #[arg(long, env = "KAHN_ALLOW_REMOTE", value_parser = BoolishValueParser::new())]
    allow_remote: bool,
    /// Answer requests for this host name too, besides localhost, 127.0.0.1 and `[::1]`; may be repeated
    #[arg(long = "allowed-host", env = "KAHN_ALLOWED_HOST", value_name = "NAME", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
}

impl Options {
    /// Options for this archive; the environment is not read.
    pub fn of_archive(archive: impl Into<PathBuf>) -> Self {
        Self { folder: FolderOptions::of_archive(archive.into()), reach: Reach::default() }
    }

    /// Options for this folder, served strictly read-only.
    pub fn of_fixture_dir(fixture_dir: impl Into<PathBuf>) -> Self {
        Self { folder: FolderOptions::of_fixture_dir(fixture_dir.into()), reach: Reach::default() }
    }

    /// What holds where nothing was typed.
    pub fn defaults() -> Defaults {
        Defaults { bind: "127.0.0.1:8080".into(), agent_views: true }
    }

    /// A sentence for each mistake in these options, given the rest of the configuration.
    pub fn mistakes(&self, config: &Config) -> Vec<String> {
        let mut mistakes: Vec<String> = self.folder.mistake().into_iter().collect();
        if !config.bind.ip().to_canonical().is_loopback() && !self.reach.allow_remote {
            mistakes.push(format!(
                "--bind (KAHN_BIND) is {}, which other machines can reach, and there is no login; bind to 127.0.0.1, or add --allow-remote (KAHN_ALLOW_REMOTE=true)",
                config.bind
            ));
        }
        mistakes.extend(self.reach.allowed_hosts.iter().filter_map(|name| local::mistake_in_host(name)));
        mistakes
    }
}

impl Options {
    /// What this backend is with these options; opens nothing.
    pub fn describe(&self, config: &Config) -> Description {
        let folder = self.folder.folder();
        let (how, check) = match folder.writes {
            Writes::Own => ("", "the archive can be read, if it is there"),
            Writes::Nothing => (", strictly read-only", "the archive is there and can be read"),
        };
        let hosts: String = self.reach.allowed_hosts.iter().map(|name| format!(", {name}")).collect();
        let is_local = config.bind.ip().to_canonical().is_loopback();
        Description {
            serves: "one person on one machine",
            reach: if is_local { "this machine only" } else { "other machines too, without a login" }.to_owned(),
            storage: format!("log files of the archive {}{how}; no database", folder.path.display()),
            auth: format!(
                "none: only requests to localhost, 127.0.0.1, [::1]{hosts} are answered, and no other web page's"
            ),
            tenancy: "none",
            rate_limit: "none",
            boot_checks: ["the address is of this machine only, or --allow-remote is given", check, "the port is free"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Subcommands that only this build has.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a sample archive in a temporary folder, with runs that play live
    Demo(DemoOptions),
}

impl Command {
    /// Does the work; the exit code is 0 when it is done and 1 when the work found a fault. `serve` starts the server
    /// that `kahn serve` starts; `now` is the clock.
    ///
    /// # Errors
    ///
    /// When it could not be done.
    pub fn run(
        self,
        serve: impl FnOnce(Serving<Options>) -> Result<ExitCode, BootError>,
        now: fn() -> Timestamp,
    ) -> Result<ExitCode, BootError> {
        match self {
            Self::Demo(options) => demo::run(&options, serve, now),
        }
    }
}

/// Makes the backend; it exists only once its checks have passed; the archive is read from then on.
///
/// # Errors
///
/// The refusal, as one sentence that says what mends it.
pub async fn select_backend(options: &Options, config: &Config) -> Result<Backend, BootError> {
    let mistakes = options.mistakes(config);
    if !mistakes.is_empty() {
        return Err(BootError::Configuration(mistakes));
    }
    let mut folder = options.folder.folder();
    let failure = |flag: &str, why: String| BootError::Failure(format!("{flag}: {why}"));
    // The archive stays the same folder wherever the process goes.
    folder.path = std::path::absolute(&folder.path)
        .map_err(|error| failure(folder.flag, format!("{}: {error}", folder.path.display())))?;
    let flag = folder.flag;
    let opened = tokio::task::spawn_blocking(move || open(&folder)).await;
    let (store, writes) = opened.map_err(|error| failure(flag, error.to_string()))??;
    let access = LocalAccess::new(&options.reach.allowed_hosts);
    let read_only = writes == Writes::Nothing;
    Ok(Backend { store: Arc::new(store), access: Arc::new(access), account: None, read_only })
}

fn open(folder: &Folder) -> Result<(ArchiveFileBackend, Writes), BootError> {
    let is_run = is_run_folder(&folder.path);
    if folder.writes == Writes::Nothing {
        // Nobody will make it, so it has to be there and to have what it was named for.
        Archive::open(&folder.path).map_err(|error| folder.refuse(&error))?;
        if is_run {
            return Err(BootError::configuration(folder.is_of_one_run()));
        }
    }
    let opened = ArchiveFileBackend::open(&folder.path, folder.writes).map_err(|error| folder.refuse(&error))?;
    if is_run {
        // Its runs/ may come yet.
        log::warn!("{}", folder.is_of_one_run());
    }
    Ok(opened)
}

/// What a failed read means to whoever asked for it.
fn failed(error: ReaderError) -> StoreError {
    let is_passing = match &error {
        ReaderError::Io { source, .. } => matches!(
            source.raw_os_error().map(Errno::from_raw_os_error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR)
        ),
        _ => false,
    };
    if is_passing { StoreError::Unavailable(error.into()) } else { StoreError::Failed(error.into()) }
}
