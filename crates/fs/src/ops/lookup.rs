//! LOOKUP: how an inode comes into the table. (FORGET, by which it goes, is in `removed.rs`.)

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Statx;
use thrufs_sys::file_handle::FileHandle;

use crate::attr::Attr;
use crate::config::InodeFileHandles;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{FileKind, key_of, statx};
use crate::inode::{Inode, InodeRef};
use crate::ops::counted::{CountedEntry, CountedLookup};
use crate::passthrough::{Entry, Passthrough};
use crate::resolve::component;

impl Passthrough {
    /// Looks `name` up in directory `parent`.
    ///
    /// # Errors
    /// ENOENT; EINVAL for what is not a single name; ESTALE for an unknown parent. With "." and "..": ESTALE as
    /// for [`Passthrough::lookup_nodeid`] and [`Passthrough::lookup_parent`].
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<CountedEntry<'_>> {
        match name.as_bytes() {
            b"." => return self.lookup_nodeid(parent),
            b".." => return self.lookup_parent(parent),
            _name => {}
        }
        let parent = self.inode(parent)?;
        self.lookup_in(&parent, self.path_fd(&parent)?, name)
    }

    /// As [`Passthrough::lookup`], in the directory `parent`, which is behind `dir`.
    pub(crate) fn lookup_in(
        &self,
        parent: &Inode,
        dir: impl AsFd,
        name: &OsStr,
    ) -> Result<CountedEntry<'_>> {
        let hints = self.name_hints.as_ref();
        let guess = hints.map_or(0, |hints| hints.guess(parent.ino, name));
        let mut found = self.lookup_at(parent, dir, name, guess, Self::enter);
        match &mut found {
            Ok(counted) => {
                counted.entry.is_submount = self.announces(parent, &counted.entry);
                self.note_present(parent, name, &counted.entry);
            }
            Err(Errno::ENOENT) => self.sub_mounts.is_absent(parent, name),
            Err(_) => {}
        }
        found
    }

    /// The kernel is told what `name` in `parent` stands for.
    pub(crate) fn note_present(&self, parent: &Inode, name: &OsStr, entry: &Entry) {
        self.sub_mounts.is_present(parent, name);
        if let Some(hints) = &self.name_hints {
            hints.note(parent.ino, name, entry.ino);
        }
    }

    /// The name is resolved once; all that follows is about the inode it stood for then, probably `guess`.
    /// Another one is taken in by `take_in`.
    fn lookup_at<'a>(
        &'a self,
        parent: &Inode,
        dir: impl AsFd,
        name: &OsStr,
        guess: u64,
        take_in: impl FnOnce(&'a Self, OwnedFd) -> Result<CountedEntry<'a>>,
    ) -> Result<CountedEntry<'a>> {
        let name = component(name)?;
        match self.look_up_known(parent, &dir, &name, guess)? {
            Some(known) => Ok(known),
            None => take_in(self, self.crossing.find(dir, &name)?),
        }
    }

    /// As [`Passthrough::lookup_at`], for a name that is being listed: nothing is waited for, since the
    /// kernel forgets nothing of a listing before it has it.
    pub(crate) fn lookup_listed(
        &self,
        parent: &Inode,
        dir: impl AsFd,
        name: &OsStr,
        guess: u64,
    ) -> Result<CountedEntry<'_>> {
        let mut found = self.lookup_at(parent, dir, name, guess, Self::take_in)?;
        found.entry.is_submount = self.announces(parent, &found.entry);
        self.note_present(parent, name, &found.entry);
        Ok(found)
    }

    /// How long the kernel may use a name of such an inode.
    pub(crate) fn entry_timeout(&self, kind: FileKind) -> Duration {
        match kind {
            FileKind::Directory => self.config.timeouts.dir,
            _other => self.config.timeouts.entry,
        }
    }

    /// Takes in the inode behind the O_PATH descriptor `fd`, as one more lookup of it.
    pub(crate) fn enter(&self, fd: OwnedFd) -> Result<CountedEntry<'_>> {
        let entry = self.take_in(fd)?;
        if let Some(pressure) = &self.pressure {
            pressure.hold_back(self);
        }
        Ok(entry)
    }

    fn take_in(&self, fd: OwnedFd) -> Result<CountedEntry<'_>> {
        let stat = statx(&fd)?;
        let kind = FileKind::from_mode(u32::from(stat.stx_mode));
        let key = key_of(&stat);
        let (held, fd) = self.hold(fd, key.mnt_id, kind)?;
        // `fd` is open until the inode is in the table: meanwhile no other file gets its inode number.
        let inode = self.inodes.look_up(key, kind, held);
        let lookup = CountedLookup::new(self, inode.ino);
        self.sub_mounts.looked_up(&inode);
        let attr = match &fd {
            Some(fd) => self.attr_as_entered(&inode, stat, fd),
            None => inode
                .path_fd()
                .and_then(|fd| self.attr_as_entered(&inode, stat, fd)),
        }?;
        match fd {
            // Its last name is gone: no handle opens it any more.
            Some(fd) if stat.stx_nlink == 0 => {
                self.pin(&inode, Some(Arc::new(fd)));
            }
            Some(fd) => self.recent.keep(&inode, Arc::new(fd)),
            None => {}
        }
        if let Some(pressure) = &self.pressure {
            pressure.note(self);
        }
        let entry = Entry {
            ino: inode.ino,
            generation: inode.generation(),
            attr,
            entry_timeout: self.entry_timeout(kind),
            is_submount: false,
        };
        Ok(CountedEntry { entry, lookup })
    }

    /// The attributes of an inode that has just been taken in.
    fn attr_as_entered(&self, inode: &Inode, stat: Statx, fd: impl AsFd) -> Result<Attr> {
        if self.watches.get(inode.ino).is_some() {
            // What was found before the inode was known says nothing of when.
            return self.look_at(inode, fd);
        }
        self.inodes.tell(inode, &stat);
        Ok(Attr {
            ino: inode.ino,
            stat,
            external: None,
            is_volatile: inode.sort.may_be_mapped(),
        })
    }

    /// How the inode behind `fd` is held; and `fd`, if not by that.
    fn hold(
        &self,
        fd: OwnedFd,
        mnt_id: u64,
        kind: FileKind,
    ) -> Result<(InodeRef, Option<OwnedFd>)> {
        let is_mandatory = match self.config.inode_file_handles {
            InodeFileHandles::Never => return self.hold_by_fd(fd),
            InodeFileHandles::Prefer => false,
            InodeFileHandles::Mandatory => true,
        };
        let fid = match FileHandle::of(&fd).or_errno() {
            Ok(fid) => fid,
            // The file system has none, or none that fit.
            Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW) if !is_mandatory => {
                return self.hold_by_fd(fd);
            }
            Err(error) => return Err(error),
        };
        let mount = self.mounts.get(mnt_id, || match kind {
            FileKind::Directory => self
                .reopen(&fd, libc::O_RDONLY | libc::O_DIRECTORY)
                .map(Some),
            _file_that_is_mounted_alone => Ok(None),
        });
        match mount {
            Ok(Some(mount)) => Ok((InodeRef::Handle { mount, fid }, Some(fd))),
            Err(error) if is_mandatory => Err(error),
            Ok(None) | Err(_) => self.hold_by_fd(fd),
        }
    }

    fn hold_by_fd(&self, fd: OwnedFd) -> Result<(InodeRef, Option<OwnedFd>)> {
        self.check_inode_room()?;
        Ok((InodeRef::Fd(fd), None))
    }
}
