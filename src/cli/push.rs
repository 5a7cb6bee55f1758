//! `kahn push`: sends the runs of an archive to a server, and proves that they arrived.
//!
//! The server says where a run's log goes on there; the lines from that seq follow in batches, each placed by its seq,
//! so that a batch which is sent twice is stored once. At the end both sides hash all lines. Nothing is kept between two
//! pushes: whatever moment one was ended at, the next asks the server and goes on.

mod follow;
mod report;
mod sending;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use self::follow::Followed;
use self::report::{Output, Report};
use self::sending::{PushError, Sending, Turn};
use super::client::{self, Client, Patience, Purpose};
use super::named::open_all;
use super::stop::Stop;
use crate::archive_reader::{Archive, ReaderError};
use crate::config::BootError;

/// How long a server may be away or busy, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `kahn push`.
#[derive(Debug, Clone, Args)]
pub(super) struct PushOptions {
    /// Archives (folders with runs/) and run folders
    #[arg(required = true, value_name = "RUN_OR_ARCHIVE_DIR")]
    paths: Vec<PathBuf>,
    #[arg(long, env = "KAHN_TO", value_name = "URL", help = "The server's address, as in https://kahn.example.org")]
    to: String,
    /// A file that holds the key; without it the key is KAHN_KEY of the environment
    #[arg(long, env = "KAHN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Go on with new lines and new runs until SIGINT or SIGTERM
    #[arg(long, env = "KAHN_PUSH_FOLLOW", value_parser = BoolishValueParser::new())]
    follow: bool,
    /// How long a server may be away or busy before push gives up [default: 120, with --follow: for ever]
    #[arg(long, env = "KAHN_PUSH_PATIENCE", value_name = "SECONDS")]
    patience: Option<u32>,
    /// Print one JSON object a run
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

pub(super) fn run(options: &PushOptions) -> Result<ExitCode, BootError> {
    let client = Client::new(Purpose::Push, &options.to, client::read_key(options.key_file.as_deref())?)?;
    let given = options.patience.map(|seconds| Patience::For(Duration::from_secs(seconds.into())));
    let mut output = Output::new(options.json);
    if options.follow {
        // All mistakes of typing, before anything is sent.
        open_all(&options.paths, open_growing)?;
        let stop = Stop::on_signals()?;
        let client = client.with_patience(given.unwrap_or(Patience::Endless), stop.clone());
        Followed::new(&options.paths).run(&client, &stop, &mut output);
    } else {
        let archives = open_all(&options.paths, Archive::open_archive_or_run)?;
        let client = client.with_patience(given.unwrap_or(Patience::For(PATIENCE)), Stop::default());
        push_all(&client, &archives, &mut output)?;
    }
    output.sum_up();
    Ok(if output.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An archive whose runs/ may be yet to come.
fn open_growing(path: &Path) -> Result<Archive, ReaderError> {
    Archive::open_archive_or_run(path).or_else(|error| match error {
        ReaderError::NotAnArchive(_) => Archive::open(path),
        error => Err(error),
    })
}

/// Sends what is there now.
fn push_all(client: &Client, archives: &[Archive], output: &mut Output) -> Result<(), BootError> {
    let mut stopped = false;
    for (place, archive) in archives.iter().enumerate() {
        for run_id in archive.run_ids().map_err(|error| BootError::Failure(error.to_string()))? {
            if stopped {
                output.tell(place, &Report::not_tried(run_id));
                continue;
            }
            let mut sending = Sending::new(run_id);
            let pushed = push(client, archive, &mut sending, output);
            stopped = pushed.as_ref().is_err_and(PushError::is_final);
            output.tell(place, &sending.into_report(pushed));
        }
    }
    Ok(())
}

fn push(client: &Client, archive: &Archive, sending: &mut Sending, output: &mut Output) -> Result<(), PushError> {
    while sending.turn(client, archive, &mut output.progress)? == Turn::More {}
    sending.verify(client)
}
