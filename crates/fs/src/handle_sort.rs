//! How the open handles of one inode are served: through READ and WRITE, or by the kernel past the daemon.
//!
//! Invariant: one sort for all handles that are open at one time (`backing_ids.rs`, which decides); an id ends
//! when it is dropped, and only then.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// A backing id by which files are open, and its file.
pub type InUse<'a> = (i32, BorrowedFd<'a>);

/// Gives files to the kernel: FUSE_DEV_IOC_BACKING_OPEN and _CLOSE, by a process that may.
pub trait RegisterBacking: Send + Sync + fmt::Debug {
    /// Registers `file`, which may be open with O_PATH, and returns its backing id.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_SYS_ADMIN in the first user namespace, ELOOP where the file's file
    /// system is stacked itself. EXDEV for a file of another file system than SOURCE's, ETIMEDOUT where the
    /// answer takes too long, EMFILE when there are too many ids.
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32>;

    /// Ends a backing id, at the latest with the next [`flush`](Self::flush). Handles that were opened by it stay.
    fn close_soon(&self, id: i32);

    /// Ends what [`close_soon`](Self::close_soon) has left.
    fn flush(&self);

    /// Ends a backing id now.
    fn close(&self, id: i32) {
        self.close_soon(id);
        self.flush();
    }

    /// Ends all ids but these, each of its file: those of a server that died, whose files are open.
    ///
    /// # Errors
    /// InvalidData: one is not an id of its file. Else nothing may have been ended.
    fn keep(&self, ids: &[InUse<'_>]) -> io::Result<()>;

    /// Returns when the files of the ids that were ended before are let go, or that takes too long.
    fn settle(&self);
}

/// A file that the kernel holds until this is dropped. Files that are open through it keep it.
#[derive(Debug)]
pub(crate) struct BackingId {
    pub(crate) id: i32,
    pub(crate) by: Arc<dyn RegisterBacking>,
    /// It may last until the next [`RegisterBacking::flush`].
    pub(crate) is_for_later: bool,
}

impl Drop for BackingId {
    fn drop(&mut self) {
        match self.is_for_later {
            true => self.by.close_soon(self.id),
            false => self.by.close(self.id),
        }
    }
}

/// How the open handles of one inode are served.
#[derive(Debug, Default)]
pub(crate) struct HandleSort {
    /// Held while the inode's file is registered; below it, no lock of this crate.
    pub(crate) state: Mutex<Sort>,
    /// The file has been open for writing and reading with kernel passthrough since the kernel knows the
    /// inode, so a mapping of it may be stored to, of which no request tells, also when all handles are
    /// released: the mapping is one of the backing file.
    may_be_mapped: AtomicBool,
    /// WRITEs that the daemon has served since the kernel knows the inode.
    written: AtomicU32,
}

#[derive(Debug, Default)]
pub(crate) struct Sort {
    pub(crate) handles: usize,
    /// None: through READ and WRITE, or nothing is known.
    pub(crate) id: Option<BackingId>,
    /// When the last handle was released.
    pub(crate) since: Option<Instant>,
    /// Whether the inode is among those that are idle.
    pub(crate) is_queued: bool,
}

impl Sort {
    /// The id, if no handle uses it; to be dropped without the lock.
    fn take_idle(&mut self) -> Option<BackingId> {
        (self.handles == 0).then(|| self.id.take())?
    }
}

impl HandleSort {
    /// A WRITE of the inode is served by the daemon.
    pub(crate) fn note_write(&self) {
        // Counts beyond any threshold wrap to it after 4 thousand million.
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn written(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the kernel has to ask for the attributes each time.
    pub(crate) fn may_be_mapped(&self) -> bool {
        self.may_be_mapped.load(Ordering::Relaxed)
    }

    /// Returns whether that is new.
    pub(crate) fn note_mappable(&self) -> bool {
        !self.may_be_mapped.swap(true, Ordering::SeqCst)
    }

    /// Ends an id that no handle uses.
    pub(crate) fn let_idle_go(&self) {
        let gone = self.state.lock().take_idle();
        drop(gone);
    }

    /// Ends the id of an inode that waited among those that are idle, for another one: not at once.
    pub(crate) fn make_room(&self) {
        let mut state = self.state.lock();
        state.is_queued = false;
        let gone = state.take_idle();
        drop(state);
        if let Some(mut id) = gone {
            id.is_for_later = true;
        }
    }
}
