//! Waiting for one of several descriptors, with a deadline.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits until one of `files` can be read or has ended, and returns the first that can; none when
/// `patience` is over.
///
/// # Errors
/// From poll(2).
pub(crate) fn wait_for_input(
    files: &[&dyn AsFd],
    patience: Duration,
) -> anyhow::Result<Option<usize>> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a deadline too far away")?;
        let mut fds: Vec<PollFd<'_>> = files
            .iter()
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(_) => return Ok(fds.iter().position(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait with poll(2)"),
        }
    }
}
