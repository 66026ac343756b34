//! Programs that a check needs and a fresh machine lacks: installed where possible (apt as root,
//! Rust tools into `target/tools`), otherwise named with the command that installs them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::support::command::{describe, output, succeed};
use crate::support::skip::missing;

/// Below this a step is not announced.
const NOT_AT_ONCE: Duration = Duration::from_secs(2);

/// The repository's top directory.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_owned)
}

/// cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// cargo in the repository's top directory.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(args);
    // Set by the cargo that runs this program; they would make the inner one rebuild everything.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// As [`succeed`], with a line on stderr, for a command that may compile for minutes or wait for another cargo.
///
/// # Errors
/// As of [`succeed`].
pub fn patiently(command: &mut Command) -> Result<String> {
    let what = describe(command);
    let (ended, end) = channel::<()>();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            if end.recv_timeout(NOT_AT_ONCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("waiting for {what}");
            }
        });
        let said = succeed(command);
        drop(ended);
        said
    })
}

const BUILD: &[&str] = &["build", "--quiet", "--release", "--package", "thrufs"];
/// Name of the daemon with its attempts to leave the sandbox, which are no part of what is installed.
pub const BREAK_OUT: &str = "thrufs-break-out";

/// The daemon, as this checkout builds it.
///
/// # Errors
/// When it cannot be built.
pub fn thrufs() -> Result<PathBuf> {
    patiently(&mut cargo(BUILD))?;
    Ok(target().join("release/thrufs"))
}

/// Makes [`BREAK_OUT`] as well, beside [`thrufs`], which is returned.
///
/// # Errors
/// When it cannot be built.
pub fn thrufs_and_break_out() -> Result<PathBuf> {
    patiently(cargo(BUILD).args(["--features", "break-out"]))?;
    let built = target().join("release/thrufs");
    std::fs::copy(&built, built.with_file_name(BREAK_OUT))?;
    // The name belongs to the daemon without them.
    thrufs()
}

/// Whether a program is on PATH (or in the directories of root's PATH).
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    places
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// How long apt-get waits for another process that installs, in seconds: unattended-upgrades, for one.
const WAIT: &str = "DPkg::Lock::Timeout=300";
/// apt-get runs.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes sure of these Debian packages: `(a file or program it brings, package)`.
pub fn apt(wanted: &[(&str, &str)]) -> Result<()> {
    let have = |thing: &str| {
        if thing.starts_with('/') {
            Path::new(thing).exists()
        } else {
            find(thing).is_some()
        }
    };
    let lacking = || -> Vec<&str> {
        let lacking = wanted.iter().filter(|(thing, _)| !have(thing));
        lacking.map(|(_, package)| *package).collect()
    };
    if lacking().is_empty() {
        return Ok(());
    }
    // Tests run side by side, and apt refuses to: what another has installed meanwhile is there.
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let lacking = lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    let list = lacking.join(" ");
    let remedy = format!("{list}: as root, `apt-get install {list}`");
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        return Err(missing(remedy));
    }
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install
        .args(["-o", WAIT, "install", "-y", "-qq"])
        .arg("--no-install-recommends")
        .args(&lacking);
    if !output(&mut install)?.status.success() {
        succeed(Command::new("apt-get").args(["update", "-qq"]))
            .and_then(|_| succeed(&mut install))
            .map_err(|error| missing(format!("{remedy} ({error:#})")))?;
    }
    Ok(())
}

/// The file that marks a tool as installed in this version.
pub fn stamp(krate: &str, version: &str) -> PathBuf {
    target()
        .join("tools")
        .join(format!("{krate}-{version}.installed"))
}

/// The peer of `thrufs device`, in the version that is compared.
///
/// # Errors
/// When it cannot be installed.
pub fn virtiofsd() -> Result<PathBuf> {
    apt(&[
        ("/usr/include/cap-ng.h", "libcap-ng-dev"),
        ("/usr/include/seccomp.h", "libseccomp-dev"),
    ])?;
    tool("virtiofsd", "1.14.0")
}

/// A program from the Rust package registry, at exactly this version, in `target/tools`.
pub fn tool(krate: &str, version: &str) -> Result<PathBuf> {
    let tools = target().join("tools");
    let program = tools.join("bin").join(krate);
    let stamp = stamp(krate, version);
    // Before anything is written: where kernels are tested, this directory is read-only.
    if program.is_file() && stamp.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(&tools).with_context(|| tools.display().to_string())?;
    // Another xtests may install the same program now, and two installations break each other.
    let lock = std::fs::File::create(tools.join(format!("{krate}.lock")))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}/{krate}.lock", tools.display()))?;
    if program.is_file() && stamp.is_file() {
        return Ok(program);
    }
    let mut install = Command::new("cargo");
    install
        .args(["install", "--locked", "--quiet", "--force", "--root"])
        .arg(&tools);
    install.arg("--target-dir").arg(tools.join("build"));
    install.arg(format!("{krate}@{version}"));
    patiently(&mut install).map_err(|error| {
        missing(format!(
            "{krate} {version}: `cargo install {krate}@{version}` ({error:#})"
        ))
    })?;
    std::fs::write(&stamp, "")?;
    Ok(program)
}
