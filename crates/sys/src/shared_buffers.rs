//! Buffers in memory that a process shares with those that it starts, so that what was read into one outlives the reader.
//!
//! Invariant: in one process a buffer is one object's at a time, and only one of the processes uses them: the
//! others wait for it to end. So they are plain bytes, as the memory of a vector is.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::region::{Region, sealed_file, sealed_len};

/// See the module.
#[derive(Debug)]
pub struct SharedBuffers {
    all: Region,
    size: usize,
    taken: Box<[AtomicBool]>,
    file: OwnedFd,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct SharedBuffer {
    of: Arc<SharedBuffers>,
    index: usize,
}

impl SharedBuffers {
    /// `count` of `size` bytes, all 0.
    ///
    /// # Errors
    /// EINVAL for none; of memfd_create(2), ftruncate(2) and mmap(2).
    pub fn new(count: usize, size: usize) -> io::Result<Self> {
        let len = count.checked_mul(size).and_then(NonZeroUsize::new);
        let len = len.ok_or(io::ErrorKind::InvalidInput)?;
        Self::mapped(sealed_file(c"thrufs-messages", len)?, len, size)
    }

    /// Those of `size` bytes of a process that has ended, or uses them no more; `file` is its [`Self::file`].
    ///
    /// # Errors
    /// EINVAL: it is another file; of mmap(2).
    pub fn of_file(file: OwnedFd, size: usize) -> io::Result<Self> {
        let len = sealed_len(&file)?;
        match size {
            0 => Err(io::ErrorKind::InvalidInput.into()),
            size => Self::mapped(file, len, size),
        }
    }

    fn mapped(file: OwnedFd, len: NonZeroUsize, size: usize) -> io::Result<Self> {
        let all = Region::of_file(&file, len)?;
        let count = len.get() / size;
        let taken = (0..count).map(|_| AtomicBool::new(false)).collect();
        Ok(Self {
            all,
            size,
            taken,
            file,
        })
    }

    /// What another process gets at them by.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes of each.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    /// The one with this number; none if it is taken or there is none.
    pub fn take(self: &Arc<Self>, index: usize) -> Option<SharedBuffer> {
        let was_taken = self.taken.get(index)?.swap(true, Ordering::Acquire);
        let of = Arc::clone(self);
        (!was_taken).then(|| SharedBuffer { of, index })
    }

    /// Any one that is free.
    pub fn take_any(self: &Arc<Self>) -> Option<SharedBuffer> {
        (0..self.count()).find_map(|index| self.take(index))
    }
}

impl SharedBuffer {
    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    fn start(&self) -> *mut u8 {
        let first = self.of.all.start().as_ptr().cast::<u8>();
        // SAFETY: there are `count` buffers of `size` bytes, and the index is below `count`.
        unsafe { first.add(self.index * self.of.size) }
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has these bytes, lasts as long as `of`, and by the invariant nothing else writes there.
        unsafe { std::slice::from_raw_parts(self.start(), self.of.size) }
    }
}

impl DerefMut for SharedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nothing else reads there.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.of.size) }
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        self.of.taken[self.index].store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_gives_each_buffer_once_with_what_was_written_before() {
        let buffers = Arc::new(SharedBuffers::new(2, 100).unwrap());
        let mut first = buffers.take_any().unwrap();
        let second = buffers.take(1).unwrap();
        assert!(buffers.take_any().is_none() && buffers.take(0).is_none());
        first[99] = 7;
        assert!(second.iter().all(|byte| *byte == 0));
        drop(first);
        assert_eq!(buffers.take(0).unwrap()[99], 7);
        assert!(buffers.take(2).is_none());
        assert!(SharedBuffers::new(0, 100).is_err());
        let file = || buffers.file().try_clone_to_owned().unwrap();
        let same = Arc::new(SharedBuffers::of_file(file(), 100).unwrap());
        assert_eq!((same.count(), same.take(0).unwrap()[99]), (2, 7));
        assert!(SharedBuffers::of_file(file(), 0).is_err());
    }
}
