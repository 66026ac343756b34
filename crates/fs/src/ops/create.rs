//! CREATE, MKNOD, MKDIR, SYMLINK: what makes a new inode, as the caller.
//!
//! The kernel has checked the caller's permissions (default_permissions), with all its groups;
//! here the file only has to become the caller's. So the thread takes the caller's uid and gid and
//! keeps its capabilities, and the umask is combined by the backing file system, which knows the
//! directory's default ACL.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use thrufs_sys::creds::{FsCreds, Power, Umask};

use crate::error::{Errno, IntoErrno, Result};
use crate::ops::open::Opened;
use crate::passthrough::{Caller, Entry, Passthrough, component};

/// What is made, by whom.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Directory.
    pub parent: u64,
    /// Name in it.
    pub name: &'a OsStr,
    /// Type and permission bits, before the umask.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// The caller.
    pub caller: Caller,
}

impl Passthrough {
    /// Makes a regular file, FIFO, socket or device node. `rdev` as in the protocol (the kernel's
    /// `new_encode_dev`).
    ///
    /// # Errors
    /// EEXIST, EROFS, and the backing file system's.
    pub fn mknod(&self, new: &NewNode<'_>, rdev: u32) -> Result<Entry> {
        let kind = FileType::from_raw_mode(new.mode);
        let dev = rustix::fs::makedev(
            (rdev & 0x000f_ff00) >> 8,
            rdev & 0xff | (rdev >> 12) & !0xff,
        );
        self.make(new, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(new.mode & 0o7777), dev)
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Passthrough::mknod`].
    pub fn mkdir(&self, new: &NewNode<'_>) -> Result<Entry> {
        self.make(new, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(new.mode & 0o7777))
        })
    }

    /// Makes a symbolic link with this content, which is not interpreted.
    ///
    /// # Errors
    /// As [`Passthrough::mknod`].
    pub fn symlink(&self, new: &NewNode<'_>, target: &OsStr) -> Result<Entry> {
        self.make(new, |dir, name| rustix::fs::symlinkat(target, dir, name))
    }

    fn make(
        &self,
        new: &NewNode<'_>,
        make: impl Fn(std::os::fd::BorrowedFd<'_>, &std::ffi::CStr) -> rustix::io::Result<()>,
    ) -> Result<Entry> {
        self.check_writable()?;
        let parent = self.inode(new.parent)?;
        let dir = self.path_fd(&parent)?;
        let name = component(new.name)?;
        self.with_space(|| new.as_caller(|| make(dir.as_fd(), &name).or_errno()))?;
        self.lookup_at(&dir, new.name)
    }

    /// Makes and opens a regular file; opens the one that is there, unless O_EXCL forbids it.
    ///
    /// # Errors
    /// As [`Passthrough::mknod`] and [`Passthrough::open`].
    pub fn create(&self, new: &NewNode<'_>, flags: i32) -> Result<(Entry, Opened)> {
        self.check_writable()?;
        self.check_room()?;
        let parent = self.inode(new.parent)?;
        let dir = self.path_fd(&parent)?;
        match self.with_space(|| self.create_exclusive(&dir, new, flags)) {
            Ok(file) => {
                let path = self.reopen(&file, libc::O_PATH)?;
                let entry = self.enter(path)?;
                let opened = self.opened(entry.ino, file, flags);
                Ok((entry, opened))
            }
            // Somebody made it since the kernel looked, by way of SOURCE or another mount.
            Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => {
                let entry = self.lookup_at(&dir, new.name)?;
                let opened = self.open_existing(entry.ino, flags, &new.caller);
                if opened.is_err() {
                    self.forget(entry.ino, 1);
                }
                Ok((entry, opened?))
            }
            Err(error) => Err(error),
        }
    }

    fn create_exclusive(&self, dir: impl AsFd, new: &NewNode<'_>, flags: i32) -> Result<OwnedFd> {
        let name = component(new.name)?;
        let flags = self.backing_flags(flags) | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        new.as_caller(|| rustix::fs::openat(dir, &name, flags, mode).or_errno())
    }

    fn open_existing(&self, ino: u64, flags: i32, caller: &Caller) -> Result<Opened> {
        let opened = self.open(ino, flags)?;
        if flags & libc::O_TRUNC != 0 {
            let truncated = self
                .kill_suidgid_unless_privileged(ino, opened.fh, caller)
                .and_then(|()| self.handle(opened.fh, ino))
                .and_then(|handle| {
                    self.changing(&handle, || self.backing.truncate(handle.fd.as_fd(), 0))
                });
            if truncated.is_err() {
                self.release(ino, opened.fh);
            }
            truncated?;
        }
        Ok(opened)
    }
}

impl NewNode<'_> {
    fn as_caller<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _umask = Umask::assume(self.umask).or_errno()?;
        let _creds = FsCreds::assume(self.caller.uid, self.caller.gid, Power::Keep).or_errno()?;
        act()
    }
}
