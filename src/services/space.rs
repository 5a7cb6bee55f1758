//! Bytes that requests may hold: so many in all, and half of them at the most by one tenant, so that no tenant closes a
//! space for the others. Who has no tenant because there are none shares it with nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::contract::Principal;

/// Bytes that all requests together may hold.
pub struct Space {
    all: Portion,
    /// Of those alone who have a claim now.
    shares: Mutex<HashMap<Sharer, Share>>,
}

/// Who takes of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// Where there are no tenants.
    Alone,
    /// One of those who share.
    Sharer(Sharer),
}

/// A tenant by its id; `None`: all who were not asked who they are, together.
type Sharer = Option<Arc<str>>;

impl Asker {
    /// Whoever was not asked who it is.
    pub const STRANGER: Self = Self::Sharer(None);
}

impl From<&Principal> for Asker {
    fn from(who: &Principal) -> Self {
        who.tenant.as_ref().map_or(Self::Alone, |tenant| Self::Sharer(Some(Arc::clone(&tenant.id))))
    }
}

/// So many bytes, and those of them that are free.
#[derive(Clone)]
struct Portion {
    size: usize,
    free: Arc<Semaphore>,
}

struct Share {
    portion: Portion,
    claims: usize,
}

/// What a claim has taken of a portion.
struct Taken {
    portion: Portion,
    permit: Option<OwnedSemaphorePermit>,
}

impl Portion {
    fn new(size: usize) -> Self {
        Self { size, free: Arc::new(Semaphore::new(size)) }
    }
}

impl Space {
    /// A space of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { all: Portion::new(bytes), shares: Mutex::default() }
    }

    /// Bytes that nobody has taken.
    pub fn free(&self) -> usize {
        self.all.free.available_permits()
    }

    /// A claim that has taken nothing yet.
    pub fn claim(self: &Arc<Self>, asker: Asker) -> Claim {
        let own = match asker {
            Asker::Alone => None,
            Asker::Sharer(sharer) => {
                let mut shares = self.shares();
                let share = shares
                    .entry(sharer.clone())
                    .or_insert_with(|| Share { portion: Portion::new(self.all.size / 2), claims: 0 });
                share.claims += 1;
                Some((sharer, Taken::nothing_of(&share.portion)))
            }
        };
        Claim { own, all: Taken::nothing_of(&self.all), space: Arc::clone(self) }
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Sharer, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn nothing_of(portion: &Portion) -> Self {
        Self { portion: portion.clone(), permit: None }
    }

    fn count(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// What so many more bytes take. Who holds all of a portion needs no more of it: else what is larger than the portion
    /// would be told for ever to come again.
    fn missing(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.portion.size.saturating_sub(self.count()))).unwrap_or(u32::MAX)
    }

    /// `None`: they are not free.
    fn more_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.portion.free).try_acquire_many_owned(self.missing(bytes)).ok()
    }

    /// `None`: the space is closed, which none ever is.
    async fn more(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.portion.free).acquire_many_owned(self.missing(bytes)).await.ok()
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            permit => *permit = Some(more),
        }
    }

    fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }
}

/// What one request has taken of a space; given back when it is dropped.
pub struct Claim {
    space: Arc<Space>,
    own: Option<(Sharer, Taken)>,
    all: Taken,
}

impl Claim {
    /// Takes so many more bytes; `None`: they are not free now.
    pub fn take(&mut self, bytes: usize) -> Option<()> {
        let own = match &self.own {
            Some((_, own)) => Some(own.more_now(bytes)?),
            None => None,
        };
        let all = self.all.more_now(bytes)?;
        self.add(own, all);
        Some(())
    }

    /// Waits its turn for so many more bytes, first among those of its own share. Whoever waits must hold none. `None`: there
    /// will be none.
    pub async fn wait(&mut self, bytes: usize) -> Option<()> {
        let own = match &self.own {
            Some((_, own)) => Some(own.more(bytes).await?),
            None => None,
        };
        let all = self.all.more(bytes).await?;
        self.add(own, all);
        Some(())
    }

    /// Gives back what is taken beyond this.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.all.shrink_to(bytes);
        if let Some((_, own)) = &mut self.own {
            own.shrink_to(bytes);
        }
    }

    fn add(&mut self, own: Option<OwnedSemaphorePermit>, all: OwnedSemaphorePermit) {
        if let (Some((_, taken)), Some(more)) = (&mut self.own, own) {
            taken.add(more);
        }
        self.all.add(all);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some((sharer, taken)) = self.own.take() else { return };
        let mut shares = self.space.shares();
        drop(taken);
        if let Some(share) = shares.get_mut(&sharer) {
            share.claims -= 1;
            if share.claims == 0 {
                shares.remove(&sharer);
            }
        }
    }
}
