//! What was asked of the file system, counted: how often, with what outcome, how long it took.
//!
//! Invariant: counting takes no lock and shares no cache line. Each thread counts into a block of
//! its own; a reader adds the blocks up and gets sums that were true a moment ago. A block outlives
//! its thread and is given to the next one, so nothing that was counted is lost. The counters are
//! atomic nevertheless, since more threads than blocks share them.

mod callers;
mod histogram;
pub(crate) mod noted;
mod opcode;
mod snapshot;

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

pub use callers::CallerCounts;
use callers::{CallerSlot, Table};
pub use histogram::{Bucket, Histogram};
use histogram::{LATENCIES, Live, SIZES};
pub use opcode::Opcode;
pub use snapshot::{OpcodeCounts, Process, Snapshot, Writes};

/// Blocks of counters; one is made when a thread first counts. More than session threads pay.
const BLOCKS: usize = 64;

/// Numbers of the blocks whose threads have ended. Locked at the beginning and end of a thread.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The number of the block that this thread counts into, in every [`Stats`].
struct Slot(usize);

impl Slot {
    fn take() -> Self {
        let free = FREE.lock().pop();
        Self(free.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        FREE.lock().push(self.0);
    }
}

thread_local! {
    static SLOT: Slot = Slot::take();
    /// Where the caller of the operation that this thread serves is counted.
    static CALLER: Cell<Option<CallerSlot>> = const { Cell::new(None) };
}

/// The number of this thread, of few: no other that lives has it, unless there are more than [`BLOCKS`].
pub(crate) fn this_thread() -> usize {
    // A thread that is ending has given its slot back; it may count into any.
    SLOT.try_with(|slot| slot.0).unwrap_or(0)
}

#[derive(Debug, Default)]
struct PerOpcode {
    requests: AtomicU64,
    errors: AtomicU64,
    latency: Live<LATENCIES>,
}

/// The counters of one thread. Aligned so that no two share a line (two are fetched at once).
#[derive(Debug)]
#[repr(align(128))]
struct Block {
    opcodes: [PerOpcode; Opcode::ALL.len()],
    sizes: Live<SIZES>,
    written: AtomicU64,
    read: AtomicU64,
    pwritev2: AtomicU64,
    flushes: AtomicU64,
    joined: AtomicU64,
    capability_getxattrs: AtomicU64,
    callers: Table,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            opcodes: std::array::from_fn(|_| PerOpcode::default()),
            sizes: Live::default(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            pwritev2: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            capability_getxattrs: AtomicU64::new(0),
            callers: Table::default(),
        }
    }
}

/// Counts since the mount.
#[derive(Debug)]
pub struct Stats {
    blocks: [OnceLock<Box<Block>>; BLOCKS],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            blocks: [const { OnceLock::new() }; BLOCKS],
        }
    }
}

impl Stats {
    /// Requests of this kind.
    pub fn requests(&self, opcode: Opcode) -> u64 {
        self.sum(|block| &block.opcodes[opcode as usize].requests)
    }

    /// Those of them that were answered with an error.
    pub fn errors(&self, opcode: Opcode) -> u64 {
        self.sum(|block| &block.opcodes[opcode as usize].errors)
    }

    /// How long those that are done took, in nanoseconds.
    pub fn latency(&self, opcode: Opcode) -> Histogram {
        let mut merged = Histogram::default();
        for block in self.blocks() {
            let latency = &block.opcodes[opcode as usize].latency;
            latency.add_latencies_to(&mut merged);
        }
        merged
    }

    /// Bytes that WRITEs brought into backing files.
    pub fn bytes_written(&self) -> u64 {
        self.sum(|block| &block.written)
    }

    /// Bytes that READs returned.
    pub fn bytes_read(&self) -> u64 {
        self.sum(|block| &block.read)
    }

    /// What the WRITEs came to.
    pub fn writes(&self) -> Writes {
        let mut sizes = Histogram::default();
        for block in self.blocks() {
            block.sizes.add_sizes_to(&mut sizes);
        }
        Writes {
            requests: self.requests(Opcode::Write),
            bytes: self.bytes_written(),
            sizes,
            pwritev2_calls: self.sum(|block| &block.pwritev2),
            flushes: self.sum(|block| &block.flushes),
            joined: self.sum(|block| &block.joined),
            capability_getxattrs: self.sum(|block| &block.capability_getxattrs),
        }
    }

    /// A request came; to be ended with [`Stats::end`], or at once with [`Stats::count_error`].
    pub fn begin(&self, opcode: Opcode) -> Instant {
        let counts = &self.block().opcodes[opcode as usize];
        counts.requests.fetch_add(1, Ordering::Relaxed);
        Instant::now()
    }

    /// What began then is a request of the thread `tid`, served by this thread until [`Stats::end`].
    pub fn count_caller(&self, tid: u32, began: Instant) {
        let slot = self.block().callers.count(tid, began);
        CALLER.set(Some(slot));
    }

    /// The threads whose requests came lately, those that were seen last first.
    pub fn callers(&self) -> Vec<CallerCounts> {
        callers::merged(self.blocks().map(|block| &block.callers), Instant::now())
    }

    /// It has its result.
    pub fn end(&self, opcode: Opcode, began: Instant) {
        let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let block = self.block();
        block.opcodes[opcode as usize].latency.add_latency(ns);
        if let Some(caller) = CALLER.take() {
            block.callers.add_busy(caller, ns);
        }
        count_noted(block);
    }

    /// Its result is an error.
    pub fn count_error(&self, opcode: Opcode) {
        let counts = &self.block().opcodes[opcode as usize];
        counts.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A WRITE of so many bytes came.
    pub(crate) fn count_write_size(&self, size: usize) {
        self.block().sizes.add_size(size as u64);
    }

    /// So many bytes of a WRITE are in the backing file.
    pub(crate) fn count_written(&self, bytes: usize) {
        let block = self.block();
        block.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(caller) = CALLER.get() {
            block.callers.add_written(caller, bytes as u64);
        }
        count_noted(block);
    }

    /// A READ returned so many bytes.
    pub(crate) fn count_read(&self, bytes: usize) {
        let block = self.block();
        block.read.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(caller) = CALLER.get() {
            block.callers.add_read(caller, bytes as u64);
        }
    }

    /// So many WRITEs (two or more) shared one pwritev2(2).
    pub fn count_joined(&self, writes: u64) {
        self.block().joined.fetch_add(writes, Ordering::Relaxed);
    }

    /// A GETXATTR of `security.capability` came.
    pub fn count_capability_getxattr(&self) {
        let counter = &self.block().capability_getxattrs;
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn block(&self) -> &Block {
        self.blocks[this_thread()].get_or_init(Box::default)
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        let made = self.blocks.iter().filter_map(OnceLock::get);
        made.map(Box::as_ref)
    }

    fn sum(&self, counter: impl Fn(&Block) -> &AtomicU64) -> u64 {
        let counters = self.blocks().map(counter);
        counters
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }
}

/// Takes over what [`note_pwritev2`] and [`note_flush`] noted on this thread.
fn count_noted(block: &Block) {
    let (calls, flushes) = noted::take();
    if calls > 0 {
        block.pwritev2.fetch_add(calls, Ordering::Relaxed);
    }
    if flushes > 0 {
        block.flushes.fetch_add(flushes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_in_threads_that_come_and_go_is_exact() {
        let stats = Stats::default();
        for _round in 0..3 {
            std::thread::scope(|scope| {
                for thread in 0..8_u64 {
                    let stats = &stats;
                    scope.spawn(move || {
                        for request in 0..500 {
                            let began = stats.begin(Opcode::Write);
                            stats.count_write_size(4096);
                            noted::note_pwritev2();
                            stats.count_written(10);
                            if (request + thread) % 5 == 0 {
                                stats.count_error(Opcode::Write);
                            }
                            stats.end(Opcode::Write, began);
                        }
                    });
                }
            });
        }
        let total = 3 * 8 * 500;
        assert_eq!(stats.requests(Opcode::Write), total);
        assert_eq!(stats.errors(Opcode::Write), total / 5);
        assert_eq!(stats.latency(Opcode::Write).count(), total);
        let writes = stats.writes();
        assert_eq!((writes.bytes, writes.pwritev2_calls), (total * 10, total));
        assert_eq!(writes.average_size(), Some(4096));
        assert_eq!(stats.requests(Opcode::Read), 0);
    }

    #[test]
    fn count_caller_counts_what_is_done_until_the_end_and_no_longer() {
        let stats = Stats::default();
        let began = stats.begin(Opcode::Read);
        stats.count_caller(7, began);
        stats.count_read(100);
        stats.count_written(10);
        stats.end(Opcode::Read, began);
        // The kernel's own, of which no caller is known.
        stats.count_read(1000);
        let told = stats.callers();
        let [caller] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((caller.tid, caller.requests), (7, 1));
        assert_eq!((caller.bytes_read, caller.bytes_written), (100, 10));
        assert!(caller.busy > 0);
    }

    #[test]
    fn count_with_more_threads_than_blocks_is_exact() {
        let stats = Stats::default();
        let all_alive = std::sync::Barrier::new(BLOCKS + 40);
        std::thread::scope(|scope| {
            for _ in 0..BLOCKS + 40 {
                scope.spawn(|| {
                    stats.count_read(1);
                    all_alive.wait();
                });
            }
        });
        assert_eq!(stats.bytes_read(), BLOCKS as u64 + 40);
    }

    #[test]
    fn count_of_two_file_systems_on_one_thread_is_kept_apart() {
        let (one, other) = (Stats::default(), Stats::default());
        let began = one.begin(Opcode::Lookup);
        one.end(Opcode::Lookup, began);
        assert_eq!(one.requests(Opcode::Lookup), 1);
        assert_eq!(other.requests(Opcode::Lookup), 0);
    }
}
