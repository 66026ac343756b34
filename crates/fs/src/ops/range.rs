//! FALLOCATE, LSEEK and COPY_FILE_RANGE.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::SeekFrom;

use crate::backing::Span;
use crate::coherence::external::Sets;
use crate::error::{Errno, IntoErrno, Result};
use crate::handle_table::Handle;
use crate::passthrough::Passthrough;

/// Bytes that a call of copy_file_range(2) copies at most: a multiple of the page size, which keeps a reflink
/// possible (`MAX_RW_COUNT`).
const COPIED_AT_ONCE: u64 = 0x7fff_f000;
/// What takes longer is no sharing of extents.
const SHARES_WITHIN: Duration = Duration::from_millis(100);

impl Passthrough {
    /// fallocate(2) with the modes that the backing file system has.
    ///
    /// # Errors
    /// EOPNOTSUPP for a mode that it lacks; else its own.
    pub fn fallocate(&self, ino: u64, fh: u64, offset: u64, length: u64, mode: u32) -> Result<()> {
        self.check_writable()?;
        let handle = self.handle(fh, ino)?;
        let fd = handle.fd.as_fd();
        let allocate = || self.backing.allocate(fd, mode, offset, length);
        self.with_space(|| self.changing(&handle, allocate))?;
        self.make_durable(fd)
    }

    /// Runs what changes the content of an open file.
    pub(crate) fn changing<T>(&self, handle: &Handle, change: impl FnOnce() -> T) -> T {
        let watch = handle.file().and_then(|file| file.watch.as_ref());
        let Some((own, external)) = watch.map(|watch| watch.begin(&handle.fd, Sets::Now)) else {
            return change();
        };
        let done = change();
        // Before the notification: what is fetched after it has this change.
        drop(own);
        self.invalidate_file(handle.ino, external);
        done
    }

    /// Under `--durability=dsync`, what a call through `fd` did to a file's content.
    fn make_durable(&self, fd: BorrowedFd<'_>) -> Result<()> {
        if self.is_durable() {
            self.backing.sync(fd, true)
        } else {
            Ok(())
        }
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; the kernel does the others itself.
    ///
    /// # Errors
    /// ENXIO beyond the end; EINVAL for another `whence`.
    pub fn lseek(&self, ino: u64, fh: u64, offset: i64, whence: i32) -> Result<u64> {
        let handle = self.handle(fh, ino)?;
        let start = u64::try_from(offset).map_err(|_negative| Errno::ENXIO)?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(start),
            libc::SEEK_HOLE => SeekFrom::Hole(start),
            libc::SEEK_SET => SeekFrom::Start(start),
            libc::SEEK_END => SeekFrom::End(offset),
            _unknown => return Err(Errno::EINVAL),
        };
        rustix::fs::seek(&handle.fd, to).or_errno()
    }

    /// copy_file_range(2) from one open file (`ino`, `fh`, `offset`) to another: bytes copied. As many calls as it
    /// takes where SOURCE shares extents, of which the VFS takes less than 2 GiB at a time; where it copies,
    /// the caller decides after each whether to go on.
    ///
    /// # Errors
    /// EXDEV where the backing kernel cannot; else its own.
    pub fn copy_file_range(
        &self,
        (ino_in, fh_in, offset_in): (u64, u64, u64),
        (ino_out, fh_out, offset_out): (u64, u64, u64),
        length: u64,
    ) -> Result<u64> {
        self.check_writable()?;
        let (from, target) = (self.handle(fh_in, ino_in)?, self.handle(fh_out, ino_out)?);
        let began = Instant::now();
        let part = |copied: u64| {
            let from = Span {
                fd: from.fd.as_fd(),
                offset: offset_in + copied,
            };
            let to = Span {
                fd: target.fd.as_fd(),
                offset: offset_out + copied,
            };
            let length = (length - copied).min(COPIED_AT_ONCE);
            self.backing.copy_range(from, to, length as usize)
        };
        let copy = || {
            let mut copied = 0;
            loop {
                copied += match part(copied) {
                    Ok(count) => count as u64,
                    Err(error) if copied == 0 => return Err(error),
                    // The next request has it.
                    Err(_) => return Ok(copied),
                };
                let is_whole = copied % COPIED_AT_ONCE == 0 && copied > 0;
                if !is_whole || copied >= length || began.elapsed() > SHARES_WITHIN {
                    return Ok(copied);
                }
            }
        };
        let copied = self.with_space(|| self.changing(&target, copy))?;
        self.make_durable(target.fd.as_fd()).map(|()| copied)
    }
}
