//! Mounts below SOURCE, as the operations see them.

use std::io;
use std::time::Duration;

use crate::crossing::OwnMount;
use crate::passthrough::Passthrough;
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

    /// From now on lets mounts below SOURCE go when they are idle.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start_letting_go(&self, send: LetGo) -> io::Result<()> {
        self.sub_mounts.start(send)
    }
}
