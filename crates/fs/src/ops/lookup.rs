//! LOOKUP, FORGET and BATCH_FORGET.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use crate::error::{IntoErrno, Result};
use crate::passthrough::{Entry, Passthrough};
use crate::resolve::component;

impl Passthrough {
    /// Looks `name` up in directory `parent`. The entry counts as one lookup.
    ///
    /// # Errors
    /// ENOENT; EINVAL for what is not a single name; ESTALE for an unknown parent.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        let parent = self.inode(parent)?;
        self.lookup_at(self.path_fd(&parent)?, name)
    }

    /// As [`Passthrough::lookup`], in the directory behind `dir`. The name is resolved once; all
    /// that follows is about the inode it stood for then.
    pub(crate) fn lookup_at(&self, dir: impl AsFd, name: &OsStr) -> Result<Entry> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(dir, component(name)?, flags, Mode::empty());
        self.enter(found.or_errno()?)
    }

    /// The kernel gives back `count` lookups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }
}
