//! A run at one moment of its log: what `at_seq` and `as_of` ask for.

use std::sync::Arc;

use actix_web::HttpRequest;

use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use super::routes::run_segment;
use crate::contract::{Loaded, Principal, Scope};
use crate::domain::{MAX_INT, RunId, Timestamp};
use crate::reduce::{RunState, Summary};
use crate::services::Services;

/// How often an answer is begun anew because another log came under the same run_id.
pub(super) const REPLACED_AT_MOST: usize = 3;

/// The run that the path names. What cannot be a run_id names no run.
pub(super) fn run_id(request: &HttpRequest) -> Result<RunId, ApiError> {
    RunId::parse(run_segment(request)).ok_or_else(ApiError::unknown_run)
}

/// The answer when the log was replaced each time that it was read.
pub(super) fn log_replaced() -> ApiError {
    ApiError::overloaded("log_replaced", "the log is being replaced; ask again in a moment")
}

/// Who asks for which moment of which run.
pub(super) struct Asked {
    /// Who asks.
    pub(super) who: Principal,
    /// The run.
    pub(super) run_id: RunId,
    /// The last event of the moment; `None` is the last of the log.
    at_seq: Option<u64>,
    /// What stands for now while the run goes on.
    now: Timestamp,
    /// The request said so itself.
    is_pinned: bool,
}

impl Asked {
    /// Reads a request that takes `at_seq` and `as_of` and nothing else.
    pub(super) async fn read(request: &HttpRequest, services: &Services) -> Result<Self, ApiError> {
        let who = authorize(services, request, Scope::Read).await?;
        let run_id = run_id(request)?;
        Self::of((&who, &run_id), request.query_string(), services.clock.now())
    }

    /// The same, once it is known who asks and for which run, and what time it is.
    pub(super) fn of((who, run_id): (&Principal, &RunId), query: &str, now: Timestamp) -> Result<Self, ApiError> {
        let params = Params::parse(query, &["at_seq", "as_of"])?;
        let as_of = params.ts("as_of", "invalid_as_of")?;
        let at_seq = params.int("at_seq", "invalid_at_seq", (0, MAX_INT))?;
        let (who, run_id) = (who.clone(), run_id.clone());
        Ok(Self { who, run_id, at_seq, now: as_of.unwrap_or(now), is_pinned: as_of.is_some() })
    }

    /// The moment that is asked for.
    pub(super) async fn moment(&self, services: &Services) -> Result<Moment, ApiError> {
        for _ in 0..REPLACED_AT_MOST {
            let current = services.store.load(&self.who, &self.run_id).await?.ok_or_else(ApiError::unknown_run)?;
            let last = current.summary.next_seq.checked_sub(1);
            let at_seq = match self.at_seq {
                Some(at_seq) if Some(at_seq) > last => return Err(beyond(at_seq, last)),
                Some(at_seq) if Some(at_seq) < last => at_seq,
                _ => {
                    let end = current.summary.ended.and(current.summary.last_event);
                    let is_timeless = self.is_pinned || end.is_some();
                    let now = end.unwrap_or(self.now);
                    return Ok(Moment { state: Arc::clone(&current.state), current, now, is_timeless });
                }
            };
            let state = services.state_at(&self.who, &self.run_id, at_seq).await?;
            // Another log may have come under the same run_id meanwhile: one answer is of one log.
            let Some(state) = state.filter(|state| state.log_id == current.summary.log_id) else { continue };
            // The moment's own ts stands for now.
            let now = state.last_event.unwrap_or(self.now);
            return Ok(Moment { state: Arc::new(state), current, now, is_timeless: true });
        }
        Err(log_replaced())
    }
}

fn beyond(at_seq: u64, last: Option<u64>) -> ApiError {
    let range = last.map_or("the log has no event".to_owned(), |last| format!("the log has seq 0 to {last}"));
    ApiError::bad_request("invalid_at_seq", format!("at_seq is {at_seq}, but {range}"))
}

/// A run at one moment of its log.
pub(super) struct Moment {
    /// The run as it is now: log_id, next_seq and graph_sha256 are always of now.
    pub(super) current: Loaded,
    /// The state at the moment.
    pub(super) state: Arc<RunState>,
    /// What stands for now.
    pub(super) now: Timestamp,
    /// It stands for now however late it is.
    pub(super) is_timeless: bool,
}

impl Moment {
    /// The seq of its last event.
    pub(super) fn at_seq(&self) -> Option<u64> {
        self.state.next_seq.checked_sub(1)
    }

    /// The summary at the moment.
    pub(super) fn summary(&self) -> Arc<Summary> {
        let current = &self.current.summary;
        if self.state.next_seq == current.next_seq {
            return Arc::clone(current);
        }
        let graph = self.current.graph.as_deref().zip(current.graph_sha256.as_deref());
        Arc::new(Summary::of(&current.run_id, &self.state, graph))
    }
}
