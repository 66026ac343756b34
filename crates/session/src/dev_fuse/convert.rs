//! Between the file system's types and the protocol's.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::StatVfs;
use thrufs_fs::{Attr, DirEntryRef, Errno, FileKind, IdMaps, Opened, Result, SetTime};
use thrufs_wire::abi::{self, Kstatfs, OpenOutFlags};
use thrufs_wire::request;

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

/// A device number as the protocol has it (the kernel's `new_encode_dev`).
fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
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
    let seconds = Duration::from_secs(at.seconds.unsigned_abs());
    let whole = match at.seconds < 0 {
        true => UNIX_EPOCH.checked_sub(seconds),
        false => UNIX_EPOCH.checked_add(seconds),
    };
    let nanos = Duration::from_nanos(u64::from(at.nanoseconds));
    let time: Option<SystemTime> = whole.and_then(|whole| whole.checked_add(nanos));
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

pub(super) fn file_flags(opened: &Opened) -> OpenOutFlags {
    let mut flags = match opened.no_flush {
        true => OpenOutFlags::FOPEN_NOFLUSH,
        false => OpenOutFlags::empty(),
    };
    if opened.direct_io {
        // Writers of one file need not wait for each other: the backing file orders them.
        flags |= OpenOutFlags::FOPEN_DIRECT_IO | OpenOutFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    }
    if opened.backing_id.is_some() {
        // Beside this flag the kernel takes none about its cache: open(2) would fail with EIO.
        flags |= OpenOutFlags::FOPEN_PASSTHROUGH;
    } else if opened.keep_cache && !opened.direct_io {
        flags |= OpenOutFlags::FOPEN_KEEP_CACHE;
    }
    flags
}

pub(super) fn directory_flags(opened: &Opened) -> OpenOutFlags {
    match opened.keep_cache {
        true => OpenOutFlags::FOPEN_KEEP_CACHE | OpenOutFlags::FOPEN_CACHE_DIR,
        false => OpenOutFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn encode_dev_keeps_large_minors() {
        assert_eq!(encode_dev(8, 1), 0x801);
        assert_eq!(encode_dev(1, 0x12345), 0x1230_0145);
    }
}
