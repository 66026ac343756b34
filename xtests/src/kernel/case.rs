//! A test inside of a guest, as data: one program, run once, whose end is the verdict.
//!
//! The host writes the list to a file that the guest's first process reads; the kernel's command
//! line would be too short. Invariant: the host knows every name before the guest starts, so that a
//! test that never ran is noticed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limit of each of our own cases in a guest.
pub(super) const LONGEST_CASE: Duration = Duration::from_secs(360);

/// How requests get to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    /// /dev/fuse.
    Fuse,
    /// A virtiofs device, served on the host by virtiofsd or by thrufs.
    Virtiofs,
}

impl Transport {
    /// What a kernel may have as modules, and then must load.
    pub(super) fn modules(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Fuse => &["fuse"],
            Self::Virtiofs => &["virtio_pci", "virtiofs", "overlay"],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }
}

/// How a program reports its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Language {
    /// The kernel's selftest harness: TAP on stdout.
    Tap,
    /// Rust's: the exit code, `Error: ...` or a panic's message in the output.
    Rust,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Case {
    /// `suite/test`; no blanks.
    pub(super) name: String,
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) language: Language,
    /// Seconds after which the kernel prints the stacks of blocked tasks, if any.
    pub(super) suspicious_after: Option<u64>,
    /// Seconds after which it is killed and fails.
    pub(super) limit: u64,
}

impl Case {
    /// The part of the name before the slash.
    pub(super) fn suite(name: &str) -> &str {
        name.split_once('/').map_or(name, |(suite, _)| suite)
    }
}

/// Whether `wanted`, a whole name or a suite's, selects the test.
pub(super) fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted || Case::suite(name) == wanted
}

#[cfg(test)]
mod tests {
    use super::is_called;

    #[test]
    fn is_called_takes_the_suite_or_the_whole_name() {
        assert!(is_called("selftest/a", "selftest") && is_called("selftest/a", "selftest/a"));
        assert!(!is_called("selftest/ab", "selftest/a") && !is_called("selftest/a", "self"));
    }
}
