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
//!
//! What a caller has (CAP_FSETID, groups) is asked of another process, which costs more than the change
//! itself: only about a file that has one of the bits, after the statx(2) that shows it.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, Statx, StatxFlags};

use crate::caller::Caller;
use crate::caller::inspect::{has_fsetid, ids, supplementary_groups};
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
        self.kill_of(&handle.fd, caller)
    }

    /// The same, of the file `fd`.
    pub(crate) fn kill_of(&self, fd: impl AsFd, caller: &Caller) -> Result<()> {
        self.kill_if(fd, caller, |_| true)
    }

    /// Before FALLOCATE or COPY_FILE_RANGE into the file, which do not say what the caller lacks.
    ///
    /// # Errors
    /// As [`Passthrough::kill_suidgid`].
    pub fn kill_suidgid_unless_privileged(&self, ino: u64, fh: u64, caller: &Caller) -> Result<()> {
        self.check_writable()?;
        let handle = self.handle(fh, ino)?;
        self.kill_unless_privileged(&handle.fd, caller)
    }

    /// Removes from the regular file `fd` the bits that a write by `caller` removes.
    pub(crate) fn kill_unless_privileged(&self, fd: impl AsFd, caller: &Caller) -> Result<()> {
        self.kill_if(fd, caller, |_| !has_fsetid(caller))
    }

    /// Removes from the regular file `fd` the bits that a write by `caller`, which lacks CAP_FSETID,
    /// removes; `is_due` is asked about a file that has one of them.
    fn kill_if(
        &self,
        fd: impl AsFd,
        caller: &Caller,
        is_due: impl FnOnce(&Statx) -> bool,
    ) -> Result<()> {
        let stat = mode_and_owner(&fd)?;
        let mode = u32::from(stat.stx_mode);
        if mode & (SET_UID | SET_GID) == 0
            || FileKind::from_mode(mode) != FileKind::Regular
            || !is_due(&stat)
        {
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
    /// (kernel passthrough) or has called chown(-1, -1), which only an owner may do to such a file. Which group
    /// a caller that is not told is in depends on the mount that it comes by: one that a group may write to loses the
    /// bits then.
    pub(crate) fn kill_if_permitted(&self, fd: impl AsFd, caller: &Caller) -> Result<()> {
        self.kill_if(fd, caller, |stat| {
            let mode = u32::from(stat.stx_mode);
            let may = fs_ids(caller).0 == stat.stx_uid
                || mode & libc::S_IWOTH != 0
                || mode & libc::S_IWGRP != 0 && (!caller.is_told() || self.is_member(stat, caller));
            may && !has_fsetid(caller)
        })
    }

    /// Whether the caller is in the file's group.
    pub(crate) fn is_member(&self, stat: &Statx, caller: &Caller) -> bool {
        let group = stat.stx_gid;
        fs_ids(caller).1 == group || self.supplementary_groups(caller).contains(&group)
    }

    /// Clears the set-gid bit of the file `fd`, and no other.
    pub(crate) fn clear_set_gid(&self, fd: impl AsFd) -> Result<()> {
        let mode = u32::from(mode_and_owner(&fd)?.stx_mode);
        match mode & SET_GID {
            0 => Ok(()),
            _set => set_mode(fd, mode & !SET_GID),
        }
    }

    /// Set-gid without group execution stays for a member of the file's group alone, which the backing
    /// file system cannot judge.
    fn loses_plain_set_gid(&self, stat: &Statx, caller: &Caller) -> bool {
        has_plain_set_gid(stat) && !self.is_member(stat, caller)
    }

    /// After a chown(2) by `caller` of the file `fd`, which was as `before`: the backing file system has
    /// removed the other bits.
    pub(crate) fn kill_after_chown(
        &self,
        fd: impl AsFd,
        before: &Statx,
        caller: &Caller,
    ) -> Result<()> {
        let mode = u32::from(before.stx_mode);
        match FileKind::from_mode(mode) != FileKind::Directory
            && has_plain_set_gid(before)
            && !has_fsetid(caller)
            && !self.is_member(before, caller)
        {
            true => clear(fd, mode),
            false => Ok(()),
        }
    }

    /// Supplementary groups of the caller, as groups on SOURCE. Empty when it cannot be seen.
    pub(crate) fn supplementary_groups(&self, caller: &Caller) -> Vec<u32> {
        let ours = |gid| self.config.ids.gid.to_host(gid);
        let groups = supplementary_groups(caller.pid);
        groups.into_iter().filter_map(ours).collect()
    }
}

/// The caller's uid and gid. Where the kernel does not tell them, those outside of idmapped mounts, or none of
/// any file's.
fn fs_ids(caller: &Caller) -> (u32, u32) {
    match caller.is_told() {
        true => (caller.uid, caller.gid),
        false => ids(caller.pid).unwrap_or((u32::MAX, u32::MAX)),
    }
}

fn has_plain_set_gid(stat: &Statx) -> bool {
    let mode = u32::from(stat.stx_mode);
    mode & SET_GID != 0 && mode & GROUP_EXEC == 0
}

/// Clears both bits of the file `fd`, an O_PATH descriptor or not, that has this mode.
fn clear(fd: impl AsFd, mode: u32) -> Result<()> {
    set_mode(fd, mode & !(SET_UID | SET_GID))
}

fn set_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
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
