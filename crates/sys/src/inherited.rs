//! A descriptor that the program was started with, by its number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A duplicate of descriptor `number`, closed on execve(2).
///
/// # Errors
/// EBADF: there is none of that number.
pub fn take(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made the line above, and is nothing else's.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Whether descriptor `number` is open.
pub fn is_open(number: i32) -> bool {
    // SAFETY: no pointers are passed.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0
}

/// The descriptor `number` itself, of a process that shared its table with this one and died: no object of this
/// process may own it.
///
/// # Errors
/// EBADF: there is none of that number.
pub fn adopt(number: i32) -> io::Result<OwnedFd> {
    if !is_open(number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and by the condition above nothing else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn take_gives_the_same_open_file_and_an_error_for_none() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut taken = std::fs::File::from(take(writer.as_raw_fd()).expect("it is open"));
        drop(writer);
        taken.write_all(b"x").expect("written");
        let mut byte = [0];
        io::Read::read_exact(&mut reader, &mut byte).expect("there");
        assert_eq!(
            take(i32::MAX).expect_err("none").raw_os_error(),
            Some(libc::EBADF)
        );
    }
}
