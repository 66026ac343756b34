//! The life of the process that serves, from the fork on.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use thrufs_fs::{Covered, Ledger, Life, OwnMount};
use thrufs_session::Ended;
use thrufs_sys::fork::{Side, fork};

use super::callers::AskingOutside;
use super::limits;
use super::link::{FromServer, Link, Serve, ToServer};
use super::registrar::Registering;
use super::serving::{self, Serving};
use super::source_state::SourceView;
use super::taken::Taken;
use super::turn;
use super::zygote::{self, Servers};
use crate::logging;
use crate::mount::paths::device_number;
use crate::mount_plan::MountPlan;
use crate::sandbox::capabilities::Needs;
use crate::sandbox::plan::{Sandbox, SandboxPlan};
use crate::sandbox::{self, Inside, namespaces};
use crate::signals::{Signals, block_on};
use crate::status::{self, Askers, Reporter};

/// The ends that the server has.
pub(super) struct Ends {
    pub(super) link: Link,
    pub(super) asking: Link,
    pub(super) registering: OwnedFd,
    pub(super) output: OwnedFd,
}

/// What it starts with.
pub(crate) struct Start<'a> {
    pub(crate) sandbox: Sandbox,
    pub(crate) source: OwnedFd,
    pub(crate) plan: &'a SandboxPlan,
    pub(crate) needs: Needs,
    pub(crate) log: logging::ServerLog,
    /// Where this server is to take over from another.
    pub(crate) taken: Option<Taken>,
}

/// The child's life, from the fork on; `serve` when it is shut in.
pub(super) fn become_server(
    start: Start<'_>,
    ends: Ends,
    serve: impl FnOnce(Start<'_>, (AskingOutside, OwnedFd), &Link) -> anyhow::Result<()>,
) -> ! {
    let link = ends.link;
    let result = unshare_and_fork(&start, &link).and_then(|is_server| {
        if is_server {
            let registering = ends.registering;
            let (start, asking) = shut_in(start, (&link, ends.asking, ends.output), &registering)?;
            serve(start, (asking, registering), &link)
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
fn unshare_and_fork(start: &Start<'_>, link: &Link) -> anyhow::Result<bool> {
    // Found again from there in the new mount namespace.
    match rustix::process::fchdir(&start.source) {
        // A device's SOURCE may be a file.
        Err(Errno::NOTDIR) if start.sandbox == Sandbox::None => {}
        changed => changed.context("change to SOURCE")?,
    }
    if start.sandbox != Sandbox::Namespace {
        return Ok(true);
    }
    namespaces::enter(start.plan, || {
        link.send(&FromServer::MapIds, &[])?;
        match link.receive()? {
            Some((ToServer::Mapped, _)) => Ok(()),
            _ => bail!("the ids of the user namespace are not mapped"),
        }
    })?;
    // For a server that takes over from this one; those that do are in the first one's already. Before the fork: the
    // server mounts another /proc here.
    let is_first = start.plan.restarts && start.taken.is_none();
    let mounts = is_first.then(namespaces::own_mounts).transpose()?;
    match fork().context("start the serving process")? {
        Side::Child => Ok(true),
        Side::Parent(server) => {
            let with: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
            link.send(&FromServer::Forked(server.as_raw()), &with)?;
            Ok(false)
        }
    }
}

/// As many as glibc makes before it counts the CPUs.
const ARENAS: i32 = 8;

/// Returns what is left to do, with SOURCE as it is reached from inside.
fn shut_in<'a>(
    mut start: Start<'a>,
    (link, asking, output): (&Link, Link, OwnedFd),
    registering: &OwnedFd,
) -> anyhow::Result<(Start<'a>, AskingOutside)> {
    let mut keep = vec![
        link.as_fd(),
        asking.as_fd(),
        registering.as_fd(),
        output.as_fd(),
        start.source.as_fd(),
    ];
    keep.extend(start.taken.iter().flat_map(Taken::all).map(AsFd::as_fd));
    thrufs_sys::confine::close_all_but(&keep).context("close what was inherited")?;
    limits::make_room_for_descriptors(&start.source);
    thrufs_sys::malloc::bound_arenas(ARENAS);
    let asking = AskingOutside::new(asking);
    let inside = Inside {
        sandbox: start.sandbox,
        source: start.source,
        log: output,
        callers: Box::new(asking.clone()),
        needs: start.needs,
        joins: start.taken.as_mut().and_then(|taken| taken.mounts.take()),
    };
    let source = sandbox::enter(start.plan, inside)?;
    Ok((Start { source, ..start }, asking))
}

/// Waits for the mount, and serves it to its end. `below` is MOUNTPOINT from SOURCE, if it lies below.
pub(super) fn serve(
    mut start: Start<'_>,
    (asking, registering): (AskingOutside, OwnedFd),
    link: &Link,
    (plan, below): (&MountPlan, Option<&Path>),
) -> anyhow::Result<()> {
    let sandbox = start.sandbox;
    let covered = covered(&mut start, below);
    let shown: Vec<_> = covered.iter().map(Covered::directory).collect();
    link.send(&FromServer::Confined, &shown)?;
    let Some((ToServer::Serve(serve), mut sockets)) = link.receive()? else {
        // Nothing was mounted: the supervisor has told why.
        return Ok(());
    };
    if !die_with_the_supervisor(link)? {
        return Ok(());
    }
    let mut take = |is_there: bool| (is_there && sockets.len() > 1).then(|| sockets.remove(1));
    let status = take(serve.status).map(StdUnixListener::from);
    let metrics = take(serve.metrics).map(std::net::TcpListener::from);
    let connection = sockets.pop().context("no /dev/fuse came with the mount")?;
    let life = begin(plan, &mut start, (&asking, link), &connection)?;
    block_on(async {
        // Signals are for the supervisor, which unmounts; here they must only not kill.
        let _signals = Signals::install()?;
        let is_death = life.is_some();
        end_with_a_panic(is_death);
        let fs = serving::file_system(start.source, plan, life.as_ref())?;
        let (asked, source_view) = (
            asking.clone(),
            SourceView::new(move || asking.source_state()),
        );
        let is_thrufs = Box::new(move |dev| asked.is_thrufs(dev));
        let device = device_number(&serve.device).context("the mount's device")?;
        fs.set_own_mount(OwnMount::new(device, serve.mount_id, covered, is_thrufs));
        let watch = serving::watch(&fs, plan)?;
        sandbox::seal(&plan.sandbox, sandbox, plan.needs())?;
        #[cfg(feature = "break-out")]
        if let Some(attempts) = plan.sandbox.break_out {
            attempts.run(serve.pid);
            return Ok(());
        }
        if let Some(life) = &life {
            turn::wait_to_serve(&life.ledger, link)?;
        }
        // Before others see what the mount shows: from then on a death leaves it dead.
        link.send(&FromServer::Answers, &[])?;
        // It may be closed, and its number stays that of what the next server gets.
        let socket = registering.try_clone();
        let socket = socket.context("duplicate a descriptor")?;
        let registrar = registrar(&serve, socket, fs.lives())?;
        let serving = Serving::start(fs, (watch, registrar), connection, plan, serve.lets_go)?;
        if life.as_ref().is_none_or(|life| !life.is_later) {
            serving.log(&plan.source, &serve.mountpoint);
        }
        let (source, mountpoint) = (&serve.source, &serve.mountpoint);
        let reporter = Reporter::new(serving.fs(), source, mountpoint, &serve.device, source_view)
            .of_processes(serve.pid, serve.server_pid)
            .by_transport(serving.transport());
        let askers = match serve.in_user_namespace {
            true => Askers::LetIn,
            false => Askers::OwnerAndRoot,
        };
        report(reporter, (status, askers), metrics)?;
        serve_to_the_end(serving, link, life.map(|life| life.ledger)).await
    })
}

/// In a process that another one can follow a death is one of a signal, and an end is one without anything left to do.
async fn serve_to_the_end(
    mut serving: Serving,
    link: &Link,
    ledger: Option<Arc<Ledger>>,
) -> anyhow::Result<()> {
    let is_death = ledger.is_some();
    if let Some((drain, ledger)) = serving.drain().zip(ledger) {
        turn::obey(link, drain, ledger)?;
    }
    link.send(&FromServer::Ready, &[])?;
    match serving.ended().await {
        // Before anything is closed: killed in the middle of that, it would leave a ledger that is not true.
        Ok(Ended::Connection) if is_death => std::process::exit(0),
        Ok(Ended::Drained) => std::process::exit(zygote::HANDED_OVER),
        ended => ended.map(drop),
    }
}

/// MOUNTPOINT, where it lies below SOURCE. To be opened while it is not covered: by the first server.
fn covered(start: &mut Start<'_>, below: Option<&Path>) -> Option<Covered> {
    match &mut start.taken {
        Some(taken) => Covered::of_directory(taken.covered.take()?, below?),
        None => Covered::open(&start.source, below?),
    }
}

/// The server begins: in this process, or in each that this one starts from now on (`--survive`).
fn begin(
    plan: &MountPlan,
    start: &mut Start<'_>,
    (asking, link): (&AskingOutside, &Link),
    connection: &OwnedFd,
) -> anyhow::Result<Option<Life>> {
    let Some(most) = plan.survive else {
        start.log.init()?;
        return Ok(None);
    };
    let born = zygote::start_servers(&Servers::of_mount(plan, most), link, start.taken.take())?;
    asking.begin(born.before);
    start.log.init()?;
    born.log();
    let can_resume = turn::can_resume(plan, connection);
    let looked_at = turn::begin(&born.life, link, born.taken, can_resume)?;
    Ok(Some(Life {
        looked_at: looked_at.into(),
        ..born.life
    }))
}

/// What a panic in a session thread ends; with `--survive` also one in an operation, which the next server does then: its
/// caller gets no EIO.
pub(crate) fn end_with_a_panic(is_death: bool) {
    serving::when_a_thread_is_lost(move || match is_death {
        true => std::process::abort(),
        false => std::process::exit(1),
    });
    if is_death {
        thrufs_session::on_session_panic(|_where| std::process::abort());
    }
}

/// Answers the status socket and `--metrics` for the mount.
fn report(
    reporter: Reporter,
    (status, askers): (Option<StdUnixListener>, Askers),
    metrics: Option<std::net::TcpListener>,
) -> anyhow::Result<()> {
    if let Some(listener) = status {
        status::serve(listener, reporter.clone(), askers)?;
    }
    if let Some(listener) = metrics {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(crate::metrics::serve(listener, reporter));
    }
    Ok(())
}

/// False if the supervisor is gone already.
pub(crate) fn die_with_the_supervisor(link: &Link) -> anyhow::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("die with the supervisor")?;
    Ok(!has_hung_up(link)?)
}

/// For kernel passthrough, or why not: the supervisor's thread would have more rights than a server has in a user
/// namespace.
fn registrar(serve: &Serve, socket: OwnedFd, before: u64) -> anyhow::Result<serving::Registrar> {
    if serve.in_user_namespace {
        return Ok(Err("the server is in a user namespace".to_owned()));
    }
    Ok(Ok(Arc::new(Registering::new(socket)?.after(before))))
}

fn has_hung_up(link: &Link) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(link, PollFlags::empty())];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).context("look at the supervisor")?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}
