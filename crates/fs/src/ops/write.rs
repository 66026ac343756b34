//! WRITE: the bytes are in the backing file before it is answered (invariant 1).

use std::os::fd::AsFd;

use crate::backing::Position;
use crate::buffer::{is_aligned, with_read_buffer};
use crate::coherence::invalidate::InvalRange;
use crate::config::Durability;
use crate::error::{Errno, IntoErrno, Result};
use crate::handle_table::{Handle, OpenFile};
use crate::passthrough::Passthrough;
use crate::write_batch::{Piece, Writer};

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

impl WriteRequest<'_> {
    /// The bytes go to the end of the file, wherever that is by now. The page cache is written back to where
    /// it belongs, whatever the flags of the handle.
    pub(super) fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0 && !self.from_cache
    }
}

impl Passthrough {
    /// Writes, and returns how many bytes were written: all, unless an error stopped it midway.
    /// For pages that the kernel writes back it is all or an error: the kernel looks at no count
    /// there, so a short one would be lost without anybody being told.
    ///
    /// # Errors
    /// EBADF; EROFS; else the backing file's.
    pub fn write(&self, request: &WriteRequest<'_>) -> Result<usize> {
        self.stats.count_write_size(request.data.len());
        self.check_writable()?;
        let handle = self.handle(request.fh, request.ino)?;
        let position = if request.appends() {
            Position::Append
        } else {
            Position::At(request.offset)
        };
        let file = handle.file().ok_or(Errno::EBADF)?;
        if let Some(inode) = &file.inode {
            inode.sort.note_write();
        }
        let writer = Writer {
            backing: &*self.backing,
            stats: &self.stats,
            fd: handle.fd.as_fd(),
            datasync: self.is_durable().then_some(!file.syncs_metadata),
        };
        let piece = Piece {
            data: request.data,
            position,
            whole: request.from_cache,
        };
        let write = |done| self.write_all(&handle, file, writer, piece.after(done));
        let written = match position {
            Position::Append => self.append_once(&handle, request.data, write)?,
            Position::At(_) => write(0)?,
        };
        if written == 0 && !request.data.is_empty() {
            return Err(Errno::EIO);
        }
        self.stats.count_written(written);
        Ok(written)
    }

    /// Writes all, unless an error stops it midway; a SOURCE that is full does if that does not change.
    fn write_all(
        &self,
        handle: &Handle,
        file: &OpenFile,
        writer: Writer<'_>,
        piece: Piece<'_>,
    ) -> Result<usize> {
        let mut written = 0;
        let done = self.with_space(|| {
            let rest = piece.after(written);
            let count = self.changing(handle, || Self::write_piece(file, writer, rest))?;
            written += count;
            match piece.position {
                // What stopped it is not told: if it was another error, the rest fails with that.
                Position::At(_) if 0 < count && count < rest.data.len() => Err(Errno::ENOSPC),
                Position::At(_) | Position::Append => Ok(()),
            }
        });
        match done {
            Err(error) if written == 0 => Err(error),
            Ok(()) | Err(_) => Ok(written),
        }
    }

    fn write_piece(file: &OpenFile, writer: Writer<'_>, piece: Piece<'_>) -> Result<usize> {
        match &file.group {
            Some(group) => writer.write_in(group, piece),
            // It is aligned if the program has the allocator for it (`thrufs_sys::session_buffer`).
            None if file.direct && !is_aligned(piece.data) => {
                with_read_buffer(piece.data.len(), |aligned| {
                    aligned.copy_from_slice(piece.data);
                    let data = &*aligned;
                    writer.write_alone(Piece { data, ..piece })
                })
            }
            None => writer.write_alone(piece),
        }
    }

    /// Whether what changes the content of a file is durable before it is answered.
    pub(crate) fn is_durable(&self) -> bool {
        self.config.durability == Durability::Dsync
    }

    /// Invalidates the range of a direct WRITE in the kernel's cache, and calls `then` afterwards.
    pub fn drop_range_then(
        &self,
        request: &WriteRequest<'_>,
        then: impl FnOnce() + Send + 'static,
    ) {
        let start = request.offset;
        let end = (!request.appends()).then(|| start.saturating_add(request.data.len() as u64));
        self.invalidations
            .push_then(request.ino, InvalRange { start, end }, Box::new(then));
    }

    /// After the reply to a WRITE that failed or was short: invalidates in the kernel's cache
    /// the range, since the backing file may hold something else (`coherence/invalidate.rs`).
    pub fn invalidate_after_failed_write(&self, request: &WriteRequest<'_>) {
        let end = request.offset.saturating_add(request.data.len() as u64);
        // Beyond the end of the file the kernel may have kept bytes that a later extension would
        // show. A file that cannot be asked for its size is treated as short.
        let size = self
            .handle(request.fh, request.ino)
            .and_then(|handle| rustix::fs::fstat(&handle.fd).or_errno())
            .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        let end = (end < size && !request.appends()).then_some(end);
        let start = request.offset;
        self.invalidations
            .push(request.ino, InvalRange { start, end });
    }
}
