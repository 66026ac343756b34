//! Idmapped mounts: a copy of a mount through which files belong to other users (mount_setattr(2) with
//! MOUNT_ATTR_IDMAP), which neither nix nor rustix has. mount(8) has it since util-linux 2.39 (X-mount.idmap).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

/// A copy of the mount that `directory` is on, from there down, through which an id of a file is what the maps of
/// `user_namespace` say it is outside of that. For move_mount(2).
///
/// # Errors
/// EINVAL for a file system that has no idmapped mounts, or was not told to; EPERM without CAP_SYS_ADMIN over it.
pub fn idmapped_copy(directory: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, directory, flags)?;
    set_idmap(copy.as_fd(), user_namespace)?;
    Ok(copy)
}

fn set_idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd().cast_unsigned().into(),
    };
    // SAFETY: the path is a string with its end, and the kernel reads one `struct mount_attr` of the size that is
    // given; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _failed => Err(io::Error::last_os_error()),
    }
}
