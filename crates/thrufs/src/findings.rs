//! What is wrong, or soon will be, with a mount or with this machine: for `thrufs doctor`, `thrufs status` and the page
//! of `--metrics`.
//!
//! Invariant: a check is a pure function from facts to findings, so that each can be tested over facts that were made up;
//! facts are collected elsewhere ([`host::Facts::probe`], [`crate::status::Status`]). And each finding that is not `ok`
//! says why it matters and what to do. Why not sentences of the log: a program wants the name of the check.

pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod limits;
pub(crate) mod mount;

use std::fmt;

use serde::Serialize;

/// How much a finding matters. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The thing is as it should be.
    Ok,
    /// Good to know; nothing needs to be done.
    Note,
    /// Something works, but may soon fail, or works otherwise than was asked for.
    Warning,
    /// Something does not work.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The name of the check, which does not change.
    pub(crate) check: &'static str,
    pub(crate) what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            check,
            what: what.into(),
            why: None,
            remedy: None,
        }
    }

    /// One that is not `ok`: what is so, why it matters, and what to do.
    pub(crate) fn new(
        severity: Severity,
        check: &'static str,
        (what, why, remedy): (impl Into<String>, impl Into<String>, impl Into<String>),
    ) -> Self {
        Self {
            severity,
            check,
            what: what.into(),
            why: Some(why.into()),
            remedy: Some(remedy.into()),
        }
    }
}

/// What matters most of `findings`.
pub(crate) fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Severity {
    let severities = findings.into_iter().map(|finding| finding.severity);
    severities.max().unwrap_or(Severity::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_of_findings_is_the_one_that_matters_most() {
        let finding = |severity| Finding::new(severity, "x", ("a", "b", "c"));
        assert_eq!(worst([]), Severity::Ok);
        let all = [Severity::Note, Severity::Error, Severity::Warning].map(finding);
        assert_eq!(worst(&all), Severity::Error);
    }
}
