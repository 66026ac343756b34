//! Open files and directories, by the number that the kernel was given at OPEN or OPENDIR.
//!
//! Invariant: a handle's number is never used again within a mount, so a late request cannot reach
//! another file; and every request names the inode as well, which must be the handle's own.

mod kept;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::coherence::external::ChangeTracker;
use crate::error::{Errno, Result};
use crate::far_cookies::FarCookies;
use crate::inode::Inode;
use crate::inode::identity::{InodeKey, file_of};
use crate::ledger::{Entry, Ledger};
use crate::write_batch::WriteGroup;
pub(crate) use kept::HandleRef;
use kept::Kept;

/// Locks are per shard, so that files opened by different threads seldom share one.
const SHARDS: usize = 16;

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Nodeid of the inode that was opened.
    pub(crate) ino: u64,
    pub(crate) fd: OwnedFd,
    pub(crate) kind: HandleKind,
    /// Those of OPEN; 0 for a directory.
    pub(crate) flags: i32,
    /// The kernel passes the file through by it.
    pub(crate) backing_id: Option<i32>,
    /// A thread keeps it, or has kept it.
    pub(crate) is_kept: AtomicBool,
}

/// What a handle is for.
#[derive(Debug)]
pub(crate) enum HandleKind {
    File(OpenFile),
    /// Holds the descriptor's position from the seek to the end of getdents64(2). A leaf lock.
    Directory(Mutex<FarCookies>),
}

/// What a WRITE by this handle has to know.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The backing file is open with O_DIRECT, so buffers must be aligned.
    pub(crate) direct: bool,
    /// Opened with O_SYNC: all metadata becomes durable as well, where WRITEs do.
    pub(crate) syncs_metadata: bool,
    /// Those that this handle's WRITEs are joined with; none if they are not.
    pub(crate) group: Option<Arc<WriteGroup>>,
    /// Tells external changes of the file; none where they are not tracked.
    pub(crate) watch: Option<Arc<ChangeTracker>>,
    /// Made by the CREATE that opened it, on a mount that passes files through.
    pub(crate) is_new: bool,
    /// The file itself; none if the kernel has forgotten it already.
    pub(crate) inode: Option<Arc<Inode>>,
}

impl Handle {
    /// Directory `ino`, open as `fd`.
    pub(crate) fn of_directory(ino: u64, fd: OwnedFd) -> Self {
        Self {
            ino,
            fd,
            kind: HandleKind::Directory(Mutex::default()),
            flags: 0,
            backing_id: None,
            is_kept: AtomicBool::new(false),
        }
    }

    /// None for a directory.
    pub(crate) fn file(&self) -> Option<&OpenFile> {
        match &self.kind {
            HandleKind::File(file) => Some(file),
            HandleKind::Directory(_) => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct HandleTable {
    /// Leaf locks: held for the look-up alone, never across a system call.
    shards: [RwLock<HashMap<u64, Arc<Handle>>>; SHARDS],
    kept: Kept,
    next: AtomicU64,
    /// How many are in the shards: counted here as well, since each OPEN asks.
    open: AtomicUsize,
    /// None where nothing outlives this process.
    ledger: Option<Arc<Ledger>>,
}

impl Default for HandleTable {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            kept: Kept::default(),
            next: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            ledger: None,
        }
    }
}

impl HandleTable {
    fn shard(&self, fh: u64) -> &RwLock<HashMap<u64, Arc<Handle>>> {
        &self.shards[fh as usize % SHARDS]
    }

    /// Handles are noted in `ledger` from now on, and numbered from `first` on.
    pub(crate) fn note_in(&mut self, ledger: Arc<Ledger>, first: u64) {
        self.ledger = Some(ledger);
        self.next = AtomicU64::new(first);
    }

    /// Takes in what a server that died has opened; false if there is one of that number.
    pub(crate) fn take_over(&self, fh: u64, handle: Handle) -> bool {
        let is_new = self
            .shard(fh)
            .write()
            .insert(fh, Arc::new(handle))
            .is_none();
        self.open.fetch_add(usize::from(is_new), Ordering::Relaxed);
        is_new
    }

    /// Takes the handle in and returns its number, of which `tell` is told before that is in the ledger. `inode`: what it
    /// is open on, if the kernel knows that.
    pub(crate) fn insert(
        &self,
        handle: Handle,
        inode: Option<InodeKey>,
        tell: impl FnOnce(u64),
    ) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        tell(fh);
        self.note(fh, &handle, inode);
        self.shard(fh).write().insert(fh, Arc::new(handle));
        self.open.fetch_add(1, Ordering::Relaxed);
        fh
    }

    fn note(&self, fh: u64, handle: &Handle, inode: Option<InodeKey>) {
        let Some(ledger) = &self.ledger else {
            return;
        };
        // One that cannot be looked at is not there for the next server.
        let file = inode.map_or_else(|| file_of(&handle.fd), |key| Ok(key.file()));
        let Ok(file) = file else {
            return;
        };
        let (ino, flags) = (handle.ino, handle.flags);
        let entry = match handle.kind {
            HandleKind::File(_) => Entry::File {
                fh,
                ino,
                file,
                flags,
                backing_id: handle.backing_id,
            },
            HandleKind::Directory(_) => Entry::Directory { fh, ino, file },
        };
        ledger.set(handle.fd.as_raw_fd(), entry);
    }

    /// The handle `fh` of inode `ino`.
    ///
    /// # Errors
    /// EBADF if there is none, or if it belongs to another inode.
    pub(crate) fn get(&self, fh: u64, ino: u64) -> Result<Arc<Handle>> {
        let handle = self.shard(fh).read().get(&fh).cloned();
        handle
            .filter(|handle| handle.ino == ino)
            .ok_or(Errno::EBADF)
    }

    /// As [`HandleTable::get`], for what a thread does to one file again and again.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn get_again(&self, thread: usize, fh: u64, ino: u64) -> Result<HandleRef> {
        self.kept.get(thread, self.shard(fh), (fh, ino))
    }

    /// Takes the handle out; the file is closed when the last operation on it has ended.
    pub(crate) fn remove(&self, fh: u64) -> Option<Arc<Handle>> {
        let removed = self.shard(fh).write().remove(&fh)?;
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            ledger.clear(removed.fd.as_raw_fd());
        }
        if removed.is_kept.load(Ordering::Relaxed) {
            self.kept.drop_all(fh);
        }
        Some(removed)
    }

    /// Any open handle of this inode. Looks at all of them: for the rare case that the inode
    /// cannot be reached otherwise.
    pub(crate) fn any_of(&self, ino: u64) -> Option<Arc<Handle>> {
        self.shards.iter().find_map(|shard| {
            shard
                .read()
                .values()
                .find(|handle| handle.ino == ino)
                .cloned()
        })
    }

    /// All handles.
    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        let of_shard = |shard: &RwLock<HashMap<u64, Arc<Handle>>>| {
            shard.read().values().cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Those with a watch. Not held, so that what is closed meanwhile is closed on SOURCE.
    pub(crate) fn watched(&self) -> Vec<Weak<Handle>> {
        let is_watched =
            |handle: &&Arc<Handle>| handle.file().is_some_and(|file| file.watch.is_some());
        let of_shard = |shard: &RwLock<HashMap<u64, Arc<Handle>>>| {
            let shard = shard.read();
            let watched = shard.values().filter(is_watched);
            watched.map(Arc::downgrade).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(ino: u64) -> Handle {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        Handle {
            ino,
            fd,
            kind: HandleKind::File(OpenFile {
                direct: false,
                syncs_metadata: false,
                group: None,
                watch: None,
                is_new: false,
                inode: None,
            }),
            flags: 0,
            backing_id: None,
            is_kept: AtomicBool::new(false),
        }
    }

    /// A file that stays open after close(2) keeps its space when it is removed, and its file system mounted.
    #[test]
    fn remove_of_what_threads_keep_leaves_no_reference() {
        let table = HandleTable::default();
        let handles: Vec<u64> = (0..6)
            .map(|_| table.insert(handle(7), None, |_fh| ()))
            .collect();
        for thread in [0, 1, 65] {
            for fh in handles.iter().flat_map(|fh| [*fh; 3]) {
                assert_eq!(table.get_again(thread, fh, 7).unwrap().ino, 7);
                assert_eq!(table.get_again(thread, fh, 8).unwrap_err(), Errno::EBADF);
            }
        }
        let under_way = table.get_again(0, handles[5], 7).unwrap();
        assert!(matches!(under_way, HandleRef::Kept(_)), "{under_way:?}");
        for fh in &handles {
            let removed = table.remove(*fh).unwrap();
            let others = usize::from(*fh == handles[5]);
            assert_eq!(Arc::strong_count(&removed), 1 + others, "handle {fh}");
            assert_eq!(table.get_again(0, *fh, 7).unwrap_err(), Errno::EBADF);
        }
        drop(under_way);
    }

    #[test]
    fn get_again_of_what_other_threads_release_never_keeps_it() {
        let table = HandleTable::default();
        std::thread::scope(|scope| {
            for _round in 0..200 {
                let fh = table.insert(handle(7), None, |_fh| ());
                let use_it = |thread: usize| {
                    let table = &table;
                    move || (0..50).all(|_| table.get_again(thread, fh, 7).is_ok())
                };
                let users = [scope.spawn(use_it(0)), scope.spawn(use_it(1))];
                let removed = Arc::downgrade(&table.remove(fh).unwrap());
                for user in users {
                    // It finds none when it comes too late.
                    let _found = user.join().unwrap();
                }
                assert!(removed.upgrade().is_none(), "kept after its release");
            }
        });
    }

    #[test]
    fn get_with_another_inode_is_ebadf() {
        let table = HandleTable::default();
        let fh = table.insert(handle(7), None, |_fh| ());
        assert_eq!(table.get(fh, 7).unwrap().ino, 7);
        assert_eq!(table.get(fh, 8).unwrap_err(), Errno::EBADF);
        assert_eq!(table.get(fh + 1, 7).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn insert_after_remove_gives_a_new_number() {
        let table = HandleTable::default();
        let fh = table.insert(handle(7), None, |_fh| ());
        assert!(table.remove(fh).is_some());
        assert_ne!(table.insert(handle(7), None, |_fh| ()), fh);
        assert_eq!(table.len(), 1);
    }
}
