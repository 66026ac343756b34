//! What READDIR, FSYNCDIR and IOCTL find a directory open by: the handle of an OPENDIR, or a descriptor of their
//! own where OPENDIR is not served (`listings.rs`).

use std::sync::Arc;

use crate::caller::Caller;
use crate::config::CachePolicy;
use crate::error::{Errno, Result};
use crate::handle_table::Handle;
use crate::inode::Inode;
use crate::negotiated::Negotiated;
use crate::ops::killpriv::mode_and_owner;
use crate::ops::rights::Wanted;
use crate::passthrough::Passthrough;

/// In the place of a handle's number, where there was no OPENDIR.
const NO_HANDLE: u64 = 0;

impl Passthrough {
    /// Whether OPENDIR is not served: directories may be cached, the kernel can do without, and this process may
    /// open any of them at any time, also after a chmod(2) that a handle would not have noticed.
    pub(crate) fn lists_without_opendir(&self) -> bool {
        // In this order: most mounts cache no directories, and INIT's capabilities are a list of names.
        let can = |negotiated: &Negotiated| negotiated.has("FUSE_NO_OPENDIR_SUPPORT");
        self.caches_directories()
            && self.opens_any_directory
            && self.negotiated.get().is_some_and(can)
    }

    /// Whether the kernel may keep what a directory contains.
    pub(crate) fn caches_directories(&self) -> bool {
        matches!(
            self.config.cache,
            CachePolicy::Always | CachePolicy::Metadata
        )
    }

    /// The directory `inode` as `fh` has it open. Without OPENDIR it is opened now, unless the listing has come
    /// to `offset` before.
    ///
    /// # Errors
    /// EBADF; EACCES and ESTALE as [`Passthrough::check_still_open_to`]; else those of [`Passthrough::open_listed`].
    pub(crate) fn listed_by(
        &self,
        inode: &Inode,
        fh: u64,
        offset: u64,
        caller: &dyn Fn() -> Result<Caller>,
    ) -> Result<Arc<Handle>> {
        if fh != NO_HANDLE || !self.lists_without_opendir() {
            return self.handle(fh, inode.ino);
        }
        if offset != 0
            && let Some(handle) = self.listings.take(inode.ino, offset)
        {
            return Ok(handle);
        }
        let handle = self.open_listed(inode)?;
        if offset == 0 {
            let stat = || mode_and_owner(&handle.fd);
            self.check_still_open_to(&caller()?, inode, stat, Wanted::READ)?;
        }
        Ok(Arc::new(handle))
    }

    /// The directory, opened for one request.
    ///
    /// # Errors
    /// ENOENT for a removed directory; else the backing file system's.
    fn open_listed(&self, inode: &Inode) -> Result<Handle> {
        match self.open_inode(inode, libc::O_RDONLY | libc::O_DIRECTORY) {
            // A handle of a removed directory opens nothing; getdents64(2) of one that is open says so.
            Err(Errno::ESTALE) => Err(Errno::ENOENT),
            opened => opened.map(|fd| Handle::of_directory(inode.ino, fd)),
        }
    }

    /// What `fh` has open, or the directory `ino` where there was no OPENDIR, for FSYNCDIR and IOCTL.
    ///
    /// # Errors
    /// EBADF; else those of [`Passthrough::open_listed`].
    pub(crate) fn handle_or_directory(&self, fh: u64, ino: u64) -> Result<Arc<Handle>> {
        match fh == NO_HANDLE && self.lists_without_opendir() {
            true => Ok(Arc::new(self.open_listed(&*self.inode(ino)?)?)),
            false => self.handle(fh, ino),
        }
    }

    /// A READDIR from `offset` has come to `last`.
    pub(crate) fn keep_listing(&self, fh: u64, offset: u64, last: u64, handle: Arc<Handle>) {
        if fh == NO_HANDLE && last != offset {
            self.listings.keep(last, handle);
        }
    }
}
