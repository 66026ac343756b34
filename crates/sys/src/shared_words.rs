//! Memory of 64-bit words that processes share and that outlives any of them, for what a server leaves to the next.
//!
//! Invariant: words are read and written as atomics alone, so what another process does to them at any time is
//! no race. The file behind it is sealed: no process makes it shorter, which would end the others by SIGBUS.
//!
//! Why not an anonymous shared mapping: the file can be handed to a process that is no child.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use crate::region::{Region, sealed_file, sealed_len};

/// See the module. Pages that were never written take no memory.
#[derive(Debug)]
pub struct SharedWords {
    region: Region,
    len: usize,
    file: OwnedFd,
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
        let file = sealed_file(c"thrufs-ledger", bytes)?;
        let region = Region::of_file(&file, bytes)?;
        Ok(Self { region, len, file })
    }

    /// Those of another process, whose [`Self::file`] this is.
    ///
    /// # Errors
    /// EINVAL: it is another file; of mmap(2).
    pub fn of_file(file: OwnedFd) -> io::Result<Self> {
        let bytes = sealed_len(&file)?;
        let region = Region::of_file(&file, bytes)?;
        let len = bytes.get() / size_of::<u64>();
        Ok(Self { region, len, file })
    }

    /// What another process gets at them by.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        let start = self.region.start().as_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping begins at a page, has so many words, and lasts until `self` is dropped; atomics may
        // change behind a shared reference, by whatever process.
        unsafe { std::slice::from_raw_parts(start, self.len) }
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
        let same = SharedWords::of_file(shared.file().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(
            (
                same.words().len(),
                same.words()[99_999].load(Ordering::Relaxed)
            ),
            (100_000, 8)
        );
        let other = std::fs::File::open("/dev/null").unwrap();
        assert!(SharedWords::of_file(other.into()).is_err());
    }

    #[test]
    fn new_of_no_word_is_refused() {
        assert!(SharedWords::new(0).is_err());
        assert!(SharedWords::new(usize::MAX).is_err());
    }
}
