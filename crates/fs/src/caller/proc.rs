//! /proc, for a process in a sandbox where no path leads there.
//!
//! Invariant: the held descriptors are set before the process has a second thread, together with the
//! current directory, and never change. They reach /proc/self/fd alone, mounted by itself, so that its `..`
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
    /// /proc/self/fd, as O_PATH, on a mount of its own.
    self_fd: OwnedFd,
    own: ProcFiles,
    max_pages_limit: Option<u64>,
    callers: Box<dyn Callers>,
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
        Ok(Self {
            own: ProcFiles::open(&self_fd)?,
            self_fd,
            max_pages_limit: read_max_pages_limit(),
            callers,
        })
    }

    /// From now on, for the whole process: /proc is no longer looked for by path. Changes the
    /// current directory.
    ///
    /// # Errors
    /// Those of fchdir(2); or it was called before.
    pub fn hold(self) -> io::Result<()> {
        rustix::process::fchdir(&self.self_fd)?;
        HELD.set(self)
            .map_err(|_second| io::Error::other("/proc is held already"))
    }
}

const SELF_FD: &str = "/proc/self/fd";

/// O_PATH on /proc/self/fd.
pub(crate) fn self_fd() -> io::Result<OwnedFd> {
    if let Some(held) = HELD.get() {
        return held.self_fd.try_clone();
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
        return Ok(&held.own);
    }
    if OPENED.get().is_none() {
        // Another thread may have been faster; its files are as good.
        let _ = OPENED.set(ProcFiles::open(&self_fd()?)?);
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
