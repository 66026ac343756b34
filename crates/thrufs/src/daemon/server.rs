//! The process that serves, shut in, and its start from outside.
//!
//! Three processes take part: the supervisor forks one that makes the namespaces; since a process
//! cannot enter a pid namespace itself, that one forks the server, says which it is, and ends. The
//! server becomes the supervisor's child (a subreaper), so that its end is seen. Without namespaces
//! the first one is the server.
//!
//! Invariant: the server never runs without a supervisor: it dies with it, since nothing else could
//! unmount.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal};
use thrufs_sys::fork::{Side, fork};
use tracing::level_filters::LevelFilter;

use super::callers::{self, AskingOutside};
use super::link::{FromServer, Link, Serve, ServeDevice, ToServer};
use super::output::Output;
use super::registrar::{self, Devices, Registrar};
use super::server_process::{Ends, Start, become_server};
use super::source_state::SourceView;
use crate::logging::{self, Lines, LogOptions};
use crate::sandbox::capabilities::Needs;
use crate::sandbox::namespaces;
use crate::sandbox::plan::{Sandbox, SandboxPlan};
use crate::wait::wait_for_input;

/// How long what the server says waits for what it has logged before.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// What a server is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confined<'a> {
    /// SOURCE, as O_PATH.
    pub(crate) source: &'a OwnedFd,
    pub(crate) plan: &'a SandboxPlan,
    pub(crate) needs: Needs,
    pub(crate) log: LogOptions,
}

/// What a server that takes over from another needs of that one's sandbox; none where there is none such.
#[derive(Debug, Default)]
pub(crate) struct Within {
    pub(crate) mounts: Option<OwnedFd>,
    pub(crate) covered: Option<OwnedFd>,
    /// By which all servers of a mount have files registered: with its last copy their ids would end.
    pub(crate) registering: Option<OwnedFd>,
}

/// A server that is shut in and waits for the mount.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) pid: Pid,
    /// Does not come to mean another process when that has ended.
    pidfd: OwnedFd,
    pub(crate) sandbox: Sandbox,
    /// Sandboxes that were tried before, and why they cannot be.
    pub(crate) refused: Vec<String>,
    /// For one that takes over from it: its mount namespace, and the directory that the mount covers.
    pub(crate) inside: Within,
    link: Arc<Link>,
    asked: Link,
    /// For kernel passthrough; taken when it is served.
    registered: OwnedFd,
    output: OwnedFd,
}

impl Server {
    /// One that is shut in.
    pub(super) fn new(
        (pid, sandbox, inside): (Pid, Sandbox, Within),
        link: Link,
        ours: Ours,
    ) -> anyhow::Result<Self> {
        let pidfd = pidfd(pid).context("pidfd of the serving process")?;
        Ok(Self {
            pid,
            pidfd,
            sandbox,
            refused: Vec::new(),
            inside,
            link: Arc::new(link),
            asked: ours.asked,
            registered: ours.registered,
            output: ours.output,
        })
    }

    /// To send to it, also while it is listened to.
    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    /// Starts one in the first sandbox that the kernel allows; `serve` is its life when it is shut in.
    /// This process must have one thread.
    pub(crate) fn start(
        confined: &Confined<'_>,
        serve: impl Fn(Start<'_>, (AskingOutside, OwnedFd), &Link) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let candidates = confined.plan.candidates;
        let mut refused = Vec::new();
        for (at, sandbox) in candidates.iter().enumerate() {
            match start_in(*sandbox, confined, &serve) {
                Ok(server) => return Ok(Self { refused, ..server }),
                Err(error) if at + 1 < candidates.len() => {
                    refused.push(format!("no --sandbox={sandbox}: {error:#}"));
                }
                Err(error) if refused.is_empty() => {
                    return Err(error.context(format!("--sandbox={sandbox}")));
                }
                Err(error) => return Err(error),
            }
        }
        bail!("there is no sandbox to try")
    }

    /// Has it serve the mount.
    pub(crate) fn serve(
        &self,
        serve: Serve,
        device: &OwnedFd,
        status: Option<&StdUnixListener>,
        metrics: Option<&std::net::TcpListener>,
    ) -> anyhow::Result<()> {
        let mut with = vec![device.as_fd()];
        with.extend(status.map(AsFd::as_fd));
        with.extend(metrics.map(AsFd::as_fd));
        self.link
            .send(&ToServer::Serve(serve), &with)
            .context("hand the mount to the serving process")
    }

    /// Has it serve a device whose front ends connect to `listener`.
    pub(crate) fn serve_device(
        &self,
        serve: ServeDevice,
        listener: &StdUnixListener,
        status: Option<&StdUnixListener>,
        metrics: Option<&std::net::TcpListener>,
    ) -> anyhow::Result<()> {
        let mut with = vec![listener.as_fd()];
        with.extend(status.map(AsFd::as_fd));
        with.extend(metrics.map(AsFd::as_fd));
        self.link
            .send(&ToServer::Device(serve), &with)
            .context("hand the socket to the serving process")
    }

    /// Has a thread register files on `devices` with the connection `device`, for kernel passthrough, as the
    /// server asks.
    pub(crate) fn register_files(
        &self,
        device: OwnedFd,
        devices: Devices,
        plan: &crate::mount_plan::MountPlan,
    ) -> anyhow::Result<()> {
        let socket = self.registered.try_clone();
        let socket = socket.context("duplicate a descriptor")?;
        let kept = plan.sandbox.capabilities(self.sandbox, plan.needs());
        registrar::start(Registrar::new(socket, device, devices), kept)
    }

    /// What is needed to end it.
    pub(crate) fn ending(&self) -> anyhow::Result<Ending> {
        let pidfd = self.pidfd.try_clone();
        Ok(Ending(pidfd.context("duplicate a descriptor")?))
    }

    /// Starts the threads that listen to it. `tell` gets its messages, and last how it ended; what the
    /// server has logged before either is in the log by then.
    pub(crate) fn listen(
        self,
        log: Lines,
        level: LevelFilter,
        source: SourceView,
        tell: impl Fn(ServerEvent) + Send + 'static,
    ) -> anyhow::Result<()> {
        let (asked, link, pid) = (self.asked, self.link, self.pid);
        drop(self.registered);
        let output = Arc::new(Output::new(self.output));
        let relayed = Arc::clone(&output);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("callers")
            .spawn(move || {
                if let Err(error) = callers::answer(&asked, &source) {
                    tracing::debug!(%error, "the serving process asks no more");
                }
            })
            .context("start a thread")?;
        let relay = thread("server-output")
            .spawn(move || relayed.relay(&log, level))
            .context("start a thread")?;
        thread("server")
            .spawn(move || {
                while let Ok(Some((message, descriptors))) = link.receive() {
                    output.wait_until_relayed(LOG_PATIENCE);
                    tell(match message {
                        FromServer::Shared => ServerEvent::Shared(descriptors),
                        message => ServerEvent::Message(message),
                    });
                }
                let status = waitpid(pid, None);
                // All that it wrote is out before its end is known. A relay that panicked knows nothing.
                let last_words = relay.join().unwrap_or_default();
                tell(ServerEvent::Ended(status, last_words));
            })
            .context("start a thread")?;
        Ok(())
    }
}

fn pidfd(pid: Pid) -> anyhow::Result<OwnedFd> {
    let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("a process id is not 0")?;
    Ok(rustix::process::pidfd_open(raw, PidfdFlags::empty())?)
}

/// Ends a server, if it is still there.
#[derive(Debug)]
pub(crate) struct Ending(OwnedFd);

impl Ending {
    /// Asks a server of a device to answer what is under way, and to end.
    pub(crate) fn drain(&self) {
        // As in `kill`.
        let _gone = rustix::process::pidfd_send_signal(&self.0, Signal::TERM);
    }

    pub(crate) fn kill(&self) {
        // It fails only if the server is gone, which is what is wanted.
        let _gone = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }

    /// Waits until it has ended, after [`Self::kill`]. False if it has not after `patience`.
    pub(super) fn has_ended_within(&self, patience: Duration) -> bool {
        wait_for_input(&[&self.0], patience).is_ok_and(|ended| ended.is_some())
    }
}

/// What comes from a server.
#[derive(Debug)]
pub(crate) enum ServerEvent {
    Message(FromServer),
    /// With [`FromServer::Shared`].
    Shared(Vec<OwnedFd>),
    /// How, and what it wrote last.
    Ended(nix::Result<WaitStatus>, Vec<String>),
}

fn start_in(
    sandbox: Sandbox,
    confined: &Confined<'_>,
    serve: impl FnOnce(Start<'_>, (AskingOutside, OwnedFd), &Link) -> anyhow::Result<()>,
) -> anyhow::Result<Server> {
    let (link, their_link) = Link::pair().context("socket pair")?;
    let (ours, theirs) = ends()?;
    let source = confined.source.try_clone();
    let source = source.context("duplicate a descriptor")?;
    if sandbox == Sandbox::Namespace {
        nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
    }
    // Asked here: a terminal cannot be recognised through the pipe.
    let log = logging::ServerLog::of(confined.log);
    match fork().context("start the serving process")? {
        Side::Child => {
            let ends = Ends {
                link: their_link,
                asking: theirs.asking,
                registering: theirs.registering,
                output: theirs.output,
            };
            let start = Start {
                sandbox,
                source,
                plan: confined.plan,
                needs: confined.needs,
                log,
                taken: None,
            };
            become_server(start, ends, serve)
        }
        Side::Parent(child) => {
            let registering = theirs.registering.try_clone();
            let registering = registering.context("duplicate a descriptor")?;
            drop((their_link, theirs, source));
            let (pid, inside) = wait_until_confined(child, sandbox, &link, Some(confined.plan))?;
            let inside = Within {
                registering: Some(registering).filter(|_| confined.plan.restarts),
                ..inside
            };
            Server::new((pid, sandbox, inside), link, ours)
        }
    }
}

/// This process's ends of what a server is started with, beside its link.
pub(super) struct Ours {
    asked: Link,
    registered: OwnedFd,
    output: OwnedFd,
}

/// The server's.
pub(super) struct Theirs {
    pub(super) asking: Link,
    pub(super) registering: OwnedFd,
    pub(super) output: OwnedFd,
}

/// Both.
pub(super) fn ends() -> anyhow::Result<(Ours, Theirs)> {
    let (asked, asking) = Link::pair().context("socket pair")?;
    let (registered, registering) = registrar::pair().context("socket pair")?;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (output, their_output) = pipe.context("pipe")?;
    let ours = Ours {
        asked,
        registered,
        output,
    };
    let theirs = Theirs {
        asking,
        registering,
        output: their_output,
    };
    Ok((ours, theirs))
}

/// Waits until the server is shut in, and says which process it is. It and the one that made the
/// namespaces say so in any order. Where there is no `confinement`, there are no ids to map.
pub(super) fn wait_until_confined(
    child: Pid,
    sandbox: Sandbox,
    link: &Link,
    confinement: Option<&SandboxPlan>,
) -> anyhow::Result<(Pid, Within)> {
    let mut server = (sandbox != Sandbox::Namespace).then_some(child);
    let mut inside = Within::default();
    let mut confined = false;
    let result = loop {
        if let (Some(server), true) = (server, confined) {
            return Ok((server, inside));
        }
        let received = match link.receive() {
            Ok(received) => received,
            Err(error) => break Err(error.into()),
        };
        match (received, confinement) {
            (Some((FromServer::MapIds, _)), Some(confinement)) => {
                if let Err(error) = namespaces::map_ids(child.as_raw(), confinement) {
                    break Err(error);
                }
                link.send(&ToServer::Mapped, &[])?;
            }
            (Some((FromServer::Forked(number), mut mounts)), _) => {
                inside.mounts = mounts.pop();
                // The one in between has nothing more to do.
                waitpid(child, None).context("wait for the process that made the namespaces")?;
                server = Some(Pid::from_raw(number));
            }
            (Some((FromServer::Confined, mut covered)), _) => {
                inside.covered = covered.pop();
                confined = true;
            }
            (Some((FromServer::Failed(reason), _)), _) => break Err(anyhow!("{reason}")),
            (Some((other, _)), _) => break Err(anyhow!("it says {other:?} before it was told")),
            (None, _) => break Err(anyhow!("the serving process ended before it was shut in")),
        }
    };
    // It waits for an answer or has ended, and is not reaped: the number is still its own.
    let left = server.unwrap_or(child);
    let _gone = nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL);
    let _reaped = waitpid(left, None);
    result
}
