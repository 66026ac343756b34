//! Whether a leader waits a moment for others, and how long.
//!
//! Those who were just answered come again at once, if they are busy writers: some microseconds
//! after the next leader has begun, so that every batch would have only half of them, and each half
//! would wait for the other half's flush. A leader that waits for all who were there a moment ago
//! has them in one batch.
//!
//! Invariants: nobody waits where batches had one WRITE each, so a single writer is never delayed;
//! a wait is at most as long as the last batch (all in two batches' time are as many as half in each)
//! and at most [`LONGEST`]; and after one in vain there is none for [`REST`] batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Batches without a wait after one in vain.
const REST: u32 = 16;

/// Many times what it takes to reply, and to be asked again.
const LONGEST: Duration = Duration::from_millis(5);

/// See the module. What the batches of one group were like.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// `last` may be busy: asked by those who come when nobody leads, at the price of one load.
    may_be_busy: AtomicBool,
    /// A leaf lock; only who leads, or is about to, takes it.
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// When the last batch ended; none before the first.
    ended: Option<Instant>,
    took: Duration,
    /// WRITEs that were in it, or came while it was done.
    there: usize,
    /// Batches that are still to begin without a wait.
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

impl Pace {
    /// How many others a leader is to wait for, and how long.
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

    /// A batch that began at `began` has ended; `there` counts its jobs and those that wait.
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
        let pace = Pace::default();
        assert_eq!(pace.wait(), None);
        pace.ended(Instant::now(), 1);
        assert_eq!(pace.wait(), None);
        assert!(!pace.may_be_busy.load(Ordering::Relaxed));
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
        let pace = Pace::default();
        pace.waited(0);
        let mut waits = 0;
        for batch in 1..=2 * REST {
            pace.ended(Instant::now(), 2);
            let last = *pace.last.lock();
            let wait = last.wait(last.ended.unwrap());
            assert_eq!(wait.is_some(), batch >= REST, "batch {batch}");
            waits += u32::from(wait.is_some());
        }
        assert_eq!(waits, REST + 1);
    }
}
