//! How each test of a suite ended. Names are the suite's own, so that they can be looked up there.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed.
    Passed,
    /// Failed, with the suite's message.
    Failed(String),
    /// Skipped by the suite, with its message.
    Skipped(String),
}

/// Every test by its name.
pub type Verdicts = BTreeMap<String, Verdict>;

impl From<anyhow::Result<()>> for Verdict {
    /// A missing thing is a skip.
    fn from(outcome: anyhow::Result<()>) -> Self {
        match outcome {
            Ok(()) => Self::Passed,
            Err(error) if error.is::<crate::support::skip::Missing>() => {
                Self::Skipped(error.to_string())
            }
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// (passed, failed, skipped).
pub(super) fn count(verdicts: &Verdicts) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for verdict in verdicts.values() {
        match verdict {
            Verdict::Passed => counts.0 += 1,
            Verdict::Failed(_) => counts.1 += 1,
            Verdict::Skipped(_) => counts.2 += 1,
        }
    }
    counts
}
