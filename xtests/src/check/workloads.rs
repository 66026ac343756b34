//! Stages that use a mount as people do: a source tree, git, SQLite, the demo.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::support::command::succeed;
use crate::support::install;
use crate::support::mount::{ALLOW_MMAP, BIN};
use crate::support::threads::in_threads;
use crate::support::trees;
use crate::support::{Backing, Mount};

const FILES: usize = 50_000;
/// Two such trees and a tar file of one; an image, so that the disk below sees no fsync.
const ROOM_MIB: u32 = 4096;
/// For all that one stage does on its mount.
const LIMIT: Duration = Duration::from_secs(600);

/// A mount of the binary that this checkout builds.
fn mount(backing: Backing, options: &[&str]) -> Result<Mount> {
    if std::env::var_os(BIN).is_none() {
        install::thrufs()?;
    }
    Ok(Mount::new(backing, options)?.allow(LIMIT))
}

fn program(name: &str, args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(dir);
    command
}

pub(super) fn demo(report: &mut Report) -> Result<()> {
    let thrufs = install::thrufs()?;
    let demo = succeed(Command::new(thrufs).arg("demo"));
    report.record("demo", demo.map(|_| ()));
    Ok(())
}

/// cp -a, diff -r, getfattr, tar and rm of 50,000 files; the first failure ends it.
pub(super) fn tree(report: &mut Report) -> Result<()> {
    let mount = mount(
        Backing::Ext4(ROOM_MIB),
        &["--xattr", "--inode-file-handles=prefer"],
    )?;
    let original = mount.source("original");
    std::fs::create_dir(&original)?;
    trees::make(&original, FILES)?;
    for step in ["cp", "diff", "getfattr", "modes", "tar", "rm"] {
        let outcome = tree_step(step, &mount, &original);
        let failed = outcome.is_err();
        report.record(&format!("tree::{step}"), outcome);
        if failed {
            return Ok(());
        }
    }
    report.record("tree::unmount", mount.unmount());
    Ok(())
}

fn tree_step(step: &str, mount: &Mount, original: &Path) -> Result<()> {
    let copy = mount.path("copy");
    let run = |name: &str, args: &[&str], paths: &[&Path]| {
        succeed(program(name, args, mount.dir()).args(paths)).map(|_| ())
    };
    match step {
        "cp" => run("cp", &["-a"], &[original, &copy]),
        "diff" => run("diff", &["-r", "--no-dereference"], &[original, &copy]),
        "getfattr" => same_output(&["getfattr", "-R", "-P", "-h", "-d", "."], original, &copy),
        "modes" => {
            let format = "%P %y %m %U %G %s %n %T@ %l\\n";
            same_output(
                &["find", ".", "-type", "d", "-o", "-printf", format],
                original,
                &copy,
            )
        }
        "tar" => {
            run("tar", &["cf", "copy.tar", "copy"], &[])?;
            run("tar", &["df", "copy.tar"], &[])
        }
        _ => {
            run("rm", &["-rf"], &[&copy])?;
            ensure!(
                !mount.source("copy").exists(),
                "rm -rf left something on SOURCE"
            );
            Ok(())
        }
    }
}

/// The same command in both directories must print the same lines, in any order.
fn same_output(command: &[&str], one: &Path, other: &Path) -> Result<()> {
    let sorted = |dir: &Path| -> Result<Vec<String>> {
        let text = succeed(&mut program(command[0], &command[1..], dir))?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let (one, other) = (sorted(one)?, sorted(other)?);
    ensure!(!one.is_empty(), "{} printed nothing", command[0]);
    if let Some((a, b)) = one.iter().zip(&other).find(|(a, b)| a != b) {
        anyhow::bail!("{}: {a:?} became {b:?}", command[0]);
    }
    ensure!(
        one.len() == other.len(),
        "{}: {} lines, {}",
        command[0],
        one.len(),
        other.len()
    );
    Ok(())
}

pub(super) fn git(report: &mut Report) -> Result<()> {
    let mount = mount(Backing::Here, &[])?;
    let work = mount.path("work");
    std::fs::create_dir(&work)?;
    trees::make_plain(&work, 2000)?;
    let me = [
        "-c",
        "user.name=check",
        "-c",
        "user.email=check@localhost",
        "-c",
        "commit.gpgsign=false",
    ];
    let steps: [&[&str]; 7] = [
        &["init", "-q"],
        &["add", "."],
        &["commit", "-q", "-m", "all"],
        &["fsck", "--full", "--strict"],
        &["repack", "-q", "-a", "-d"],
        &["fsck", "--full"],
        &["diff", "--quiet", "HEAD"],
    ];
    for step in steps {
        let mut git = program("git", &me, &work);
        // Neither the user's configuration nor a repository around us may matter.
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        git.env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE");
        report.record(
            &format!("git::{}", step[0]),
            succeed(git.args(step)).map(|_| ()),
        );
    }
    report.record("git::unmount", mount.unmount());
    Ok(())
}

/// One writer and one reader process in WAL mode, an integrity check, and the same on SOURCE.
pub(super) fn sqlite(report: &mut Report) -> Result<()> {
    for cache in ["auto", "never", "always"] {
        let name = format!("sqlite::{cache}");
        // The index of the write-ahead log is a shared mapping.
        let options = [&format!("--cache={cache}"), ALLOW_MMAP];
        report.record(&name, sqlite_with(&options));
    }
    Ok(())
}

fn sqlite_with(options: &[&str]) -> Result<()> {
    let mount = mount(Backing::Here, options)?;
    let sql = |dir: &Path, text: &str| {
        succeed(&mut program("sqlite3", &["-bail", "db", text], dir))
            .map(|out| out.trim().to_owned())
    };
    let mode = sql(
        mount.dir(),
        "pragma journal_mode=wal; create table t(id integer primary key, v text);",
    )?;
    ensure!(mode == "wal", "journal mode {mode:?} instead of wal");
    let dir = mount.dir();
    in_threads(2, |writer| {
        let text = format!(
            ".timeout 20000\nbegin immediate;\ninsert into t(v) select \
             hex(randomblob(200)) || {writer} from generate_series(1, 20);\ncommit;"
        );
        (0..50).try_for_each(|_| sql_script(dir, &text))
    })?;
    for (what, expected) in [
        ("pragma integrity_check;", "ok"),
        ("select count(*) from t;", "2000"),
    ] {
        let got = sql(mount.dir(), what)?;
        ensure!(got == expected, "{what} {got}");
    }
    sql(mount.dir(), "pragma wal_checkpoint(truncate);")?;
    let on_source = mount.source("");
    let said = sql(&on_source, "pragma integrity_check;")?;
    ensure!(said == "ok", "on SOURCE: {said}");
    mount.unmount()
}

/// Lines with dot commands, on sqlite3's stdin by way of a file outside the mount.
fn sql_script(dir: &Path, script: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut file, script.as_bytes())?;
    let read = format!(".read {}", file.path().display());
    succeed(&mut program("sqlite3", &["-bail", "db", &read], dir)).map(|_| ())
}
