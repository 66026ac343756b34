//! The memory that a message is read into.
//!
//! Invariant: the data of a WRITE begins at a page, so that each page of the client's is one page here,
//! and O_DIRECT to SOURCE needs no copy. Only what was used becomes resident: the memory comes zeroed
//! from the kernel and is never cleared here.

use thrufs_wire::abi::{InHeader, WriteIn};

/// Bytes before the data of a WRITE.
const HEADERS: usize = size_of::<InHeader>() + size_of::<WriteIn>();
/// Of x86-64, and the smallest elsewhere.
const PAGE: usize = 4096;
/// For messages other than WRITE: a SETXATTR has a name and 64 KiB of value.
const LEAST: usize = 128 << 10;

/// Room for one message.
#[derive(Debug)]
pub struct RequestBuffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl RequestBuffer {
    /// Room for WRITEs of `max_write` bytes, as INIT granted it, and for every other message.
    pub fn for_max_write(max_write: u32) -> Self {
        let size = HEADERS + LEAST.max(max_write as usize);
        let bytes = vec![0; size + PAGE];
        let data = bytes.as_ptr().addr() + HEADERS;
        let start = data.next_multiple_of(PAGE) - data;
        Self { bytes, start, size }
    }

    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }

    /// The first `len` bytes, at most all.
    pub(super) fn message(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len.min(self.size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_has_the_data_of_a_write_at_a_page_and_room_for_all_of_it() {
        for max_write in [4096, 1 << 20, 16 << 20] {
            let mut buffer = RequestBuffer::for_max_write(max_write);
            let space = buffer.space();
            assert_eq!((space.as_ptr().addr() + HEADERS) % PAGE, 0);
            assert!(space.len() >= HEADERS + max_write as usize);
        }
    }

    #[test]
    fn for_max_write_of_a_page_has_room_for_the_largest_attribute() {
        let mut buffer = RequestBuffer::for_max_write(4096);
        assert!(buffer.space().len() > (64 << 10) + 1024);
    }
}
