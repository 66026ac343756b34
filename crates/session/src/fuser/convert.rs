//! Between our types and fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::fuser::{FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use rustix::fs::StatxTimestamp;

use thrufs_fs::{Attr, Errno, FileKind, SetTime};
use thrufs_wire::abi::OpenOutFlags;

use crate::convert::{encode_dev, system_time, visible_errno};

pub(super) fn fuser_errno(error: Errno) -> ::fuser::Errno {
    ::fuser::Errno::from_i32(visible_errno(error) as i32)
}

/// The flags of fuser, whose bits are the protocol's.
pub(super) fn fopen_flags(flags: OpenOutFlags) -> FopenFlags {
    FopenFlags::from_bits_retain(flags.bits())
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes, with the ids that they have on SOURCE.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: shown_time(&stat.stx_atime),
        mtime: shown_time(&stat.stx_mtime),
        ctime: shown_time(&stat.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind()),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: encode_dev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// A reply of which the kernel takes the number only: `.` and `..` in READDIRPLUS, and (number 0)
/// a name that does not exist.
pub(super) fn number_only(ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn shown_time(time: &StatxTimestamp) -> SystemTime {
    system_time(time.tv_sec, time.tv_nsec).unwrap_or(UNIX_EPOCH)
}

/// A time to set. fuser 0.18 subtracts the nanoseconds of a time before 1970 where the protocol
/// adds them (its `time.rs`); that is put right here.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(match UNIX_EPOCH.duration_since(at) {
            Ok(before) if before.subsec_nanos() > 0 => {
                let nanos = Duration::from_nanos(u64::from(before.subsec_nanos()));
                at.checked_add(2 * nanos).unwrap_or(at)
            }
            _whole_or_after => at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_time_before_1970_moves_the_fraction_forward() {
        // tv_sec = -2, tv_nsec = 500,000,000, which is -1.5 s; fuser makes it -2.5 s.
        let from_fuser = UNIX_EPOCH - Duration::from_millis(2_500);
        let right = UNIX_EPOCH - Duration::from_millis(1_500);
        let set = set_time(TimeOrNow::SpecificTime(from_fuser));
        assert_eq!(set, SetTime::At(right));
    }
}
