//! What is asked again before the server acts for a caller with more rights than the caller has.
//!
//! The kernel has checked the caller, but by attributes that it has cached, or by another file that
//! had the name. Invariant 7 holds by two means:
//! - what only an owner may do (chmod(2), utimes(2), chattr(1), ACLs, names in a sticky directory)
//!   is done with the caller's ids and without CAP_FOWNER, so that the backing file system checks it
//!   in the same step ([`Passthrough::as_owner`]);
//! - a file whose mode or owner is not all that the kernel was ever told is opened only if its mode
//!   lets the caller ([`Passthrough::check_still_open_to`]). Where more than the mode may decide,
//!   the answer is ESTALE: the VFS walks the path once more with LOOKUP_REVAL, which tells the
//!   kernel, and checks again.
//!
//! With FUSE_ALLOW_IDMAP the kernel does not tell who the caller is ([`Caller::is_told`]), nor by which mount
//! it comes, and so whom a file belongs to for it. The first means is then gone, and of the second the ESTALE is left.
//!
//! Why not do everything with the caller's rights alone: its supplementary groups would have to be
//! looked up for each request, and cannot be for a caller in another process namespace. What is left
//! to the kernel's cache is in contrib/doc/security.md ("What the kernel checks, and when").

use rustix::fs::Statx;
use rustix::thread::CapabilitySet;
use thrufs_sys::creds::{FsCreds, Power};

use crate::caller::Caller;
use crate::caller::OVERRIDE;
use crate::caller::inspect::has_over;
use crate::coherence::invalidate::InvalRange;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::{Inode, ROOT_INO};
use crate::passthrough::Passthrough;

/// Open for execve(2) (`__FMODE_EXEC` in include/linux/fs.h).
const FMODE_EXEC: i32 = 0x20;

/// How a file is about to be used, as permission bits of the last class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted(u32);

impl Wanted {
    pub(crate) const READ: Self = Self(libc::S_IROTH);
    pub(crate) const WRITE: Self = Self(libc::S_IWOTH);

    /// By the flags of OPEN.
    pub(crate) fn by_flags(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            // The kernel reads for execve(2), and has checked no right to read.
            libc::O_RDONLY if flags & FMODE_EXEC != 0 => Self(libc::S_IXOTH),
            libc::O_RDONLY => Self::READ,
            libc::O_WRONLY => Self::WRITE,
            _both => Self(libc::S_IROTH | libc::S_IWOTH),
        }
    }
}

impl Passthrough {
    /// Does `act` as `caller` without CAP_FOWNER, nor `others`. A caller that has the capability over
    /// `files` acts with it: the kernel has found that it may.
    ///
    /// A caller with uid 0 counts as having it, one that is not told was checked by the kernel alone, and a server
    /// without root acts as its one user.
    ///
    /// # Errors
    /// EPERM for one that does not own the file; else what `act` returns.
    pub(crate) fn as_owner<T>(
        &self,
        caller: &Caller,
        others: CapabilitySet,
        act: impl Fn() -> Result<T>,
        files: impl FnOnce() -> Result<Vec<Statx>>,
    ) -> Result<T> {
        if caller.uid == 0 || !caller.is_told() {
            return act();
        }
        let act_without = |capabilities| {
            let power = Power::KeepBut(capabilities);
            let _creds = FsCreds::assume(caller.uid, caller.gid, power).or_errno()?;
            act()
        };
        match act_without(others | CapabilitySet::FOWNER) {
            Err(Errno::EPERM) if self.overrules(caller, CapabilitySet::FOWNER, &files()?) => {
                act_without(others)
            }
            done => done,
        }
    }

    /// Whether `caller`, which is not root, has this capability over all of `files`. Where that cannot be
    /// told, the kernel alone could, and has. A caller that has ended meanwhile has none: it may have been
    /// killed for that.
    pub(crate) fn overrules(
        &self,
        caller: &Caller,
        capability: CapabilitySet,
        files: &[Statx],
    ) -> bool {
        self.has_over(caller, capability, files)
            .unwrap_or(!self.can_be_seen(caller))
    }

    /// Whether it is visible here what the caller has: not where ids are translated, by the server or by an
    /// idmapped mount, and not of one that is no process here (thread id 0).
    pub(crate) fn can_be_seen(&self, caller: &Caller) -> bool {
        self.config.ids.is_empty() && !self.config.idmap && caller.pid != 0
    }

    pub(crate) fn has_over(
        &self,
        caller: &Caller,
        any: CapabilitySet,
        files: &[Statx],
    ) -> Option<bool> {
        let owners = files.iter().map(|stat| (stat.stx_uid, stat.stx_gid));
        match self.can_be_seen(caller) {
            true => has_over(caller.pid, any, owners),
            false => None,
        }
    }

    /// Whether a file may be used as the kernel has found that `caller` may. `stat` looks at what was opened.
    ///
    /// # Errors
    /// EACCES when its mode or owner has changed since the kernel knows it, and does not let the caller.
    /// ESTALE where that is for the kernel to tell.
    pub(crate) fn check_still_open_to(
        &self,
        caller: &Caller,
        inode: &Inode,
        stat: impl FnOnce() -> Result<Statx>,
        wanted: Wanted,
    ) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        let stat = stat()?;
        if inode.is_known(&stat) {
            return Ok(());
        }
        match self.lets(caller, &stat, wanted) {
            Some(true) => Ok(()),
            Some(false) if self.has_over(caller, OVERRIDE, &[stat]) == Some(false) => {
                Err(Errno::EACCES)
            }
            Some(false) | None => self.check_told(inode, &stat),
        }
    }

    /// Whether the kernel can have judged by the mode and owner that the inode has.
    ///
    /// # Errors
    /// ESTALE where it was told others last, and looks again.
    pub(crate) fn check_told(&self, inode: &Inode, stat: &Statx) -> Result<()> {
        if inode.is_told(stat) {
            return Ok(());
        }
        self.invalidations.push(inode.ino, InvalRange::ATTRIBUTES);
        match inode.ino {
            // The VFS looks no name up for it, and would hand on the error.
            ROOT_INO => Ok(()),
            _named => Err(Errno::ESTALE),
        }
    }

    /// Whether the mode lets the caller, which is not root; none where an ACL may say otherwise, or the caller is
    /// not told.
    fn lets(&self, caller: &Caller, stat: &Statx, wanted: Wanted) -> Option<bool> {
        if !caller.is_told() {
            return None;
        }
        let mode = u32::from(stat.stx_mode);
        let lets = |class: u32| class & wanted.0 == wanted.0;
        let (group, other) = (lets(mode >> 3), lets(mode));
        if caller.uid == stat.stx_uid {
            Some(lets(mode >> 6))
        } else if !group && !other {
            // With an ACL the group's bits are its mask.
            Some(false)
        } else if self.serves_acl() {
            None
        } else if group == other {
            Some(true)
        } else {
            Some(self.is_member(stat, caller) == group)
        }
    }
}
