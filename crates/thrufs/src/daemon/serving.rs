//! The session threads that answer a connection to the kernel.
//!
//! The mount is apart ([`crate::mount::attached`]), since the two may live in two processes
//! ([`super::supervisor`]).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use fuser::SessionACL;
use thrufs_fs::{
    FaultyBacking, LetGo, Life, Negotiated, Notify, Passthrough, RegisterBacking, SendEntry,
    SendInval, SendPrune, Watch, Watching,
};
use thrufs_session::{Allowed, DevFuseSession, Drain, Ended, FuseAdapter, Panicked, ReaderCounts};
use tokio::sync::oneshot;

use super::shortfall;
use crate::mount::options::Access;
use crate::mount_plan::MountPlan;
use crate::options::process::Transport;

/// The file system of `plan` on `source` (O_PATH), in this life of the mount, if it has several.
pub(crate) fn file_system(
    source: OwnedFd,
    plan: &MountPlan,
    life: Option<&Life>,
) -> anyhow::Result<Arc<Passthrough>> {
    let config = plan.config.clone();
    let is_later = life.is_some_and(|life| life.is_later);
    let faults = plan
        .faults
        .iter()
        .filter(|fault| !(is_later && fault.is_kill()));
    let faults: Vec<_> = faults.cloned().collect();
    let fs = if faults.is_empty() {
        Passthrough::new(source, config)
    } else {
        tracing::warn!("--fault: calls on SOURCE fail on purpose");
        let backing = Arc::new(FaultyBacking::new(faults));
        Passthrough::with_backing(source, config, backing)
    };
    let fs = fs.with_context(|| format!("SOURCE {}", plan.source.display()))?;
    Ok(Arc::new(match life {
        Some(life) => fs.surviving(life)?,
        None => fs,
    }))
}

/// Begins to watch SOURCE, if that was asked for. To be called before INIT: from then on the kernel
/// caches.
pub(crate) fn watch(fs: &Passthrough, plan: &MountPlan) -> anyhow::Result<Option<Watch>> {
    let watch = plan.watch.then(|| fs.watch()).transpose();
    watch.with_context(|| format!("SOURCE {}", plan.source.display()))
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

/// What gives files to the kernel, or why nothing does.
pub(crate) type Registrar = Result<Arc<dyn RegisterBacking>, String>;

/// Session threads that answer a connection.
#[derive(Debug)]
pub(crate) struct Serving {
    fs: Arc<Passthrough>,
    transport: Transport,
    readers: Option<Arc<ReaderCounts>>,
    drain: Option<Arc<Drain>>,
    ended: oneshot::Receiver<io::Result<Ended>>,
}

impl Serving {
    /// Negotiates INIT on `connection` and starts the session threads. If it `lets_go`, mounts below
    /// SOURCE are not kept busy for longer than they are used. `registrar`: for kernel passthrough, or why not.
    pub(crate) fn start(
        fs: Arc<Passthrough>,
        (watch, registrar): (Option<Watch>, Registrar),
        connection: OwnedFd,
        plan: &MountPlan,
        lets_go: bool,
    ) -> anyhow::Result<Self> {
        let device = duplicate(&connection)?;
        let session = Session::handshake(&fs, connection, plan)
            .context("INIT, the handshake with the kernel")?;
        fs.start_invalidating(session.send_inval())
            .context("start the thread that invalidates the kernel's cache")?;
        fs.start_serving(plan.session.threads)
            .context("start the thread that closes what was looked up")?;
        let send_prune = || -> anyhow::Result<_> {
            let device = device.try_clone();
            let device = device.context("duplicate the FUSE descriptor")?;
            Ok(thrufs_session::send_prune(device, negotiated(&fs)?))
        };
        pass_through(&fs, &session, plan, (registrar, send_prune()?))?;
        fs.start_pruning(send_prune()?)
            .context("bound the number of inodes")?;
        if lets_go && let Some(prune) = send_prune()? {
            let entry = session.send_entry();
            fs.start_letting_go(LetGo { prune, entry })
                .context("start the thread that lets mounts below SOURCE go")?;
        }
        let watching = watch.map(|watch| start_watching(watch, &fs, &session, device));
        let watching = watching.transpose()?;
        let (readers, drain) = (session.readers(), session.drain());
        let (sender, ended) = oneshot::channel();
        let served = Arc::clone(&fs);
        let threads = plan.session.threads;
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let result = at_unmount(session.run(threads));
                match result {
                    Ok(Ended::Drained) => served.finish_notifying(),
                    // With its sender, the last user of the connection beside the mount goes.
                    Ok(Ended::Connection) | Err(_) => served.stop_notifying(),
                }
                drop(watching);
                // The receiver is gone only when the process ends anyway.
                let _ = sender.send(result);
            })
            .context("start the session's thread")?;
        let transport = plan.session.transport;
        Ok(Self {
            fs,
            transport,
            readers,
            drain,
            ended,
        })
    }

    /// Says what is served, and what was negotiated.
    pub(crate) fn log(&self, source: &Path, mountpoint: &Path) {
        let (source, mountpoint) = (source.display(), mountpoint.display());
        tracing::info!("{source} is mounted at {mountpoint}");
        if let Some(negotiated) = self.fs.negotiated() {
            for line in negotiated.to_string().lines() {
                tracing::info!("INIT: {line}");
            }
            for told in shortfall::of(negotiated) {
                tracing::warn!("{told}");
            }
        }
    }

    /// The file system, for what INIT negotiated and for its counters.
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        &self.fs
    }

    /// How requests come from the kernel, and the threads that read them where they are ours.
    pub(crate) fn transport(&self) -> (Transport, Option<Arc<ReaderCounts>>) {
        (self.transport, self.readers.clone())
    }

    /// What has the session end for another process to serve, where the transport can.
    pub(crate) fn drain(&self) -> Option<Arc<Drain>> {
        self.drain.clone()
    }

    /// Waits until the session ends by itself: by an unmount or a drain (`Ok`), or by a failure.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<Ended> {
        match (&mut self.ended).await {
            Ok(result) => result.context("the session failed"),
            Err(_) => anyhow::bail!("the session's thread is gone without a result"),
        }
    }
}

/// Kernel passthrough, or the reason in the log and the status why there is none.
fn pass_through(
    fs: &Passthrough,
    session: &Session,
    plan: &MountPlan,
    (registrar, prune): (Registrar, Option<SendPrune>),
) -> anyhow::Result<()> {
    let off = match (&plan.no_passthrough, registrar) {
        (Some(reason), _) => reason.clone(),
        (None, Err(reason)) => reason,
        (None, Ok(registrar)) => {
            let started = fs.start_passing_through(registrar, session.send_inval(), prune);
            return started.context("start kernel passthrough");
        }
    };
    tracing::info!("no kernel passthrough: {off}");
    fs.set_not_passed_through(off);
    Ok(())
}

/// An unmount is no failure. A thread that has just taken a request when the connection goes, often
/// the RELEASE of a file that was closed the moment before, is told ECONNABORTED; only those that wait
/// are told ENODEV, which both transports know (fuse_dev_do_read).
fn at_unmount(ended: io::Result<Ended>) -> io::Result<Ended> {
    match ended {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(Ended::Connection),
        other => other,
    }
}

fn start_watching(
    watch: Watch,
    fs: &Arc<Passthrough>,
    session: &Session,
    device: File,
) -> anyhow::Result<Watching> {
    let notify = Notify {
        inode: session.send_inval(),
        entry: session.send_entry(),
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

/// A connection after INIT, by one of the transports.
enum Session {
    Fuser(fuser::Session<FuseAdapter>),
    DevFuse(DevFuseSession),
}

impl Session {
    fn handshake(fs: &Arc<Passthrough>, connection: OwnedFd, plan: &MountPlan) -> io::Result<Self> {
        let (fs, allowed) = (Arc::clone(fs), allowed(plan));
        match plan.session.transport {
            Transport::Fuser => {
                let mut config = fuser::Config::default();
                config.acl = match allowed {
                    Allowed::All => SessionACL::All,
                    Allowed::Owner => SessionACL::Owner,
                    Allowed::OwnerAndRoot => SessionACL::RootAndOwner,
                };
                config.n_threads = Some(plan.session.threads);
                config.clone_fd = plan.session.clone_fd;
                let (adapter, acl) = (FuseAdapter::new(fs), config.acl);
                fuser::Session::from_fd(adapter, connection, acl, config).map(Self::Fuser)
            }
            Transport::Device if fs.goes_on() => {
                DevFuseSession::resume(fs, connection, allowed).map(Self::DevFuse)
            }
            Transport::Device => {
                DevFuseSession::handshake(fs, connection, allowed).map(Self::DevFuse)
            }
        }
    }

    fn readers(&self) -> Option<Arc<ReaderCounts>> {
        match self {
            Self::Fuser(_) => None,
            Self::DevFuse(session) => Some(session.reader_counts()),
        }
    }

    fn drain(&self) -> Option<Arc<Drain>> {
        match self {
            Self::Fuser(_) => None,
            Self::DevFuse(session) => Some(session.drain()),
        }
    }

    fn send_inval(&self) -> SendInval {
        match self {
            Self::Fuser(session) => thrufs_session::send_inval(session.notifier()),
            Self::DevFuse(session) => session.send_inval(),
        }
    }

    fn send_entry(&self) -> SendEntry {
        match self {
            Self::Fuser(session) => thrufs_session::send_entry(session.notifier()),
            Self::DevFuse(session) => session.send_entry(),
        }
    }

    /// Serves until the connection ends. fuser has the number of threads in its configuration.
    fn run(self, threads: usize) -> io::Result<Ended> {
        match self {
            Self::Fuser(session) => session.run().map(|()| Ended::Connection),
            Self::DevFuse(session) => session.run(threads),
        }
    }
}

fn allowed(plan: &MountPlan) -> Allowed {
    match plan.session.access {
        // The session compares with its own user, which has another number in a user namespace
        // with maps, and with --idmap is not told of most; the kernel refuses every other user anyway.
        Access::Owner if plan.sandbox.has_map() || plan.config.idmap => Allowed::All,
        Access::Owner => Allowed::Owner,
        Access::OwnerAndRoot => Allowed::OwnerAndRoot,
        Access::AllUsers => Allowed::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_unmount_only_what_an_unmount_says_is_no_failure() {
        let told = |errno: rustix::io::Errno| at_unmount(Err(errno.into()));
        assert!(at_unmount(Ok(Ended::Connection)).is_ok());
        assert!(told(rustix::io::Errno::CONNABORTED).is_ok());
        let failure = told(rustix::io::Errno::IO).unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(libc::EIO));
    }
}
