//! The process that serves, shut in, and its start from outside.
//!
//! Three processes take part: the supervisor forks one that makes the namespaces; since a process
//! cannot enter a pid namespace itself, that one forks the server, says which it is, and ends. The
//! server becomes the supervisor's child (a subreaper), so that its end is seen. Without namespaces
//! the first one is the server.
//!
//! Invariant: the server never runs without a supervisor: it dies with it, since nothing else could
//! unmount.

mod callers;
mod last_words;
mod link;
mod output;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{PidfdFlags, Signal};
use thrufs_sys::fork::{Side, fork};
use tracing::level_filters::LevelFilter;

use crate::confine::{self, Confinement, Inside, Sandbox};
use crate::control::{Signals, block_on};
use crate::logging::{self, Lines};
use crate::request::{LogRequest, MountRequest};
use crate::session::{self, Serving};
use crate::status::{self, Askers, Reporter};

use callers::AskingOutside;
pub(crate) use link::{FromServer, Link, Serve, ToServer};
use output::Output;

/// How long what the server says waits for what it has logged before.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// A server that is shut in and waits for the mount.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) pid: Pid,
    /// Does not come to mean another process when that has ended.
    pidfd: OwnedFd,
    pub(crate) sandbox: Sandbox,
    /// Sandboxes that were tried before, and why they cannot be.
    pub(crate) refused: Vec<String>,
    link: Link,
    asked: Link,
    output: OwnedFd,
}

/// The ends that the server has.
struct Ends {
    link: Link,
    asking: Link,
    output: OwnedFd,
}

impl Server {
    /// Starts one in the first sandbox that can be had. This process must have one thread.
    pub(crate) fn start(
        source: &OwnedFd,
        request: &MountRequest,
        log: LogRequest,
    ) -> anyhow::Result<Self> {
        let candidates = request.confinement.candidates;
        let mut refused = Vec::new();
        for (at, sandbox) in candidates.iter().enumerate() {
            match start_in(*sandbox, source, request, log) {
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
        tell: impl Fn(Said) + Send + 'static,
    ) -> anyhow::Result<()> {
        let (asked, link, pid) = (self.asked, self.link, self.pid);
        let output = Arc::new(Output::new(self.output));
        let relayed = Arc::clone(&output);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("callers")
            .spawn(move || {
                if let Err(error) = callers::answer(&asked) {
                    tracing::debug!(%error, "the serving process asks no more");
                }
            })
            .context("start a thread")?;
        let relay = thread("server-output")
            .spawn(move || relayed.relay(&log, level))
            .context("start a thread")?;
        thread("server")
            .spawn(move || {
                while let Ok(Some((message, _none))) = link.receive() {
                    output.wait_until_relayed(LOG_PATIENCE);
                    tell(Said::Message(message));
                }
                let status = waitpid(pid, None);
                // All that it wrote is out before its end is known. A relay that panicked knows nothing.
                let last_words = relay.join().unwrap_or_default();
                tell(Said::Ended(status, last_words));
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
    pub(crate) fn kill(&self) {
        // It fails only if the server is gone, which is what is wanted.
        let _gone = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// What comes from a server.
#[derive(Debug)]
pub(crate) enum Said {
    Message(FromServer),
    /// How, and what it wrote last.
    Ended(nix::Result<WaitStatus>, Vec<String>),
}

fn start_in(
    sandbox: Sandbox,
    source: &OwnedFd,
    request: &MountRequest,
    log: LogRequest,
) -> anyhow::Result<Server> {
    let (link, their_link) = Link::pair().context("socket pair")?;
    let (asked, asking) = Link::pair().context("socket pair")?;
    let (output, their_output) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe")?;
    let source = source.try_clone().context("duplicate a descriptor")?;
    if sandbox == Sandbox::Namespace {
        nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
    }
    // Asked here: a terminal cannot be recognised through the pipe.
    let log = logging::ServerLog::of(log);
    match fork().context("start the serving process")? {
        Side::Child => {
            let ends = Ends {
                link: their_link,
                asking,
                output: their_output,
            };
            become_server(sandbox, source, request, log, ends)
        }
        Side::Parent(child) => {
            drop((their_link, asking, their_output, source));
            let pid = wait_until_confined(child, sandbox, &link, &request.confinement)?;
            let pidfd = pidfd(pid).context("pidfd of the serving process")?;
            Ok(Server {
                pid,
                pidfd,
                sandbox,
                refused: Vec::new(),
                link,
                asked,
                output,
            })
        }
    }
}

/// Waits until the server is shut in, and says which process it is. It and the one that made the
/// namespaces say so in any order.
fn wait_until_confined(
    child: Pid,
    sandbox: Sandbox,
    link: &Link,
    confinement: &Confinement,
) -> anyhow::Result<Pid> {
    let mut server = (sandbox != Sandbox::Namespace).then_some(child);
    let mut confined = false;
    let result = loop {
        if let (Some(server), true) = (server, confined) {
            return Ok(server);
        }
        match link.receive()? {
            Some((FromServer::MapIds, _)) => {
                if let Err(error) = confine::map_ids(child.as_raw(), confinement) {
                    break Err(error);
                }
                link.send(&ToServer::Mapped, &[])?;
            }
            Some((FromServer::Forked(number), _)) => {
                // The one in between has nothing more to do.
                waitpid(child, None).context("wait for the process that made the namespaces")?;
                server = Some(Pid::from_raw(number));
            }
            Some((FromServer::Confined, _)) => confined = true,
            Some((FromServer::Failed(reason), _)) => break Err(anyhow!("{reason}")),
            Some((FromServer::Ready, _)) => break Err(anyhow!("it is ready before it was told")),
            None => break Err(anyhow!("the serving process ended before it was shut in")),
        }
    };
    // It waits for an answer or has ended, and is not reaped: the number is still its own.
    let left = server.unwrap_or(child);
    let _gone = nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL);
    let _reaped = waitpid(left, None);
    result
}

/// The child's life, from the fork on.
fn become_server(
    sandbox: Sandbox,
    source: OwnedFd,
    request: &MountRequest,
    log: logging::ServerLog,
    ends: Ends,
) -> ! {
    let link = ends.link;
    let result = unshare_and_fork(sandbox, &source, request, &link).and_then(|is_server| {
        if is_server {
            let source = shut_in(sandbox, source, request, (&link, ends.asking, ends.output))?;
            serve(sandbox, source, request, log, &link)
        } else {
            Ok(())
        }
    });
    if let Err(error) = &result {
        // A supervisor that is gone needs no reason.
        let _ = link.send(&FromServer::failed(error), &[]);
    }
    std::process::exit(i32::from(result.is_err()))
}

/// Makes the namespaces, and the server in them. Returns whether this process is the server.
fn unshare_and_fork(
    sandbox: Sandbox,
    source: &OwnedFd,
    request: &MountRequest,
    link: &Link,
) -> anyhow::Result<bool> {
    // Found again from there in the new mount namespace.
    rustix::process::fchdir(source).context("change to SOURCE")?;
    if sandbox != Sandbox::Namespace {
        return Ok(true);
    }
    confine::enter_namespaces(&request.confinement, || {
        link.send(&FromServer::MapIds, &[])?;
        match link.receive()? {
            Some((ToServer::Mapped, _)) => Ok(()),
            _ => bail!("the ids of the user namespace are not mapped"),
        }
    })?;
    match fork().context("start the serving process")? {
        Side::Child => Ok(true),
        Side::Parent(server) => {
            link.send(&FromServer::Forked(server.as_raw()), &[])?;
            Ok(false)
        }
    }
}

fn shut_in(
    sandbox: Sandbox,
    source: OwnedFd,
    request: &MountRequest,
    (link, asking, output): (&Link, Link, OwnedFd),
) -> anyhow::Result<OwnedFd> {
    let keep = [link.as_fd(), asking.as_fd(), output.as_fd(), source.as_fd()];
    thrufs_sys::confine::close_all_but(&keep).context("close what was inherited")?;
    let inside = Inside {
        sandbox,
        source,
        log: output,
        callers: Box::new(AskingOutside::new(asking)),
        needs: request.needs(),
    };
    confine::enter(&request.confinement, inside)
}

/// Waits for the mount, and serves it to its end.
fn serve(
    sandbox: Sandbox,
    source: OwnedFd,
    request: &MountRequest,
    log: logging::ServerLog,
    link: &Link,
) -> anyhow::Result<()> {
    link.send(&FromServer::Confined, &[])?;
    let Some((ToServer::Serve(serve), mut sockets)) = link.receive()? else {
        // Nothing was mounted: the supervisor has told why.
        return Ok(());
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("die with the supervisor")?;
    if has_hung_up(link)? {
        return Ok(());
    }
    log.init()?;
    let mut take = |is_there: bool| (is_there && sockets.len() > 1).then(|| sockets.remove(1));
    let status = take(serve.status).map(StdUnixListener::from);
    let metrics = take(serve.metrics).map(std::net::TcpListener::from);
    let device = sockets.pop().context("no /dev/fuse came with the mount")?;
    block_on(async {
        // Signals are for the supervisor, which unmounts; here they must only not kill.
        let _signals = Signals::install()?;
        session::when_a_thread_is_lost(|| std::process::exit(1));
        let fs = session::file_system(source, request)?;
        let watch = session::watch(&fs, request)?;
        confine::seal(&request.confinement, sandbox, request.needs())?;
        if let Some(attempts) = request.confinement.break_out {
            attempts.run(&serve);
            return Ok(());
        }
        let mut serving = Serving::start(fs, watch, device, request)?;
        serving.log(&request.source, &serve.mountpoint);
        let reporter = Reporter {
            fs: Arc::clone(serving.fs()),
            source: serve.source.to_string_lossy().into_owned(),
            mountpoint: serve.mountpoint.to_string_lossy().into_owned(),
            device: serve.device,
            pid: serve.pid,
            server_pid: serve.server_pid,
            started: Instant::now(),
        };
        if let Some(listener) = status {
            let askers = match serve.in_user_namespace {
                true => Askers::LetIn,
                false => Askers::OwnerAndRoot,
            };
            status::serve(listener, reporter.clone(), askers)?;
        }
        if let Some(listener) = metrics {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(crate::metrics::serve(listener, reporter));
        }
        link.send(&FromServer::Ready, &[])?;
        serving.ended().await
    })
}

fn has_hung_up(link: &Link) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(link, PollFlags::empty())];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).context("look at the supervisor")?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}
