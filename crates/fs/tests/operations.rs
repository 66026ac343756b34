//! Behaviour of single operations that needs no mount to be seen.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use common::{ROOT, Served, at, caller};
use thrufs_fs::{
    Config, Errno, HostBacking, InodeFileHandles, LockKind, LockRange, LockRequest, LockWait,
    Locks, WriteRequest,
};

#[test]
fn lookup_of_what_is_not_one_name_is_refused() {
    let served = Served::new();
    std::fs::create_dir(served.source.path().join("dir")).unwrap();
    for name in ["", ".", "..", "../etc", "dir/..", "/", "/etc/passwd"] {
        // "." is the directory itself, to a kernel that asks for it by nodeid, and nothing is above SOURCE.
        let wanted = match name {
            "." => Ok(ROOT),
            ".." => Err(Errno::ESTALE),
            _no_name => Err(Errno::EINVAL),
        };
        let found = served.lookup(ROOT, name).map(|entry| entry.ino);
        assert_eq!(found, wanted, "{name:?}");
        let removed = served.unlink(at(ROOT, name));
        assert_eq!(removed, Err(Errno::EINVAL), "{name:?}");
    }
}

#[test]
fn lookup_of_a_symlink_is_the_link_itself() {
    let served = Served::new();
    std::os::unix::fs::symlink("/etc", served.source.path().join("out")).unwrap();
    let link = served.lookup(ROOT, "out").unwrap();
    let below = served.lookup(link.ino, "passwd").unwrap_err();
    let opened = served.fs.opendir(link.ino, &caller()).unwrap_err();
    assert_eq!((below, opened), (Errno::ENOTDIR, Errno::ELOOP));
}

#[test]
fn open_of_a_fifo_is_refused_and_does_not_block() {
    let served = Served::new();
    let new = served.new_node(ROOT, "fifo", libc::S_IFIFO | 0o600);
    let fifo = served.fs.mknod(&new, 0).unwrap().into_entry();
    let opened = served.open(fifo.ino, libc::O_RDONLY);
    assert_eq!(opened.unwrap_err(), Errno::ENXIO);
}

#[test]
fn request_for_an_unknown_inode_or_handle_is_refused() {
    let served = Served::new();
    assert_eq!(served.fs.getattr(4711, None).unwrap_err(), Errno::ESTALE);
    assert_eq!(served.lookup(4711, "x").unwrap_err(), Errno::ESTALE);
    assert_eq!(served.read(ROOT, 99, 0, 1), Err(Errno::EBADF));
    let (a, opened) = served.create(ROOT, "a").unwrap();
    let (b, _) = served.create(ROOT, "b").unwrap();
    assert_ne!(a.ino, b.ino);
    assert_eq!(served.write(b.ino, opened.fh, 0, b"x"), Err(Errno::EBADF));
}

/// The kernel checks no mode after CREATE, so a file that is there already was opened with the
/// server's rights for a caller that might not open it.
#[test]
fn create_over_an_existing_file_makes_the_kernel_look_again_and_opens_nothing() {
    let served = Served::new();
    std::fs::write(served.source.path().join("file"), "content").unwrap();
    std::fs::create_dir(served.source.path().join("dir")).unwrap();
    let new = served.new_node(ROOT, "file", libc::S_IFREG | 0o600);
    let exclusive = served.fs.create(&new, libc::O_RDWR | libc::O_EXCL);
    assert_eq!(exclusive.unwrap_err(), Errno::EEXIST);
    let again = served.fs.create(&new, libc::O_RDWR | libc::O_TRUNC);
    assert_eq!(again.unwrap_err(), Errno::ESTALE);
    let directory = served.new_node(ROOT, "dir", libc::S_IFREG | 0o600);
    let directory = served.fs.create(&directory, libc::O_RDWR);
    assert_eq!(directory.unwrap_err(), Errno::EISDIR);
    assert_eq!((served.fs.open_handles(), served.fs.known_inodes()), (0, 1));
    let content = std::fs::read(served.source.path().join("file")).unwrap();
    assert_eq!(content, b"content");
}

/// A name that is gone by the kernel's second look and back by its second CREATE made that fail
/// with ESTALE too, which open(2) then returns.
#[test]
fn lookup_after_a_create_that_met_a_file_finds_it_though_the_name_is_gone() {
    let served = Served::new();
    let path = served.source.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let new = served.new_node(ROOT, "file", libc::S_IFREG | 0o600);
    let met = served.fs.create(&new, libc::O_RDWR).unwrap_err();
    assert_eq!(met, Errno::ESTALE);
    std::fs::remove_file(&path).unwrap();
    let name = OsStr::new("file");
    let other_thread = served.fs.lookup_by(new.caller.pid + 1, ROOT, name);
    assert_eq!(other_thread.unwrap_err(), Errno::ENOENT);
    let found = served.fs.lookup_by(new.caller.pid, ROOT, name);
    let entry = found.unwrap().into_entry();
    assert!(entry.entry_timeout.is_zero());
    let fh = served.open(entry.ino, libc::O_RDONLY).unwrap().fh;
    assert_eq!(served.read(entry.ino, fh, 0, 99).unwrap(), b"content");
    let once = served.fs.lookup_by(new.caller.pid, ROOT, name);
    assert_eq!(once.unwrap_err(), Errno::ENOENT);
}

#[test]
fn write_with_append_goes_to_the_end_and_writeback_to_its_offset() {
    let served = Served::new();
    let (entry, opened) = served.create(ROOT, "log").unwrap();
    let write = |data, from_cache| {
        let request = WriteRequest {
            ino: entry.ino,
            fh: opened.fh,
            offset: 0,
            data,
            flags: libc::O_APPEND,
            from_cache,
        };
        served.fs.write(&request).unwrap()
    };
    write(b"one", false);
    write(b"two", false);
    assert_eq!(served.read(entry.ino, opened.fh, 0, 99).unwrap(), b"onetwo");
    write(b"ONE", true);
    assert_eq!(served.read(entry.ino, opened.fh, 0, 99).unwrap(), b"ONEtwo");
}

#[test]
fn getattr_of_an_unlinked_open_file_still_answers() {
    for handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let config = Config {
            inode_file_handles: handles,
            ..Config::default()
        };
        let served = Served::with(config, Arc::new(HostBacking));
        let (entry, opened) = served.create(ROOT, "file").unwrap();
        served.write(entry.ino, opened.fh, 0, b"abc").unwrap();
        served.unlink(at(ROOT, "file")).unwrap();
        assert_eq!(served.fs.getattr(entry.ino, None).unwrap().stat.stx_size, 3);
        let stat = served.fs.getattr(entry.ino, Some(opened.fh)).unwrap().stat;
        assert_eq!(stat.stx_nlink, 0);
        served.truncate(entry.ino, None, 1).unwrap();
        assert_eq!(served.read(entry.ino, opened.fh, 0, 9).unwrap(), b"a");
    }
}

#[test]
fn getattr_reports_the_number_of_the_backing_file() {
    let served = Served::new();
    let (entry, _) = served.create(ROOT, "file").unwrap();
    let native = std::fs::metadata(served.source.path().join("file"))
        .unwrap()
        .ino();
    assert_eq!(entry.ino, native);
    let root = std::fs::metadata(served.source.path()).unwrap().ino();
    assert_eq!(served.fs.getattr(ROOT, None).unwrap().ino, root);
}

#[test]
fn readdirplus_counts_just_the_entries_that_were_taken() {
    let served = Served::new();
    for i in 0..20 {
        std::fs::write(served.source.path().join(format!("f{i}")), "").unwrap();
    }
    let opened = served.fs.opendir(ROOT, &caller()).unwrap();
    let mut taken = 0;
    let listed = served
        .fs
        .readdirplus(ROOT, (opened.fh, 0), &|| Ok(caller()), |_, entry| {
            let full = taken == 5;
            taken += usize::from(entry.is_some() && !full);
            full
        });
    let lookups = listed.unwrap();
    assert_eq!((taken, lookups.len(), served.fs.known_inodes()), (5, 5, 6));
}

#[test]
fn xattr_that_is_off_is_enosys_so_that_the_kernel_stops_asking() {
    let served = Served::new();
    let (entry, _) = served.create(ROOT, "file").unwrap();
    let name = OsStr::new("user.x");
    let value = served.fs.getxattr(entry.ino, name).unwrap_err();
    let names = served.fs.listxattr(entry.ino).unwrap_err();
    assert_eq!([value, names], [Errno::ENOSYS; 2]);
}

#[test]
fn ioctl_that_is_not_handed_on_is_enotty() {
    let served = Served::new();
    let (entry, opened) = served.create(ROOT, "file").unwrap();
    // TCGETS, FICLONE
    for number in [0x5401, 0x4004_9409] {
        let answer = served
            .fs
            .ioctl(entry.ino, opened.fh, number, &[], &caller());
        assert_eq!(answer.unwrap_err(), Errno::ENOTTY);
    }
}

#[test]
fn setlk_of_two_owners_excludes_until_one_flushes() {
    let config = Config {
        locks: Locks::Host,
        ..Config::default()
    };
    let served = Served::with(config, Arc::new(HostBacking));
    let (entry, opened) = served.create(ROOT, "file").unwrap();
    let caller = served.new_node(ROOT, "", 0).caller;
    let lock = |owner, kind, start, end| LockRequest {
        is_flock: None,
        ino: entry.ino,
        fh: opened.fh,
        owner,
        kind,
        range: LockRange { start, end },
        pid: 7,
        caller,
    };
    let exclusive = LockKind::Exclusive;
    let set = |owner, start, end| served.fs.try_setlk(&lock(owner, exclusive, start, end));
    assert_eq!(set(1, 0, 9), Ok(LockWait::Done));
    assert_eq!(set(2, 5, 6), Ok(LockWait::Busy));
    assert_eq!(set(2, 10, 11), Ok(LockWait::Done));
    let found = served.fs.getlk(&lock(2, LockKind::Shared, 0, 4)).unwrap();
    assert_eq!(found, Some((exclusive, LockRange { start: 0, end: 9 }, 7)));
    served.fs.flush(entry.ino, opened.fh, 1).unwrap();
    assert_eq!(set(2, 0, i64::MAX as u64), Ok(LockWait::Done));
    assert_eq!(set(1, 9, 3), Err(Errno::EINVAL));
}
