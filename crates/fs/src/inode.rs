//! One inode that the kernel knows, and how it is held: never by a path.

pub(crate) mod identity;
pub(crate) mod limit;
pub(crate) mod mount_fd;
pub(crate) mod table;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use thrufs_sys::file_handle::FileHandle;

use crate::error::{IntoErrno, Result};
use identity::{FileKind, InodeKey};
use mount_fd::MountFd;

/// Nodeid of the root of the mount (FUSE_ROOT_ID).
pub const ROOT_INO: u64 = 1;

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
