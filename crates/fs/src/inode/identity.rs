//! What identifies an inode of the backing file system: its key, and its type.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::error::{IntoErrno, Result};

/// Type of a file, from the S_IFMT bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// S_IFREG
    Regular,
    /// S_IFDIR
    Directory,
    /// S_IFLNK
    Symlink,
    /// S_IFIFO
    Fifo,
    /// S_IFSOCK
    Socket,
    /// S_IFCHR
    CharDevice,
    /// S_IFBLK
    BlockDevice,
}

impl FileKind {
    /// The kind that these mode bits say. An unknown type counts as a regular file, as fuser has
    /// no word for it; Linux has none beyond these seven.
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _regular => Self::Regular,
        }
    }
}

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

impl InodeKey {
    /// The device and the number, as [`file_of`] has them.
    pub(crate) fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// statx(2) of the inode behind `fd` itself, O_PATH or not.
pub(crate) fn statx(fd: impl AsFd) -> Result<Statx> {
    statx_with(fd, StatxFlags::empty())
}

/// The same, with these fields as well where the file system has them.
pub(crate) fn statx_with(fd: impl AsFd, fields: StatxFlags) -> Result<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | fields;
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, c"", flags, mask).or_errno()
}

/// The identity that `stat` gives an inode.
pub(crate) fn key_of(stat: &Statx) -> InodeKey {
    InodeKey {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        mnt_id: stat.stx_mnt_id,
    }
}

/// What `fd` is on.
pub(crate) fn identity(fd: &OwnedFd) -> Result<(InodeKey, FileKind)> {
    let stat = statx(fd)?;
    Ok((key_of(&stat), FileKind::from_mode(u32::from(stat.stx_mode))))
}

/// The device and the number of the file behind `fd`.
///
/// # Errors
/// Of fstat(2).
pub(crate) fn file_of(fd: impl AsFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).or_errno()?;
    Ok((stat.st_dev, stat.st_ino))
}
