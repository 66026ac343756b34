//! System calls as a test wants them: those that neither std nor rustix has, as std would have them (a test
//! uses one of nix and rustix), and those whose failure skips the test.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thrufs_sys::mapping::SharedMapping;

use super::skip::missing;

/// The errno of a call that failed.
pub fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Makes sure that a call failed with this errno.
pub fn refused<T>(result: io::Result<T>, wanted: i32) -> Result<()> {
    let (got, wanted) = (errno(result), io::Error::from_raw_os_error(wanted));
    ensure!(
        got == wanted.raw_os_error(),
        "errno {got:?} and not {wanted}"
    );
    Ok(())
}

/// chmod(2).
///
/// # Errors
/// Of the call.
pub fn chmod(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// Opens a file that is there with O_RDWR.
///
/// # Errors
/// Of open(2).
pub fn open_rdwr(path: impl AsRef<Path>) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Opens a file that is there with O_WRONLY.
///
/// # Errors
/// Of open(2).
pub fn open_wronly(path: impl AsRef<Path>) -> io::Result<File> {
    File::options().write(true).open(path)
}

/// Opens a file that is there with O_APPEND.
///
/// # Errors
/// Of open(2).
pub fn open_append(path: impl AsRef<Path>) -> io::Result<File> {
    File::options().append(true).open(path)
}

/// truncate(2): by path, with no open file.
///
/// # Errors
/// Of the call.
pub fn truncate(path: &Path, len: i64) -> io::Result<()> {
    Ok(nix::unistd::truncate(path, len)?)
}

/// close(2), with the error that dropping the file would hide.
///
/// # Errors
/// Of the call.
pub fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

/// Opens `path` to read and write, and makes it if it is not there; `flags` are those of open(2) beside these.
///
/// # Errors
/// Of open(2).
pub fn open(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(flags).open(path)
}

/// A shared mapping of the first `len` bytes of `file`, or a skip where the mount has none.
///
/// # Errors
/// Of mmap(2).
pub fn map_shared(file: &File, len: usize) -> Result<SharedMapping> {
    let len = NonZeroUsize::new(len).context("a mapping of nothing")?;
    SharedMapping::new(file, len).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => {
            missing("shared mappings of direct files (FUSE_DIRECT_IO_ALLOW_MMAP)")
        }
        _ => error.into(),
    })
}
