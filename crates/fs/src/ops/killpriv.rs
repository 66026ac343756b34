//! Set-uid and set-gid bits go when a caller without CAP_FSETID changes a file.
//!
//! Invariant: under FUSE_HANDLE_KILLPRIV_V2 the kernel leaves them to the file system, and they go
//! before the change is made, so that no user can execute the caller's bytes with the owner's
//! rights. security.capability needs nothing here: the backing file system removes it on every
//! write, truncate, fallocate and chown, for every caller.
//!
//! Why not let the backing file system see a thread without CAP_FSETID: that is three system calls
//! more for each WRITE of an ordinary user, is bound to one thread, and decides about set-gid by the
//! daemon's groups instead of the caller's. Here a WRITE pays one statx(2), and one of root nothing.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, Statx, StatxFlags};

use crate::caller::Caller;
use crate::caller::inspect::{has_fsetid, supplementary_groups};
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::FileKind;
use crate::passthrough::Passthrough;

const SET_UID: u32 = libc::S_ISUID;
const SET_GID: u32 = libc::S_ISGID;
const GROUP_EXEC: u32 = libc::S_IXGRP;

impl Passthrough {
    /// Before a WRITE of a caller that the kernel has found to lack CAP_FSETID.
    ///
    /// # Errors
    /// EBADF; EROFS; else the backing file system's.
    pub fn kill_suidgid(&self, ino: u64, fh: u64, caller: &Caller) -> Result<()> {
        self.check_writable()?;
        let handle = self.handle(fh, ino)?;
        self.kill(&handle.fd, caller)
    }

    /// Before FALLOCATE or COPY_FILE_RANGE into the file, which do not say what the caller lacks.
    ///
    /// # Errors
    /// As [`Passthrough::kill_suidgid`].
    pub fn kill_suidgid_unless_privileged(&self, ino: u64, fh: u64, caller: &Caller) -> Result<()> {
        if has_fsetid(caller) {
            return Ok(());
        }
        self.kill_suidgid(ino, fh, caller)
    }

    /// Removes from the regular file `fd` the bits that a write by `caller`, which lacks CAP_FSETID,
    /// removes.
    pub(crate) fn kill(&self, fd: impl AsFd, caller: &Caller) -> Result<()> {
        let stat = mode_and_owner(&fd)?;
        let mode = u32::from(stat.stx_mode);
        if mode & (SET_UID | SET_GID) == 0 || FileKind::from_mode(mode) != FileKind::Regular {
            return Ok(());
        }
        if self.loses_plain_set_gid(&stat, caller) {
            return clear(&fd, mode);
        }
        if mode & SET_UID != 0 || mode & GROUP_EXEC != 0 {
            // A chown(2) to no user and no group (-1) removes what a write would, under the inode's lock, where a
            // chmod(2) could undo another's.
            let flags = AtFlags::EMPTY_PATH;
            rustix::fs::chownat(&fd, c"", None, None, flags).or_errno()?;
        }
        Ok(())
    }

    /// What the kernel wants of a SETATTR that sets nothing: `caller` is about to write past the daemon
    /// (kernel passthrough) or has called chown(-1, -1), which only an owner may do to such a file.
    pub(crate) fn kill_if_permitted(&self, fd: impl AsFd, caller: &Caller) -> Result<()> {
        let stat = mode_and_owner(&fd)?;
        let mode = u32::from(stat.stx_mode);
        let may = caller.uid == stat.stx_uid
            || mode & libc::S_IWOTH != 0
            || mode & libc::S_IWGRP != 0 && self.is_member(&stat, caller);
        if may { self.kill(fd, caller) } else { Ok(()) }
    }

    /// Whether the caller is in the file's group.
    pub(crate) fn is_member(&self, stat: &Statx, caller: &Caller) -> bool {
        caller.gid == stat.stx_gid || self.supplementary_groups(caller).contains(&stat.stx_gid)
    }

    /// Set-gid without group execution stays for a member of the file's group alone, which the backing
    /// file system cannot judge.
    pub(crate) fn loses_plain_set_gid(&self, stat: &Statx, caller: &Caller) -> bool {
        let mode = u32::from(stat.stx_mode);
        mode & SET_GID != 0 && mode & GROUP_EXEC == 0 && !self.is_member(stat, caller)
    }

    /// Supplementary groups of the caller, as groups on SOURCE. Empty when it cannot be seen.
    pub(crate) fn supplementary_groups(&self, caller: &Caller) -> Vec<u32> {
        let ours = |gid| self.config.ids.gid.to_host(gid);
        let groups = supplementary_groups(caller.pid);
        groups.into_iter().filter_map(ours).collect()
    }
}

/// Clears both bits of the file `fd`, an O_PATH descriptor or not, that has this mode.
pub(crate) fn clear(fd: impl AsFd, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777 & !(SET_UID | SET_GID));
    let link = crate::caller::proc::link(&fd);
    match rustix::fs::chmod(link, mode).or_errno() {
        // A daemon that may not change modes has no CAP_FSETID either: its write removes them.
        Err(Errno::EPERM) => Ok(()),
        done => done,
    }
}

/// What the decision needs, of an O_PATH descriptor or any other.
pub(crate) fn mode_and_owner(fd: impl AsFd) -> Result<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID;
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted).or_errno()
}
