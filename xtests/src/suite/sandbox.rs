//! A sandbox for programs that make any system call: an unprivileged user in mount, pid, network
//! and ipc namespaces of its own.
//!
//! Invariant: the scratch directory is the only writable place, and the only visible one beside
//! /usr (read-only); everything that is started ends with the sandbox; memory, processes and file
//! sizes are bounded. By bubblewrap, which is made for this and well kept.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::command::output;
use crate::support::install;

/// The scratch directory's path inside.
pub(super) const INSIDE: &str = "/scratch";
/// User and group id that own no file (Debian: 65534).
const NO_OWNER: u32 = 65534;

/// Bounds of one run.
pub(super) struct Bounds {
    /// Everything inside is killed then.
    pub(super) time: Duration,
    /// The largest file, in bytes.
    pub(super) file: u64,
}

/// Makes sure of the programs.
pub(super) fn provide() -> Result<()> {
    install::apt(&[
        ("bwrap", "bubblewrap"),
        ("setpriv", "util-linux"),
        ("prlimit", "util-linux"),
    ])
}

/// A directory in `dir` that belongs to the user inside.
pub(super) fn room(dir: &Path, name: &str) -> Result<PathBuf> {
    let room = dir.join(name);
    std::fs::create_dir(&room).with_context(|| room.display().to_string())?;
    chown(&room, Some(NO_OWNER), Some(NO_OWNER)).with_context(|| room.display().to_string())?;
    Ok(room)
}

/// Runs `program` in `room`; being killed at the time limit is no error.
pub(super) fn run(room: &Path, bounds: &Bounds, program: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &bounds.time.as_secs().to_string()]);
    command.arg("bwrap").args(FILES);
    command.args(["--bind".as_ref(), room.as_os_str(), INSIDE.as_ref()]);
    command.args(["--chdir", INSIDE, "--"]).args(USER);
    command.arg(format!("--fsize={}", bounds.file));
    output(command.arg("--").args(program))
}

const FILES: &[&str] = &[
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/sbin",
    "/sbin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--ro-bind",
    "/etc/passwd",
    "/etc/passwd",
    "--ro-bind",
    "/etc/group",
    "/etc/group",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--perms",
    "1777",
    "--size",
    "67108864",
    "--tmpfs",
    "/tmp",
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--new-session",
];

const USER: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
    "prlimit",
    "--as=2147483648",
    "--nproc=256",
    "--nofile=1024",
    "--core=0",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_writes_nowhere_but_in_its_room() {
        if !nix::unistd::geteuid().is_root() || install::find("bwrap").is_none() {
            eprintln!("skipped: needs root and bubblewrap");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(NO_OWNER), None).unwrap();
        let room = room(dir.path(), "room").unwrap();
        let bounds = Bounds {
            time: Duration::from_secs(20),
            file: 1 << 20,
        };
        let script = "id -u; grep CapBnd /proc/self/status; for d in / /usr /etc /home /root /var; \
            do touch $d/x 2>/dev/null && echo wrote $d; done; touch here; ls -d /scratch/here; \
            head -c 2000000 /dev/zero >large; ls /sys /home /root 2>/dev/null; true";
        let said = run(&room, &bounds, &["sh", "-c", script]).unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            ["65534", "CapBnd:\t0000000000000000", "/scratch/here"],
            "{said:?}"
        );
        assert!(room.join("large").metadata().unwrap().len() <= 1 << 20);
    }
}
