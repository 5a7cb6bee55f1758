//! The wake-ups of one tenant, heard once for all its clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::pages::Shelf;
use super::rows::{Rows, Source};
use super::seats::held;
use crate::contract::{Change, Changes, StoreError};
use crate::domain::RunId;

/// What the clients of one tenant follow. It hears until the last of them has left.
pub(super) struct House {
    topics: Mutex<HashMap<RunId, Arc<Topic>>>,
    pub(super) rows: Arc<Rows>,
    bells: Mutex<HashMap<u64, Weak<Notify>>>,
    next_id: AtomicU64,
    is_closed: AtomicBool,
    hearing: Mutex<Option<JoinHandle<()>>>,
}

impl House {
    /// Hears every change after this returned.
    pub(super) async fn open(source: Source) -> Result<Arc<Self>, StoreError> {
        let changes = source.store.follow(&source.who).await?;
        let house = Arc::new(Self {
            topics: Mutex::default(),
            rows: Rows::new(source),
            bells: Mutex::default(),
            next_id: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            hearing: Mutex::default(),
        });
        let hearing = tokio::spawn(hear(Arc::downgrade(&house), changes));
        *held(&house.hearing) = Some(hearing);
        Ok(house)
    }

    /// A bell for a client.
    pub(super) fn seat(&self) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut bells = held(&self.bells);
        // Those who left are swept out now and then: the map is never twice as long as it was full.
        if bells.len() == bells.capacity() {
            bells.retain(|_, bell| bell.strong_count() > 0);
        }
        bells.insert(id, Arc::downgrade(&bell));
        bell
    }

    /// Whether no further changes are heard.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn follow(self: &Arc<Self>, run_id: &RunId, bell: &Arc<Notify>) -> Followed {
        let mark = Arc::new(Mark { is_new: AtomicBool::new(true), bell: Arc::clone(bell) });
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut topics = held(&self.topics);
        let topic = Arc::clone(topics.entry(run_id.clone()).or_insert_with(|| Arc::new(Topic::new(run_id))));
        held(&topic.marks).insert(id, Arc::clone(&mark));
        Followed { house: Arc::clone(self), topic, mark, id }
    }

    fn ring(&self, change: &Change) {
        self.rows.note(change);
        match change {
            Change::Run(run_id) => {
                let topic = held(&self.topics).get(run_id).map(Arc::clone);
                topic.iter().for_each(|topic| topic.ring());
            }
            Change::All => {
                let topics: Vec<_> = held(&self.topics).values().map(Arc::clone).collect();
                topics.iter().for_each(|topic| topic.ring());
            }
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        held(&self.bells).values().filter_map(Weak::upgrade).for_each(|bell| bell.notify_one());
    }
}

impl Drop for House {
    fn drop(&mut self) {
        held(&self.hearing).take().iter().for_each(JoinHandle::abort);
    }
}

async fn hear(house: Weak<House>, mut changes: Changes) {
    while let Some(change) = changes.next().await {
        let Some(house) = house.upgrade() else { return };
        house.ring(&change);
    }
    house.upgrade().iter().for_each(|house| house.close());
}

/// A run that somebody follows.
pub(super) struct Topic {
    pub(super) run_id: RunId,
    /// What was read of it since its last wake-up.
    pub(super) shelf: Shelf,
    marks: Mutex<HashMap<u64, Arc<Mark>>>,
}

/// What one client has not seen of a run.
struct Mark {
    is_new: AtomicBool,
    bell: Arc<Notify>,
}

impl Topic {
    fn new(run_id: &RunId) -> Self {
        Self { run_id: run_id.clone(), shelf: Shelf::default(), marks: Mutex::default() }
    }

    fn ring(&self) {
        // First: whoever is woken reads behind this change.
        self.shelf.clear();
        for mark in held(&self.marks).values() {
            if !mark.is_new.swap(true, Ordering::AcqRel) {
                mark.bell.notify_one();
            }
        }
    }
}

/// A run that one client follows, until it is dropped.
pub struct Followed {
    house: Arc<House>,
    topic: Arc<Topic>,
    mark: Arc<Mark>,
    id: u64,
}

impl Followed {
    /// Whether the run may have changed since this was last asked.
    pub fn take_news(&self) -> bool {
        self.mark.is_new.swap(false, Ordering::AcqRel)
    }

    pub(super) fn topic(&self) -> Arc<Topic> {
        Arc::clone(&self.topic)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut topics = held(&self.house.topics);
        let is_last = {
            let mut marks = held(&self.topic.marks);
            marks.remove(&self.id);
            marks.is_empty()
        };
        if is_last {
            topics.remove(&self.topic.run_id);
        }
    }
}
