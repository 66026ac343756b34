//! OPEN, OPENDIR, RELEASE, RELEASEDIR, FLUSH, FSYNC and FSYNCDIR.

use std::cell::LazyCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backing::NamedCall;
use crate::caller::Caller;
use crate::coherence::external::{ChangeTracker, Time};
use crate::coherence::open_files::Seen;
use crate::config::{CachePolicy, Durability, Locks, WriteJoining};
use crate::error::{Errno, IntoErrno, Result};
use crate::handle_table::{Handle, HandleKind, OpenFile};
use crate::inode::Inode;
use crate::inode::identity::{InodeKey, statx};
use crate::ops::killpriv::mode_and_owner;
use crate::ops::rights::Wanted;
use crate::passthrough::Passthrough;
use crate::write_batch::WriteGroup;

/// An open file or directory, and what the kernel may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Number of the handle.
    pub fh: u64,
    /// Data goes past the page cache (FOPEN_DIRECT_IO).
    pub direct_io: bool,
    /// What the kernel has cached stays valid (FOPEN_KEEP_CACHE).
    pub keep_cache: bool,
    /// The backing file by which the kernel reads, writes and maps the file past the daemon
    /// (FOPEN_PASSTHROUGH). With `direct_io` it only maps it.
    pub backing_id: Option<i32>,
    /// Nothing waits for a FLUSH at close(2) (FOPEN_NOFLUSH).
    pub no_flush: bool,
}

impl Opened {
    /// Whether the file, which was opened with `flags`, can be stored to through a mapping of which the daemon
    /// is told nothing.
    pub(crate) fn is_mappable(&self, flags: i32) -> bool {
        self.backing_id.is_some() && flags & libc::O_ACCMODE == libc::O_RDWR
    }
}

/// Whether the kernel may have attributes of a file that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existed {
    /// OPEN.
    Before,
    /// CREATE.
    NotBefore,
}

/// Flags of open(2) that mean something to the backing file.
///
/// Not O_APPEND: the kernel may write pages that were changed through a mapping by any handle, at
/// their own offset; WRITE says which writes append. Not O_TRUNC: the kernel sends SETATTR. Not
/// O_NOFOLLOW: what is opened is an inode.
const KEPT_FLAGS: i32 =
    libc::O_ACCMODE | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME | libc::O_LARGEFILE;

impl Passthrough {
    /// Opens a regular file.
    ///
    /// # Errors
    /// EROFS for writing on a read-only mount; EACCES and ESTALE as
    /// [`Passthrough::check_still_open_to`]; else the backing file system's.
    pub fn open(&self, ino: u64, flags: i32, caller: &Caller) -> Result<Opened> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.check_writable()?;
        }
        self.check_room()?;
        let inode = self.inode(ino)?;
        let wanted = self.backing_flags(flags) | libc::O_NONBLOCK;
        let file = match self.open_inode(&inode, wanted) {
            // O_NOATIME is for owners; the client's kernel has checked that it was one.
            Err(Errno::EPERM) if wanted & libc::O_NOATIME != 0 => {
                self.open_inode(&inode, wanted & !libc::O_NOATIME)?
            }
            // An append-only inode (chattr +a) opens no other way, and then WRITE only appends.
            Err(Errno::EPERM) if flags & libc::O_APPEND != 0 => {
                self.open_inode(&inode, wanted | libc::O_APPEND)?
            }
            opened => opened?,
        };
        let seen = self.see(&file);
        // Once for both purposes.
        let stat = || seen.map_or_else(|| mode_and_owner(&file), |seen| Ok(seen.stat));
        self.check_still_open_to(caller, &inode, stat, Wanted::by_flags(flags))?;
        self.opened((ino, Existed::Before), file, flags, seen)
    }

    /// The flags for the backing file of a file that a client opens with `flags`.
    pub(crate) fn backing_flags(&self, flags: i32) -> i32 {
        let direct = if self.config.allow_direct_io {
            libc::O_DIRECT
        } else {
            0
        };
        let kept = flags & (KEPT_FLAGS | direct);
        // A page that is written in part is read first, by way of any handle.
        if self.config.writeback && kept & libc::O_ACCMODE == libc::O_WRONLY {
            return kept & !libc::O_ACCMODE | libc::O_RDWR;
        }
        kept
    }

    /// Takes in a file that was just opened, and was `seen` since.
    ///
    /// # Errors
    /// Those of a registration with the kernel that must succeed.
    pub(crate) fn opened(
        &self,
        (ino, existed): (u64, Existed),
        file: OwnedFd,
        flags: i32,
        seen: Option<Seen>,
    ) -> Result<Opened> {
        let inode = self.inodes.get(ino);
        let backing_id = match &inode {
            Some(inode) => self.pass_through(inode, existed, (&file, flags), seen)?,
            None => None,
        };
        // What others change shows at once in what is passed through.
        let is_watched = backing_id.is_none() && self.config.watch_period().is_some();
        let watched = seen.filter(|_| is_watched);
        let entered = watched.map(|seen| self.watches.enter(ino, &seen));
        let keep_cache = match self.config.cache {
            CachePolicy::Always => true,
            CachePolicy::Auto => entered.as_ref().is_some_and(|entered| entered.keep),
            CachePolicy::Never | CachePolicy::Metadata => false,
        };
        let (watch, external) = match entered {
            Some(entered) => (Some(entered.watch), entered.external),
            None => (None, None),
        };
        let key = inode.as_ref().map(|inode| inode.key);
        let mut open = self.open_file((ino, inode), &file, flags, watch);
        open.is_new = existed == Existed::NotBefore && self.backing_ids.is_on();
        let handle = Handle {
            ino,
            fd: file,
            kind: HandleKind::File(open),
            flags,
            backing_id,
            is_kept: AtomicBool::new(false),
        };
        let fh = self.keep_open(handle, key);
        self.invalidate_file(ino, external);
        Ok(Opened {
            fh,
            // The kernel keeps the flags of OPEN for what it passes through, so fcntl(2) would clear none.
            direct_io: self.config.cache.is_direct()
                || backing_id.is_some() && flags & libc::O_APPEND != 0,
            keep_cache,
            backing_id,
            no_flush: self.needs_no_flush(flags, backing_id.is_some()),
        })
    }

    /// What a WRITE by a handle on `file`, which was opened with `flags`, has to know.
    pub(crate) fn open_file(
        &self,
        (ino, inode): (u64, Option<Arc<Inode>>),
        file: &OwnedFd,
        flags: i32,
        watch: Option<Arc<ChangeTracker>>,
    ) -> OpenFile {
        OpenFile {
            direct: self.backing_flags(flags) & libc::O_DIRECT != 0,
            // O_SYNC has the bit of O_DSYNC as well.
            syncs_metadata: flags & libc::O_SYNC == libc::O_SYNC,
            group: self.write_group(ino, file, flags),
            watch,
            inode,
            is_new: false,
        }
    }

    /// Takes the handle in, for the answer that gives its number out.
    fn keep_open(&self, handle: Handle, inode: Option<InodeKey>) -> u64 {
        let fh = self.handles.insert(handle, inode, |fh| {
            if let Some(journal) = &self.journal {
                journal.opened(fh);
            }
        });
        self.backing.named(NamedCall::Open);
        fh
    }

    /// Whether close(2) of a file opened with `flags` has nothing to tell. A file that is open for reading and
    /// writing may have been mapped and stored to, and before FLUSH the kernel sends what was; one that is open
    /// for reading or for writing alone has no such mapping, nor has one that is passed through. A file that was
    /// written may have an error to report, unless SOURCE's file system reports none at close(2). With locks on
    /// SOURCE the close drops the POSIX locks of its owner.
    fn needs_no_flush(&self, flags: i32, is_passed_through: bool) -> bool {
        let tells_nothing = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => true,
            libc::O_WRONLY => self.closes_silently,
            _mappable => self.closes_silently && is_passed_through,
        };
        tells_nothing
            && match self.config.locks {
                Locks::Local => true,
                Locks::Host => false,
            }
    }

    /// Looks at a file that was just opened, where its external changes are told from then on. One that
    /// cannot be looked at has none: the kernel drops what it cached, as at each OPEN without.
    fn see(&self, file: &OwnedFd) -> Option<Seen> {
        self.config.watch_period()?;
        let asked = Time::now();
        let stat = statx(file).ok()?;
        Some(Seen { asked, stat })
    }

    /// Those that WRITEs by a new handle are joined with, if any.
    fn write_group(&self, ino: u64, file: &OwnedFd, flags: i32) -> Option<Arc<WriteGroup>> {
        let durable = self.config.durability == Durability::Dsync;
        let joins = match self.config.write_joining {
            WriteJoining::Never => false,
            WriteJoining::Auto => durable,
            WriteJoining::Always => true,
        };
        // Errors of direct writes are not the page cache's to report once: nothing is gained by
        // order, and the backing file system may do several at a time.
        let direct = self.backing_flags(flags) & libc::O_DIRECT != 0;
        if !joins || direct || flags & libc::O_ACCMODE == libc::O_RDONLY {
            return None;
        }
        // Without a descriptor of the group's own, what a handle writes has to be what any writes.
        if !durable && flags & (libc::O_APPEND | libc::O_DSYNC) != 0 {
            return None;
        }
        let always = self.config.write_joining == WriteJoining::Always;
        let entered = self.write_groups.enter(ino, || match durable {
            true => WriteGroup::durable(file.as_fd(), &self.proc_self_fd, always),
            false => Ok(WriteGroup::cached()),
        });
        entered
            .inspect_err(|error| {
                // An append-only inode; a file of 0444 that a user is making.
                tracing::debug!(inode = %self.identify(ino), %error, "not opened once more: its WRITEs are not joined");
            })
            .ok()
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// EACCES and ESTALE as [`Passthrough::check_still_open_to`]; else the backing file system's.
    pub fn opendir(&self, ino: u64, caller: &Caller) -> Result<Opened> {
        if self.lists_without_opendir() {
            return Err(Errno::ENOSYS);
        }
        self.check_room()?;
        let inode = self.inode(ino)?;
        let fd = self.open_inode(&inode, libc::O_RDONLY | libc::O_DIRECTORY)?;
        self.check_still_open_to(caller, &inode, || mode_and_owner(&fd), Wanted::READ)?;
        let fh = self.keep_open(Handle::of_directory(ino, fd), Some(inode.key));
        Ok(Opened {
            fh,
            direct_io: false,
            keep_cache: self.caches_directories(),
            backing_id: None,
            no_flush: false,
        })
    }

    /// Closes a handle, with the locks that were taken through it.
    pub fn release(&self, ino: u64, fh: u64) {
        self.locks.release_handle(fh);
        let Some(handle) = self.handles.remove(fh) else {
            tracing::debug!(inode = %self.identify(ino), fh, "RELEASE of a handle that is not open");
            return;
        };
        if handle.file().is_some_and(|file| file.group.is_some()) {
            self.write_groups.release(handle.ino);
        }
        if handle.file().is_some_and(|file| file.watch.is_some()) {
            self.watches.release(handle.ino);
        }
        self.removed.released(handle.ino);
        if let Some(file) = handle.file() {
            self.release_file(&handle, file);
        }
        drop(handle);
        self.parked.notify();
    }

    /// What is known of a file by its handle, before that is closed.
    fn release_file(&self, handle: &Handle, file: &OpenFile) {
        // Once, for whichever asks.
        let stat = LazyCell::new(|| rustix::fs::fstat(&handle.fd).ok());
        if file.is_new
            && let Some(stat) = &*stat
        {
            self.new_files
                .note(u64::try_from(stat.st_size).unwrap_or(0));
        }
        if let Some(inode) = &file.inode {
            let has_name = || stat.as_ref().is_some_and(|stat| stat.st_nlink > 0);
            self.backing_ids.release(inode, has_name);
        }
    }

    /// One of the descriptors on this handle was closed: reports what the backing file system
    /// reports at close(2), and drops the owner's POSIX locks.
    ///
    /// # Errors
    /// The backing file system's: EIO, ENOSPC, EDQUOT.
    pub fn flush(&self, ino: u64, fh: u64, owner: u64) -> Result<()> {
        let handle = self.handle(fh, ino)?;
        self.locks.release_owner(ino, owner);
        let duplicate = handle.fd.try_clone().or_errno()?;
        nix::unistd::close(duplicate)
    }

    /// Brings a file or directory to stable storage; only data and size if `datasync`.
    ///
    /// # Errors
    /// The backing file system's.
    pub fn fsync(&self, ino: u64, fh: u64, datasync: bool) -> Result<()> {
        let handle = self.handle_or_directory(fh, ino)?;
        self.sync_once(&handle, || self.backing.sync(handle.fd.as_fd(), datasync))
    }
}
