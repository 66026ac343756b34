//! Whether a connection to the kernel, /dev/fuse, is still a mount's.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};

/// Whether the kernel still has a file system on this connection (else poll(2) reports an error).
pub(crate) fn is_connected(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => !fds[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        Err(_) => false,
    }
}
