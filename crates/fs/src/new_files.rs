//! How large files are lately that were made through the mount, when they are closed: by that a further one is
//! passed through or not. Giving a file to the kernel costs as much as writing some tens of KiB through the
//! daemon, and when it is made nothing tells how much will be written.
//!
//! Invariant: a guess, which decides how a file is served and never what is in it. A mean, not a share of the
//! small ones: one large file through the daemon costs as much as many small ones that are passed through.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a mean below which new files go through the daemon.
const SMALL: u64 = 32 << 10;
/// What is expected before the first.
const AT_FIRST: u64 = 1 << 20;
/// More than that counts as that, so that it is forgotten one day.
const LARGEST: u64 = 64 << 20;
/// The share of the newest in the mean: one in so many.
const SHARE: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct NewFiles {
    /// Bytes. Threads may overwrite each other's: one of many is lost.
    mean: AtomicU64,
}

impl Default for NewFiles {
    fn default() -> Self {
        Self {
            mean: AtomicU64::new(AT_FIRST),
        }
    }
}

impl NewFiles {
    /// A file that was made through the mount was closed with `size` bytes.
    pub(crate) fn note(&self, size: u64) {
        let mean = self.mean.load(Ordering::Relaxed);
        let next = mean - mean / SHARE + size.min(LARGEST) / SHARE;
        self.mean.store(next, Ordering::Relaxed);
    }

    /// Whether the next one is expected to be small.
    pub(crate) fn are_small(&self) -> bool {
        self.mean.load(Ordering::Relaxed) < SMALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_small_after_many_small_ones_until_a_large_one() {
        let lately = NewFiles::default();
        assert!(!lately.are_small());
        let count = (0..1000)
            .take_while(|_| !lately.are_small())
            .map(|_| lately.note(4096));
        assert!((10..100).contains(&count.count()));
        lately.note(1 << 20);
        assert!(!lately.are_small());
        (0..1000).for_each(|_| lately.note(u64::MAX));
        (0..200).for_each(|_| lately.note(0));
        assert!(lately.are_small());
    }
}
