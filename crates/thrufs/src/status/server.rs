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
use crate::connections::{self, Limits};

/// An answer fits into the socket's buffer, as a rule: only one that is not read takes time.
const LIMITS: Limits = Limits {
    open: 8,
    patience: Duration::from_secs(5),
};

/// The socket of a running daemon, in the file system; removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Which file is ours: a successor may have put its own there, and have got the same number.
    identity: Identity,
}

/// Number and time of the last change.
type Identity = (u64, i64, i64);

fn identity(meta: &std::fs::Metadata) -> Identity {
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

impl SocketFile {
    /// Makes it in the runtime directory, for the mount with this device.
    pub(crate) fn make(device: &str) -> anyhow::Result<(Self, StdListener)> {
        Self::make_in(&runtime_dir::own(), device)
    }

    /// The one beside it, for orders.
    pub(crate) fn make_control(device: &str) -> anyhow::Result<(Self, StdListener)> {
        Self::make_named(&runtime_dir::own(), &runtime_dir::control_name(device))
    }

    fn make_in(directory: &Path, device: &str) -> anyhow::Result<(Self, StdListener)> {
        Self::make_named(directory, &runtime_dir::socket_name(device))
    }

    fn make_named(directory: &Path, name: &str) -> anyhow::Result<(Self, StdListener)> {
        let _lock: File = runtime_dir::open_locked(directory)?;
        remove_stale(directory);
        let path = directory.join(name);
        let shown = path.display().to_string();
        match std::fs::remove_file(&path) {
            // The device number is ours now, so the mount that had it before is gone.
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {shown}")),
        }
        let listener = StdListener::bind(&path).with_context(|| format!("make {shown}"))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
            .with_context(|| format!("mode of {shown}"))?;
        listener.set_nonblocking(true)?;
        let identity = identity(&path.symlink_metadata()?);
        Ok((Self { path, identity }, listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(directory) = self.path.parent() else {
            return;
        };
        let _lock = match runtime_dir::open_locked(directory) {
            Ok(lock) => lock,
            Err(error) => return tracing::debug!("{} stays: {error:#}", self.path.display()),
        };
        let ours = |meta: &std::fs::Metadata| identity(meta) == self.identity;
        if self.path.symlink_metadata().is_ok_and(|meta| ours(&meta))
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!("{} stays: {error}", self.path.display());
        }
    }
}

/// The socket of a daemon that answers itself; gone when dropped.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    /// After the task, which ends first.
    _file: SocketFile,
    task: JoinHandle<()>,
}

impl StatusSocket {
    /// Makes it in the runtime directory and answers from now on. Needs a tokio runtime.
    pub(crate) fn open(reporter: Reporter) -> anyhow::Result<Self> {
        Self::open_in(&runtime_dir::own(), reporter)
    }

    fn open_in(directory: &Path, reporter: Reporter) -> anyhow::Result<Self> {
        let (_file, listener) = SocketFile::make_in(directory, &reporter.device)?;
        let task = serve(listener, reporter, Askers::OwnerAndRoot)?;
        Ok(Self { _file, task })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers at a socket that exists (not blocking). Needs a tokio runtime.
pub(crate) fn serve(
    listener: StdListener,
    reporter: Reporter,
    askers: Askers,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = UnixListener::from_std(listener)?;
    Ok(tokio::spawn(connections::serve(
        "status",
        listener,
        LIMITS,
        move |stream, asked| {
            // A connection is the question.
            asked.set();
            answer(stream, reporter.clone(), askers)
        },
    )))
}

/// Who is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Askers {
    /// The daemon's user and root, whatever became of the socket's mode.
    OwnerAndRoot,
    /// Whom the modes of the socket and its directory let in: in a user namespace others have no
    /// number by which they could be told apart.
    LetIn,
}

/// Removes the sockets of daemons that were killed.
fn remove_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = |kind: &std::ffi::OsStr| kind == "sock" || kind == runtime_dir::CONTROL;
        if path.extension().is_some_and(is_ours) && is_refused(&path) {
            tracing::debug!("{} of a dead daemon is removed", path.display());
            // If another one was faster, it is gone as well.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether no process listens. A busy daemon lets the connection wait (EAGAIN).
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

async fn answer(mut stream: UnixStream, reporter: Reporter, askers: Askers) -> anyhow::Result<()> {
    let peer = stream
        .peer_cred()
        .context("credentials of the client")?
        .uid();
    let known = match askers {
        Askers::OwnerAndRoot => may_ask(peer, runtime_dir::uid()),
        Askers::LetIn => true,
    };
    if !known {
        anyhow::bail!("uid {peer} may not ask");
    }
    let text = serde_json::to_vec(&reporter.status()?)?;
    stream.write_all(&text).await.context("send")
}

/// Whether this user may give orders to a daemon of this process's user.
pub(crate) fn may_order(peer: u32) -> bool {
    may_ask(peer, runtime_dir::uid())
}

fn may_ask(peer: u32, owner: u32) -> bool {
    peer == 0 || peer == owner
}

#[cfg(test)]
mod tests;
