//! Telling that the mount serves: the program that started a daemon in the background, and systemd.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::io::AsyncReadExt;

use crate::logging;
use crate::mount::attached::Attached;

/// The daemon serves.
pub(crate) const READY: u8 = b'R';
/// It does not; the reason follows.
pub(crate) const FAILED: u8 = b'E';
/// The starter's answer.
pub(crate) const TAKEN_OVER: u8 = b'G';

/// How the daemon tells that it serves.
#[derive(Debug)]
pub(crate) enum Readiness {
    /// In the foreground: the log has told. INIT is answered, so the mount serves; no question is
    /// put to it from here, since a process that is killed while it asks itself cannot end: the
    /// thread that asks waits for the connection to go, and holds it by its descriptors.
    Foreground,
    /// In the background: tell the starter, which checks, and takes the mount over.
    Background(UnixStream),
    /// It has been told; the starter, if there is one, has not answered.
    Told(Option<UnixStream>),
    /// The mount is there to stay.
    Announced,
}

impl Readiness {
    /// Tells it.
    pub(crate) fn tell(&mut self) -> anyhow::Result<()> {
        if matches!(self, Self::Background(_)) {
            // Before the starter returns, so that nothing of its caller's is held from then on.
            logging::flush(logging::FLUSH_DEADLINE);
            leave_the_terminal()?;
        }
        *self = match std::mem::replace(self, Self::Announced) {
            Self::Foreground => Self::Told(None),
            Self::Background(mut starter) => {
                // One that is gone is noticed by the wait for its answer.
                let _gone = starter.write_all(&[READY]);
                Self::Told(Some(starter))
            }
            told @ (Self::Told(_) | Self::Announced) => told,
        };
        Ok(())
    }

    /// Waits until it has been told and the mount is taken over, for ever if that was before. If the
    /// starter goes away first, this process gets SIGTERM, whose handler unmounts; the caller does not go
    /// on. A wait that is dropped can begin again.
    pub(crate) async fn taken_over(&mut self) -> anyhow::Result<()> {
        let is_kept = match self {
            Self::Foreground | Self::Announced => std::future::pending().await,
            // Nothing comes from there before it is told but the end.
            Self::Background(starter) => {
                is_taken_over(starter).await?;
                false
            }
            Self::Told(Some(starter)) => is_taken_over(starter).await?,
            Self::Told(None) => true,
        };
        if !is_kept {
            tracing::warn!("the program that started the mount is gone: unmounting");
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::TERM)
                .context("the program that started the mount is gone")?;
            std::future::pending::<()>().await;
        }
        *self = Self::Announced;
        Ok(())
    }

    /// Tells why it will not come. Only a starter that waits is told here; else the error goes the
    /// way of every error of the daemon.
    pub(crate) fn fail(self, error: &anyhow::Error) {
        if let Self::Background(mut starter) | Self::Told(Some(mut starter)) = self {
            // A starter that is gone cannot be told, and nothing else waits.
            let _ = starter
                .write_all(&[FAILED])
                .and_then(|()| write!(starter, "{error:#}"));
        } else {
            tracing::error!("{error:#}");
        }
    }
}

/// Waits for the starter's byte; false if it is gone without.
async fn is_taken_over(starter: &UnixStream) -> anyhow::Result<bool> {
    let wait = "wait for the program that started the mount";
    let starter = starter.try_clone().context(wait)?;
    starter.set_nonblocking(true).context(wait)?;
    let mut starter = tokio::net::UnixStream::from_std(starter).context(wait)?;
    // One that was killed with something unread resets the connection.
    Ok(starter.read_u8().await.is_ok_and(|byte| byte == TAKEN_OVER))
}

fn leave_the_terminal() -> anyhow::Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// The mount is there to stay: systemd learns that it answers, and from now on a server that ends by
/// itself leaves it dead.
pub(crate) fn announce(attached: &Attached) {
    attached.set_announced();
    notify_systemd(&[NotifyState::Ready]);
}

/// Does nothing without NOTIFY_SOCKET.
pub(crate) fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell systemd ({state:?}): {error}");
    }
}
