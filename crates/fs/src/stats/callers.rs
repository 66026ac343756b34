//! Requests by calling thread: which processes make the load, for `thrufs top`.
//!
//! Invariant: bounded, and without locks, as all counters of [`super::Stats`]: each block has a table of [`SETS`] times
//! [`WAYS`] callers of its own, and counting touches one set of it. A caller that finds its set full takes the place of
//! the one that was seen longest ago, whose counts are lost; so the counts of a caller may begin again at zero.
//!
//! Why not off until a reader asks: the question would have to come through the socket, and reading a clock, which each
//! request does twice, costs more than this. Why not the process: the kernel tells the thread, and /proc, which knows the
//! rest, is not there in a sandbox.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Sets of a table; a power of two.
const SETS: usize = 16;
/// Callers of a set.
const WAYS: usize = 4;
/// A caller that was not seen for longer is not told of.
const RECENT: Duration = Duration::from_secs(60);
/// Callers that are told of at most: those seen last.
const MOST: usize = 256;
/// `tid` of a free slot, which is no thread.
const FREE: u32 = u32::MAX;

/// What is told of one calling thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerCounts {
    /// The thread, by its number in the pid namespace that the mount was made in; 0 for the kernel itself, and for threads
    /// of other namespaces.
    pub tid: u32,
    /// Requests.
    pub requests: u64,
    /// Bytes that READs returned.
    pub bytes_read: u64,
    /// Bytes that WRITEs brought into backing files.
    pub bytes_written: u64,
    /// Nanoseconds that its requests took in the daemon and below.
    pub busy: u64,
}

#[derive(Debug)]
struct Slot {
    tid: AtomicU32,
    /// Seconds since [`start`].
    seen: AtomicU32,
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    busy: AtomicU64,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            tid: AtomicU32::new(FREE),
            seen: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }
}

impl Slot {
    fn begin_again(&self, tid: u32) {
        for counter in [&self.requests, &self.read, &self.written, &self.busy] {
            counter.store(0, Ordering::Relaxed);
        }
        self.tid.store(tid, Ordering::Relaxed);
    }
}

/// Without a locked instruction, of which each would cost as much as all the rest: one thread adds, as a rule. Where more
/// threads than there are blocks share one, a count that is lost now and then does not matter.
fn add(counter: &AtomicU64, more: u64) {
    let now = counter.load(Ordering::Relaxed);
    counter.store(now.wrapping_add(more), Ordering::Relaxed);
}

/// Where a thread of the daemon counts for the caller that it serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallerSlot(usize);

/// The callers of one block.
#[derive(Debug)]
pub(super) struct Table([Slot; SETS * WAYS]);

impl Default for Table {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Slot::default()))
    }
}

impl Table {
    /// One more request of the thread `tid`, which began then.
    pub(super) fn count(&self, tid: u32, began: Instant) -> CallerSlot {
        // Numbers of threads that are started one after the other fall into different sets.
        let first = (tid as usize % SETS) * WAYS;
        let set = &self.0[first..first + WAYS];
        let tids = set.iter().map(|slot| slot.tid.load(Ordering::Relaxed));
        let known = tids.clone().position(|known| known == tid);
        let way = known.unwrap_or_else(|| {
            let free = tids.clone().position(|known| known == FREE);
            let oldest = || {
                let seen = set.iter().map(|slot| slot.seen.load(Ordering::Relaxed));
                seen.enumerate()
                    .min_by_key(|(_, seen)| *seen)
                    .map_or(0, |(way, _)| way)
            };
            let way = free.unwrap_or_else(oldest);
            set[way].begin_again(tid);
            way
        });
        add(&set[way].requests, 1);
        set[way].seen.store(seconds(began), Ordering::Relaxed);
        CallerSlot(first + way)
    }

    pub(super) fn add_read(&self, CallerSlot(at): CallerSlot, bytes: u64) {
        add(&self.0[at].read, bytes);
    }

    pub(super) fn add_written(&self, CallerSlot(at): CallerSlot, bytes: u64) {
        add(&self.0[at].written, bytes);
    }

    pub(super) fn add_busy(&self, CallerSlot(at): CallerSlot, ns: u64) {
        add(&self.0[at].busy, ns);
    }
}

/// The callers of all blocks that were seen lately.
pub(super) fn merged<'a>(
    tables: impl Iterator<Item = &'a Table>,
    now: Instant,
) -> Vec<CallerCounts> {
    let oldest = seconds(now).saturating_sub(RECENT.as_secs() as u32);
    let mut by_tid: BTreeMap<u32, (u32, CallerCounts)> = BTreeMap::new();
    for slot in tables.flat_map(|table| &table.0) {
        let (tid, seen) = (
            slot.tid.load(Ordering::Relaxed),
            slot.seen.load(Ordering::Relaxed),
        );
        if tid == FREE {
            continue;
        }
        let (last, counts) = by_tid.entry(tid).or_default();
        *last = seen.max(*last);
        counts.tid = tid;
        counts.requests += slot.requests.load(Ordering::Relaxed);
        counts.bytes_read += slot.read.load(Ordering::Relaxed);
        counts.bytes_written += slot.written.load(Ordering::Relaxed);
        counts.busy += slot.busy.load(Ordering::Relaxed);
    }
    let mut recent: Vec<_> = by_tid
        .into_values()
        .filter(|(seen, _)| *seen >= oldest)
        .collect();
    recent.sort_by_key(|(seen, counts)| (std::cmp::Reverse(*seen), counts.tid));
    recent.truncate(MOST);
    recent.into_iter().map(|(_, counts)| counts).collect()
}

/// What times are told from.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn seconds(at: Instant) -> u32 {
    // Enough for 136 years.
    at.saturating_duration_since(start()).as_secs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_of_more_callers_than_places_forgets_those_seen_longest_ago() {
        let (table, began) = (Table::default(), start());
        let later = |seconds| began + Duration::from_secs(seconds);
        // All in one set.
        let tid = |at: u32| at * SETS as u32;
        for at in 0..WAYS as u32 {
            table.count(tid(at), later(u64::from(at)));
        }
        // The first is seen again, so the second is the oldest.
        table.count(tid(0), later(10));
        table.count(tid(9), later(11));
        let told = merged([&table].into_iter(), later(12));
        let tids: Vec<u32> = told.iter().map(|caller| caller.tid).collect();
        assert_eq!(tids, [tid(9), tid(0), tid(3), tid(2)]);
        assert_eq!(told[1].requests, 2);
    }

    #[test]
    fn merged_adds_blocks_up_and_leaves_out_who_was_not_seen_lately() {
        let (one, other, began) = (Table::default(), Table::default(), start());
        let slot = one.count(7, began);
        one.add_read(slot, 10);
        one.add_busy(slot, 3);
        let slot = other.count(7, began);
        other.add_written(slot, 20);
        other.add_busy(slot, 4);
        let wanted = CallerCounts {
            tid: 7,
            requests: 2,
            bytes_read: 10,
            bytes_written: 20,
            busy: 7,
        };
        assert_eq!(merged([&one, &other].into_iter(), began), [wanted]);
        let late = began + RECENT + Duration::from_secs(1);
        assert!(merged([&one, &other].into_iter(), late).is_empty());
    }

    #[test]
    fn merged_tells_of_a_bounded_number() {
        let tables: Vec<Table> = (0..8).map(|_| Table::default()).collect();
        for (at, table) in tables.iter().enumerate() {
            for tid in 0..(SETS * WAYS) as u32 {
                table.count(1000 * at as u32 + tid, start());
            }
        }
        assert_eq!(merged(tables.iter(), start()).len(), MOST);
    }
}
