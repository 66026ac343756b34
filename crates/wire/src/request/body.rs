//! Reads the arguments of one message from front to back.
//!
//! Every step takes what it needs or names the missing part; no length of the message is used
//! before it was compared with the bytes that are there. Structs are copied out: neither a guest
//! nor a socket promises alignment.

use std::ffi::CStr;

use zerocopy::{FromBytes, Immutable};

use super::error::Malformed;
use crate::abi::Abi;

/// The rest of the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next struct.
    pub(super) fn arg<T: Abi>(&mut self) -> Result<T, Malformed> {
        let (value, rest) = T::read_from_prefix(self.rest)
            .map_err(|_short| self.short(T::LAYOUT.name, size_of::<T>()))?;
        self.rest = rest;
        Ok(value)
    }

    /// The first `size` bytes of a struct, whose rest is zero: an older form.
    pub(super) fn prefix<T: Abi + Default>(&mut self, size: usize) -> Result<T, Malformed> {
        let mut value = T::default();
        let bytes = self.bytes(T::LAYOUT.name, size)?;
        let all = value.as_mut_bytes();
        let size = size.min(all.len());
        all[..size].copy_from_slice(&bytes[..size]);
        Ok(value)
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, part: &'static str, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.short(part, len))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next string. The file system checks which names an operation accepts: a slash, "..", or
    /// nothing at all passes here.
    pub(super) fn name(&mut self, part: &'static str) -> Result<&'a CStr, Malformed> {
        let name = CStr::from_bytes_until_nul(self.rest)
            .map_err(|_none| Malformed::Unterminated { part })?;
        self.rest = &self.rest[name.count_bytes() + 1..];
        Ok(name)
    }

    /// The whole rest, which must be exactly `count` of `T`.
    pub(super) fn array<T>(
        &mut self,
        part: &'static str,
        count: u32,
    ) -> Result<Array<'a, T>, Malformed>
    where
        T: FromBytes + Immutable,
    {
        let bytes = self.rest();
        let have = bytes.len() as u64;
        if u64::from(count) * size_of::<T>() as u64 != have {
            let have = have / size_of::<T>() as u64;
            let said = u64::from(count);
            return Err(Malformed::Count { part, said, have });
        }
        Ok(Array::new(bytes))
    }

    /// The whole rest.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The rest must be empty.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Malformed::Trailing { count }),
        }
    }

    fn short(&self, part: &'static str, need: usize) -> Malformed {
        let have = self.rest.len();
        Malformed::Short { part, need, have }
    }
}

/// Structs one after another in the message, read in place: an iterator that allocates nothing and
/// needs no alignment.
#[derive(Debug, PartialEq, Eq)]
pub struct Array<'a, T> {
    bytes: &'a [u8],
    of: std::marker::PhantomData<T>,
}

impl<T> Clone for Array<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Array<'_, T> {}

impl<'a, T> Array<'a, T> {
    /// `bytes` is a whole number of `T`; excess bytes are ignored.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let of = std::marker::PhantomData;
        Self { bytes, of }
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: FromBytes> Iterator for Array<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let (value, rest) = T::read_from_prefix(self.bytes).ok()?;
        self.bytes = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<T: FromBytes> ExactSizeIterator for Array<'_, T> {}
