//! What a run of checks found: one name per test, with its verdict.
//!
//! Invariant: every test is in exactly one of the three lists, and a skip carries what was missing.

/// One test and why it is in this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `file::test`, or the stage's own name.
    pub name: String,
    /// The missing thing, or the error.
    pub why: String,
}

/// The verdicts of a stage or of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Names of passed tests.
    pub passed: Vec<String>,
    /// Failed tests.
    pub failed: Vec<Entry>,
    /// Tests that were not tried.
    pub skipped: Vec<Entry>,
    /// Seconds of the tests (or test binaries) that reported them.
    pub times: Vec<(String, f64)>,
}

impl Report {
    /// Records a pass.
    pub fn pass(&mut self, name: impl Into<String>) {
        self.passed.push(name.into());
    }

    /// Records a failure.
    pub fn fail(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.failed.push(Entry {
            name: name.into(),
            why: why.into(),
        });
    }

    /// Records a skip.
    pub fn skip(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.skipped.push(Entry {
            name: name.into(),
            why: why.into(),
        });
    }

    /// Records the outcome of one piece of work, a missing thing as a skip.
    pub fn record(&mut self, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.pass(name),
            Err(error) if error.is::<crate::support::skip::Missing>() => {
                self.skip(name, error.to_string().trim_start_matches("missing: "));
            }
            Err(error) => self.fail(name, format!("{error:#}")),
        }
    }

    /// Adds another report's entries.
    pub fn merge(&mut self, other: Report) {
        self.passed.extend(other.passed);
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
        self.times.extend(other.times);
    }

    /// The `most` slowest tests.
    pub fn slowest(&self, most: usize) -> Vec<(String, f64)> {
        let mut times = self.times.clone();
        times.sort_by(|a, b| b.1.total_cmp(&a.1));
        times.truncate(most);
        times
    }

    /// `N passed, N failed, N skipped`: the closing line of a run.
    pub fn summary(&self) -> String {
        let (passed, failed) = (self.passed.len(), self.failed.len());
        format!(
            "{passed} passed, {failed} failed, {} skipped",
            self.skipped.len()
        )
    }
}
