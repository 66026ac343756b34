//! A mount for a test: scratch SOURCE, a `thrufs mount -f` child, and the mount point.
//!
//! Invariant: whatever the test does, the mount and the daemon are gone afterwards (see
//! [`super::served`]). With THRUFS_TEST_ON=native the tested directory is SOURCE itself, which proves the
//! tests: what fails there is no fault of thrufs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};

use super::command::output;
use super::scratch::{Backing, Scratch};
use super::served::{Served, tied_to_us};
use super::skip::{Outcome, case, missing};
use super::wait::wait_for;

/// Variable with the cache mode of this run of the tier: never, auto or always.
pub const CACHE: &str = "THRUFS_TEST_CACHE";
/// Variable that says `native` to run the tests on SOURCE itself.
pub const ON: &str = "THRUFS_TEST_ON";
/// Variable with the path of the thrufs binary.
pub const BIN: &str = "THRUFS_BIN";

/// The cache mode of this run.
pub fn cache_mode() -> String {
    std::env::var(CACHE).unwrap_or_else(|_| "auto".to_owned())
}

/// Whether the tests run on SOURCE itself.
pub fn is_native() -> bool {
    std::env::var(ON).is_ok_and(|on| on == "native")
}

/// The binary under test: THRUFS_BIN, else the release build beside the test binaries.
pub fn thrufs() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BIN) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    let found = exe
        .ancestors()
        .map(|dir| dir.join("thrufs"))
        .find(|path| path.is_file());
    found.context("no thrufs binary: run `cargo build --release -p thrufs` or set THRUFS_BIN")
}

/// Whether something is mounted on exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    mount_line(path).is_some()
}

/// The line of /proc/self/mountinfo for this mount point (the topmost, if several).
pub fn mount_line(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let path = path.to_str()?;
    let mut lines = table.lines().rev();
    lines
        .find(|line| line.split(' ').nth(4) == Some(path))
        .map(str::to_owned)
}

/// Aborts the FUSE connection behind a mount point: every caller gets an error at once.
pub fn abort(path: &Path) {
    let Some(line) = mount_line(path) else { return };
    let device = line.split(' ').nth(2).unwrap_or_default();
    let Some(minor) = device.strip_prefix("0:") else {
        return;
    };
    let _ = Command::new("mount")
        .args(["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"])
        .stderr(Stdio::null())
        .status();
    let file = format!("/sys/fs/fuse/connections/{minor}/abort");
    if let Err(error) = std::fs::write(&file, "1") {
        eprintln!(
            "cannot abort the connection of {}: {file}: {error}",
            path.display()
        );
    }
}

/// The mount of one test.
pub struct Mount {
    /// Before `scratch`, so that it is gone when the scratch directory goes; None natively.
    served: Option<Served>,
    dir: PathBuf,
    scratch: Scratch,
}

impl Mount {
    /// Mounts a scratch SOURCE on `backing` with `options` and the run's cache mode (unless
    /// `options` has one), and returns when it answers.
    pub fn new(backing: Backing, options: &[&str]) -> Result<Self> {
        Self::of(Scratch::new(backing)?, options)
    }

    /// The same for a scratch directory that the test has prepared.
    pub fn of(scratch: Scratch, options: &[&str]) -> Result<Self> {
        if is_native() {
            return Ok(Self {
                served: None,
                dir: scratch.source(),
                scratch,
            });
        }
        let dir = scratch.mountpoint();
        let log = scratch.path().join("daemon.log");
        let command = daemon_command(&scratch.source(), &dir, options)?;
        Ok(Self {
            served: Some(Served::start("thrufs mount", command, &dir, &log)?),
            dir,
            scratch,
        })
    }

    /// Gives whoever uses this mount so long from now, instead of what a test gets.
    pub fn allow(mut self, limit: Duration) -> Self {
        if let Some(served) = &mut self.served {
            served.allow(limit);
        }
        self
    }

    /// The directory under test: the mount, or SOURCE natively.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the directory under test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path in SOURCE.
    pub fn source(&self, name: &str) -> PathBuf {
        self.scratch.source().join(name)
    }

    /// The scratch directory around both.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The daemon's process id; skips a native run.
    pub fn pid(&self) -> Result<nix::unistd::Pid> {
        let served = self.served.as_ref();
        served
            .ok_or_else(|| missing("a mount (this is a native run)"))?
            .pid()
    }

    /// The process that serves, which is shut in and so is another one; skips a native run.
    pub fn server_pid(&self) -> Result<nix::unistd::Pid> {
        let served = self.served.as_ref();
        served
            .ok_or_else(|| missing("a mount (this is a native run)"))?
            .server_pid()
    }

    /// Skips a native run: the test asks something that only a mount has.
    pub fn require_mount(&self) -> Result<()> {
        self.pid().map(|_| ())
    }

    /// How many descriptors the daemon has open.
    pub fn daemon_descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.server_pid()?))?.count())
    }

    /// Bytes that the daemon has in memory.
    pub fn daemon_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server_pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.context("VmRSS in /proc/PID/status")?.parse()?;
        Ok(kib << 10)
    }

    /// Requests of this opcode that the daemon has been sent, as `thrufs status` counts them.
    pub fn requests(&self, opcode: &str) -> Result<u64> {
        // The socket comes a moment after the mount.
        let text = wait_for("thrufs status", Duration::from_secs(5), || {
            let mut status = Command::new(thrufs()?);
            let said = output(status.args(["status", "--json"]).arg(self.dir()))?;
            Ok(said.status.success().then_some(said.stdout))
        })?;
        let status: serde_json::Value = serde_json::from_slice(&text)?;
        let opcodes = status["opcodes"].as_array();
        let opcodes = opcodes.context("no opcodes in the status")?;
        let found = opcodes.iter().find(|entry| entry["opcode"] == opcode);
        Ok(found
            .and_then(|entry| entry["requests"].as_u64())
            .unwrap_or(0))
    }

    /// What the daemon has printed so far.
    pub fn log(&self) -> String {
        self.served.as_ref().map(Served::log).unwrap_or_default()
    }

    /// Waits for the daemon to end by itself, and returns its exit code.
    pub fn wait_for_daemon(&mut self) -> Result<i32> {
        let served = self.served.as_mut().context("there is no daemon")?;
        served.wait_for_daemon()
    }

    /// Makes sure that the kernel holds no data or attribute of the tree in its cache.
    pub fn drop_caches(&self) -> Result<()> {
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")
    }

    /// Unmounts and checks that all went well: not busy, exit code 0, nothing panicked.
    pub fn unmount(mut self) -> Result<()> {
        let Some(served) = &mut self.served else {
            return Ok(());
        };
        served.unmount()?;
        let log = served.log();
        ensure!(
            !log.contains("panicked"),
            "a thread of the daemon panicked:\n{log}"
        );
        Ok(())
    }
}

/// Makes sure that a mount which a test made by itself is gone when the test is over.
pub struct Leftover(pub PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            abort(&self.0);
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }
}

/// The daemon in the foreground.
fn daemon_command(source: &Path, dir: &Path, options: &[&str]) -> Result<Command> {
    let mut command = tied_to_us(&thrufs()?);
    command.args(["mount", "-f"]);
    if !options.iter().any(|option| option.starts_with("--cache")) {
        command.arg(format!("--cache={}", cache_mode()));
    }
    command.args(options).arg(source).arg(dir);
    Ok(command)
}

/// A test on a default backing: mounts, runs `body`, unmounts and checks the daemon's end.
pub fn on_mount(options: &[&str], body: impl FnOnce(&Mount) -> Outcome) -> Outcome {
    on_backing(Backing::Here, options, body)
}

/// The same on a file system of its own.
pub fn on_backing(
    backing: Backing,
    options: &[&str],
    body: impl FnOnce(&Mount) -> Outcome,
) -> Outcome {
    case(|| {
        let mount = Mount::new(backing, options)?;
        match body(&mount) {
            Ok(()) => mount.unmount(),
            Err(error) => {
                let log = mount.log();
                if log.is_empty() {
                    Err(error)
                } else {
                    with_log(error, &log)
                }
            }
        }
    })
}

/// Adds the daemon's words to an error, but leaves a skip what it is.
fn with_log(error: anyhow::Error, log: &str) -> Outcome {
    if error.is::<super::skip::Missing>() {
        return Err(error);
    }
    Err(error.context(format!("the daemon said:\n{log}")))
}

/// The inode number that stat(2) gives.
pub fn ino(path: &Path) -> Result<u64> {
    Ok(std::fs::symlink_metadata(path)
        .with_context(|| path.display().to_string())?
        .ino())
}
