//! INTERRUPT: which requests their callers no longer wait for.
//!
//! Only a request that waits can end early, and it asks here. So INTERRUPT is noted whatever the request
//! does, and nothing is registered when one begins: the INTERRUPT of a request may be read before the
//! request itself, by another thread, and is found all the same.
//!
//! Invariant: no more than [`KEPT`] are noted. The one that makes room for another is answered EAGAIN,
//! upon which the kernel sends it again if its request is still under way (`fuse_dev_do_write`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// As many as a machine has signals under way to callers that wait.
const KEPT: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Noted {
    /// Number of the request.
    request: u64,
    /// Number of the INTERRUPT, for an answer.
    unique: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    noted: Mutex<VecDeque<Noted>>,
    /// Its length, which spares a request the lock.
    count: AtomicUsize,
}

impl Interrupts {
    /// Notes that INTERRUPT `unique` ends `request`; returns the INTERRUPT that the caller has to answer EAGAIN.
    pub(super) fn note(&self, request: u64, unique: u64) -> Option<u64> {
        let mut noted = self.noted.lock();
        noted.retain(|known| known.request != request);
        noted.push_back(Noted { request, unique });
        let evicted = match noted.len() > KEPT {
            true => noted.pop_front(),
            false => None,
        };
        self.count.store(noted.len(), Ordering::SeqCst);
        evicted.map(|evicted| evicted.unique)
    }

    /// Whether `request` was interrupted; true once.
    pub(super) fn take(&self, request: u64) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut noted = self.noted.lock();
        let before = noted.len();
        noted.retain(|known| known.request != request);
        self.count.store(noted.len(), Ordering::SeqCst);
        noted.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_finds_an_interrupt_once() {
        let interrupts = Interrupts::default();
        assert!(!interrupts.take(8));
        assert_eq!(interrupts.note(8, 9), None);
        assert!(!interrupts.take(10));
        assert!(interrupts.take(8));
        assert!(!interrupts.take(8));
    }

    #[test]
    fn note_of_more_than_are_kept_gives_back_the_oldest() {
        let interrupts = Interrupts::default();
        for request in 0..KEPT as u64 {
            assert_eq!(interrupts.note(request * 2, request * 2 + 1), None);
        }
        assert_eq!(interrupts.note(1000, 1001), Some(1));
        assert!(!interrupts.take(0));
        assert!(interrupts.take(2));
    }
}
