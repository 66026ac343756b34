//! /proc, for a process in a sandbox where no path leads there.
//!
//! Invariant: the held descriptors are set before the process has a second thread, together with the
//! current directory, and never change. They reach /proc/self/fd alone, mounted by itself, so that its `..`
//! is itself and no other process can be reached; what /proc says of a caller (groups, capabilities,
//! signals) the server asks outside, through [`Callers`].
//!
//! A property of the process and not of a [`crate::Passthrough`], like the current directory: calls
//! that take no O_PATH descriptor (those for extended attributes) find `N` there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::Callers;

/// The parts of /proc that stay within reach.
pub struct HeldProc {
    /// /proc/self/fd, as O_PATH, on a mount of its own.
    self_fd: OwnedFd,
    /// /proc/self/statm.
    statm: File,
    max_pages_limit: Option<u64>,
    callers: Box<dyn Callers>,
}

static HELD: OnceLock<HeldProc> = OnceLock::new();

impl HeldProc {
    /// Opens them while `/proc` is still within reach. `self_fd` is a mount of /proc/self/fd alone.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn open(self_fd: OwnedFd, callers: Box<dyn Callers>) -> io::Result<Self> {
        Ok(Self {
            self_fd,
            statm: File::open(STATM).map_err(at(STATM))?,
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
const STATM: &str = "/proc/self/statm";

fn at(path: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{path}: {error}; mount /proc"))
}

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

/// How many descriptors this process has open.
pub(crate) fn count_descriptors() -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(self_fd()?, c".", flags, Mode::empty())?;
    let mut count = 0_u64;
    for entry in rustix::fs::Dir::new(listing)? {
        let name = entry?;
        let is_dot = matches!(name.file_name().to_bytes(), b"." | b"..");
        count += u64::from(!is_dot);
    }
    // One of them is the listing's own.
    Ok(count.saturating_sub(1))
}

/// The line of /proc/self/statm.
pub(crate) fn statm() -> io::Result<String> {
    let Some(held) = HELD.get() else {
        return std::fs::read_to_string(STATM).map_err(at(STATM));
    };
    let mut line = [0; 256];
    let len = held.statm.read_at(&mut line, 0)?;
    Ok(String::from_utf8_lossy(&line[..len]).into_owned())
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
