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
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use parking_lot::{Condvar, Mutex};
use rustix::fs::FlockOperation;

use crate::caller::Caller;
use crate::caller::inspect::{System, system_call};
use crate::error::{Errno, IntoErrno, Result};
use crate::passthrough::Passthrough;

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

    fn as_flock(self) -> FlockOperation {
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
    const OFFSET_MAX: u64 = i64::MAX as u64;

    fn is_whole_file(self) -> bool {
        self.start == 0 && self.end >= Self::OFFSET_MAX
    }

    fn as_fcntl(self, kind: LockKind) -> Result<libc::flock> {
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
}

/// What came of trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Taken or released.
    Done,
    /// Somebody else holds it.
    Busy,
}

/// What kind of locks an open file description holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    /// fcntl(2): POSIX and OFD locks.
    Range,
    /// flock(2).
    Whole,
}

/// An open file description that holds one owner's locks on one inode.
#[derive(Debug)]
struct OwnerFile {
    fd: OwnedFd,
    /// Handle through which the owner asked: when that is released, the owner has no descriptor
    /// left (an OFD or flock lock) or was flushed already (a POSIX lock).
    fh: u64,
    pid: u32,
}

type OwnerKey = (u64, Family, u64);

/// Locks held on SOURCE for the client.
#[derive(Debug, Default)]
pub(crate) struct HostLocks {
    /// By inode, family and owner. A leaf lock, not held across system calls.
    owners: Mutex<HashMap<OwnerKey, Arc<OwnerFile>>>,
    /// Signalled when a lock was released through this mount.
    released: Condvar,
}

impl HostLocks {
    /// Drops the fcntl(2) locks of `owner` on `ino`.
    pub(crate) fn release_owner(&self, ino: u64, owner: u64) {
        self.remove(|(key_ino, family, key_owner), _file| {
            *key_ino == ino && *family == Family::Range && *key_owner == owner
        });
    }

    /// Drops what was locked through handle `fh`, which nobody has open any more.
    pub(crate) fn release_handle(&self, fh: u64) {
        self.remove(|_key, file| file.fh == fh);
    }

    fn remove(&self, matches: impl Fn(&OwnerKey, &OwnerFile) -> bool) {
        let mut owners = self.owners.lock();
        if owners.is_empty() {
            return;
        }
        let gone: Vec<_> = owners.extract_if(|key, file| matches(key, file)).collect();
        drop(owners);
        if !gone.is_empty() {
            drop(gone);
            self.released.notify_all();
        }
    }

    fn wait_released(&self, timeout: Duration) {
        let mut owners = self.owners.lock();
        self.released.wait_for(&mut owners, timeout);
    }

    /// A process that holds locks on `ino` through this mount, apart from `owner`.
    fn holder(&self, ino: u64, owner: u64) -> u32 {
        let owners = self.owners.lock();
        let other = owners
            .iter()
            .find(|((key_ino, _, key_owner), _)| *key_ino == ino && *key_owner != owner);
        other.map_or(0, |(_, file)| file.pid)
    }
}

impl Passthrough {
    /// Waits until a lock is released through this mount, but no longer than `timeout`.
    pub fn wait_lock_released(&self, timeout: Duration) {
        self.locks.wait_released(timeout);
    }

    /// The lock that is in the way of `request`, as kind, range and process; none if it is free.
    ///
    /// # Errors
    /// EBADF, EINVAL; else the backing file system's.
    pub fn getlk(&self, request: &LockRequest) -> Result<Option<(LockKind, LockRange, u32)>> {
        let file = self.owner_file(request, Family::Range)?;
        let mut lock = request.range.as_fcntl(request.kind)?;
        nix::fcntl::fcntl(&file.fd, FcntlArg::F_OFD_GETLK(&mut lock))?;
        let kind = LockKind::from_fcntl(i32::from(lock.l_type))?;
        if kind == LockKind::Unlock {
            return Ok(None);
        }
        let start = lock.l_start as u64;
        let end = match lock.l_len {
            0 => LockRange::OFFSET_MAX,
            len => start + len as u64 - 1,
        };
        // An OFD lock has no process: it is one of ours, or of a host process that used one.
        let pid = u32::try_from(lock.l_pid)
            .unwrap_or_else(|_none| self.locks.holder(request.ino, request.owner));
        Ok(Some((kind, LockRange { start, end }, pid)))
    }

    /// Tries to take or release a lock, without waiting.
    ///
    /// # Errors
    /// EBADF, EINVAL, ENOLCK; else the backing file system's. Busy is no error here.
    pub fn try_setlk(&self, request: &LockRequest) -> Result<LockWait> {
        if request.kind == LockKind::Unlock {
            self.unlock(request)?;
            return Ok(LockWait::Done);
        }
        let family = match request.range.is_whole_file() {
            true if system_call(request.caller.pid) == System::Flock => Family::Whole,
            _part_or_fcntl => Family::Range,
        };
        let file = self.owner_file(request, family)?;
        // In the table before it is locked: of two threads of one owner, one file must win.
        let key = (request.ino, family, request.owner);
        let file = self.locks.owners.lock().entry(key).or_insert(file).clone();
        match set(&file, family, request) {
            Ok(()) => Ok(LockWait::Done),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(LockWait::Busy),
            Err(error) => Err(error),
        }
    }

    /// An owner that unlocks a whole file may mean either family: those it has.
    fn unlock(&self, request: &LockRequest) -> Result<()> {
        self.handle(request.fh, request.ino)?;
        for family in [Family::Range, Family::Whole] {
            if family == Family::Whole && !request.range.is_whole_file() {
                continue;
            }
            let key = (request.ino, family, request.owner);
            let Some(file) = self.locks.owners.lock().get(&key).cloned() else {
                continue;
            };
            set(&file, family, request)?;
            if request.range.is_whole_file() {
                self.locks.owners.lock().remove(&key);
            }
        }
        self.locks.released.notify_all();
        Ok(())
    }

    /// The owner's open file description; a fresh one, not yet in the table, if it has none.
    fn owner_file(&self, request: &LockRequest, family: Family) -> Result<Arc<OwnerFile>> {
        self.handle(request.fh, request.ino)?;
        let key = (request.ino, family, request.owner);
        if let Some(file) = self.locks.owners.lock().get(&key) {
            return Ok(file.clone());
        }
        let inode = self.inode(request.ino)?;
        // A shared lock needs a file open for reading, an exclusive one for writing.
        let fd = self
            .open_inode(&inode, libc::O_RDWR | libc::O_NONBLOCK)
            .or_else(|_error| self.open_inode(&inode, libc::O_RDONLY | libc::O_NONBLOCK))?;
        Ok(Arc::new(OwnerFile {
            fd,
            fh: request.fh,
            pid: request.pid,
        }))
    }
}

fn set(file: &OwnerFile, family: Family, request: &LockRequest) -> Result<()> {
    match family {
        Family::Range => {
            let lock = request.range.as_fcntl(request.kind)?;
            nix::fcntl::fcntl(&file.fd, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
        }
        Family::Whole => rustix::fs::flock(&file.fd, request.kind.as_flock()).or_errno(),
    }
}
