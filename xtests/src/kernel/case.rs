//! A test inside of a guest, as data: one program, run once, whose end is the verdict.
//!
//! The host makes the list and writes it to a file that the guest's first process reads; the kernel's
//! command line would be too short. Invariant: every name is known to the host before the guest starts,
//! so that a test that never ran is seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// No case of ours takes longer in a guest.
pub(super) const LONGEST_CASE: Duration = Duration::from_secs(360);

/// How a program says what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Language {
    /// The kernel's selftest harness: TAP on stdout.
    Tap,
    /// Rust's: the exit code, `Error: ...` or a panic's message in the output.
    Rust,
}

/// One test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Case {
    /// `suite/test`; no blanks.
    pub(super) name: String,
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) language: Language,
    /// Seconds after which the kernel is asked for the stacks of blocked tasks, if any.
    pub(super) suspicious_after: Option<u64>,
    /// Seconds after which it is killed and has failed.
    pub(super) limit: u64,
}

impl Case {
    /// The part of the name before the slash.
    pub(super) fn suite(name: &str) -> &str {
        name.split_once('/').map_or(name, |(suite, _)| suite)
    }
}

/// What is asked for in words: a whole name, or a suite's.
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
