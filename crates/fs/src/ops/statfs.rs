//! STATFS and SYNCFS.

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

    /// syncfs(2) of the backing file system that the directory `ino` is on.
    ///
    /// # Errors
    /// The backing file system's.
    pub fn syncfs(&self, ino: u64) -> Result<()> {
        let inode = self.inode(ino)?;
        let directory = self.open_inode(&inode, libc::O_RDONLY | libc::O_DIRECTORY)?;
        rustix::fs::syncfs(directory).or_errno()
    }
}
