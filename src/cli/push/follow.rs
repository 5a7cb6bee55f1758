//! `--follow`: runs that grow, and runs that appear. A look every quarter of a second that asks the system what changed.
//!
//! A run is told once: when it ended and all of it arrived, when it failed, or when the program is asked to end. The
//! others go on whatever becomes of one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::open_growing;
use super::report::{Output, Report};
use super::sending::{PushError, Sending, Turn};
use crate::archive_reader::{Archive, Glance};
use crate::cli::client::Client;
use crate::cli::stop::Stop;
use crate::domain::RunId;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of the runs that ended, so many are looked at in one round: almost none of them goes on.
const ENDED_A_ROUND: usize = 256;
/// How often it is told that an archive cannot be read.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A run: its archive's place among the paths that were named, and its name.
type Key = (usize, RunId);

/// All runs of the archives that are followed.
pub(super) struct Followed<'a> {
    paths: &'a [PathBuf],
    /// When it was told last that a path cannot be read.
    told: BTreeMap<usize, Instant>,
    /// Runs that may go on.
    open: BTreeMap<Key, Open>,
    /// Runs that ended and arrived, and how they looked then.
    ended: BTreeMap<Key, Glance>,
    /// Which of them was looked at last.
    turn_of: Option<Key>,
    /// Runs that will not arrive.
    failed: BTreeSet<Key>,
}

/// A run that may go on.
struct Open {
    sending: Sending,
    /// How it looked when all of it was sent; `None` while there is more.
    seen: Option<Glance>,
}

/// What a round found.
enum Round {
    /// Nothing is left to send.
    Quiet,
    /// Some run has more to send.
    More,
    /// The server will not take anything.
    Refused,
}

impl<'a> Followed<'a> {
    pub(super) fn new(paths: &'a [PathBuf]) -> Self {
        Self {
            paths,
            told: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            turn_of: None,
            failed: BTreeSet::new(),
        }
    }

    /// Follows until it is asked to end, and then sends what stands there.
    pub(super) fn run(mut self, client: &Client, stop: &Stop, output: &mut Output) {
        loop {
            // Before the round, so that the last one begins behind the moment when the end was asked for.
            let is_last = stop.since().is_some();
            match self.round(client, output) {
                Round::More => {}
                Round::Quiet if is_last => return self.tell_open(client, output),
                Round::Quiet => stop.wait(LOOK_EVERY),
                Round::Refused => {
                    let not_tried = self.open.into_iter().filter(|(_, run)| !run.is_empty());
                    return not_tried.for_each(|((place, run_id), _)| output.tell(place, &Report::not_tried(run_id)));
                }
            }
        }
    }

    /// Gives each run that changed its turn.
    fn round(&mut self, client: &Client, output: &mut Output) -> Round {
        let archives: Vec<Option<Archive>> = (0..self.paths.len()).map(|place| self.archive(place)).collect();
        self.find(&archives);
        let mut round = Round::Quiet;
        for (key, mut run) in std::mem::take(&mut self.open) {
            let Some(archive) = archives.get(key.0).and_then(Option::as_ref) else {
                self.open.insert(key, run);
                continue;
            };
            if matches!(round, Round::Refused) {
                self.open.insert(key, run);
                continue;
            }
            match run.go_on(client, archive, &key.1, output) {
                Ok(Turn::More) => {
                    round = Round::More;
                    self.open.insert(key, run);
                }
                Ok(Turn::Done) => {
                    if let Some(seen) = run.seen.filter(|_| run.sending.has_ended()) {
                        output.tell(key.0, &run.sending.into_report(Ok(())));
                        self.ended.insert(key, seen);
                    } else {
                        self.open.insert(key, run);
                    }
                }
                Err(error) => {
                    if error.is_final() {
                        round = Round::Refused;
                    }
                    output.tell(key.0, &run.sending.into_report(Err(error)));
                    self.failed.insert(key);
                }
            }
        }
        output
            .progress
            .show(|| format!("following {} runs that may go on, {} ended", self.open.len(), self.ended.len()));
        round
    }

    /// The archive as it stands under its path now; `None` when it cannot be read at the moment.
    fn archive(&mut self, place: usize) -> Option<Archive> {
        let opened = open_growing(self.paths.get(place)?);
        opened.inspect_err(|error| self.complain(place, &error.to_string())).ok()
    }

    fn complain(&mut self, place: usize, sentence: &str) {
        if self.told.get(&place).is_none_or(|told| told.elapsed() > TELL_EVERY) {
            log::warn!("{sentence}; going on when it can be read");
            self.told.insert(place, Instant::now());
        }
    }

    /// Takes up runs that appeared, and runs that go on behind their end.
    fn find(&mut self, archives: &[Option<Archive>]) {
        for (place, archive) in archives.iter().enumerate() {
            let Some(archive) = archive else { continue };
            match archive.run_ids() {
                Ok(run_ids) => {
                    for key in run_ids.into_iter().map(|run_id| (place, run_id)) {
                        if !self.ended.contains_key(&key) && !self.failed.contains(&key) {
                            self.open.entry(key).or_insert_with_key(|(_, run_id)| Open::new(run_id));
                        }
                    }
                }
                Err(error) => self.complain(place, &error.to_string()),
            }
        }
        let after = self.turn_of.take().map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at: Vec<(Key, Glance)> = self
            .ended
            .range((after, Bound::Unbounded))
            .take(ENDED_A_ROUND)
            .map(|(key, seen)| (key.clone(), *seen))
            .collect();
        for (key, seen) in looked_at {
            let archive = archives.get(key.0).and_then(Option::as_ref);
            let now = archive.and_then(|archive| archive.glance(&key.1).ok());
            if now.is_some_and(|now| now != seen && now != Glance::default()) {
                self.ended.remove(&key);
                self.open.insert(key.clone(), Open::new(&key.1));
            }
            self.turn_of = Some(key);
        }
        // Past the last of them the first is next.
        if self
            .turn_of
            .as_ref()
            .is_some_and(|turn_of| self.ended.last_key_value().is_none_or(|(last, _)| turn_of >= last))
        {
            self.turn_of = None;
        }
    }

    /// The runs that did not end arrived too, as far as they are.
    fn tell_open(self, client: &Client, output: &mut Output) {
        let mut is_refused = false;
        for ((place, run_id), mut run) in self.open {
            if run.is_empty() {
                continue;
            }
            if is_refused {
                output.tell(place, &Report::not_tried(run_id));
                continue;
            }
            let verified = run.sending.verify(client);
            is_refused = verified.as_ref().is_err_and(PushError::is_final);
            output.tell(place, &run.sending.into_report(verified));
        }
    }
}

impl Open {
    fn new(run_id: &RunId) -> Self {
        Self { sending: Sending::new(run_id.clone()), seen: None }
    }

    /// Whether it is a folder in which nothing stood yet.
    fn is_empty(&self) -> bool {
        self.seen == Some(Glance::default())
    }

    /// One turn, if it changed since the last one. A run that ended is verified once all of it is sent.
    fn go_on(
        &mut self,
        client: &Client,
        archive: &Archive,
        run_id: &RunId,
        output: &mut Output,
    ) -> Result<Turn, PushError> {
        // Before it is read: what comes meanwhile is a change.
        let now = archive.glance(run_id)?;
        if self.seen == Some(now) {
            return Ok(Turn::Done);
        }
        if now == Glance::default() {
            if self.seen.is_some_and(|seen| seen != now) {
                return Err(PushError::Gone);
            }
            self.seen = Some(now);
            return Ok(Turn::Done);
        }
        self.seen = None;
        if self.sending.turn(client, archive, &mut output.progress)? == Turn::More {
            return Ok(Turn::More);
        }
        if self.sending.has_ended() {
            // Its last lines may have come while it was read: it is whole only when it holds still.
            if archive.glance(run_id)? != now {
                return Ok(Turn::More);
            }
            self.sending.verify(client)?;
        }
        self.seen = Some(now);
        Ok(Turn::Done)
    }
}
