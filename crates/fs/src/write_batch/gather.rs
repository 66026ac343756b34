//! Whether a leader waits for further WRITEs before it starts its batch, and how long.
//!
//! Busy writers send their next WRITE some microseconds after their last one is answered, when the next
//! leader has already begun: each batch would hold half of them, and each half would wait for the other
//! half's flush. A leader that gathers the writers of the last batch has them all in one.
//!
//! Invariants: no leader waits where batches held one WRITE each, so a single writer is never delayed; a
//! wait lasts at most as long as the last batch (all in twice the time is no worse than half in each) and
//! at most [`LONGEST`]; after a wait that gained nothing there is none for [`REST`] batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Batches without a wait after one that gained nothing.
const REST: u32 = 16;

/// Many times what a reply and the next request take.
const LONGEST: Duration = Duration::from_millis(5);

/// See the module. The history of one group's batches.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Whether `last` may ask for a wait: one relaxed load on the uncontended path.
    may_be_busy: AtomicBool,
    /// A leaf lock, taken by the leader or the next one only.
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// When the last batch ended; none before the first.
    ended: Option<Instant>,
    took: Duration,
    /// WRITEs that were in it, or arrived meanwhile.
    there: usize,
    /// Batches that still start without a wait.
    rest: u32,
}

impl Last {
    /// How many others to wait for, and how long from `now`.
    fn wait(&self, now: Instant) -> Option<(usize, Duration)> {
        let until = self.ended? + LONGEST.min(self.took);
        let limit = until.checked_duration_since(now)?;
        (self.there > 1 && self.rest == 0).then_some((self.there - 1, limit))
    }
}

impl Gather {
    /// How many others a leader waits for, and how long at most.
    pub(super) fn wait(&self) -> Option<(usize, Duration)> {
        if !self.may_be_busy.load(Ordering::Relaxed) {
            return None;
        }
        let wait = self.last.lock().wait(Instant::now());
        if wait.is_none() {
            self.may_be_busy.store(false, Ordering::Relaxed);
        }
        wait
    }

    /// A wait brought `gained` more jobs.
    pub(super) fn waited(&self, gained: usize) {
        if gained == 0 {
            self.last.lock().rest = REST;
        }
    }

    /// A batch that began at `began` has ended; `there` counts its jobs and the waiting ones.
    pub(super) fn ended(&self, began: Instant, there: usize) {
        let mut last = self.last.lock();
        let now = Instant::now();
        last.ended = Some(now);
        last.took = now - began;
        last.there = there;
        last.rest = last.rest.saturating_sub(1);
        let busy = last.wait(now).is_some();
        self.may_be_busy.store(busy, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a batch of sixteen, at `ended`.
    fn last(ended: Instant, took: Duration) -> Last {
        Last {
            ended: Some(ended),
            took,
            there: 16,
            rest: 0,
        }
    }

    #[test]
    fn wait_after_batches_of_one_is_none() {
        let gather = Gather::default();
        assert_eq!(gather.wait(), None);
        gather.ended(Instant::now(), 1);
        assert_eq!(gather.wait(), None);
        assert!(!gather.may_be_busy.load(Ordering::Relaxed));
    }

    #[test]
    fn wait_after_a_batch_is_for_all_others_and_at_most_as_long() {
        let (ended, ms) = (Instant::now(), Duration::from_millis);
        let wait = |took, since| last(ended, ms(took)).wait(ended + ms(since));
        assert_eq!(wait(4, 1), Some((15, ms(3))));
        assert_eq!(wait(4, 5), None, "long after it");
        assert_eq!(wait(60_000, 1), Some((15, LONGEST - ms(1))));
    }

    #[test]
    fn wait_in_vain_is_followed_by_none_for_a_while() {
        let gather = Gather::default();
        gather.waited(0);
        let mut waits = 0;
        for batch in 1..=2 * REST {
            gather.ended(Instant::now(), 2);
            let last = *gather.last.lock();
            let wait = last.wait(last.ended.unwrap());
            assert_eq!(wait.is_some(), batch >= REST, "batch {batch}");
            waits += u32::from(wait.is_some());
        }
        assert_eq!(waits, REST + 1);
    }
}
