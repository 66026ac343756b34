//! A mount for a test: scratch SOURCE, a `thrufs mount -f` child, and the mount point.
//!
//! Invariant: whatever the test does, the mount and the daemon are gone afterwards (see
//! [`super::daemon_fixture`]). With THRUFS_TEST_ON=native the tested directory is SOURCE itself, which proves the
//! tests: what fails there is no fault of thrufs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::command::output;
use super::daemon_fixture::{DaemonFixture, tied_to_us};
pub use super::mount_table::Leftover;
use super::mount_table::connection;
use super::process::{descriptors, memory, resident, while_stopped};
use super::scratch::{Backing, Layout, Scratch};
use super::skip::{Outcome, case, missing};
use super::wait::wait_for;

/// Variable with the cache mode of this run of the tier: never, auto or always.
pub const CACHE: &str = "THRUFS_TEST_CACHE";
/// Variable with the transport of this run of the tier: fuser or device.
pub const TRANSPORT: &str = "THRUFS_TEST_TRANSPORT";
/// Variable with --passthrough of this run of the tier: never or auto.
pub const PASSTHROUGH: &str = "THRUFS_TEST_PASSTHROUGH";
/// Variable that says `native` to run the tests on SOURCE itself.
pub const ON: &str = "THRUFS_TEST_ON";
/// Variable with the path of the thrufs binary.
pub const BIN: &str = "THRUFS_BIN";

/// For tests that map files shared, also where they are not cached; harmless where they are.
pub const ALLOW_MMAP: &str = "--allow-mmap=yes";

/// For tests that count READs and WRITEs.
pub const NEVER: &str = "--passthrough=never";

/// Names that mkdir(1) takes: names that the mount table escapes, separators of options, bytes that
/// are not UTF-8, and names that look like an option or like one of the kernel's own words.
pub const STRANGE_NAMES: &[&[u8]] = &[
    b"a b",
    b"a\nb",
    b"a\tb",
    b"a\\b",
    b"a\\040b",
    b"a#b",
    b"a,b",
    b"a\\,b",
    b"\xff\xfe",
    b"a:b=c",
    b"'\"$`*",
    b"\x1b[31m\x7f",
    b" ",
    b"-o",
    b"x (deleted)",
];

/// The cache mode of this run.
pub fn cache_mode() -> String {
    std::env::var(CACHE).unwrap_or_else(|_| "auto".to_owned())
}

/// The option for this run's transport, if it is not the default; for each `thrufs mount` of a test.
pub fn transport_option() -> Option<String> {
    let transport = std::env::var(TRANSPORT).ok()?;
    Some(format!("--transport={transport}"))
}

/// The option for this run's kernel passthrough, if it is not the default. Tests that count READs and WRITEs say
/// [`NEVER`] themselves.
pub fn passthrough_option() -> Option<String> {
    let mode = std::env::var(PASSTHROUGH).ok()?;
    Some(format!("--passthrough={mode}"))
}

/// `thrufs mount` by this run's transport.
pub fn mount_command() -> Result<Command> {
    let mut command = Command::new(thrufs()?);
    command.arg("mount").args(transport_option());
    Ok(command)
}

/// Whether this run of the tier is the one with the daemon's defaults.
pub fn is_default_run() -> bool {
    cache_mode() == "auto"
        && [PASSTHROUGH, TRANSPORT, ON]
            .iter()
            .all(|name| std::env::var_os(name).is_none())
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

/// The mount of one test.
pub struct Mount {
    /// Before `scratch`, so that it is gone when the scratch directory goes; None natively.
    served: Option<DaemonFixture>,
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
            served: Some(DaemonFixture::start("thrufs mount", command, &dir, &log)?),
            dir,
            scratch,
        })
    }

    /// Replaces a test's deadline for users of this mount; it starts now.
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
    pub fn pid(&self) -> Result<Pid> {
        let served = self.served.as_ref();
        served
            .ok_or_else(|| missing("a mount (this is a native run)"))?
            .pid()
    }

    /// The process that serves, another one than the daemon when that is sandboxed; skips a native run.
    pub fn server_pid(&self) -> Result<Pid> {
        let served = self.served.as_ref();
        served
            .ok_or_else(|| missing("a mount (this is a native run)"))?
            .server_pid()
    }

    /// Skips a native run: the test asks about something that only a mount has.
    pub fn require_mount(&self) -> Result<()> {
        self.pid().map(|_| ())
    }

    /// Skips a kernel that cannot be asked to forget: NOTIFY_PRUNE, 7.45.
    pub fn require_prune(&self) -> Result<()> {
        self.require_mount()?;
        let status = self.status()?;
        let version = &status["negotiated"]["kernel_abi"];
        match (version[0].as_u64(), version[1].as_u64()) {
            (Some(7), Some(45..)) => Ok(()),
            _ => Err(missing(format!("NOTIFY_PRUNE (Linux 6.18): {version}"))),
        }
    }

    /// Requests without an answer, sent or queued.
    pub fn waiting(&self) -> Result<u64> {
        let control = connection(self.dir()).context("no FUSE connection")?;
        let file = control.join("waiting");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().parse()?)
    }

    /// Runs `body` while no thread of the serving process can run.
    pub fn while_stopped<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        while_stopped(self.server_pid()?, body)
    }

    /// How many descriptors the daemon has open.
    pub fn daemon_descriptors(&self) -> Result<usize> {
        descriptors(self.server_pid()?)
    }

    /// Resident bytes of the daemon.
    pub fn daemon_memory(&self) -> Result<u64> {
        resident(self.server_pid()?)
    }

    /// The daemon's peak of resident bytes.
    pub fn daemon_peak_memory(&self) -> Result<u64> {
        memory(self.server_pid()?, "VmHWM:")
    }

    /// The document of `thrufs status --json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        // The socket appears a moment after the mount.
        let text = wait_for("thrufs status", Duration::from_secs(5), || {
            let mut status = Command::new(thrufs()?);
            let said = output(status.args(["status", "--json"]).arg(self.dir()))?;
            Ok(said.status.success().then_some(said.stdout))
        })?;
        serde_json::from_slice(&text).context("what thrufs status --json says")
    }

    /// Requests of this opcode that the daemon has received, as `thrufs status` counts them.
    pub fn requests(&self, opcode: &str) -> Result<u64> {
        let status = self.status()?;
        let opcodes = status["opcodes"].as_array();
        let opcodes = opcodes.context("no opcodes in the status")?;
        let found = opcodes.iter().find(|entry| entry["opcode"] == opcode);
        Ok(found
            .and_then(|entry| entry["requests"].as_u64())
            .unwrap_or(0))
    }

    /// The daemon's output so far.
    pub fn log(&self) -> String {
        self.served
            .as_ref()
            .map(DaemonFixture::log)
            .unwrap_or_default()
    }

    /// Waits for the daemon to end by itself, and returns its exit code.
    pub fn wait_for_daemon(&mut self) -> Result<i32> {
        let served = self.served.as_mut().context("there is no daemon")?;
        served.wait_for_daemon()
    }

    /// Makes sure that the kernel caches no data or attribute of the tree.
    pub fn drop_caches(&self) -> Result<()> {
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")
    }

    /// Unmounts and checks the end; see [`DaemonFixture::unmount`].
    pub fn unmount(mut self) -> Result<()> {
        self.served.as_mut().map_or(Ok(()), DaemonFixture::unmount)
    }
}

/// The daemon in the foreground.
fn daemon_command(source: &Path, dir: &Path, options: &[&str]) -> Result<Command> {
    let mut command = tied_to_us(&thrufs()?);
    command.args(["mount", "-f"]);
    if !options.iter().any(|option| option.starts_with("--cache")) {
        command.arg(format!("--cache={}", cache_mode()));
    }
    if !options
        .iter()
        .any(|option| option.starts_with("--transport"))
    {
        command.args(transport_option());
    }
    if !options
        .iter()
        .any(|option| option.starts_with("--passthrough"))
    {
        command.args(passthrough_option());
    }
    command.args(options).arg(source).arg(dir);
    Ok(command)
}

/// A mount with a file `f` that holds `content`, for tests of how a mount ends.
pub fn mounted() -> Result<Mount> {
    mounted_with(&[])
}

/// The same with these options.
pub fn mounted_with(options: &[&str]) -> Result<Mount> {
    let mount = Mount::of(scratch_with_file()?, options)?;
    mount.require_mount()?;
    Ok(mount)
}

/// The same, not mounted: for tests that call thrufs themselves. Skips a native run.
pub fn unmounted() -> Result<(Scratch, Leftover)> {
    if is_native() {
        return Err(missing("a mount (this is a native run)"));
    }
    let scratch = scratch_with_file()?;
    let leftover = Leftover(scratch.mountpoint());
    Ok((scratch, leftover))
}

fn scratch_with_file() -> Result<Scratch> {
    let scratch = Scratch::new(Backing::Here)?;
    std::fs::write(scratch.source().join("f"), "content")?;
    Ok(scratch)
}

/// A test on a default backing: mounts, runs `body`, unmounts and checks the daemon's end.
pub fn on_mount(options: &[&str], body: impl FnOnce(&Mount) -> Outcome) -> Outcome {
    on_backing(Backing::Here, options, body)
}

/// The same for what only a daemon's mount has: skips a native run.
pub fn on_daemon(options: &[&str], body: impl FnOnce(&Mount) -> Outcome) -> Outcome {
    on_mount(options, |m| {
        m.require_mount()?;
        body(m)
    })
}

/// The same on a file system of its own.
pub fn on_backing(
    backing: Backing,
    options: &[&str],
    body: impl FnOnce(&Mount) -> Outcome,
) -> Outcome {
    on_scratch(|| Scratch::new(backing), options, body)
}

/// The same for a test that needs the top of that file system as SOURCE, for example to remount it.
pub fn on_whole(
    backing: Backing,
    options: &[&str],
    body: impl FnOnce(&Mount) -> Outcome,
) -> Outcome {
    let scratch = || Scratch::with(backing, Layout::AsBacked);
    on_scratch(scratch, options, body)
}

fn on_scratch(
    scratch: impl FnOnce() -> Result<Scratch>,
    options: &[&str],
    body: impl FnOnce(&Mount) -> Outcome,
) -> Outcome {
    case(|| {
        let mount = Mount::of(scratch()?, options)?;
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

/// Adds the daemon's output to an error; a skip stays a skip.
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
