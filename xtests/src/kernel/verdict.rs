//! From a program's output to a verdict.
//!
//! Invariant: a pass needs the program's own report and a good exit; anything unreadable is a
//! failure. Expectations are compared with the detail, so it is the test's own last message.

use thrufs_lab::Mark;

use super::case::Language;

/// Exit code of a case that lacks something.
pub(super) const LACKS: u8 = 77;
/// Bytes of a message that are kept.
const LONGEST: usize = 600;

/// The verdict of a program that ended by itself with `code`.
pub(super) fn read(language: Language, code: Option<i32>, lines: &[String]) -> (Mark, String) {
    match language {
        Language::Tap => tap(lines),
        Language::Rust => rust(code, lines),
    }
}

/// The kernel's harness, asked for one test.
fn tap(lines: &[String]) -> (Mark, String) {
    let mut detail = String::new();
    for line in lines {
        let line = line.trim_end();
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            // The message ends the line file:line:test:message; a time-out has none.
            if comment.contains(".c:") || comment.contains("terminated by timeout") {
                detail = message(comment).to_owned();
            }
        } else if line.starts_with("not ok ") {
            return (Mark::Fail, detail);
        } else if let Some(rest) = line.strip_prefix("ok ") {
            return match rest.split_once("# SKIP") {
                Some((_, why)) => (Mark::Skip, why.trim().to_owned()),
                None => (Mark::Pass, String::new()),
            };
        }
    }
    (Mark::Fail, "ended without a result".to_owned())
}

fn message(comment: &str) -> &str {
    comment.splitn(4, ':').nth(3).unwrap_or(comment)
}

/// A program of ours, or a test of Rust's harness.
fn rust(code: Option<i32>, lines: &[String]) -> (Mark, String) {
    let last = lines.iter().rev().find(|line| !line.trim().is_empty());
    match code {
        Some(0) => (Mark::Pass, last.cloned().unwrap_or_default()),
        Some(code) if code == i32::from(LACKS) => (Mark::Skip, last.cloned().unwrap_or_default()),
        Some(_) | None => (Mark::Fail, error(lines)),
    }
}

/// The final error with its causes, or the panic.
fn error(lines: &[String]) -> String {
    let begins = |line: &&String| line.starts_with("Error: ") || line.contains("panicked at");
    let Some(at) = lines.iter().position(|line| begins(&line)) else {
        return lines
            .last()
            .cloned()
            .unwrap_or_else(|| "no output".to_owned());
    };
    let block = lines[at..].iter().map(|line| line.trim());
    let words: Vec<&str> = block
        .take_while(|line| !line.starts_with("----") && *line != "failures:")
        .filter(|line| !line.is_empty() && *line != "Caused by:")
        .collect();
    let text = words.join("; ");
    let text = text.strip_prefix("Error: ").unwrap_or(&text);
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn of(language: Language, code: i32, text: &str) -> (Mark, String) {
        read(language, Some(code), &lines(text))
    }

    #[test]
    fn tap_of_a_failed_test_carries_its_last_message() {
        let tap = "#  RUN           fuse.a ...\n# t.c:1:a:Expected 1 == 2\n# t.c:2:a:WRITEs: 3@1 4@4\n\
                   # a: Test terminated by assertion\n#          FAIL  fuse.a\nnot ok 1 fuse.a\n";
        assert_eq!(
            of(Language::Tap, 1, tap),
            (Mark::Fail, "WRITEs: 3@1 4@4".into())
        );
    }

    #[test]
    fn tap_of_a_timed_out_test_says_so() {
        let tap = "# a: Test terminated by timeout\nnot ok 1 fuse.a\n";
        assert_eq!(of(Language::Tap, 1, tap).1, "a: Test terminated by timeout");
    }

    #[test]
    fn tap_of_a_skipped_test_is_no_pass() {
        let skip = (Mark::Skip, "need root".into());
        assert_eq!(of(Language::Tap, 4, "ok 1 fuse.a # SKIP need root\n"), skip);
    }

    #[test]
    fn tap_without_a_result_is_a_failure() {
        assert_eq!(of(Language::Tap, 0, "# Starting\n").0, Mark::Fail);
    }

    #[test]
    fn rust_failure_is_the_error_with_its_causes() {
        let text = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nError: it broke\n\n\
                    Caused by:\n    no space\n\n\nfailures:\n    a\n";
        assert_eq!(
            of(Language::Rust, 101, text),
            (Mark::Fail, "it broke; no space".into())
        );
    }

    #[test]
    fn rust_pass_carries_the_last_line() {
        assert_eq!(
            of(Language::Rust, 0, "a\nsent 3\n\n"),
            (Mark::Pass, "sent 3".into())
        );
    }
}
