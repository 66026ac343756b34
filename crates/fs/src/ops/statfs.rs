//! STATFS.

use crate::error::{IntoErrno, Result};
use crate::passthrough::Passthrough;

impl Passthrough {
    /// statvfs(3) of the backing file system that `ino` is on.
    ///
    /// # Errors
    /// The backing file system's.
    pub fn statfs(&self, ino: u64) -> Result<rustix::fs::StatVfs> {
        let inode = self.inode(ino)?;
        rustix::fs::fstatvfs(self.path_fd(&inode)?).or_errno()
    }
}
