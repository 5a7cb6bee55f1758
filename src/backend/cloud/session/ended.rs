//! What counts no more before its own end: sessions that were signed out, sign-ins that were used. Held by this process
//! alone, which is enough for one replica; a restart forgets it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ids, each until the second in which it would have ended by itself.
pub(super) struct Ended {
    most: usize,
    until: Mutex<HashMap<String, u64>>,
}

impl Ended {
    pub(super) fn new(most: usize) -> Self {
        Self { most, until: Mutex::default() }
    }

    /// Whether it counts no more.
    pub(super) fn has(&self, id: &str) -> bool {
        self.held().contains_key(id)
    }

    /// Ends it; `false`: it had ended already. Where there are too many, the one that is nearest to its own end goes.
    pub(super) fn add(&self, id: &str, until: u64, now: u64) -> bool {
        let mut held = self.held();
        if held.len() >= self.most {
            held.retain(|_, until| *until > now);
        }
        if held.len() >= self.most
            && let Some(nearest) = held.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone())
        {
            log::warn!("more than {} sessions were signed out before their end; one is forgotten", self.most);
            held.remove(&nearest);
        }
        held.insert(id.to_owned(), until).is_none()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Ended;

    #[test]
    fn what_ended_stays_ended_until_its_own_end_and_the_list_stays_short() {
        let ended = Ended::new(3);
        assert!(ended.add("a", 10, 0) && !ended.add("a", 10, 0) && ended.has("a"));
        assert!(ended.add("b", 30, 0) && ended.add("c", 20, 0));
        // Nothing is over yet: the one that would be first goes.
        assert!(ended.add("d", 40, 5));
        assert!(!ended.has("a") && ended.has("b") && ended.has("c") && ended.has("d"));
        // Two are over by now.
        assert!(ended.add("e", 60, 35));
        assert!(!ended.has("b") && !ended.has("c") && ended.has("d") && ended.has("e"));
    }
}
