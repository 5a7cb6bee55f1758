//! One client's list: which rows it gets, and which it is told to take out.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::frames::Frame;
use crate::contract::Filter;
use crate::domain::event::Kind;
use crate::domain::{RunId, Timestamp};
use crate::http::error::ApiError;
use crate::http::list::{FILTERS, filter};
use crate::http::params::Params;
use crate::live::{ListNews, Listed, RowNews};
use crate::metrics::Metrics;
use crate::reduce::Summary;
use crate::services::Services;

/// Runs of which is kept what the client knows; past that it may be told once more that one is not in its list. 16 KiB a client.
const KNOWN: usize = 2048;

/// The members of a JSON object, all of them strings, doubles too.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// What a client sees of the list.
pub(super) struct ListOfClient {
    listed: Listed,
    filter: Filter,
    /// The window's length in milliseconds: it slides with now.
    window_ms: Option<i64>,
    /// Whether a run that changed is in the client's list, as it was told.
    told: Told,
    metrics: Arc<Metrics>,
}

impl ListOfClient {
    /// Reads filters as the list over HTTP does; nothing is followed when they are refused.
    pub(super) fn read(
        filters: &Pairs,
        services: &Services,
        listed: impl FnOnce() -> Listed,
    ) -> Result<Self, ApiError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&filters.0).finish();
        let filter = filter(&Params::parse(&query, FILTERS)?, services.clock.now(), services.settings)?;
        let window_ms = filter.last_event_from.map(|from| filter.now.millis() - from.millis());
        Ok(Self { listed: listed(), filter, window_ms, told: Told::default(), metrics: Arc::clone(&services.metrics) })
    }

    /// Whether there may be a frame to send.
    pub(super) fn is_behind(&self) -> bool {
        self.listed.is_behind()
    }

    /// The next frame of what it has missed.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.listed.next()? {
                ListNews::Lost => {
                    self.metrics.live.resyncs.add(1);
                    return Some(Frame::Resync { run_id: None, from_seq: None }.to_wire());
                }
                ListNews::Row(news) => {
                    if let Some(frame) = self.frame_of(&news) {
                        return Some(frame);
                    }
                }
            }
        }
    }

    fn frame_of(&mut self, news: &RowNews) -> Option<Bytes> {
        self.filter.now = news.at;
        self.filter.last_event_from = self.window_ms.map(|length| Timestamp::from_millis(news.at.millis() - length));
        let fits = news.summary.as_ref().is_some_and(|run| self.filter.fits(run));
        // Before its first change here, the client may have the run from a list that it read.
        let was_in = self.told.replace(&news.run_id, fits).unwrap_or_else(|| !self.never_was_in(news));
        if fits { Some(news.row.clone()) } else { was_in.then(|| news.removed.clone()) }
    }

    /// What cannot change says that the run never was in the list.
    fn never_was_in(&self, news: &RowNews) -> bool {
        let has_other_name = self.filter.q.as_deref().is_some_and(|part| !news.run_id.as_str().contains(part));
        // A run that has only a graph so far is of no kind yet.
        let is_hidden =
            |run: &Summary| self.filter.without_agents && run.kind == Some(Kind::Agent) && run.graph_sha256.is_none();
        has_other_name || news.summary.as_deref().is_some_and(is_hidden)
    }
}

/// Which runs are in the client's list and which are not, as it was told: 8 bytes a run.
#[derive(Default)]
struct Told {
    /// In order: a hash of each run's name, but for its last bit, which says whether the run is in.
    runs: Vec<u64>,
    /// Secret, so that nobody can name runs of one hash.
    hash: RandomState,
}

impl Told {
    /// Notes what the client is told of a run, and says what it was told before, if that is known.
    fn replace(&mut self, run_id: &RunId, is_in: bool) -> Option<bool> {
        let name = self.hash.hash_one(run_id.as_str()) & !1;
        let entry = name | u64::from(is_in);
        let at = self.runs.partition_point(|known| *known < name);
        match self.runs.get_mut(at) {
            Some(known) if *known & !1 == name => Some(std::mem::replace(known, entry) & 1 == 1),
            _ => {
                self.put(at, entry);
                None
            }
        }
    }

    /// Puts in what is new. Once it is full, the next one in order is forgotten, which is any.
    fn put(&mut self, at: usize, entry: u64) {
        if self.runs.len() < KNOWN {
            self.runs.insert(at, entry);
        } else if let Some(forgotten) = self.runs.get_mut(at.min(KNOWN - 1)) {
            *forgotten = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Told;
    use crate::domain::RunId;

    #[test]
    fn what_a_client_was_told_takes_16_kib_at_the_most_and_is_known_of_2048_runs() {
        let mut told = Told::default();
        let run = |at: usize| RunId::parse(&format!("a-run-with-some-name-{at}")).unwrap();
        for at in 0..2048 {
            assert_eq!(told.replace(&run(at), at % 3 == 0), None, "{at}");
        }
        for at in 0..2048 {
            assert_eq!(told.replace(&run(at), at % 2 == 0), Some(at % 3 == 0), "{at}");
        }
        for at in 0..20_000 {
            told.replace(&run(at), at % 2 == 0);
            assert_eq!(told.replace(&run(at), at % 2 == 0), Some(at % 2 == 0), "{at}");
            assert!(told.runs.is_sorted());
            assert!(told.runs.capacity() * size_of::<u64>() <= 16 * 1024, "{}", told.runs.capacity());
        }
        // One is forgotten at a time, whichever: of more runs than there is room for, many stay known.
        let mut known = || (0..3000).filter(|at| told.replace(&run(*at), false).is_some()).count();
        known();
        let known = known();
        assert!((500..3000).contains(&known), "{known}");
    }
}
