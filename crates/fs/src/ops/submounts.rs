//! Mounts below SOURCE, as the operations see them.

use std::io;
use std::time::Duration;

use crate::crossing::OwnMount;
use crate::inode::Inode;
use crate::inode::identity::{FileKind, key_of};
use crate::passthrough::{Entry, Passthrough};
use crate::submounts::LetGo;

impl Passthrough {
    /// From now on its own mount, and others that lead back, are not entered. The first call counts.
    pub fn set_own_mount(&self, own: OwnMount) {
        self.crossing.set_own_mount(own);
    }

    /// How long a name that `parent` does not have may be taken for absent. On a mount that is let go the
    /// kernel is to ask: a name that it is about to be told to drop may have come to be there.
    pub fn negative_timeout(&self, parent: u64) -> Duration {
        let timeout = self.config.timeouts.negative;
        let is_running = self.sub_mounts.is_running();
        let parent = (is_running && !timeout.is_zero()).then(|| self.inodes.get(parent));
        match parent.flatten() {
            Some(parent) if self.sub_mounts.is_below(&parent) => Duration::ZERO,
            _ => timeout,
        }
    }

    /// Whether the client is told that `entry` of `parent` is another file system, which it mounts by itself:
    /// with a device number of its own, and statfs(2) of its own. A subvolume counts as one.
    pub(crate) fn announces(&self, parent: &Inode, entry: &Entry) -> bool {
        if !self.config.announce_submounts || entry.attr.kind() != FileKind::Directory {
            return false;
        }
        let key = key_of(&entry.attr.stat);
        (key.dev, key.mnt_id) != (parent.key.dev, parent.key.mnt_id)
            && self
                .negotiated()
                .is_some_and(|negotiated| negotiated.has("FUSE_SUBMOUNTS"))
    }

    /// From now on lets mounts below SOURCE go when they are idle.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start_letting_go(&self, send: LetGo) -> io::Result<()> {
        self.sub_mounts.start(send)
    }
}
