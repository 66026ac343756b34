//! A lookup that the table has counted and the kernel has not heard of yet.
//!
//! Invariant 4 holds on every way out of an operation: an error after the count, an entry that did not fit,
//! a listing cut short and a panic drop this, which gives the lookup back. Only a reply hands it over. Why
//! not a FORGET on each error path: a panic takes none of them, and a new path is easily without one.

use std::fmt;

use crate::backing::NamedCall;
use crate::passthrough::{Entry, Passthrough};

/// One lookup of an inode, given back when dropped.
#[must_use = "the lookup is given back at once"]
pub struct CountedLookup<'a> {
    fs: &'a Passthrough,
    ino: u64,
}

impl<'a> CountedLookup<'a> {
    /// The lookup of `ino` that the table of `fs` has just counted.
    pub(crate) fn new(fs: &'a Passthrough, ino: u64) -> Self {
        fs.backing.named(NamedCall::Lookup);
        Self { fs, ino }
    }

    /// The reply has it: from here on it is the kernel's to forget.
    pub fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for CountedLookup<'_> {
    fn drop(&mut self) {
        if let Some(journal) = &self.fs.journal {
            journal.uncounted(self.ino);
        }
        self.fs.forget(self.ino, 1);
    }
}

impl fmt::Debug for CountedLookup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CountedLookup").field(&self.ino).finish()
    }
}

/// What LOOKUP and the creating operations answer, with its lookup.
#[derive(Debug)]
#[must_use = "the lookup is given back at once"]
pub struct CountedEntry<'a> {
    pub(crate) entry: Entry,
    pub(crate) lookup: CountedLookup<'a>,
}

impl CountedEntry<'_> {
    /// The entry, which is not the kernel's yet.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The entry, for a reply that is sent: see [`CountedLookup::hand_over`].
    pub fn into_entry(self) -> Entry {
        self.lookup.hand_over();
        self.entry
    }
}
