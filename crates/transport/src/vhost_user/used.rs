//! The device's side of a split ring: chains that are given back, and calls to the driver.
//!
//! Answers come from the queue's thread, and from those that wait for SOURCE, a lock or a descriptor: one lock,
//! of this queue alone, keeps the entries in order.
//!
//! Invariant: entries for which the driver is not yet called stay so only while the queue's thread works on
//! ([`Used::hold_calls`]), never while it sleeps or may wait.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use thrufs_sys::guest_memory::{GuestMemory, Storage};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::ring::{QUIET, RingAddresses, USED_ENTRIES, USED_ENTRY, USED_INDEX};

/// Lists that are kept for the next requests: as many as are often under way at once.
const STORAGE_KEPT: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Used {
    state: Mutex<State>,
    idle: Condvar,
}

/// A chain that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChainId {
    head: u16,
    /// Which life of the ring offered it.
    epoch: u64,
}

#[derive(Debug, Default)]
struct State {
    at: Option<At>,
    /// How often the front end has said where the ring begins.
    epoch: u64,
    /// Index of the next entry.
    next: u16,
    /// Index of the next entry when a call was last thought about.
    told: u16,
    /// No call until [`Used::release_calls`].
    holds_calls: bool,
    in_flight: u16,
    call: Option<File>,
    storage: Vec<Storage>,
}

/// Where the ring is.
#[derive(Clone, Debug)]
struct At {
    memory: Arc<GuestMemory>,
    addresses: RingAddresses,
    event_index: bool,
}

impl Used {
    /// The ring begins at index `next`. Chains of its former life are not given back any more.
    pub(super) fn begin_at(&self, next: u16) {
        let mut state = self.state.lock();
        state.next = next;
        state.told = next;
        state.epoch += 1;
    }

    /// The ring is there from now on, and goes on where it was.
    pub(super) fn place(
        &self,
        memory: &Arc<GuestMemory>,
        addresses: RingAddresses,
        event_index: bool,
    ) {
        self.state.lock().at = Some(At {
            memory: Arc::clone(memory),
            addresses,
            event_index,
        });
    }

    pub(super) fn set_call(&self, call: Option<File>) {
        self.state.lock().call = call;
    }

    /// The chain from `head` is under way; its list comes in this storage. None if the driver has as many
    /// as a queue of `size` can have.
    pub(super) fn begin(&self, head: u16, size: u16) -> Option<(ChainId, Storage)> {
        let mut state = self.state.lock();
        if state.in_flight >= size {
            return None;
        }
        state.in_flight += 1;
        let epoch = state.epoch;
        let storage = state.storage.pop().unwrap_or_default();
        Some((ChainId { head, epoch }, storage))
    }

    /// Gives back `chain`, with `len` bytes written. A ring that has stopped since takes nothing.
    pub(super) fn end(&self, chain: ChainId, len: u32, storage: Storage) {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        if state.storage.len() < STORAGE_KEPT {
            state.storage.push(storage);
        }
        if state.in_flight == 0 {
            self.idle.notify_all();
        }
        if chain.epoch != state.epoch {
            return;
        }
        if let Err(error) = state.push(chain.head, len) {
            tracing::debug!(%error, "an answer that the ring does not take");
        }
    }

    /// The driver is not called until [`Used::release_calls`]: one call then serves for all entries until then.
    pub(super) fn hold_calls(&self) {
        self.state.lock().holds_calls = true;
    }

    /// The driver is called for what was held, if it asks for that, and for each entry from now on.
    pub(super) fn release_calls(&self) {
        let mut state = self.state.lock();
        state.holds_calls = false;
        if let Err(error) = state.call() {
            tracing::debug!(%error, "a driver that cannot be called");
        }
    }

    /// Waits until nothing is under way, or `patience` is over; then the ring is gone.
    pub(super) fn stop(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.in_flight > 0 {
            if self.idle.wait_until(&mut state, deadline).timed_out() {
                let left = state.in_flight;
                tracing::warn!("{left} requests are still under way when their queue is stopped");
                break;
            }
        }
        state.at = None;
    }
}

impl State {
    fn push(&mut self, head: u16, len: u32) -> io::Result<()> {
        let Some(at) = &self.at else {
            return Ok(());
        };
        let addresses = at.addresses;
        let used = at.part(addresses.used, addresses.used_len())?;
        let entry = USED_ENTRIES + USED_ENTRY * usize::from(self.next % addresses.size);
        let bytes = (u64::from(len) << 32 | u64::from(head)).to_le_bytes();
        used.write_slice(&bytes, entry).map_err(io::Error::other)?;
        self.next = self.next.wrapping_add(1);
        used.store(self.next.to_le(), USED_INDEX, Ordering::Release)
            .map_err(io::Error::other)?;
        match self.holds_calls {
            true => Ok(()),
            false => self.call(),
        }
    }

    /// Calls the driver, if it asks for that, for the entries since this was last asked.
    fn call(&mut self) -> io::Result<()> {
        let told = std::mem::replace(&mut self.told, self.next);
        let Some(at) = self.at.as_ref().filter(|_at| told != self.next) else {
            return Ok(());
        };
        if at.wants_call(told, self.next)?
            && let Some(call) = &self.call
        {
            call_driver(call)?;
        }
        Ok(())
    }
}

impl At {
    /// A part of the ring.
    fn part(&self, address: u64, len: usize) -> io::Result<VolatileSlice<'_>> {
        let slice = self.memory.get_slice(GuestAddress(address), len);
        slice.map_err(io::Error::other)
    }

    /// Whether the driver asks to be called for the entries from `told` to before `next`.
    fn wants_call(&self, told: u16, next: u16) -> io::Result<bool> {
        let addresses = self.addresses;
        let available = self.part(addresses.available, addresses.available_len())?;
        // The driver says what it wants before it looks for more.
        fence(Ordering::SeqCst);
        let load = |at: usize| {
            let value = available.load::<u16>(at, Ordering::Relaxed);
            value.map(u16::from_le).map_err(io::Error::other)
        };
        if !self.event_index {
            return Ok(load(0)? & QUIET == 0);
        }
        let event = load(addresses.used_event_at())?;
        let since = next.wrapping_sub(told);
        Ok(next.wrapping_sub(event).wrapping_sub(1) < since)
    }
}

/// An eventfd that is full has not been read: the driver is called already.
fn call_driver(call: &File) -> io::Result<()> {
    match rustix::io::write(call, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
