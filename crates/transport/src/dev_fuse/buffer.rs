//! The memory that a message is read into.
//!
//! Invariant: the data of a WRITE begins at a page, so that each page of the client's is one page here,
//! and O_DIRECT to SOURCE needs no copy. Only what was used becomes resident: the memory comes zeroed
//! from the kernel and is never cleared here ([`Buffers::Shared`] apart).

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use thrufs_sys::shared_buffers::{SharedBuffer, SharedBuffers};
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
    bytes: Bytes,
    start: usize,
    size: usize,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    Shared(SharedBuffer),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Memory for messages with WRITEs of at most so many bytes, as INIT granted it.
#[derive(Clone, Debug)]
pub enum Buffers {
    /// Only what was used becomes resident.
    AsUsed(u32),
    /// In memory that outlives this process ([`shared_buffer_size`]), for a server that another is to follow. All is
    /// resident before the first message: a thread that is killed while the kernel copies a message to a page that is
    /// not there yet ends that request with EIO.
    Shared(u32, Arc<SharedBuffers>),
}

impl Buffers {
    pub(super) fn make(&self) -> RequestBuffer {
        let (max_write, shared) = match self {
            Self::AsUsed(max_write) => return RequestBuffer::for_max_write(*max_write),
            Self::Shared(max_write, shared) => (*max_write, shared.take_any()),
        };
        let buffer = shared.and_then(|shared| RequestBuffer::shared(shared, max_write));
        let mut buffer = buffer.unwrap_or_else(|| RequestBuffer::for_max_write(max_write));
        for page in buffer.bytes.chunks_mut(PAGE) {
            page[0] = std::hint::black_box(page[0]);
        }
        if let Bytes::Shared(shared) = &buffer.bytes {
            CURRENT.set(Some(shared.index()));
        }
        buffer
    }
}

thread_local! {
    /// The shared buffer of this thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the shared buffer that this thread reads messages into.
pub fn current_shared_buffer() -> Option<usize> {
    CURRENT.get()
}

/// Bytes of a shared buffer for WRITEs of `max_write`.
pub fn shared_buffer_size(max_write: u32) -> usize {
    (RequestBuffer::size(max_write) + PAGE).next_multiple_of(PAGE)
}

/// Where a message begins in a shared buffer, whatever `max_write` is: part of the form of what outlives a process.
pub const SHARED_BUFFER_START: usize = PAGE - HEADERS;

impl RequestBuffer {
    /// Room for WRITEs of `max_write` bytes, as INIT granted it, and for every other message.
    pub fn for_max_write(max_write: u32) -> Self {
        let size = Self::size(max_write);
        Self::of(Bytes::Own(vec![0; size + PAGE]), size)
    }

    /// In `shared`, if that is large enough. A message that is there already is where this would read it.
    pub fn shared(shared: SharedBuffer, max_write: u32) -> Option<Self> {
        let size = Self::size(max_write);
        (shared.len() >= size + PAGE).then(|| Self::of(Bytes::Shared(shared), size))
    }

    /// All that is read at once.
    pub fn bytes(&self) -> &[u8] {
        self.message(self.size)
    }

    fn of(bytes: Bytes, size: usize) -> Self {
        let data = bytes.as_ptr().addr() + HEADERS;
        let start = data.next_multiple_of(PAGE) - data;
        Self { bytes, start, size }
    }

    fn size(max_write: u32) -> usize {
        HEADERS + LEAST.max(max_write as usize)
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
    fn make_of_shared_buffers_keeps_what_was_read_and_goes_on_without() {
        let shared = SharedBuffers::new(1, shared_buffer_size(4096)).unwrap();
        let shared = Arc::new(shared);
        let buffers = Buffers::Shared(4096, Arc::clone(&shared));
        let mut first = buffers.make();
        assert_eq!(current_shared_buffer(), Some(0));
        first.space()[..4].copy_from_slice(b"read");
        assert!(matches!(buffers.make().bytes, Bytes::Own(_)));
        drop(first);
        let again = RequestBuffer::shared(shared.take(0).unwrap(), 4096).unwrap();
        assert_eq!(&again.bytes()[..4], b"read");
        drop(again);
        assert_eq!(
            &shared.take(0).unwrap()[SHARED_BUFFER_START..][..4],
            b"read"
        );
        assert!(RequestBuffer::shared(shared.take(0).unwrap(), 1 << 20).is_none());
    }

    #[test]
    fn for_max_write_of_a_page_has_room_for_the_largest_attribute() {
        let mut buffer = RequestBuffer::for_max_write(4096);
        assert!(buffer.space().len() > (64 << 10) + 1024);
    }
}
