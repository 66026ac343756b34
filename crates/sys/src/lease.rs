//! Leases: F_SETLEASE, F_GETLEASE and F_SETSIG of fcntl(2), which neither nix nor rustix has.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What the holder is told of before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// F_RDLCK: that the file is opened for writing, or cut.
    Read,
    /// F_WRLCK: that it is opened at all.
    Write,
    /// F_UNLCK: nothing.
    None,
}

impl Lease {
    /// Takes this lease on `file` for this process, or gives it back. Another open(2) that has to wait for it is
    /// told by `signal` (SIGIO, which ends a process that does not expect it, where the file was given none).
    ///
    /// # Errors
    /// EAGAIN while the file is open otherwise; EACCES for a file of another user's; EINVAL where its file system
    /// has no leases.
    pub fn set(self, file: impl AsFd, signal: c_int) -> io::Result<()> {
        let lease = match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
            Self::None => libc::F_UNLCK,
        };
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: F_SETSIG takes a number.
        checked(unsafe { libc::fcntl(fd, F_SETSIG, signal) })?;
        // SAFETY: F_SETLEASE takes a number.
        checked(unsafe { libc::fcntl(fd, libc::F_SETLEASE, lease) }).map(drop)
    }

    /// The lease on `file` that this process has, or what is left of it when an open(2) waits for it.
    ///
    /// # Errors
    /// EBADF for an O_PATH descriptor.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        // SAFETY: F_GETLEASE takes nothing.
        let lease = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETLEASE) };
        Ok(match checked(lease)? {
            libc::F_RDLCK => Self::Read,
            libc::F_WRLCK => Self::Write,
            _unlocked => Self::None,
        })
    }
}

/// `asm-generic/fcntl.h`; libc does not have it for every target.
const F_SETSIG: c_int = 10;

fn checked(returned: c_int) -> io::Result<c_int> {
    match returned {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_gives_a_lease_to_the_only_one_that_has_the_file_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Lease::of(&file).unwrap(), Lease::None);
        Lease::Write.set(&file, libc::SIGURG).unwrap();
        assert_eq!(Lease::of(&file).unwrap(), Lease::Write);
        Lease::None.set(&file, libc::SIGURG).unwrap();
        let _second = file.reopen().unwrap();
        let refused = Lease::Write.set(&file, libc::SIGURG).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
    }
}
