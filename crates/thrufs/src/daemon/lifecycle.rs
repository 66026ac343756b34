//! How a daemon comes to its end: a signal, an unmount, or a connection that is gone while a call hangs.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sd_notify::NotifyState;

use super::readiness::notify_systemd;
use crate::mount::connection::is_connected;
use crate::signals::Signals;

/// How long a busy mount keeps the daemon after SIGTERM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How often the connection is looked at, and how long the daemon may take to end without.
const LOOK: Duration = Duration::from_secs(5);

/// Why a daemon ends.
#[derive(Debug)]
pub(crate) enum End {
    /// A signal says so.
    Told,
    /// An unmount (`Ok`), or a failure of the session.
    ByItself(anyhow::Result<()>),
    /// The connection is gone by an unmount or an abort, and a call on SOURCE does not return.
    Hung,
}

/// Waits for a signal that ends the daemon, or until the session has `ended`, or should have: without
/// `connection` there is no kernel to answer.
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

/// Waits until the connection is gone, and longer than ending takes. poll(2) on the device wakes on every
/// request, so sample instead.
async fn disconnected_for_long(connection: OwnedFd) {
    while is_connected(&connection) {
        tokio::time::sleep(LOOK).await;
    }
    drop(connection);
    tokio::time::sleep(LOOK).await;
}
