//! ioctl(2) on /dev/fuse: the backing files of kernel passthrough (linux/fuse.h).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const FUSE_DEV_IOC_BACKING_OPEN: u32 = 0x4010_e501;
const FUSE_DEV_IOC_BACKING_CLOSE: u32 = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Registers `file` with the connection of `device`, and returns its backing id.
///
/// # Errors
/// The kernel's (`fuse_backing_open`): EPERM, ELOOP, EOPNOTSUPP, ENOTTY.
pub fn open_backing(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<i32> {
    let map = BackingMap {
        fd: file.as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    let request = FUSE_DEV_IOC_BACKING_OPEN as libc::Ioctl;
    // SAFETY: the kernel reads one `struct fuse_backing_map` there and writes nothing.
    let id = unsafe { libc::ioctl(device.as_raw_fd(), request, &raw const map) };
    if id < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(id)
}

/// Ends a backing id. Files that are open through it stay so.
///
/// # Errors
/// ENOENT for an id that the connection does not have; ENOTTY.
pub fn close_backing(device: BorrowedFd<'_>, id: i32) -> io::Result<()> {
    let request = FUSE_DEV_IOC_BACKING_CLOSE as libc::Ioctl;
    // SAFETY: the kernel reads one `uint32_t` there and writes nothing.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request, &raw const id) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
