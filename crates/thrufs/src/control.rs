//! The daemon's main thread, where it is not shut in: starts the session, tells who waits that it is ready, and ends it.
//!
//! Invariant: signal handlers are installed before the mount exists, so SIGTERM at any moment
//! unmounts. Data never passes through here; fuser's threads serve it.

use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::background::Readiness;
use crate::places::Places;
use crate::request::{LogRequest, MountRequest};
use crate::session::{self, Running};
use crate::status::{Reporter, StatusSocket};
use crate::{logging, metrics, supervisor};

/// How long a busy mount keeps the daemon after SIGTERM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The signals that end a daemon, and those that do not.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that closes must not take the mount along. A handler, not SIG_IGN, which
    /// programs started from here would inherit.
    _hangup: Signal,
    /// A WRITE beyond the daemon's RLIMIT_FSIZE is EFBIG for its caller and must not end the
    /// daemon, which is what this signal does by default.
    _file_size: Signal,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let install = |kind| signal(kind).context("install a signal handler");
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            _hangup: install(SignalKind::hangup())?,
            _file_size: install(SignalKind::from_raw(
                nix::sys::signal::Signal::SIGXFSZ as i32,
            ))?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and returns which.
    pub(crate) async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs `work` on this thread with signals and timers.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control plane")?
        .block_on(work)
}

/// Serves until told to stop or until somebody unmounts.
pub(crate) fn serve(
    places: Places,
    request: &MountRequest,
    readiness: &mut Readiness,
    log: LogRequest,
) -> anyhow::Result<()> {
    if request.confinement.splits() {
        return supervisor::serve(places, request, readiness, log);
    }
    logging::init(log)?;
    block_on(async {
        let mut signals = Signals::install()?;
        let source = places.source_path();
        // Bound before the mount exists: an address that cannot be had must leave nothing mounted.
        let metrics = match request.metrics {
            Some(address) => Some(metrics::bind(address).await?),
            None => None,
        };
        let mut running = session::start(places, request)?;
        // Gone before the mount is, so that nobody finds the socket of a number that is free again.
        let reporter = Reporter::new(&source, &running);
        let status = open_status_socket(reporter.clone());
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, reporter));
        }
        readiness.announce()?;
        notify_systemd(&[NotifyState::Ready]);
        tokio::select! {
            name = signals.stop() => {
                tracing::info!("{name}: unmounting");
                notify_systemd(&[NotifyState::Stopping]);
                drop(status);
                running.stop(PATIENCE).await
            }
            result = running.ended() => finished(running, result),
        }
    })
}

/// A mount works without it, so that it cannot be had is no reason to fail.
fn open_status_socket(reporter: Reporter) -> Option<StatusSocket> {
    StatusSocket::open(reporter)
        .inspect_err(|error| tracing::warn!("`thrufs status` will not work: {error:#}"))
        .ok()
}

fn finished(running: Running, result: anyhow::Result<()>) -> anyhow::Result<()> {
    notify_systemd(&[NotifyState::Stopping]);
    if result.is_ok() {
        tracing::info!("{} was unmounted", running.mountpoint().display());
    }
    drop(running);
    result
}

/// Does nothing without NOTIFY_SOCKET.
pub(crate) fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell systemd ({state:?}): {error}");
    }
}
