//! The device's process: thrufs, or another server with the same options.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Guest, Options};
use crate::support::command::wait_for_exit;
use crate::support::daemon_fixture::tied_to_us;
use crate::support::mount::thrufs;
use crate::support::process::children;
use crate::support::wait::wait_until;

/// Limit of a start, and of an end.
const STEP: Duration = Duration::from_secs(20);

/// Variable with another server that takes virtiofsd's options: what of the tests does it pass?
const DEVICE: &str = "THRUFS_TEST_DEVICE";

/// See the module.
pub struct Device {
    dir: TempDir,
    socket: PathBuf,
    process: Option<Child>,
}

impl Device {
    /// Starts `thrufs device`, or what [`DEVICE`] names, with `options` and a fresh shared directory.
    pub fn new(options: &[&str]) -> Result<Self> {
        if let Some(program) = std::env::var_os(DEVICE) {
            return Self::start(tied_to_us(Path::new(&program)), options);
        }
        let mut command = tied_to_us(&thrufs()?);
        command.arg("device");
        Self::start(command, options)
    }

    /// The same as user and group `id`, without any capability.
    pub fn new_as_user(id: u32, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("thrufs-device").tempdir()?;
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777))?;
        // The build directory may be closed to that user.
        let program = dir.path().join("thrufs");
        std::fs::copy(thrufs()?, &program)?;
        let id = id.to_string();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--reuid", &id, "--regid", &id])
            .args([
                "--clear-groups",
                "--bounding-set=-all",
                "--no-new-privs",
                "--",
            ])
            .arg(program)
            .arg("device");
        let socket = dir.path().join("socket");
        Self::within(dir, command, socket, options)
    }

    /// Starts `command`, which takes virtiofsd's options.
    pub fn start(command: Command, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("thrufs-device").tempdir()?;
        let socket = dir.path().join("socket");
        Self::within(dir, command, socket, options)
    }

    /// The same of the directory `source`.
    pub fn of(command: Command, source: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("thrufs-device").tempdir()?;
        let socket = dir.path().join("socket");
        Self::sharing(dir, command, socket, source, &[])
    }

    /// The same with its socket at this path.
    pub fn at(command: Command, socket: &Path, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("thrufs-device").tempdir()?;
        Self::within(dir, command, socket.to_owned(), options)
    }

    fn within(dir: TempDir, command: Command, socket: PathBuf, options: &[&str]) -> Result<Self> {
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777))?;
        Self::sharing(dir, command, socket, &shared, options)
    }

    fn sharing(
        dir: TempDir,
        mut command: Command,
        socket: PathBuf,
        source: &Path,
        options: &[&str],
    ) -> Result<Self> {
        let log = File::create(dir.path().join("log"))?;
        command
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(source)
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = command.spawn().context("start the device")?;
        let mut device = Self {
            dir,
            socket,
            process: Some(process),
        };
        device.wait_for_socket()?;
        Ok(device)
    }

    /// SOCKET.pid.
    pub fn pid_file(&self) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(".pid");
        path.into()
    }

    /// Waits until SOCKET.pid is written, which is the last step of a start.
    pub fn wait_for_pid_file(&self) -> Result<()> {
        wait_until("SOCKET.pid", STEP, || {
            let written = std::fs::read_to_string(self.pid_file()).unwrap_or_default();
            Ok(written.ends_with('\n'))
        })
    }

    /// Whether a thread of the serving process is in a delay of `--fault`.
    pub fn is_delaying(&self) -> Result<bool> {
        for process in self.processes()? {
            for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let call = std::fs::read_to_string(task?.path().join("syscall"));
                let number = libc::SYS_clock_nanosleep.to_string();
                if call.unwrap_or_default().split(' ').next() == Some(&number) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let socket = self.socket();
        wait_until("the device's socket", STEP, || {
            if let Some(process) = &mut self.process
                && let Some(status) = process.try_wait()?
            {
                let log = std::fs::read_to_string(self.dir.path().join("log"));
                bail!("the device ended ({status}):\n{}", log.unwrap_or_default());
            }
            Ok(socket.exists())
        })
    }

    /// Where front ends connect.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// The shared directory, or a path in it.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.dir.path().join("shared").join(name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The same, when `line` is in it: what the server logs comes a moment later, by way of its supervisor.
    pub fn log_with(&self, line: &str) -> Result<String> {
        wait_until(&format!("{line:?} in the log"), STEP, || {
            Ok(self.log().contains(line))
        })?;
        Ok(self.log())
    }

    /// A guest.
    pub fn connect(&self, options: Options) -> Result<Guest> {
        Guest::connect(&self.socket(), options)
    }

    /// The process's number.
    pub fn pid(&self) -> Result<Pid> {
        let process = self.process.as_ref().context("the device has ended")?;
        Ok(Pid::from_raw(i32::try_from(process.id())?))
    }

    /// Its processes: the one that was started, and those below.
    fn processes(&self) -> Result<Vec<Pid>> {
        let mut processes = children(self.pid()?)?;
        processes.push(self.pid()?);
        Ok(processes)
    }

    /// Bytes of memory that its processes have resident.
    pub fn resident(&self) -> Result<u64> {
        let mut bytes = 0;
        for process in self.processes()? {
            let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            bytes += kib.context("VmRSS")?.parse::<u64>()? << 10;
        }
        Ok(bytes)
    }

    /// Descriptors that its processes have open.
    pub fn descriptors(&self) -> Result<usize> {
        let mut count = 0;
        for process in self.processes()? {
            count += std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
        }
        Ok(count)
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the device has ended")?;
        wait_for_exit(&mut process, "the device to end", STEP)
    }

    /// Waits until it has ended, with exit code 0 and without a panic.
    pub fn ends_well(&mut self) -> Result<()> {
        let status = self.wait()?;
        let log = self.log();
        ensure!(status.success(), "the device ended with {status}:\n{log}");
        ensure!(!log.contains("panicked"), "a thread panicked:\n{log}");
        Ok(())
    }

    /// Its directory, with everything in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        if std::thread::panicking() {
            eprintln!("the device said:\n{}", self.log());
        }
        // SIGKILL: its server dies with it.
        let _gone = process.kill();
        let _reaped = process.wait();
    }
}
