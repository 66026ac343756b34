//! GETLK, SETLK and SETLKW under `--locks=host`: POSIX, OFD and flock(2) locks taken on SOURCE.
//!
//! Each lock owner of the client gets an open file description of its own on the backing file, and
//! holds OFD or flock locks there: so owners exclude each other and the processes that use SOURCE
//! directly, by the host kernel's own rules. Nothing here blocks: a lock that cannot be had is
//! [`LockWait::Busy`], and the session's lock waiters try again.
//!
//! fuser does not hand on FUSE_LK_FLOCK, so for a lock on a whole file the caller's own system
//! call, in /proc, tells flock(2) from fcntl(2).

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use parking_lot::{Condvar, Mutex};
use rustix::fs::FlockOperation;

use crate::caller::Caller;
use crate::error::{Errno, IntoErrno, Result};
use crate::ledger::{Entry, Ledger};

/// Kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// F_RDLCK, LOCK_SH
    Shared,
    /// F_WRLCK, LOCK_EX
    Exclusive,
    /// F_UNLCK, LOCK_UN
    Unlock,
}

impl LockKind {
    /// From F_RDLCK, F_WRLCK, F_UNLCK.
    ///
    /// # Errors
    /// EINVAL for anything else.
    pub fn from_fcntl(kind: i32) -> Result<Self> {
        match kind {
            libc::F_RDLCK => Ok(Self::Shared),
            libc::F_WRLCK => Ok(Self::Exclusive),
            libc::F_UNLCK => Ok(Self::Unlock),
            _unknown => Err(Errno::EINVAL),
        }
    }

    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub fn as_fcntl(self) -> i32 {
        match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
            Self::Unlock => libc::F_UNLCK,
        }
    }

    pub(crate) fn as_flock(self) -> FlockOperation {
        match self {
            Self::Shared => FlockOperation::NonBlockingLockShared,
            Self::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Self::Unlock => FlockOperation::NonBlockingUnlock,
        }
    }
}

/// Bytes `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` (the kernel's OFFSET_MAX) means to the end, wherever that is.
    pub end: u64,
}

impl LockRange {
    pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64;

    pub(crate) fn is_whole_file(self) -> bool {
        self.start == 0 && self.end >= Self::OFFSET_MAX
    }

    pub(crate) fn as_fcntl(self, kind: LockKind) -> Result<libc::flock> {
        if self.end < self.start {
            return Err(Errno::EINVAL);
        }
        let start = i64::try_from(self.start).map_err(|_big| Errno::EINVAL)?;
        let len = match self.end {
            Self::OFFSET_MAX.. => 0,
            // Both below OFFSET_MAX, so the length fits.
            end => (end - self.start + 1) as i64,
        };
        Ok(libc::flock {
            l_type: kind.as_fcntl() as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: len,
            l_pid: 0,
        })
    }
}

/// One GETLK or SETLK.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// Nodeid.
    pub ino: u64,
    /// Handle it comes through.
    pub fh: u64,
    /// Lock owner, as the kernel names it.
    pub owner: u64,
    /// What.
    pub kind: LockKind,
    /// Where.
    pub range: LockRange,
    /// Process that the lock is for.
    pub pid: u32,
    /// The thread that asks.
    pub caller: Caller,
    /// By flock(2), or by fcntl(2); none where the transport does not say, and the caller's system call tells.
    pub is_flock: Option<bool>,
}

/// What came of trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Taken or released.
    Done,
    /// Another owner holds it.
    Busy,
}

/// What kind of locks an open file description holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// fcntl(2): POSIX and OFD locks.
    Range,
    /// flock(2).
    Whole,
}

/// An open file description that holds one owner's locks on one inode.
#[derive(Debug)]
pub(crate) struct OwnerFile {
    pub(crate) fd: OwnedFd,
    /// Device and number.
    pub(crate) file: (u64, u64),
    /// Handle through which the owner asked: when that is released, the owner has no descriptor
    /// left (an OFD or flock lock) or was flushed already (a POSIX lock).
    pub(crate) fh: u64,
    pub(crate) pid: u32,
}

pub(crate) type OwnerKey = (u64, Family, u64);

/// Locks held on SOURCE for the client.
#[derive(Debug, Default)]
pub(crate) struct HostLocks {
    /// By inode, family and owner. A leaf lock, not held across system calls.
    pub(crate) owners: Mutex<HashMap<OwnerKey, Arc<OwnerFile>>>,
    /// Signalled when a lock was released through this mount.
    pub(crate) released: Condvar,
    /// Where the files are noted for the next server, which has their locks; written under the lock of `owners`. None
    /// where nothing outlives this process.
    ledger: Option<Arc<Ledger>>,
}

impl HostLocks {
    /// Files that hold locks are noted in `ledger` from now on.
    pub(crate) fn note_in(&mut self, ledger: Arc<Ledger>) {
        self.ledger = Some(ledger);
    }

    /// The file by which the owner locks: `file`, unless it has one.
    pub(crate) fn enter(&self, key: OwnerKey, file: Arc<OwnerFile>) -> Arc<OwnerFile> {
        let mut owners = self.owners.lock();
        let entered = owners.entry(key).or_insert_with(|| {
            self.note(key, &file);
            file
        });
        Arc::clone(entered)
    }

    /// Takes in what a server that died has locked by.
    pub(crate) fn take_over(&self, key: OwnerKey, file: OwnerFile) {
        self.owners.lock().insert(key, Arc::new(file));
    }

    /// The owner locks nothing by its file any more.
    pub(crate) fn leave(&self, key: &OwnerKey) {
        let mut owners = self.owners.lock();
        let gone = owners.remove(key).inspect(|file| self.clear(file));
        drop(owners);
        drop(gone);
    }

    /// Before anything is locked by it.
    fn note(&self, (ino, family, owner): OwnerKey, of: &OwnerFile) {
        if let Some(ledger) = &self.ledger {
            let (file, fh, pid) = (of.file, of.fh, of.pid);
            let is_flock = family == Family::Whole;
            let entry = Entry::Locks {
                fh,
                ino,
                file,
                owner,
                is_flock,
                pid,
            };
            ledger.set(of.fd.as_raw_fd(), entry);
        }
    }

    /// Before it is closed.
    fn clear(&self, file: &OwnerFile) {
        if let Some(ledger) = &self.ledger {
            ledger.clear(file.fd.as_raw_fd());
        }
    }

    /// Drops the fcntl(2) locks of `owner` on `ino`.
    pub(crate) fn release_owner(&self, ino: u64, owner: u64) {
        self.remove(|(key_ino, family, key_owner), _file| {
            *key_ino == ino && *family == Family::Range && *key_owner == owner
        });
    }

    /// Drops what was locked through handle `fh`, which is closed.
    pub(crate) fn release_handle(&self, fh: u64) {
        self.remove(|_key, file| file.fh == fh);
    }

    fn remove(&self, matches: impl Fn(&OwnerKey, &OwnerFile) -> bool) {
        let mut owners = self.owners.lock();
        if owners.is_empty() {
            return;
        }
        let gone: Vec<_> = owners.extract_if(|key, file| matches(key, file)).collect();
        gone.iter().for_each(|(_key, file)| self.clear(file));
        drop(owners);
        if !gone.is_empty() {
            drop(gone);
            self.released.notify_all();
        }
    }

    pub(crate) fn wait_released(&self, timeout: Duration) {
        let mut owners = self.owners.lock();
        self.released.wait_for(&mut owners, timeout);
    }

    /// A process that holds locks on `ino` through this mount, apart from `owner`.
    pub(crate) fn holder(&self, ino: u64, owner: u64) -> u32 {
        let owners = self.owners.lock();
        let other = owners
            .iter()
            .find(|((key_ino, _, key_owner), _)| *key_ino == ino && *key_owner != owner);
        other.map_or(0, |(_, file)| file.pid)
    }
}

/// Takes, changes or releases a lock.
///
/// # Errors
/// Of fcntl(2) or flock(2).
pub(crate) fn set(file: &OwnerFile, family: Family, request: &LockRequest) -> Result<()> {
    match family {
        Family::Range => {
            let lock = request.range.as_fcntl(request.kind)?;
            nix::fcntl::fcntl(&file.fd, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
        }
        Family::Whole => rustix::fs::flock(&file.fd, request.kind.as_flock()).or_errno(),
    }
}
