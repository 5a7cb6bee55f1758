//! Whether those who listen still may. One question per credential, not per client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::seats::held;
use crate::contract::{Access, Principal, Refusal, RequestFacts, Scope};

/// How long after its end a right may still be used. A door may remember for a second whom it let in, and asking takes time:
/// together these stay below the promised 5 s.
const ASK_EVERY: Duration = Duration::from_secs(3);

type Registry = Arc<Mutex<HashMap<RequestFacts, Weak<Right>>>>;

/// Who listens by which credentials.
pub(super) struct Rights {
    access: Arc<dyn Access>,
    registry: Registry,
}

/// What was presented by clients that listen, until the last of them has left.
pub(super) struct Right {
    facts: RequestFacts,
    has_ended: watch::Sender<bool>,
    registry: Registry,
}

impl Rights {
    pub(super) fn new(access: Arc<dyn Access>) -> Self {
        Self { access, registry: Registry::default() }
    }

    /// Asks again from now on whether whoever presents this is still this principal and may read.
    pub(super) fn watch(&self, who: &Principal, facts: &RequestFacts) -> Arc<Right> {
        // One credential is asked for once, from wherever it came; and nobody is held to account for asking again.
        let facts = facts.without_origin_of_connection();
        // Dropped after the lock: the last one to drop a right takes it out of the registry.
        let known = held(&self.registry).get(&facts).and_then(Weak::upgrade);
        if let Some(right) = known.filter(|right| !*right.has_ended.borrow()) {
            return right;
        }
        let right = Arc::new(Right {
            facts: facts.clone(),
            has_ended: watch::Sender::new(false),
            registry: Arc::clone(&self.registry),
        });
        held(&self.registry).insert(facts, Arc::downgrade(&right));
        tokio::spawn(ask(Arc::clone(&self.access), who.clone(), Arc::downgrade(&right)));
        right
    }
}

async fn ask(access: Arc<dyn Access>, who: Principal, right: Weak<Right>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let Some(facts) = right.upgrade().map(|right| right.facts.clone()) else { return };
        let still = match access.authenticate(&facts).await {
            Ok(now) => now.tenant == who.tenant && now.require(Scope::Read).is_ok(),
            // Nobody can say now. What is shown comes from the same storage. (A provider that does not answer is another
            // matter: its word holds for a minute, and is too old then.)
            Err(Refusal::Unavailable) => true,
            Err(_) => false,
        };
        if !still {
            if let Some(right) = right.upgrade() {
                right.has_ended.send_replace(true);
            }
            return;
        }
    }
}

impl Right {
    pub(super) async fn ended(&self) {
        // The sender is this right's own.
        let _ = self.has_ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let mut registry = held(&self.registry);
        // Another one may stand in its place already.
        if registry.get(&self.facts).is_some_and(|right| right.strong_count() == 0) {
            registry.remove(&self.facts);
        }
    }
}
