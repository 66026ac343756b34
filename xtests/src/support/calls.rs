//! System calls that neither std nor rustix has, as std would have them: a test uses one of nix and rustix.

use std::fs::File;
use std::io;
use std::path::Path;

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
