//! GETATTR, SETATTR and ACCESS.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, AtFlags, Mode, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::thread::CapabilitySet;
use thrufs_sys::creds::{FsCreds, Power};

use crate::attr::Attr;
use crate::caller::Caller;
use crate::coherence::external::{Sets, Time};
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{FileKind, statx_with};
use crate::inode::{Inode, ROOT_INO};
use crate::ops::killpriv;
use crate::ops::rights::Wanted;
use crate::passthrough::Passthrough;

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// To the backing file system's now.
    Now,
    /// To this.
    At(SystemTime),
}

/// What SETATTR is to change; nothing where it is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
    /// The open file that the change is made through, if any.
    pub fh: Option<u64>,
    /// Who makes it, if that is not the daemon itself: without CAP_FSETID it may cost the file its
    /// set-uid and set-gid bits.
    pub caller: Option<Caller>,
    /// Whether a new size does (FATTR_KILL_SUIDGID); none where the transport does not say.
    pub kills_suidgid: Option<bool>,
}

impl SetAttr {
    fn is_empty(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }

    /// Whether this is a utimes(2) that only the owner may do. Setting the current time is for each
    /// that may write; and times that come with a size or an open file are the kernel's own.
    fn owner_sets_times(&self, writeback: bool) -> bool {
        let is_given = |time: Option<SetTime>| matches!(time, Some(SetTime::At(_)));
        let is_callers = self.size.is_none() && self.fh.is_none();
        // With its write-back cache the kernel keeps the time of modification, and sends it from fsync(2)
        // by anyone (fuse_flush_times).
        let is_flush = writeback && self.atime.is_none();
        is_callers && !is_flush && (is_given(self.atime) || is_given(self.mtime))
    }
}

impl Passthrough {
    /// Attributes of `ino`, through the open file `fh` if there is one.
    ///
    /// # Errors
    /// ESTALE when the inode is gone; EBADF for a handle of another inode.
    pub fn getattr(&self, ino: u64, fh: Option<u64>) -> Result<Attr> {
        self.getattr_with(ino, fh, StatxFlags::empty())
    }

    /// As [`Passthrough::getattr`], with the time of birth where the backing file system has one: `stx_mask` of
    /// the answer says so.
    ///
    /// # Errors
    /// As there.
    pub fn statx(&self, ino: u64, fh: Option<u64>) -> Result<Attr> {
        self.getattr_with(ino, fh, StatxFlags::BTIME)
    }

    fn getattr_with(&self, ino: u64, fh: Option<u64>, fields: StatxFlags) -> Result<Attr> {
        let inode = self.inode(ino)?;
        match fh {
            Some(fh) => self.look_at_with(&inode, &self.handle(fh, ino)?.fd, fields),
            None => self.look_at_with(&inode, self.path_fd(&inode)?, fields),
        }
    }

    /// Attributes of `inode`, which is behind `fd`, to be told to the kernel.
    pub(crate) fn look_at(&self, inode: &Inode, fd: impl AsFd) -> Result<Attr> {
        self.look_at_with(inode, fd, StatxFlags::empty())
    }

    fn look_at_with(&self, inode: &Inode, fd: impl AsFd, fields: StatxFlags) -> Result<Attr> {
        let (asked, watch) = (Time::now(), self.watches.get(inode.ino));
        let stat = statx_with(fd, fields)?;
        self.inodes.tell(inode, &stat);
        let external = watch.and_then(|watch| watch.judge(asked, &stat));
        // The root's nodeid is fixed by the protocol, but what it reports is its own.
        let ino = match inode.ino {
            ROOT_INO => stat.stx_ino,
            ino => ino,
        };
        Ok(Attr {
            ino,
            stat,
            external,
            is_volatile: inode.sort.may_be_mapped(),
        })
    }

    /// Changes attributes and returns them as they are then.
    ///
    /// # Errors
    /// EROFS on a read-only mount; else the backing file system's.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let done = match self.watches.get(ino) {
            Some(watch) => {
                let (_change, external) = watch.begin(self.path_fd(&inode)?, Sets::Any);
                self.invalidate_file(ino, external);
                self.set_attributes(&inode, set)
            }
            None => self.set_attributes(&inode, set),
        };
        done?;
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            self.inodes.tell_anew(&inode);
        }
        self.getattr(ino, set.fh)
    }

    fn set_attributes(&self, inode: &Inode, set: &SetAttr) -> Result<()> {
        if let Some(mode) = set.mode {
            self.set_mode(inode, mode, set)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.set_owner(inode, set)?;
        }
        if let Some(caller) = &set.caller {
            if set.size.is_some() {
                self.kill_at_new_size(inode, caller, set.kills_suidgid)?;
            } else if set.is_empty() {
                self.kill_if_permitted(self.path_fd(inode)?, caller)?;
            }
        }
        if let Some(size) = set.size {
            self.with_space(|| self.set_size(inode, size, set))?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            let fd = self.path_fd(inode)?;
            let (dir, name) = self.proc_path(fd.as_fd());
            let set_times =
                || rustix::fs::utimensat(dir, &name, &times, AtFlags::empty()).or_errno();
            match set.owner_sets_times(self.config.writeback) {
                true => self.as_owner_of(&fd, set, set_times)?,
                false => set_times()?,
            }
        }
        Ok(())
    }

    /// As FATTR_KILL_SUIDGID says; without it (fuser) the file is looked at, and if it matters the caller.
    fn kill_at_new_size(&self, inode: &Inode, caller: &Caller, kills: Option<bool>) -> Result<()> {
        match kills {
            Some(false) => Ok(()),
            Some(true) => self.kill_of(self.path_fd(inode)?, caller),
            None => self.kill_unless_privileged(self.path_fd(inode)?, caller),
        }
    }

    /// Does `act`, which only an owner of the file `fd` may do, as the caller.
    fn as_owner_of(
        &self,
        fd: impl AsFd,
        set: &SetAttr,
        act: impl Fn() -> Result<()>,
    ) -> Result<()> {
        match &set.caller {
            Some(caller) => self.as_owner(caller, CapabilitySet::empty(), act, || {
                Ok(vec![killpriv::mode_and_owner(fd)?])
            }),
            None => act(),
        }
    }

    /// chown(2). The backing file system removes set-uid and, but for one case, set-gid.
    fn set_owner(&self, inode: &Inode, set: &SetAttr) -> Result<()> {
        // To chown(2) it means: as it is.
        if set.uid == Some(u32::MAX) || set.gid == Some(u32::MAX) {
            return Err(Errno::EINVAL);
        }
        let uid = set.uid.map(rustix::fs::Uid::from_raw);
        let gid = set.gid.map(rustix::fs::Gid::from_raw);
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let fd = self.path_fd(inode)?;
        let before = killpriv::mode_and_owner(&fd)?;
        // chown(2) by the caller's ids would need its groups as well.
        if let Some(caller) = &set.caller
            && caller.uid != 0
            && caller.is_told()
            && caller.uid != before.stx_uid
            && !self.overrules(caller, CapabilitySet::CHOWN, &[before])
        {
            return Err(Errno::EPERM);
        }
        rustix::fs::chownat(&fd, c"", uid, gid, flags).or_errno()?;
        match &set.caller {
            Some(caller) => self.kill_after_chown(&fd, &before, caller),
            None => Ok(()),
        }
    }

    fn set_mode(&self, inode: &Inode, mode: u32, set: &SetAttr) -> Result<()> {
        if inode.kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let fd = self.path_fd(inode)?;
        let (dir, name) = self.proc_path(fd.as_fd());
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.as_owner_of(&fd, set, || {
            rustix::fs::chmodat(dir, &name, mode, AtFlags::empty()).or_errno()
        })
    }

    fn set_size(&self, inode: &Inode, size: u64, set: &SetAttr) -> Result<()> {
        match inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _other => return Err(Errno::EINVAL),
        }
        if let Some(fh) = set.fh {
            let handle = self.handle(fh, inode.ino)?;
            match self.backing.truncate(handle.fd.as_fd(), size) {
                // Opened for reading only: the kernel has checked the right to truncate.
                Err(Errno::EINVAL | Errno::EBADF) => {}
                done => return done,
            }
        }
        let fd = self.open_inode(inode, libc::O_WRONLY | libc::O_NONBLOCK)?;
        if let (Some(caller), None) = (&set.caller, set.fh) {
            let stat = || killpriv::mode_and_owner(&fd);
            self.check_still_open_to(caller, inode, stat, Wanted::WRITE)?;
        }
        self.backing.truncate(fd.as_fd(), size)
    }

    /// Whether `caller` may do what `mask` (R_OK, W_OK, X_OK) says. The kernel asks only where it
    /// does not check permissions itself, which a mount of thrufs always has it do.
    ///
    /// # Errors
    /// EACCES; EROFS for writing on a read-only mount.
    pub fn access(&self, ino: u64, mask: u32, caller: &Caller) -> Result<()> {
        let inode = self.inode(ino)?;
        let mask = Access::from_bits_truncate(mask);
        if mask.contains(Access::WRITE_OK) {
            self.check_writable()?;
        }
        let fd = self.path_fd(&inode)?;
        let (dir, name) = self.proc_path(fd.as_fd());
        let _caller = FsCreds::assume(caller.uid, caller.gid, Power::Drop).or_errno()?;
        rustix::fs::accessat(dir, name, mask, AtFlags::EACCESS).or_errno()
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(SetTime::At(at)) => match at.duration_since(UNIX_EPOCH) {
            Ok(after) => Timespec {
                tv_sec: seconds(after),
                tv_nsec: nanoseconds(after),
            },
            Err(before) => {
                let before = before.duration();
                let (secs, nanos) = (seconds(before), nanoseconds(before));
                if nanos == 0 {
                    Timespec {
                        tv_sec: -secs,
                        tv_nsec: 0,
                    }
                } else {
                    Timespec {
                        tv_sec: -secs - 1,
                        tv_nsec: 1_000_000_000 - nanos,
                    }
                }
            }
        },
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn nanoseconds(time: Duration) -> i64 {
    i64::from(time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timespec_of_half_a_second_before_1970_counts_forward() {
        let at = UNIX_EPOCH - Duration::from_millis(1_500);
        let spec = timespec(Some(SetTime::At(at)));
        assert_eq!((spec.tv_sec, spec.tv_nsec), (-2, 500_000_000));
    }

    #[test]
    fn timespec_of_nothing_omits() {
        assert_eq!(timespec(None).tv_nsec, UTIME_OMIT);
    }
}
