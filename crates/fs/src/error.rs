//! The one error of an operation: the errno that the caller of the system call will see.
//!
//! Backing errors pass through unchanged; what we decide ourselves is an `Errno` constant at the
//! place that decides it.

use std::io;

pub use nix::errno::Errno;

/// What every operation returns.
pub type Result<T> = std::result::Result<T, Errno>;

/// The errno of `error`, or EIO for one that no system call made.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Turns the error types of std and rustix into [`Errno`].
pub(crate) trait IntoErrno<T> {
    fn or_errno(self) -> Result<T>;
}

impl<T> IntoErrno<T> for io::Result<T> {
    fn or_errno(self) -> Result<T> {
        self.map_err(|e| errno(&e))
    }
}

impl<T> IntoErrno<T> for rustix::io::Result<T> {
    fn or_errno(self) -> Result<T> {
        self.map_err(|e| Errno::from_raw(e.raw_os_error()))
    }
}
