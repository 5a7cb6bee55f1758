//! `kahn demo`: a sample archive in a folder of its own, served by the ordinary server, with runs that play live.
//!
//! The past is written before the server starts; then a thread appends to real files, as producers do. Nothing is written
//! outside the folder, and it is gone when the demo ends, unless it is to be kept.

mod agent;
mod cast;
mod dice;
mod event;
mod player;
mod samples;
mod story;
mod walk;
mod writer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;

use self::dice::Dice;
use self::player::{Play, Player};
use self::writer::Writer;
use super::{Options, Reach};
use crate::config::{BootError, Serving, Typed};
use crate::domain::Timestamp;

/// Options of `kahn demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Address and port to listen on [default: 127.0.0.1 and a free port]
    #[arg(long, env = "KAHN_BIND", value_name = "ADDR")]
    bind: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// How fast the live runs play; 1 is about a minute a run
    #[arg(long, env = "KAHN_DEMO_SPEED", value_name = "N", default_value = "1")]
    speed: String,
    /// Play one live run, then only serve
    #[arg(long, env = "KAHN_DEMO_ONCE", value_parser = BoolishValueParser::new())]
    once: bool,
    /// Another number gives other times and figures
    #[arg(long, env = "KAHN_DEMO_SEED", value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep the archive in this folder, which must be new or empty
    #[arg(long, env = "KAHN_DEMO_KEEP", value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The fastest that runs play: their times are whole milliseconds.
const MOST_SPEED: f64 = 1000.0;
/// When the newest sample ended, in milliseconds before now.
const SAMPLES_ENDED_MS: i64 = 12 * 60 * 1000;

pub(super) fn run(
    options: &DemoOptions,
    serve: impl FnOnce(Serving<Options>) -> Result<ExitCode, BootError>,
    now: fn() -> Timestamp,
) -> Result<ExitCode, BootError> {
    let speed = options.speed.parse().ok().filter(|speed| (0.1..=MOST_SPEED).contains(speed)).ok_or_else(|| {
        BootError::configuration(format!(
            "--speed (KAHN_DEMO_SPEED) is {:?}, which is no number from 0.1 to {MOST_SPEED}; write it as --speed 2",
            options.speed
        ))
    })?;
    let folder = Folder::make(options.keep.as_deref())?;
    let mut dice = Dice::new(options.seed);
    write_past(folder.path(), now(), &mut dice).map_err(|error| folder.refused(error))?;
    let play = Play { archive: folder.path().to_owned(), dice, pace: 1.0 / speed, is_once: options.once, now };
    let place = folder.path().display().to_string();
    let ends = if options.keep.is_some() { "is kept" } else { "goes when the demo ends" };
    let mut player = None;
    let served = serve(Serving {
        typed: Typed { bind: Some(options.bind.clone().unwrap_or_else(|| "127.0.0.1:0".into())), ..Typed::default() },
        options: Options { reach: options.reach.clone(), ..Options::of_archive(folder.path()) },
        is_ended_by_hangup: true,
        listening: Box::new(|| {
            tell(&format!("the archive {place} {ends}; a run plays live in it; ctrl-c ends the demo"));
            player = Some(Player::start(play));
        }),
    });
    // Before the folder goes: the thread writes in it.
    drop(player);
    folder.end()?;
    served
}

fn write_past(archive: &Path, now: Timestamp, dice: &mut Dice) -> std::io::Result<()> {
    samples::write(archive, Timestamp::from_millis(now.millis() - SAMPLES_ENDED_MS))?;
    let mut writer = Writer::new(archive);
    for (hours, plan) in story::past() {
        #[expect(clippy::cast_possible_truncation, reason = "some days")]
        let before = (hours * 3_600_000.0) as i64;
        writer.write_round(&walk::walk(plan, dice), Timestamp::from_millis(now.millis() - before))?;
    }
    Ok(())
}

/// A line for whoever started the demo; they may have gone.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The one folder that the demo writes in.
enum Folder {
    /// It goes with this value.
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn make(keep: Option<&Path>) -> Result<Self, BootError> {
        let Some(path) = keep else {
            // For this user alone; its name says what it is to whoever finds it.
            let made = tempfile::Builder::new().prefix("kahn-demo-").tempdir();
            return made.map(Self::Temporary).map_err(|error| {
                BootError::Failure(format!("no temporary folder could be made ({error}); name one with --keep DIR"))
            });
        };
        let refused =
            |why: String| BootError::configuration(format!("--keep (KAHN_DEMO_KEEP): {}: {why}", path.display()));
        std::fs::create_dir_all(path).map_err(|error| refused(error.to_string()))?;
        let mut entries = std::fs::read_dir(path).map_err(|error| refused(error.to_string()))?;
        if entries.next().is_some() {
            return Err(refused(
                "it is not empty, and the demo adds nothing to what is there; name a new folder".into(),
            ));
        }
        // The same folder wherever the process goes.
        path.canonicalize().map(Self::Kept).map_err(|error| refused(error.to_string()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }

    fn refused(&self, error: std::io::Error) -> BootError {
        BootError::Failure(format!("the demo's archive {} cannot be written: {error}", self.path().display()))
    }

    fn end(self) -> Result<(), BootError> {
        let Self::Temporary(folder) = self else { return Ok(()) };
        // A second time, should a thread of the server have written in it just then.
        let path = folder.keep();
        std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_dir_all(&path)).map_err(|error| {
            BootError::Failure(format!("the demo's folder {} could not be removed: {error}", path.display()))
        })
    }
}
