//! /proc, for a process in a sandbox where no path leads there.
//!
//! Invariant: the held descriptors are set before the process has a second thread, together with the
//! current directory, and never change, but for a process that starts others to serve ([`hold_own_proc`]). They reach /proc/self/fd alone, mounted by itself, so that its `..`
//! is itself and no other process can be reached; what /proc says of a caller (groups, capabilities,
//! signals) the server asks outside, through [`Callers`].
//!
//! A property of the process and not of a [`crate::Passthrough`], like the current directory: calls
//! that take no O_PATH descriptor (those for extended attributes) find `N` there.

mod own;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::Callers;
use own::{ProcFiles, at};

/// The parts of /proc that stay within reach.
pub struct HeldProc {
    own: OnceLock<Own>,
    /// /proc with processes alone, where each process that is started opens its own; else none.
    processes: Option<OwnedFd>,
    max_pages_limit: Option<u64>,
    callers: Box<dyn Callers>,
}

/// What is of one process.
struct Own {
    /// /proc/self/fd, as O_PATH, on a mount of its own.
    self_fd: OwnedFd,
    files: ProcFiles,
}

static HELD: OnceLock<HeldProc> = OnceLock::new();

/// Where nothing is held.
static OPENED: OnceLock<ProcFiles> = OnceLock::new();

impl HeldProc {
    /// Opens them while `/proc` is still within reach. `self_fd` is a mount of /proc/self/fd alone.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn open(self_fd: OwnedFd, callers: Box<dyn Callers>) -> io::Result<Self> {
        let files = ProcFiles::open(&self_fd, None)?;
        Ok(Self {
            own: Own { self_fd, files }.into(),
            processes: None,
            max_pages_limit: read_max_pages_limit(),
            callers,
        })
    }

    /// The same for a process that starts others, each of which opens its own in `processes`, which is a mount of /proc
    /// with processes alone ([`hold_own_proc`]).
    pub fn for_others(processes: OwnedFd, callers: Box<dyn Callers>) -> Self {
        Self {
            own: OnceLock::new(),
            processes: Some(processes),
            max_pages_limit: read_max_pages_limit(),
            callers,
        }
    }

    /// From now on, for the whole process: /proc is no longer looked for by path. Changes the
    /// current directory.
    ///
    /// # Errors
    /// Those of fchdir(2); or it was called before.
    pub fn hold(self) -> io::Result<()> {
        if let Some(own) = self.own.get() {
            rustix::process::fchdir(&own.self_fd)?;
        }
        HELD.set(self)
            .map_err(|_second| io::Error::other("/proc is held already"))
    }
}

/// In a process that was started to serve: holds what is its own, where another held what it needs for that
/// ([`HeldProc::for_others`]). To be called while it has one thread.
///
/// # Errors
/// Of opening it.
pub fn hold_own_proc() -> io::Result<()> {
    let Some((held, processes)) = HELD
        .get()
        .and_then(|held| Some((held, held.processes.as_ref()?)))
    else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::openat(processes, c"self", flags, Mode::empty())?;
    let self_fd = rustix::fs::openat(&process, c"fd", flags, Mode::empty())?;
    let files = ProcFiles::open(&self_fd, Some(&process))?;
    rustix::process::fchdir(&self_fd)?;
    let set = held.own.set(Own { self_fd, files });
    set.map_err(|_second| io::Error::other("this process holds its /proc already"))
}

impl HeldProc {
    fn own(&self) -> io::Result<&Own> {
        let own = self.own.get();
        own.ok_or_else(|| io::Error::other("this process does not hold its /proc"))
    }
}

const SELF_FD: &str = "/proc/self/fd";

/// O_PATH on /proc/self/fd.
pub(crate) fn self_fd() -> io::Result<OwnedFd> {
    if let Some(held) = HELD.get() {
        return held.own()?.self_fd.try_clone();
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(SELF_FD, flags, Mode::empty()).map_err(|errno| at(SELF_FD)(errno.into()))
}

/// The path that stands for `fd`. It leads nowhere once `fd` is closed.
pub(crate) fn link(fd: &impl AsFd) -> String {
    let number = fd.as_fd().as_raw_fd();
    match HELD.get() {
        Some(_) => number.to_string(),
        None => format!("{SELF_FD}/{number}"),
    }
}

/// Who is asked about callers, if not /proc.
pub(crate) fn callers() -> Option<&'static dyn Callers> {
    HELD.get().map(|held| &*held.callers)
}

/// What is read of this process at any time. To be called first while there are descriptors.
pub(crate) fn own() -> io::Result<&'static ProcFiles> {
    if let Some(held) = HELD.get() {
        return Ok(&held.own()?.files);
    }
    if OPENED.get().is_none() {
        // Another thread may have been faster; its files are as good.
        let _ = OPENED.set(ProcFiles::open(&self_fd()?, None)?);
    }
    Ok(OPENED.get().expect("it was set by one or the other"))
}

/// fs.fuse.max_pages_limit, where the kernel has it.
pub fn max_pages_limit() -> Option<u64> {
    match HELD.get() {
        Some(held) => held.max_pages_limit,
        None => read_max_pages_limit(),
    }
}

fn read_max_pages_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit").ok()?;
    text.trim().parse().ok()
}
