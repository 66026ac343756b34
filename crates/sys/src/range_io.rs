//! System calls on a byte range of a file that neither nix nor rustix has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// sync_file_range(2): starts writeback of the range and waits for it, before and after.
pub fn sync_file_range(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let fd = file.as_fd().as_raw_fd();
    let (offset, len) = (offset.cast_signed(), len.cast_signed());
    // SAFETY: no pointers are passed.
    if unsafe { libc::sync_file_range(fd, offset, len, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// readahead(2): reads the range into the page cache without waiting for it.
pub fn readahead(file: impl AsFd, offset: u64, len: usize) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: no pointers are passed.
    if unsafe { libc::readahead(fd, offset.cast_signed(), len) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
