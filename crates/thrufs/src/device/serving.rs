//! The process that answers the guest: one front end after the other, and the end by a signal.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use sd_notify::NotifyState;
use thrufs_fs::{FaultyBacking, Passthrough};
use thrufs_session::{DeviceSession, DeviceView, Kept, Shutdown, Survival};
use tokio::sync::{Notify, oneshot};

use super::control::{self, Control};
use super::socket::Socket;
use crate::daemon::limits;
use crate::daemon::readiness::notify_systemd;
use crate::daemon::zygote::HANDED_OVER;
use crate::device_plan::DevicePlan;
use crate::logging;
use crate::signals::{Signals, block_on};

/// How long the requests under way may take after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves in this process.
pub(super) fn serve_here(
    source: OwnedFd,
    socket: &mut Socket,
    plan: &DevicePlan,
) -> anyhow::Result<()> {
    limits::make_room_for_descriptors(&source);
    let _lines = logging::init(plan.log)?;
    block_on(async {
        let mut signals = Signals::install()?;
        let listener = socket.listener().try_clone();
        let listener = listener.context("duplicate a descriptor")?;
        let control = Control::open(plan, socket).await?;
        let told = control.describe(plan, named(&source, plan), socket);
        let mut running = Running::start(source, plan, listener, None)?;
        control::answer(running.view(), told, control.asked()?)?;
        socket.publish()?;
        tracing::info!("{} is served", plan.source.display());
        notify_systemd(&[NotifyState::Ready]);
        running.until_the_end(&mut signals).await
    })
}

/// SOURCE, as outsiders call it.
pub(super) fn named(source: &OwnedFd, plan: &DevicePlan) -> PathBuf {
    let link = format!("/proc/self/fd/{}", source.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_no_proc| plan.source.clone())
}

/// A device whose thread serves.
#[derive(Debug)]
pub(super) struct Running {
    ended: oneshot::Receiver<anyhow::Result<()>>,
    view: DeviceView,
    connection: Arc<Mutex<Connection>>,
    /// Ends it as a signal does.
    pub(super) end: Arc<Notify>,
}

/// What the thread is at.
#[derive(Debug, Default)]
struct Connection {
    /// A signal has come: nothing begins any more.
    is_ending: bool,
    /// There is a front end.
    front_end: Option<Shutdown>,
    /// There is one that the server before has left.
    is_resuming: bool,
}

impl Running {
    /// Opens SOURCE and starts the thread.
    ///
    /// # Errors
    /// SOURCE cannot be served as asked for.
    pub(super) fn start(
        source: OwnedFd,
        plan: &DevicePlan,
        listener: UnixListener,
        survival: Option<Survival>,
    ) -> anyhow::Result<Self> {
        let is_later = survival
            .as_ref()
            .is_some_and(|survival| survival.life.is_later);
        let mut faults = plan.faults.clone();
        faults.retain(|fault| !(is_later && fault.is_kill()));
        let config = plan.config.clone();
        let after = survival.as_ref().map(|survival| After::new(survival, plan));
        if !faults.is_empty() {
            tracing::warn!("--fault: calls on SOURCE fail on purpose");
        }
        let make = move || -> io::Result<Passthrough> {
            let (source, config) = (source.try_clone()?, config.clone());
            match faults.is_empty() {
                true => Passthrough::new(source, config),
                false => {
                    let backing = Arc::new(FaultyBacking::new(faults.clone()));
                    Passthrough::with_backing(source, config, backing)
                }
            }
        };
        // So that what is wrong with it is told before a guest waits.
        drop(make().with_context(|| format!("--shared-dir {}", plan.source.display()))?);
        let queues = (plan.tag.clone(), plan.request_queues);
        let session = DeviceSession::new(make, queues, survival)?;
        let view = session.view();
        let (tell, ended) = oneshot::channel();
        let connection = Connection {
            is_resuming: after
                .as_ref()
                .is_some_and(|after| after.kept.has_front_end()),
            ..Connection::default()
        };
        let connection = Arc::new(Mutex::new(connection));
        let (shared, keep) = (Arc::clone(&connection), plan.keep);
        std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                // The receiver is gone only when the process ends anyway.
                let served = serve(&session, &listener, &shared, keep && after.is_none());
                if let Some(after) = after {
                    after.go_on(&served, &shared);
                }
                let _unheard = tell.send(served);
            })
            .context("start the device's thread")?;
        Ok(Self {
            ended,
            view,
            connection,
            end: Arc::default(),
        })
    }

    /// What tells of it.
    pub(super) fn view(&self) -> DeviceView {
        self.view.clone()
    }

    /// Waits until the front end has disconnected, or for a signal, upon which what is under way is
    /// answered first.
    ///
    /// # Errors
    /// The front end violates the protocol, or what is under way takes too long.
    pub(super) async fn until_the_end(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        tokio::select! {
            result = &mut self.ended => return told(result),
            name = signals.stop() => tracing::info!("{name}: ending"),
            () = self.end.notified() => tracing::info!("ending"),
        }
        {
            let mut connection = lock(&self.connection);
            connection.is_ending = true;
            match &connection.front_end {
                Some(front_end) => front_end.shutdown(),
                // It is shut down when it is there.
                None if connection.is_resuming => {}
                // The thread waits for one.
                None => return Ok(()),
            }
        }
        match tokio::time::timeout(PATIENCE, &mut self.ended).await {
            Ok(result) => told(result),
            Err(_late) => Err(anyhow!("requests are still under way after {PATIENCE:?}")),
        }
    }
}

/// What follows the end of a front end, where a device outlives its server.
struct After {
    kept: Arc<Kept>,
    keep: bool,
}

impl After {
    fn new(survival: &Survival, plan: &DevicePlan) -> Self {
        Self {
            kept: Arc::clone(&survival.kept),
            keep: plan.keep,
        }
    }

    /// Before anything is closed: killed in the middle of that, this process would leave a ledger that is not true. Returns
    /// only after a failure, which the caller reports.
    fn go_on(&self, served: &anyhow::Result<()>, connection: &Mutex<Connection>) {
        if let Err(error) = served {
            if !self.keep {
                return;
            }
            tracing::error!("{error}");
        }
        if !self.keep || lock(connection).is_ending || self.kept.is_ending() {
            std::process::exit(0);
        }
        self.kept.begin_anew();
        self.kept.disconnected();
        std::process::exit(HANDED_OVER);
    }
}

/// Nothing panics while it is held.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(result: Result<anyhow::Result<()>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    result.unwrap_or_else(|_gone| Err(anyhow!("the device's thread is gone without a result")))
}

/// The thread's work.
fn serve(
    session: &DeviceSession,
    listener: &UnixListener,
    connection: &Mutex<Connection>,
    keep: bool,
) -> anyhow::Result<()> {
    loop {
        let served = session.serve(listener, |front_end| {
            tracing::info!("a front end has connected");
            let mut connection = lock(connection);
            if connection.is_ending {
                front_end.shutdown();
            }
            connection.front_end = Some(front_end);
        });
        let mut connection = lock(connection);
        connection.front_end = None;
        match served {
            Ok(()) => tracing::info!("the front end has disconnected"),
            Err(error) if keep => tracing::error!("{error}"),
            Err(error) => return Err(error.into()),
        }
        if connection.is_ending || !keep {
            return Ok(());
        }
    }
}
