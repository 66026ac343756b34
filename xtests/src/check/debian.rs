//! The stage `debian`: what a stranger does, on fresh Debian releases: clones, types the README's commands, makes the
//! package, and uses it until it is purged.
//!
//! The package is made once, on the oldest release, whose C library is the oldest: one that is linked there runs on the
//! newer ones as well. Not static with musl, although that runs everywhere: its resolver of user names does not ask
//! what nsswitch.conf names, and its allocator is slower under many threads.
//!
//! Invariant: each step has a mount and a process namespace of its own, so that nothing that it mounts or starts is
//! there afterwards, however it ends. What it printed is in `target/check/debian`, with the seconds.

mod chroot;
mod steps;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::room::Room;
use crate::report::Report;
use crate::support::command::succeed;
use crate::support::install;
use crate::support::skip::missing;
use chroot::Chroot;
use steps::STEPS;

/// Two releases, each of which builds the program and its tests from nothing: 55 minutes on two busy CPUs.
pub(super) const LIMIT: Duration = Duration::from_secs(90 * 60);

/// A release of Debian.
struct Release {
    version: &'static str,
    suite: &'static str,
}

/// Oldest first: the first one makes the package.
const RELEASES: [Release; 2] = [
    Release {
        version: "12",
        suite: "bookworm",
    },
    Release {
        version: "13",
        suite: "trixie",
    },
];

pub(super) fn debian(report: &mut Report) -> Result<()> {
    let mirror = mirror()?;
    let results = install::target().join("check/debian");
    std::fs::create_dir_all(&results)?;
    let bundle = results.join("thrufs.bundle");
    let mut git = Command::new("git");
    git.current_dir(install::root())
        .args(["bundle", "create", "--quiet"]);
    succeed(git.arg(&bundle).arg("HEAD"))
        .map_err(|error| missing(format!("a repository of git: {error:#}")))?;
    let package = results.join("thrufs.deb");
    // One of another run must not pass for this one's.
    std::fs::write(&package, "")?;
    let room = Room::new()?;
    for release in &RELEASES {
        let log = results.join(format!("{}.log", release.version));
        let dir = room.path().join(release.version);
        let began = Instant::now();
        let name = format!("debian::{}::base", release.version);
        let made = Chroot::make(dir, release.suite, &mirror, &log);
        report
            .times
            .push((name.clone(), began.elapsed().as_secs_f64()));
        let chroot = match made {
            Ok(chroot) => chroot,
            Err(error) => {
                report.record(&name, Err(error));
                continue;
            }
        };
        report.pass(name);
        all_steps(release, &chroot, [&bundle, &package], report);
    }
    Ok(())
}

/// A step that fails ends the release: those after it need what it makes.
fn all_steps(release: &Release, chroot: &Chroot, files: [&PathBuf; 2], report: &mut Report) {
    for step in STEPS {
        if !step.is_for(release.version) {
            continue;
        }
        let name = format!("debian::{}::{}", release.version, step.name);
        let began = Instant::now();
        let outcome = one_step(step, chroot, files);
        report
            .times
            .push((name.clone(), began.elapsed().as_secs_f64()));
        let is_over = outcome.is_err();
        report.record(&name, outcome);
        if is_over {
            return;
        }
    }
}

fn one_step(step: &steps::Step, chroot: &Chroot, [bundle, package]: [&PathBuf; 2]) -> Result<()> {
    match step.name {
        "clone" => copy(bundle, &chroot.path("/root/thrufs.bundle"))?,
        "lintian" => copy(package, &chroot.path("/root/thrufs.deb"))?,
        _ => {}
    }
    chroot.run(step.name, step.script)?;
    if step.name == "package" {
        copy(&chroot.path("/root/thrufs.deb"), package)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Where this machine has its packages from; the same place has the other releases.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)"]);
    let addresses = succeed(targets.args(["Created-By: Packages", "Label: Debian"]))?;
    let first = addresses.lines().next().map(str::to_owned);
    first.ok_or_else(|| missing("a mirror of Debian in apt's sources"))
}
