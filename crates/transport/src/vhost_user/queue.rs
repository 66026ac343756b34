//! The thread of one queue: one chain after the other, until the front end stops the queue.
//!
//! Invariant: no lock of another queue, and no allocation for a request once the lists have grown.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use thrufs_sys::guest_memory::{GuestBuffers, GuestMemory, Storage};
use thrufs_wire::abi::InHeader;
use thrufs_wire::request;

use super::calls::Calls;
use super::chain::walk;
use super::completion::Completion;
use super::kick::Kick;
use super::memory::SharedMemory;
use super::polling::Polling;
use super::ring::{Ring, RingError};
use super::service::{Request, Service};
use super::used::ChainId;
use super::vring::{Shared, Start};

const HEADER: usize = size_of::<InHeader>();
/// Bytes that a request has in front of data that stay where they are: names, an attribute's value of 64 KiB.
const HEAD_MAX: usize = 256 << 10;

/// A queue that is served.
pub(super) struct Queue<'a> {
    index: usize,
    service: &'a Arc<dyn Service>,
    memory: &'a SharedMemory,
    shared: &'a Shared,
    start: Start,
    /// The part of a request that is decoded.
    head: Vec<u8>,
    /// A chain that made no sense was reported.
    has_complained: bool,
    polling: Polling,
    calls: Calls,
    /// Chains that an earlier server had under way.
    left: VecDeque<u16>,
}

/// Why [`Queue::serve_in`] returns.
enum Pause {
    Stopped,
    MemoryChanged,
}

impl<'a> Queue<'a> {
    pub(super) fn new(
        index: usize,
        (service, memory): (&'a Arc<dyn Service>, &'a SharedMemory),
        shared: &'a Shared,
        start: Start,
    ) -> Self {
        Self {
            index,
            service,
            memory,
            shared,
            start,
            head: Vec::new(),
            has_complained: false,
            polling: Polling::default(),
            calls: Calls::default(),
            left: VecDeque::new(),
        }
    }

    /// Serves until the queue is stopped. Returns the index of the next chain.
    pub(super) fn serve(mut self) -> u16 {
        let mut kick = None;
        loop {
            let (memory, generation) = self.memory.now();
            self.place(&memory);
            // The guest's next word must not be what a bug of ours makes of its last one.
            let served = catch_unwind(AssertUnwindSafe(|| {
                self.serve_in(&memory, generation, &mut kick)
            }));
            self.calls.release(&self.shared.used);
            match served.unwrap_or(Err(RingError::Panicked)) {
                Ok(Pause::MemoryChanged) => {}
                Ok(Pause::Stopped) => return self.start.next_available,
                Err(error) => {
                    let name = name_of(self.index);
                    tracing::error!("{name} is not served any more: {error}");
                    self.shared.signal_error();
                    self.shared.wait_for_stop();
                    return self.start.next_available;
                }
            }
        }
    }

    /// The ring is in `memory` now, where it starts or goes on.
    fn place(&mut self, memory: &Arc<GuestMemory>) {
        let (addresses, event_index) = (self.start.addresses, self.start.event_index);
        let used = &self.shared.used;
        if std::mem::take(&mut self.start.may_go_on) {
            used.place(memory, addresses, event_index, None);
            if let Some(stood) = used.go_on() {
                self.start.next_available = stood.next_available();
                self.left = stood.under_way.into();
                return;
            }
        }
        used.place(memory, addresses, event_index, self.start.next_used.take());
    }

    fn serve_in(
        &mut self,
        memory: &Arc<GuestMemory>,
        generation: u64,
        kick: &mut Option<Kick>,
    ) -> Result<Pause, RingError> {
        let (next, event_index) = (self.start.next_available, self.start.event_index);
        let mut ring = Ring::new(memory, self.start.addresses, next, event_index)?;
        let mut readable = GuestBuffers::new(Arc::clone(memory), Storage::default());
        while let Some(head) = self.left.pop_front() {
            self.serve_again(memory, &ring, head, &mut readable);
        }
        let kick = Kick::of(kick, self.shared.kick(), self.shared.wake_fd())?;
        loop {
            ring.refuse_kicks()?;
            loop {
                if !self.shared.may_run() {
                    return Ok(Pause::Stopped);
                }
                if self.memory.generation() != generation {
                    return Ok(Pause::MemoryChanged);
                }
                let Some(head) = ring.pop()? else { break };
                self.start.next_available = ring.next();
                self.serve_chain(memory, &ring, head, &mut readable)?;
            }
            self.calls.release(&self.shared.used);
            if !self.polling.finds(|| ring.has_more())? && ring.ask_for_kicks()? {
                kick.wait()?;
            }
        }
    }

    fn serve_chain(
        &mut self,
        memory: &Arc<GuestMemory>,
        ring: &Ring<'_>,
        head: u16,
        readable: &mut GuestBuffers,
    ) -> Result<(), RingError> {
        let size = self.start.addresses.size;
        let begun = self.shared.used.begin(head, size);
        let begun = begun.ok_or(RingError::InFlight(size))?;
        self.serve_begun(memory, ring, (head, begun), readable);
        Ok(())
    }

    /// One that an earlier server had taken.
    fn serve_again(
        &mut self,
        memory: &Arc<GuestMemory>,
        ring: &Ring<'_>,
        head: u16,
        readable: &mut GuestBuffers,
    ) {
        let begun = self.shared.used.resume(head);
        self.serve_begun(memory, ring, (head, begun), readable);
    }

    fn serve_begun(
        &mut self,
        memory: &Arc<GuestMemory>,
        ring: &Ring<'_>,
        (head, (chain, storage)): (u16, (ChainId, Storage)),
        readable: &mut GuestBuffers,
    ) {
        let mut writable = GuestBuffers::new(Arc::clone(memory), storage);
        readable.clear();
        let walked = walk(memory, &ring.descriptors, head, readable, &mut writable);
        let writable_len = writable.len();
        let completion = Completion::new(&self.shared.used, chain, writable);
        if let Err(error) = walked {
            return self.complain(&error.to_string());
        }
        if !self.read_head(readable) {
            return self.complain(&format!(
                "a request of {} bytes that is no WRITE",
                readable.len()
            ));
        }
        let bytes = readable.len() + writable_len;
        // A ring that cannot be read is reported by the next look.
        let has_more = matches!(ring.has_more(), Ok(true));
        let used = &self.shared.used;
        self.calls.before(used, &self.head, bytes, has_more);
        self.service.serve(
            Request {
                queue: self.index,
                number: chain.number,
                head: &self.head,
                all: readable.all(),
            },
            completion,
        );
    }

    /// Copies what is decoded; false if it is more than any request has.
    fn read_head(&mut self, readable: &GuestBuffers) -> bool {
        let (all, total) = (readable.all(), readable.len());
        self.head.resize(total.min(HEADER), 0);
        all.copy_to(&mut self.head);
        let Ok(header) = request::header(&self.head) else {
            return true;
        };
        let len = request::head_len(&header, total);
        if len > HEAD_MAX {
            return false;
        }
        // The header is not read again: it would be another one if the guest has changed it.
        let known = self.head.len();
        self.head.resize(len, 0);
        if len > known {
            all.after(known).copy_to(&mut self.head[known..]);
        }
        true
    }

    /// A chain that makes no sense. The guest gets it back with nothing written; said once a queue.
    fn complain(&mut self, error: &str) {
        let name = name_of(self.index);
        match std::mem::replace(&mut self.has_complained, true) {
            false => {
                tracing::error!("{name}: a request that is none: {error}; more are not logged");
            }
            true => tracing::debug!("{name}: a request that is none: {error}"),
        }
        self.shared.signal_error();
    }
}

fn name_of(queue: usize) -> String {
    match queue {
        0 => "the priority queue".to_owned(),
        request => format!("request queue {}", request - 1),
    }
}
