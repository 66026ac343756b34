//! One mounted file system: the mount, the session threads that answer it, and its end.
//!
//! Invariant: from the moment the mount exists, a value owns it whose drop detaches it, so no error
//! on the way to a running session can leave it behind.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fuser::SessionACL;
use thrufs_fs::{
    FaultyBacking, FuseAdapter, Negotiated, Notify, Panicked, Passthrough, Watch, Watching,
};
use tokio::sync::oneshot;

use crate::attach;
use crate::pages_limit;
use crate::places::Places;
use crate::request::{Access, MountRequest, SessionRequest};
use crate::teardown::{Detached, OurMount};

/// A mount with its connection. Detaches when dropped.
#[derive(Debug)]
struct Attached {
    ours: OurMount,
    /// Tells whether the mount is still ours; the session has a duplicate.
    device: OwnedFd,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.ours.detach(&self.device) {
            tracing::error!("{error:#}");
        }
    }
}

/// A file system that is being served.
#[derive(Debug)]
pub(crate) struct Running {
    fs: Arc<Passthrough>,
    attached: Attached,
    ended: oneshot::Receiver<io::Result<()>>,
}

/// Ends the daemon, as SIGTERM does, when a session thread is lost: the caller that it served would
/// wait for ever, and nothing would tell why.
fn end_when_a_thread_is_lost() {
    thrufs_fs::on_session_panic(|panicked| {
        if panicked == Panicked::OutsideOperation {
            tracing::error!(
                "a session thread panicked on a message of the kernel: a bug; unmounting"
            );
            // It is this process, which exists.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::TERM,
            );
        }
    });
}

/// Mounts, negotiates INIT and starts the session threads.
pub(crate) fn start(places: Places, request: &MountRequest) -> anyhow::Result<Running> {
    end_when_a_thread_is_lost();
    let shown = request.source.display();
    let config = request.config.clone();
    let fs = if request.faults.is_empty() {
        Passthrough::new(places.source, config)
    } else {
        tracing::warn!("--fault: calls on SOURCE fail on purpose");
        let backing = Arc::new(FaultyBacking::new(request.faults.clone()));
        Passthrough::with_backing(places.source, config, backing)
    };
    let fs = Arc::new(fs.with_context(|| format!("SOURCE {shown}"))?);
    // Before INIT: from then on the kernel caches.
    let watch = match request.watch {
        true => Some(fs.watch().with_context(|| format!("SOURCE {shown}"))?),
        false => None,
    };
    // Put back when it is dropped, after INIT.
    let _raised = match request.raise_max_pages_limit {
        true => Some(pages_limit::raise_for(request.config.max_write)?),
        false => None,
    };
    let (device, ours) = attach::attach(&places.mountpoint, &request.kernel)?;
    let attached = Attached { ours, device };
    let device = attached
        .device
        .try_clone()
        .context("duplicate the FUSE descriptor")?;
    let (acl, config) = session_config(request.session);
    let session = fuser::Session::from_fd(FuseAdapter::new(Arc::clone(&fs)), device, acl, config)
        .context("INIT, the handshake with the kernel")?;
    fs.start_invalidating(thrufs_fs::send_inval(session.notifier()))
        .context("start the thread that invalidates the kernel's cache")?;
    fs.start_pruning(thrufs_fs::send_prune(
        duplicate(&attached.device)?,
        negotiated(&fs)?,
    ))
    .context("bound the number of inodes")?;
    let watching = watch.map(|watch| start_watching(watch, &fs, &session, &attached.device));
    let watching = watching.transpose()?;
    let (sender, ended) = oneshot::channel();
    let served = Arc::clone(&fs);
    std::thread::Builder::new()
        .name("session".to_owned())
        .spawn(move || {
            let result = session.run();
            // With its sender, the last user of the connection beside the mount goes.
            served.stop_notifying();
            drop(watching);
            // The receiver is gone only when the process ends anyway.
            let _ = sender.send(result);
        })
        .context("start the session's thread")?;
    let mountpoint = attached.ours.mountpoint().display();
    tracing::info!("{shown} is mounted at {mountpoint}");
    if let Some(negotiated) = fs.negotiated() {
        for line in negotiated.to_string().lines() {
            tracing::info!("INIT: {line}");
        }
    }
    Ok(Running {
        fs,
        attached,
        ended,
    })
}

fn start_watching(
    watch: Watch,
    fs: &Arc<Passthrough>,
    session: &fuser::Session<FuseAdapter>,
    device: &OwnedFd,
) -> anyhow::Result<Watching> {
    let notify = Notify {
        inode: thrufs_fs::send_inval(session.notifier()),
        entry: thrufs_fs::send_entry(session.notifier()),
        epoch: thrufs_fs::send_epoch(duplicate(device)?, negotiated(fs)?),
    };
    watch
        .start(fs, notify)
        .context("start the thread that watches SOURCE")
}

fn duplicate(device: &OwnedFd) -> anyhow::Result<File> {
    let device = device.try_clone();
    Ok(File::from(device.context("duplicate the FUSE descriptor")?))
}

fn negotiated(fs: &Passthrough) -> anyhow::Result<&Negotiated> {
    fs.negotiated().context("a session without INIT")
}

fn session_config(request: SessionRequest) -> (SessionACL, fuser::Config) {
    let acl = match request.access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    let mut config = fuser::Config::default();
    config.acl = acl;
    config.n_threads = Some(request.threads);
    config.clone_fd = request.clone_fd;
    (acl, config)
}

impl Running {
    /// The file system, for what INIT negotiated and for its counters.
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        &self.fs
    }

    /// Where it is mounted.
    pub(crate) fn mountpoint(&self) -> &Path {
        self.attached.ours.mountpoint()
    }

    /// Device of the file system, as `major:minor`.
    pub(crate) fn device(&self) -> &str {
        self.attached.ours.device()
    }

    /// Waits until the session ends by itself: somebody unmounted it (`Ok`), or it failed.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        match (&mut self.ended).await {
            Ok(result) => result.context("the session failed"),
            Err(_) => anyhow::bail!("the session's thread is gone without a result"),
        }
    }

    /// Detaches the mount and gives the session up to `patience` to finish. A mount that is still
    /// in use afterwards loses its connection.
    pub(crate) async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        match self.attached.ours.detach(&self.attached.device)? {
            Detached::Now => {}
            Detached::WasGone => {
                tracing::info!("the mount is unmounted or covered already; it is left alone");
            }
        }
        if let Ok(result) = tokio::time::timeout(patience, self.ended()).await {
            return result;
        }
        tracing::warn!("the mount is still in use; its users lose the connection now");
        self.attached.ours.abort(&self.attached.device);
        // What the threads say of a connection that was aborted is no news.
        let _ended = tokio::time::timeout(patience, self.ended()).await;
        Ok(())
    }
}
