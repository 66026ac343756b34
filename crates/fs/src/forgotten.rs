//! Inodes that the kernel has forgotten and may ask for again by nodeid: a file handle of the mount (an NFS
//! client's, open_by_handle_at(2)) finds its file after eviction (FUSE_EXPORT_SUPPORT).
//!
//! Invariant: here is only what was held by a file handle and had a name when it was forgotten, at most [`MOST`]
//! of them; the one that was forgotten first goes first. No descriptor is kept: a mount below SOURCE can be
//! unmounted. Why not a nodeid from which the file handle follows: a handle has up to 128 bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use thrufs_sys::file_handle::FileHandle;

use crate::inode::mount_fd::MountFd;
use crate::inode::{Inode, InodeRef};

/// About 8 MB.
const MOST: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// A leaf lock, held for no system call.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_ino: HashMap<u64, Known>,
    /// In the order in which they were forgotten; one that was forgotten again stands here twice.
    order: VecDeque<(u64, u64)>,
    count: u64,
}

#[derive(Debug)]
struct Known {
    mount: Weak<MountFd>,
    fid: FileHandle,
    /// Which of the entries in the order is the last one.
    at: u64,
}

impl Forgotten {
    /// The kernel has forgotten `inode`.
    pub(crate) fn note(&self, inode: &Inode) {
        let InodeRef::Handle { mount, fid } = &inode.held else {
            return;
        };
        let (mount, fid) = (Arc::downgrade(mount), fid.clone());
        let mut state = self.state.lock();
        state.count += 1;
        let at = state.count;
        state.order.push_back((inode.ino, at));
        let before = state.by_ino.insert(inode.ino, Known { mount, fid, at });
        let is_full = state.order.len() > MOST;
        let oldest = is_full.then(|| state.order.pop_front()).flatten();
        let gone = oldest
            .filter(|(ino, at)| state.by_ino.get(ino).is_some_and(|known| known.at == *at))
            .and_then(|(ino, _)| state.by_ino.remove(&ino));
        drop(state);
        drop((before, gone));
    }

    /// How the inode that had the nodeid `ino` last can be opened.
    pub(crate) fn get(&self, ino: u64) -> Option<(Arc<MountFd>, FileHandle)> {
        let state = self.state.lock();
        let known = state.by_ino.get(&ino)?;
        Some((known.mount.upgrade()?, known.fid.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::inode::identity::{FileKind, InodeKey};
    use crate::inode::mount_fd::MountFds;

    fn inode(mount: &Arc<MountFd>, ino: u64, generation: u64) -> Inode {
        let (dev, mnt_id) = (1, 1);
        let fid = FileHandle::from_parts(1, &generation.to_ne_bytes()).unwrap();
        let mount = Arc::clone(mount);
        let held = InodeRef::Handle { mount, fid };
        Inode::new(ino, InodeKey { dev, ino, mnt_id }, FileKind::Regular, held)
    }

    #[test]
    fn note_of_more_than_the_most_lets_the_oldest_go() {
        let mounts = MountFds::default();
        let top = || Ok(Some(File::open("/").unwrap().into()));
        let mount = mounts.get(1, top).unwrap().unwrap();
        let forgotten = Forgotten::default();
        let fid = |ino| forgotten.get(ino).map(|(_, fid)| fid);
        for ino in 2..MOST as u64 + 2 {
            forgotten.note(&inode(&mount, ino, 0));
        }
        assert!(fid(2).is_some() && fid(3).is_some());
        // Forgotten once more, as another file: no longer the oldest.
        forgotten.note(&inode(&mount, 2, 7));
        assert_eq!(fid(2), FileHandle::from_parts(1, &7_u64.to_ne_bytes()));
        forgotten.note(&inode(&mount, 1 << 40, 0));
        assert!(fid(2).is_some() && fid(3).is_none() && fid(4).is_some());
        assert_eq!(forgotten.state.lock().by_ino.len(), MOST);
        drop((mount, mounts));
        assert_eq!(fid(2), None, "its mount is gone");
    }
}
