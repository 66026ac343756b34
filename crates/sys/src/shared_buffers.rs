//! Buffers in memory that a process shares with those that it starts, so that what was read into one outlives the reader.
//!
//! Invariant: in one process a buffer is one object's at a time, and only one of the processes uses them: the
//! others wait for it to end. So they are plain bytes, as the memory of a vector is.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::region::Region;

/// See the module.
#[derive(Debug)]
pub struct SharedBuffers {
    all: Region,
    size: usize,
    taken: Box<[AtomicBool]>,
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
    /// EINVAL for none; of mmap(2).
    pub fn new(count: usize, size: usize) -> io::Result<Self> {
        let all = count.checked_mul(size).and_then(NonZeroUsize::new);
        let all = Region::anonymous(all.ok_or(io::ErrorKind::InvalidInput)?)?;
        let taken = (0..count).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { all, size, taken })
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
    }
}
