//! The daemon's side of `thrufs status`: one unix socket for each mount. Who connects gets one
//! JSON document, and the connection ends.
//!
//! Invariant: a socket file is made, replaced and removed only under the lock of its directory, so
//! one that refuses connections belongs to a dead daemon and may be removed. It is answered to its
//! owner and to root, whatever became of its mode.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::report::Reporter;
use super::runtime_dir;

/// How long who asks may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the next try when no connection can be accepted (say, for lack of descriptors).
const RETRY: Duration = Duration::from_millis(200);

/// The socket of a running daemon; removed when dropped.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    path: PathBuf,
    /// The number of our file: a successor may have put its own there.
    ino: u64,
    task: JoinHandle<()>,
}

impl StatusSocket {
    /// Makes it in the runtime directory and answers from now on. Needs a tokio runtime.
    pub(crate) fn open(reporter: Reporter) -> anyhow::Result<Self> {
        Self::open_in(&runtime_dir::own(), reporter)
    }

    fn open_in(directory: &Path, reporter: Reporter) -> anyhow::Result<Self> {
        let _lock: File = runtime_dir::open_locked(directory)?;
        remove_stale(directory);
        let path = directory.join(runtime_dir::socket_name(&reporter.device));
        let shown = path.display().to_string();
        match std::fs::remove_file(&path) {
            // The number is ours now, so whoever had it before is unmounted.
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {shown}")),
        }
        let listener = StdListener::bind(&path).with_context(|| format!("make {shown}"))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
            .with_context(|| format!("mode of {shown}"))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let ino = path.symlink_metadata()?.ino();
        let task = tokio::spawn(serve(listener, reporter));
        Ok(Self { path, ino, task })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
        let Some(directory) = self.path.parent() else {
            return;
        };
        let _lock = match runtime_dir::open_locked(directory) {
            Ok(lock) => lock,
            Err(error) => return tracing::debug!("{} stays: {error:#}", self.path.display()),
        };
        let ours = |meta: &std::fs::Metadata| meta.ino() == self.ino;
        if self.path.symlink_metadata().is_ok_and(|meta| ours(&meta))
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!("{} stays: {error}", self.path.display());
        }
    }
}

/// Removes the sockets of daemons that were killed.
fn remove_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|kind| kind == "sock") && is_refused(&path) {
            tracing::debug!("{} of a dead daemon is removed", path.display());
            // If another one was faster, it is gone as well.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether nobody listens. A daemon that is only busy lets the connection wait (EAGAIN).
fn is_refused(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let unix = AddressFamily::UNIX;
    let Ok(socket) = rustix::net::socket_with(unix, SocketType::STREAM, flags, None) else {
        return false;
    };
    SocketAddrUnix::new(path).is_ok_and(|address| {
        rustix::net::connect(&socket, &address) == Err(rustix::io::Errno::CONNREFUSED)
    })
}

async fn serve(listener: UnixListener, reporter: Reporter) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let reporter = reporter.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &reporter).await {
                        tracing::debug!("status: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::debug!("status: accept: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, reporter: &Reporter) -> anyhow::Result<()> {
    let peer = stream.peer_cred().context("who asks")?.uid();
    if !may_ask(peer, runtime_dir::uid()) {
        anyhow::bail!("uid {peer} may not ask");
    }
    let text = serde_json::to_vec(&reporter.status()?)?;
    tokio::time::timeout(PATIENCE, stream.write_all(&text))
        .await
        .context("who asked does not read")?
        .context("send")
}

fn may_ask(peer: u32, owner: u32) -> bool {
    peer == 0 || peer == owner
}

#[cfg(test)]
mod tests;
