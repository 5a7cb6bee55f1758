//! Plays live runs: a thread that appends each event when its time has come, as another process would.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::story;
use super::walk::{Round, paced, walk};
use super::writer::{Writer, after};
use crate::domain::Timestamp;

/// How many live runs there are at the most, each with its agents: under 100 KiB on disk together.
const MOST_ROUNDS: usize = 20;
/// The pause behind a run that ended, in seconds at speed 1.
const PAUSE_S: f64 = 10.0;

/// How far an event's ts may be from the clock.
const MOST_DRIFT_MS: i64 = 2000;

/// What is to be played.
pub(super) struct Play {
    pub(super) archive: PathBuf,
    pub(super) dice: Dice,
    /// Times are multiplied by it: 1 / speed.
    pub(super) pace: f64,
    pub(super) is_once: bool,
    pub(super) now: fn() -> Timestamp,
}

/// The thread that plays; it stops when this is dropped.
pub(super) struct Player {
    /// Dropped, it wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Player {
    pub(super) fn start(play: Play) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            if let Err(error) = play.rounds(&stopped) {
                log::warn!("the demo plays no more runs, since {} cannot be written: {error}", play.archive.display());
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its own was told when it happened.
            let _ = thread.join();
        }
    }
}

impl Play {
    fn rounds(&self, stopped: &Receiver<()>) -> std::io::Result<()> {
        let mut dice = self.dice.clone();
        let mut writer = Writer::new(&self.archive);
        let rounds = if self.is_once { 1 } else { MOST_ROUNDS };
        for number in 0..rounds {
            let round = walk(story::live(number, self.pace), &mut dice);
            if !self.round(&round, &mut writer, stopped)? {
                return Ok(());
            }
            if number + 1 < rounds && is_stopped(stopped, Duration::from_millis(paced(PAUSE_S, self.pace))) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Plays one round; false when it was stopped.
    fn round(&self, round: &Round, writer: &mut Writer, stopped: &Receiver<()>) -> std::io::Result<bool> {
        let mut began = (self.now)();
        let clock = Instant::now();
        for beat in &round.beats {
            let due = Duration::from_millis(beat.at_ms);
            if is_stopped(stopped, due.saturating_sub(clock.elapsed())) {
                return Ok(false);
            }
            // A machine that slept, or a clock that was set: the events stay of now.
            let drift = (self.now)().millis() - after(began, beat.at_ms).millis();
            if drift.abs() > MOST_DRIFT_MS {
                began = Timestamp::from_millis(began.millis() + drift);
            }
            writer.write(round, beat, after(began, beat.at_ms))?;
        }
        Ok(true)
    }
}

/// Waits; true when it is over before that.
fn is_stopped(stopped: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}
