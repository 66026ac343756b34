//! Programs of others on a virtiofs device in a guest: pjdfstest, git and make with a compiler, and the kernel's
//! own overlayfs, with its upper layer there.
//!
//! A guest that sees only a few of the host's files lacks git and the compiler: that is a skip, and no success.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use xtests::suite::{Verdict, pjdfstest as suite};
use xtests::support::command::succeed;
use xtests::support::install;
use xtests::support::skip::missing;

/// Modules of the program that is built.
const MODULES: usize = 40;
/// Directories of the lower layer, each with a file.
const LOWER: usize = 20;

/// No test may fail.
pub(super) fn pjdfstest(dir: &Path) -> anyhow::Result<String> {
    let verdicts = suite::run(dir)?;
    let of = |wanted: fn(&Verdict) -> bool| {
        let names = verdicts.iter().filter(|(_, verdict)| wanted(verdict));
        names.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    let failed = of(|verdict| matches!(verdict, Verdict::Failed(_)));
    ensure!(
        failed.is_empty(),
        "{} fail: {}",
        failed.len(),
        failed.join(" ")
    );
    let passed = of(|verdict| *verdict == Verdict::Passed).len();
    let skipped = of(|verdict| matches!(verdict, Verdict::Skipped(_))).len();
    Ok(format!("{passed} passed, 0 failed, {skipped} skipped"))
}

/// A program of many modules: committed, cloned, built, changed and built again, and its repository packed.
pub(super) fn git(dir: &Path) -> anyhow::Result<String> {
    for program in ["git", "make", "gcc"] {
        if install::find(program).is_none() {
            return Err(missing(format!("{program}, which this guest has not")));
        }
    }
    let (origin, clone) = (dir.join("origin"), dir.join("clone"));
    std::fs::create_dir(&origin)?;
    write_program(&origin)?;
    run_git(&origin, &["init", "-q"])?;
    run_git(&origin, &["add", "."])?;
    run_git(&origin, &["commit", "-q", "-m", "all"])?;
    let from = origin.display().to_string();
    run_git(dir, &["clone", "-q", "--no-local", &from, "clone"])?;
    let make = || succeed(Command::new("make").args(["-s", "-j2"]).current_dir(&clone));
    make()?;
    let said = succeed(&mut Command::new(clone.join("program")))?;
    let sum: usize = (0..MODULES).sum();
    ensure!(said.trim() == sum.to_string(), "the program says {said}");
    let again = make()?;
    ensure!(again.is_empty(), "built again without a change: {again}");
    std::fs::write(clone.join("module0.c"), "int module0(void) { return 7; }\n")?;
    make()?;
    let said = succeed(&mut Command::new(clone.join("program")))?;
    ensure!(
        said.trim() == (sum + 7).to_string(),
        "the change was not built: {said}"
    );
    let changed = run_git(&clone, &["status", "--porcelain"])?;
    ensure!(changed == " M module0.c\n", "git status says {changed:?}");
    run_git(&clone, &["commit", "-q", "-a", "-m", "changed"])?;
    run_git(&clone, &["gc", "-q", "--prune=now"])?;
    run_git(&clone, &["fsck", "--full", "--strict"])?;
    run_git(&clone, &["pull", "-q", "--rebase"])?;
    Ok(format!("{MODULES} modules cloned, built, packed"))
}

fn write_program(dir: &Path) -> anyhow::Result<()> {
    let names: Vec<String> = (0..MODULES).map(|at| format!("module{at}")).collect();
    for (at, name) in names.iter().enumerate() {
        let text = format!("int {name}(void) {{ return {at}; }}\n");
        std::fs::write(dir.join(format!("{name}.c")), text)?;
    }
    let declared: String = names.iter().map(|n| format!("int {n}(void);\n")).collect();
    let called: Vec<String> = names.iter().map(|name| format!("{name}()")).collect();
    let main = format!(
        "#include <stdio.h>\n{declared}int main(void) {{ printf(\"%d\\n\", {}); return 0; }}\n",
        called.join(" + ")
    );
    std::fs::write(dir.join("main.c"), main)?;
    let objects: Vec<String> = names.iter().map(|name| format!("{name}.o")).collect();
    let makefile = format!(
        "CFLAGS = -O0\nprogram: main.o {0}\n\tgcc -o $@ $^\n",
        objects.join(" ")
    );
    std::fs::write(dir.join("Makefile"), makefile)?;
    std::fs::write(dir.join(".gitignore"), "*.o\nprogram\n")?;
    Ok(())
}

fn run_git(dir: &Path, words: &[&str]) -> anyhow::Result<String> {
    let mut git = Command::new("git");
    git.current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/tmp");
    for (role, name) in [("AUTHOR", "xtests"), ("COMMITTER", "xtests")] {
        git.env(format!("GIT_{role}_NAME"), name)
            .env(format!("GIT_{role}_EMAIL"), "xtests@localhost");
    }
    // What git does by itself, it does in the background, and is on the device when that is unmounted.
    git.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    succeed(git.args(words))
}

/// An overlay of the guest's tmpfs whose upper layer and work directory are on the device.
pub(super) fn overlay(dir: &Path) -> anyhow::Result<String> {
    let known = std::fs::read_to_string("/proc/filesystems")?;
    if !known.lines().any(|line| line.ends_with("\toverlay")) {
        return Err(missing("overlayfs in this kernel"));
    }
    let lower = PathBuf::from("/tmp/overlay-lower");
    for at in 0..LOWER {
        let below = lower.join(format!("d{at}"));
        std::fs::create_dir_all(&below)?;
        std::fs::write(below.join("f"), format!("lower {at}"))?;
    }
    let merged = PathBuf::from("/tmp/overlay-merged");
    std::fs::create_dir_all(&merged)?;
    for name in ["upper", "work"] {
        std::fs::create_dir(dir.join(name))?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    let mounted = || {
        let (kind, flags) = (Some("overlay"), MsFlags::empty());
        mount(kind, &merged, kind, flags, Some(layers.as_str())).context("mounting the overlay")
    };
    let leave = || umount2(&merged, MntFlags::empty()).context("unmounting the overlay");
    mounted()?;
    let changed = change(&merged).and_then(|()| check(&merged));
    leave()?;
    changed?;
    let whiteout = std::fs::symlink_metadata(dir.join("upper/d1/f"))?;
    ensure!(
        whiteout.rdev() == 0 && whiteout.mode() & libc::S_IFMT == libc::S_IFCHR,
        "what is removed has no whiteout: mode {:o}",
        whiteout.mode()
    );
    mounted()?;
    let kept = check(&merged);
    leave()?;
    kept.context("after the overlay was mounted again")?;
    Ok("copied up, removed, made opaque, and found again".to_owned())
}

fn change(merged: &Path) -> anyhow::Result<()> {
    let append = |name: &str| File::options().append(true).open(merged.join(name));
    std::io::Write::write_all(&mut append("d0/f")?, b", changed")?;
    std::fs::remove_file(merged.join("d1/f"))?;
    std::fs::remove_dir_all(merged.join("d2"))?;
    // Opaque: what the lower one has in it must not show.
    std::fs::create_dir(merged.join("d2"))?;
    std::fs::write(merged.join("d2/new"), "new")?;
    std::fs::rename(merged.join("d3/f"), merged.join("d4/moved"))?;
    std::fs::hard_link(merged.join("d5/f"), merged.join("d5/link"))?;
    Ok(())
}

fn check(merged: &Path) -> anyhow::Result<()> {
    let expected = [
        ("d0/f", Some("lower 0, changed")),
        ("d1/f", None),
        ("d2/f", None),
        ("d2/new", Some("new")),
        ("d3/f", None),
        ("d4/moved", Some("lower 3")),
        ("d4/f", Some("lower 4")),
        ("d5/link", Some("lower 5")),
    ];
    for (name, content) in expected {
        let seen = std::fs::read_to_string(merged.join(name));
        match (content, seen) {
            (Some(content), Ok(seen)) => {
                ensure!(seen == content, "{name} has {seen:?}, not {content:?}");
            }
            (None, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            (None, Ok(_)) => bail!("{name} is there"),
            (_, Err(error)) => return Err(error).context(name),
        }
    }
    let count = std::fs::read_dir(merged)?.count();
    ensure!(count == LOWER, "{count} entries, not {LOWER}");
    Ok(())
}
