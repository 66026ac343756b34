//! Nothing outside SOURCE is ever touched, whatever another process does to SOURCE meanwhile.
//!
//! The attacker swaps directories and files of SOURCE for symlinks that lead to a canary tree; the
//! client works through descriptors with no symlink followed, so what reaches the canary can only
//! have come from the daemon.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2};
use rustix::fs::{XattrFlags, mkdirat, renameat_with, symlinkat, unlinkat};
use xtests::support::checks::holds;
use xtests::support::{Backing, Layout, Mount, Outcome, Scratch, case, on_mount};

/// At least so long, and until both sides have done enough: a busy machine takes longer.
const LASTING: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
const SWAPS: u64 = 1000;
const READS: u64 = 500;
const CANARY: &[u8] = b"CANARY: must not be read or changed";

/// Everything that an access from outside could change.
fn snapshot(dir: &Path, into: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, stat) = (entry.path(), entry.path().symlink_metadata()?);
        let times = (
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        );
        into.push(format!(
            "{path:?} {:o} {} {} {times:?}",
            stat.mode(),
            stat.uid(),
            stat.size()
        ));
        if stat.is_dir() {
            snapshot(&path, into)?;
        } else if stat.is_file() {
            holds(&path, CANARY)?;
        }
    }
    Ok(())
}

fn make_tree(top: &Path, content: &[u8]) -> Result<()> {
    std::fs::create_dir_all(top.join("d/sub"))?;
    for name in ["x", "y", "d/x", "d/sub/x"] {
        std::fs::write(top.join(name), content)?;
    }
    Ok(())
}

/// Exchanges `name` of SOURCE with a symlink to the canary's, back and forth.
fn attack(source: &Path, canary: &Path, stop: &AtomicBool, swaps: &AtomicU64) -> Outcome {
    let names = ["d", "x", "d/x", "d/sub"];
    for (index, name) in names.iter().enumerate() {
        symlink(canary.join(name), source.join(format!("evil-{index}")))?;
    }
    while !stop.load(Ordering::Relaxed) {
        for (index, name) in names.iter().enumerate() {
            let evil = source.join(format!("evil-{index}"));
            for _ in 0..2 {
                // The client may have removed either; the loop below puts it back.
                let exchange = RenameFlags::EXCHANGE;
                if renameat_with(CWD, &evil, CWD, source.join(name), exchange).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
            if evil.symlink_metadata().is_err() {
                symlink(canary.join(name), &evil)?;
            }
        }
        // A name that the client is about to create is suddenly a symlink.
        for name in ["new", "d/new"] {
            let _ = symlink(canary.join("x"), source.join(name));
            let _ = std::fs::remove_file(source.join(name));
        }
    }
    Ok(())
}

/// A directory of the mount, reached without any symlink.
fn directory(top: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    openat2(
        top,
        path,
        OFlags::DIRECTORY | OFlags::RDONLY,
        Mode::empty(),
        resolve,
    )
}

/// One of everything below a held directory. The attacker causes errors; data is checked.
fn work(dir: BorrowedFd<'_>, reads: &AtomicU64) -> Outcome {
    let mode = Mode::from_raw_mode(0o644);
    let nofollow = OFlags::NOFOLLOW;
    for name in ["x", "new", "sub/x"] {
        let flags = OFlags::RDWR | OFlags::CREATE | nofollow;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        if let Ok(file) = openat2(dir, name, flags, mode, resolve) {
            let mut data = [0; 64];
            if let Ok(len) = rustix::io::pread(&file, &mut data, 0) {
                reads.fetch_add(1, Ordering::Relaxed);
                ensure!(
                    !data[..len].starts_with(b"CANARY"),
                    "{name}: the canary was read"
                );
            }
            let _ = rustix::io::pwrite(&file, b"client", 0);
            let _ = rustix::fs::ftruncate(&file, 100);
            let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600));
            let _ = rustix::fs::fsetxattr(&file, "user.client", b"1", XattrFlags::empty());
        }
        let _ = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    }
    let _ = openat(
        dir,
        "excl",
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        mode,
    );
    let _ = mkdirat(dir, "made", Mode::from_raw_mode(0o755));
    let _ = symlinkat("nowhere", dir, "new");
    let _ = rustix::fs::linkat(dir, "x", dir, "linked", AtFlags::empty());
    let _ = rustix::fs::renameat(dir, "linked", dir, "new");
    let _ = rustix::fs::chownat(
        dir,
        "excl",
        Some(rustix::fs::Uid::from_raw(1)),
        None,
        AtFlags::SYMLINK_NOFOLLOW,
    );
    for name in ["excl", "new", "linked"] {
        let _ = unlinkat(dir, name, AtFlags::empty());
    }
    let _ = unlinkat(dir, "made", AtFlags::REMOVEDIR);
    if let Ok(mut entries) = rustix::fs::Dir::read_from(dir) {
        while let Some(Ok(_)) = entries.read() {}
    }
    Ok(())
}

fn duel(m: &Mount) -> Outcome {
    let canary = m.scratch().path().join("canary");
    make_tree(&canary, CANARY)?;
    make_tree(&m.source(""), b"inside")?;
    let mut before = Vec::new();
    snapshot(&canary, &mut before)?;
    let (stop, swaps, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let source = m.source("");
    let start = Instant::now();
    let lasts = || {
        let enough =
            swaps.load(Ordering::Relaxed) >= SWAPS && reads.load(Ordering::Relaxed) >= READS;
        start.elapsed() < if enough { LASTING } else { LONGEST }
    };
    std::thread::scope(|scope| -> Outcome {
        let attacker = scope.spawn(|| attack(&source, &canary, &stop, &swaps));
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    let top = rustix::fs::open(m.dir(), OFlags::DIRECTORY, Mode::empty())?;
                    while lasts() {
                        work(top.as_fd(), &reads)?;
                        for path in ["d", "d/sub"] {
                            if let Ok(dir) = directory(top.as_fd(), path) {
                                work(dir.as_fd(), &reads)?;
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let clean = clients
            .into_iter()
            .try_for_each(|client| client.join().expect("no panic"));
        stop.store(true, Ordering::Relaxed);
        attacker.join().expect("no panic")?;
        clean
    })?;
    let (swaps, reads) = (swaps.into_inner(), reads.into_inner());
    ensure!(
        swaps >= SWAPS && reads >= READS,
        "only {swaps} swaps and {reads} reads within {LONGEST:?}: the test is void"
    );
    let mut after = Vec::new();
    snapshot(&canary, &mut after)?;
    ensure!(
        before == after,
        "the canary tree changed:\n{before:#?}\n{after:#?}"
    );
    Ok(())
}

#[test]
fn swaps_of_directories_and_symlinks_never_lead_outside() -> Outcome {
    on_mount(&["--xattr"], duel)
}

#[test]
fn swaps_never_lead_outside_with_descriptors_instead_of_handles() -> Outcome {
    on_mount(&["--xattr", "--inode-file-handles=never"], duel)
}

/// SOURCE is a directory: nothing can be moved out of a whole file system.
#[test]
fn directory_moved_out_of_source_while_held_gives_no_way_to_its_new_parent() -> Outcome {
    case(|| {
        let scratch = Scratch::with(Backing::Here, Layout::Below)?;
        let m = Mount::of(scratch, &["--attr-timeout=0", "--entry-timeout=0"])?;
        m.require_mount()?;
        // Beside SOURCE, wherever that is.
        let outside = m.source("../outside");
        std::fs::create_dir(&outside)?;
        std::fs::write(outside.join("secret"), CANARY)?;
        std::fs::create_dir_all(m.source("d/sub"))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let held = rustix::fs::open(m.path("d/sub"), flags, Mode::empty())?;
        std::fs::rename(m.source("d"), outside.join("d"))?;
        for path in ["../secret", "../../secret"] {
            let got = openat(&held, path, OFlags::RDONLY, Mode::empty());
            ensure!(got.is_err(), "{path} leads out of SOURCE");
        }
        drop(held);
        m.unmount()
    })
}
