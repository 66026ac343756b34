//! One write at a time through io_uring, from mapped memory. The io-uring crate's `push` is unsafe
//! since the kernel uses the buffer after it returns; here the submission waits for its completion
//! while the span is borrowed, and a ring whose wait failed is given up with its mapping alive.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{IoUring, opcode, types};

use crate::mapped_io::Span;

/// Writes the span at `offset` with IORING_OP_WRITE and returns the count written.
pub fn write(file: impl AsFd, span: &Span<'_>, offset: u64) -> io::Result<usize> {
    let mut ring = IoUring::new(2)?;
    let iovec = span.iovec()?;
    let fd = types::Fd(file.as_fd().as_raw_fd());
    let entry = opcode::Write::new(fd, iovec.iov_base.cast(), length(&iovec)?)
        .offset(offset)
        .build();
    submit(&mut ring, &entry)
}

/// As [`write()`], with IORING_OP_WRITE_FIXED from a buffer registered (pinned) first.
pub fn write_fixed(file: impl AsFd, span: &Span<'_>, offset: u64) -> io::Result<usize> {
    let mut ring = IoUring::new(2)?;
    let iovec = span.iovec()?;
    // SAFETY: the buffer stays mapped, since the span borrows the mapping, until the ring is gone.
    unsafe { ring.submitter().register_buffers(&[iovec]) }?;
    let fd = types::Fd(file.as_fd().as_raw_fd());
    let entry = opcode::WriteFixed::new(fd, iovec.iov_base.cast_const().cast(), length(&iovec)?, 0)
        .offset(offset)
        .build();
    submit(&mut ring, &entry)
}

fn length(iovec: &libc::iovec) -> io::Result<u32> {
    u32::try_from(iovec.iov_len).map_err(|_too_long| io::ErrorKind::InvalidInput.into())
}

fn submit(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> io::Result<usize> {
    // SAFETY: the callers' span outlives this function, which waits for the completion below.
    unsafe { ring.submission().push(entry) }.map_err(|_full| io::ErrorKind::OutOfMemory)?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if let Some(completion) = ring.completion().next() {
            let result = completion.result();
            return usize::try_from(result)
                .map_err(|_negative| io::Error::from_raw_os_error(-result));
        }
    }
}
