//! Telling that the mount serves: the process that started the daemon, and systemd.
//!
//! Invariant: the starter returns 0 if and only if the daemon takes the mount for taken over, and leaves it
//! dead when its server dies, also if both happen at once: a caller that was told that the mount serves never
//! sees the directory below.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::io::AsyncReadExt;

use crate::logging;
use crate::mount::attached::Announced;

/// To the starter: the mount answers.
pub(crate) const READY: u8 = b'R';
/// To the starter: it does not; the reason follows.
pub(crate) const FAILED: u8 = b'E';
/// From the starter.
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

    /// Whether the mount is one that was taken over, when what served it has ended. A starter that has not
    /// yet is refused from now on. Without a starter it was taken over by what it `answers`.
    pub(crate) fn close(&self, answers: bool) -> bool {
        match self {
            Self::Announced => true,
            Self::Foreground | Self::Told(None) => answers,
            Self::Background(starter) | Self::Told(Some(starter)) => {
                // The starter's byte is there by then, or its write fails (unix_stream_sendmsg). Neither the
                // wait for the byte nor this one may be left to the order in which they come about.
                let _gone = starter.shutdown(Shutdown::Read);
                let mut byte = [0];
                matches!((&*starter).read(&mut byte), Ok(1) if byte == [TAKEN_OVER])
            }
        }
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
pub(crate) fn announce(announced: &Announced) {
    announced.set();
    notify_systemd(&[NotifyState::Ready]);
}

/// Does nothing without NOTIFY_SOCKET.
pub(crate) fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell systemd ({state:?}): {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> (Readiness, UnixStream) {
        let (daemon_s, starter_s) = UnixStream::pair().unwrap();
        (Readiness::Told(Some(daemon_s)), starter_s)
    }

    /// A server that died the moment after `thrufs mount` returned: its death overtook the byte, the mount
    /// was removed, and the directory below showed.
    #[test]
    fn close_with_the_starters_byte_unread_is_taken_over() {
        let (readiness, mut starter) = told();
        starter.write_all(&[TAKEN_OVER]).unwrap();
        drop(starter);
        assert!(readiness.close(false));
    }

    #[test]
    fn close_before_the_starters_byte_refuses_it_and_still_tells_why() {
        let (readiness, mut starter) = told();
        assert!(!readiness.close(true));
        let error = starter.write_all(&[TAKEN_OVER]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        readiness.fail(&anyhow::anyhow!("why"));
        let mut report = Vec::new();
        starter.read_to_end(&mut report).unwrap();
        assert_eq!(report, b"Ewhy");
    }

    #[test]
    fn close_with_the_starter_gone_is_not_taken_over() {
        let (readiness, starter) = told();
        drop(starter);
        assert!(!readiness.close(true));
    }

    #[test]
    fn close_without_a_starter_depends_on_what_the_mount_answers() {
        for readiness in [Readiness::Foreground, Readiness::Told(None)] {
            assert!(readiness.close(true) && !readiness.close(false));
        }
        assert!(Readiness::Announced.close(false));
    }
}
