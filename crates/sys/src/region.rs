//! A shared mapping of this process: made, and unmapped when dropped.
//!
//! A mapping that another process receives, and that it does not inherit, has a memfd behind it. The memfd is sealed: no
//! process shortens it, which would end the others by SIGBUS.
//!
//! Invariant: it gives an address and no reference. How bytes behind it may be reached is said, and kept, by the
//! types that own one ([`crate::mapping`], [`crate::shared_buffers`], [`crate::shared_words`]).

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};

const PROT: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Without which the memory could go away.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// `len` bytes of 0, in a sealed file without a name that shows as `name`.
///
/// # Errors
/// Of memfd_create(2) and ftruncate(2).
pub(crate) fn sealed_file(name: &CStr, len: NonZeroUsize) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, len.get() as u64)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// How long such a file of another process is.
///
/// # Errors
/// EINVAL: it is not one of [`sealed_file`].
pub(crate) fn sealed_len(file: impl AsFd) -> io::Result<NonZeroUsize> {
    if !fcntl_get_seals(&file)?.contains(SEALS) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let len = usize::try_from(fstat(&file)?.st_size).ok();
    let len = len.and_then(NonZeroUsize::new);
    len.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

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
