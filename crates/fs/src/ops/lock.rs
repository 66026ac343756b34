//! GETLK, SETLK and SETLKW, see [`crate::host_locks`].

use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::FcntlArg;

use crate::caller::inspect::{System, system_call};
use crate::error::{Errno, Result};
use crate::host_locks::{Family, LockKind, LockRange, LockRequest, LockWait, OwnerFile, set};
use crate::passthrough::Passthrough;

impl Passthrough {
    /// Waits until a lock is released through this mount, but no longer than `timeout`.
    pub fn wait_lock_released(&self, timeout: Duration) {
        self.locks.wait_released(timeout);
    }

    /// Ends [`Passthrough::wait_lock_released`] early: a request that waits for a lock was interrupted.
    pub fn wake_lock_waiters(&self) {
        self.locks.released.notify_all();
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
        let is_flock = request.is_flock.unwrap_or_else(|| {
            request.range.is_whole_file() && system_call(request.caller.pid) == System::Flock
        });
        let family = match is_flock {
            true => Family::Whole,
            false => Family::Range,
        };
        let file = self.owner_file(request, family)?;
        // In the table before it is locked: of two threads of one owner, one file must win.
        let key = (request.ino, family, request.owner);
        let file = self.locks.enter(key, file);
        match set(&file, family, request) {
            Ok(()) => Ok(LockWait::Done),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(LockWait::Busy),
            Err(error) => Err(error),
        }
    }

    /// Where it is not said which family an owner means that unlocks a whole file: those it has.
    fn unlock(&self, request: &LockRequest) -> Result<()> {
        self.handle(request.fh, request.ino)?;
        for family in [Family::Range, Family::Whole] {
            let is_meant = match request.is_flock {
                Some(is_flock) => is_flock == (family == Family::Whole),
                None => family == Family::Range || request.range.is_whole_file(),
            };
            if !is_meant {
                continue;
            }
            let key = (request.ino, family, request.owner);
            let Some(file) = self.locks.owners.lock().get(&key).cloned() else {
                continue;
            };
            set(&file, family, request)?;
            if request.range.is_whole_file() {
                self.locks.leave(&key);
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
            file: inode.key.file(),
            fh: request.fh,
            pid: request.pid,
        }))
    }
}
