//! One descriptor per backing mount, through which that mount's file handles are opened.
//!
//! Invariant: the descriptor is one of a directory of that mount, never of a client's file, which it
//! would keep on SOURCE after its last name is gone. SOURCE's own mount has SOURCE itself. A mount below
//! SOURCE is met at its top first, since every name on it is looked up in a directory that is known; a
//! file that is mounted alone has no directory, and is held by a descriptor itself.
//!
//! Held weakly by the table: when the last inode of a mount below SOURCE is forgotten, its
//! descriptor goes too and the mount can be unmounted.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::error::Result;

/// A descriptor (not O_PATH: open_by_handle_at(2) refuses those) of a directory on a mount.
#[derive(Debug)]
pub(crate) struct MountFd(OwnedFd);

impl AsFd for MountFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The mounts below SOURCE that were met, by mount id.
#[derive(Debug, Default)]
pub(crate) struct MountFds {
    /// A leaf lock: nothing is taken or waited for while it is held.
    by_id: RwLock<HashMap<u64, Weak<MountFd>>>,
    /// SOURCE's own mount, which the inode of SOURCE keeps busy anyway.
    _top: Option<Arc<MountFd>>,
}

impl MountFds {
    /// SOURCE's own mount is `mnt_id`, and `top` the directory SOURCE on it.
    pub(crate) fn with_top(mnt_id: u64, top: OwnedFd) -> Self {
        let top = Arc::new(MountFd(top));
        Self {
            by_id: RwLock::new(HashMap::from([(mnt_id, Arc::downgrade(&top))])),
            _top: Some(top),
        }
    }

    /// The descriptor of mount `mnt_id`, made by `open` when there is none yet, unless there can be none.
    ///
    /// # Errors
    /// Of `open`.
    pub(crate) fn get(
        &self,
        mnt_id: u64,
        open: impl FnOnce() -> Result<Option<OwnedFd>>,
    ) -> Result<Option<Arc<MountFd>>> {
        if let Some(mount) = self.by_id.read().get(&mnt_id).and_then(Weak::upgrade) {
            return Ok(Some(mount));
        }
        let Some(fd) = open()? else { return Ok(None) };
        let fresh = Arc::new(MountFd(fd));
        let mut by_id = self.by_id.write();
        if let Some(mount) = by_id.get(&mnt_id).and_then(Weak::upgrade) {
            return Ok(Some(mount));
        }
        by_id.retain(|_, mount| mount.strong_count() > 0);
        by_id.insert(mnt_id, Arc::downgrade(&fresh));
        Ok(Some(fresh))
    }
}
