//! Whether concurrent durable WRITEs are joined or run in parallel: whichever measured faster on this file.
//!
//! Why measured: joining saves flushes and gives up parallelism. Where a flush costs a disk's rotation or
//! another file system's commit, joining gains a multiple; on storage that flushes at once it loses half.
//! No kernel interface tells the two apart.
//!
//! Invariants: both strategies are compared in one run, under the same load, a few dozen milliseconds
//! apart, in WRITEs a second; the unused one is retried, ever more rarely while the result is confirmed; a
//! WRITE without concurrent ones is neither delayed nor counted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A strategy is measured over at least this long,
const EPOCH: Duration = Duration::from_millis(20);
/// and at least so many WRITEs,
const WRITES: u32 = 128;
/// the first ones after a switch not counted: they began under the other strategy.
const UNSETTLED: u32 = 32;
/// A pause as long as this is the client's, and ends the measurement.
const PAUSE: Duration = Duration::from_millis(200);
/// How much faster the other strategy must be to replace the current one.
const BETTER: f64 = 1.1;
/// Measurements between trials of the other strategy: initially, and at most.
const TRIALS: (u32, u32) = (8, 512);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strategy {
    /// WRITEs under way.
    inside: AtomicUsize,
    /// In parallel, not joined.
    parallel: AtomicBool,
    /// A leaf lock.
    rates: Mutex<Rates>,
}

/// One WRITE that is under way.
#[derive(Debug)]
pub(super) struct Concurrent<'a> {
    strategy: &'a Strategy,
    met: bool,
}

#[derive(Debug)]
struct Rates {
    parallel: bool,
    /// The last rate of the current strategy, in WRITEs a second, while the other is tried.
    rival: Option<f64>,
    /// Measurements until the other strategy is tried, and the interval after that.
    left: u32,
    interval: u32,
    /// The running measurement: WRITEs not counted yet, WRITEs counted, and its times.
    unsettled: u32,
    writes: u32,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            parallel: false,
            rival: None,
            left: 1,
            interval: TRIALS.0,
            unsettled: UNSETTLED,
            writes: 0,
            began: None,
            last: None,
        }
    }
}

impl Strategy {
    /// One more WRITE; ends when what it returns is dropped.
    pub(super) fn enter(&self) -> Concurrent<'_> {
        let met = self.inside.fetch_add(1, Ordering::Relaxed) > 0;
        Concurrent {
            strategy: self,
            met,
        }
    }

    /// As if running in parallel had measured faster.
    #[cfg(test)]
    pub(super) fn force_parallel(&self) {
        self.rates.lock().parallel = true;
        self.parallel.store(true, Ordering::Relaxed);
    }
}

impl Concurrent<'_> {
    /// Whether it is written alone although others are concurrent.
    pub(super) fn runs_alone(&self) -> bool {
        self.met && self.strategy.parallel.load(Ordering::Relaxed)
    }
}

impl Drop for Concurrent<'_> {
    fn drop(&mut self) {
        let others = self.strategy.inside.fetch_sub(1, Ordering::Relaxed) > 1;
        if self.met || others {
            let mut rates = self.strategy.rates.lock();
            rates.ended(Instant::now());
            self.strategy
                .parallel
                .store(rates.parallel, Ordering::Relaxed);
        }
    }
}

impl Rates {
    /// One WRITE that met others ended at `now`.
    fn ended(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now - last >= PAUSE) {
            self.restart();
        }
        self.last = Some(now);
        if self.unsettled > 0 {
            self.unsettled -= 1;
            return;
        }
        let began = *self.began.get_or_insert(now);
        self.writes += 1;
        let took = now - began;
        if self.writes >= WRITES && took >= EPOCH {
            self.measured(f64::from(self.writes) / took.as_secs_f64());
        }
    }

    fn measured(&mut self, rate: f64) {
        self.restart();
        match self.rival.take() {
            // The trial is over: keep the tried strategy, or return to the previous one.
            Some(rival) if rate > rival * BETTER => {
                self.interval = TRIALS.0;
                self.left = self.interval;
            }
            Some(_rival) => {
                self.parallel = !self.parallel;
                self.interval = TRIALS.1.min(self.interval * 2);
                self.left = self.interval;
            }
            None => {
                self.left -= 1;
                if self.left == 0 {
                    self.rival = Some(rate);
                    self.parallel = !self.parallel;
                }
            }
        }
    }

    fn restart(&mut self) {
        self.unsettled = UNSETTLED;
        self.writes = 0;
        self.began = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `measurements` were done apart, if joined WRITEs take `joined` and others `apart`.
    fn apart_of(rates: &mut Rates, now: &mut Instant, times: [Duration; 2]) -> u32 {
        let mut apart = 0;
        for _ in 0..100_000 {
            apart += u32::from(rates.parallel);
            *now += times[usize::from(rates.parallel)];
            rates.ended(*now);
        }
        apart
    }

    const SLOW: Duration = Duration::from_micros(800);
    const FAST: Duration = Duration::from_micros(200);

    #[test]
    fn ended_where_joining_is_faster_is_joined_but_for_rare_trials() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        let apart = apart_of(&mut rates, &mut now, [FAST, SLOW]);
        assert!((1..3000).contains(&apart), "{apart}");
    }

    #[test]
    fn ended_where_joining_is_slower_is_apart_but_for_rare_trials() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        let apart = apart_of(&mut rates, &mut now, [SLOW, FAST]);
        assert!((97_000..100_000).contains(&apart), "{apart}");
    }

    #[test]
    fn ended_where_both_are_alike_stays_joined() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        let apart = apart_of(&mut rates, &mut now, [FAST, FAST]);
        assert!(apart < 3000, "{apart}");
    }

    #[test]
    fn ended_on_storage_that_changes_follows_it() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        for _ in 0..3 {
            apart_of(&mut rates, &mut now, [SLOW, FAST]);
            assert!(rates.parallel);
            apart_of(&mut rates, &mut now, [FAST, SLOW]);
            assert!(!rates.parallel);
        }
    }

    #[test]
    fn ended_after_a_pause_does_not_count_it() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        for _ in 0..20 {
            for _ in 0..WRITES {
                now += FAST;
                rates.ended(now);
            }
            now += PAUSE;
        }
        assert_eq!(rates.rival, None, "nothing was measured");
    }

    #[test]
    fn enter_by_one_after_the_other_meets_nobody_and_counts_nothing() {
        let strategy = Strategy::default();
        for _ in 0..3 {
            assert!(!strategy.enter().met);
        }
        assert_eq!(strategy.rates.lock().last, None);
        let first = strategy.enter();
        assert!(strategy.enter().met);
        assert!(!first.runs_alone());
        drop(first);
        assert_eq!(strategy.inside.load(Ordering::Relaxed), 0);
    }
}
