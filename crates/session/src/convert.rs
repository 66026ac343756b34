//! What both transports put into their answers alike.
//!
//! Each transport's own `convert.rs` has the rest: the types that differ between fuser and the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thrufs_fs::{Errno, Opened};
use thrufs_wire::abi::OpenOutFlags;

/// What COPY_FILE_RANGE is asked for at most, whose answer has 32 bits; a multiple of the page size, which keeps a
/// reflink possible.
pub(crate) const COPY_MAX_32: u64 = 0x7fff_f000;

/// EMFILE is about the server's table of descriptors; to the caller it would be about its own.
pub(crate) fn visible_errno(error: Errno) -> Errno {
    match error {
        Errno::EMFILE => Errno::ENFILE,
        other => other,
    }
}

/// A device number as the protocol has it (the kernel's `new_encode_dev`).
pub(crate) fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(crate) fn file_flags(opened: &Opened) -> OpenOutFlags {
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

pub(crate) fn directory_flags(opened: &Opened) -> OpenOutFlags {
    match opened.keep_cache {
        true => OpenOutFlags::FOPEN_KEEP_CACHE | OpenOutFlags::FOPEN_CACHE_DIR,
        false => OpenOutFlags::empty(),
    }
}

/// None for one that no clock can show.
pub(crate) fn system_time(seconds: i64, nanoseconds: u32) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let whole = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    };
    whole?.checked_add(Duration::from_nanos(u64::from(nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_dev_keeps_large_minors() {
        assert_eq!(encode_dev(8, 1), 0x801);
        assert_eq!(encode_dev(1, 0x12345), 0x1230_0145);
    }
}
