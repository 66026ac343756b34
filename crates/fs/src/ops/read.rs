//! READ, and the buffers that READ and direct WRITE use.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::buffer::{DEFAULT_REQUEST, MAX_REQUEST, with_read_buffer};
use crate::error::{Errno, Result};
use crate::handle_table::Handle;
use crate::ops::write::WriteRequest;
use crate::passthrough::Passthrough;

/// One READ.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Nodeid.
    pub ino: u64,
    /// Handle.
    pub fh: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes asked for.
    pub size: usize,
    /// Flags that the file has now: O_DIRECT may have come or gone since OPEN (fcntl(2)).
    pub flags: i32,
}

impl Passthrough {
    /// Serves a READ of `size` bytes from this thread's buffer, and hands what was read to `take`.
    ///
    /// # Errors
    /// EINVAL for more bytes than INIT allows, which no kernel asks for; else of [`Passthrough::read`].
    pub fn read_with<T>(&self, request: &ReadRequest, take: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let ReadRequest {
            ino,
            fh,
            offset,
            size,
            flags,
        } = *request;
        self.check_read_size(size)?;
        with_read_buffer(size, |buf| {
            let count = self.read(ino, fh, offset, flags, buf)?;
            self.stats.count_read(count);
            Ok(take(&buf[..count]))
        })
    }

    /// INIT's number of pages is that of a largest WRITE and holds for READs too; each session thread
    /// keeps a buffer for the largest that it met.
    pub(super) fn check_read_size(&self, size: usize) -> Result<()> {
        let limit = self.negotiated.get().map_or(MAX_REQUEST, |negotiated| {
            (negotiated.max_write_asked as usize).max(DEFAULT_REQUEST)
        });
        if size > limit {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Fills `buf` from `offset` of the open file, which has `flags` now; fewer bytes only at the end of
    /// the file.
    ///
    /// # Errors
    /// EBADF; EISDIR; else the backing file's.
    pub fn read(
        &self,
        ino: u64,
        fh: u64,
        offset: u64,
        flags: i32,
        buf: &mut [u8],
    ) -> Result<usize> {
        let handle = self.handle(fh, ino)?;
        if flags & libc::O_DIRECT == 0 {
            note_read(&handle);
        }
        self.backing.read(handle.fd.as_fd(), buf, offset)
    }

    /// Whether the kernel may have cached bytes from before the direct WRITE `request`, which has been
    /// done. Before it sends one it drops what it cached of the range, and afterwards only where the program
    /// waited in the system call: not for asynchronous I/O, up to Linux 7.2. A READ that was served in
    /// between leaves older bytes (probe R8; xfstests generic/451).
    pub fn may_be_cached_stale(&self, request: &WriteRequest<'_>) -> bool {
        let is_direct = request.flags & libc::O_DIRECT != 0 && !request.from_cache;
        // With a cache that is bypassed it is the kernel's business: any READ would count here.
        if !is_direct || self.config.cache.is_direct() {
            return false;
        }
        let handle = self.handle(request.fh, request.ino);
        handle.is_ok_and(|handle| {
            let inode = handle.file().and_then(|file| file.inode.as_ref());
            inode.is_some_and(|inode| inode.is_read.load(Ordering::SeqCst))
        })
    }
}

/// To be called before the bytes are read: a WRITE that does not find it has been done by then.
pub(super) fn note_read(handle: &Handle) {
    let inode = handle.file().and_then(|file| file.inode.as_ref());
    // Not stored to each time: other threads have it in their caches.
    if let Some(inode) = inode.filter(|inode| !inode.is_read.load(Ordering::SeqCst)) {
        inode.is_read.store(true, Ordering::SeqCst);
    }
}
