//! Inodes whose last name was removed through the mount while the kernel still knows them: by an O_PATH
//! descriptor, a bind mount, a current directory, a mapping, or just until its FORGET has come.
//!
//! Invariants:
//! * such an inode stays usable until the kernel forgets it, as on a native file system. One that is
//!   held by file handle is pinned by a descriptor before its name goes, since no handle opens it later;
//! * what it occupies on SOURCE is free when remove(2) has returned, if the client does not use it: the
//!   FORGET comes after the reply, so a request that finds SOURCE full waits for those that are due, and for
//!   the daemon's own threads that look at open files;
//! * pinned are at most so many as there is room for. Beyond that an UNLINK waits a little for FORGETs, and
//!   then removes without a pin: better an inode that is gone for a client with thousands of
//!   removed files in use than files that cannot be removed.
//!
//! No LOOKUP can bring in an inode between the look at it and its removal: the kernel holds the
//! directory locked from before UNLINK, RMDIR and RENAME until they are answered, and by the LOOKUPs and
//! READDIRPLUSes that bring in an inode. (What the LOOKUP of a revalidation brings in, it forgets at once.)

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::aside::Aside;
use crate::inode::PinCount;

/// A FORGET comes this long after the removal, on a machine however busy; later, and the client uses
/// the inode.
pub(crate) const FORGET_IS_DUE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(crate) struct Removed {
    /// Pinned inodes at most.
    pub(crate) most: usize,
    pinned: Arc<AtomicUsize>,
    /// Since when, by nodeid: its removal, or the RELEASE of a handle after that. A leaf lock.
    pub(crate) since: Mutex<HashMap<u64, Instant>>,
    /// How many there are: each FORGET asks.
    pub(crate) count: AtomicUsize,
    /// How often the kernel has forgotten one.
    freed: AtomicU64,
    pub(crate) aside: Arc<Aside>,
    /// The operator has been told once.
    pub(crate) told: AtomicBool,
}

impl Removed {
    /// With at most `most` that are pinned.
    pub(crate) fn new(most: usize, aside: Arc<Aside>) -> Self {
        Self {
            most,
            pinned: Arc::default(),
            since: Mutex::default(),
            count: AtomicUsize::new(0),
            freed: AtomicU64::new(0),
            aside,
            told: AtomicBool::new(false),
        }
    }

    /// Inodes that are pinned by a descriptor.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(crate) fn admit(&self) -> Option<PinCount> {
        PinCount::one_more(&self.pinned, self.most)
    }

    pub(crate) fn insert(&self, ino: u64) {
        let mut since = self.since.lock();
        since.insert(ino, Instant::now());
        self.count.store(since.len(), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, ino: u64) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut since = self.since.lock();
        let was_there = since.remove(&ino).is_some();
        self.count.store(since.len(), Ordering::Relaxed);
        was_there
    }

    /// A handle of `ino` is released: if it was the last use, the FORGET is due from now on.
    pub(crate) fn released(&self, ino: u64) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(since) = self.since.lock().get_mut(&ino)
        {
            *since = Instant::now();
        }
    }

    /// Whether the last name of `ino` was removed through the mount.
    pub(crate) fn has(&self, ino: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.since.lock().contains_key(&ino)
    }

    /// How many the client uses: their FORGETs would have come otherwise.
    pub(crate) fn in_use(&self) -> usize {
        let since = self.since.lock();
        let is_used = |since: &&Instant| since.elapsed() >= FORGET_IS_DUE;
        since.values().filter(is_used).count()
    }

    /// The kernel has forgotten `ino`, and nothing is open for it any more.
    pub(crate) fn forgotten(&self, ino: u64) {
        if self.remove(ino) {
            self.freed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Changes when space on SOURCE may have become free.
    pub(crate) fn freed(&self) -> u64 {
        let ended = self.aside.ended.load(Ordering::SeqCst);
        self.freed.load(Ordering::SeqCst).wrapping_add(ended)
    }

    /// Whether there is one whose FORGET is due, or a file is open for a moment.
    pub(crate) fn is_any_due(&self) -> bool {
        if self.aside.running.load(Ordering::SeqCst) > 0 {
            return true;
        }
        let since = self.since.lock();
        since.values().any(|since| since.elapsed() < FORGET_IS_DUE)
    }
}
