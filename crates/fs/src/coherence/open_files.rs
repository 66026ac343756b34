//! The [`ChangeTracker`] of each file that is open, and the thread that looks at them.
//!
//! Invariant: all handles of an inode that are open at one time have the same watch; it is kept in
//! the handle, so that a WRITE looks nothing up. Files that are not open need none: the next OPEN
//! invalidates them, when no WRITE can be in flight.
//!
//! The thread serves read(2) and mappings: without FUSE_AUTO_INVAL_DATA the kernel answers them from its
//! cache and asks for no attributes. It sleeps while no file is open, and is woken by the first OPEN after that
//! alone: a walk over a tree, which opens one file after the other, meets it awake.

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
    /// A leaf lock.
    thread: Mutex<Thread>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Thread {
    runs: bool,
    /// No file was open when it looked.
    sleeps: bool,
}

/// A file as it was at `asked` or later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) asked: Time,
    pub(crate) stat: Statx,
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
    /// One more handle of `ino`, to be given back with [`Watches::release`].
    pub(crate) fn enter(&self, ino: u64, Seen { asked, stat }: &Seen) -> Entered {
        let mut watches = self.watches.write();
        if let Some((watch, handles)) = watches.get_mut(&ino) {
            *handles += 1;
            let watch = Arc::clone(watch);
            drop(watches);
            let external = watch.judge(*asked, stat);
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
        let sleeps = std::mem::take(&mut self.thread.lock().sleeps);
        if sleeps {
            self.changed.notify_all();
        }
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
        self.thread.lock().runs = true;
    }

    /// Ends [`Watches::serve`].
    pub(crate) fn stop(&self) {
        self.thread.lock().runs = false;
        self.changed.notify_all();
    }

    /// Calls `round` every `period` while files are open, until [`Watches::stop`].
    pub(crate) fn serve(&self, period: Duration, round: impl Fn()) {
        let mut thread = self.thread.lock();
        while thread.runs {
            thread.sleeps = self.count.load(Ordering::Relaxed) == 0;
            if thread.sleeps {
                self.changed.wait(&mut thread);
                continue;
            }
            let deadline = std::time::Instant::now() + period;
            while thread.runs && !self.changed.wait_until(&mut thread, deadline).timed_out() {}
            if thread.runs {
                parking_lot::MutexGuard::unlocked(&mut thread, &round);
            }
        }
    }
}
