//! The [`ChangeTracker`] of each file that is open, and the thread that looks at them.
//!
//! Invariant: all handles of an inode that are open at one time have the same watch; it is kept in
//! the handle, so that a WRITE looks nothing up. Files that are not open need none: the next OPEN
//! invalidates them, when no WRITE can be in flight.
//!
//! The thread serves read(2) and mappings: without FUSE_AUTO_INVAL_DATA the kernel answers them from its
//! cache and asks for no attributes. It sleeps while no file is open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::Statx;

use super::external::{ChangeTracker, ExternalChange, Time};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// By nodeid, with the number of handles. A leaf lock, never held across a system call.
    watches: RwLock<HashMap<u64, (Arc<ChangeTracker>, usize)>>,
    /// How many there are.
    count: AtomicUsize,
    /// Whether the thread runs. A leaf lock.
    running: Mutex<bool>,
    changed: Condvar,
}

/// What a new handle learns.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) watch: Arc<ChangeTracker>,
    /// What the kernel has cached of the file may stay.
    pub(crate) keep: bool,
    pub(crate) external: Option<ExternalChange>,
}

impl Watches {
    /// One more handle of `ino`, to be given back with [`Watches::release`]. `stat` is as it was at
    /// `asked` or later.
    pub(crate) fn enter(&self, ino: u64, asked: Time, stat: &Statx) -> Entered {
        let mut watches = self.watches.write();
        if let Some((watch, handles)) = watches.get_mut(&ino) {
            *handles += 1;
            let watch = Arc::clone(watch);
            drop(watches);
            let external = watch.judge(asked, stat);
            let keep = external.is_none();
            return Entered {
                watch,
                keep,
                external,
            };
        }
        let watch = Arc::new(ChangeTracker::new(stat));
        watches.insert(ino, (Arc::clone(&watch), 1));
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(watches);
        // The thread reads the count under this lock, so it sees it or is woken.
        drop(self.running.lock());
        self.changed.notify_all();
        Entered {
            watch,
            keep: false,
            external: None,
        }
    }

    /// A handle that entered is closed.
    pub(crate) fn release(&self, ino: u64) {
        let mut watches = self.watches.write();
        match watches.get_mut(&ino) {
            Some((_, handles)) if *handles > 1 => *handles -= 1,
            Some(_last) => {
                watches.remove(&ino);
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            None => {}
        }
    }

    /// The watch of `ino`, if it is open.
    pub(crate) fn get(&self, ino: u64) -> Option<Arc<ChangeTracker>> {
        // Most attributes are asked for while nothing is open, and share no lock then.
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let watches = self.watches.read();
        watches.get(&ino).map(|(watch, _)| Arc::clone(watch))
    }

    /// Allows [`Watches::serve`] to run.
    pub(crate) fn start(&self) {
        *self.running.lock() = true;
    }

    /// Ends [`Watches::serve`].
    pub(crate) fn stop(&self) {
        *self.running.lock() = false;
        self.changed.notify_all();
    }

    /// Calls `round` every `period` while files are open, until [`Watches::stop`].
    pub(crate) fn serve(&self, period: Duration, round: impl Fn()) {
        let mut running = self.running.lock();
        while *running {
            if self.count.load(Ordering::Relaxed) == 0 {
                self.changed.wait(&mut running);
                continue;
            }
            let deadline = std::time::Instant::now() + period;
            while *running && !self.changed.wait_until(&mut running, deadline).timed_out() {}
            if *running {
                parking_lot::MutexGuard::unlocked(&mut running, &round);
            }
        }
    }
}
