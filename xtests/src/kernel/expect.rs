//! What is expected of each kernel, and how an outcome compares.
//!
//! Invariant: every test that is not listed must pass, and every listed test must fail in the
//! listed way. So a fixed defect, a lost test and a new failure are all noticed.
//!
//! Kernels are listed as `7.3/stock`, with `/virtiofs` for that transport, or `/virtiofsd` where that is its
//! server; a `*` at the end of a word between slashes stands for any rest of it.

use anyhow::Context;
use serde::Deserialize;
use thrufs_lab::{End, Mark, Outcome, Report};

use super::case::is_called;

/// The contents of `expect.toml`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectations {
    #[serde(default)]
    failure: Vec<Failure>,
    #[serde(default)]
    report: Vec<ExpectedReport>,
    #[serde(default)]
    tolerated: Vec<Tolerated>,
    #[serde(default)]
    skip: Vec<Skip>,
    #[serde(default)]
    left_out: Vec<LeftOut>,
}

/// A test that lacks something on some kernels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    kernels: Vec<String>,
    test: String,
    reason: String,
}

/// Tests, or whole suites, that are not run on some kernels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftOut {
    kernels: Vec<String>,
    tests: Vec<String>,
    reason: String,
}

/// A test that fails on some kernels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    kernels: Vec<String>,
    test: String,
    /// A part of the test's message then.
    detail: String,
    /// Printed in the table's notes.
    reason: String,
}

/// A complaint that some kernels make.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedReport {
    kernels: Vec<String>,
    during: String,
    /// All of these occur, in this order.
    contains: Vec<String>,
    reason: String,
}

/// A complaint that is not about the tests, and that may be absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tolerated {
    kernels: Vec<String>,
    /// The tests during which it may come; empty for any.
    #[serde(default)]
    during: Vec<String>,
    /// All of these occur, in this order.
    contains: Vec<String>,
    reason: String,
}

/// What a test's result means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    /// Passed, as expected.
    Pass,
    /// Failed in the listed way, for the listed reason.
    Expected(String),
    /// Skipped or not run, as listed.
    NotRun(String),
    /// Anything else: what happened.
    Wrong(String),
}

/// Everything that one kernel showed.
pub(super) struct Comparison {
    /// One for each test, in their order.
    pub(super) cells: Vec<Cell>,
    /// Faults beside the tests: complaints, missing complaints, a bad end.
    pub(super) wrong: Vec<String>,
    /// Expected complaints, with the reason.
    pub(super) notes: Vec<String>,
}

impl Comparison {
    /// The same with a cell for each of `all`; the kernel ran only those of `own`.
    pub(super) fn widened(mut self, own: &[String], all: &[String]) -> Self {
        let cell = |test: &String| match own.iter().position(|name| name == test) {
            Some(at) => self.cells[at].clone(),
            None => Cell::NotRun("the series of its base has no such test".into()),
        };
        self.cells = all.iter().map(cell).collect();
        self
    }
}

impl Expectations {
    pub(super) fn load() -> anyhow::Result<Self> {
        toml::from_str(include_str!("expect.toml")).context("expect.toml")
    }

    /// Why a test is not run on the kernel `name`, if it is not.
    pub(super) fn left_out(&self, name: &str, test: &str) -> Option<&str> {
        let is_listed = |l: &&LeftOut| {
            names(&l.kernels, name) && l.tests.iter().any(|wanted| is_called(test, wanted))
        };
        let found = self.left_out.iter().find(is_listed)?;
        Some(&found.reason)
    }

    /// Compares the outcome of the kernel `name` with its expectations.
    pub(super) fn compare(&self, name: &str, tests: &[String], outcome: &Outcome) -> Comparison {
        let cells = tests
            .iter()
            .map(|test| self.cell(name, test, outcome))
            .collect();
        let mut wrong = Vec::new();
        let mut notes = Vec::new();
        match outcome.end {
            End::Done => (),
            End::Deadline => wrong.push(format!("stopped at the deadline{}", during(outcome))),
            End::Died => wrong.push(format!("went away without a word{}", during(outcome))),
        }
        for verdict in &outcome.verdicts {
            if !tests.contains(&verdict.test) {
                wrong.push(format!(
                    "{} {}: {}",
                    verdict.test,
                    verdict.mark.word(),
                    verdict.detail
                ));
            }
        }
        self.reports(name, tests, outcome, (&mut wrong, &mut notes));
        notes.dedup();
        Comparison {
            cells,
            wrong,
            notes,
        }
    }

    /// The kernel's complaints: `wrong` ones, and notes.
    fn reports(
        &self,
        name: &str,
        tests: &[String],
        outcome: &Outcome,
        (wrong, notes): (&mut Vec<String>, &mut Vec<String>),
    ) {
        let listed = self.report.iter();
        let listed: Vec<&ExpectedReport> = listed
            .filter(|r| names(&r.kernels, name) && tests.contains(&r.during))
            .collect();
        for report in outcome
            .reports
            .iter()
            .filter(|r| says_something(r, outcome))
        {
            let mut tolerated = self.tolerated.iter();
            if let Some(listed) = listed.iter().find(|listed| listed.matches(report)) {
                notes.push(format!("{}: {}", listed.during, listed.reason));
            } else if let Some(known) =
                tolerated.find(|t| names(&t.kernels, name) && t.matches(report))
            {
                notes.push(format!("tolerated: {}", known.reason));
            } else {
                wrong.push(format!(
                    "the kernel complains:\n{}",
                    report.lines.join("\n")
                ));
            }
        }
        for listed in listed {
            if !outcome.reports.iter().any(|report| listed.matches(report)) {
                let contains = listed.contains.join(" ... ");
                wrong.push(format!(
                    "{}: the kernel did not report {contains}",
                    listed.during
                ));
            }
        }
    }

    fn cell(&self, name: &str, test: &str, outcome: &Outcome) -> Cell {
        if let Some(reason) = self.left_out(name, test) {
            return Cell::NotRun(reason.to_owned());
        }
        let mut failures = self.failure.iter();
        let listed = failures.find(|f| f.test == test && names(&f.kernels, name));
        let Some(verdict) = outcome.verdicts.iter().find(|verdict| verdict.test == test) else {
            return Cell::Wrong("no verdict".into());
        };
        match (verdict.mark, listed) {
            (Mark::Pass, None) => Cell::Pass,
            (Mark::Pass, Some(failure)) => {
                Cell::Wrong(format!("passes, but should fail: {}", failure.reason))
            }
            (Mark::Fail, Some(failure)) if verdict.detail.contains(&failure.detail) => {
                Cell::Expected(failure.reason.clone())
            }
            (Mark::Fail, Some(failure)) => Cell::Wrong(format!(
                "fails with {:?}, not {:?}",
                verdict.detail, failure.detail
            )),
            (Mark::Fail, None) => Cell::Wrong(format!("fails: {}", verdict.detail)),
            (Mark::Skip, _) => {
                let mut skips = self.skip.iter();
                match skips.find(|s| s.test == test && names(&s.kernels, name)) {
                    Some(skip) => Cell::NotRun(skip.reason.clone()),
                    None => Cell::Wrong(format!("skipped: {}", verdict.detail)),
                }
            }
        }
    }
}

/// Whether one of the patterns is the name of this kernel.
fn names(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| {
        let mut words = name.split('/');
        let mut parts = pattern.split('/');
        loop {
            match (words.next(), parts.next()) {
                (None, None) => return true,
                (Some(word), Some(part)) if is_like(word, part) => (),
                _ => return false,
            }
        }
    })
}

impl ExpectedReport {
    fn matches(&self, report: &Report) -> bool {
        report.during.as_deref() == Some(self.during.as_str()) && contains(report, &self.contains)
    }
}

impl Tolerated {
    fn matches(&self, report: &Report) -> bool {
        let during = report.during.as_ref();
        let in_time =
            self.during.is_empty() || during.is_some_and(|test| self.during.contains(test));
        in_time && contains(report, &self.contains)
    }
}

/// False for a list of blocked tasks, which the guest requests when a test takes long, if it is
/// empty or the test passed in the end: the host was busy.
fn says_something(report: &Report, outcome: &Outcome) -> bool {
    let is_list = report
        .lines
        .first()
        .is_some_and(|line| line.contains("Show Blocked State"));
    let has_tasks = report.lines.iter().any(|line| line.contains("task:"));
    let passed = outcome
        .verdicts
        .iter()
        .any(|verdict| verdict.mark == Mark::Pass && report.during.as_ref() == Some(&verdict.test));
    !is_list || (has_tasks && !passed)
}

/// Whether the parts occur in the report's lines, in this order.
fn contains(report: &Report, parts: &[String]) -> bool {
    let mut lines = report.lines.iter();
    parts
        .iter()
        .all(|part| lines.any(|line| line.contains(part)))
}

fn is_like(word: &str, part: &str) -> bool {
    match part.strip_suffix('*') {
        Some(start) => word.starts_with(start),
        None => word == part,
    }
}

fn during(outcome: &Outcome) -> String {
    outcome
        .running
        .as_ref()
        .map(|test| format!(" during {test}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thrufs_lab::Verdict;

    fn outcome(test: &str, mark: Mark, detail: &str) -> Outcome {
        let verdict = Verdict {
            test: test.into(),
            mark,
            detail: detail.into(),
        };
        Outcome {
            verdicts: vec![verdict],
            reports: Vec::new(),
            end: End::Done,
            running: None,
            console: "console".into(),
            took: std::time::Duration::ZERO,
        }
    }

    fn expectations() -> Expectations {
        toml::from_str(
            "[[failure]]\nkernels=['k']\ntest='t'\ndetail='2 WRITEs'\nreason='rule D'\n\
             [[report]]\nkernels=['k']\nduring='h'\ncontains=['blocked','fault']\nreason='hangs'\n",
        )
        .unwrap()
    }

    fn cell(kernel: &str, mark: Mark, detail: &str) -> Cell {
        let comparison = expectations().compare(kernel, &["t".into()], &outcome("t", mark, detail));
        comparison.cells.into_iter().next().unwrap()
    }

    #[test]
    fn cell_of_an_unexpected_pass_is_wrong() {
        assert!(matches!(cell("k", Mark::Pass, ""), Cell::Wrong(_)));
        assert_eq!(cell("other", Mark::Pass, ""), Cell::Pass);
    }

    #[test]
    fn cell_of_a_failure_counts_only_with_the_listed_detail() {
        assert_eq!(
            cell("k", Mark::Fail, "2 WRITEs: x"),
            Cell::Expected("rule D".into())
        );
        assert!(matches!(
            cell("k", Mark::Fail, "3 WRITEs: x"),
            Cell::Wrong(_)
        ));
        assert!(matches!(
            cell("other", Mark::Fail, "2 WRITEs: x"),
            Cell::Wrong(_)
        ));
    }

    #[test]
    fn cell_without_a_verdict_is_wrong() {
        let none = outcome("else", Mark::Pass, "");
        let comparison = expectations().compare("k", &["t".into()], &none);
        assert_eq!(comparison.cells, [Cell::Wrong("no verdict".into())]);
    }

    #[test]
    fn widened_by_a_test_of_another_base_is_not_run_and_keeps_the_rest() {
        let (own, all) = (["t".to_owned()], ["u".to_owned(), "t".to_owned()]);
        let outcome = outcome("t", Mark::Pass, "");
        let comparison = Expectations::default().compare("k", &own, &outcome);
        let cells = comparison.widened(&own, &all).cells;
        assert!(
            matches!(cells[..], [Cell::NotRun(_), Cell::Pass]),
            "{cells:?}"
        );
    }

    #[test]
    fn compare_with_a_missing_report_is_wrong_and_with_it_a_note() {
        let mut outcome = outcome("h", Mark::Pass, "");
        let tests = ["h".to_owned()];
        assert_eq!(expectations().compare("k", &tests, &outcome).wrong.len(), 1);
        let lines = vec!["task blocked".into(), "x".into(), "fault".into()];
        outcome.reports.push(Report {
            during: Some("h".into()),
            lines,
        });
        let comparison = expectations().compare("k", &tests, &outcome);
        assert_eq!((comparison.wrong.len(), comparison.notes.len()), (0, 1));
        assert_eq!(
            expectations()
                .compare("other", &tests, &outcome)
                .wrong
                .len(),
            1
        );
    }

    #[test]
    fn compare_with_a_tolerated_report_is_a_note_and_without_it_nothing() {
        let data = "[[tolerated]]\nkernels=['k']\ncontains=['RCU','flush']\nreason='known'\n";
        let expectations: Expectations = toml::from_str(data).unwrap();
        let mut outcome = outcome("t", Mark::Pass, "");
        let tests = ["t".to_owned()];
        let plain = expectations.compare("k", &tests, &outcome);
        assert!(plain.wrong.is_empty() && plain.notes.is_empty());
        outcome.reports.push(Report {
            during: None,
            lines: vec!["RCU".into(), "flush".into()],
        });
        let noted = expectations.compare("k", &tests, &outcome);
        assert_eq!((noted.wrong.len(), noted.notes.len()), (0, 1));
        assert_eq!(
            expectations.compare("other", &tests, &outcome).wrong.len(),
            1
        );
    }

    #[test]
    fn compare_with_a_report_that_is_tolerated_during_another_test_is_wrong() {
        let data =
            "[[tolerated]]\nkernels=['k']\nduring=['t']\ncontains=['INFO']\nreason='known'\n";
        let expectations: Expectations = toml::from_str(data).unwrap();
        for (during, wrong) in [("t", 0), ("u", 1)] {
            let mut outcome = outcome("t", Mark::Fail, "");
            outcome.reports.push(Report {
                during: Some(during.into()),
                lines: vec!["INFO: task".into()],
            });
            let comparison = expectations.compare("k", &["t".into()], &outcome);
            assert_eq!(comparison.wrong.len(), wrong);
        }
    }

    #[test]
    fn compare_with_a_list_of_blocked_tasks_is_wrong_if_there_are_some_and_the_test_fails() {
        let wrong = |mark, lines: &[&str]| {
            let mut outcome = outcome("t", mark, "");
            outcome.reports.push(Report {
                during: Some("t".into()),
                lines: lines.iter().map(|&line| line.to_owned()).collect(),
            });
            let tests = ["t".to_owned()];
            let comparison = Expectations::default().compare("k", &tests, &outcome);
            comparison.wrong.len()
        };
        let list = ["sysrq: Show Blocked State", "task:x state:D"];
        assert_eq!(wrong(Mark::Fail, &list), 1);
        assert_eq!(wrong(Mark::Pass, &list), 0);
        assert_eq!(wrong(Mark::Fail, &list[..1]), 0);
        assert_eq!(wrong(Mark::Pass, &["BUG: x", "task:x"]), 1);
    }

    #[test]
    fn names_with_a_star_covers_one_word() {
        let patterns = ["7.3/*".to_owned()];
        assert!(names(&patterns, "7.3/stock") && !names(&patterns, "7.3/stock/virtiofs"));
        assert!(!names(&patterns, "6.12/stock"));
        assert!(names(
            &["distro/6.*".to_owned()],
            "distro/6.12.95-cloud-amd64"
        ));
    }

    #[test]
    fn cell_of_a_suite_that_is_left_out_needs_no_verdict() {
        let text = "[[left_out]]\nkernels=['k']\ntests=['s']\nreason='r'\n";
        let expectations: Expectations = toml::from_str(text).unwrap();
        let none = outcome("else", Mark::Pass, "");
        let of = |test: &str| expectations.compare("k", &[test.to_owned()], &none).cells;
        assert_eq!(of("s/t"), [Cell::NotRun("r".into())]);
        assert!(matches!(of("u/t")[..], [Cell::Wrong(_)]));
    }

    #[test]
    fn load_of_the_shipped_expectations_works() {
        Expectations::load().unwrap();
    }
}
