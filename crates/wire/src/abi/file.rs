//! Arguments and answers of requests on open files: data, locks, ioctl, poll.

use super::flags::{
    FsyncFlags, IoctlFlags, LockFlags, OpenInFlags, OpenOutFlags, PollFlags, ReadFlags,
    ReleaseFlags, WriteFlags,
};
use super::macros::structs;

structs! {
    /// OPEN and OPENDIR. `flags` are open(2)'s.
    fuse_open_in => OpenIn {
        flags: u32,
        open_flags: OpenInFlags,
    }

    fuse_open_out => OpenOut {
        fh: u64,
        open_flags: OpenOutFlags,
        backing_id: i32,
    }

    /// RELEASE and RELEASEDIR.
    fuse_release_in => ReleaseIn {
        fh: u64,
        flags: u32,
        release_flags: ReleaseFlags,
        lock_owner: u64,
    }

    fuse_flush_in => FlushIn {
        fh: u64,
        unused: u32,
        padding: u32,
        lock_owner: u64,
    }

    /// READ, READDIR and READDIRPLUS.
    fuse_read_in => ReadIn {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: ReadFlags,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    /// `size` bytes of data follow.
    fuse_write_in => WriteIn {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: WriteFlags,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    /// WRITE and COPY_FILE_RANGE.
    fuse_write_out => WriteOut {
        size: u32,
        padding: u32,
    }

    /// FSYNC and FSYNCDIR.
    fuse_fsync_in => FsyncIn {
        fh: u64,
        fsync_flags: FsyncFlags,
        padding: u32,
    }

    fuse_file_lock => FileLock {
        start: u64,
        end: u64,
        r#type: u32,
        pid: u32,
    }

    /// GETLK, SETLK and SETLKW.
    fuse_lk_in => LkIn {
        fh: u64,
        owner: u64,
        lk: FileLock,
        lk_flags: LockFlags,
        padding: u32,
    }

    fuse_lk_out => LkOut {
        lk: FileLock,
    }

    fuse_bmap_in => BmapIn {
        block: u64,
        blocksize: u32,
        padding: u32,
    }

    fuse_bmap_out => BmapOut {
        block: u64,
    }

    /// `in_size` bytes of data follow; at most `out_size` may be answered.
    fuse_ioctl_in => IoctlIn {
        fh: u64,
        flags: IoctlFlags,
        cmd: u32,
        arg: u64,
        in_size: u32,
        out_size: u32,
    }

    fuse_ioctl_iovec => IoctlIovec {
        base: u64,
        len: u64,
    }

    fuse_ioctl_out => IoctlOut {
        result: i32,
        flags: IoctlFlags,
        in_iovs: u32,
        out_iovs: u32,
    }

    fuse_poll_in => PollIn {
        fh: u64,
        kh: u64,
        flags: PollFlags,
        events: u32,
    }

    fuse_poll_out => PollOut {
        revents: u32,
        padding: u32,
    }

    fuse_fallocate_in => FallocateIn {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
        padding: u32,
    }

    fuse_lseek_in => LseekIn {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }

    fuse_lseek_out => LseekOut {
        offset: u64,
    }

    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
    fuse_copy_file_range_in => CopyFileRangeIn {
        fh_in: u64,
        off_in: u64,
        nodeid_out: u64,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    }

    /// COPY_FILE_RANGE_64; COPY_FILE_RANGE has [`WriteOut`].
    fuse_copy_file_range_out => CopyFileRangeOut {
        bytes_copied: u64,
    }
}
