//! Leases of fcntl(2), by which a file server hears that others open its files: on the mount as on SOURCE, with
//! kernel passthrough and without, among those who use the mount; and what the two sides hear of each other.
//!
//! SIGURG tells the holder here, since it ends no process that does not expect it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use thrufs_sys::lease::Lease;
use xtests::support::calls::{chmod, errno, open_rdwr, open_wronly, refused};
use xtests::support::checks::equal;
use xtests::support::mount::NEVER;
use xtests::support::{Outcome, User, on_daemon, on_mount};

const MODES: [&str; 2] = [NEVER, "--passthrough=auto"];
/// Held by each test: a process that is started meanwhile has all files of this one open until its execve(2), and a
/// lease is refused beside another descriptor.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

type Open = fn(&Path) -> io::Result<File>;

/// Who opens a file.
const OPENS: [(&str, Open); 2] = [
    ("reader", |path| File::open(path)),
    ("writer", |path| open_rdwr(path)),
];

fn set(lease: Lease, file: &File) -> io::Result<()> {
    lease.set(file, libc::SIGURG)
}

/// open(2) that does not wait until a lease is given back.
fn open_at_once(path: &Path, writes: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(writes);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// What is granted to whom beside whom, whom it holds up, and what is left of it then: a line each.
fn told(path: &Path) -> Result<String> {
    std::fs::write(path, "content")?;
    let mut told = String::new();
    for (by, open) in OPENS {
        for (beside, other) in [("nobody", None), ("reader", Some(0)), ("writer", Some(1))] {
            for lease in [Lease::Read, Lease::Write] {
                let file = open(path)?;
                let other = other.map(|at: usize| OPENS[at].1(path)).transpose()?;
                let granted = errno(set(lease, &file));
                told += &format!("{lease:?} of a {by} beside {beside}: {granted:?}");
                drop(other);
                for writes in [false, true] {
                    let opened = errno(open_at_once(path, writes));
                    told += &format!(", {opened:?} leaves {:?}", Lease::of(&file)?);
                }
                if granted.is_none() {
                    set(Lease::None, &file)?;
                }
                let opened = errno(open_at_once(path, true));
                told += &format!(", {opened:?} after it\n");
            }
        }
    }
    chmod(path, 0o666)?;
    let refused = User::new(4001, 4001).act(|| Ok(errno(set(Lease::Read, &File::open(path)?))))?;
    told += &format!("another user: {refused:?}\n");
    Ok(told)
}

#[test]
fn lease_among_users_of_the_mount_is_as_on_source() -> Outcome {
    let _alone = alone();
    for mode in MODES {
        on_mount(&[mode], |m| {
            let (here, there) = (told(&m.path("here"))?, told(&m.source("there"))?);
            equal(mode, &here, &there)?;
            // A lease that is refused everywhere is the same on both as well.
            let held_up = Some(libc::EWOULDBLOCK);
            let (granted, held) = (
                "Write of a writer beside nobody: None",
                format!("{held_up:?}"),
            );
            let line = here.lines().find(|line| line.starts_with(granted));
            ensure!(line.is_some_and(|line| line.contains(&held)), "{here}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The server does not wait in open(2), for itself or for the kernel: a client is told EWOULDBLOCK, where it
/// would wait natively.
#[test]
fn lease_on_source_is_broken_by_an_open_through_the_mount_and_not_the_other_way() -> Outcome {
    let _alone = alone();
    for mode in MODES {
        on_daemon(&[mode], |m| {
            std::fs::write(m.source("f"), vec![1; 1 << 20])?;
            let holder = open_rdwr(m.source("f"))?;
            set(Lease::Write, &holder)?;
            refused(File::open(m.path("f")), libc::EWOULDBLOCK)?;
            equal("what a reader leaves", Lease::of(&holder)?, Lease::Read)?;
            refused(open_wronly(m.path("f")), libc::EWOULDBLOCK)?;
            equal("what a writer leaves", Lease::of(&holder)?, Lease::None)?;
            set(Lease::None, &holder)?;
            drop(holder);
            let on_mount = open_rdwr(m.path("f"))?;
            set(Lease::Write, &on_mount)?;
            drop(open_at_once(&m.source("f"), true)?);
            let left = Lease::of(&on_mount)?;
            equal("what an open of SOURCE leaves", left, Lease::Write)
        })?;
    }
    Ok(())
}
