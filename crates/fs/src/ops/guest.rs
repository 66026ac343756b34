//! READ and WRITE of a virtual machine: one preadv(2) or pwritev2(2) on its memory, without a copy here.
//!
//! A WRITE that may be joined with others, is durable, or appends and may come again after a death, is copied: what is
//! compared or handed to another thread must be bytes that the guest does not change. So is what O_DIRECT does not take
//! where it lies.
//!
//! A READ comes in two steps where the first one would wait, so that the thread of a queue need not
//! ([`crate::waits`]).

use std::os::fd::AsFd;
use std::time::Instant;

use thrufs_sys::guest_memory::GuestRange;

use super::read::{ReadRequest, note_read};
use super::write::WriteRequest;
use crate::backing::{AtOnce, Position};
use crate::buffer::with_copy_buffer;
use crate::error::{Errno, Result};
use crate::handle_table::Handle;
use crate::passthrough::Passthrough;
use crate::waits::Expected;

impl Passthrough {
    /// Serves as much of a READ into `to`, of at most its size, as there is without waiting.
    ///
    /// # Errors
    /// As [`Passthrough::read_with`].
    pub fn read_guest_at_once(&self, request: &ReadRequest, to: GuestRange<'_>) -> Result<AtOnce> {
        self.check_read_size(request.size)?;
        let handle = self.handle_again(request.fh, request.ino)?;
        let file = handle.file().ok_or(Errno::EISDIR)?;
        let dev = file.inode.as_ref().map(|inode| inode.key.dev);
        match dev.map_or(Expected::Told, |dev| self.waits.expected(dev)) {
            Expected::Yes => return Ok(AtOnce::Waits(0)),
            Expected::No { is_timed } => {
                return self
                    .read_timed(&handle, request, to, is_timed)
                    .map(AtOnce::Done);
            }
            // What the device says is waited for, whatever the flag.
            Expected::Told if file.direct => return Ok(AtOnce::Waits(0)),
            Expected::Told => {}
        }
        note(&handle, request);
        let (fd, to) = (handle.fd.as_fd(), to.first(request.size));
        match self.backing.read_guest_at_once(fd, to, request.offset)? {
            AtOnce::Unknown => {
                let Some(dev) = dev else {
                    return Ok(AtOnce::Waits(0));
                };
                self.waits.note_refusal(dev, fd);
                match self.waits.expected(dev) {
                    Expected::No { .. } => {
                        let count = self.read_timed(&handle, request, to, false);
                        count.map(AtOnce::Done)
                    }
                    Expected::Told | Expected::Yes => Ok(AtOnce::Waits(0)),
                }
            }
            AtOnce::Done(count) => {
                self.stats.count_read(count);
                Ok(AtOnce::Done(count))
            }
            AtOnce::Waits(count) => Ok(AtOnce::Waits(count)),
        }
    }

    /// Serves a READ into `to`, of at most its size and but for the first `done` bytes, which are there. Returns how
    /// many bytes there are then.
    ///
    /// # Errors
    /// As [`Passthrough::read_with`].
    pub fn read_guest(
        &self,
        request: &ReadRequest,
        to: GuestRange<'_>,
        done: usize,
    ) -> Result<usize> {
        self.check_read_size(request.size)?;
        let handle = self.handle_again(request.fh, request.ino)?;
        let rest = ReadRequest {
            offset: request.offset + done as u64,
            size: request.size - done,
            ..*request
        };
        let count = self.read_timed(&handle, &rest, to.after(done), true);
        Ok(done + count?)
    }

    fn read_timed(
        &self,
        handle: &Handle,
        request: &ReadRequest,
        to: GuestRange<'_>,
        is_timed: bool,
    ) -> Result<usize> {
        note(handle, request);
        let began = is_timed.then(Instant::now);
        let (to, offset) = (to.first(request.size), request.offset);
        let file = handle.file();
        let is_direct = file.is_some_and(|file| file.direct);
        let count = match self.backing.read_guest(handle.fd.as_fd(), to, offset) {
            Err(Errno::EINVAL) if is_direct => with_copy_buffer(to.len(), |aligned| {
                let count = self.backing.read(handle.fd.as_fd(), aligned, offset)?;
                Ok(to.copy_from(&aligned[..count]))
            })?,
            done => done?,
        };
        let inode = file.and_then(|file| file.inode.as_ref());
        if let (Some(began), Some(inode)) = (began, inode) {
            self.waits.note_time(inode.key.dev, began.elapsed());
        }
        self.stats.count_read(count);
        Ok(count)
    }

    /// Whether a WRITE by a handle that has `flags` now waits for a disk as a rule: durable, or direct.
    pub fn write_waits(&self, flags: i32) -> bool {
        let is_direct = self.config.allow_direct_io && flags & libc::O_DIRECT != 0;
        is_direct || self.is_durable()
    }

    /// As [`Passthrough::write`], of `data` in place of those in `request`.
    ///
    /// # Errors
    /// As there.
    pub fn write_guest(&self, request: &WriteRequest<'_>, data: GuestRange<'_>) -> Result<usize> {
        let handle = self.handle_again(request.fh, request.ino)?;
        let file = handle.file().ok_or(Errno::EBADF)?;
        // What is appended once, though the request may come twice, is compared with what is there.
        let is_journalled = request.appends() && self.note().is_some();
        if file.group.is_some() || self.is_durable() || request.from_cache || is_journalled {
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

/// See [`note_read`].
fn note(handle: &Handle, request: &ReadRequest) {
    if request.flags & libc::O_DIRECT == 0 {
        note_read(handle);
    }
}
