//! The daemon's main thread, where it is not shut in: starts the session, tells who waits that it is ready, and ends it.
//!
//! Invariant: signal handlers are installed before the mount exists, so SIGTERM at any moment
//! unmounts. Nothing but a signal, or a start that fails, does. Data never passes through here; fuser's threads serve it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::background::Readiness;
use crate::death::{self, Ended};
use crate::places::Places;
use crate::request::{LogRequest, MountRequest};
use crate::session::Announced;
use crate::source_state::{self, Copies, HeldSource, SourceView};
use crate::status::{self, Reporter, StatusSocket};
use crate::teardown::is_connected;
use crate::{logging, metrics, session, supervisor};

/// How long a busy mount keeps the daemon after SIGTERM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How often the connection is looked at, and how long the daemon may take to end without.
const LOOK: Duration = Duration::from_secs(5);

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
    let _lines = logging::init(log)?;
    block_on(async {
        let mut signals = Signals::install()?;
        let (lost, mut thread_lost) = mpsc::unbounded_channel();
        session::when_a_thread_is_lost(move || {
            // The receiver is gone only when the daemon ends anyway.
            let _ = lost.send(());
        });
        let (path, source) = (places.source_path(), places.source.try_clone()?);
        let metrics = metrics::bind(request.metrics).await?;
        let mut running = session::start(places, request)?;
        let source = Arc::new(HeldSource::new(
            source,
            running.device().to_owned(),
            Copies::None,
        ));
        tokio::spawn(source_state::watch(Arc::clone(&source)));
        let view = SourceView::new(move || source.state());
        // Gone before the mount is, so that nobody finds the socket of a number that is free again.
        let reporter = Reporter::new(&path, &running, view);
        let status = status::if_possible(StatusSocket::open(reporter.clone()));
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, reporter));
        }
        let connection = running.connection()?;
        let ended = async {
            readiness.tell()?;
            readiness.taken_over().await?;
            announce(running.attached().announced());
            tokio::select! {
                result = running.ended() => result,
                Some(()) = thread_lost.recv() => bail!("{}", session::LOST_THREAD),
            }
        };
        let ended = match wait_for_end(&mut signals, connection, ended).await {
            End::Told => {
                drop(status);
                return running.stop(PATIENCE).await;
            }
            End::ByItself(result) => Ended::with(result),
            End::Hung => Ended {
                hangs: true,
                ..Ended::with(Ok(()))
            },
        };
        drop(status);
        death::conclude(running.into_attached(), ended, request).await
    })
}

/// Why a daemon ends.
#[derive(Debug)]
pub(crate) enum End {
    /// A signal says so.
    Told,
    /// Somebody unmounted (`Ok`), or what served failed.
    ByItself(anyhow::Result<()>),
    /// Somebody unmounted or aborted the connection, and a call on SOURCE does not return.
    Hung,
}

/// Waits for a signal that ends the daemon, or until what serves has `ended` or should have: without
/// `connection` there is nobody any more to answer to.
pub(crate) async fn wait_for_end(
    signals: &mut Signals,
    connection: OwnedFd,
    ended: impl Future<Output = anyhow::Result<()>>,
) -> End {
    let end = tokio::select! {
        () = disconnected_for_long(connection) => End::Hung,
        name = signals.stop() => {
            tracing::info!("{name}: unmounting");
            End::Told
        }
        result = ended => End::ByItself(result),
    };
    notify_systemd(&[NotifyState::Stopping]);
    end
}

/// Waits until the connection is gone, and longer than ending takes. It is looked at now and then: the
/// kernel would wake up who polls the device for every request.
async fn disconnected_for_long(connection: OwnedFd) {
    while is_connected(&connection) {
        tokio::time::sleep(LOOK).await;
    }
    drop(connection);
    tokio::time::sleep(LOOK).await;
}

/// The mount is there to stay: systemd learns that it answers, and from now on a server that ends by
/// itself leaves it dead.
pub(crate) fn announce(announced: &Announced) {
    announced.set();
    notify_systemd(&[NotifyState::Ready]);
}

/// Does nothing without NOTIFY_SOCKET.
fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell systemd ({state:?}): {error}");
    }
}
