//! Signals of a process that unmounts before it ends, and the runtime in which it waits for them.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a daemon, and those that do not.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that closes must not take the mount along. A handler, not SIG_IGN, which
    /// programs started from here would inherit.
    _hangup: Signal,
    /// For a mount that outlives its servers ([`crate::daemon`]); of any other it must not end the daemon.
    _upgrade: Signal,
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
            _upgrade: install(SignalKind::user_defined2())?,
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
