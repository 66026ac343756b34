//! stress-ng's stressors of the class `filesystem`, one after the other, with --verify. Each is a
//! test; its exit code tells whether it failed or could not run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::sandbox::{self, Bounds};
use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{said, succeed, tail};
use crate::support::install;

/// Stressors of the class that make no call on a file in the given directory, or not without privileges.
const ELSEWHERE: &[&str] = &[
    "bind-mount",
    "binderfs",
    "dup",
    "eventfd",
    "fanotify",
    "ioprio",
    "procfs",
];
/// For a stressor of extended attributes, which thrufs serves only with this option.
pub(super) const THRUFS: &str = "--xattr";
/// Rather more than there are: they share the given seconds.
const STRESSORS: u64 = 50;
/// Some stressors clean up slowly.
const GRACE: u64 = 60;
const LARGEST_FILE: u64 = 4 << 30;

const NOT_SUCCESS: i32 = 2;
const NO_RESOURCE: i32 = 3;
const NOT_IMPLEMENTED: i32 = 4;

/// Makes sure of the programs.
pub(super) fn provide() -> Result<()> {
    install::apt(&[("stress-ng", "stress-ng")])?;
    sandbox::provide()
}

/// Runs every stressor in `dir`.
pub(super) fn run(dir: &Path, options: &Options) -> Result<Verdicts> {
    let seconds = (options.seconds() / STRESSORS).max(1);
    let mut verdicts = Verdicts::new();
    for name in stressors()? {
        let verdict = match stress(dir, &name, seconds) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        verdicts.insert(name, verdict);
    }
    Ok(verdicts)
}

fn stressors() -> Result<Vec<String>> {
    // stress-ng lists the members of a class while it refuses the name with the question mark.
    let text = succeed(Command::new("sh").args(["-c", "stress-ng --class 'filesystem?' 2>&1; :"]))?;
    let names = text.lines().find_map(|line| {
        let (_, names) = line.split_once("class 'filesystem' stressors:")?;
        Some(names)
    });
    let names = names.with_context(|| format!("stress-ng lists no stressors: {text}"))?;
    let names: Vec<String> = names
        .split_whitespace()
        .filter(|name| !ELSEWHERE.contains(name))
        .map(str::to_owned)
        .collect();
    ensure!(names.len() > 10, "stress-ng lists too few: {names:?}");
    Ok(names)
}

fn stress(dir: &Path, name: &str, seconds: u64) -> Result<Verdict> {
    let room = sandbox::room(dir, name)?;
    let bounds = Bounds {
        time: Duration::from_secs(seconds + GRACE),
        file: LARGEST_FILE,
    };
    let (stressor, seconds) = (format!("--{name}"), seconds.to_string());
    let program = [
        "stress-ng",
        &stressor,
        "1",
        "--timeout",
        &seconds,
        "--verify",
        "--temp-path",
        sandbox::INSIDE,
    ];
    let done = sandbox::run(&room, &bounds, &program)?;
    std::fs::remove_dir_all(&room).with_context(|| room.display().to_string())?;
    Ok(judge(done.status.code(), &said(&done)))
}

fn judge(code: Option<i32>, text: &str) -> Verdict {
    let is_skipped = text.contains("stressor will be skipped") || text.contains("skipping stress");
    let reason = || {
        let line = text.lines().find(|line| line.contains("skip"));
        let line = line.or_else(|| text.lines().last()).unwrap_or_default();
        line.split("] ").last().unwrap_or(line).to_owned()
    };
    match code {
        Some(0 | NO_RESOURCE | NOT_IMPLEMENTED) if is_skipped => Verdict::Skipped(reason()),
        Some(NO_RESOURCE | NOT_IMPLEMENTED) => Verdict::Skipped(reason()),
        Some(0) => Verdict::Passed,
        Some(NOT_SUCCESS) => Verdict::Failed(tail(text)),
        Some(code) => Verdict::Failed(format!("exit code {code}\n{}", tail(text))),
        None => Verdict::Failed(format!("killed: it did not end in time\n{}", tail(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judge_of_exit_codes_tells_failures_from_skips() {
        let skip = "stress-ng: info:  [5] verity: not supported, skipping stress test\n";
        assert_eq!(judge(Some(0), "run completed"), Verdict::Passed);
        let why = "verity: not supported, skipping stress test".to_owned();
        assert_eq!(judge(Some(4), skip), Verdict::Skipped(why));
        assert!(matches!(judge(Some(2), "fail"), Verdict::Failed(_)));
        assert!(matches!(judge(Some(137), ""), Verdict::Failed(_)));
        assert!(matches!(judge(None, ""), Verdict::Failed(_)));
    }
}
