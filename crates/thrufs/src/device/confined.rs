//! The process outside, when the one that serves is shut in: it makes the socket, answers signals and
//! systemd, and removes what it made.
//!
//! Invariant: the server is told nothing but the socket, and believed nothing but its end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use sd_notify::NotifyState;
use tokio::sync::mpsc;

use super::control::{self, Asked, Control};
use super::outlived;
use super::serving::{Running, named};
use super::socket::Socket;
use crate::daemon::callers::AskingOutside;
use crate::daemon::death;
use crate::daemon::link::{FromServer, Link, ServeDevice, ToServer};
use crate::daemon::readiness::notify_systemd;
use crate::daemon::server::{Confined, Server, ServerEvent};
use crate::daemon::server_process::{Start, die_with_the_supervisor};
use crate::daemon::source_state::{SourceState, SourceView};
use crate::device_plan::DevicePlan;
use crate::logging;
use crate::sandbox;
use crate::sandbox::plan::Sandbox;
use crate::signals::{Signals, block_on};

/// How long a server that was told to end may take: longer than it gives its requests.
const PATIENCE: Duration = Duration::from_secs(12);

/// Serves by a process in a sandbox, until it ends or a signal comes.
pub(super) fn serve(
    source: &OwnedFd,
    socket: &mut Socket,
    plan: &DevicePlan,
) -> anyhow::Result<()> {
    let confined = Confined {
        source,
        plan: &plan.sandbox,
        needs: plan.needs(),
        log: plan.log,
    };
    // While this process has one thread.
    let server = Server::start(&confined, |start, asking, link| {
        serve_inside(start, asking, link, plan)
    })?;
    let lines = logging::init(plan.log)?;
    for reason in &server.refused {
        tracing::warn!("{reason}");
    }
    let (how, filter) = (server.sandbox, plan.sandbox.seccomp);
    tracing::info!("serving in --sandbox={how} with --seccomp={filter}");
    block_on(async {
        let mut signals = Signals::install()?;
        let control = Control::open(plan, socket).await?;
        let told = ServeDevice {
            server_pid: u32::try_from(server.pid.as_raw()).context("the server's process id")?,
            in_user_namespace: how == Sandbox::Namespace && plan.sandbox.has_user_namespace(),
            ..control.describe(plan, named(source, plan), socket)
        };
        let (status, metrics) = (control.status(), control.metrics());
        server.serve_device(told, socket.listener(), status, metrics)?;
        let (ending, link) = (server.ending()?, server.link());
        let (tell, mut told) = mpsc::unbounded_channel();
        // A device is asked nothing about SOURCE.
        let view = SourceView::new(SourceState::default);
        server.listen(lines, plan.log.level, view, move |event| {
            // The receiver is gone only when this process ends.
            let _ = tell.send(event);
        })?;
        let end = until_the_end(&mut told, Some((socket, plan)));
        tokio::select! {
            ended = end => return ended,
            name = signals.stop() => tracing::info!("{name}: ending"),
        }
        match plan.survive {
            // The process that it knows starts others.
            Some(_) => link.send(&ToServer::Drain, &[])?,
            None => ending.drain(),
        }
        match tokio::time::timeout(PATIENCE, until_the_end(&mut told, None)).await {
            Ok(ended) => ended,
            Err(_late) => {
                ending.kill();
                bail!("the serving process did not end within {PATIENCE:?}")
            }
        }
    })
}

/// Publishes the socket when the server is ready, and returns when it has ended.
async fn until_the_end(
    told: &mut mpsc::UnboundedReceiver<ServerEvent>,
    mut ready: Option<(&mut Socket, &DevicePlan)>,
) -> anyhow::Result<()> {
    let mut failure = None;
    while let Some(event) = told.recv().await {
        match event {
            ServerEvent::Message(FromServer::Ready) => {
                if let Some((socket, plan)) = ready.take() {
                    socket.publish()?;
                    tracing::info!("{} is served", plan.source.display());
                    notify_systemd(&[NotifyState::Ready]);
                }
            }
            ServerEvent::Message(FromServer::Failed(reason)) => {
                // One line: it is shown on a terminal.
                failure = Some(logging::escaped(reason.as_bytes(), logging::LINE_MAX));
            }
            ServerEvent::Shared(_none_of_a_device) => {}
            ServerEvent::Message(other) => {
                tracing::debug!(?other, "not expected from the server");
            }
            ServerEvent::Ended(status, _last_words) => {
                return match failure {
                    Some(reason) => Err(anyhow!("{reason}")),
                    None => ended(status.context("wait for the server")?),
                };
            }
        }
    }
    bail!("the thread that waits for the serving process is gone")
}

/// How a server ended that gave no reason.
fn ended(status: WaitStatus) -> anyhow::Result<()> {
    match status {
        // The one thing that is mapped and can be cut.
        WaitStatus::Signaled(_, Signal::SIGBUS, _) => bail!(
            "the guest's memory is gone (SIGBUS): the virtual machine monitor has cut short what it shares"
        ),
        other => death::ended(other),
    }
}

/// The server's life, in its sandbox.
fn serve_inside(
    start: Start<'_>,
    links: (AskingOutside, OwnedFd),
    link: &Link,
    plan: &DevicePlan,
) -> anyhow::Result<()> {
    // Nothing is asked: a guest's processes are not in /proc, and it has no kernel passthrough.
    drop(links);
    link.send(&FromServer::Confined, &[])?;
    let Some((ToServer::Device(told), sockets)) = link.receive()? else {
        // The supervisor has told why.
        return Ok(());
    };
    if !die_with_the_supervisor(link)? {
        return Ok(());
    }
    let mut sockets = sockets.into_iter();
    let listener = sockets.next().context("no socket came along")?;
    let listener = UnixListener::from(listener);
    let survival = match plan.survive {
        Some(most) => {
            let begun = outlived::begin((plan, most), (link, start.log), &listener);
            Some(begun?)
        }
        None => {
            start.log.init()?;
            None
        }
    };
    let mut take = |is_there: bool| is_there.then(|| sockets.next()).flatten();
    let asked = Asked {
        status: take(told.status).map(UnixListener::from),
        metrics: take(told.metrics).map(std::net::TcpListener::from),
    };
    block_on(async {
        let mut signals = Signals::install()?;
        // Threads that start later are behind the filter; a file system has none before its first request.
        sandbox::seal(&plan.sandbox, start.sandbox, plan.needs())?;
        let kept = survival.as_ref().map(|survival| Arc::clone(&survival.kept));
        let mut running = Running::start(start.source, plan, listener, survival)?;
        control::answer(running.view(), told, asked)?;
        if let Some(kept) = kept {
            outlived::obey(link, kept, &running.end)?;
        }
        link.send(&FromServer::Ready, &[])?;
        running.until_the_end(&mut signals).await
    })
}
