//! The server of the virtiofs transport: virtiofsd or `thrufs device`, as a process of the host, and its device
//! in the guest. Both take the same options.
//!
//! User Mode Linux speaks vhost-user itself, so this is real virtiofs without a hypervisor; with
//! QEMU as the machine there is one. For the suites, strace makes the server refuse every write to
//! one file: a server of others fails in no other way. Invariant: no process of it is left when
//! [`Server`] is dropped.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thrufs_lab::Device;
use xtests::support::command::{describe, succeed};
use xtests::support::install;
use xtests::support::mount::BIN;
use xtests::support::wait::wait_until;

/// The device's name in the guest.
pub(super) const TAG: &str = "xtests";
/// Descriptors of a queue, which limit a request. Fixed in User Mode Linux, so QEMU gets the same.
pub(super) const QUEUE_SIZE: u16 = 256;
/// The file in the shared directory whose writes all fail.
pub(super) const REFUSED: &str = "refused";

/// Options of every server.
const ALWAYS: [&str; 4] = ["--tag", TAG, "--sandbox=none", "--seccomp=none"];
const STEP: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Program {
    /// virtiofsd, unchanged.
    Virtiofsd,
    /// `thrufs device`, of this checkout.
    Thrufs,
}

impl Program {
    /// The command, without its options; installed or built if need be.
    fn command(self) -> anyhow::Result<Vec<OsString>> {
        match self {
            Self::Virtiofsd => Ok(vec![install::virtiofsd()?.into()]),
            Self::Thrufs => {
                let program = match std::env::var_os(BIN) {
                    Some(program) => program,
                    None => install::thrufs()?.into(),
                };
                Ok(vec![program, "device".into()])
            }
        }
    }
}

/// A running server.
pub(super) struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    /// A server that fails every write to the file [`REFUSED`], with a fresh directory below `dir`;
    /// `cache` is the server's option.
    pub(super) fn refusing(program: Program, dir: &Path, cache: &str) -> anyhow::Result<Self> {
        install::apt(&[("strace", "strace")])?;
        let shared = dir.join("shared");
        clear(&shared)?;
        std::fs::create_dir_all(&shared).with_context(|| format!("making {}", shared.display()))?;
        let mut strace = Command::new("strace");
        strace
            .args(["--follow-forks", "--seccomp-bpf", "--quiet=all", "--output"])
            .arg(dir.join("strace.log"));
        // strace traces only calls on this path, and all of them fail.
        strace.arg("--trace-path").arg(shared.join(REFUSED));
        let writes = "pwrite64,pwritev,pwritev2";
        strace
            .arg(format!("--trace={writes}"))
            .arg(format!("--inject={writes}:error=EIO"))
            .args(program.command()?)
            .args([format!("--cache={cache}").as_str(), "--thread-pool-size=4"]);
        Self::start(strace, dir, &shared)
    }

    /// An unmodified server of `shared`.
    pub(super) fn plain(dir: &Path, shared: &Path) -> anyhow::Result<Self> {
        Self::start(Command::new(install::virtiofsd()?), dir, shared)
    }

    /// The command of [`Server::plain`], and its version.
    pub(super) fn describe() -> anyhow::Result<(String, String)> {
        let mut asked = Command::new(install::virtiofsd()?);
        let said = succeed(asked.arg("--version"))?;
        let command = format!("virtiofsd --shared-dir SOURCE {}", ALWAYS.join(" "));
        Ok((command, said.trim().to_owned()))
    }

    /// `command` begins with the program; `dir` takes socket and log.
    fn start(mut command: Command, dir: &Path, shared: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let socket = dir.join("virtiofs.sock");
        clear(&socket)?;
        let log = dir.join("virtiofs.log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        command
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(shared)
            .args(ALWAYS)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let process = command.spawn();
        let process = process.with_context(|| format!("cannot start {}", describe(&command)))?;
        let mut server = Self { process, socket };
        server.wait_for_socket(&log)?;
        Ok(server)
    }

    fn wait_for_socket(&mut self, log: &Path) -> anyhow::Result<()> {
        wait_until("the virtiofs server to listen", STEP, || {
            if let Some(status) = self.process.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the virtiofs server ended ({status}):\n{said}");
            }
            Ok(self.socket.exists())
        })
    }

    /// The guest's device.
    pub(super) fn device(&self) -> Device {
        const VIRTIO_ID_FS: u32 = 26;
        Device {
            socket: self.socket.clone(),
            id: VIRTIO_ID_FS,
            qemu: format!("vhost-user-fs-pci,tag={TAG},queue-size={QUEUE_SIZE}"),
        }
    }
}

/// Removes an earlier run's `path`.
fn clear(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Ok(group) = i32::try_from(self.process.id()) else {
            return;
        };
        // The server ends by itself with the guest; then there is no process to kill.
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _reaped = self.process.wait();
    }
}
