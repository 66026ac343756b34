//! What a mount may do worse than the native directory: `xtests/suites/expect.toml`, one sentence
//! each. Data, so that known failures can be read in one place, and an outdated entry fails the run.

use serde::Deserialize;

use super::options::Options;
use super::verdicts::{Verdict, Verdicts};
use crate::report::Report;

const DATA: &str = include_str!("../../suites/expect.toml");

#[derive(Deserialize)]
struct Data {
    expect: Vec<Expectation>,
}

/// An expectation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    suite: String,
    test: String,
    /// `fails`, `skipped`, or `may-fail` for a test that depends on timing.
    verdict: Kind,
    /// Only with this option of `thrufs mount`; `--cache=auto` is the default mode.
    with: Option<String>,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Fails,
    Skipped,
    MayFail,
}

/// The expectations for `suite` under `options`.
pub(super) fn of(suite: &str, options: &Options) -> Vec<Expectation> {
    let data: Data = toml::from_str(DATA).expect("a unit test parses this constant");
    let in_force = |with: &str| {
        options.with.iter().any(|option| option == with)
            || (with == "--cache=auto" && !options.says_cache_mode())
    };
    data.expect
        .into_iter()
        .filter(|one| one.suite == suite && one.with.as_deref().is_none_or(in_force))
        .collect()
}

/// Records each test of `suite`: a result that is as good as the native one or listed is no failure.
pub(super) fn judge(
    suite: &str,
    verdicts: &Verdicts,
    native: Option<&Verdicts>,
    expected: &[Expectation],
    report: &mut Report,
) {
    for (test, verdict) in verdicts {
        let name = format!("{suite}::{test}");
        let listed = expected.iter().find(|one| one.test == *test);
        let natively = native.and_then(|native| native.get(test));
        match (verdict, natively) {
            (Verdict::Passed, _) => match listed {
                Some(one) if one.verdict != Kind::MayFail => report.fail(
                    name,
                    format!("passes, but expect.toml says: {}", one.reason),
                ),
                _ => report.pass(name),
            },
            (Verdict::Failed(_), Some(Verdict::Failed(_))) => {
                report.skip(name, "fails natively as well");
            }
            (Verdict::Failed(why), _) => match listed {
                Some(one) if one.verdict != Kind::Skipped => report.skip(name, &one.reason),
                _ => report.fail(name, why),
            },
            (Verdict::Skipped(why), Some(Verdict::Passed)) => match listed {
                Some(one) if one.verdict == Kind::Skipped => report.skip(name, &one.reason),
                _ => report.fail(name, format!("{why}; natively it passes")),
            },
            (Verdict::Skipped(why), _) => report.skip(name, why),
        }
    }
    for (test, _) in native.into_iter().flatten() {
        if !verdicts.contains_key(test) {
            report.fail(format!("{suite}::{test}"), "not run; natively it was");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(test: &str, verdict: Kind) -> Expectation {
        Expectation {
            suite: "s".into(),
            test: test.into(),
            verdict,
            with: None,
            reason: "Known.".into(),
        }
    }

    fn judged(verdict: Verdict, natively: Verdict, expected: &[Expectation]) -> (usize, usize) {
        let of = |verdict| Verdicts::from([("t".to_owned(), verdict)]);
        let mut report = Report::default();
        judge(
            "s",
            &of(verdict),
            Some(&of(natively)),
            expected,
            &mut report,
        );
        (report.passed.len(), report.failed.len())
    }

    #[test]
    fn expectations_parse_and_have_a_sentence_each() {
        let data: Data = toml::from_str(DATA).unwrap();
        for one in data.expect {
            assert!(one.reason.ends_with('.'), "{one:?}");
            let known = super::super::SUITES
                .iter()
                .any(|name| name.name() == one.suite);
            assert!(known, "{one:?}");
        }
    }

    #[test]
    fn judge_of_a_failure_that_native_does_not_have_fails() {
        let failed = || Verdict::Failed("why".into());
        assert_eq!(judged(failed(), Verdict::Passed, &[]), (0, 1));
        assert_eq!(judged(failed(), failed(), &[]), (0, 0));
        let known = [listed("t", Kind::Fails)];
        assert_eq!(judged(failed(), Verdict::Passed, &known), (0, 0));
    }

    #[test]
    fn judge_of_an_unexpected_pass_fails_unless_it_depends_on_timing() {
        let known = [listed("t", Kind::Fails)];
        assert_eq!(judged(Verdict::Passed, Verdict::Passed, &known), (0, 1));
        let racy = [listed("t", Kind::MayFail)];
        assert_eq!(judged(Verdict::Passed, Verdict::Passed, &racy), (1, 0));
    }

    #[test]
    fn judge_of_a_skip_that_runs_natively_fails() {
        let skipped = || Verdict::Skipped("no".into());
        assert_eq!(judged(skipped(), Verdict::Passed, &[]), (0, 1));
        assert_eq!(judged(skipped(), skipped(), &[]), (0, 0));
        let known = [listed("t", Kind::Skipped)];
        assert_eq!(judged(skipped(), Verdict::Passed, &known), (0, 0));
    }

    #[test]
    fn judge_of_a_test_that_was_not_run_fails() {
        let native = Verdicts::from([("t".to_owned(), Verdict::Passed)]);
        let mut report = Report::default();
        judge("s", &Verdicts::new(), Some(&native), &[], &mut report);
        assert_eq!(report.failed.len(), 1);
    }
}
