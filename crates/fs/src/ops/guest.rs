//! READ and WRITE of a virtual machine: one preadv(2) or pwritev2(2) on its memory, without a copy here.
//!
//! A WRITE that may be joined with others, or is durable, is copied: the leader of the others needs bytes
//! that the guest does not change. So is what O_DIRECT does not take where it lies.

use std::os::fd::AsFd;

use thrufs_sys::guest_memory::GuestRange;

use super::read::{ReadRequest, note_read};
use super::write::WriteRequest;
use crate::backing::Position;
use crate::buffer::with_copy_buffer;
use crate::error::{Errno, Result};
use crate::handle_table::Handle;
use crate::passthrough::Passthrough;

impl Passthrough {
    /// Serves a READ into `to`, of at most its size. Returns how many bytes were read.
    ///
    /// # Errors
    /// As [`Passthrough::read_with`].
    pub fn read_guest(&self, request: &ReadRequest, to: GuestRange<'_>) -> Result<usize> {
        self.check_read_size(request.size)?;
        let handle = self.handle(request.fh, request.ino)?;
        if request.flags & libc::O_DIRECT == 0 {
            note_read(&handle);
        }
        let (to, offset) = (to.first(request.size), request.offset);
        let is_direct = handle.file().is_some_and(|file| file.direct);
        let count = match self.backing.read_guest(handle.fd.as_fd(), to, offset) {
            Err(Errno::EINVAL) if is_direct => with_copy_buffer(to.len(), |aligned| {
                let count = self.backing.read(handle.fd.as_fd(), aligned, offset)?;
                Ok(to.copy_from(&aligned[..count]))
            })?,
            done => done?,
        };
        self.stats.count_read(count);
        Ok(count)
    }

    /// As [`Passthrough::write`], of `data` in place of those in `request`.
    ///
    /// # Errors
    /// As there.
    pub fn write_guest(&self, request: &WriteRequest<'_>, data: GuestRange<'_>) -> Result<usize> {
        let handle = self.handle(request.fh, request.ino)?;
        let file = handle.file().ok_or(Errno::EBADF)?;
        if file.group.is_some() || self.is_durable() || request.from_cache {
            return self.write_copy(request, data);
        }
        self.check_writable()?;
        match self.write_in_place(&handle, request, data) {
            Err(Errno::EINVAL) if file.direct => self.write_copy(request, data),
            Ok(0) if !data.is_empty() => Err(Errno::EIO),
            Ok(written) => {
                self.stats.count_write_size(data.len());
                self.stats.count_written(written);
                Ok(written)
            }
            Err(error) => {
                self.stats.count_write_size(data.len());
                Err(error)
            }
        }
    }

    fn write_copy(&self, request: &WriteRequest<'_>, data: GuestRange<'_>) -> Result<usize> {
        with_copy_buffer(data.len(), |copy| {
            data.copy_to(copy);
            self.write(&WriteRequest {
                data: copy,
                ..*request
            })
        })
    }

    /// Writes all, unless an error stops it midway; a SOURCE that is full does if that does not change.
    fn write_in_place(
        &self,
        handle: &Handle,
        request: &WriteRequest<'_>,
        data: GuestRange<'_>,
    ) -> Result<usize> {
        let mut written = 0;
        let done = self.with_space(|| {
            let rest = data.after(written);
            let position = match request.appends() {
                true => Position::Append,
                false => Position::At(request.offset + written as u64),
            };
            let fd = handle.fd.as_fd();
            let count = self.changing(handle, || self.backing.write_guest(fd, rest, position))?;
            written += count;
            match position {
                Position::At(_) if 0 < count && count < rest.len() => Err(Errno::ENOSPC),
                Position::At(_) | Position::Append => Ok(()),
            }
        });
        match done {
            Err(error) if written == 0 => Err(error),
            Ok(()) | Err(_) => Ok(written),
        }
    }
}
