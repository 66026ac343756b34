//! A mount for a test: scratch SOURCE, a `thrufs mount -f` child, and the mount point.
//!
//! Invariant: whatever the test does (fail, panic, hang beyond its limit), the mount and the
//! daemon are gone afterwards: [`Mount::unmount`] checks that they went well, Drop makes sure that
//! they went. With THRUFS_TEST_ON=native the tested directory is SOURCE itself, which proves the
//! tests: what fails there is no fault of thrufs.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::command::wait_for_exit;
use super::scratch::{Backing, Scratch};
use super::skip::{Outcome, case, missing};
use super::wait::{wait_for, wait_until};

/// Variable with the cache mode of this run of the tier: never, auto or always.
pub const CACHE: &str = "THRUFS_TEST_CACHE";
/// Variable that says `native` to run the tests on SOURCE itself.
pub const ON: &str = "THRUFS_TEST_ON";
/// Variable with the path of the thrufs binary.
pub const BIN: &str = "THRUFS_BIN";

/// Any single step of mounting and unmounting.
const STEP: Duration = Duration::from_secs(10);
/// A test that is not done by then is hung: its connection is aborted, so that it fails.
const LIMIT: Duration = Duration::from_secs(120);

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
    scratch: Scratch,
    dir: PathBuf,
    daemon: Option<Child>,
    watchdog: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
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
            let dir = scratch.source();
            return Ok(Self {
                scratch,
                dir,
                daemon: None,
                watchdog: None,
            });
        }
        let dir = scratch.mountpoint();
        let log = File::create(scratch.path().join("daemon.log"))?;
        let mut command = daemon_command(&scratch.source(), &dir, options)?;
        let daemon = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let daemon = daemon.context("cannot start setpriv (util-linux), which starts thrufs")?;
        let mut mount = Self {
            scratch,
            dir,
            daemon: Some(daemon),
            watchdog: None,
        };
        mount.wait_for_answer()?;
        mount.watchdog = Some(watch(&mount.dir, LIMIT));
        Ok(mount)
    }

    /// Gives whoever uses this mount so long from now, instead of what a test gets.
    pub fn allow(mut self, limit: Duration) -> Self {
        if self.watchdog.is_some() {
            self.stop_watching();
            self.watchdog = Some(watch(&self.dir, limit));
        }
        self
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        let (dir, log) = (self.dir.clone(), self.scratch.path().join("daemon.log"));
        let daemon = self.daemon.as_mut().expect("only called with a daemon");
        wait_until(&format!("{} to be mounted", dir.display()), STEP, || {
            if let Some(status) = daemon.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "thrufs mount ended ({status}) before it served {}:\n{said}",
                    dir.display()
                );
            }
            Ok(is_mounted(&dir))
        })?;
        // In a thread: a mount that does not answer holds whoever asks.
        let (sender, answer) = mpsc::channel();
        let asked = dir.clone();
        std::thread::spawn(move || sender.send(std::fs::metadata(asked).map(|_| ())));
        match answer.recv_timeout(STEP) {
            Ok(answer) => answer.with_context(|| format!("stat {}", dir.display())),
            Err(_) => bail!(
                "{} is mounted but does not answer within {STEP:?}",
                dir.display()
            ),
        }
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
        let daemon = self
            .daemon
            .as_ref()
            .ok_or_else(|| missing("a mount (this is a native run)"))?;
        Ok(nix::unistd::Pid::from_raw(i32::try_from(daemon.id())?))
    }

    /// Skips a native run: the test asks something that only a mount has.
    pub fn require_mount(&self) -> Result<()> {
        self.pid().map(|_| ())
    }

    /// How many descriptors the daemon has open.
    pub fn daemon_descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// What the daemon has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("daemon.log")).unwrap_or_default()
    }

    /// Waits for the daemon to end by itself, and returns its exit code.
    pub fn wait_for_daemon(&mut self) -> Result<i32> {
        let daemon = self.daemon.as_mut().context("there is no daemon")?;
        let status = wait_for_exit(daemon, "the daemon to exit", STEP)?;
        self.stop_watching();
        self.daemon = None;
        status
            .code()
            .with_context(|| format!("the daemon was killed by {:?}", status.signal()))
    }

    /// Makes sure that the kernel holds no data or attribute of the tree in its cache.
    pub fn drop_caches(&self) -> Result<()> {
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")
    }

    /// Unmounts and checks that all went well: not busy, exit code 0, nothing panicked.
    pub fn unmount(mut self) -> Result<()> {
        if self.daemon.is_none() {
            return Ok(());
        }
        let dir = self.dir.clone();
        wait_for(
            &format!("{} not to be busy", dir.display()),
            STEP,
            || match umount2(&dir, MntFlags::empty()) {
                Ok(()) => Ok(Some(())),
                Err(Errno::EBUSY) => Ok(None),
                Err(error) => Err(error).with_context(|| format!("umount {}", dir.display())),
            },
        )?;
        let code = self.wait_for_daemon()?;
        let log = self.log();
        ensure!(code == 0, "the daemon exited with {code}:\n{log}");
        ensure!(
            !log.contains("panicked"),
            "a thread of the daemon panicked:\n{log}"
        );
        Ok(())
    }

    fn stop_watching(&mut self) {
        if let Some((stop, thread)) = self.watchdog.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.stop_watching();
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
        abort(&self.dir);
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _ = wait_for_exit(
            &mut daemon,
            "the daemon to exit after its connection went",
            STEP,
        );
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

/// The daemon in the foreground; it gets SIGTERM if the test process dies.
fn daemon_command(source: &Path, dir: &Path, options: &[&str]) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "--"])
        .arg(thrufs()?)
        .args(["mount", "-f"]);
    if !options.iter().any(|option| option.starts_with("--cache")) {
        command.arg(format!("--cache={}", cache_mode()));
    }
    command.args(options).arg(source).arg(dir);
    Ok(command)
}

fn watch(dir: &Path, limit: Duration) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = mpsc::channel();
    let dir = dir.to_owned();
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let thread = std::thread::spawn(move || {
        if stopped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!(
                "{name}: not done after {limit:?}: aborting {}",
                dir.display()
            );
            abort(&dir);
        }
    });
    (stop, thread)
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
