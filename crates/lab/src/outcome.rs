//! What a boot has shown, read from the guest's console.
//!
//! Invariant: silence is never success. A test without a verdict has none, a guest that did not
//! report its end did not end well, and a complaint of the kernel is kept with the lines that
//! follow it and with the test that was running.

use std::path::PathBuf;
use std::time::Duration;

/// Begins a line that the guest writes for the lab.
pub(crate) const START: &str = "LAB-START ";
/// Begins a verdict: test, mark, detail.
pub(crate) const VERDICT: &str = "LAB-VERDICT ";
/// Stands alone when the guest has run all tests.
pub(crate) const END: &str = "LAB-END";

/// How many lines of a kernel's complaint are kept.
const REPORT_LINES: usize = 400;

/// How the kernel reports that something is wrong with it.
const COMPLAINTS: &[&str] = &[
    "Kernel panic",
    "BUG:",
    "kernel BUG at",
    "WARNING:",
    "INFO: task ",
    "INFO: rcu",
    "Oops",
    "general protection fault",
    "Bad page state",
    "Attempted to kill init",
    "soft lockup",
    "Show Blocked State",
];

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As it should.
    Pass,
    /// Not as it should.
    Fail,
    /// The test lacked something.
    Skip,
}

impl Mark {
    /// The word on the console and in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Pass, Self::Fail, Self::Skip]
            .into_iter()
            .find(|mark| mark.word() == word)
    }
}

/// What the guest reported of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The test's name.
    pub test: String,
    /// How it ended.
    pub mark: Mark,
    /// The test's own words, such as what it expected.
    pub detail: String,
}

/// A complaint of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The test that was running.
    pub during: Option<String>,
    /// The complaint and what follows it.
    pub lines: Vec<String>,
}

/// How the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Reported its end, and powered off.
    Done,
    /// Stopped, at the deadline or at the caller's request.
    Deadline,
    /// Ended without a report.
    Died,
}

/// All of a boot.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the console.
    pub verdicts: Vec<Verdict>,
    /// The kernel's complaints.
    pub reports: Vec<Report>,
    /// How it ended.
    pub end: End,
    /// The test that was running when it ended.
    pub running: Option<String>,
    /// The file with the whole console.
    pub console: PathBuf,
    /// From the start to the end.
    pub took: Duration,
}

/// Reads a console line by line.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) reports: Vec<Report>,
    pub(crate) running: Option<String>,
    pub(crate) done: bool,
    open: bool,
}

impl Reader {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &str) {
        // The kernel's own lines can come in before the guest's on the same line.
        if let Some((_, test)) = line.split_once(START) {
            self.running = Some(test.trim().to_owned());
            self.open = false;
        } else if let Some((_, verdict)) = line.split_once(VERDICT) {
            self.verdict(verdict);
            self.open = false;
        } else if line.contains(END) {
            self.done = true;
            self.open = false;
        } else {
            self.complaint(line);
        }
    }

    fn verdict(&mut self, text: &str) {
        let mut words = text.trim().splitn(3, ' ');
        let (Some(test), Some(mark)) = (words.next(), words.next().and_then(Mark::parse)) else {
            return;
        };
        if self.running.as_deref() == Some(test) {
            self.running = None;
        }
        let detail = words.next().unwrap_or_default().to_owned();
        self.verdicts.push(Verdict {
            test: test.to_owned(),
            mark,
            detail,
        });
    }

    fn complaint(&mut self, line: &str) {
        let begins = COMPLAINTS.iter().any(|complaint| line.contains(complaint));
        match self.reports.last_mut() {
            // A complaint that follows another is one of its own; else a known one would hide a new one.
            Some(report) if self.open && !begins && report.lines.len() < REPORT_LINES => {
                report.lines.push(line.to_owned());
            }
            _ if begins => {
                let lines = vec![line.to_owned()];
                self.reports.push(Report {
                    during: self.running.clone(),
                    lines,
                });
                self.open = true;
            }
            _ => self.open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(console: &str) -> Reader {
        let mut reader = Reader::default();
        console.lines().for_each(|line| reader.line(line));
        reader
    }

    #[test]
    fn line_with_a_verdict_gives_test_mark_and_detail() {
        let reader =
            read("LAB-START a\nLAB-VERDICT a FAIL 2 WRITEs: x\nLAB-VERDICT b PASS\nLAB-END\n");
        let details: Vec<_> = reader
            .verdicts
            .iter()
            .map(|v| (v.test.as_str(), v.mark, v.detail.as_str()))
            .collect();
        assert_eq!(
            details,
            [("a", Mark::Fail, "2 WRITEs: x"), ("b", Mark::Pass, "")]
        );
        assert!(reader.done && reader.running.is_none() && reader.reports.is_empty());
    }

    #[test]
    fn line_with_a_hung_task_is_a_report_of_the_running_test() {
        let reader = read(
            "LAB-START hangs\nINFO: task t:1 blocked for more than 10 seconds.\n fault_in_readable\n\
             LAB-VERDICT hangs FAIL\n",
        );
        assert_eq!(reader.reports.len(), 1);
        assert_eq!(reader.reports[0].during.as_deref(), Some("hangs"));
        assert_eq!(reader.reports[0].lines[1], " fault_in_readable");
    }

    #[test]
    fn line_with_a_second_complaint_is_a_second_report() {
        let reader = read("LAB-START a\nWARNING: one\n stack\nWARNING: two\n stack\n");
        let first: Vec<&str> = reader.reports.iter().map(|r| r.lines[0].as_str()).collect();
        assert_eq!(first, ["WARNING: one", "WARNING: two"]);
        assert_eq!(reader.reports[1].during.as_deref(), Some("a"));
    }

    #[test]
    fn line_cut_off_before_the_verdict_leaves_the_test_running() {
        let reader = read("LAB-START hangs\nLAB-VERD");
        assert_eq!(reader.running.as_deref(), Some("hangs"));
        assert!(reader.verdicts.is_empty() && !reader.done);
    }

    #[test]
    fn verdict_with_an_unknown_mark_is_none() {
        assert!(read("LAB-VERDICT a FINE\n").verdicts.is_empty());
    }
}
