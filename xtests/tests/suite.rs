//! `xtests suite` as its user sees it: what is missing is named, and what cannot be is refused.

use std::process::{Command, Output};

use xtests::support::command::said;

fn suite(args: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtests"))
        .arg("suite")
        .args(args)
        .output()
        .expect("xtests runs");
    let text = said(&output);
    (output, text)
}

#[test]
fn xfstests_without_a_checkout_is_skipped_by_name() {
    let (output, text) = suite(&["xfstests", "--on", "native"]);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("skipped xfstests: a built checkout"),
        "{text}"
    );
    assert!(text.contains("--dir"), "{text}");
    assert!(text.ends_with("0 passed, 0 failed, 1 skipped\n"), "{text}");
}

#[test]
fn xfstests_of_a_checkout_that_is_not_built_names_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_string_lossy().into_owned();
    let (_, text) = suite(&["xfstests", "--on", "native", "--dir", &path]);
    assert!(text.contains("/check: build the checkout"), "{text}");
}

#[test]
fn suite_on_a_place_that_is_not_there_names_those_that_are() {
    let (output, text) = suite(&["dbench", "--on", "no-such-place"]);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no-such-place is no directory"), "{text}");
    assert!(text.contains("passthrough_hp-io-uring"), "{text}");
}

#[test]
fn suite_with_no_minute_is_refused() {
    let (output, text) = suite(&["dbench", "--on", "native", "--minutes", "0"]);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--minutes"), "{text}");
}
