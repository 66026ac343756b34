//! Stages that run `cargo test` and read libtest's lines, so that each test counts by name.
//!
//! libtest has no skip at run time: a test that skipped itself is in the skip log
//! ([`crate::support::skip`]) and is moved from passed to skipped here.
//!
//! The mount tier has four settings that change how the daemon works: `--cache`, `--transport`, `--passthrough`, and
//! whether SOURCE is a whole file system (inodes by file handle) or a directory (by descriptor). Five runs meet every
//! pair of their values but `never` with fuser; all combinations would be twenty-four.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::room::Room;
use crate::report::Report;
use crate::support::command::tail;
use crate::support::install::{self, cargo};
use crate::support::interrupt::spawn;
use crate::support::mount::{BIN, CACHE, ON, PASSTHROUGH, TRANSPORT};
use crate::support::scratch::LAYOUT;
use crate::support::skip::{SKIP_LOG, TIME_LOG};

/// Limit of a stage; then coreutils' timeout ends it with everything that it started.
const LIMIT: &str = "900";

pub(super) fn library(report: &mut Report) -> Result<()> {
    run("library", &mut cargo(&["test", "--no-fail-fast"]), report)
}

/// The mount tier in this environment.
pub(super) fn tier(stage: &str, environment: &[(&str, &str)], report: &mut Report) -> Result<()> {
    let thrufs = install::thrufs_and_break_out()?;
    let mut test = cargo(&["test", "--release", "--package", "xtests", "--no-fail-fast"]);
    test.env(BIN, thrufs);
    for variable in [ON, CACHE, PASSTHROUGH, TRANSPORT, LAYOUT] {
        test.env_remove(variable);
    }
    test.envs(environment.iter().copied());
    run(stage, &mut test, report)
}

/// Runs cargo under a time limit with its output in a log file, and records every test.
fn run(stage: &str, cargo: &mut Command, report: &mut Report) -> Result<()> {
    let directory = install::target().join("check");
    std::fs::create_dir_all(&directory)?;
    let log = directory.join(format!("{stage}.log"));
    let skips = Notes::begin(directory.join(format!("{stage}.skips")))?;
    let times = Notes::begin(directory.join(format!("{stage}.times")))?;
    let room = Room::new()?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", LIMIT])
        .arg(cargo.get_program())
        .args(cargo.get_args());
    // An error says where it comes from; a backtrace of the test harness would hide it.
    command.env("RUST_BACKTRACE", "0");
    command
        .current_dir(install::root())
        .env(SKIP_LOG, &skips.0)
        .env(TIME_LOG, &times.0)
        .env("TMPDIR", room.path())
        .stdin(Stdio::null());
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let file = File::create(&log)?;
    let running = spawn(command.stdout(file.try_clone()?).stderr(file)).context("timeout")?;
    let status = running.wait()?;
    drop(room);
    let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let before = report.failed.len();
    count(stage, &output, &skips.read()?, report);
    report.times.extend(timed(stage, &output, &times.read()?));
    if !status.success() && report.failed.len() == before {
        let (end, log) = (tail(&output), log.display());
        report.fail(stage, format!("cargo test: {status}, see {log}\n{end}"));
    }
    Ok(())
}

/// What tests report beside libtest, as lines of `test<TAB>what`.
struct Notes(PathBuf);

impl Notes {
    /// Truncates the file.
    fn begin(path: PathBuf) -> Result<Self> {
        File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn read(&self) -> Result<HashMap<String, String>> {
        let text = std::fs::read_to_string(&self.0)?;
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs
            .map(|(name, what)| (name.to_owned(), what.to_owned()))
            .collect())
    }
}

/// Reads libtest's lines: `     Running tests/data.rs (…)` and `test NAME ... ok`.
fn count(stage: &str, output: &str, skips: &HashMap<String, String>, report: &mut Report) {
    let (mut binary, mut waiting) = ("", Vec::new());
    for line in output.lines().map(str::trim_start) {
        if let Some(found) = running(line) {
            binary = found;
            continue;
        }
        if let Some(name) = slow(line) {
            waiting.push(format!("{stage}::{binary}::{name}"));
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
        waiting.retain(|name| *name != full);
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
    for name in waiting {
        report.fail(
            name,
            format!("had not ended when the stage did (limit {LIMIT} s)"),
        );
    }
}

/// The test in `test NAME has been running for over 60 seconds`.
fn slow(line: &str) -> Option<&str> {
    let (name, _limit) = line
        .strip_prefix("test ")?
        .split_once(" has been running for over ")?;
    Some(name)
}

/// The binary in `Running tests/data.rs (…)` or `Running unittests src/lib.rs (…)`.
fn running(line: &str) -> Option<&str> {
    let path = line.strip_prefix("Running ")?;
    let path = path.trim_start_matches("unittests ");
    let file = path.split_once(" (").map_or(path, |(file, _)| file);
    Path::new(file).file_stem()?.to_str()
}

/// Seconds of each test that reported them, and of each binary of which no test did.
fn timed(stage: &str, output: &str, told: &HashMap<String, String>) -> Vec<(String, f64)> {
    let seconds = |text: &str| text.parse::<f64>().ok();
    let (mut binary, mut times, mut of_binary) = ("", Vec::new(), 0);
    for line in output.lines().map(str::trim_start) {
        if let Some(found) = running(line) {
            (binary, of_binary) = (found, times.len());
        } else if let Some((_, took)) = line.split_once("; finished in ") {
            if times.len() == of_binary {
                let all = took.strip_suffix('s').and_then(seconds);
                times.extend(all.map(|all| (format!("{stage}::{binary}"), all)));
            }
        } else if let Some((name, _)) = line
            .strip_prefix("test ")
            .and_then(|l| l.split_once(" ... "))
        {
            let took = told.get(name).and_then(|took| seconds(took));
            times.extend(took.map(|took| (format!("{stage}::{binary}::{name}"), took)));
        }
    }
    times
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

    #[test]
    fn counted_as_failed_when_it_had_not_ended() {
        let slow = "test good has been running for over 60 seconds\ntest stuck has been running for over 60 seconds\n";
        let output = OUTPUT.replacen("test good ...", &format!("{slow}test good ..."), 1);
        let mut report = Report::default();
        count("s", &output, &HashMap::new(), &mut report);
        let failed: Vec<_> = report.failed.iter().map(|entry| &entry.name[..]).collect();
        assert_eq!(failed, ["s::data::bad", "s::data::stuck"]);
    }

    #[test]
    fn timed_by_the_tests_themselves_or_else_by_libtest() {
        let ends = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 3.25s\n";
        let output = OUTPUT.replacen(
            "     Running tests",
            &format!("{ends}     Running tests"),
            1,
        ) + ends;
        let told = HashMap::from([("bad".to_owned(), "1.5".to_owned())]);
        let times = timed("s", &output, &told);
        let wanted = [("s::lib", 3.25), ("s::data::bad", 1.5)];
        assert_eq!(times, wanted.map(|(name, took)| (name.to_owned(), took)));
        let report = Report {
            times,
            ..Report::default()
        };
        assert_eq!(report.slowest(1)[0].0, "s::lib");
    }
}
