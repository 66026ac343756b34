//! The server of the virtiofs transport: virtiofsd, as a process of the host, and the device that it is
//! for the guest.
//!
//! User Mode Linux speaks vhost-user itself, so this is real virtiofs without a hypervisor. strace makes
//! the server refuse every write to one file: that is the only way to have a server fail that is not ours.
//! Invariant: no process of it is left when [`Server`] is dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use xtests::install;
use xtests::support::wait::wait_until;

/// The device's name in the guest.
pub(super) const TAG: &str = "xtests";
/// The file in the shared directory to which no write succeeds.
pub(super) const REFUSED: &str = "refused";

const VERSION: &str = "1.14.0";
const STEP: Duration = Duration::from_secs(20);

/// A running virtiofsd.
pub(super) struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    /// Installs virtiofsd if need be, and starts it with a fresh directory below `dir`; `cache` as it
    /// calls it.
    pub(super) fn start(dir: &Path, cache: &str) -> anyhow::Result<Self> {
        install::apt(&[
            ("strace", "strace"),
            ("/usr/include/cap-ng.h", "libcap-ng-dev"),
            ("/usr/include/seccomp.h", "libseccomp-dev"),
        ])?;
        let program = install::tool("virtiofsd", VERSION)?;
        let shared = dir.join("shared");
        let socket = dir.join("virtiofsd.sock");
        clear(&shared)?;
        clear(&socket)?;
        std::fs::create_dir_all(&shared).with_context(|| format!("making {}", shared.display()))?;
        let log = dir.join("virtiofsd.log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("strace");
        command
            .args(["--follow-forks", "--seccomp-bpf", "--quiet=all", "--output"])
            .arg(dir.join("strace.log"));
        // Only calls on this path are looked at, and all of them fail.
        command.arg("--trace-path").arg(shared.join(REFUSED));
        let writes = "pwrite64,pwritev,pwritev2";
        command
            .arg(format!("--trace={writes}"))
            .arg(format!("--inject={writes}:error=EIO"));
        command
            .arg(&program)
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(&shared)
            .arg(format!("--cache={cache}"));
        command.args([
            "--tag",
            TAG,
            "--sandbox=none",
            "--seccomp=none",
            "--thread-pool-size=4",
        ]);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let process = command
            .spawn()
            .context("cannot start strace, which starts virtiofsd")?;
        let mut server = Self { process, socket };
        server.wait_for_socket(&log)?;
        Ok(server)
    }

    fn wait_for_socket(&mut self, log: &Path) -> anyhow::Result<()> {
        wait_until("virtiofsd to listen", STEP, || {
            if let Some(status) = self.process.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("virtiofsd ended ({status}):\n{said}");
            }
            Ok(self.socket.exists())
        })
    }

    /// The word for the kernel's command line.
    pub(super) fn device(&self) -> String {
        const VIRTIO_ID_FS: u32 = 26;
        format!(
            "virtio_uml.device={}:{VIRTIO_ID_FS}:1",
            self.socket.display()
        )
    }
}

/// Removes what an earlier run has left at `path`.
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
        // It ends by itself when the guest goes; then there is nobody to kill.
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _reaped = self.process.wait();
    }
}
