//! Buffers of a thread, for READ and for a direct WRITE whose data is not aligned.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::error::{Errno, Result};

/// Alignment that every file system accepts for O_DIRECT, in bytes.
const ALIGNMENT: usize = 4096;
/// Largest request that is served, in bytes; fs.fuse.max_pages_limit cannot be set above it.
pub(crate) const MAX_REQUEST: usize = 65_535 * 4096;
/// What a kernel may ask for that was told of no number of pages (FUSE_DEFAULT_MAX_PAGES_PER_REQ).
pub(crate) const DEFAULT_REQUEST: usize = 32 * 4096;

thread_local! {
    /// Grown once to the largest request of this thread, so that a READ allocates nothing.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The same for a WRITE that is copied out of a guest's memory, and may need the other one.
    static COPY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `act` with `size` bytes of this thread's buffer, aligned for O_DIRECT.
///
/// # Errors
/// EINVAL for a size that no kernel asks for; else what `act` returns.
pub(crate) fn with_read_buffer<T>(
    size: usize,
    act: impl FnOnce(&mut [u8]) -> Result<T>,
) -> Result<T> {
    if size > MAX_REQUEST {
        return Err(Errno::EINVAL);
    }
    with_buffer(&BUFFER, size, act)
}

/// The same with another buffer.
///
/// # Errors
/// As [`with_read_buffer`].
pub(crate) fn with_copy_buffer<T>(
    size: usize,
    act: impl FnOnce(&mut [u8]) -> Result<T>,
) -> Result<T> {
    if size > MAX_REQUEST {
        return Err(Errno::EINVAL);
    }
    with_buffer(&COPY, size, act)
}

fn with_buffer<T>(
    buffer: &'static LocalKey<RefCell<Vec<u8>>>,
    size: usize,
    act: impl FnOnce(&mut [u8]) -> Result<T>,
) -> Result<T> {
    buffer.with_borrow_mut(|buffer| {
        if buffer.len() < size + ALIGNMENT {
            buffer.resize(size + ALIGNMENT, 0);
        }
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        act(&mut buffer[start..start + size])
    })
}

/// Whether O_DIRECT takes `data` where it lies.
pub(crate) fn is_aligned(data: &[u8]) -> bool {
    data.as_ptr().addr().is_multiple_of(ALIGNMENT)
}
