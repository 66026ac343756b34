//! Requests that may be given up: their callers die while SOURCE keeps them waiting.
//!
//! A caller whose request has been read waits for the answer even when it is killed (`request_wait_answer` in
//! fs/fuse/dev.c). So the answer is EINTR at once, and what the operation gives out later is taken back as after any
//! answer that the kernel refuses ([`super::reply::Sent::Refused`]).
//!
//! Invariant: one answer. Both sides change the slot's number, and only the one that finds the request in it sends.
//!
//! Why only for callers that die: INTERRUPT tells of every signal, and natively stat(2), open(2) and read(2) of a
//! file are not interrupted by one that has a handler. git and make do not expect EINTR there.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Requests that are known at a time; more cannot be given up.
const SLOTS: usize = 64;
/// The number in a free slot; the kernel's begin with 2.
const FREE: u64 = 0;

/// A cache line of its own: each session thread writes to one twice a request.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    unique: AtomicU64,
    /// The caller's thread id; 0 where it cannot be seen from here.
    tid: AtomicU32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Running {
    slots: [Slot; SLOTS],
}

impl Default for Running {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }
}

/// A request in its slot. Answered by [`Ticket::claim`]; dropped, the slot is free again.
#[derive(Debug)]
pub(super) struct Ticket {
    running: Arc<Running>,
    slot: usize,
    unique: u64,
}

impl Running {
    /// The request `unique` of thread `tid` is served from now on; none if there is no slot.
    pub(super) fn enter(self: &Arc<Self>, unique: u64, tid: u32) -> Option<Ticket> {
        thread_local! {
            /// The slot that this thread had last.
            static LAST: Cell<usize> = const { Cell::new(0) };
        }
        let first = LAST.get();
        let slot = (first..first + SLOTS).map(|at| at % SLOTS).find(|&at| {
            let (order, other) = (Ordering::SeqCst, Ordering::Relaxed);
            let number = &self.slots[at].unique;
            number.load(other) == FREE
                && number.compare_exchange(FREE, unique, order, other).is_ok()
        })?;
        LAST.set(slot);
        self.slots[slot].tid.store(tid, Ordering::Release);
        let running = Arc::clone(self);
        Some(Ticket {
            running,
            slot,
            unique,
        })
    }

    /// The caller of a request that is being served.
    pub(super) fn caller(&self, unique: u64) -> Option<u32> {
        let is_it = |slot: &&Slot| slot.unique.load(Ordering::SeqCst) == unique;
        let slot = self.slots.iter().find(is_it)?;
        Some(slot.tid.load(Ordering::Acquire))
    }

    /// Takes the request out of the hands of the thread that serves it: the answer is the calling thread's to send.
    /// False if there is no such request by now.
    pub(super) fn give_up(&self, unique: u64) -> bool {
        self.slots.iter().any(|slot| slot.claim(unique))
    }
}

impl Slot {
    fn claim(&self, unique: u64) -> bool {
        let (order, other) = (Ordering::AcqRel, Ordering::Relaxed);
        self.unique.load(other) == unique
            && self
                .unique
                .compare_exchange(unique, FREE, order, other)
                .is_ok()
    }
}

impl Ticket {
    /// The answer is ready. False if the request was given up, and is answered.
    pub(super) fn claim(self) -> bool {
        self.running.slots[self.slot].claim(self.unique)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.running.slots[self.slot].claim(self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_of_what_was_given_up_is_false_and_frees_the_slot() {
        let running = Arc::new(Running::default());
        let (first, second) = (running.enter(2, 7).unwrap(), running.enter(4, 8).unwrap());
        assert_eq!(running.caller(2), Some(7));
        assert_eq!(running.caller(4), Some(8));
        assert!(running.give_up(2));
        assert!(!running.give_up(2), "given up already");
        assert!(!first.claim());
        assert!(second.claim());
        assert!(!running.give_up(4), "answered");
        assert_eq!(running.caller(4), None);
    }

    #[test]
    fn enter_of_more_than_there_are_slots_is_none_until_one_is_free() {
        let running = Arc::new(Running::default());
        let mut all: Vec<Ticket> = (1..=SLOTS as u64)
            .map(|number| running.enter(2 * number, 1).unwrap())
            .collect();
        assert!(running.enter(1000, 1).is_none());
        drop(all.pop());
        assert!(running.enter(1000, 1).is_some());
    }

    /// The slot has another request by then, which must not be taken for the old one.
    #[test]
    fn claim_after_the_slot_was_used_again_leaves_the_other_request_alone() {
        let running = Arc::new(Running::default());
        let old = running.enter(2, 1).unwrap();
        assert!(running.give_up(2));
        let new = running.enter(4, 1).unwrap();
        assert_eq!(old.slot, new.slot);
        assert!(!old.claim());
        assert!(new.claim());
    }
}
