//! A mount of this process with its connection, and its end.
//!
//! Invariant: a mount that was not announced is detached by the drop of its [`Attached`], so no error
//! on the way to a running session leaves it behind. One that was announced is detached by [`stop`]
//! alone, which is for an unmount that was asked for: however else the daemon ends, the mount stays and answers
//! ENOTCONN. Its users then see an error where they would see the empty directory below, which backups
//! and mirrors take for a tree that was deleted.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::attach;
use super::connection::is_connected;
use super::detach::{Detached, OwnedMount};
use super::options::MountOptions;

/// Between the abort of a forced unmount and the end of the mount.
const FORCED_UNMOUNT: Duration = Duration::from_secs(1);
/// Between two looks at the mount table.
const LOOK: Duration = Duration::from_millis(20);

/// Whether what waits for the mount has been told that it serves: then no end of the server removes it.
#[derive(Debug, Default)]
pub(crate) struct Announced(Cell<bool>);

impl Announced {
    pub(crate) fn set(&self) {
        self.0.set(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.get()
    }
}

/// A mount with its connection. Detached when dropped, unless it was announced.
#[derive(Debug)]
pub(crate) struct Attached {
    ours: OwnedMount,
    /// Tells whether the mount is still ours; the session has a duplicate.
    connection: OwnedFd,
    announced: Announced,
}

impl Attached {
    /// Mounts at `mountpoint` (absolute, without symlinks).
    pub(crate) fn new(mountpoint: &Path, plan: &MountOptions) -> anyhow::Result<Self> {
        let (connection, ours) = attach::attach(mountpoint, plan)?;
        Ok(Self {
            ours,
            connection,
            announced: Announced::default(),
        })
    }

    /// Whether it was announced.
    pub(crate) fn announced(&self) -> &Announced {
        &self.announced
    }

    /// Whether a mount that was announced is left without a server. To be asked when what served it
    /// has ended; its users get their error at once.
    pub(crate) async fn is_left_dead(&self) -> bool {
        if !self.announced.is_set() {
            return false;
        }
        // A forced umount(8) aborts the connection first, and takes the mount away then.
        let deadline = Instant::now() + FORCED_UNMOUNT;
        while self.ours.is_there() {
            if is_connected(&self.connection) {
                self.ours.abort(&self.connection);
                return true;
            }
            if Instant::now() >= deadline {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// /dev/fuse.
    pub(crate) fn connection(&self) -> &OwnedFd {
        &self.connection
    }

    /// The same once more.
    pub(crate) fn duplicate_connection(&self) -> anyhow::Result<OwnedFd> {
        let connection = self.connection.try_clone();
        connection.context("duplicate the FUSE descriptor")
    }

    /// Where it is mounted.
    pub(crate) fn mountpoint(&self) -> &Path {
        self.ours.mountpoint()
    }

    /// Device of the file system, as `major:minor`.
    pub(crate) fn device(&self) -> &str {
        self.ours.device()
    }

    /// The mount itself.
    pub(crate) fn ours(&self) -> &OwnedMount {
        &self.ours
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.announced.is_set() {
            return;
        }
        if let Err(error) = self.ours.detach(&self.connection) {
            tracing::error!("{error:#}");
        }
    }
}

/// Detaches the mount and gives the session up to `patience` to end. A mount that is still in use
/// afterwards loses its connection. Returns how the session `ended`, if it is by itself.
pub(crate) async fn stop(
    attached: Attached,
    patience: Duration,
    ended: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<anyhow::Result<()>> {
    match attached.ours.detach(&attached.connection)? {
        Detached::Now => {}
        Detached::WasGone => {
            tracing::info!("the mount is unmounted or covered already; it is left alone");
        }
    }
    let mut ended = std::pin::pin!(ended);
    if let Ok(result) = tokio::time::timeout(patience, &mut ended).await {
        return Ok(result);
    }
    tracing::warn!("the mount is still in use; its users lose the connection now");
    attached.ours.abort(&attached.connection);
    // What the threads say of a connection that was aborted is no news.
    let _ended = tokio::time::timeout(patience, ended).await;
    Ok(Ok(()))
}
