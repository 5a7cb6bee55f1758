//! Room for bytes: what all requests together may hold of bodies, and of answers that their readers have not taken yet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::services::Services;

/// How long an answer waits for room.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is handed over in steps of this, so that what waits for a slow reader is held once, and counted.
const STEP: usize = 64 * 1024;

/// The room that one request's bytes take; given back when it is dropped.
pub(super) struct Room {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
    busy: fn() -> ApiError,
}

impl Room {
    /// Room for what a producer sends, none taken yet.
    pub(super) fn of_ingest(services: &Services) -> Self {
        let busy = || ApiError::overloaded("ingest_busy", "too many batches at once; send it again in a moment");
        Self { all: Arc::clone(&services.ingest_bytes), taken: None, busy }
    }

    /// Room for what is served as it is stored, none taken yet.
    pub(super) fn of_stored(services: &Services) -> Self {
        Self { all: Arc::clone(&services.stored_bytes), ..Self::of_answers(services) }
    }

    /// Room for an answer, none taken yet.
    pub(super) fn of_answers(services: &Services) -> Self {
        let busy = || ApiError::overloaded("answers_busy", "too many large answers at once; ask again in a moment");
        Self { all: Arc::clone(&services.answer_bytes), taken: None, busy }
    }

    /// Takes room for so many more bytes, if there is some now.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), ApiError> {
        let permits = u32::try_from(bytes).map_err(|_| (self.busy)())?;
        let more = Arc::clone(&self.all).try_acquire_many_owned(permits).map_err(|_| (self.busy)())?;
        self.add(more);
        Ok(())
    }

    /// Waits its turn for room for so many more bytes. Whoever waits must hold none.
    pub(super) async fn wait(&mut self, bytes: usize) -> Result<(), ApiError> {
        let permits = u32::try_from(bytes).map_err(|_| (self.busy)())?;
        let more = tokio::time::timeout(PATIENCE, Arc::clone(&self.all).acquire_many_owned(permits)).await;
        self.add(more.ok().and_then(Result::ok).ok_or_else(self.busy)?);
        Ok(())
    }

    /// Gives back what is taken beyond this.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if let Some(taken) = &mut self.taken {
            drop(taken.split(taken.num_permits().saturating_sub(bytes)));
        }
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            taken => *taken = Some(more),
        }
    }
}

/// A body with the room that it takes until its reader has it.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    pub(super) room: Option<Room>,
}

impl MessageBody for Held {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    /// A small answer takes no room, so it is sent as any bytes are, without a box around it.
    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.room.is_none() { Ok(self.bytes) } else { Err(self) }
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let held = self.get_mut();
        if held.bytes.is_empty() {
            held.room = None;
            return Poll::Ready(None);
        }
        let step = held.bytes.split_to(held.bytes.len().min(STEP));
        Poll::Ready(Some(Ok(step)))
    }
}
