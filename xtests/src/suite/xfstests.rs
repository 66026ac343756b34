//! xfstests: its generic tests that run on FUSE (`xtests/suites/xfstests/selection`), from a
//! checkout that the user has built. xfstests mounts and unmounts itself, hence mount and pid
//! namespaces of its own (`xtests/suites/xfstests/inside`): the mount helper and the users that it
//! wants exist only there, and everything that it leaves ends with them.
//!
//! Invariant: two runs on one machine share nothing that is named after a process, since process
//! ids are the same in each pid namespace; hence a /tmp of each run's own. And when xtests is ended
//! by a signal, or killed, everything in the namespaces ends as well; loop devices and the served
//! file system, which live outside of them, are removed after a signal by the script and by the drops here.
//!
//! Natively it runs on ext4, on two loop devices; FUSE servers serve directories of such an ext4.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::options::Options;
use super::tested_fs::TestedFs;
use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{output, said, succeed, tail};
use crate::support::install;
use crate::support::mount::{ALLOW_MMAP, thrufs};
use crate::support::peers::Kind;
use crate::support::scratch::{Backing, Scratch};
use crate::support::skip::missing;

const SELECTION: &str = include_str!("../../suites/xfstests/selection");
/// The whole selection takes a quarter of an hour; a hung test must not block it for ever.
const LIMIT: &str = "3600";
/// Size of the file system that holds the served directory, or of each native one.
const SIZE_MIB: u32 = 8 << 10;
/// What the selection's tests use, and thrufs has off by default.
const THRUFS: &[&str] = &[
    "--xattr",
    "--posix-acl=auto",
    // For the attributes of the namespace trusted.
    "--modcaps=+sys_admin",
    "-o",
    "dev,suid",
    // Many tests map files shared, also with --cache=never.
    ALLOW_MMAP,
];

const NEEDS: &[(&str, &str)] = &[
    ("xfs_io", "xfsprogs"),
    ("setfacl", "acl"),
    ("getfattr", "attr"),
    ("bc", "bc"),
    ("gawk", "gawk"),
    ("killall", "psmisc"),
    ("quota", "quota"),
    ("setcap", "libcap2-bin"),
    ("perl", "perl"),
    ("mkfs.ext4", "e2fsprogs"),
    ("unshare", "util-linux"),
];

/// Makes sure of the programs that its tests use, and of a checkout.
pub(super) fn provide(options: &Options) -> Result<()> {
    let checkout = checkout(options)?;
    for built in [
        "check",
        "ltp/fsx",
        "ltp/fsstress",
        "tests/generic/group.list",
    ] {
        if !checkout.join(built).exists() {
            let shown = checkout.display();
            return Err(missing(format!(
                "{shown}/{built}: build the checkout of xfstests (make)"
            )));
        }
    }
    install::apt(NEEDS)
}

fn checkout(options: &Options) -> Result<PathBuf> {
    let Some(dir) = &options.dir else {
        return Err(missing(
            "a built checkout of xfstests: name it by --dir (its README says how to build it)",
        ));
    };
    dir.canonicalize()
        .with_context(|| format!("--dir {}", dir.display()))
}

/// The tests to run.
fn selection(options: &Options) -> Vec<String> {
    if options.test.is_empty() {
        let lines = SELECTION.lines();
        let tests = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        return tests.map(str::to_owned).collect();
    }
    options.test.clone()
}

/// Runs the selection.
pub(super) fn run(place: &TestedFs, options: &Options) -> Result<Verdicts> {
    let scratch = match place {
        TestedFs::Native => Scratch::new(Backing::Here)?,
        _ => Scratch::new(Backing::Ext4(SIZE_MIB))?,
    };
    // Before `scratch` goes.
    let _loops = LoopsBelow(scratch.path().to_owned());
    // At SIGTERM `inside` detaches what does not end with its namespaces. unshare ignores SIGTERM;
    // killed, it takes the first process of the namespace along, and with that all others.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]);
    command.args(["timeout", "--kill-after=10", LIMIT, "unshare"]);
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let files = install::root().join("xtests/suites/xfstests");
    command.arg(files.join("inside"));
    command
        .env("SUITE_CHECKOUT", checkout(options)?)
        .env("SUITE_HELPER", files.join("mount.fuse"))
        .env("SUITE_CONFIG", files.join("local.config"));
    for (variable, name) in [
        ("SUITE_ROOM", "room"),
        ("SUITE_RESULTS", "results"),
        ("SUITE_TEST_DIR", "test"),
        ("SUITE_SCRATCH_MNT", "scratch"),
    ] {
        let dir = scratch.path().join(name);
        std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        command.env(variable, dir);
    }
    describe_place(place, options, &scratch, &mut command)?;
    let done = output(command.args(selection(options)))?;
    let (status, text) = (done.status, said(&done));
    let verdicts = parse(&text);
    ensure!(
        !verdicts.is_empty(),
        "xfstests ran no test ({status})\n{}",
        tail(&text)
    );
    Ok(verdicts)
}

/// Tells the suite what it mounts.
fn describe_place(
    place: &TestedFs,
    options: &Options,
    scratch: &Scratch,
    command: &mut Command,
) -> Result<()> {
    let mut served = |kind: &str, server: &Path, words: &str| {
        command
            .env("FSTYP", "fuse")
            .env("FUSE_SUBTYP", format!(".{kind}"))
            .env("SUITE_SERVER", server)
            .env("SUITE_OPTIONS", words)
            .env("SUITE_SOURCES", scratch.source());
    };
    match place {
        TestedFs::Thrufs => {
            let added: Vec<&str> = options.with.iter().map(String::as_str).collect();
            served("thrufs", &thrufs()?, &[THRUFS, &added].concat().join(" "));
            Ok(())
        }
        TestedFs::Peer(Kind::PassthroughHpUring) => Err(missing(
            "a mount that is made once: FUSE over io_uring is on only while a peer mounts",
        )),
        TestedFs::Peer(kind) => {
            let program = kind.provide()?;
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            served(&name, &program, &kind.words().join(" "));
            Ok(())
        }
        TestedFs::Native => {
            command.env("FSTYP", "ext4");
            for (variable, image) in [("SUITE_TEST_DEV", "a"), ("SUITE_SCRATCH_DEV", "b")] {
                command.env(variable, attach_ext4(&scratch.path().join(image))?);
            }
            Ok(())
        }
        TestedFs::Dir(dir) => bail!(
            "{}: xfstests mounts and unmounts by itself; --on takes native, thrufs or a peer",
            dir.display()
        ),
    }
}

/// A loop device with a fresh ext4 in `image`.
fn attach_ext4(image: &Path) -> Result<String> {
    std::fs::File::create(image)?.set_len(u64::from(SIZE_MIB) << 20)?;
    succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
    let mut losetup = Command::new("losetup");
    let device = succeed(losetup.args(["--find", "--show"]).arg(image))
        .map_err(|error| missing(format!("a loop device: {error:#}")))?;
    Ok(device.trim().to_owned())
}

/// Detaches the loop devices whose files are in a directory, on drop. The script detaches the
/// devices that a test has made: their files have a path in its mount namespace only.
struct LoopsBelow(PathBuf);

impl Drop for LoopsBelow {
    fn drop(&mut self) {
        let devices = std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten();
        for device in devices.map(|entry| entry.path()) {
            let file = std::fs::read_to_string(device.join("loop/backing_file"));
            if !file.is_ok_and(|file| Path::new(file.trim_end()).starts_with(&self.0)) {
                continue;
            }
            let name = Path::new("/dev").join(device.file_name().unwrap_or_default());
            // Not by `succeed`, which starts nothing once a signal has come.
            let detach = Command::new("losetup").arg("--detach").arg(&name).output();
            if !detach.is_ok_and(|said| said.status.success()) {
                eprintln!("{} stays attached", name.display());
            }
        }
    }
}

/// Lines of `generic/NNN   12s`, with an error instead of the time or after it.
fn parse(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((test, rest)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        if !test.starts_with("generic/") {
            continue;
        }
        let rest = rest.trim();
        let mut explanation = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
            explanation += more;
            explanation.push('\n');
        }
        let verdict = if let Some((_, why)) = rest.split_once("[not run]") {
            Verdict::Skipped(why.trim().to_owned())
        } else if is_time(rest) {
            Verdict::Passed
        } else if rest.is_empty() {
            Verdict::Failed("it did not end".to_owned())
        } else {
            Verdict::Failed(format!("{rest}\n{explanation}"))
        };
        verdicts.insert(test.to_owned(), verdict);
    }
    verdicts
}

/// `3s`, or with the time of an earlier run `3s ...  7s`.
fn is_time(text: &str) -> bool {
    let last = text.rsplit(' ').next().unwrap_or_default();
    let seconds = last.strip_suffix('s').unwrap_or_default();
    !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_a_run_has_every_test_with_its_verdict() {
        let text = "FSTYP         -- fuse\n\
            generic/001         3s\n\
            generic/002  0s ...  1s\n\
            generic/003        - output mismatch (see results/generic/003.out.bad)\n    \
                --- tests/generic/003.out\n    +ERROR: access time\n\
            generic/004        [not run] O_TMPFILE is not supported\n\
            generic/005        [failed, exit status 1]- output mismatch\n\
            generic/006        \n\
            Ran: generic/001 generic/002\nFailures: generic/003\n";
        let verdicts = parse(text);
        assert_eq!(verdicts.len(), 6);
        assert_eq!(verdicts["generic/001"], Verdict::Passed);
        assert_eq!(verdicts["generic/002"], Verdict::Passed);
        let Verdict::Failed(why) = &verdicts["generic/003"] else {
            panic!("{verdicts:?}");
        };
        assert!(why.contains("ERROR: access time"), "{why}");
        assert!(
            matches!(&verdicts["generic/004"], Verdict::Skipped(why) if why.contains("O_TMPFILE"))
        );
        assert!(matches!(verdicts["generic/005"], Verdict::Failed(_)));
        assert!(matches!(verdicts["generic/006"], Verdict::Failed(_)));
    }

    #[test]
    fn selection_names_each_test_once() {
        let mut tests = selection(&Options::default());
        let count = tests.len();
        tests.sort();
        tests.dedup();
        assert_eq!(tests.len(), count);
        assert!(count > 100, "{count}");
        assert!(tests.iter().all(|test| test.starts_with("generic/")));
    }
}
