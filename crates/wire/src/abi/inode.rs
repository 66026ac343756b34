//! What describes an inode or a file system: attributes, entries, statfs, directory records.

use super::flags::{AttrFlags, GetattrFlags, SetattrValid};
use super::macros::structs;

structs! {
    /// Times are two's complement: seconds before 1970 are negative when cast to `i64`.
    fuse_attr => Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: AttrFlags,
    }

    fuse_sx_time => SxTime {
        tv_sec: i64,
        tv_nsec: u32,
        __reserved: i32,
    }

    /// The layout is statx(2)'s.
    fuse_statx => Statx {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        __spare0: [u16; 1],
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        __spare2: [u64; 14],
    }

    fuse_kstatfs => Kstatfs {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    /// `nodeid` 0 is a negative entry: the name does not exist, for `entry_valid`.
    fuse_entry_out => EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }

    fuse_getattr_in => GetattrIn {
        getattr_flags: GetattrFlags,
        dummy: u32,
        fh: u64,
    }

    fuse_attr_out => AttrOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }

    fuse_statx_in => StatxIn {
        getattr_flags: GetattrFlags,
        reserved: u32,
        fh: u64,
        sx_flags: u32,
        sx_mask: u32,
    }

    fuse_statx_out => StatxOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }

    /// Only the fields that `valid` names are set.
    fuse_setattr_in => SetattrIn {
        valid: SetattrValid,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }

    fuse_access_in => AccessIn {
        mask: u32,
        padding: u32,
    }

    fuse_statfs_out => StatfsOut {
        st: Kstatfs,
    }

    /// `namelen` bytes of name follow, and zeroes up to a multiple of 8.
    fuse_dirent => Dirent {
        ino: u64,
        off: u64,
        namelen: u32,
        r#type: u32,
    }

    fuse_direntplus => Direntplus {
        entry_out: EntryOut,
        dirent: Dirent,
    }
}
