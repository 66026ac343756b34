//! Latencies and sizes in fixed buckets: [`Live`] is counted into by one thread, [`Histogram`] is
//! what a reader gets of it.
//!
//! Invariant: counting touches one bucket, a sum and a maximum, and never allocates. The buckets
//! of latencies are log-linear, eight to each power of two, so a percentile is at most 12.5
//! percent too high and never too low. Not hdrhistogram: its recorders hand counts to the reader
//! by a queue, or need a lock, and its merged form says nothing that a list of buckets does not.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Buckets to a power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// All that is faster (2^8 ns) shares the first bucket: no request is.
const FIRST_OCTAVE: u32 = 8;
/// All that takes 2^36 ns (69 s) or longer shares the last.
const OCTAVES: usize = 28;
/// Buckets of a latency histogram.
pub(super) const LATENCIES: usize = OCTAVES * SUBS + 2;
/// Buckets of a size histogram: powers of two up to 2^24, the largest WRITE that fuser takes.
pub(super) const SIZES: usize = 25;

/// The bucket of a latency in nanoseconds.
fn latency_bucket(ns: u64) -> usize {
    if ns < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = ns.ilog2();
    let sub = (ns >> (octave - SUB_BITS)) as usize % SUBS;
    ((octave - FIRST_OCTAVE) as usize * SUBS + sub + 1).min(LATENCIES - 1)
}

/// The longest latency in a bucket, in nanoseconds.
fn latency_limit(bucket: usize) -> u64 {
    match bucket {
        0 => (1 << FIRST_OCTAVE) - 1,
        inner if inner < LATENCIES - 1 => {
            let (octave, sub) = ((inner - 1) / SUBS, (inner - 1) % SUBS);
            // Of 2^(octave + FIRST_OCTAVE) one eighth is 2^(octave + FIRST_OCTAVE - SUB_BITS).
            ((SUBS + sub + 1) as u64) << (octave as u32 + FIRST_OCTAVE - SUB_BITS)
        }
        .saturating_sub(1),
        _last => u64::MAX,
    }
}

/// The bucket of a size in bytes: that of the next power of two.
fn size_bucket(size: u64) -> usize {
    (size.max(1).next_power_of_two().ilog2() as usize).min(SIZES - 1)
}

fn size_limit(bucket: usize) -> u64 {
    if bucket < SIZES - 1 {
        1 << bucket
    } else {
        u64::MAX
    }
}

/// What is counted into. Relaxed: a reader gets sums that were true a moment ago.
#[derive(Debug)]
pub(super) struct Live<const N: usize> {
    buckets: [AtomicU64; N],
    sum: AtomicU64,
    max: AtomicU64,
}

impl<const N: usize> Default for Live<N> {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; N],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Live<N> {
    fn add(&self, bucket: usize, value: u64) {
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        // Most values are no new maximum, and then the line need not be written.
        if value > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(value, Ordering::Relaxed);
        }
    }

    fn add_to(&self, merged: &mut Histogram, limit: impl Fn(usize) -> u64) {
        for (bucket, counter) in self.buckets.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                merged.add(limit(bucket), count);
            }
        }
        merged.sum += self.sum.load(Ordering::Relaxed);
        merged.max = merged.max.max(self.max.load(Ordering::Relaxed));
    }
}

impl Live<LATENCIES> {
    pub(super) fn add_latency(&self, ns: u64) {
        self.add(latency_bucket(ns), ns);
    }

    pub(super) fn add_latencies_to(&self, merged: &mut Histogram) {
        self.add_to(merged, latency_limit);
    }
}

impl Live<SIZES> {
    pub(super) fn add_size(&self, size: u64) {
        self.add(size_bucket(size), size);
    }

    pub(super) fn add_sizes_to(&self, merged: &mut Histogram) {
        self.add_to(merged, size_limit);
    }
}

/// Values by bucket, smallest first; empty buckets are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The buckets that are not empty.
    pub buckets: Vec<Bucket>,
    /// Sum of all values.
    pub sum: u64,
    /// Largest value.
    pub max: u64,
}

/// Some of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// They are at most this, and more than the limit of the bucket before.
    pub up_to: u64,
    /// How many they are.
    pub count: u64,
}

impl Histogram {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    /// The value that `share` (0 to 1) of all values do not exceed, rounded up to its bucket's
    /// limit; none if there are no values.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        // At least one value; a count is far below 2^52, so nothing is lost.
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let found = self.buckets.iter().find(|bucket| {
            seen += bucket.count;
            seen >= rank
        })?;
        Some(found.up_to.min(self.max))
    }

    /// The values that came after `earlier` was taken of the same counters. The maximum of those
    /// alone is not known: it is the limit of their last bucket, or the overall one if that is
    /// less.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |up_to| {
            let found = earlier.buckets.iter().find(|old| old.up_to == up_to);
            found.map_or(0, |old| old.count)
        };
        let left = self.buckets.iter().map(|bucket| Bucket {
            up_to: bucket.up_to,
            count: bucket.count.saturating_sub(before(bucket.up_to)),
        });
        let buckets: Vec<Bucket> = left.filter(|bucket| bucket.count > 0).collect();
        let last = buckets.last().map_or(0, |bucket| bucket.up_to);
        Self {
            buckets,
            sum: self.sum.saturating_sub(earlier.sum),
            max: last.min(self.max),
        }
    }

    fn add(&mut self, up_to: u64, count: u64) {
        match self.buckets.binary_search_by_key(&up_to, |b| b.up_to) {
            Ok(at) => self.buckets[at].count += count,
            Err(at) => self.buckets.insert(at, Bucket { up_to, count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_bucket_of_any_value_is_the_first_whose_limit_holds_it() {
        let around = (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + 1, power + power / 3]
        });
        for ns in around.chain([u64::MAX]) {
            let bucket = latency_bucket(ns);
            assert!(ns <= latency_limit(bucket), "{ns} in {bucket}");
            assert!(bucket == 0 || ns > latency_limit(bucket - 1), "{ns}");
        }
        for bucket in 1..LATENCIES - 1 {
            let (below, limit) = (latency_limit(bucket - 1), latency_limit(bucket));
            assert!(below < limit, "{bucket}");
            let width = (limit - below) as f64 / below as f64;
            assert!(bucket == 1 || width <= 0.126, "{bucket}: {width}");
        }
    }

    #[test]
    fn size_bucket_of_a_power_of_two_ends_with_it() {
        for (size, limit) in [(0, 1), (1, 1), (4095, 4096), (4096, 4096), (4097, 8192)] {
            assert_eq!(size_limit(size_bucket(size)), limit, "{size}");
        }
        assert_eq!(size_bucket(1 << 24), SIZES - 1);
        assert_eq!(size_bucket(1 << 40), SIZES - 1);
    }

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let live = Live::<LATENCIES>::default();
        for value in values {
            live.add_latency(value);
        }
        let mut merged = Histogram::default();
        live.add_latencies_to(&mut merged);
        merged
    }

    #[test]
    fn percentile_is_never_below_and_little_above_the_exact_one() {
        let histogram = of((1..=1000).map(|micros| micros * 1000));
        for (share, exact) in [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000)] {
            let found = histogram.percentile(share).unwrap();
            assert!(found >= exact, "{share}: {found}");
            assert!(found <= exact + exact / 8, "{share}: {found}");
        }
        assert_eq!(histogram.percentile(1.0), Some(1_000_000));
        assert_eq!((histogram.count(), histogram.max), (1000, 1_000_000));
        assert_eq!(Histogram::default().percentile(0.5), None);
    }

    #[test]
    fn since_an_earlier_one_has_what_came_between() {
        let before = of([1000, 5000]);
        let after = of([1000, 5000, 5000, 90_000]);
        let between = after.since(&before);
        assert_eq!(between.count(), 2);
        assert_eq!((between.sum, between.max), (95_000, 90_000));
        assert_eq!(after.since(&after).count(), 0);
    }
}
