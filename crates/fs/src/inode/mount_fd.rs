//! One descriptor per backing mount, through which that mount's file handles are opened.
//!
//! Held weakly by the table: when the last inode of a mount below SOURCE is forgotten, its
//! descriptor goes too and the mount can be unmounted.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::error::Result;

/// A descriptor (not O_PATH: open_by_handle_at(2) refuses those) somewhere on a mount.
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
}

impl MountFds {
    /// The descriptor of mount `mnt_id`, made by `open` when there is none yet.
    pub(crate) fn get(
        &self,
        mnt_id: u64,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Arc<MountFd>> {
        if let Some(mount) = self.by_id.read().get(&mnt_id).and_then(Weak::upgrade) {
            return Ok(mount);
        }
        let fresh = Arc::new(MountFd(open()?));
        let mut by_id = self.by_id.write();
        if let Some(mount) = by_id.get(&mnt_id).and_then(Weak::upgrade) {
            return Ok(mount);
        }
        by_id.retain(|_, mount| mount.strong_count() > 0);
        by_id.insert(mnt_id, Arc::downgrade(&fresh));
        Ok(fresh)
    }
}
