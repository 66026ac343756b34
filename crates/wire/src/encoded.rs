//! A message to the kernel: a few hundred bytes of head, then data in other memory, in order.
//! Nothing is allocated and no data are copied.

use std::io::IoSlice;
use std::ops::Deref;

use zerocopy::{Immutable, IntoBytes};

use crate::abi::{OutHeader, StatxOut};

const HEADER: usize = size_of::<OutHeader>();
/// The largest answer of fixed size is STATX's.
const HEAD: usize = HEADER + size_of::<StatxOut>();
/// The most pieces of data that a message has: a retried ioctl's iovecs in and out.
const PIECES: usize = 2;

/// A message to the kernel.
#[derive(Clone, Debug)]
pub struct Encoded<'a> {
    head: [u8; HEAD],
    head_len: usize,
    data: [&'a [u8]; PIECES],
}

impl<'a> Encoded<'a> {
    /// A message with these fixed parts after its header, and with data. `None` if that is more
    /// than the header's length can say, or more than the head holds.
    pub(crate) fn new(
        mut header: OutHeader,
        fixed: [&[u8]; 2],
        data: [&'a [u8]; PIECES],
    ) -> Option<Self> {
        let mut sizes = fixed.iter().chain(&data).map(|part| part.len());
        header.len = sizes.try_fold(HEADER as u32, |sum, size| {
            sum.checked_add(u32::try_from(size).ok()?)
        })?;
        let mut encoded = Self {
            head: [0; HEAD],
            head_len: 0,
            data,
        };
        for part in [header.as_bytes(), fixed[0], fixed[1]] {
            let end = encoded.head_len + part.len();
            encoded
                .head
                .get_mut(encoded.head_len..end)?
                .copy_from_slice(part);
            encoded.head_len = end;
        }
        Some(encoded)
    }

    /// Only a header: the answer without anything, or an error.
    pub(crate) fn bare(unique: u64, error: i32) -> Self {
        let header = OutHeader {
            len: HEADER as u32,
            error,
            unique,
        };
        let mut encoded = Self {
            head: [0; HEAD],
            head_len: HEADER,
            data: [&[]; PIECES],
        };
        encoded.head[..HEADER].copy_from_slice(header.as_bytes());
        encoded
    }

    /// Header and fixed part.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// What follows the head, in order.
    pub fn data(&self) -> impl Iterator<Item = &'a [u8]> {
        self.data.into_iter().filter(|piece| !piece.is_empty())
    }

    /// Everything, for one writev(2): the kernel takes a message only whole.
    pub fn io_slices(&self) -> IoSlices<'_> {
        let mut all = IoSlices {
            slices: [IoSlice::new(&[]); PIECES + 1],
            count: 0,
        };
        for piece in std::iter::once(self.head()).chain(self.data()) {
            all.slices[all.count] = IoSlice::new(piece);
            all.count += 1;
        }
        all
    }

    /// Bytes of the message.
    #[allow(clippy::len_without_is_empty, reason = "no message is empty")]
    pub fn len(&self) -> usize {
        self.head_len + self.data.iter().map(|piece| piece.len()).sum::<usize>()
    }
}

/// The pieces of a message, none of them empty.
#[derive(Clone, Copy, Debug)]
pub struct IoSlices<'a> {
    slices: [IoSlice<'a>; PIECES + 1],
    count: usize,
}

impl<'a> Deref for IoSlices<'a> {
    type Target = [IoSlice<'a>];

    fn deref(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }
}

/// The bytes of a struct or of several.
pub(crate) fn bytes<T: IntoBytes + Immutable + ?Sized>(value: &T) -> &[u8] {
    value.as_bytes()
}
