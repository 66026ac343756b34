//! Memory of 64-bit words that processes share and that outlives any of them, for what a server leaves to the next.
//!
//! Invariant: words are read and written as atomics alone, so what another process does to them at any time is
//! no race. The file behind it is sealed: no process makes it shorter, which would end the others by SIGBUS.
//!
//! Why not an anonymous shared mapping: the file can be handed to a process that is no child.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags};

/// See the module. Pages that were never written take no memory.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<libc::c_void>,
    len: usize,
}

impl SharedWords {
    /// `len` words, all 0.
    ///
    /// # Errors
    /// EINVAL for none; of memfd_create(2), ftruncate(2) and mmap(2).
    pub fn new(len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<u64>())
            .and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a NUL-terminated constant.
        let number = unsafe { libc::memfd_create(c"thrufs-ledger".as_ptr(), flags) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was made the line above, and is nothing else's.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(number) });
        file.set_len(bytes.get() as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: no pointers are passed.
        let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        if sealed < 0 {
            return Err(io::Error::last_os_error());
        }
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing.
        let start =
            unsafe { nix::sys::mman::mmap(None, bytes, prot, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { start, len })
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        let start = self.start.as_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping begins at a page, has so many words, and lasts until `self` is dropped; atomics may
        // change behind a shared reference, by whatever process.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

// SAFETY: the addresses belong to the process, not to a thread.
unsafe impl Send for SharedWords {}
// SAFETY: every access is atomic.
unsafe impl Sync for SharedWords {}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no reference outlives `self`.
        let result = unsafe { nix::sys::mman::munmap(self.start, self.len * size_of::<u64>()) };
        debug_assert!(result.is_ok(), "munmap of a mapping of our own: {result:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn new_has_words_of_zero_that_keep_what_is_stored() {
        let shared = SharedWords::new(100_000).unwrap();
        let words = shared.words();
        assert_eq!(words.len(), 100_000);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        words[99_999].store(7, Ordering::Relaxed);
        assert_eq!(shared.words()[99_999].fetch_add(1, Ordering::Relaxed), 7);
    }

    #[test]
    fn new_of_no_word_is_refused() {
        assert!(SharedWords::new(0).is_err());
        assert!(SharedWords::new(usize::MAX).is_err());
    }
}
