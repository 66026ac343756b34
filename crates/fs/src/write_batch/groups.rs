//! The [`WriteGroup`] of each inode that is open for writing.
//!
//! Invariant: all handles of an inode whose WRITEs are joined share one group. OPEN looks it up and the
//! handle keeps it, so that a WRITE takes no table lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::WriteGroup;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WriteGroups {
    /// By nodeid, with the number of handles. A leaf lock, never held across a system call.
    groups: Mutex<HashMap<u64, (Arc<WriteGroup>, usize)>>,
}

impl WriteGroups {
    /// The group for one more handle of `ino`, to be given back with [`WriteGroups::release`].
    /// `make` makes a new one.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn enter<E>(
        &self,
        ino: u64,
        make: impl FnOnce() -> Result<WriteGroup, E>,
    ) -> Result<Arc<WriteGroup>, E> {
        if let Some((group, handles)) = self.groups.lock().get_mut(&ino) {
            *handles += 1;
            return Ok(Arc::clone(group));
        }
        let made = Arc::new(make()?);
        let mut groups = self.groups.lock();
        let (group, handles) = match groups.entry(ino) {
            // Another OPEN inserted it meanwhile.
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(free) => free.insert((made, 0)),
        };
        *handles += 1;
        Ok(Arc::clone(group))
    }

    /// A handle that entered is closed.
    pub(crate) fn release(&self, ino: u64) {
        let mut groups = self.groups.lock();
        let closed = match groups.get_mut(&ino) {
            Some((_, handles)) if *handles > 1 => {
                *handles -= 1;
                None
            }
            Some(_last) => groups.remove(&ino),
            None => None,
        };
        drop(groups);
        // Outside the lock: this may close a file.
        drop(closed);
    }

    /// Inodes with a group.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.groups.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Result<WriteGroup, ()> {
        Ok(WriteGroup::cached())
    }

    #[test]
    fn enter_by_several_handles_is_one_group_until_the_last_is_closed() {
        let groups = WriteGroups::default();
        let first = groups.enter(7, none).unwrap();
        let second = groups.enter(7, || Err(())).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &groups.enter(8, none).unwrap()));
        groups.release(7);
        assert!(Arc::ptr_eq(&first, &groups.enter(7, none).unwrap()));
        groups.release(7);
        groups.release(7);
        assert_eq!(groups.len(), 1);
        assert!(groups.enter(7, || Err(())).is_err());
    }
}
