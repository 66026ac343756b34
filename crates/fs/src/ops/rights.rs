//! What is asked again before the server acts for a caller with more rights than the caller has.
//!
//! The kernel has checked the caller, but by attributes that it has cached, or by another file that
//! had the name. Invariant 7 holds by two means:
//! - what only an owner may do (chmod(2), utimes(2), chattr(1), ACLs, names in a sticky directory)
//!   is done with the caller's ids and without CAP_FOWNER, so that the backing file system checks it
//!   in the same step ([`Passthrough::as_owner`]);
//! - a file whose mode or owner is not what the kernel was told last is opened only if its new mode
//!   lets the caller ([`Passthrough::check_still_open_to`]). Where more than the mode may decide,
//!   the answer is ESTALE: the VFS walks the path once more with LOOKUP_REVAL, which tells the
//!   kernel, and checks again.
//!
//! Why not do everything with the caller's rights alone: its supplementary groups would have to be
//! looked up for each request, and are not to be had for a caller in another process namespace. What
//! is left to the kernel's cache is in the README ("What the kernel checks, and when").

use std::os::fd::AsFd;

use rustix::fs::Statx;
use rustix::thread::CapabilitySet;
use thrufs_sys::creds::{FsCreds, Power};

use crate::caller::Caller;
use crate::caller::inspect::{has_over, lacks};
use crate::coherence::invalidate::Stale;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::Inode;
use crate::ops::killpriv::mode_and_owner;
use crate::passthrough::Passthrough;

/// The capabilities that open a file against its mode.
const OVERRIDE: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

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
    /// A caller with uid 0 counts as having it, and a server without root acts as its one user.
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
        if caller.uid == 0 {
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

    /// Whether `caller`, which is not root, has this capability over all of `files`. Where ids are
    /// translated, and of a caller that no process here can be (thread id 0), the kernel alone can
    /// tell, and has. One that has ended meanwhile has none: it may have been killed for that.
    pub(crate) fn overrules(
        &self,
        caller: &Caller,
        capability: CapabilitySet,
        files: &[Statx],
    ) -> bool {
        let ids = &self.config.ids;
        let owners = files.iter().map(|stat| (stat.stx_uid, stat.stx_gid));
        !ids.is_empty() || caller.pid == 0 || has_over(caller.pid, capability, owners)
    }

    /// Whether the file behind `fd` may be used as the kernel has found that `caller` may.
    ///
    /// # Errors
    /// EACCES when its mode or owner has changed since the kernel was told, and does not let the caller.
    /// ESTALE where that is for the kernel to tell.
    pub(crate) fn check_still_open_to(
        &self,
        caller: &Caller,
        inode: &Inode,
        fd: impl AsFd,
        wanted: Wanted,
    ) -> Result<()> {
        let stat = mode_and_owner(fd)?;
        if caller.uid == 0 || inode.is_told(&stat) {
            return Ok(());
        }
        let mode = u32::from(stat.stx_mode);
        let class = if caller.uid == stat.stx_uid {
            Some(mode >> 6)
        } else if self.serves_acl() {
            None
        } else if self.is_member(&stat, caller) {
            Some(mode >> 3)
        } else {
            Some(mode)
        };
        match class {
            Some(class) if class & wanted.0 == wanted.0 => Ok(()),
            Some(_) if self.config.ids.is_empty() && lacks(caller.pid, OVERRIDE) => {
                Err(Errno::EACCES)
            }
            Some(_) | None => {
                // Where there is no name to look up, the kernel asks at the next try.
                self.invalidations.push(inode.ino, Stale::ATTRIBUTES);
                Err(Errno::ESTALE)
            }
        }
    }
}
