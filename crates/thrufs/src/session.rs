//! One mounted file system: the mount, the session threads that answer it, and its end.
//!
//! Invariant: a mount that was not announced is detached by the drop of its [`Attached`], so no error
//! on the way to a running session leaves it behind. One that was announced is detached by [`stop`]
//! alone, which is for those who ask for it: however else the daemon ends, the mount stays and answers
//! ENOTCONN. Its users then see an error where they would see the empty directory below, which backups
//! and mirrors take for a tree that was deleted.
//!
//! The mount ([`Attached`]) and the threads ([`Serving`]) are apart, since they may live in two
//! processes ([`crate::supervisor`]).

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use fuser::SessionACL;
use thrufs_fs::{
    Covered, FaultyBacking, LetGo, Negotiated, Notify, OwnMount, Passthrough, Watch, Watching,
};
use thrufs_session::{FuseAdapter, Panicked};
use tokio::sync::oneshot;

use crate::attach;
use crate::places::{self, Places};
use crate::request::{Access, KernelRequest, MountRequest};
use crate::status;
use crate::sysctls;
use crate::teardown::{Detached, OurMount, is_connected};

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
    ours: OurMount,
    /// Tells whether the mount is still ours; the session has a duplicate.
    connection: OwnedFd,
    announced: Announced,
}

impl Attached {
    /// Mounts at `mountpoint` (absolute, without symlinks).
    pub(crate) fn new(mountpoint: &Path, request: &KernelRequest) -> anyhow::Result<Self> {
        let (connection, ours) = attach::attach(mountpoint, request)?;
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
    pub(crate) fn ours(&self) -> &OurMount {
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

/// The file system of `request` on `source` (O_PATH).
pub(crate) fn file_system(
    source: OwnedFd,
    request: &MountRequest,
) -> anyhow::Result<Arc<Passthrough>> {
    let config = request.config.clone();
    let fs = if request.faults.is_empty() {
        Passthrough::new(source, config)
    } else {
        tracing::warn!("--fault: calls on SOURCE fail on purpose");
        let backing = Arc::new(FaultyBacking::new(request.faults.clone()));
        Passthrough::with_backing(source, config, backing)
    };
    let fs = fs.with_context(|| format!("SOURCE {}", request.source.display()))?;
    Ok(Arc::new(fs))
}

/// Begins to watch SOURCE, if that was asked for. To be called before INIT: from then on the kernel
/// caches.
pub(crate) fn watch(fs: &Passthrough, request: &MountRequest) -> anyhow::Result<Option<Watch>> {
    let watch = request.watch.then(|| fs.watch()).transpose();
    watch.with_context(|| format!("SOURCE {}", request.source.display()))
}

/// Calls `end` when a session thread is lost: without an end of the session the caller that it served
/// would wait for ever, and nothing would tell why.
pub(crate) fn when_a_thread_is_lost(end: impl Fn() + Send + Sync + 'static) {
    thrufs_session::on_session_panic(move |panicked| {
        if panicked == Panicked::OutsideOperation {
            tracing::error!("{LOST_THREAD}");
            end();
        }
    });
}

/// Why the session ends then.
pub(crate) const LOST_THREAD: &str =
    "a session thread panicked on a message of the kernel, which is a bug";

/// Session threads that answer a connection.
#[derive(Debug)]
pub(crate) struct Serving {
    fs: Arc<Passthrough>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Serving {
    /// Negotiates INIT on `connection` and starts the session threads. If it `lets_go`, mounts below
    /// SOURCE are not kept busy for longer than they are used.
    pub(crate) fn start(
        fs: Arc<Passthrough>,
        watch: Option<Watch>,
        connection: OwnedFd,
        request: &MountRequest,
        lets_go: bool,
    ) -> anyhow::Result<Self> {
        let device = duplicate(&connection)?;
        let (acl, config) = session_config(request);
        let adapter = FuseAdapter::new(Arc::clone(&fs));
        let session = fuser::Session::from_fd(adapter, connection, acl, config)
            .context("INIT, the handshake with the kernel")?;
        fs.start_invalidating(thrufs_session::send_inval(session.notifier()))
            .context("start the thread that invalidates the kernel's cache")?;
        fs.start_serving(request.session.threads)
            .context("start the thread that closes what was looked up")?;
        let send_prune = || -> anyhow::Result<_> {
            let device = device.try_clone();
            let device = device.context("duplicate the FUSE descriptor")?;
            Ok(thrufs_session::send_prune(device, negotiated(&fs)?))
        };
        fs.start_pruning(send_prune()?)
            .context("bound the number of inodes")?;
        if lets_go && let Some(prune) = send_prune()? {
            let entry = thrufs_session::send_entry(session.notifier());
            fs.start_letting_go(LetGo { prune, entry })
                .context("start the thread that lets mounts below SOURCE go")?;
        }
        let watching = watch.map(|watch| start_watching(watch, &fs, &session, device));
        let watching = watching.transpose()?;
        let (sender, ended) = oneshot::channel();
        let served = Arc::clone(&fs);
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let result = at_unmount(session.run());
                // With its sender, the last user of the connection beside the mount goes.
                served.stop_notifying();
                drop(watching);
                // The receiver is gone only when the process ends anyway.
                let _ = sender.send(result);
            })
            .context("start the session's thread")?;
        Ok(Self { fs, ended })
    }

    /// Says what is served, and what was negotiated.
    pub(crate) fn log(&self, source: &Path, mountpoint: &Path) {
        let (source, mountpoint) = (source.display(), mountpoint.display());
        tracing::info!("{source} is mounted at {mountpoint}");
        if let Some(negotiated) = self.fs.negotiated() {
            for line in negotiated.to_string().lines() {
                tracing::info!("INIT: {line}");
            }
            for told in crate::shortfall::of(negotiated) {
                tracing::warn!("{told}");
            }
        }
    }

    /// The file system, for what INIT negotiated and for its counters.
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        &self.fs
    }

    /// Waits until the session ends by itself: somebody unmounted it (`Ok`), or it failed.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        match (&mut self.ended).await {
            Ok(result) => result.context("the session failed"),
            Err(_) => anyhow::bail!("the session's thread is gone without a result"),
        }
    }
}

/// A file system that is mounted and served by this process.
#[derive(Debug)]
pub(crate) struct Running {
    serving: Serving,
    attached: Attached,
}

/// Mounts, negotiates INIT and starts the session threads.
pub(crate) fn start(places: Places, request: &MountRequest) -> anyhow::Result<Running> {
    let below = places.mountpoint_below_source();
    // While it is not covered.
    let covered = below.and_then(|below| Covered::open(&places.source, &below));
    let fs = file_system(places.source, request)?;
    let watch = watch(&fs, request)?;
    let _changed = sysctls::change_as_asked(request)?;
    let attached = Attached::new(&places.mountpoint, &request.kernel)?;
    let device = places::device_number(attached.device()).context("the mount's device")?;
    let (mount_id, is_thrufs) = (attached.ours().unique_id(), Box::new(status::is_thrufs));
    fs.set_own_mount(OwnMount::new(device, mount_id, covered, is_thrufs));
    let connection = attached.duplicate_connection()?;
    let serving = Serving::start(fs, watch, connection, request, true)?;
    serving.log(&request.source, attached.mountpoint());
    Ok(Running { serving, attached })
}

/// An unmount is no failure. A thread that has just taken a request when the connection goes, often
/// the RELEASE of a file that was closed the moment before, is told ECONNABORTED; only those that wait
/// are told ENODEV, which fuser knows (fuse_dev_do_read).
fn at_unmount(ended: io::Result<()>) -> io::Result<()> {
    match ended {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        other => other,
    }
}

fn start_watching(
    watch: Watch,
    fs: &Arc<Passthrough>,
    session: &fuser::Session<FuseAdapter>,
    device: File,
) -> anyhow::Result<Watching> {
    let notify = Notify {
        inode: thrufs_session::send_inval(session.notifier()),
        entry: thrufs_session::send_entry(session.notifier()),
        epoch: thrufs_session::send_epoch(device, negotiated(fs)?),
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

fn session_config(request: &MountRequest) -> (SessionACL, fuser::Config) {
    let acl = match request.session.access {
        // The session compares with its own user, which has another number in a user namespace
        // with maps; the kernel lets nobody else in anyway.
        Access::Owner if request.confinement.has_map() => SessionACL::All,
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    let mut config = fuser::Config::default();
    config.acl = acl;
    config.n_threads = Some(request.session.threads);
    config.clone_fd = request.session.clone_fd;
    (acl, config)
}

impl Running {
    /// See [`Serving::fs`].
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        self.serving.fs()
    }

    /// The mount without its session, which has ended or is to be left behind.
    pub(crate) fn into_attached(self) -> Attached {
        self.attached
    }

    /// The mount.
    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// See [`Attached::mountpoint`].
    pub(crate) fn mountpoint(&self) -> &Path {
        self.attached.mountpoint()
    }

    /// See [`Attached::duplicate_connection`].
    pub(crate) fn connection(&self) -> anyhow::Result<OwnedFd> {
        self.attached.duplicate_connection()
    }

    /// See [`Attached::device`].
    pub(crate) fn device(&self) -> &str {
        self.attached.device()
    }

    /// See [`Serving::ended`].
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        self.serving.ended().await
    }

    /// See [`stop`].
    pub(crate) async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        stop(self.attached, patience, self.serving.ended()).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_unmount_only_what_an_unmount_says_is_no_failure() {
        let told = |errno: rustix::io::Errno| at_unmount(Err(errno.into()));
        assert!(at_unmount(Ok(())).is_ok());
        assert!(told(rustix::io::Errno::CONNABORTED).is_ok());
        let failure = told(rustix::io::Errno::IO).unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(libc::EIO));
    }
}
