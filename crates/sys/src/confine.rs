//! What a process needs to shut itself in and rustix and nix lack: closing what it inherited, and
//! mount_setattr(2).

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Closes every descriptor but the standard streams and `keep`.
///
/// For a process that has just been forked, which inherits what its parent has open and what the
/// parent's parent did not care to close. Whatever else of this process owns a descriptor must be
/// forgotten or in `keep`: it would close a number that means another file by then.
///
/// # Errors
/// More than one thread runs here; or from close_range(2) (Linux 5.9).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "descriptors are not closed under the feet of {threads} threads"
        )));
    }
    let mut kept: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    kept.sort_unstable();
    close_all_between(&kept)
}

/// Closes every descriptor but the standard streams and those with the numbers in `keep`, for a process that shares
/// its table with one that died ([`crate::fork::fork_sharing_descriptors`]): what that one opened, and no object
/// of this process owns. To be called while one thread runs.
///
/// # Errors
/// From close_range(2).
pub fn close_numbers_but(keep: &[i32]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep
        .iter()
        .filter_map(|number| u32::try_from(*number).ok())
        .collect();
    kept.sort_unstable();
    close_all_between(&kept)
}

/// Closes what is none of the sorted numbers `kept`, from 3 on.
fn close_all_between(kept: &[u32]) -> io::Result<()> {
    let mut from = 3;
    for number in kept {
        if *number > from {
            close_range(from, number - 1)?;
        }
        from = from.max(number + 1);
    }
    close_range(from, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> io::Result<()> {
    let flags: c_uint = 0;
    // SAFETY: closes descriptors and touches no memory; that no object of this process owns one of
    // them is the documented condition of the callers.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// On every mount of the tree `tree` (of open_tree(2)): device nodes cannot be opened, set-uid bits
/// mean nothing, and mounts made elsewhere come in but none goes out.
///
/// # Errors
/// From mount_setattr(2) (Linux 5.12).
pub fn seal_mounts(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
        propagation: libc::MS_SLAVE,
        ..MountAttr::default()
    };
    let flags: c_int = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a NUL-terminated constant, `attr` lives across the call and its size is
    // the one given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_all_but_with_a_second_thread_is_refused() {
        // The test harness itself runs this test in a second thread.
        let error = close_all_but(&[]).expect_err("more than one thread runs here");
        assert!(error.to_string().contains("threads"), "{error}");
    }
}
