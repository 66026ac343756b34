//! Listings without OPENDIR: where the kernel may keep what a directory contains, it asks for no handle of it
//! either, once OPENDIR was answered with ENOSYS. That saves OPENDIR and RELEASEDIR, two of four requests.
//!
//! Invariant: a listing that goes on where its last READDIR ended does so with the same descriptor, while
//! [`KEPT`] suffices: cookies of some file systems (overlayfs, FUSE) mean nothing to another. Why not seek a new
//! descriptor there each time: because of these, and it costs one more open(2).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::caller::OVERRIDE;
use crate::handle_table::Handle;

/// Listings that are not at their end. One that is given up keeps its descriptor until so many others were
/// begun, or the directory is forgotten.
const KEPT: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    /// The oldest first. A leaf lock.
    kept: Mutex<Vec<Listing>>,
}

#[derive(Debug)]
struct Listing {
    /// Where it goes on.
    at: u64,
    handle: Arc<Handle>,
}

impl Listings {
    /// The one of directory `ino` that has come to `at`.
    pub(crate) fn take(&self, ino: u64, at: u64) -> Option<Arc<Handle>> {
        let mut kept = self.kept.lock();
        let is = |listing: &Listing| listing.at == at && listing.handle.ino == ino;
        let place = kept.iter().position(is)?;
        Some(kept.remove(place).handle)
    }

    /// It will go on at `at`.
    pub(crate) fn keep(&self, at: u64, handle: Arc<Handle>) {
        // Closed after the lock is given up.
        let _oldest = {
            let mut kept = self.kept.lock();
            let oldest = (kept.len() >= KEPT).then(|| kept.remove(0));
            kept.push(Listing { at, handle });
            oldest
        };
    }

    /// The kernel has forgotten the directory.
    pub(crate) fn forget(&self, ino: u64) {
        let _closed: Vec<_> = {
            let mut kept = self.kept.lock();
            kept.extract_if(.., |listing| listing.handle.ino == ino)
                .collect()
        };
    }
}

/// Whether this process may open every directory to list it.
pub(crate) fn opens_any_directory() -> bool {
    let held = rustix::thread::capabilities(None);
    held.is_ok_and(|held| held.effective.intersects(OVERRIDE))
}
