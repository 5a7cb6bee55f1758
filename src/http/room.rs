//! Room for bytes: what requests may hold of bodies, and of answers that their readers have not taken yet.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt;
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::error::ApiError;
use crate::contract::Principal;
use crate::services::{Asker, Claim, Services};

/// How long an answer waits for room.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is handed over in steps of this, so that what waits for a slow reader is held once, and counted.
const STEP: usize = 64 * 1024;
/// How long a reader may take nothing of an answer that has room.
const GRACE: Duration = Duration::from_secs(10);
/// The bytes a second that it takes on average from then on. Who takes fewer holds what others wait for.
const LEAST_A_SECOND: u32 = 64 * 1024;

/// The room that one request's bytes take; given back when it is dropped.
pub(super) struct Room {
    claim: Claim,
    busy: fn() -> ApiError,
}

impl Room {
    /// Room for what a producer sends, none taken yet.
    pub(super) fn of_ingest(services: &Services, who: &Principal) -> Self {
        let busy = || ApiError::overloaded("ingest_busy", "too many batches at once; send it again in a moment");
        Self { claim: services.ingest_bytes.claim(who.into()), busy }
    }

    /// Room for what is served as it is stored, none taken yet.
    pub(super) fn of_stored(services: &Services, who: &Principal) -> Self {
        Self { claim: services.stored_bytes.claim(who.into()), busy: answers_busy }
    }

    /// Room for an answer, none taken yet.
    pub(super) fn of_answers(services: &Services, asker: Asker) -> Self {
        Self { claim: services.answer_bytes.claim(asker), busy: answers_busy }
    }

    /// Takes room for so many more bytes, if there is some now.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.claim.take(bytes).ok_or_else(self.busy)
    }

    /// Waits its turn for room for so many more bytes. Whoever waits must hold none.
    pub(super) async fn wait(&mut self, bytes: usize) -> Result<(), ApiError> {
        let waited = tokio::time::timeout(PATIENCE, self.claim.wait(bytes)).await;
        waited.ok().flatten().ok_or_else(self.busy)
    }

    /// Gives back what is taken beyond this.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.claim.shrink_to(bytes);
    }
}

fn answers_busy() -> ApiError {
    ApiError::overloaded("answers_busy", "too many large answers at once; ask again in a moment")
}

/// Bytes with the room that they take.
pub(super) struct Roomy {
    pub(super) bytes: Bytes,
    _room: Room,
}

impl Roomy {
    /// The room is that of these bytes.
    pub(super) fn new(bytes: Bytes, room: Room) -> Self {
        Self { bytes, _room: room }
    }
}

/// The body of an answer.
pub(super) enum Held {
    /// It takes no room.
    Small(Bytes),
    /// It takes room until its reader has it, or was too slow.
    Large(Large),
}

/// A body that takes room.
pub(super) struct Large {
    size: usize,
    left: Rc<RefCell<Left>>,
    watch: JoinHandle<()>,
}

/// What a reader has not taken yet.
struct Left {
    /// `None`: the reader has it, or it was taken away.
    roomy: Option<Roomy>,
    size: usize,
    taken: usize,
    began: Instant,
}

impl From<Roomy> for Held {
    fn from(roomy: Roomy) -> Self {
        let size = roomy.bytes.len();
        let left = Rc::new(RefCell::new(Left { roomy: Some(roomy), size, taken: 0, began: Instant::now() }));
        let watch = rt::spawn(watch(Rc::clone(&left)));
        Self::Large(Large { size, left, watch })
    }
}

impl Left {
    /// The next step; an empty one at the end.
    fn step(&mut self) -> Result<Bytes, TooSlow> {
        if self.taken == self.size {
            self.roomy = None;
            return Ok(Bytes::new());
        }
        let roomy = self.roomy.as_mut().ok_or(TooSlow)?;
        let step = roomy.bytes.split_to(roomy.bytes.len().min(STEP));
        self.taken += step.len();
        Ok(step)
    }

    /// When the rest is taken away, unless the reader takes more of it.
    fn until(&self) -> Instant {
        let taken = u32::try_from(self.taken).unwrap_or(u32::MAX);
        self.began + GRACE + Duration::from_secs(1) * taken / LEAST_A_SECOND
    }
}

/// Takes an answer away from a reader that is too slow. The body cannot do that when it is asked for more: the HTTP library
/// does not ask while the connection takes nothing. When it asks again it is told, and cuts the connection.
async fn watch(left: Rc<RefCell<Left>>) {
    loop {
        let until = left.borrow().until();
        if until <= Instant::now() {
            break;
        }
        sleep_until(until).await;
    }
    let mut left = left.borrow_mut();
    if left.roomy.take().is_some() {
        log::info!("an answer was taken too slowly: {} of {} bytes", left.taken, left.size);
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        // Now, not when the watch is told.
        self.left.borrow_mut().roomy = None;
        self.watch.abort();
    }
}

/// The rest of an answer was taken away from its reader.
#[derive(Debug, thiserror::Error)]
#[error("the answer was taken too slowly")]
pub(super) struct TooSlow;

impl MessageBody for Held {
    type Error = TooSlow;

    fn size(&self) -> BodySize {
        match self {
            Self::Small(bytes) => BodySize::Sized(bytes.len() as u64),
            Self::Large(large) => BodySize::Sized(large.size as u64),
        }
    }

    /// A small answer takes no room, so it is sent as any bytes are, without a box around it.
    fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self {
            Self::Small(bytes) => Ok(bytes),
            Self::Large(_) => Err(self),
        }
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let step = match self.get_mut() {
            Self::Small(bytes) => Ok(std::mem::take(bytes)),
            Self::Large(large) => large.left.borrow_mut().step(),
        };
        Poll::Ready(step.map(|step| Some(step).filter(|step| !step.is_empty())).transpose())
    }
}
