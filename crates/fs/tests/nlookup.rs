//! Invariant 4 where a reply is not sent: a lookup that the kernel never hears of is given back, also when
//! an operation panics.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{ROOT, Served, at, caller};
use thrufs_fs::Errno;

/// Names of which fewer than half fit into one getdents64(2).
fn long_names(served: &Served, directory: &str) {
    let directory = served.source.path().join(directory);
    std::fs::create_dir_all(&directory).unwrap();
    for index in 0..300 {
        std::fs::write(directory.join(format!("{index:0>250}")), "").unwrap();
    }
}

/// What of `served` the table holds beside the root.
fn held(served: &Served) -> usize {
    served.fs.known_inodes() - 1
}

/// READDIRPLUS listed names, then getdents64(2) failed: the reply was the errno alone, and each inode
/// that had been listed stayed in the table until the unmount.
#[test]
fn readdirplus_that_fails_after_some_entries_gives_their_lookups_back() {
    let served = Served::new();
    long_names(&served, "d");
    let directory = served.fs.lookup(ROOT, OsStr::new("d"));
    let directory = directory.unwrap().into_entry().ino;
    let opened = served.fs.opendir(directory, &caller()).unwrap();
    let mut listed = 0;
    let outcome = served
        .fs
        .readdirplus(directory, (opened.fh, 0), &|| Ok(caller()), |_, entry| {
            listed += usize::from(entry.is_some());
            if listed == 10 {
                std::fs::remove_dir_all(served.source.path().join("d")).unwrap();
            }
            false
        })
        .map(drop);
    assert_eq!(outcome, Err(Errno::ENOENT), "getdents64 of what is removed");
    assert_eq!((listed, held(&served)), (10, 1), "the directory alone");
}

#[test]
fn readdirplus_that_panics_after_some_entries_gives_their_lookups_back() {
    let served = Served::new();
    long_names(&served, ".");
    let opened = served.fs.opendir(ROOT, &caller()).unwrap();
    let mut listed = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let listing = served
            .fs
            .readdirplus(ROOT, (opened.fh, 0), &|| Ok(caller()), |_, entry| {
                listed += usize::from(entry.is_some());
                assert!(listed < 10, "a panic that the test asks for");
                false
            });
        listing.map(drop)
    }));
    assert!(panicked.is_err());
    assert_eq!((listed, held(&served)), (10, 0));
}

/// Every operation that answers with an entry.
#[test]
fn entry_that_is_not_handed_to_the_kernel_gives_its_lookup_back() {
    let served = Served::new();
    std::fs::write(served.source.path().join("known"), "").unwrap();
    let known = served.lookup(ROOT, "known").unwrap().ino;
    let (fs, name) = (&served.fs, OsStr::new("known"));
    let node = |name| served.new_node(ROOT, name, libc::S_IFREG | 0o644);
    drop(fs.lookup(ROOT, name).unwrap());
    assert_eq!(held(&served), 1, "after LOOKUP");
    drop(fs.link(known, at(ROOT, "linked")).unwrap());
    assert_eq!(held(&served), 1, "after LINK");
    drop(fs.mknod(&node("node"), 0).unwrap());
    assert_eq!(held(&served), 1, "after MKNOD");
    drop(fs.mkdir(&node("directory")).unwrap());
    assert_eq!(held(&served), 1, "after MKDIR");
    drop(fs.symlink(&node("link"), name).unwrap());
    assert_eq!(held(&served), 1, "after SYMLINK");
    let (made, opened) = fs.create(&node("made"), libc::O_RDWR).unwrap();
    fs.release(made.entry().ino, opened.fh);
    drop(made);
    assert_eq!(held(&served), 1, "after CREATE");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _found = fs.lookup(ROOT, OsStr::new("node")).unwrap();
        assert_eq!(held(&served), 2);
        panic!("that the test asks for");
    }));
    assert!(panicked.is_err());
    assert_eq!(held(&served), 1, "after a LOOKUP that panicked");
    fs.forget(known, 1);
    assert_eq!(held(&served), 0, "counted once, not once an operation");
}
