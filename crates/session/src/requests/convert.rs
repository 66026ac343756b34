//! Between the file system's types and the protocol's.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{StatVfs, StatxFlags, StatxTimestamp};
use thrufs_fs::{Attr, DirEntryRef, Errno, FileKind, IdMaps, Result, SetTime};
use thrufs_wire::abi::{self, Kstatfs};
use thrufs_wire::request;

use crate::convert::{encode_dev, system_time};

pub(super) fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

pub(super) fn entry_ref(parent: u64, name: &CStr) -> DirEntryRef<'_> {
    DirEntryRef {
        parent,
        name: os(name),
    }
}

/// Attributes with the ids that the client is shown.
pub(super) fn attr(maps: &IdMaps, attr: &Attr) -> abi::Attr {
    let stat = &attr.stat;
    abi::Attr {
        ino: attr.ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec.cast_unsigned(),
        mtime: stat.stx_mtime.tv_sec.cast_unsigned(),
        ctime: stat.stx_ctime.tv_sec.cast_unsigned(),
        atimensec: stat.stx_atime.tv_nsec,
        mtimensec: stat.stx_mtime.tv_nsec,
        ctimensec: stat.stx_ctime.tv_nsec,
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: maps.uid.to_guest(stat.stx_uid),
        gid: maps.gid.to_guest(stat.stx_gid),
        rdev: encode_dev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: abi::AttrFlags::empty(),
    }
}

/// The same, of the root of a file system that the client mounts by itself.
pub(super) fn as_submount(attr: abi::Attr, is_submount: bool) -> abi::Attr {
    let flags = match is_submount {
        true => abi::AttrFlags::FUSE_ATTR_SUBMOUNT,
        false => abi::AttrFlags::empty(),
    };
    abi::Attr { flags, ..attr }
}

/// The same for STATX, with the time of birth where there is one.
pub(super) fn statx(maps: &IdMaps, attr: &Attr) -> abi::Statx {
    let stat = &attr.stat;
    let told = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    abi::Statx {
        mask: stat.stx_mask & told.bits(),
        blksize: stat.stx_blksize,
        nlink: stat.stx_nlink,
        uid: maps.uid.to_guest(stat.stx_uid),
        gid: maps.gid.to_guest(stat.stx_gid),
        mode: stat.stx_mode,
        ino: attr.ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        btime: time(stat.stx_btime),
        ctime: time(stat.stx_ctime),
        mtime: time(stat.stx_mtime),
        rdev_major: stat.stx_rdev_major,
        rdev_minor: stat.stx_rdev_minor,
        ..abi::Statx::default()
    }
}

fn time(time: StatxTimestamp) -> abi::SxTime {
    abi::SxTime {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec,
        ..abi::SxTime::default()
    }
}

/// DT_DIR and so on, of READDIR's records.
pub(super) fn directory_type(kind: FileKind) -> u32 {
    let kind = match kind {
        FileKind::Regular => libc::DT_REG,
        FileKind::Directory => libc::DT_DIR,
        FileKind::Symlink => libc::DT_LNK,
        FileKind::Fifo => libc::DT_FIFO,
        FileKind::Socket => libc::DT_SOCK,
        FileKind::CharDevice => libc::DT_CHR,
        FileKind::BlockDevice => libc::DT_BLK,
    };
    u32::from(kind)
}

/// A time to set.
///
/// # Errors
/// EINVAL for one that no clock can show.
pub(super) fn set_time(time: request::SetTime) -> Result<SetTime> {
    let at = match time {
        request::SetTime::Now => return Ok(SetTime::Now),
        request::SetTime::At(at) => at,
    };
    let time = system_time(at.seconds, at.nanoseconds);
    time.map(SetTime::At).ok_or(Errno::EINVAL)
}

pub(super) fn statfs(stat: &StatVfs) -> Kstatfs {
    Kstatfs {
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        bsize: stat.f_bsize as u32,
        namelen: stat.f_namemax as u32,
        frsize: stat.f_frsize as u32,
        ..Kstatfs::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn set_time_before_1970_adds_the_fraction() {
        let time = request::Timestamp {
            seconds: -2,
            nanoseconds: 500_000_000,
        };
        let right = UNIX_EPOCH - Duration::from_millis(1_500);
        let set = set_time(request::SetTime::At(time));
        assert_eq!(set, Ok(SetTime::At(right)));
    }

    #[test]
    fn set_time_beyond_every_clock_is_an_error_or_a_time() {
        for seconds in [i64::MIN, i64::MAX] {
            let time = request::Timestamp {
                seconds,
                nanoseconds: 999_999_999,
            };
            let set = set_time(request::SetTime::At(time));
            assert!(
                matches!(set, Ok(SetTime::At(_)) | Err(Errno::EINVAL)),
                "{set:?}"
            );
        }
    }
}
