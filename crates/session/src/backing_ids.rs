//! Kernel passthrough: the backing id of each inode that is open.
//!
//! Invariant: all handles of an inode that are open at one time are of one sort, since the kernel
//! answers open(2) with EIO when cached and passed-through handles of an inode meet, or handles with
//! two ids. So what the first one got, the later ones get, until the last is released.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use thrufs_fs::{Errno, KernelPassthrough, Opened, Passthrough, Result};

/// How the open handles of an inode are served, and how many there are.
struct OpenInode<Id> {
    /// None: through READ and WRITE.
    id: Option<Arc<Id>>,
    handles: usize,
}

/// See the module. `Id` closes the backing file when dropped.
pub(crate) struct BackingIds<Id> {
    /// Held while an id is made and dropped: ioctls on /dev/fuse that do not wait. A leaf lock.
    inodes: Mutex<HashMap<u64, OpenInode<Id>>>,
}

impl<Id> Default for BackingIds<Id> {
    fn default() -> Self {
        Self {
            inodes: Mutex::default(),
        }
    }
}

impl<Id> BackingIds<Id> {
    /// The id for a file that was just opened, if the kernel gets one; `register` gives the file to the
    /// kernel. After an error the file is closed again.
    ///
    /// # Errors
    /// Those of `register`, with `--passthrough=always`.
    pub(crate) fn open_for(
        &self,
        fs: &Passthrough,
        ino: u64,
        opened: &Opened,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<Id>,
    ) -> Result<Option<Arc<Id>>> {
        if !opened.passthrough {
            return Ok(None);
        }
        let fallback = fs.config().passthrough == KernelPassthrough::Auto;
        let found = self.open(ino, fallback, || {
            let id = fs.with_backing_file(ino, opened.fh, register)?;
            id.inspect_err(|error| {
                let inode = fs.identify(ino);
                tracing::debug!(%inode, %error, fallback, "no kernel passthrough");
            })
        });
        found.map_err(|error| {
            fs.release(ino, opened.fh);
            error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
        })
    }

    /// Counts one more handle of `ino` and returns its id; `open` makes one if it is the first.
    /// With `fallback` an inode that gets none is served through READ and WRITE.
    ///
    /// # Errors
    /// Those of `open`, without `fallback`; nothing is counted then.
    pub(crate) fn open(
        &self,
        ino: u64,
        fallback: bool,
        open: impl FnOnce() -> io::Result<Id>,
    ) -> io::Result<Option<Arc<Id>>> {
        let mut inodes = self.inodes.lock();
        if let Some(found) = inodes.get_mut(&ino) {
            found.handles += 1;
            return Ok(found.id.clone());
        }
        let id = match open() {
            Ok(id) => Some(Arc::new(id)),
            Err(_that_open_logs) if fallback => None,
            Err(error) => return Err(error),
        };
        let shared = id.clone();
        inodes.insert(ino, OpenInode { id, handles: 1 });
        Ok(shared)
    }

    /// A handle of `ino` was released.
    pub(crate) fn release(&self, ino: u64) {
        let mut inodes = self.inodes.lock();
        if let Some(found) = inodes.get_mut(&ino) {
            found.handles -= 1;
            if found.handles == 0 {
                inodes.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_while_another_is_open_shares_its_id() {
        let ids = BackingIds::default();
        let first = ids.open(7, false, || Ok(1)).unwrap();
        let second = ids.open(7, false, || panic!("a second id")).unwrap();
        assert_eq!((first.as_deref(), second.as_deref()), (Some(&1), Some(&1)));
        ids.release(7);
        assert_eq!(ids.open(7, false, || Ok(2)).unwrap().as_deref(), Some(&1));
        ids.release(7);
        ids.release(7);
        assert_eq!(ids.open(7, false, || Ok(3)).unwrap().as_deref(), Some(&3));
    }

    #[test]
    fn open_after_a_fallback_is_not_passed_through_until_release() {
        let ids = BackingIds::default();
        let refused = || Err(io::Error::from_raw_os_error(libc::ELOOP));
        assert!(ids.open(7, true, refused).unwrap().is_none());
        assert!(ids.open(7, true, || Ok(1)).unwrap().is_none());
        ids.release(7);
        ids.release(7);
        assert!(ids.open(7, true, || Ok(1)).unwrap().is_some());
    }

    #[test]
    fn open_that_must_and_cannot_is_an_error_and_not_counted() {
        let ids = BackingIds::<u32>::default();
        let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
        assert!(ids.open(7, false, refused).is_err());
        assert!(ids.inodes.lock().is_empty());
    }
}
