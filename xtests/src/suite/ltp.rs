//! LTP: those tests of the Linux Test Project that are about calls on files (`xtests/suites/ltp/selection`), from an
//! installed tree that the user names.
//!
//! A test works in a directory of the file system in question, or makes one on a loop device. For the latter LTP is
//! told that the type is NTFS, the one that it leaves to programs of FUSE's: `mkfs.ntfs` and `mount.ntfs` of
//! `xtests/suites/ltp` make an ext4 and serve that. Natively the type is ext4.
//!
//! Invariant: each test has a mount and a process namespace of its own, so that nothing that it mounts or starts is
//! there afterwards, however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::options::Options;
use super::tested_fs::TestedFs;
use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{output, said, tail};
use crate::support::install;
use crate::support::mount::thrufs;
use crate::support::scratch::Backing;
use crate::support::skip::missing;

const SELECTION: &str = include_str!("../../suites/ltp/selection");
/// What the selection's tests use, and thrufs has off by default.
const THRUFS: [&str; 2] = [
    "--xattr",
    // For the attributes of the namespaces trusted and security.
    "--modcaps=+sys_admin",
];
/// Tests with their commands. Not `runtest/fs`, whose tests take minutes each.
const LIST: &str = "runtest/syscalls";
/// Seconds for a test, which has limits of its own.
const LONGEST: &str = "300";
/// When the mount of a run counts as hung.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Bits of a test's exit code.
const FAILED_OR_BROKEN_OR_WARNED: i32 = 1 | 2 | 4;
const NOT_CONFIGURED: i32 = 32;

/// Makes sure of the programs that its tests use, and of the tree.
pub(super) fn provide(options: &Options) -> Result<()> {
    let tree = tree(options)?;
    for part in [LIST, "testcases/bin"] {
        if !tree.join(part).exists() {
            let shown = tree.display();
            return Err(missing(format!(
                "{shown}/{part}: an installed LTP (make install)"
            )));
        }
    }
    install::apt(&[("mkfs.ext4", "e2fsprogs"), ("unshare", "util-linux")])
}

fn tree(options: &Options) -> Result<PathBuf> {
    let Some(dir) = &options.dir else {
        return Err(missing("an installed LTP: name its directory by --dir"));
    };
    dir.canonicalize()
        .with_context(|| format!("--dir {}", dir.display()))
}

/// The tests to run.
fn selection(options: &Options) -> Vec<&str> {
    if options.test.is_empty() {
        let lines = SELECTION.lines().filter(|line| !line.starts_with('#'));
        return lines.flat_map(str::split_whitespace).collect();
    }
    options.test.iter().map(String::as_str).collect()
}

/// Runs the selection.
pub(super) fn run(place: &TestedFs, options: &Options) -> Result<Verdicts> {
    let [xattr, capability] = THRUFS;
    let options = options.and_with(xattr).and_with(capability);
    if !matches!(place, TestedFs::Native | TestedFs::Thrufs) {
        bail!("{place}: LTP mounts by itself, and knows native and thrufs");
    }
    let list = std::fs::read_to_string(tree(&options)?.join(LIST)).context(LIST)?;
    place.visit(Backing::Here, LIMIT, &options, |dir| {
        let room = tempfile::tempdir()?;
        let mut verdicts = Verdicts::new();
        for name in selection(&options) {
            let verdict = match command_of(&list, name) {
                Some(command) => one(place, (dir, room.path()), command, &options)?,
                None => Verdict::Skipped("this LTP has no such test".to_owned()),
            };
            verdicts.insert(name.to_owned(), verdict);
        }
        Ok(verdicts)
    })
}

/// A test's line in the list, without the name.
fn command_of<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = list
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let (_, command) = lines.find(|(first, _)| *first == name)?;
    Some(command.trim())
}

/// A test in `dir`; `room` is a directory elsewhere.
fn one(
    place: &TestedFs,
    (dir, room): (&Path, &Path),
    test: &str,
    options: &Options,
) -> Result<Verdict> {
    let (tree, files) = (tree(options)?, install::root().join("xtests/suites/ltp"));
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = tree.join("testcases/bin");
    let path = format!("{}:{}:{path}", files.display(), programs.display());
    let kind = match place {
        TestedFs::Native => "ext4",
        _ => "ntfs",
    };
    let mut command = Command::new("timeout");
    // A test that is interrupted detaches its loop device.
    command.args(["--signal=INT", "--kill-after=20", LONGEST]);
    command.args(["unshare", "--mount", "--propagation=private", "--pid"]);
    command.args(["--fork", "--kill-child", "--mount-proc", "--"]);
    // The shell is the first process, and the test an ordinary one.
    command.args(["sh", "-c", &format!("{test}\nexit $?")]);
    command.current_dir(dir);
    command
        .env("PATH", path)
        .env("TMPDIR", dir)
        .env("LTPROOT", &tree)
        .env("LTP_COLORIZE_OUTPUT", "n")
        .env("LTP_SINGLE_FS_TYPE", kind)
        .env("LTP_DEV_FS_TYPE", kind)
        .env("SUITE_ROOM", room)
        .env("SUITE_SERVER", thrufs()?)
        .env("SUITE_OPTIONS", options.with.join(" "));
    let done = output(&mut command)?;
    Ok(judge(done.status.code(), &said(&done)))
}

fn judge(code: Option<i32>, text: &str) -> Verdict {
    match code {
        Some(0) => Verdict::Passed,
        Some(NOT_CONFIGURED) => {
            let line = text.lines().find(|line| line.contains("TCONF"));
            Verdict::Skipped(line.unwrap_or("LTP says no reason").to_owned())
        }
        Some(code) if code & !(FAILED_OR_BROKEN_OR_WARNED | NOT_CONFIGURED) == 0 => {
            let is_why = |line: &&str| {
                ["TFAIL", "TBROK", "TWARN"]
                    .iter()
                    .any(|at| line.contains(at))
            };
            let why: Vec<&str> = text.lines().filter(is_why).collect();
            Verdict::Failed(tail(&why.join("\n")))
        }
        other => Verdict::Failed(format!("{other:?}, it did not end well\n{}", tail(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judge_of_exit_codes_tells_failures_from_skips() {
        let text = "a.c:1: TPASS: one\na.c:2: TCONF: no such thing\na.c:3: TFAIL: wrong\n";
        assert_eq!(judge(Some(0), text), Verdict::Passed);
        let why = "a.c:2: TCONF: no such thing".to_owned();
        assert_eq!(judge(Some(32), text), Verdict::Skipped(why));
        let failed = judge(Some(33), text);
        assert!(
            matches!(&failed, Verdict::Failed(why) if why.contains("TFAIL")),
            "{failed:?}"
        );
        assert!(matches!(judge(Some(124), text), Verdict::Failed(_)));
        assert!(matches!(judge(None, ""), Verdict::Failed(_)));
    }

    #[test]
    fn command_of_a_test_is_its_line_without_the_name() {
        let list = "#comment\nopen01 open01\nfcntl11 fcntl11 -t 1\n";
        assert_eq!(command_of(list, "fcntl11"), Some("fcntl11 -t 1"));
        assert_eq!(command_of(list, "open0"), None);
    }

    #[test]
    fn selection_names_each_test_once() {
        let options = Options::default();
        let mut tests = selection(&options);
        let count = tests.len();
        tests.sort_unstable();
        tests.dedup();
        assert_eq!(tests.len(), count);
        assert!(count > 200, "{count}");
    }
}
