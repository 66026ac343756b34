//! Attributes of an inode, as statx(2) gives them, with the number under which the client sees it.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::error::{IntoErrno, Result};
use crate::foreign::Foreign;
use crate::inode::InodeKey;

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

/// What GETATTR and LOOKUP report.
#[derive(Clone, Debug)]
pub struct Attr {
    /// st_ino as the client sees it.
    pub ino: u64,
    /// Everything else, as the backing file system says it.
    pub stat: Statx,
    /// Somebody else has changed the file, and the kernel must drop what it cached of it before it
    /// is told.
    pub foreign: Option<Foreign>,
}

impl Attr {
    /// See [`FileKind`].
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(u32::from(self.stat.stx_mode))
    }
}

/// statx(2) of the inode behind `fd` itself, O_PATH or not.
pub(crate) fn statx(fd: impl AsFd) -> Result<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    rustix::fs::statx(
        fd,
        c"",
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        mask,
    )
    .or_errno()
}

/// The identity that `stat` gives an inode.
pub(crate) fn key_of(stat: &Statx) -> InodeKey {
    InodeKey {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        mnt_id: stat.stx_mnt_id,
    }
}
