//! What the caller gets when the backing file system fails, injected through the seam
//! [`thrufs_fs::Backing`]: the exact errno, the exact count, and nothing invented.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{ROOT, Served};
use thrufs_fs::{Config, Errno, FaultyBacking, HostBacking};

/// A file of its own on a host with these faults.
fn served(faults: &[&str]) -> (Served, u64, u64) {
    let faults = faults.iter().map(|fault| fault.parse().unwrap());
    let backing = FaultyBacking::new(faults.collect());
    let served = Served::with(Config::default(), Arc::new(backing));
    let (entry, opened) = served.create(ROOT, "file").unwrap();
    (served, entry.ino, opened.fh)
}

#[test]
fn write_that_fails_returns_its_errno_and_writes_nothing() {
    for error in [Errno::ENOSPC, Errno::EIO, Errno::EDQUOT, Errno::EFBIG] {
        let (served, ino, fh) = served(&[&format!("write:nth=2:{error:?}")]);
        assert_eq!(served.write(ino, fh, 0, b"kept"), Ok(4));
        assert_eq!(served.write(ino, fh, 2, b"lost"), Err(error));
        assert_eq!(served.read(ino, fh, 0, 100).unwrap(), b"kept");
        assert_eq!(served.fs.stats().bytes_written(), 4);
    }
}

#[test]
fn write_that_is_short_returns_the_count_that_was_written() {
    let (served, ino, fh) = served(&["write:short=3"]);
    assert_eq!(served.write(ino, fh, 0, b"abcdef"), Ok(3));
    assert_eq!(served.read(ino, fh, 0, 100).unwrap(), b"abc");
}

#[test]
fn write_of_which_nothing_was_written_is_eio_and_not_a_count_of_zero() {
    let (served, ino, fh) = served(&["write:short=0"]);
    assert_eq!(served.write(ino, fh, 0, b"abc"), Err(Errno::EIO));
}

#[test]
fn other_calls_that_fail_return_their_errno() {
    let (served, ino, fh) = served(&[
        "read:EIO",
        "sync:EIO",
        "truncate:EIO",
        "allocate:EIO",
        "copy:EIO",
    ]);
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
