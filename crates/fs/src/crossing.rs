//! Mounts below SOURCE that LOOKUP does not enter, since they lead back to this one: MOUNTPOINT may lie
//! below SOURCE, and two mounts may contain each other.
//!
//! Invariant: no session thread sends a request that this daemon has to answer, by whatever other daemons
//! of thrufs it would come back. Its own mount is never entered. Another mount of thrufs is entered if it
//! was made before this one, which its number in the mount table's order tells (STATX_MNT_ID_UNIQUE,
//! Linux 6.8; before, none is). A circle of daemons, each of which enters the next one's mount, would be a
//! circle of mounts of which each is older than the one before it. Why not look where the other one
//! leads: that changes, and every daemon that knows may be the one that waits.
//!
//! Whether a mount is met is found out without a request to it: a name is opened with RESOLVE_NO_XDEV, and
//! what lies behind a mount point is opened with O_PATH and looked at with AT_STATX_DONT_SYNC.

use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

use crate::error::{Errno, IntoErrno, Result};
use crate::inode::Inode;
use crate::inode::identity::{key_of, statx};

const FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Of statx(2); rustix has no name for it.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// The mount that the kernel's requests come from.
pub struct OwnMount {
    dev: u64,
    /// None before Linux 6.8.
    mount_id: Option<u64>,
    covered: Option<Covered>,
    is_thrufs: IsThrufs,
}

/// Whether the file system with this device (as by makedev(3)) is a mount of thrufs.
pub type IsThrufs = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// The directory that the mount covers, where it lies below SOURCE.
#[derive(Debug)]
pub struct Covered {
    directory: OwnedFd,
    name: OsString,
    /// Device and inode number of the directory around it.
    parent: (u64, u64),
}

impl fmt::Debug for OwnMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnMount")
            .field("dev", &self.dev)
            .field("mount_id", &self.mount_id)
            .finish_non_exhaustive()
    }
}

impl OwnMount {
    /// The mount with this device and, where the kernel has it, this number that is never used again.
    pub fn new(
        dev: u64,
        mount_id: Option<u64>,
        covered: Option<Covered>,
        is_thrufs: IsThrufs,
    ) -> Self {
        Self {
            dev,
            mount_id,
            covered,
            is_thrufs,
        }
    }
}

impl Covered {
    /// MOUNTPOINT, if it is at `below` from SOURCE. To be called before the mount is made. None where the
    /// kernel cannot do that (Linux 5.6): then ELOOP shows.
    pub fn open(source: impl AsFd, below: &Path) -> Option<Self> {
        let flags = FLAGS | OFlags::DIRECTORY;
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let directory = rustix::fs::openat2(source, below, flags, Mode::empty(), stay).ok()?;
        Self::of_directory(directory, below)
    }

    /// The same by what [`Self::directory`] gave another process.
    pub fn of_directory(directory: OwnedFd, below: &Path) -> Option<Self> {
        let parent = rustix::fs::openat(&directory, c"..", FLAGS, Mode::empty()).ok()?;
        Some(Self {
            directory,
            name: below.file_name()?.to_owned(),
            parent: place_of(parent).ok()?,
        })
    }

    /// O_PATH on it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Device and inode number.
fn place_of(directory: impl AsFd) -> Result<(u64, u64)> {
    let key = key_of(&statx(directory)?);
    Ok((key.dev, key.ino))
}

/// Names of SOURCE, opened without entering mounts that lead back.
#[derive(Debug, Default)]
pub(crate) struct Crossing {
    own_mount: OnceLock<OwnMount>,
}

impl Crossing {
    /// The first call counts.
    pub(crate) fn set_own_mount(&self, own: OwnMount) {
        let _first = self.own_mount.set(own);
    }

    /// O_PATH on what `name` in `dir` stands for.
    ///
    /// # Errors
    /// Of openat2(2); ELOOP for a mount that leads back.
    pub(crate) fn find(&self, dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
        let stay = ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&dir, name, FLAGS, Mode::empty(), stay) {
            // The latter two: before Linux 5.6, and containers that know no openat2(2).
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                self.cross(dir, name)
            }
            found => found.or_errno(),
        }
    }

    /// EBUSY for the name of the mount point itself. A sandbox that does not see the mount there could
    /// remove it, upon which the kernel would take the mount away.
    pub(crate) fn check_not_covered(&self, parent: &Inode, name: &OsStr) -> Result<()> {
        let own = self.own_mount.get().and_then(|own| own.covered.as_ref());
        match own {
            Some(covered)
                if covered.parent == (parent.key.dev, parent.key.ino) && covered.name == name =>
            {
                Err(Errno::EBUSY)
            }
            _ => Ok(()),
        }
    }

    fn cross(&self, dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
        let found = rustix::fs::openat(&dir, name, FLAGS, Mode::empty()).or_errno()?;
        let Some(own) = self.own_mount.get() else {
            return Ok(found);
        };
        let mask = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&found, c"", flags, mask).or_errno()?;
        let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        if dev == own.dev {
            let at_covered = |covered: &&Covered| place_of(&dir) == Ok(covered.parent);
            let covered = own
                .covered
                .as_ref()
                .filter(at_covered)
                .ok_or(Errno::ELOOP)?;
            return covered.directory.try_clone().or_errno();
        }
        let unique = stat.stx_mask & STATX_MNT_ID_UNIQUE != 0;
        let is_older = unique && own.mount_id.is_some_and(|own| stat.stx_mnt_id < own);
        // A block device is no FUSE mount of thrufs.
        if stat.stx_dev_major != 0 || is_older || !(own.is_thrufs)(dev) {
            return Ok(found);
        }
        tracing::debug!(
            device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor),
            "a mount of thrufs that may lead back is not entered"
        );
        Err(Errno::ELOOP)
    }
}
