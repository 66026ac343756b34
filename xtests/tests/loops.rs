//! MOUNTPOINT below SOURCE, and mounts that contain each other: what walks the tree comes to an end, and
//! nothing hangs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use xtests::support::calls::errno;
use xtests::support::command::{output, said_on_stderr};
use xtests::support::mount::{Leftover, is_native};
use xtests::support::mount_table::{abort, is_mounted};
use xtests::support::operator;
use xtests::support::{Backing, Outcome, Scratch, case, missing};

const NOTHING: Option<&str> = None;
const SANDBOXES: [&[&str]; 5] = [
    &["--sandbox=none"],
    &["--sandbox=none", "--cache=never"],
    &["--sandbox=none", "--seccomp=none"],
    &["--sandbox=namespace"],
    &["--sandbox=chroot"],
];

/// A file system with the directories `x` and `y`, whose mounts other namespaces see or do not.
fn scratch(propagation: MsFlags) -> Result<Scratch> {
    if is_native() {
        return Err(missing("a mount (this is a native run)"));
    }
    let scratch = Scratch::new(Backing::Tmpfs)?;
    mount(NOTHING, &scratch.source(), NOTHING, propagation, NOTHING)?;
    Ok(scratch)
}

/// A mount in the background.
struct Mounted(PathBuf);

impl Mounted {
    fn new(source: &Path, dir: &Path, options: &[&str]) -> Result<Self> {
        operator::mount(source, dir, options)?;
        Ok(Self(dir.to_owned()))
    }

    /// By the operator, who may have to wait while another process holds the mount busy.
    fn unmount(self) -> Outcome {
        operator::umount_when_idle(&self.0)?;
        ensure!(!is_mounted(&self.0), "it is mounted still");
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Leftover(self.0.clone()));
    }
}

/// Runs a program that walks a tree; one that does not come to an end is freed, and that is the error.
fn walk(words: &[&str], dir: &Path, mounts: &[&Mounted]) -> Result<(Vec<String>, Output)> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "30"]).args(words).arg(dir);
    let done = output(&mut command)?;
    if done.status.code() == Some(124) || done.status.code() == Some(137) {
        mounts.iter().for_each(|mount| abort(&mount.0));
        anyhow::bail!("{words:?} {} does not end", dir.display());
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok((lines, done))
}

/// `find` of its own mount never ended: its LOOKUP of the mount point waited for itself.
#[test]
fn mountpoint_below_source_shows_what_it_covers() -> Outcome {
    case(|| {
        for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            for options in SANDBOXES {
                let scratch = scratch(propagation)?;
                covers(&scratch, options)
                    .with_context(|| format!("{options:?} {propagation:?}"))?;
            }
        }
        Ok(())
    })
}

fn covers(scratch: &Scratch, options: &[&str]) -> Outcome {
    let source = scratch.source();
    let dir = source.join("a/mnt");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(source.join("f"), "")?;
    std::fs::write(dir.join("covered"), "")?;
    let m = Mounted::new(&source, &dir, options)?;
    let (found, done) = walk(&["find"], &dir, &[&m])?;
    ensure!(done.status.success(), "find: {}", said_on_stderr(&done));
    let shown: Vec<&str> = found
        .iter()
        .filter_map(|path| path.strip_prefix(dir.to_str()?))
        .collect();
    ensure!(
        shown == ["", "/a", "/a/mnt", "/a/mnt/covered", "/f"],
        "find: {shown:?}"
    );
    let (_, done) = walk(&["ls", "-lR"], &dir, &[&m])?;
    ensure!(done.status.success(), "ls: {}", said_on_stderr(&done));
    let (_, done) = walk(&["rm", "-r"], &dir.join("a"), &[&m])?;
    // As natively: what is mounted on is busy.
    ensure!(
        said_on_stderr(&done).contains("busy"),
        "rm: {}",
        said_on_stderr(&done)
    );
    ensure!(is_mounted(&dir), "rm unmounted");
    let errno = errno(std::fs::rename(dir.join("a/mnt"), dir.join("other")));
    ensure!(errno == Some(libc::EBUSY), "rename: {errno:?}");
    m.unmount()?;
    ensure!(dir.is_dir() && !dir.join("covered").exists(), "what rm did");
    Ok(())
}

/// Of a whole file system, as `thrufs mount / DIR` is.
#[test]
fn mountpoint_below_the_root_shows_what_it_covers() -> Outcome {
    case(|| {
        let scratch = scratch(MsFlags::MS_SHARED)?;
        let dir = scratch.source().join("mnt");
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("covered"), "")?;
        for options in SANDBOXES {
            let m = Mounted::new(Path::new("/"), &dir, options)?;
            let inside = dir.join(dir.strip_prefix("/")?);
            let (found, done) = walk(&["find"], &inside, &[&m])?;
            ensure!(
                done.status.success(),
                "{options:?}: {}",
                said_on_stderr(&done)
            );
            ensure!(found.len() == 2, "{options:?}: {found:?}");
            ensure!(found[1].ends_with("/mnt/covered"), "{options:?}: {found:?}");
            m.unmount()?;
        }
        Ok(())
    })
}

/// Each is entered by the daemon of the other, if nothing is done: `find` never ends.
#[test]
fn mounts_that_contain_each_other_are_entered_from_the_later_one_only() -> Outcome {
    case(|| {
        for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            for options in SANDBOXES {
                let scratch = scratch(propagation)?;
                let sees_all = match options[0] {
                    "--sandbox=none" => true,
                    "--sandbox=namespace" => propagation == MsFlags::MS_SHARED,
                    _ => false,
                };
                circle(&scratch, options, sees_all)
                    .with_context(|| format!("{options:?} {propagation:?}"))?;
            }
        }
        Ok(())
    })
}

/// Where not each daemon `sees_all` mounts, one may remove a directory on which another is mounted, in its
/// own copies the directory that it covers.
fn circle(scratch: &Scratch, options: &[&str], sees_all: bool) -> Outcome {
    let path = |name: &str| scratch.source().join(name);
    // Each directory has the next one mounted in it.
    for (name, inner) in [("x", "x/z"), ("y", "y/x"), ("z", "z/y")] {
        std::fs::create_dir_all(path(inner))?;
        std::fs::write(path(name).join("f"), "")?;
    }
    let a = Mounted::new(&path("x"), &path("y/x"), options)?;
    let b = Mounted::new(&path("y"), &path("z/y"), options)?;
    let c = Mounted::new(&path("z"), &path("x/z"), options)?;
    let all = [&a, &b, &c];
    for mount in all {
        for words in [&["find"][..], &["ls", "-lR"], &["du", "-a"]] {
            let (found, done) = walk(words, &mount.0, &all)?;
            let told = said_on_stderr(&done);
            // Where the circle is cut, or nothing, if it is by what the sandbox does not see.
            let known = |line: &str| {
                line.contains("Too many levels of symbolic links")
                    || line.contains("File system loop")
                    || line.contains("WARNING: Circular")
            };
            ensure!(told.lines().all(known), "{words:?}: {told}");
            ensure!(found.len() < 40, "{words:?}: {found:?}");
        }
    }
    // What was mounted before is entered: z's mount shows what is in y's.
    ensure!(
        c.0.join("y/f").exists() && c.0.join("y/x/f").exists(),
        "the older mounts"
    );
    if sees_all {
        let (_, done) = walk(&["rm", "-r"], &c.0, &all)?;
        ensure!(
            !said_on_stderr(&done).is_empty(),
            "what is mounted on was removed"
        );
        ensure!(!path("z/f").exists(), "rm did nothing");
    }
    c.unmount()?;
    b.unmount()?;
    a.unmount()
}
