//! The session of now, as each queue finds it.
//!
//! Invariant: a request takes no lock and changes no count that another queue's does. Each queue has a reference
//! of its own to the session; beginning another one goes from queue to queue.
//!
//! Why not one lock with readers, or one count: both are a cache line that goes from CPU to CPU twice a request.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::requests::Server;

/// See the module.
#[derive(Debug)]
pub(super) struct Current {
    /// Taken before those of the queues.
    now: Mutex<Option<Arc<Server>>>,
    queues: Box<[Slot]>,
}

/// A queue's reference.
#[derive(Debug)]
pub(super) struct OfQueue(pub(super) Arc<Server>);

/// A queue's own: two cache lines, since the CPU fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot(Mutex<Option<Arc<OfQueue>>>);

impl Current {
    /// None yet, for so many queues.
    pub(super) fn new(queues: usize) -> Self {
        Self {
            now: Mutex::default(),
            queues: (0..queues).map(|_| Slot::default()).collect(),
        }
    }

    /// As `queue` finds it.
    pub(super) fn of(&self, queue: usize) -> Option<Arc<OfQueue>> {
        self.queues.get(queue)?.0.lock().clone()
    }

    /// Whichever queue asks.
    pub(super) fn now(&self) -> Option<Arc<Server>> {
        self.now.lock().clone()
    }

    /// Another one for all queues; returns the last one.
    pub(super) fn replace(&self, next: Option<Arc<Server>>) -> Option<Arc<Server>> {
        let mut now = self.now.lock();
        for queue in &self.queues {
            *queue.0.lock() = next.clone().map(|server| Arc::new(OfQueue(server)));
        }
        std::mem::replace(&mut now, next)
    }
}
