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
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use thrufs_sys::guest_memory::{GuestMemory, Storage};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::kept::{KeptQueue, Stood};
use super::ring::{QUIET, RingAddresses, USED_ENTRIES, USED_ENTRY, USED_INDEX};

/// Lists that are kept for the next requests: as many as are often under way at once.
const STORAGE_KEPT: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Used {
    state: Mutex<State>,
    idle: Condvar,
    /// What outlives this process, where anything does.
    kept: Option<(KeptQueue, Arc<Resumed>)>,
}

/// A chain that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChainId {
    head: u16,
    /// Which life of the ring offered it.
    epoch: u64,
    /// Where another server may serve it once more: what it then knows it by.
    pub(super) number: Option<u64>,
    /// An earlier server had it under way.
    is_resumed: bool,
}

/// The chains that an earlier server had under way, until the last of them is given back.
pub(super) struct Resumed {
    left: AtomicUsize,
    has_resumed: Box<dyn Fn() + Send + Sync>,
}

impl Resumed {
    /// So many; `has_resumed` is called after the last of them.
    pub(super) fn new(left: usize, has_resumed: impl Fn() + Send + Sync + 'static) -> Self {
        // One for this call.
        let resumed = Self {
            left: AtomicUsize::new(left + 1),
            has_resumed: Box::new(has_resumed),
        };
        resumed.one_less();
        resumed
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.has_resumed)();
        }
    }
}

impl std::fmt::Debug for Resumed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resumed").field(&self.left).finish()
    }
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
    pub(super) fn new(kept: Option<(KeptQueue, Arc<Resumed>)>) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    /// The ring is there from now on; `next` only when it starts.
    pub(super) fn place(
        &self,
        memory: &Arc<GuestMemory>,
        addresses: RingAddresses,
        event_index: bool,
        next: Option<u16>,
    ) {
        let mut state = self.state.lock();
        if let Some(next) = next {
            state.next = next;
            state.told = next;
            state.epoch += 1;
            if let Some((kept, _)) = &self.kept {
                kept.start(next);
            }
        }
        state.at = Some(At {
            memory: Arc::clone(memory),
            addresses,
            event_index,
        });
    }

    /// The ring goes on where an earlier server stood: none if it had not started.
    pub(super) fn go_on(&self) -> Option<Stood> {
        let (kept, resumed) = self.kept.as_ref()?;
        let mut state = self.state.lock();
        let before = kept.stood(None)?;
        let stood = kept.stood(state.at.as_ref().and_then(At::used_index))?;
        state.next = stood.next_used;
        state.told = stood.next_used;
        state.epoch += 1;
        // That server may have died before it did.
        state.call_anyway();
        drop(state);
        (stood.under_way.len()..before.under_way.len()).for_each(|_given_back| resumed.one_less());
        Some(stood)
    }

    pub(super) fn set_call(&self, call: Option<File>) {
        let mut state = self.state.lock();
        state.call = call;
        if self.kept.is_some() {
            // What was to be told by the one before may not have been.
            state.call_anyway();
        }
    }

    /// As [`Self::begin`], of a chain that an earlier server had taken.
    pub(super) fn resume(&self, head: u16) -> (ChainId, Storage) {
        let mut state = self.state.lock();
        state.in_flight += 1;
        let chain = ChainId {
            head,
            epoch: state.epoch,
            number: self.kept.as_ref().map(|(kept, _)| kept.number_of(head)),
            is_resumed: true,
        };
        (chain, state.storage.pop().unwrap_or_default())
    }

    /// The chain from `head` is under way; its list comes in this storage. None if the driver has as many
    /// as a queue of `size` can have.
    pub(super) fn begin(&self, head: u16, size: u16) -> Option<(ChainId, Storage)> {
        let mut state = self.state.lock();
        if state.in_flight >= size {
            return None;
        }
        state.in_flight += 1;
        let chain = ChainId {
            head,
            epoch: state.epoch,
            number: self.kept.as_ref().map(|(kept, _)| kept.take(head)),
            is_resumed: false,
        };
        Some((chain, state.storage.pop().unwrap_or_default()))
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
        if chain.epoch == state.epoch {
            let kept = self.kept.as_ref().map(|(kept, _)| kept);
            if let Err(error) = state.push(chain.head, len, kept) {
                tracing::debug!(%error, "an answer that the ring does not take");
            }
        }
        drop(state);
        if let Some((_, resumed)) = self.kept.as_ref().filter(|_| chain.is_resumed) {
            resumed.one_less();
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
        if let Err(error) = state.call_if_asked() {
            tracing::debug!(%error, "a driver that cannot be called");
        }
    }

    /// Whether the ring has started, and has not stopped since.
    pub(super) fn is_placed(&self) -> bool {
        self.state.lock().at.is_some()
    }

    /// Waits until nothing is under way, or `patience` is over; then the ring is gone. Returns the next
    /// entry's index.
    pub(super) fn stop(&self, patience: Duration) -> u16 {
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
        state.next
    }
}

impl State {
    fn push(&mut self, head: u16, len: u32, kept: Option<&KeptQueue>) -> io::Result<()> {
        let Some(at) = &self.at else {
            return Ok(());
        };
        let addresses = at.addresses;
        let used = at.part(addresses.used, addresses.used_len())?;
        let entry = USED_ENTRIES + USED_ENTRY * usize::from(self.next % addresses.size);
        let bytes = (u64::from(len) << 32 | u64::from(head)).to_le_bytes();
        used.write_slice(&bytes, entry).map_err(io::Error::other)?;
        if let Some(kept) = kept {
            kept.gives_back(head);
        }
        let index = self.next;
        self.next = index.wrapping_add(1);
        used.store(self.next.to_le(), USED_INDEX, Ordering::Release)
            .map_err(io::Error::other)?;
        if let Some(kept) = kept {
            kept.given_back(head.into(), index);
        }
        match self.holds_calls {
            true => Ok(()),
            false => self.call_if_asked(),
        }
    }

    /// Calls the driver, if it asks for that, for the entries since this was last asked.
    fn call_if_asked(&mut self) -> io::Result<()> {
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

    /// Calls the driver for what an earlier server may not have called it for.
    fn call_anyway(&self) {
        if let Some(call) = &self.call {
            // One that cannot be called is one that does not wait.
            let _not_called = call_driver(call);
        }
    }
}

impl At {
    /// A part of the ring.
    fn part(&self, address: u64, len: usize) -> io::Result<VolatileSlice<'_>> {
        let slice = self.memory.get_slice(GuestAddress(address), len);
        slice.map_err(io::Error::other)
    }

    /// The index that the ring has; none if that cannot be read.
    fn used_index(&self) -> Option<u16> {
        let used = self
            .part(self.addresses.used, self.addresses.used_len())
            .ok()?;
        let index = used.load::<u16>(USED_INDEX, Ordering::Acquire).ok()?;
        Some(u16::from_le(index))
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
