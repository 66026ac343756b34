//! libfuse's example file systems, built from the Debian source package `fuse3` into `target/peers`.
//!
//! The library is linked in statically: it is newer than the distribution's, and other programs
//! must not find it. Not the package libfuse3-dev's copy of the examples, which lacks
//! passthrough_hp and is as old as the distribution.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use thrufs_lab::{Lab, Package};

use crate::support::command::succeed;
use crate::support::install;
use crate::support::skip::missing;

/// The version that results were recorded with; the first with io_uring and kernel passthrough.
const PINNED: &str = "3.18.3-1";

/// What the build needs: a file or program, and the package that brings it.
const NEEDS: &[(&str, &str)] = &[
    ("g++", "g++"),
    ("meson", "meson"),
    ("ninja", "ninja-build"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/liburing.h", "liburing-dev"),
    ("/usr/include/numa.h", "libnuma-dev"),
];

/// The program of this name, built once.
pub(super) fn libfuse_example(name: &str) -> Result<PathBuf> {
    let peers = install::target().join("peers");
    std::fs::create_dir_all(&peers).with_context(|| peers.display().to_string())?;
    // Another xtests may want the same program now.
    let lock = std::fs::File::create(peers.join("build.lock"))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("lock target/peers/build.lock")?;
    // Named by the requested version, whichever version the archive gave.
    let built = peers.join(format!("libfuse-{PINNED}"));
    let program = built.join("example").join(name);
    if program.is_file() {
        return Ok(program);
    }
    install::apt(NEEDS)?;
    let source = release(&peers)?;
    let mut setup = Command::new("meson");
    setup.args(["setup", "--buildtype=release", "--default-library=static"]);
    setup.args(["-Dexamples=true", "-Dtests=false", "-Dutils=false"]);
    if built.exists() {
        setup.arg("--wipe");
    }
    succeed(setup.arg(&built).arg(&source))?;
    let targets = ["example/passthrough_ll", "example/passthrough_hp"];
    succeed(Command::new("ninja").arg("-C").arg(&built).args(targets))?;
    Ok(program)
}

fn release(peers: &Path) -> Result<PathBuf> {
    let package = Package {
        name: "fuse3".to_owned(),
        pinned: PINNED.to_owned(),
        only: String::new(),
        suites: vec!["sid".to_owned(), "trixie".to_owned()],
    };
    let say = |text: &str| eprintln!("{text}");
    Lab::new(peers, 1)
        .and_then(|lab| lab.release(&package, &say))
        .map_err(|error| missing(format!("libfuse's examples: {error}")))
}
