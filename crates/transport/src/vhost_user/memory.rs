//! The guest's memory, as the front end shares it and changes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use thrufs_sys::guest_memory::GuestMemory;

/// See the module.
#[derive(Default)]
pub(super) struct SharedMemory {
    /// Changes with `memory`.
    generation: AtomicU64,
    memory: Mutex<Option<GuestMemory>>,
}

impl SharedMemory {
    /// The memory of now, and which one it is.
    pub(super) fn now(&self) -> (Arc<GuestMemory>, u64) {
        let generation = self.generation();
        let memory = self.memory.lock().clone();
        // A copy of the list of regions for each queue: one that all count references of would be in the
        // way of every request.
        (Arc::new(memory.unwrap_or_default()), generation)
    }

    /// Which one it is now.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The front end has changed it, or is gone.
    pub(super) fn set(&self, memory: Option<GuestMemory>) {
        *self.memory.lock() = memory;
        self.generation.fetch_add(1, Ordering::Release);
    }
}
