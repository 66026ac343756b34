//! The handles that each thread uses again and again, so that READs and WRITEs of several threads on one file meet at
//! no lock and no count.
//!
//! Invariant: what is not in the table is kept by no thread. A handle is kept under its shard's lock, and RELEASE,
//! which takes it out under that lock, looks at all threads afterwards ([`Kept::drop_all`]).
//!
//! Why not at the first use: most files are small and read at once, and a handle that was kept makes its RELEASE look
//! at every thread.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, RwLock};

use super::Handle;
use crate::error::{Errno, Result};

/// Threads that keep handles; more share.
const THREADS: usize = 64;
/// Handles of one thread.
const HANDLES: usize = 4;

/// An open handle, for one operation.
#[derive(Debug)]
pub(crate) enum HandleRef {
    /// Counted with those of all threads.
    Shared(Arc<Handle>),
    /// Counted by one thread, which keeps it.
    Kept(Arc<Own>),
}

/// A thread's reference.
#[derive(Debug)]
pub(crate) struct Own(Arc<Handle>);

impl Deref for HandleRef {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        match self {
            Self::Shared(handle) => handle,
            Self::Kept(own) => &own.0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    threads: Box<[Thread]>,
}

/// Taken before the shards' locks, and uncontended but for a RELEASE.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Thread(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    kept: [Option<(u64, Arc<Own>)>; HANDLES],
    /// What was looked up last; 0, which is no handle, at first.
    seen: [u64; HANDLES],
    next_kept: usize,
    next_seen: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            threads: (0..THREADS).map(|_| Thread::default()).collect(),
        }
    }
}

impl Kept {
    /// The handle `fh` of inode `ino`, as `thread` has it, or from its `shard`.
    ///
    /// # Errors
    /// As [`super::HandleTable::get`].
    pub(super) fn get(
        &self,
        thread: usize,
        shard: &RwLock<HashMap<u64, Arc<Handle>>>,
        (fh, ino): (u64, u64),
    ) -> Result<HandleRef> {
        let mut slots = self.threads[thread % THREADS].0.lock();
        let mut kept = slots.kept.iter().flatten();
        if let Some((_, handle)) = kept.find(|(known, _)| *known == fh) {
            return match handle.0.ino == ino {
                true => Ok(HandleRef::Kept(Arc::clone(handle))),
                false => Err(Errno::EBADF),
            };
        }
        let shard = shard.read();
        let handle = shard.get(&fh).filter(|handle| handle.ino == ino);
        let handle = Arc::clone(handle.ok_or(Errno::EBADF)?);
        if !slots.is_seen_again(fh) {
            return Ok(HandleRef::Shared(handle));
        }
        handle.is_kept.store(true, Ordering::Relaxed);
        let own = Arc::new(Own(handle));
        let last = slots.keep(fh, Arc::clone(&own));
        drop(shard);
        drop(slots);
        // Maybe with the file, if that was released meanwhile.
        drop(last);
        Ok(HandleRef::Kept(own))
    }

    /// `fh` is not in the table any more.
    pub(super) fn drop_all(&self, fh: u64) {
        for thread in &self.threads {
            let mut slots = thread.0.lock();
            for slot in &mut slots.kept {
                let _counted_by_the_caller = slot.take_if(|(known, _)| *known == fh);
            }
        }
    }
}

impl Slots {
    /// Whether `fh` was looked up a moment ago.
    fn is_seen_again(&mut self, fh: u64) -> bool {
        if self.seen.contains(&fh) {
            return true;
        }
        self.seen[self.next_seen] = fh;
        self.next_seen = (self.next_seen + 1) % HANDLES;
        false
    }

    /// Keeps `handle` in place of another, which is returned.
    fn keep(&mut self, fh: u64, handle: Arc<Own>) -> Option<(u64, Arc<Own>)> {
        let at = self.next_kept;
        self.next_kept = (at + 1) % HANDLES;
        self.kept[at].replace((fh, handle))
    }
}
