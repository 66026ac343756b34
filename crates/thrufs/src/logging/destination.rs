//! What reads the log.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

/// What is behind the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A file, a pipe or a terminal: time and level stand in the line.
    Stderr { colour: bool },
    /// Standard error is the journal's socket: it knows the time, and `<N>` tells it the level
    /// (sd-daemon(3)).
    Journal,
    /// syslog(3).
    Syslog,
}

impl Destination {
    pub(super) fn of(syslog: bool) -> Self {
        if syslog {
            Self::Syslog
        } else if stderr_is_journal() {
            Self::Journal
        } else {
            Self::Stderr {
                colour: std::io::stderr().is_terminal(),
            }
        }
    }

    /// Whether a line names the module that it comes from.
    pub(super) fn shows_target(self) -> bool {
        matches!(self, Self::Stderr { .. })
    }
}

/// Whether standard error is the stream that systemd has connected to the journal for this process:
/// `$JOURNAL_STREAM` is its device and inode number (systemd.exec(5)). A program may have been started
/// with another standard error and the variable of its starter.
pub(crate) fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = std::fs::metadata("/proc/self/fd/2");
    found.is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}
