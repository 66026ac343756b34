//! The file system below: the calls that carry data or make it durable.
//!
//! A trait because it is the seam where tests inject faults; everything that only names or
//! describes files goes to the kernel directly. Counts are whole: an implementation returns less
//! than it was asked for only at the end of the file or after a failure.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use thrufs_sys::guest_memory::GuestRange;

use crate::error::{Errno, IntoErrno, Result};
use crate::stats::noted::{note_flush, note_pwritev2};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At this offset in bytes.
    At(u64),
    /// At the end of the file at that moment (O_APPEND), atomically with respect to others.
    Append,
}

/// A call that only names files, after which tests may end the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedCall {
    /// UNLINK and RMDIR have removed a name.
    Remove,
    /// RENAME has.
    Rename,
    /// CREATE, MKNOD, MKDIR or SYMLINK has made something.
    Make,
    /// LINK has.
    Link,
    /// SETXATTR or REMOVEXATTR has.
    Xattr,
    /// A handle is open.
    Open,
    /// A lookup is counted.
    Lookup,
}

/// See the module. Every error is the errno of the system call. A call that an implementation does not replace
/// is the host's.
pub trait Backing: Send + Sync + std::fmt::Debug {
    /// The thread has made this call, and has not answered its request.
    fn named(&self, _call: NamedCall) {}

    /// Whether what may not be repeated is noted before it is begun.
    fn keeps_journal(&self) -> bool {
        true
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// preadv(2)'s, if nothing was read.
    fn read(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        repeat(buf.len(), |done| {
            let rest = &mut [IoSliceMut::new(&mut buf[done..])];
            Ok(rustix::io::preadv(fd, rest, offset + done as u64)?)
        })
    }

    /// Writes `data`; fewer bytes only if an error stopped it after those (pwritev2(2)).
    ///
    /// # Errors
    /// pwritev2(2)'s, if nothing was written.
    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        let parts = &mut [IoSlice::new(data)];
        write_all(fd, parts, position, ReadWriteFlags::empty())
    }

    /// As `write`, and the bytes are on stable storage when it returns (RWF_SYNC; without the
    /// metadata that reading them does not need, RWF_DSYNC, if `datasync`).
    ///
    /// In two steps by default, so that tests can fail the flush alone.
    ///
    /// # Errors
    /// As `write`; or of the flush, with the bytes in the backing file nevertheless.
    fn write_durable(
        &self,
        fd: BorrowedFd<'_>,
        data: &[u8],
        position: Position,
        datasync: bool,
    ) -> Result<usize> {
        let written = self.write(fd, data, position)?;
        self.flush(fd, datasync).map(|()| written)
    }

    /// Writes `parts` one after the other from `offset`: WRITEs that were joined. Fewer bytes only
    /// if an error stopped it after those.
    ///
    /// # Errors
    /// pwritev2(2)'s, if nothing was written.
    fn write_joined(
        &self,
        fd: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> Result<usize> {
        let mut parts = parts.to_vec();
        let (at, flags) = (Position::At(offset), ReadWriteFlags::empty());
        write_all(fd, &mut parts, at, flags)
    }

    /// As `read`, into the memory of a virtual machine.
    ///
    /// By way of `read`, so that tests can make it fail; the host kernel does it without a copy.
    ///
    /// # Errors
    /// preadv(2)'s, if nothing was read.
    fn read_guest(&self, fd: BorrowedFd<'_>, to: GuestRange<'_>, offset: u64) -> Result<usize> {
        let mut copy = vec![0; to.len()];
        let count = self.read(fd, &mut copy, offset)?;
        Ok(to.copy_from(&copy[..count]))
    }

    /// As `read_guest`, of what is there without waiting.
    ///
    /// Nothing by default, so that what tests delay is waited for where waiting harms no other request.
    ///
    /// # Errors
    /// preadv2(2)'s, if nothing was read.
    fn read_guest_at_once(
        &self,
        _fd: BorrowedFd<'_>,
        _to: GuestRange<'_>,
        _offset: u64,
    ) -> Result<AtOnce> {
        Ok(AtOnce::Waits(0))
    }

    /// As `write`, out of the memory of a virtual machine; by way of `write`, likewise.
    ///
    /// # Errors
    /// pwritev2(2)'s, if nothing was written.
    fn write_guest(
        &self,
        fd: BorrowedFd<'_>,
        data: GuestRange<'_>,
        position: Position,
    ) -> Result<usize> {
        let mut copy = vec![0; data.len()];
        data.copy_to(&mut copy);
        self.write(fd, &copy, position)
    }

    /// Makes durable what WRITEs wrote: fsync(2), or fdatasync(2) if `datasync`.
    ///
    /// # Errors
    /// That call's.
    fn flush(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        note_flush();
        self.sync(fd, datasync)
    }

    /// fsync(2), or fdatasync(2) if `datasync`, for a client that asked for it.
    ///
    /// # Errors
    /// That call's.
    fn sync(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        let synced = if datasync {
            rustix::fs::fdatasync(fd)
        } else {
            rustix::fs::fsync(fd)
        };
        synced.or_errno()
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// That call's.
    fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        rustix::fs::ftruncate(fd, size).or_errno()
    }

    /// fallocate(2).
    ///
    /// # Errors
    /// That call's.
    fn allocate(&self, fd: BorrowedFd<'_>, mode: u32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode);
        rustix::fs::fallocate(fd, mode, offset, length).or_errno()
    }

    /// copy_file_range(2): bytes copied, 0 at the end of the source.
    ///
    /// # Errors
    /// That call's.
    fn copy_range(&self, from: Span<'_>, to: Span<'_>, length: usize) -> Result<usize> {
        let (mut off_in, mut off_out) = (from.offset, to.offset);
        rustix::fs::copy_file_range(
            from.fd,
            Some(&mut off_in),
            to.fd,
            Some(&mut off_out),
            length,
        )
        .or_errno()
    }
}

/// What a read that must not wait has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// So many bytes, which are all until the end of the file.
    Done(usize),
    /// So many bytes; the next may have to be waited for.
    Waits(usize),
    /// The file system does not tell.
    Unknown,
}

/// A place in an open file.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// Offset in bytes.
    pub offset: u64,
}

/// The host kernel: the implementation that a mount uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostBacking;

/// pwritev2(2) until all is written or an error stops it.
fn write_all(
    fd: BorrowedFd<'_>,
    mut parts: &mut [IoSlice<'_>],
    position: Position,
    flags: ReadWriteFlags,
) -> Result<usize> {
    let (start, flags) = match position {
        Position::At(offset) => (offset, flags),
        Position::Append => (0, flags | ReadWriteFlags::APPEND),
    };
    let mut done = 0;
    // Parts that are done with, and empty ones, go.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        note_pwritev2();
        match rustix::io::pwritev2(fd, parts, start + done as u64, flags) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                IoSlice::advance_slices(&mut parts, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(Errno::from_raw(error.raw_os_error())),
        }
    }
    Ok(done)
}

/// Of a system call that failed.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Calls with the count so far until it is `len`, a call gives nothing, or an error stops it.
fn repeat(len: usize, mut call: impl FnMut(usize) -> io::Result<usize>) -> Result<usize> {
    let mut done = 0;
    while done < len {
        match call(done) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(errno(&error)),
        }
    }
    Ok(done)
}

impl Backing for HostBacking {
    fn write_durable(
        &self,
        fd: BorrowedFd<'_>,
        data: &[u8],
        position: Position,
        datasync: bool,
    ) -> Result<usize> {
        let flags = match datasync {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::SYNC,
        };
        note_flush();
        write_all(fd, &mut [IoSlice::new(data)], position, flags)
    }

    fn read_guest(&self, fd: BorrowedFd<'_>, to: GuestRange<'_>, offset: u64) -> Result<usize> {
        repeat(to.len(), |done| {
            to.after(done).read_at(fd, offset + done as u64)
        })
    }

    fn read_guest_at_once(
        &self,
        fd: BorrowedFd<'_>,
        to: GuestRange<'_>,
        offset: u64,
    ) -> Result<AtOnce> {
        let mut done = 0;
        while done < to.len() {
            match to.after(done).read_at_once(fd, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(AtOnce::Waits(done)),
                    Some(libc::EOPNOTSUPP) if done == 0 => return Ok(AtOnce::Unknown),
                    _failed if done > 0 => break,
                    _failed => return Err(errno(&error)),
                },
            }
        }
        Ok(AtOnce::Done(done))
    }

    fn write_guest(
        &self,
        fd: BorrowedFd<'_>,
        data: GuestRange<'_>,
        position: Position,
    ) -> Result<usize> {
        let (start, flags) = match position {
            Position::At(offset) => (offset, 0),
            Position::Append => (0, libc::RWF_APPEND),
        };
        repeat(data.len(), |done| {
            note_pwritev2();
            data.after(done).write_at(fd, start + done as u64, flags)
        })
    }
}
