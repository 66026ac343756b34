//! From a client's name, or a descriptor, to a system call (invariant 5): the one place where a name is
//! checked, and where what a descriptor stands for is opened once more.
//!
//! Invariant: a name is one component, so no path of the client is ever resolved; and a descriptor is
//! reopened by its link in /proc/self/fd, which resolves no name at all.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};

use crate::error::{Errno, IntoErrno, Result};

/// One name in a directory: the only form in which a name of the client reaches a system call.
///
/// # Errors
/// EINVAL for what is not one component (invariant 5); the kernel never sends such a name.
pub(crate) fn component(name: &OsStr) -> Result<CString> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::EINVAL);
    }
    CString::new(bytes).map_err(|_nul| Errno::EINVAL)
}

/// Opens what `fd` stands for, by way of /proc (`proc_self_fd` is a descriptor of /proc/self/fd),
/// which resolves no name of the client's.
///
/// # Errors
/// Of open(2).
pub(crate) fn reopen_in(proc_self_fd: impl AsFd, fd: impl AsFd, flags: i32) -> Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags as u32 & !(libc::O_NOFOLLOW as u32));
    let name = fd.as_fd().as_raw_fd().to_string();
    let flags = flags | OFlags::CLOEXEC;
    rustix::fs::openat(proc_self_fd, name, flags, Mode::empty()).or_errno()
}

/// The path of what `fd` stands for, as the kernel has it (d_path), by way of /proc as [`reopen_in`].
///
/// # Errors
/// Of readlink(2).
pub(crate) fn link_in(proc_self_fd: impl AsFd, fd: impl AsFd) -> Result<CString> {
    let name = decimal(fd.as_fd().as_raw_fd());
    rustix::fs::readlinkat(proc_self_fd, name, Vec::new()).or_errno()
}

/// The name of a descriptor in /proc/self/fd.
pub(crate) fn decimal(number: i32) -> CString {
    CString::new(number.to_string()).expect("digits have no NUL")
}
