//! What the caller gets when the backing file system fails, injected through the seam
//! [`thrufs_fs::Backing`]: the exact errno, the exact count, and nothing invented.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use common::{ROOT, Served};
use thrufs_fs::{Backing, Config, Errno, HostBacking, Position, Result, Span};

/// What becomes of one call.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Pass,
    Fail(Errno),
    /// Only so many bytes.
    Short(usize),
}

/// The host, with a script of faults for the writes and one errno for the other calls.
#[derive(Debug, Default)]
struct Faulty {
    writes: Mutex<VecDeque<Fault>>,
    others: Mutex<Option<Errno>>,
}

impl Faulty {
    fn writes(faults: &[Fault]) -> Arc<Self> {
        Arc::new(Self {
            writes: Mutex::new(faults.iter().copied().collect()),
            ..Self::default()
        })
    }

    fn check(&self) -> Result<()> {
        self.others.lock().unwrap().map_or(Ok(()), Err)
    }
}

impl Backing for Faulty {
    fn read(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check()?;
        HostBacking.read(fd, buf, offset)
    }

    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        match self
            .writes
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Fault::Pass)
        {
            Fault::Pass => HostBacking.write(fd, data, position),
            Fault::Fail(error) => Err(error),
            Fault::Short(len) => HostBacking.write(fd, &data[..len], position),
        }
    }

    fn write_joined(
        &self,
        fd: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> Result<usize> {
        HostBacking.write_joined(fd, parts, offset)
    }

    fn flush(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        self.check()?;
        HostBacking.flush(fd, datasync)
    }

    fn sync(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        self.check()?;
        HostBacking.sync(fd, datasync)
    }

    fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        self.check()?;
        HostBacking.truncate(fd, size)
    }

    fn allocate(&self, fd: BorrowedFd<'_>, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.check()?;
        HostBacking.allocate(fd, mode, offset, length)
    }

    fn copy_range(&self, from: Span<'_>, to: Span<'_>, length: usize) -> Result<usize> {
        self.check()?;
        HostBacking.copy_range(from, to, length)
    }
}

fn served(backing: Arc<Faulty>) -> (Served, u64, u64) {
    let served = Served::with(Config::default(), backing);
    let (entry, opened) = served.create(ROOT, "file").unwrap();
    (served, entry.ino, opened.fh)
}

#[test]
fn write_that_fails_returns_its_errno_and_writes_nothing() {
    for error in [Errno::ENOSPC, Errno::EIO, Errno::EDQUOT, Errno::EFBIG] {
        let (served, ino, fh) = served(Faulty::writes(&[Fault::Pass, Fault::Fail(error)]));
        assert_eq!(served.write(ino, fh, 0, b"kept"), Ok(4));
        assert_eq!(served.write(ino, fh, 2, b"lost"), Err(error));
        assert_eq!(served.read(ino, fh, 0, 100).unwrap(), b"kept");
        assert_eq!(served.fs.stats().bytes_written(), 4);
    }
}

#[test]
fn write_that_is_short_returns_the_count_that_was_written() {
    let (served, ino, fh) = served(Faulty::writes(&[Fault::Short(3)]));
    assert_eq!(served.write(ino, fh, 0, b"abcdef"), Ok(3));
    assert_eq!(served.read(ino, fh, 0, 100).unwrap(), b"abc");
}

#[test]
fn write_of_which_nothing_was_written_is_eio_and_not_a_count_of_zero() {
    let (served, ino, fh) = served(Faulty::writes(&[Fault::Short(0)]));
    assert_eq!(served.write(ino, fh, 0, b"abc"), Err(Errno::EIO));
}

#[test]
fn other_calls_that_fail_return_their_errno() {
    let backing = Arc::new(Faulty::default());
    let (served, ino, fh) = served(backing.clone());
    *backing.others.lock().unwrap() = Some(Errno::EIO);
    assert_eq!(served.read(ino, fh, 0, 1), Err(Errno::EIO));
    assert_eq!(served.fs.fsync(ino, fh, true), Err(Errno::EIO));
    assert_eq!(served.truncate(ino, Some(fh), 0), Err(Errno::EIO));
    assert_eq!(served.truncate(ino, None, 0), Err(Errno::EIO));
    assert_eq!(served.fs.fallocate(ino, fh, 0, 10, 0), Err(Errno::EIO));
    let place = (ino, fh, 0);
    assert_eq!(
        served.fs.copy_file_range(place, (ino, fh, 100), 1),
        Err(Errno::EIO)
    );
}

#[test]
fn write_on_a_read_only_mount_is_erofs() {
    let config = Config {
        readonly: true,
        ..Config::default()
    };
    let served = Served::with(config, Arc::new(HostBacking));
    std::fs::write(served.source.path().join("file"), "old").unwrap();
    assert_eq!(served.create(ROOT, "new").unwrap_err(), Errno::EROFS);
    let ino = served.lookup(ROOT, "file").unwrap().ino;
    assert_eq!(served.open(ino, libc::O_RDWR).unwrap_err(), Errno::EROFS);
    assert_eq!(served.truncate(ino, None, 0), Err(Errno::EROFS));
    let opened = served.open(ino, libc::O_RDONLY).unwrap();
    assert_eq!(served.read(ino, opened.fh, 0, 9).unwrap(), b"old");
}
