//! CREATE, MKNOD, MKDIR, SYMLINK: what makes a new inode, as the caller.
//!
//! The kernel has checked the caller's permissions (default_permissions), with all its groups;
//! here the file only has to become the caller's. So the thread takes the caller's uid and gid and
//! keeps its capabilities, and the umask is combined by the backing file system, which knows the
//! directory's default ACL.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::thread::CapabilitySet;
use thrufs_sys::creds::{FsCreds, Power, set_umask};

use crate::caller::Caller;
use crate::coherence::external::Time;
use crate::coherence::open_files::Seen;
use crate::create_retry::Met;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{FileKind, statx};
use crate::ops::counted::CountedEntry;
use crate::ops::label::Label;
use crate::ops::open::{Existed, Opened};
use crate::passthrough::Passthrough;
use crate::resolve::component;

/// How often a name may come and go while one CREATE is served.
const ATTEMPTS: usize = 100;

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
    /// Groups of the caller beside its own, of which the client tells if the directory's is one (FUSE_CREATE_SUPP_GROUP);
    /// none where it does not tell.
    pub groups: Option<&'a [u32]>,
    /// Labels for it.
    pub labels: &'a [Label<'a>],
}

impl Passthrough {
    /// Makes a regular file, FIFO, socket or device node. `rdev` as in the protocol (the kernel's
    /// `new_encode_dev`).
    ///
    /// # Errors
    /// EEXIST, EROFS, and the backing file system's.
    pub fn mknod(&self, new: &NewNode<'_>, rdev: u32) -> Result<CountedEntry<'_>> {
        let kind = FileType::from_raw_mode(new.mode);
        let dev = rustix::fs::makedev(
            (rdev & 0x000f_ff00) >> 8,
            rdev & 0xff | (rdev >> 12) & !0xff,
        );
        self.make(new, FileKind::from_mode(new.mode), |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(new.mode & 0o7777), dev)
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Passthrough::mknod`].
    pub fn mkdir(&self, new: &NewNode<'_>) -> Result<CountedEntry<'_>> {
        self.make(new, FileKind::Directory, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(new.mode & 0o7777))
        })
    }

    /// Makes a symbolic link with this content, which is not interpreted.
    ///
    /// # Errors
    /// As [`Passthrough::mknod`].
    pub fn symlink(&self, new: &NewNode<'_>, target: &OsStr) -> Result<CountedEntry<'_>> {
        self.make(new, FileKind::Symlink, |dir, name| {
            rustix::fs::symlinkat(target, dir, name)
        })
    }

    fn make(
        &self,
        new: &NewNode<'_>,
        kind: FileKind,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
    ) -> Result<CountedEntry<'_>> {
        self.check_writable()?;
        let parent = self.inode(new.parent)?;
        let dir = self.path_fd(&parent)?;
        let name = component(new.name)?;
        let make = || self.as_creator(&dir, new, || make(dir.as_fd(), &name).or_errno());
        let whose = (kind, new.caller.uid);
        self.make_once((&dir, &name), whose, || self.with_space(make), || Ok(()))?;
        self.label_named(&dir, &name, new.labels)?;
        self.lookup_in(&parent, &dir, new.name)
    }

    /// Makes and opens a regular file. One that is there already is not opened: the kernel is made
    /// to look again, and to check its caller ([`crate::create_retry`]).
    ///
    /// # Errors
    /// ESTALE for what is there already, EEXIST with O_EXCL, EISDIR for a directory; else as
    /// [`Passthrough::mknod`].
    pub fn create(&self, new: &NewNode<'_>, flags: i32) -> Result<(CountedEntry<'_>, Opened)> {
        self.check_writable()?;
        self.check_room()?;
        let parent = self.inode(new.parent)?;
        let dir = self.path_fd(&parent)?;
        for _ in 0..ATTEMPTS {
            match self.with_space(|| self.create_exclusive(&dir, new, flags)) {
                Ok(file) => {
                    let made = self.enter_open(file, flags)?;
                    self.note_present(&parent, new.name, &made.0.entry);
                    return Ok(made);
                }
                // Made since the kernel looked, by way of SOURCE or another mount.
                Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => {}
                Err(error) => return Err(error),
            }
            match self.remember_existing(&dir, new) {
                // Gone again.
                Err(Errno::ENOENT) => {}
                Ok(()) => return Err(Errno::ESTALE),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::ESTALE)
    }

    /// Makes and opens a regular file that has no name, on the file system of the directory `new.parent`; it
    /// gets one by LINK, or is gone with its last handle. `new.name` means nothing.
    ///
    /// # Errors
    /// EOPNOTSUPP where the backing file system has no O_TMPFILE; else as [`Passthrough::mknod`].
    pub fn tmpfile(&self, new: &NewNode<'_>, flags: i32) -> Result<(CountedEntry<'_>, Opened)> {
        self.check_writable()?;
        self.check_room()?;
        let parent = self.inode(new.parent)?;
        let dir = self.path_fd(&parent)?;
        // Without O_EXCL, which would keep the server from linking it: the client's kernel obeys that.
        let how = self.backing_flags(flags) | libc::O_TMPFILE;
        let file = self.with_space(|| self.make_file(&dir, c".", (new, how)))?;
        self.label(&file, new.labels)?;
        self.enter_open(file, flags)
    }

    /// Takes in a file that was just made and is open.
    fn enter_open(&self, file: OwnedFd, flags: i32) -> Result<(CountedEntry<'_>, Opened)> {
        let asked = Time::now();
        let mut made = self.enter(self.reopen(&file, libc::O_PATH)?)?;
        let (ino, stat) = (made.entry.ino, made.entry.attr.stat);
        let seen = Some(Seen { asked, stat });
        let opened = self.opened((ino, Existed::NotBefore), file, flags, seen)?;
        made.entry.attr.is_volatile = opened.is_mappable(flags);
        Ok((made, opened))
    }

    /// Keeps what has the name, for the LOOKUP that ESTALE causes.
    fn remember_existing(&self, dir: impl AsFd, new: &NewNode<'_>) -> Result<()> {
        let fd = self.crossing.find(dir, &component(new.name)?)?;
        // For every caller: and a directory that has another name by then must not get this one.
        if FileKind::from_mode(u32::from(statx(&fd)?.stx_mode)) == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        self.create_retries.put(Met {
            tid: new.caller.pid,
            parent: new.parent,
            name: new.name.to_owned(),
            fd,
        });
        Ok(())
    }

    /// [`Passthrough::lookup`] by thread `tid`, which may have been sent by the answer to a CREATE.
    ///
    /// # Errors
    /// As there.
    pub fn lookup_by(&self, tid: u32, parent: u64, name: &OsStr) -> Result<CountedEntry<'_>> {
        match self.create_retries.take(tid, parent, name) {
            Some(met) => {
                let mut found = self.enter(met)?;
                found.entry.entry_timeout = Duration::ZERO;
                Ok(found)
            }
            None => self.lookup(parent, name),
        }
    }

    fn create_exclusive(&self, dir: impl AsFd, new: &NewNode<'_>, flags: i32) -> Result<OwnedFd> {
        let how = self.backing_flags(flags) | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let name = component(new.name)?;
        let whose = (FileKind::Regular, new.caller.uid);
        let make = || self.make_file(&dir, &name, (new, how));
        let found = || open_made(&dir, &name, how);
        let file = self.make_once((&dir, &name), whose, make, found)?;
        self.label_open(dir, &name, (&file, new.labels))?;
        Ok(file)
    }

    fn make_file(
        &self,
        dir: impl AsFd,
        name: &CStr,
        (new, flags): (&NewNode<'_>, i32),
    ) -> Result<OwnedFd> {
        let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        self.as_creator(&dir, new, || {
            rustix::fs::openat(&dir, name, flags, mode).or_errno()
        })
    }

    /// Does `act`, which makes `new` in `dir`, with the caller's ids and umask.
    fn as_creator<T>(
        &self,
        dir: impl AsFd,
        new: &NewNode<'_>,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let _umask = set_umask(new.umask).or_errno()?;
        let caller = &new.caller;
        if let Some(groups) = self.groups_for_set_gid(dir, new)? {
            // The backing file system takes the bit from a caller that is not in the directory's group.
            let power = Power::KeepBut(CapabilitySet::FSETID);
            match FsCreds::assume_with_groups(caller.uid, caller.gid, (&groups, power)).or_errno() {
                // A user namespace in which there is no setgroups(2).
                Err(Errno::EPERM) => {}
                creds => {
                    let _creds = creds?;
                    return act();
                }
            }
        }
        let _creds = FsCreds::assume(caller.uid, caller.gid, Power::Keep).or_errno()?;
        act()
    }

    /// The groups of the creator beside its own by which the backing file system judges whether `new` keeps its
    /// set-gid bit; none where it has none, or the creator may set it, or that cannot be told.
    fn groups_for_set_gid(&self, dir: impl AsFd, new: &NewNode<'_>) -> Result<Option<Vec<u32>>> {
        let caller = &new.caller;
        if !new.asks_for_set_gid() || caller.uid == 0 && !self.config.idmap {
            return Ok(None);
        }
        let stat = statx(dir)?;
        if self.config.idmap {
            // The ids are those on SOURCE, whatever the caller may: the kernel alone can judge it, by what it was told.
            return self
                .check_told(&*self.inode(new.parent)?, &stat)
                .map(|()| None);
        }
        if self.has_over(caller, CapabilitySet::FSETID, &[stat]) == Some(true) {
            return Ok(None);
        }
        if !self.can_be_seen(caller) {
            return Ok(new.groups.map(<[u32]>::to_vec));
        }
        // The client tells of the group that the directory had when the client looked last.
        Ok(Some(match self.is_member(&stat, caller) {
            true => vec![stat.stx_gid],
            false => Vec::new(),
        }))
    }
}

/// Opens the file that was made with `flags` before.
fn open_made(dir: impl AsFd, name: &CStr, flags: i32) -> Result<OwnedFd> {
    let flags = flags & !(libc::O_CREAT | libc::O_EXCL) | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let flags = OFlags::from_bits_retain(flags as u32);
    rustix::fs::openat(dir, name, flags, Mode::empty()).or_errno()
}

impl NewNode<'_> {
    /// Whether its group's members would act as that group when they run it, which is where groups matter
    /// (`mode_strip_sgid`).
    fn asks_for_set_gid(&self) -> bool {
        let both = libc::S_ISGID | libc::S_IXGRP;
        self.mode & both == both
    }
}
