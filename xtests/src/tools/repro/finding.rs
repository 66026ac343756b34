//! What a worker finds, and how it tells its watcher: a line each way, never over the mount.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Advice;
use serde::{Deserialize, Serialize};
use xtests::support::calls::open_rdwr;

/// A worker's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "detail", rename_all = "kebab-case")]
pub(crate) enum Finding {
    /// Everything is right; the text is for people.
    Ok(String),
    /// A byte that no writer wrote there.
    WrongData(String),
    /// The mount or the kernel lacks what the case needs.
    Lacks(String),
    /// A call failed that must not.
    Error(String),
}

/// A step failed: with a finding of its own, or with an errno that is an error.
#[derive(Debug)]
pub(crate) enum Stop {
    Finding(Finding),
    Io(&'static str, io::Error),
}

impl Stop {
    /// Turns the errnos by which kernels refuse a feature into [`Finding::Lacks`].
    pub(crate) fn refused<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> Self {
        const REFUSALS: [i32; 7] = [
            libc::EOPNOTSUPP,
            libc::ENOSYS,
            libc::ENODEV,
            libc::EXDEV,
            libc::EAGAIN,
            libc::EINVAL,
            libc::EPERM,
        ];
        move |error| {
            let error = error.into();
            match error.raw_os_error() {
                Some(errno) if REFUSALS.contains(&errno) => {
                    Self::Finding(Finding::Lacks(format!("{call} is refused: {error}")))
                }
                _other => Self::Io(call, error),
            }
        }
    }

    /// Names the call that failed.
    pub(crate) fn at<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Io(call, error.into())
    }

    /// Wrong content.
    pub(crate) fn wrong(text: String) -> Self {
        Self::Finding(Finding::WrongData(text))
    }

    /// A call that must not fail, or wrong arguments.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Finding(Finding::Error(text.into()))
    }

    pub(crate) fn into_finding(self) -> Finding {
        match self {
            Self::Finding(finding) => finding,
            Self::Io(call, error) => Finding::Error(format!("{call}: {error}")),
        }
    }
}

/// Opens a file for reading and writing.
pub(crate) fn open(path: &Path) -> Result<File, Stop> {
    open_rdwr(path).map_err(Stop::at("open"))
}

/// Drops the file's pages from the page cache.
pub(crate) fn evict(file: &File) -> Result<(), Stop> {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).map_err(Stop::at("fadvise"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// The case, or `is-file`, `preflight`, `cleanup`, `random`.
    pub(crate) case: String,
    /// The two files.
    #[arg(long, num_args = 1)]
    pub(crate) file: Vec<PathBuf>,
    #[arg(long, default_value_t = 0)]
    pub(crate) role: usize,
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[arg(long, default_value_t = 0)]
    pub(crate) seconds: u64,
    /// Whether the files may have content.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Prints `ready` and returns when the watcher says `go`.
pub(crate) fn wait_for_go() -> Result<(), Stop> {
    say("ready");
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(Stop::at("read from the watcher"))?;
    if line.trim() == "go" {
        Ok(())
    } else {
        Err(Stop::error("the watcher is gone"))
    }
}

/// Prints a line to the watcher; a watcher that is gone is noticed at the next `go` or by the parent-death signal.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}
