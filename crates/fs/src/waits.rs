//! Which file systems below SOURCE make a READ wait, for a device, whose queues have a thread each.
//!
//! Most tell by RWF_NOWAIT, for each READ. What tells nothing is memory (tmpfs), which never waits, or may be a
//! network or another FUSE server: its READs are taken for slow until [`STREAK`] of them in a row were fast, and
//! again after one that was not.
//!
//! Why not ask each time: a refused call costs as much as a small READ.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// File systems that are known to tell nothing; more are asked each time.
const KNOWN: usize = 8;
/// A READ that takes longer has waited: reading a mebibyte of memory does not.
const FAST: Duration = Duration::from_millis(1);
/// Fast READs in a row after which the next are not expected to wait.
const STREAK: u32 = 64;

/// `fast` of a file system in memory.
const NEVER_WAITS: u32 = u32::MAX;
/// `dev` of a free slot, which is no device.
const FREE: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    dev: AtomicU64,
    /// Fast READs in a row, up to STREAK, or NEVER_WAITS.
    fast: AtomicU32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Waits {
    /// Taken in order, never given back.
    slots: [Slot; KNOWN],
}

/// What a READ has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// RWF_NOWAIT tells.
    Told,
    /// It does not wait; `is_timed` if that has to be looked at.
    No { is_timed: bool },
    /// It may wait.
    Yes,
}

impl Default for Waits {
    fn default() -> Self {
        let free = |_| Slot {
            dev: AtomicU64::new(FREE),
            fast: AtomicU32::new(0),
        };
        Self {
            slots: std::array::from_fn(free),
        }
    }
}

impl Waits {
    fn slot(&self, dev: u64) -> Option<&Slot> {
        self.slots
            .iter()
            .take_while(|slot| slot.dev.load(Ordering::Acquire) != FREE)
            .find(|slot| slot.dev.load(Ordering::Relaxed) == dev)
    }

    /// Of a file on device `dev`.
    pub(crate) fn expected(&self, dev: u64) -> Expected {
        match self.slot(dev).map(|slot| slot.fast.load(Ordering::Relaxed)) {
            None => Expected::Told,
            Some(NEVER_WAITS) => Expected::No { is_timed: false },
            Some(STREAK..) => Expected::No { is_timed: true },
            Some(_few) => Expected::Yes,
        }
    }

    /// The file system of `file`, on device `dev`, refuses RWF_NOWAIT.
    pub(crate) fn note_refusal(&self, dev: u64, file: BorrowedFd<'_>) {
        let fast = match is_in_memory(file) {
            true => NEVER_WAITS,
            false => 0,
        };
        for slot in &self.slots {
            let (order, other) = (Ordering::AcqRel, Ordering::Acquire);
            match slot.dev.compare_exchange(FREE, dev, order, other) {
                Ok(_free) => return slot.fast.store(fast, Ordering::Relaxed),
                Err(known) if known == dev => return,
                Err(_other) => {}
            }
        }
    }

    /// A READ there took so long.
    pub(crate) fn note_time(&self, dev: u64, took: Duration) {
        let Some(slot) = self.slot(dev) else { return };
        let known = slot.fast.load(Ordering::Relaxed);
        let next = match (known, took < FAST) {
            (NEVER_WAITS, _) | (STREAK, true) => return,
            (_, false) => 0,
            (few, true) => few + 1,
        };
        // Counts that get lost are of no account.
        slot.fast.store(next, Ordering::Relaxed);
    }
}

fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    rustix::fs::fstatfs(file)
        .is_ok_and(|stat| [libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&stat.f_type))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    const SLOW: Duration = Duration::from_millis(5);
    const QUICK: Duration = Duration::from_micros(5);

    #[test]
    fn expected_of_what_tells_nothing_follows_what_reads_take() {
        let (waits, dev) = (Waits::default(), 8);
        assert_eq!(waits.expected(dev), Expected::Told);
        waits.note_time(dev, SLOW);
        assert_eq!(waits.expected(dev), Expected::Told, "it tells by itself");
        waits.note_refusal(dev, File::open("/proc/self/status").unwrap().as_fd());
        assert_eq!(waits.expected(dev), Expected::Yes);
        for _ in 1..STREAK {
            waits.note_time(dev, QUICK);
        }
        assert_eq!(waits.expected(dev), Expected::Yes);
        waits.note_time(dev, QUICK);
        assert_eq!(waits.expected(dev), Expected::No { is_timed: true });
        waits.note_time(dev, SLOW);
        assert_eq!(waits.expected(dev), Expected::Yes);
    }

    #[test]
    fn expected_of_memory_is_never_to_wait() {
        let (waits, dev) = (Waits::default(), 9);
        let name = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = rustix::fs::memfd_create("memory", name).unwrap();
        waits.note_refusal(dev, memory.as_fd());
        waits.note_time(dev, SLOW);
        assert_eq!(waits.expected(dev), Expected::No { is_timed: false });
    }

    #[test]
    fn note_refusal_of_more_than_are_known_has_them_asked_each_time() {
        let waits = Waits::default();
        let file = File::open("/proc/self/status").unwrap();
        (0..=KNOWN as u64).for_each(|dev| waits.note_refusal(dev, file.as_fd()));
        waits.note_refusal(0, file.as_fd());
        assert_eq!(waits.expected(0), Expected::Yes);
        assert_eq!(waits.expected(KNOWN as u64), Expected::Told);
    }
}
