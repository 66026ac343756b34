//! Flag words of requests and replies. INIT's are in [`crate::init_flags`].
//!
//! Bits that have no name here are kept, so that what a newer kernel sends can be logged and is
//! never taken for something else.

use super::macros::flags;

flags! {
    /// `fuse_setattr_in.valid`: which fields SETATTR changes.
    SetattrValid: u32 {
        FATTR_MODE = 1 << 0,
        FATTR_UID = 1 << 1,
        FATTR_GID = 1 << 2,
        FATTR_SIZE = 1 << 3,
        FATTR_ATIME = 1 << 4,
        FATTR_MTIME = 1 << 5,
        /// `fh` is valid.
        FATTR_FH = 1 << 6,
        /// With FATTR_ATIME: the server's clock and not `atime`.
        FATTR_ATIME_NOW = 1 << 7,
        /// With FATTR_MTIME: the server's clock and not `mtime`.
        FATTR_MTIME_NOW = 1 << 8,
        /// `lock_owner` is valid.
        FATTR_LOCKOWNER = 1 << 9,
        FATTR_CTIME = 1 << 10,
        /// The server clears set-uid, set-gid and security.capability.
        FATTR_KILL_SUIDGID = 1 << 11,
    }

    /// `fuse_open_out.open_flags`: how the kernel treats the open file.
    OpenOutFlags: u32 {
        /// No page cache for this open file.
        FOPEN_DIRECT_IO = 1 << 0,
        /// OPEN leaves cached data alone.
        FOPEN_KEEP_CACHE = 1 << 1,
        FOPEN_NONSEEKABLE = 1 << 2,
        /// The kernel may cache the directory's listing.
        FOPEN_CACHE_DIR = 1 << 3,
        /// No file position at all.
        FOPEN_STREAM = 1 << 4,
        /// close(2) sends no FLUSH (but in writeback mode).
        FOPEN_NOFLUSH = 1 << 5,
        /// Direct writes to one inode need not exclude each other.
        FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6,
        /// `backing_id` is valid: reads and writes go to the backing file.
        FOPEN_PASSTHROUGH = 1 << 7,
        /// Zero-copy READ and WRITE on an io_uring queue made for it.
        FOPEN_IO_URING_ZERO_COPY = 1 << 8,
    }

    /// `fuse_open_in.open_flags` and `fuse_create_in.open_flags`.
    OpenInFlags: u32 {
        /// O_TRUNC by a caller without CAP_FSETID: the server clears set-uid and set-gid.
        FUSE_OPEN_KILL_SUIDGID = 1 << 0,
    }

    /// `fuse_release_in.release_flags`.
    ReleaseFlags: u32 {
        FUSE_RELEASE_FLUSH = 1 << 0,
        /// The flock(2) lock of `lock_owner` ends.
        FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1,
    }

    /// `fuse_getattr_in.getattr_flags` and `fuse_statx_in.getattr_flags`.
    GetattrFlags: u32 {
        /// `fh` is valid.
        FUSE_GETATTR_FH = 1 << 0,
    }

    /// `fuse_lk_in.lk_flags`.
    LockFlags: u32 {
        /// flock(2), not fcntl(2).
        FUSE_LK_FLOCK = 1 << 0,
    }

    /// `fuse_write_in.write_flags`.
    WriteFlags: u32 {
        /// Written back from the page cache: `fh` is a guess, and the header names no caller.
        FUSE_WRITE_CACHE = 1 << 0,
        /// `lock_owner` is valid.
        FUSE_WRITE_LOCKOWNER = 1 << 1,
        /// The server clears set-uid and set-gid.
        FUSE_WRITE_KILL_SUIDGID = 1 << 2,
    }

    /// `fuse_read_in.read_flags`.
    ReadFlags: u32 {
        /// `lock_owner` is valid.
        FUSE_READ_LOCKOWNER = 1 << 1,
    }

    /// `fuse_ioctl_in.flags` and `fuse_ioctl_out.flags`.
    IoctlFlags: u32 {
        /// A 32-bit caller on a 64-bit kernel.
        FUSE_IOCTL_COMPAT = 1 << 0,
        /// The argument's size is not in the number; a retry is allowed.
        FUSE_IOCTL_UNRESTRICTED = 1 << 1,
        /// In a reply: send the request again with these iovecs.
        FUSE_IOCTL_RETRY = 1 << 2,
        FUSE_IOCTL_32BIT = 1 << 3,
        FUSE_IOCTL_DIR = 1 << 4,
        /// A caller of the x32 ABI: 64-bit time_t.
        FUSE_IOCTL_COMPAT_X32 = 1 << 5,
    }

    /// `fuse_poll_in.flags`.
    PollFlags: u32 {
        /// Send NOTIFY_POLL with `kh` when something is ready.
        FUSE_POLL_SCHEDULE_NOTIFY = 1 << 0,
    }

    /// `fuse_fsync_in.fsync_flags`.
    FsyncFlags: u32 {
        /// fdatasync(2).
        FUSE_FSYNC_FDATASYNC = 1 << 0,
    }

    /// `fuse_attr.flags`.
    AttrFlags: u32 {
        /// The directory is the root of another file system: mount it.
        FUSE_ATTR_SUBMOUNT = 1 << 0,
        FUSE_ATTR_DAX = 1 << 1,
    }

    /// `fuse_setxattr_in.setxattr_flags`.
    SetxattrExtFlags: u32 {
        /// Clear set-gid when system.posix_acl_access is set.
        FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0,
    }

    /// `fuse_notify_inval_entry_out.flags`.
    InvalEntryFlags: u32 {
        /// The entry's timeout ends; the dentry stays.
        FUSE_EXPIRE_ONLY = 1 << 0,
    }

    /// `fuse_setupmapping_in.flags`.
    MappingFlags: u64 {
        FUSE_SETUPMAPPING_FLAG_WRITE = 1 << 0,
        FUSE_SETUPMAPPING_FLAG_READ = 1 << 1,
    }
}
