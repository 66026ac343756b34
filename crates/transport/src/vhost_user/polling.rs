//! Looking at a ring for a moment before its thread sleeps: a driver that sends the next request at once then
//! needs no kick, and the device no system call.
//!
//! Invariant: an idle queue is not looked at, and looking in vain costs next to nothing in the long run. What is
//! gained by a success is about half of what a failure costs. So a failure multiplies the number of sleeps until
//! the next attempt by four, up to [`SKIPPED_MAX`], and a success halves it: every sleep is preceded by an attempt
//! where more than two of three succeed.
//!
//! Why not for as long as the last pauses took: where device and driver share a CPU the next request never
//! comes while the device looks, however short the pauses are without it.

use std::time::{Duration, Instant};

/// The longest look. Longer ones help with CPUs to spare, and cost throughput without.
const LONGEST: Duration = Duration::from_micros(5);
/// Looks between two of the clock.
const LOOKS: usize = 8;
/// Sleeps without an attempt at most: in vain, 5 us in 1024 sleeps.
const SKIPPED_MAX: u32 = 1023;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Sleeps between two attempts.
    skipped: u32,
    /// Sleeps until the next attempt.
    left: u32,
}

impl Polling {
    /// Whether `has_more` says so within a moment.
    ///
    /// # Errors
    /// Those of `has_more`.
    pub(super) fn finds<E>(
        &mut self,
        mut has_more: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if self.left > 0 {
            self.left -= 1;
            return Ok(false);
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if has_more()? {
                    self.skipped /= 2;
                    self.left = self.skipped;
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= LONGEST {
                self.skipped = (4 * self.skipped + 3).min(SKIPPED_MAX);
                self.left = self.skipped;
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Sleeps that begin with an attempt, of so many, while `found` is what an attempt finds.
    fn attempts(polling: &mut Polling, sleeps: usize, found: bool) -> usize {
        let mut attempts = 0;
        for _ in 0..sleeps {
            let mut has_looked = false;
            let done: Result<bool, Infallible> = polling.finds(|| {
                has_looked = true;
                Ok(found)
            });
            assert_eq!(done, Ok(found && has_looked));
            attempts += usize::from(has_looked);
        }
        attempts
    }

    #[test]
    fn finds_in_vain_looks_ever_more_seldom() {
        let mut polling = Polling::default();
        // After 3, 15, 63, 255 and 1023 sleeps, and each time one for itself.
        assert_eq!(attempts(&mut polling, 1 + 4 + 16 + 64 + 256, false), 5);
        assert_eq!(attempts(&mut polling, 10 * 1024, false), 10);
    }

    #[test]
    fn finds_with_success_looks_before_each_sleep_in_the_end() {
        let mut polling = Polling::default();
        attempts(&mut polling, 10 * 1024, false);
        // 1023 sleeps without an attempt, then 511, and so on.
        assert!(attempts(&mut polling, 1023 + 11, true) < 100);
        attempts(&mut polling, 1024, true);
        assert_eq!(attempts(&mut polling, 100, true), 100);
    }

    #[test]
    fn finds_with_success_every_other_time_looks_seldom() {
        let mut polling = Polling::default();
        let mut all = 0;
        for _ in 0..1000 {
            all += attempts(&mut polling, 1, true);
            all += attempts(&mut polling, 1, false);
        }
        assert!(all < 200, "{all} attempts in 2000 sleeps");
    }
}
