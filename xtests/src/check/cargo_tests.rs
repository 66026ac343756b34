//! Stages that run `cargo test` and read libtest's lines, so that each test counts by name.
//!
//! libtest has no skip at run time: a test that skipped itself is in the skip log
//! ([`crate::support::skip`]) and is moved from passed to skipped here.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::install::{self, cargo};
use crate::report::Report;
use crate::support::command::tail;
use crate::support::mount::{BIN, CACHE, ON};
use crate::support::skip::SKIP_LOG;

/// No stage may take longer: then coreutils' timeout ends it and what it started.
const LIMIT: &str = "900";

pub(super) fn library(report: &mut Report) -> Result<()> {
    run("library", &mut cargo(&["test", "--no-fail-fast"]), report)
}

pub(super) fn native(report: &mut Report) -> Result<()> {
    tier("native", &[(ON, "native")], report)
}

pub(super) fn auto(report: &mut Report) -> Result<()> {
    tier("mount-auto", &[(CACHE, "auto")], report)
}

pub(super) fn never(report: &mut Report) -> Result<()> {
    tier("mount-never", &[(CACHE, "never")], report)
}

pub(super) fn always(report: &mut Report) -> Result<()> {
    tier("mount-always", &[(CACHE, "always")], report)
}

fn tier(stage: &str, environment: &[(&str, &str)], report: &mut Report) -> Result<()> {
    let thrufs = install::thrufs()?;
    let mut test = cargo(&["test", "--release", "--package", "xtests", "--no-fail-fast"]);
    test.env(BIN, thrufs);
    test.env_remove(ON)
        .env_remove(CACHE)
        .envs(environment.iter().copied());
    run(stage, &mut test, report)
}

/// Runs it under a time limit with all output in a log file, and records every test.
fn run(stage: &str, cargo: &mut Command, report: &mut Report) -> Result<()> {
    let directory = install::target().join("check");
    std::fs::create_dir_all(&directory)?;
    let log = directory.join(format!("{stage}.log"));
    let skips = directory.join(format!("{stage}.skips"));
    File::create(&skips).with_context(|| skips.display().to_string())?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", LIMIT])
        .arg(cargo.get_program())
        .args(cargo.get_args());
    // An error says where it comes from; a backtrace of the test harness would hide it.
    command.env("RUST_BACKTRACE", "0");
    command
        .current_dir(install::root())
        .env(SKIP_LOG, &skips)
        .stdin(Stdio::null());
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let file = File::create(&log)?;
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("timeout")?;
    let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let before = report.failed.len();
    count(stage, &output, &read_skips(&skips)?, report);
    if !status.success() && report.failed.len() == before {
        let (end, log) = (tail(&output), log.display());
        report.fail(stage, format!("cargo test: {status}, see {log}\n{end}"));
    }
    Ok(())
}

fn read_skips(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path)?;
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(pairs
        .map(|(name, what)| (name.to_owned(), what.to_owned()))
        .collect())
}

/// Reads libtest's lines: `     Running tests/data.rs (…)` and `test NAME ... ok`.
fn count(stage: &str, output: &str, skips: &HashMap<String, String>, report: &mut Report) {
    let mut binary = String::new();
    for line in output.lines() {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("Running ") {
            let path = rest
                .trim_start_matches("unittests ")
                .split(' ')
                .next()
                .unwrap_or_default();
            binary = Path::new(path)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            continue;
        }
        let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|l| l.split_once(" ... "))
        else {
            continue;
        };
        let name = name.trim_end_matches(" - should panic");
        let full = format!("{stage}::{binary}::{name}");
        match (verdict, skips.get(name)) {
            ("ok", Some(what)) => report.skip(full, what.clone()),
            ("ok", None) => report.pass(full),
            ("FAILED", _) => report.fail(full, failure(output, name)),
            (other, _) => match other.strip_prefix("ignored") {
                Some(why) => report.skip(full, why.trim_start_matches([',', ' '])),
                None => report.fail(full, format!("libtest says {other:?}")),
            },
        }
    }
}

/// What the test printed: the block `---- NAME stdout ----`.
fn failure(output: &str, name: &str) -> String {
    let start = format!("---- {name} stdout ----");
    let Some((_, rest)) = output.split_once(&start) else {
        return "no output".to_owned();
    };
    let ends = ["\n---- ", "\nfailures:\n"];
    let end = ends
        .iter()
        .filter_map(|end| rest.find(end))
        .min()
        .unwrap_or(rest.len());
    tail(rest[..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/x)
test a::passes ... ok
     Running tests/data.rs (target/y)
test good ... ok
test lacking ... ok
test long ... ignored, long: run it alone
test bad ... FAILED

failures:

---- bad stdout ----
Error: three is not four

failures:
    bad
";

    #[test]
    fn count_of_libtest_lines_has_every_test_once() {
        let skips = HashMap::from([("lacking".to_owned(), "a thing".to_owned())]);
        let mut report = Report::default();
        count("s", OUTPUT, &skips, &mut report);
        assert_eq!(report.passed, ["s::lib::a::passes", "s::data::good"]);
        assert_eq!(report.failed[0].name, "s::data::bad");
        assert!(report.failed[0].why.contains("three is not four"));
        let skipped: Vec<_> = report
            .skipped
            .iter()
            .map(|entry| entry.why.as_str())
            .collect();
        assert_eq!(skipped, ["a thing", "long: run it alone"]);
    }
}
