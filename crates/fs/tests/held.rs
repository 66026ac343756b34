//! What the kernel holds stays usable when its last name is removed, and what it has forgotten pins nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{ROOT, Served, at, caller};
use thrufs_fs::{
    Backing, Config, Errno, FileKind, HostBacking, InodeFileHandles, Position, Result, SetAttr,
};

/// A mount that holds inodes by handle; none where the scratch directory or the user has no handles.
fn by_handle() -> Option<Served> {
    let served = Served::new();
    if served.fs.config().inode_file_handles == InodeFileHandles::Never {
        eprintln!("not run: no file handles here");
        return None;
    }
    Some(served)
}

/// What this process has open below SOURCE, by /proc/self/fd.
fn open_below(served: &Served) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    let mut below: Vec<_> = targets
        .filter(|target| target.starts_with(served.source.path()))
        .filter(|target| target != served.source.path())
        .collect();
    below.sort();
    below
}

/// Each way in which the last name of what is called `f` or `d` goes.
fn removals() -> [fn(&Served) -> Result<()>; 4] {
    [
        |served| served.unlink(at(ROOT, "f")),
        |served| {
            std::fs::write(served.source.path().join("other"), "other").unwrap();
            served
                .fs
                .rename(at(ROOT, "other"), at(ROOT, "f"), 0, &caller())
        },
        |served| served.rmdir(at(ROOT, "d")),
        |served| {
            std::fs::create_dir(served.source.path().join("other")).unwrap();
            served
                .fs
                .rename(at(ROOT, "other"), at(ROOT, "d"), 0, &caller())
        },
    ]
}

/// On ext4 the handle of an inode without a name is ESTALE; the kernel may have the inode for long, though,
/// by an O_PATH descriptor, a bind mount or a current directory.
#[test]
fn inode_whose_last_name_is_removed_can_be_used_until_it_is_forgotten() {
    for remove in removals() {
        let Some(served) = by_handle() else { return };
        std::fs::write(served.source.path().join("f"), "content").unwrap();
        std::fs::create_dir(served.source.path().join("d")).unwrap();
        let (file, dir) = (
            served.lookup(ROOT, "f").unwrap(),
            served.lookup(ROOT, "d").unwrap(),
        );
        remove(&served).unwrap();
        for (ino, kind) in [
            (file.ino, FileKind::Regular),
            (dir.ino, FileKind::Directory),
        ] {
            assert_eq!(served.fs.getattr(ino, None).unwrap().kind(), kind);
            let mode = Some(0o700);
            served
                .fs
                .setattr(
                    ino,
                    &SetAttr {
                        mode,
                        ..SetAttr::default()
                    },
                )
                .unwrap();
        }
        let opened = served.open(file.ino, libc::O_RDWR).unwrap();
        assert_eq!(served.read(file.ino, opened.fh, 0, 9).unwrap(), b"content");
        served.fs.release(file.ino, opened.fh);
        // As natively: getdents(2) of a directory that was removed.
        let names = served.names(dir.ino);
        assert!(
            names == Ok(Vec::new()) || names == Err(Errno::ENOENT),
            "{names:?}"
        );
        served.fs.forget(file.ino, 1);
        served.fs.forget(dir.ino, 1);
        assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
    }
}

#[test]
fn removal_that_fails_pins_nothing() {
    let Some(served) = by_handle() else { return };
    std::fs::create_dir_all(served.source.path().join("d/sub")).unwrap();
    served.lookup(ROOT, "d").unwrap();
    assert_eq!(served.rmdir(at(ROOT, "d")), Err(Errno::ENOTEMPTY));
    assert_eq!(served.unlink(at(ROOT, "d")), Err(Errno::EISDIR));
    assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
}

#[test]
fn removal_of_one_name_of_several_pins_nothing_until_the_last_goes() {
    let Some(served) = by_handle() else { return };
    let path = |name: &str| served.source.path().join(name);
    std::fs::write(path("a"), "content").unwrap();
    std::fs::hard_link(path("a"), path("b")).unwrap();
    let ino = served.lookup(ROOT, "a").unwrap().ino;
    served.unlink(at(ROOT, "a")).unwrap();
    assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
    served.unlink(at(ROOT, "b")).unwrap();
    assert_eq!(served.fs.getattr(ino, None).unwrap().stat.stx_nlink, 0);
}

/// The first regular file that was looked up became the descriptor of its mount, and stayed open.
#[test]
fn lookup_of_the_first_file_of_a_mount_keeps_no_descriptor_on_it() {
    let Some(served) = by_handle() else { return };
    std::fs::write(served.source.path().join("f"), "content").unwrap();
    let ino = served.lookup(ROOT, "f").unwrap().ino;
    assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
    let opened = served.open(ino, libc::O_RDONLY).unwrap();
    assert_eq!(open_below(&served).len(), 1);
    served.fs.release(ino, opened.fh);
    assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
}

/// A file that gets the inode number of one that is gone had its nodeid, and the kernel took the old inode
/// for bad: EIO.
#[test]
fn lookup_of_a_reused_inode_number_never_gives_the_nodeid_of_the_file_that_is_gone() {
    let Some(served) = by_handle() else { return };
    let path = served.source.path().join("f");
    for _ in 0..50 {
        std::fs::write(&path, "old").unwrap();
        let old = served.lookup(ROOT, "f").unwrap().ino;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "new").unwrap();
        let new = served.lookup(ROOT, "f").unwrap().ino;
        assert_ne!(old, new);
        assert_eq!(served.fs.getattr(old, None).unwrap_err(), Errno::ESTALE);
        assert_eq!(served.fs.getattr(new, None).unwrap().ino, new);
        served.fs.forget(old, 1);
        // Known by another number than SOURCE's as long as it is known.
        assert_eq!(served.lookup(ROOT, "f").unwrap().ino, new);
        served.fs.forget(new, 2);
    }
    assert_eq!(served.fs.known_inodes(), 1);
}

/// The new name may be another file's when it is looked up again, and the kernel takes an inode of another
/// type for EIO.
#[test]
fn link_answers_with_the_inode_that_was_linked() {
    let served = Served::new();
    std::fs::write(served.source.path().join("f"), "content").unwrap();
    let file = served.lookup(ROOT, "f").unwrap();
    let linked = served.fs.link(file.ino, at(ROOT, "l"));
    let linked = linked.unwrap().into_entry();
    assert_eq!((linked.ino, linked.attr.stat.stx_nlink), (file.ino, 2));
    served.fs.forget(file.ino, 2);
    assert_eq!(served.fs.known_inodes(), 1);
}

/// A SOURCE that is full until it is told otherwise.
#[derive(Debug, Default)]
struct Full {
    is_full: AtomicBool,
    /// Bytes that still fit of a WRITE that meets it full.
    fit: usize,
    refused: AtomicUsize,
}

impl Backing for Full {
    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        if !self.is_full.load(Ordering::SeqCst) {
            return HostBacking.write(fd, data, position);
        }
        match self.refused.fetch_add(1, Ordering::SeqCst) {
            0 if self.fit > 0 => HostBacking.write(fd, &data[..self.fit], position),
            _ => Err(Errno::ENOSPC),
        }
    }
}

/// FORGET comes after the answer to UNLINK; until then the file's space is not free.
#[test]
fn write_on_a_full_source_waits_for_the_forget_of_what_was_removed() {
    for handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        for fit in [0, 3] {
            let config = Config {
                inode_file_handles: handles,
                ..Config::default()
            };
            let backing = Arc::new(Full {
                fit,
                ..Full::default()
            });
            let served = Served::with(config, backing.clone());
            served.fs.start_serving(2).unwrap();
            let (removed, opened) = served.create(ROOT, "removed").unwrap();
            served.fs.release(removed.ino, opened.fh);
            let (entry, opened) = served.create(ROOT, "f").unwrap();
            served.unlink(at(ROOT, "removed")).unwrap();
            backing.is_full.store(true, Ordering::SeqCst);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while backing.refused.load(Ordering::SeqCst) == 0 {
                        std::thread::yield_now();
                    }
                    backing.is_full.store(false, Ordering::SeqCst);
                    served.fs.forget(removed.ino, 1);
                });
                let written = served.write(entry.ino, opened.fh, 0, b"content");
                assert_eq!(written, Ok(7));
            });
            assert_eq!(served.read(entry.ino, opened.fh, 0, 9).unwrap(), b"content");
            served.fs.stop_notifying();
        }
    }
}

#[test]
fn write_on_a_full_source_with_nothing_to_forget_is_tried_once() {
    let backing = Arc::new(Full::default());
    let served = Served::with(Config::default(), backing.clone());
    served.fs.start_serving(2).unwrap();
    let (entry, opened) = served.create(ROOT, "f").unwrap();
    std::fs::write(served.source.path().join("g"), "").unwrap();
    std::fs::hard_link(
        served.source.path().join("g"),
        served.source.path().join("h"),
    )
    .unwrap();
    served.lookup(ROOT, "g").unwrap();
    // It has another name.
    served.unlink(at(ROOT, "g")).unwrap();
    backing.is_full.store(true, Ordering::SeqCst);
    let written = served.write(entry.ino, opened.fh, 0, b"content");
    assert_eq!(written, Err(Errno::ENOSPC));
    assert_eq!(backing.refused.load(Ordering::SeqCst), 1);
    served.fs.stop_notifying();
}

/// The only thread that takes requests would wait for a FORGET that it has to take itself.
#[test]
fn write_on_a_full_source_by_the_only_thread_does_not_wait() {
    let backing = Arc::new(Full::default());
    let served = Served::with(Config::default(), backing.clone());
    let (removed, closed) = served.create(ROOT, "removed").unwrap();
    served.fs.release(removed.ino, closed.fh);
    let (entry, opened) = served.create(ROOT, "f").unwrap();
    served.unlink(at(ROOT, "removed")).unwrap();
    backing.is_full.store(true, Ordering::SeqCst);
    let written = served.write(entry.ino, opened.fh, 0, b"content");
    assert_eq!(written, Err(Errno::ENOSPC));
    assert_eq!(backing.refused.load(Ordering::SeqCst), 1);
}

/// Two names that are removed at the same time: neither looks like the last.
#[test]
fn inode_whose_names_are_removed_at_once_can_be_used() {
    let Some(served) = by_handle() else { return };
    for round in 0..200 {
        let names = ["a", "b"].map(|name| format!("{name}{round}"));
        let paths = names.clone().map(|name| served.source.path().join(name));
        std::fs::write(&paths[0], "content").unwrap();
        std::fs::hard_link(&paths[0], &paths[1]).unwrap();
        let ino = served.lookup(ROOT, &names[0]).unwrap().ino;
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| served.unlink(at(ROOT, name)).unwrap());
            }
        });
        assert_eq!(served.fs.getattr(ino, None).unwrap().stat.stx_nlink, 0);
        served.fs.forget(ino, 1);
    }
    assert!(open_below(&served).is_empty(), "{:?}", open_below(&served));
}
