//! A shared mapping of this process: made, and unmapped when dropped.
//!
//! Invariant: it gives an address and no reference. How bytes behind it may be reached is said, and kept, by the
//! types that own one ([`crate::mapping`], [`crate::shared_buffers`], [`crate::shared_words`]).

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags};

const PROT: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// `len` bytes, mapped MAP_SHARED, readable and writable.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

impl Region {
    /// The first `len` bytes of `file`.
    ///
    /// # Errors
    /// Of mmap(2).
    pub(crate) fn of_file(file: impl AsFd, len: NonZeroUsize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing.
        let start =
            unsafe { nix::sys::mman::mmap(None, len, PROT, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, len })
    }

    /// `len` bytes of 0, shared with the processes that this one starts.
    ///
    /// # Errors
    /// Of mmap(2).
    pub(crate) fn anonymous(len: NonZeroUsize) -> io::Result<Self> {
        // SAFETY: as above.
        let start =
            unsafe { nix::sys::mman::mmap_anonymous(None, len, PROT, MapFlags::MAP_SHARED) }?;
        Ok(Self { start, len })
    }

    /// The address of the first byte, which begins a page.
    pub(crate) fn start(&self) -> NonNull<libc::c_void> {
        self.start
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }
}

// SAFETY: the address belongs to the process, not to a thread.
unsafe impl Send for Region {}
// SAFETY: it is an address alone.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made here with this length, and no pointer to it outlives its owner.
        let result = unsafe { nix::sys::mman::munmap(self.start, self.len.get()) };
        debug_assert!(result.is_ok(), "munmap of a mapping of our own: {result:?}");
    }
}
