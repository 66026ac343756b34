//! Whether durable WRITEs that meet are joined or done each by itself at the same time: whatever was
//! faster when it was tried on this file.
//!
//! Why measured: joining saves flushes and gives up doing several at a time. Where a flush costs a
//! disk's rotation or another file system's commit it gains several times; on storage that answers
//! it at once it loses half. Nothing that can be asked of the kernel tells the two apart.
//!
//! Invariants: WRITEs a second of both ways are compared in one run, under the same load, a few
//! dozen milliseconds apart; the way that is not used is tried again, ever more seldom while the
//! choice is confirmed; a WRITE that meets no other is neither delayed nor counted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A way is measured over at least this long,
const EPOCH: Duration = Duration::from_millis(20);
/// and at least so many WRITEs,
const WRITES: u32 = 128;
/// the first ones after a change not counted: they began in the other way.
const UNSETTLED: u32 = 32;
/// A pause as long as this is the client's, and ends the measurement.
const PAUSE: Duration = Duration::from_millis(200);
/// How much faster the other way has to be to be taken.
const BETTER: f64 = 1.1;
/// Measurements between trials of the other way: first, and at most.
const TRIALS: (u32, u32) = (8, 512);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// WRITEs under way.
    inside: AtomicUsize,
    apart: AtomicBool,
    /// A leaf lock.
    rates: Mutex<Rates>,
}

/// One WRITE that is under way.
#[derive(Debug)]
pub(super) struct Company<'a> {
    choice: &'a Choice,
    met: bool,
}

#[derive(Debug)]
struct Rates {
    apart: bool,
    /// WRITEs a second of the way that is used, last time, while the other is tried.
    rival: Option<f64>,
    /// Measurements until the other way is tried, and how many it will be the next time.
    left: u32,
    interval: u32,
    /// The running measurement: WRITEs of it that are not counted yet, that are, and its times.
    unsettled: u32,
    writes: u32,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            apart: false,
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

impl Choice {
    /// One more WRITE; ends when what it returns is dropped.
    pub(super) fn enter(&self) -> Company<'_> {
        let met = self.inside.fetch_add(1, Ordering::Relaxed) > 0;
        Company { choice: self, met }
    }

    /// As if that had been measured to be faster.
    #[cfg(test)]
    pub(super) fn force_apart(&self) {
        self.rates.lock().apart = true;
        self.apart.store(true, Ordering::Relaxed);
    }
}

impl Company<'_> {
    /// Whether it is to be done by itself though there are others.
    pub(super) fn goes_apart(&self) -> bool {
        self.met && self.choice.apart.load(Ordering::Relaxed)
    }
}

impl Drop for Company<'_> {
    fn drop(&mut self) {
        let others = self.choice.inside.fetch_sub(1, Ordering::Relaxed) > 1;
        if self.met || others {
            let mut rates = self.choice.rates.lock();
            rates.ended(Instant::now());
            self.choice.apart.store(rates.apart, Ordering::Relaxed);
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
            // The trial is over: the tried way stays, or the one before comes back.
            Some(rival) if rate > rival * BETTER => {
                self.interval = TRIALS.0;
                self.left = self.interval;
            }
            Some(_rival) => {
                self.apart = !self.apart;
                self.interval = TRIALS.1.min(self.interval * 2);
                self.left = self.interval;
            }
            None => {
                self.left -= 1;
                if self.left == 0 {
                    self.rival = Some(rate);
                    self.apart = !self.apart;
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
            apart += u32::from(rates.apart);
            *now += times[usize::from(rates.apart)];
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
            assert!(rates.apart);
            apart_of(&mut rates, &mut now, [FAST, SLOW]);
            assert!(!rates.apart);
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
        let choice = Choice::default();
        for _ in 0..3 {
            assert!(!choice.enter().met);
        }
        assert_eq!(choice.rates.lock().last, None);
        let first = choice.enter();
        assert!(choice.enter().met);
        assert!(!first.goes_apart());
        drop(first);
        assert_eq!(choice.inside.load(Ordering::Relaxed), 0);
    }
}
