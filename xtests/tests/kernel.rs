//! `xtests kernel` on a tree that is no kernel: processes and files that it leaves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtests::support::install::find;
use xtests::support::wait::wait_for;
use xtests::support::{Outcome, case, missing};

const SOON: Duration = Duration::from_secs(60);

/// Makes a tree whose "kernel" never finishes building, and which names the process that builds.
fn tree(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("arch/um"))?;
    std::fs::write(tree.join("Kconfig"), "")?;
    let recipes = "defconfig:\n\ttouch $(O)/.config\nolddefconfig:\n\ttrue\nlinux:\n\techo $$$$ > \
                   $(O)/pid.new; mv $(O)/pid.new $(O)/pid; exec sleep 100000\n";
    std::fs::write(tree.join("Makefile"), recipes)?;
    Ok(tree)
}

fn build(tree: &Path, lab: &Path) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtests"));
    command.args(["kernel", "build", "--tree"]).arg(tree);
    command.arg("--lab").arg(lab);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// The compiler that make has started in this lab.
fn compiler(lab: &Path) -> Result<i32> {
    wait_for("the compiler to start", SOON, || {
        let built = walk(&lab.join("build"));
        let file = built.iter().find(|path| path.ends_with("pid"));
        file.map(|path| Ok(std::fs::read_to_string(path)?.trim().parse()?))
            .transpose()
    })
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let below = |path: PathBuf| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![path]
        }
    };
    paths.flat_map(below).collect()
}

/// Whether the process has ended, reaped or not.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

fn needs_make() -> Result<()> {
    match ["make", "gcc"].iter().find(|name| find(name).is_none()) {
        Some(name) => Err(missing(*name)),
        None => Ok(()),
    }
}

/// make and its compilers went on for minutes, on all processors, after SIGTERM to xtests.
#[test]
fn build_that_is_terminated_leaves_neither_make_nor_compiler() -> Outcome {
    case(|| {
        needs_make()?;
        let dir = tempfile::tempdir()?;
        let lab = dir.path().join("lab");
        let mut builder = build(&tree(dir.path())?, &lab)?;
        let compiler = compiler(&lab)?;
        ensure!(!has_ended(compiler), "it has ended by itself");
        kill(Pid::from_raw(builder.id().cast_signed()), Signal::SIGTERM)?;
        builder.wait()?;
        wait_for("the compiler's end", SOON, || {
            Ok(has_ended(compiler).then_some(()))
        })
    })
}

/// A second build in one lab waited for the first silently.
#[test]
fn build_in_a_lab_that_is_in_use_says_that_it_waits() -> Outcome {
    case(|| {
        use std::io::{BufRead, BufReader};
        needs_make()?;
        let dir = tempfile::tempdir()?;
        let (tree, lab) = (tree(dir.path())?, dir.path().join("lab"));
        let mut first = build(&tree, &lab)?;
        compiler(&lab)?;
        let mut second = build(&tree, &lab)?;
        let stderr = second.stderr.take().context("it is piped")?;
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line)?;
        for child in [&mut first, &mut second] {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            child.wait()?;
        }
        ensure!(line.contains("waiting for another program"), "{line}");
        Ok(())
    })
}

#[test]
fn clean_removes_the_lab_and_nothing_else() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let lab = dir.path().join("lab");
        std::fs::create_dir_all(lab.join("kernel"))?;
        let clean = |lab: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_xtests"));
            command.args(["kernel", "clean", "--lab"]).arg(lab).output()
        };
        std::fs::write(dir.path().join("letter"), "dear")?;
        let refused = clean(dir.path())?;
        ensure!(!refused.status.success(), "{refused:?}");
        ensure!(lab.is_dir(), "{refused:?}");
        let removed = clean(&lab)?;
        ensure!(removed.status.success() && !lab.exists(), "{removed:?}");
        ensure!(dir.path().join("letter").is_file(), "{removed:?}");
        let nothing = clean(&lab)?;
        ensure!(nothing.status.success() && !lab.exists(), "{nothing:?}");
        Ok(())
    })
}
