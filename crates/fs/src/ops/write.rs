//! WRITE: the bytes are in the backing file before it is answered (invariant 1).

use std::os::fd::AsFd;

use crate::backing::Position;
use crate::error::{Errno, Result};
use crate::ops::data::with_read_buffer;
use crate::passthrough::Passthrough;

/// One WRITE.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Nodeid.
    pub ino: u64,
    /// Handle.
    pub fh: u64,
    /// Where the kernel believes the bytes go.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Flags that the file has now: O_APPEND may have come or gone since OPEN (fcntl(2)).
    pub flags: i32,
    /// The kernel writes its page cache back (FUSE_WRITE_CACHE), by a handle of its choice.
    pub from_cache: bool,
}

impl Passthrough {
    /// Writes, and returns how many bytes were written: all, unless an error stopped it midway.
    ///
    /// # Errors
    /// EBADF; EROFS; else the backing file's.
    pub fn write(&self, request: &WriteRequest<'_>) -> Result<usize> {
        self.stats.count_write_size(request.data.len());
        self.check_writable()?;
        let handle = self.handle(request.fh, request.ino)?;
        let append = request.flags & libc::O_APPEND != 0 && !request.from_cache;
        let position = if append {
            Position::Append
        } else {
            Position::At(request.offset)
        };
        let fd = handle.fd.as_fd();
        let written = if handle.is_direct() {
            // fuser's payload is never page-aligned.
            with_read_buffer(request.data.len(), |aligned| {
                aligned.copy_from_slice(request.data);
                self.backing.write(fd, aligned, position)
            })?
        } else {
            self.backing.write(fd, request.data, position)?
        };
        if written == 0 && !request.data.is_empty() {
            return Err(Errno::EIO);
        }
        self.stats.count_written(written);
        Ok(written)
    }
}
