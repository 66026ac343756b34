//! The peek offset of a socket (SO_PEEK_OFF). The kernel keeps it with the socket, so it outlives the process.
//!
//! Invariant: a recv(2) with MSG_PEEK begins there and moves it on; one that takes bytes away moves it back by as
//! many, in the same step. So when a process dies between the two, what it had looked at and not taken is known.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Where the next peek begins; none where each begins at the first byte.
///
/// # Errors
/// Of getsockopt(2).
pub fn peek_offset(socket: impl AsFd) -> io::Result<Option<usize>> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let (fd, option) = (socket.as_fd().as_raw_fd(), libc::SO_PEEK_OFF);
    // SAFETY: both pointers are to memory of this frame, of the size that `len` says.
    let done = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    match done {
        0 => Ok(usize::try_from(value).ok()),
        _failed => Err(io::Error::last_os_error()),
    }
}

/// The next peek begins at the first byte, and each after it where the last one ended.
///
/// # Errors
/// EOPNOTSUPP: not a socket of this kind; of setsockopt(2).
pub fn peek_from_start(socket: impl AsFd) -> io::Result<()> {
    let value: libc::c_int = 0;
    let (fd, option) = (socket.as_fd().as_raw_fd(), libc::SO_PEEK_OFF);
    // SAFETY: the pointer is to memory of this frame, of the size that is given.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _failed => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peek(socket: &UnixStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: the buffer has `len` bytes.
        let count = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                len,
                libc::MSG_PEEK,
            )
        };
        bytes.truncate(usize::try_from(count).unwrap());
        bytes
    }

    #[test]
    fn peek_offset_is_what_was_looked_at_and_not_taken() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(peek_offset(&ours).unwrap(), None);
        peek_from_start(&ours).unwrap();
        theirs.write_all(b"header").unwrap();
        assert_eq!(peek(&ours, 6), b"header");
        theirs.write_all(b"body").unwrap();
        assert_eq!(peek(&ours, 4), b"body");
        assert_eq!(peek_offset(&ours).unwrap(), Some(10));
        ours.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(peek_offset(&ours).unwrap(), Some(4));
        peek_from_start(&ours).unwrap();
        assert_eq!(peek(&ours, 4), b"body");
        ours.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(peek_offset(&ours).unwrap(), Some(0));
    }
}
