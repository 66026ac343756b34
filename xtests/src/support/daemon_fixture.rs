//! A FUSE server that runs as our child in the foreground, and the mount that it serves.
//!
//! Invariant: whatever the test does (fail, panic, hang beyond the limit), the mount and the daemon
//! are gone afterwards: [`DaemonFixture::unmount`] checks that both ended well, Drop makes sure
//! that they ended. One type for thrufs and its peers, so that a peer is held to the same and left as clean.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

use super::command::wait_for_exit;
use super::mount_table::{Leftover, abort, is_mounted, mount_line};
use super::process::{children, pid_of};
use super::shutdown_wait::{Limits, wait_for_end};
use super::wait::{wait_for, wait_until};

/// Limit of any single step of mounting and unmounting.
const STEP: Duration = Duration::from_secs(10);
/// A caller that is not done by then is hung: the connection is aborted, so that it fails.
const LIMIT: Duration = Duration::from_secs(120);

/// The daemon and its mount.
pub struct DaemonFixture {
    name: String,
    dir: PathBuf,
    log: PathBuf,
    /// Device number of the mount, to find other holders.
    device: Option<String>,
    /// None once the daemon has ended and been reaped.
    daemon: Option<Child>,
    /// The daemon's child that serves, if it has one.
    server: Option<Pid>,
    watchdog: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// `program` as a child that gets SIGTERM if the thread that starts it dies.
pub fn tied_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "--"])
        .arg(program)
        // A backtrace takes more system calls than a server has that panics on purpose.
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

impl DaemonFixture {
    /// Starts `command` (made by [`tied_to_us`], called `name` in messages), which mounts on `dir`;
    /// returns when the mount answers. What the daemon prints goes to the file `log`.
    pub fn start(name: &str, mut command: Command, dir: &Path, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let daemon = command.stdout(file.try_clone()?).stderr(file).spawn();
        let daemon = daemon
            .with_context(|| format!("cannot start setpriv (util-linux), which starts {name}"))?;
        let mut served = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            log: log.to_owned(),
            device: None,
            daemon: Some(daemon),
            server: None,
            watchdog: None,
        };
        served.wait_for_answer()?;
        served.server = served.child()?;
        let line = mount_line(dir).unwrap_or_default();
        served.device = line.split(' ').nth(2).map(str::to_owned);
        served.watchdog = Some(watch(dir, LIMIT));
        Ok(served)
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        let (name, dir, log) = (&self.name, &self.dir, &self.log);
        let daemon = self.daemon.as_mut().expect("it has just been started");
        wait_until(&format!("{} to be mounted", dir.display()), STEP, || {
            if let Some(status) = daemon.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!(
                    "{name} ended ({status}) before it served {}:\n{said}",
                    dir.display()
                );
            }
            Ok(is_mounted(dir))
        })?;
        // In a thread: a mount that does not answer blocks its caller.
        let (sender, answer) = mpsc::channel();
        let asked = dir.clone();
        std::thread::spawn(move || sender.send(std::fs::metadata(asked).map(|_| ())));
        match answer.recv_timeout(STEP) {
            Ok(answer) => answer.with_context(|| {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                format!("stat {}; {name} said:\n{said}", dir.display())
            }),
            Err(_) => bail!(
                "{} is mounted but does not answer within {STEP:?}",
                dir.display()
            ),
        }
    }

    /// Replaces a test's deadline for users of this mount; it starts now.
    pub fn allow(&mut self, limit: Duration) {
        self.stop_watching();
        self.watchdog = Some(watch(&self.dir, limit));
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Result<Pid> {
        let daemon = self.daemon.as_ref().context("the daemon has ended")?;
        Ok(pid_of(daemon))
    }

    /// The process that serves: the daemon's child in the sandbox, else the daemon itself.
    pub fn server_pid(&self) -> Result<Pid> {
        self.server.map_or_else(|| self.pid(), Ok)
    }

    /// The daemon's only child, if it has one.
    fn child(&self) -> Result<Option<Pid>> {
        match children(self.pid()?)?[..] {
            [child] => Ok(Some(child)),
            _ => Ok(None),
        }
    }

    /// The daemon's output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the daemon to end by itself, and returns its exit code.
    pub fn wait_for_daemon(&mut self) -> Result<i32> {
        let daemon = self.daemon.as_mut().context("the daemon has ended")?;
        let status = wait_for_end(daemon, self.device.as_deref(), &Limits::DAEMON)?;
        self.stop_watching();
        self.daemon = None;
        if let Some(server) = self.server.take() {
            // The child of a killed daemon dies a moment later.
            let path = format!("/proc/{server}");
            wait_until("the serving process to be gone", STEP, || {
                Ok(!Path::new(&path).exists())
            })?;
        }
        status
            .code()
            .with_context(|| format!("the daemon was killed by {:?}", status.signal()))
    }

    /// Unmounts and checks the end: not busy, exit code 0, no thread panicked.
    pub fn unmount(&mut self) -> Result<()> {
        let dir = &self.dir;
        wait_for(
            &format!("{} not to be busy", dir.display()),
            STEP,
            || match umount2(dir, MntFlags::empty()) {
                Ok(()) => Ok(Some(())),
                Err(Errno::EBUSY) => Ok(None),
                Err(error) => Err(error).with_context(|| format!("umount {}", dir.display())),
            },
        )?;
        let (code, log) = (self.wait_for_daemon()?, self.log());
        ensure!(code == 0, "the daemon exited with {code}:\n{log}");
        let panicked = log.contains("panicked");
        ensure!(!panicked, "a thread of the daemon panicked:\n{log}");
        Ok(())
    }

    fn stop_watching(&mut self) {
        if let Some((stop, thread)) = self.watchdog.take() {
            drop(stop);
            // Drop panics at nothing, and the daemon's exit code no longer matters.
            let _ended = thread.join();
        }
    }
}

impl Drop for DaemonFixture {
    fn drop(&mut self) {
        self.stop_watching();
        let Some(mut daemon) = self.daemon.take() else {
            // A daemon that was killed leaves its mount.
            drop(Leftover(self.dir.clone()));
            return;
        };
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
        abort(&self.dir);
        // Fails if it was never mounted; then only the daemon remains to end.
        let _unmounted = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _status = wait_for_exit(
            &mut daemon,
            "the daemon to exit after its connection went",
            STEP,
        );
    }
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
