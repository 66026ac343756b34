//! Names that the kernel knows not to be there.
//!
//! For such a name the kernel keeps an entry in its cache, also when it may not be used without asking
//! (entry timeout 0), and with it the directory, which NOTIFY_PRUNE cannot make it forget then. What drops
//! the entry is NOTIFY_INVAL_ENTRY, and that does nothing else where the name is not there.
//!
//! Invariant: a name that comes to be there is no longer here when the kernel learns of it; else a directory
//! that is in use would be dropped from the kernel's cache. At most [`MOST`] names are kept twice; beyond
//! that the oldest are lost, which keeps their directories known.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

/// A name and the number of its directory.
pub(super) type Name = (u64, OsString);

/// When so many are kept, they are told to the kernel before the mount is idle.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Absent {
    newer: HashSet<Name>,
    older: HashSet<Name>,
}

impl Absent {
    /// `name` is not in directory `parent`. Returns whether some are ready to be taken.
    pub(super) fn insert(&mut self, parent: u64, name: &OsStr) -> bool {
        self.newer.insert((parent, name.to_owned()));
        if self.newer.len() < MOST {
            return false;
        }
        self.older = std::mem::take(&mut self.newer);
        true
    }

    /// It comes to be there.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) {
        if self.newer.is_empty() && self.older.is_empty() {
            return;
        }
        let key = (parent, name.to_owned());
        self.newer.remove(&key);
        self.older.remove(&key);
    }

    /// Whether more are kept than is good.
    pub(super) fn is_full(&self) -> bool {
        !self.older.is_empty()
    }

    /// Takes one out: of the older ones, and of the others if `all`.
    pub(super) fn pop(&mut self, all: bool) -> Option<Name> {
        let from = match self.older.is_empty() {
            true if all => &mut self.newer,
            _ => &mut self.older,
        };
        let name = from.iter().next()?.clone();
        from.remove(&name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pop_gives_each_name_that_is_absent_still_once() {
        let mut absent = Absent::default();
        for name in ["a", "b", "a"] {
            assert!(!absent.insert(7, OsStr::new(name)));
        }
        absent.insert(8, OsStr::new("a"));
        absent.remove(7, OsStr::new("a"));
        assert_eq!(absent.pop(false), None);
        let mut all: Vec<_> = std::iter::from_fn(|| absent.pop(true)).collect();
        all.sort();
        assert_eq!(all, [(7, "b".into()), (8, "a".into())]);
    }

    #[test]
    fn insert_of_very_many_keeps_a_bounded_number() {
        let mut absent = Absent::default();
        let full = (0..3 * MOST).filter(|number| absent.insert(7, number.to_string().as_ref()));
        assert_eq!(full.count(), 3);
        assert!(absent.is_full());
        absent.remove(7, OsStr::new("12287"));
        let older = std::iter::from_fn(|| absent.pop(false)).count();
        assert_eq!(older, MOST - 1);
        assert!(!absent.is_full());
        assert_eq!(absent.pop(true), None);
    }
}
