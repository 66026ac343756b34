//! One inode that the kernel knows, and how it is held: never by a path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::Statx;
use thrufs_sys::file_handle::FileHandle;

use crate::attr::FileKind;
use crate::error::{IntoErrno, Result};
use crate::mount_fd::MountFd;

/// Nodeid of the root of the mount (FUSE_ROOT_ID).
pub const ROOT_INO: u64 = 1;

/// What makes two inodes the same: they may be reached by many names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InodeKey {
    /// Device of the backing file system.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// Mount it was reached through: one device may be mounted twice below SOURCE, and a handle
    /// must be opened through the right one.
    pub mnt_id: u64,
}

/// What keeps hold of an inode.
#[derive(Debug)]
pub(crate) enum Held {
    /// An O_PATH descriptor: keeps the inode itself alive, costs a descriptor.
    Fd(OwnedFd),
    /// A file handle: costs memory only; the inode may be gone when it is opened (ESTALE).
    Handle {
        mount: Arc<MountFd>,
        fid: FileHandle,
    },
}

impl Held {
    /// Whether `other`, which has the same [`InodeKey`], is another inode that was given the
    /// number again. A descriptor keeps the number from being given away.
    pub(crate) fn is_successor(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Handle { fid: old, .. }, Self::Handle { fid: new, .. }) => old != new,
            (Self::Fd(_), _) | (_, Self::Fd(_)) => false,
        }
    }
}

/// An inode in the table. Immutable, apart from the kernel's count of lookups.
#[derive(Debug)]
pub(crate) struct Inode {
    /// Nodeid, and st_ino as the client sees it (fuser ties the two).
    pub(crate) ino: u64,
    pub(crate) key: InodeKey,
    pub(crate) kind: FileKind,
    /// Tells apart two inodes that had this `ino` one after the other.
    pub(crate) generation: u64,
    pub(crate) held: Held,
    /// Lookups that the kernel has not yet forgotten. Changed under the table's lock only: raised
    /// under the read lock, lowered (and the inode removed at 0) under the write lock.
    pub(crate) nlookup: AtomicU64,
    /// A READ has been served whose bytes the kernel may have cached.
    pub(crate) is_read: AtomicBool,
    /// What the kernel was told last of mode and owner.
    pub(crate) told: Told,
}

/// A digest of the mode and the owner that a reply had; 0 for none.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    fn digest(stat: &Statx) -> u64 {
        let owner = u64::from(stat.stx_uid) << 32 | u64::from(stat.stx_gid);
        // The finalizer of SplitMix64, so that no two owners differ in a mode's bits alone.
        let mut x = owner.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31) ^ u64::from(stat.stx_mode)
    }
}

/// An O_PATH descriptor on an inode, for as long as an operation needs it.
#[derive(Debug)]
pub(crate) enum PathFd<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl AsFd for PathFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

impl Inode {
    /// The kernel is told these attributes now.
    pub(crate) fn tell(&self, stat: &Statx) {
        self.told.0.store(Told::digest(stat), Ordering::Relaxed);
    }

    /// Whether mode and owner are what the kernel was told last.
    pub(crate) fn is_told(&self, stat: &Statx) -> bool {
        self.told.0.load(Ordering::Relaxed) == Told::digest(stat)
    }

    /// An O_PATH descriptor on this inode.
    pub(crate) fn path_fd(&self) -> Result<PathFd<'_>> {
        match &self.held {
            Held::Fd(fd) => Ok(PathFd::Borrowed(fd.as_fd())),
            Held::Handle { mount, fid } => fid
                .open(mount.as_fd(), libc::O_PATH)
                .or_errno()
                .map(PathFd::Owned),
        }
    }
}
