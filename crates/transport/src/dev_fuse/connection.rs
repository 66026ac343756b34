//! The descriptor.
//!
//! Invariant: a message is taken whole or not at all, in both directions (`fuse_dev_do_read` and
//! `fuse_dev_do_write`), so several threads use one descriptor without a lock. The descriptor may as
//! well be a SOCK_SEQPACKET socket, which keeps messages apart in the same way: tests play the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use thrufs_wire::Encoded;

use super::buffer::RequestBuffer;

/// What read(2) of the device gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'b> {
    /// A message, whole.
    Message(&'b [u8]),
    /// There is none, and the thread may not wait ([`DevFuse::set_nonblocking`]).
    Nothing,
    /// Nothing, and never again: by an unmount or otherwise.
    Ended,
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct DevFuse {
    fd: OwnedFd,
}

impl DevFuse {
    /// The connection of a mount whose descriptor this is.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Waits for the next message or the end of the connection.
    ///
    /// ENOENT (a request that was interrupted while the kernel copied it) and EINTR are no messages, and are
    /// waited over.
    ///
    /// # Errors
    /// ECONNABORTED where the connection ended while the kernel copied a message; EINVAL for a buffer
    /// smaller than INIT's `max_write` and the headers (`fuse_dev_do_read`).
    pub fn receive<'b>(&self, buffer: &'b mut RequestBuffer) -> io::Result<Received<'b>> {
        let len = loop {
            match rustix::io::read(&self.fd, buffer.space()) {
                // Only a socket ends like this.
                Ok(0) | Err(Errno::NODEV) => return Ok(Received::Ended),
                Ok(len) => break len,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Received::Message(buffer.message(len)))
    }

    /// Whether [`receive`](Self::receive) waits, for all threads that call it from now on.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self, is: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.fd)?;
        flags.set(OFlags::NONBLOCK, is);
        Ok(fcntl_setfl(&self.fd, flags)?)
    }

    /// Whether there is a message within `timeout`, or the connection has ended.
    pub fn wait_readable(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Sends an answer or a notification.
    ///
    /// # Errors
    /// ENOENT: to an answer, that the kernel waits for it no longer; to a notification, that it does
    /// not know the inode or the name. EINVAL: the message is not one that belongs there.
    pub fn send(&self, message: &Encoded<'_>) -> io::Result<()> {
        loop {
            match rustix::io::writev(&self.fd, &message.io_slices()) {
                Ok(_whole) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for DevFuse {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use thrufs_wire::Reply;

    use super::*;

    fn pair() -> (File, DevFuse) {
        let kind = SockType::SeqPacket;
        let (kernel, server) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (kernel.into(), DevFuse::new(server))
    }

    #[test]
    fn receive_gives_each_message_whole_and_none_at_the_end() {
        let (mut kernel, server) = pair();
        let mut buffer = RequestBuffer::for_max_write(4096);
        for message in [[1; 40].as_slice(), &[2; 100]] {
            kernel.write_all(message).unwrap();
            let received = server.receive(&mut buffer).unwrap();
            assert_eq!(received, Received::Message(message));
        }
        drop(kernel);
        assert_eq!(server.receive(&mut buffer).unwrap(), Received::Ended);
    }

    #[test]
    fn send_puts_the_parts_together() {
        let (mut kernel, server) = pair();
        server.send(&Reply::Data(b"content").encode(7)).unwrap();
        let mut bytes = [0; 100];
        assert_eq!(kernel.read(&mut bytes).unwrap(), 16 + 7);
        assert_eq!(bytes[8..16], 7_u64.to_ne_bytes());
        assert_eq!(&bytes[16..23], b"content");
    }
}
