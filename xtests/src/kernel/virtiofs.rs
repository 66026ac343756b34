//! The servers of the virtiofs transport: virtiofsd or `thrufs device`, as processes of the host, and their devices
//! in the guest. Both programs take the same options.
//!
//! User Mode Linux speaks vhost-user itself, so this is real virtiofs without a hypervisor; with
//! QEMU as the machine there is one. For the suites, strace makes the server of one device refuse every write to
//! one file: a server of others fails in no other way. The other devices are [`PLAIN`], a cache mode each. Invariant:
//! no process of a server is left when [`Server`] is dropped.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use thrufs_lab::{Device, Mark, Outcome};
use xtests::support::command::{describe, succeed};
use xtests::support::install;
use xtests::support::mount::BIN;
use xtests::support::scratch::{Backing, Layout, Scratch};
use xtests::support::wait::wait_until;

use crate::fio::guests::{self, DeviceServer};

use super::both_sides;
use super::devices::{AUTO, PLAIN, QUEUE_SIZE, REFUSED, TAG};

/// Options of every server.
const ALWAYS: [&str; 2] = ["--sandbox=none", "--seccomp=none"];
const SOCKET: &str = "socket";
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
    fn command(self) -> anyhow::Result<Command> {
        match self {
            Self::Virtiofsd => Ok(Command::new(install::virtiofsd()?)),
            Self::Thrufs => {
                let program = match std::env::var_os(BIN) {
                    Some(program) => program,
                    None => install::thrufs()?.into(),
                };
                let mut command = Command::new(program);
                command.arg("device");
                Ok(command)
            }
        }
    }

    /// The word for the transport in a kernel's name in tables and expectations.
    pub(super) fn transport(self) -> &'static str {
        match self {
            Self::Virtiofsd => "virtiofsd",
            Self::Thrufs => "virtiofs",
        }
    }
}

/// The devices of one machine.
pub(super) struct Servers {
    servers: Vec<Server>,
    /// What the plain ones share, a directory each by their names.
    memory: Option<Scratch>,
}

impl Servers {
    /// Those called `wanted`. `dir` takes logs, and a fresh directory for the one that refuses, whose
    /// option `cache` is.
    pub(super) fn start(
        program: Program,
        dir: &Path,
        cache: &str,
        wanted: &BTreeSet<&str>,
    ) -> anyhow::Result<Self> {
        let mut servers = Self {
            servers: Vec::new(),
            memory: None,
        };
        if wanted.contains(TAG) {
            let refusing = Server::refusing(program, dir, cache)?;
            servers.servers.push(refusing);
        }
        for (tag, options) in PLAIN.iter().filter(|(tag, _)| wanted.contains(tag)) {
            let memory = match &mut servers.memory {
                Some(memory) => memory,
                none => none.insert(Scratch::with(Backing::Tmpfs, Layout::AsBacked)?),
            };
            let shared = memory.source().join(tag);
            std::fs::create_dir(&shared)?;
            if *tag == AUTO {
                both_sides::prepare(&shared)?;
            }
            let mut command = program.command()?;
            command.args(*options).arg("--xattr");
            let server = Server::start(command, tag, dir, &shared)?;
            servers.servers.push(server);
        }
        Ok(servers)
    }

    /// Their other sides.
    pub(super) fn devices(&self) -> Vec<Device> {
        self.servers.iter().map(Server::device).collect()
    }

    /// Compares what the guest has reported of its files with what is here.
    pub(super) fn compare(&self, outcome: &mut Outcome) {
        let Some(memory) = &self.memory else { return };
        let mut verdicts = outcome.verdicts.iter_mut();
        let reported = verdicts.find(|one| one.test == both_sides::NAME && one.mark == Mark::Pass);
        let Some(verdict) = reported else { return };
        if let Err(error) = both_sides::compare(&memory.source().join(AUTO), &verdict.detail) {
            verdict.mark = Mark::Fail;
            verdict.detail = format!("{error:#}");
        }
    }
}

/// A running server.
pub(super) struct Server {
    process: Child,
    tag: String,
    /// With the socket, whose path must be short.
    dir: TempDir,
}

impl Server {
    /// A server that fails every write to the file [`REFUSED`], with a fresh directory below `dir`;
    /// `cache` is the server's option.
    fn refusing(program: Program, dir: &Path, cache: &str) -> anyhow::Result<Self> {
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
        let server = program.command()?;
        strace
            .arg(format!("--trace={writes}"))
            .arg(format!("--inject={writes}:error=EIO"))
            .arg(server.get_program())
            .args(server.get_args())
            .args([format!("--cache={cache}").as_str(), "--thread-pool-size=4"]);
        Self::start(strace, TAG, dir, &shared)
    }

    /// The server of this name ([`guests::serves_device`]), which is the tag of its device, with `shared`.
    pub(super) fn plain(name: &str, dir: &Path, shared: &Path) -> anyhow::Result<Self> {
        let (program, options) = Self::of(name)?;
        let mut command = program.command()?;
        command.args(options);
        Self::start(command, name, dir, shared)
    }

    /// The command of [`Server::plain`], and its version.
    pub(super) fn describe(name: &str) -> anyhow::Result<DeviceServer> {
        let (program, options) = Self::of(name)?;
        let mut command = program.command()?;
        let said = succeed(command.arg("--version"))?;
        let options = options.iter().map(String::as_str).chain(ALWAYS);
        let options: Vec<&str> = options.collect();
        let words = match program {
            Program::Virtiofsd => "virtiofsd",
            Program::Thrufs => "thrufs device",
        };
        let line = format!(
            "{words} --shared-dir SOURCE --tag {name} {}",
            options.join(" ")
        );
        Ok(DeviceServer {
            name: name.to_owned(),
            command: line,
            version: said.trim().to_owned(),
        })
    }

    /// Which program a name means, and its options.
    fn of(name: &str) -> anyhow::Result<(Program, Vec<String>)> {
        if name == guests::VIRTIOFSD {
            return Ok((Program::Virtiofsd, Vec::new()));
        }
        let rest = name.strip_prefix(guests::THRUFS_DEVICE).unwrap_or_default();
        let queues = match rest.strip_prefix("-q") {
            Some(number) => number.parse::<u16>().ok(),
            None => rest.is_empty().then_some(1),
        };
        let queues = queues.with_context(|| {
            format!(
                "{name} is no server of a device: {}-qN has N request queues",
                guests::THRUFS_DEVICE
            )
        })?;
        Ok((
            Program::Thrufs,
            vec![format!("--num-request-queues={queues}")],
        ))
    }

    /// `command` begins with the program; `dir` takes the log.
    fn start(mut command: Command, tag: &str, dir: &Path, shared: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let sockets = tempfile::Builder::new().prefix("xtests-").tempdir()?;
        let log = dir.join(format!("virtiofs-{tag}.log"));
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        command
            .arg("--socket-path")
            .arg(sockets.path().join(SOCKET))
            .arg("--shared-dir")
            .arg(shared)
            .args(["--tag", tag])
            .args(ALWAYS)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let process = command.spawn();
        let process = process.with_context(|| format!("cannot start {}", describe(&command)))?;
        let mut server = Self {
            process,
            tag: tag.to_owned(),
            dir: sockets,
        };
        server.wait_for_socket(&log)?;
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    fn wait_for_socket(&mut self, log: &Path) -> anyhow::Result<()> {
        wait_until("the virtiofs server to listen", STEP, || {
            if let Some(status) = self.process.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the virtiofs server ended ({status}):\n{said}");
            }
            Ok(self.socket().exists())
        })
    }

    /// The guest's device.
    pub(super) fn device(&self) -> Device {
        const VIRTIO_ID_FS: u32 = 26;
        Device {
            socket: self.socket(),
            id: VIRTIO_ID_FS,
            qemu: format!("vhost-user-fs-pci,tag={},queue-size={QUEUE_SIZE}", self.tag),
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
