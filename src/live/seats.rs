//! How many may listen, and a client's place among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::house::{Followed, House};
use super::pages::{Page, Pages, RenderPage, Wanted};
use super::rights::{Right, Rights};
use super::rows::{Listed, RenderRows, Source};
use crate::config::{Config, SocketLimits};
use crate::contract::{Backend, Principal, RequestFacts, Store, StoreError};
use crate::domain::RunId;
use crate::services::Clock;

/// The live room. Cheap to clone; every worker has the same one.
#[derive(Clone)]
pub struct Live(Arc<Room>);

pub(super) struct Room {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    stall_after_ms: u64,
    rights: Rights,
    pages: Arc<Pages>,
    limits: SocketLimits,
    taken: Mutex<Taken>,
    /// By tenant; locked over the wait for a house to hear, so that there is one of each.
    houses: tokio::sync::Mutex<HashMap<Tenancy, Weak<House>>>,
}

/// A tenant's id; `None` where there are no tenants.
type Tenancy = Option<Arc<str>>;

#[derive(Default)]
struct Taken {
    in_all: usize,
    by_tenant: HashMap<Arc<str>, usize>,
}

/// Why a client gets no seat.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The server has as many as it takes.
    #[error("the server has as many live clients as it takes ({0})")]
    Full(usize),
    /// The tenant has as many as it may.
    #[error("the tenant has as many live clients as it may ({0})")]
    TenantFull(usize),
    /// The store cannot be followed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Live {
    /// A room over this backend.
    pub fn new(backend: &Backend, clock: &Arc<dyn Clock>, config: &Config) -> Self {
        let store = Arc::clone(&backend.store);
        Self(Arc::new(Room {
            pages: Arc::new(Pages::new(Arc::clone(&store))),
            rights: Rights::new(Arc::clone(&backend.access)),
            store,
            clock: Arc::clone(clock),
            stall_after_ms: config.stall_after_ms,
            limits: config.sockets,
            taken: Mutex::default(),
            houses: tokio::sync::Mutex::default(),
        }))
    }

    /// How many clients have a seat.
    pub fn clients(&self) -> usize {
        held(&self.0.taken).in_all
    }

    /// Takes a seat for this principal, who asked with these facts. Every change after this returned rings its bell.
    ///
    /// # Errors
    ///
    /// When there is no seat, or the store cannot be followed.
    pub async fn join(&self, who: &Principal, facts: &RequestFacts) -> Result<Seat, JoinError> {
        let tenancy = who.tenant.as_ref().map(|tenant| Arc::clone(&tenant.id));
        let place = Place::take(&self.0, tenancy.clone())?;
        let house = {
            let mut houses = self.0.houses.lock().await;
            match houses.get(&tenancy).and_then(Weak::upgrade).filter(|house| !house.is_closed()) {
                Some(house) => house,
                None => {
                    houses.retain(|_, house| house.strong_count() > 0);
                    let house = House::open(self.0.source(who)).await?;
                    houses.insert(tenancy, Arc::downgrade(&house));
                    house
                }
            }
        };
        let right = self.0.rights.watch(who, facts);
        let seat = Seat {
            who: who.clone(),
            bell: house.seat(),
            right,
            house,
            pages: Arc::clone(&self.0.pages),
            _place: place,
        };
        Ok(seat)
    }
}

impl Room {
    fn source(&self, who: &Principal) -> Source {
        Source {
            store: Arc::clone(&self.store),
            who: who.clone(),
            clock: Arc::clone(&self.clock),
            stall_after_ms: self.stall_after_ms,
        }
    }
}

/// One of the limited places; given back when it is dropped.
struct Place {
    room: Arc<Room>,
    tenancy: Tenancy,
}

impl Place {
    fn take(room: &Arc<Room>, tenancy: Tenancy) -> Result<Self, JoinError> {
        let mut taken = held(&room.taken);
        if taken.in_all >= room.limits.in_all {
            return Err(JoinError::Full(room.limits.in_all));
        }
        if let Some(tenant) = &tenancy {
            let of_tenant = taken.by_tenant.entry(Arc::clone(tenant)).or_default();
            if *of_tenant >= room.limits.per_tenant {
                return Err(JoinError::TenantFull(room.limits.per_tenant));
            }
            *of_tenant += 1;
        }
        taken.in_all += 1;
        Ok(Self { room: Arc::clone(room), tenancy })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = held(&self.room.taken);
        taken.in_all -= 1;
        if let Some(tenant) = &self.tenancy
            && let Some(of_tenant) = taken.by_tenant.get_mut(tenant)
        {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                taken.by_tenant.remove(tenant);
            }
        }
    }
}

/// A client's place in the room, until it is dropped.
pub struct Seat {
    who: Principal,
    house: Arc<House>,
    bell: Arc<Notify>,
    right: Arc<Right>,
    pages: Arc<Pages>,
    _place: Place,
}

impl Seat {
    /// Follows a run, whether it exists or not; it counts as changed at first.
    pub fn follow(&self, run_id: &RunId) -> Followed {
        self.house.follow(run_id, &self.bell)
    }

    /// Follows the list: every row that changes after this returned is told.
    pub fn list(&self, render: RenderRows) -> Listed {
        self.house.rows.list(&self.bell, render)
    }

    /// Waits until something followed has changed; it may return in vain.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Whether the store has stopped telling of changes.
    pub fn is_closed(&self) -> bool {
        self.house.is_closed()
    }

    /// Waits until the client may not listen any longer.
    pub async fn rights_ended(&self) {
        self.right.ended().await;
    }

    /// The lines of a log from a place on, as frames; `None` when there is no such run. Clients that ask for the same at
    /// the same time get the same page.
    pub fn page(
        &self,
        followed: &Followed,
        wanted: Wanted,
        render: RenderPage,
    ) -> impl Future<Output = Result<Option<Arc<Page>>, StoreError>> + use<> {
        let (pages, who, topic) = (Arc::clone(&self.pages), self.who.clone(), followed.topic());
        async move { pages.page(&who, &topic, wanted, render).await }
    }
}

/// Nothing panics while it holds one of this room's locks.
pub(super) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
