//! The file system itself: what an operation needs to find its inode, its handle and its
//! descriptor. The operations are in `ops/`, one file per family.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use thrufs_sys::file_handle::FileHandle;

use crate::aside::Aside;
use crate::attr::Attr;
use crate::backing::{Backing, HostBacking};
use crate::backing_ids::{BackingIds, closes_silently};
use crate::coherence::external::{ExternalChange, Time};
use crate::coherence::invalidate::{InvalRange, Invalidations, KnownInodes};
use crate::coherence::open_files::Watches;
use crate::config::{Config, InodeFileHandles};
use crate::create_retry::CreateRetries;
use crate::crossing::Crossing;
use crate::error::{Errno, IntoErrno, Result};
use crate::fd_limit::FdLimit;
use crate::forget_wait::ForgetWait;
use crate::forgotten::Forgotten;
use crate::handle_table::{Handle, HandleRef, HandleTable};
use crate::host_locks::HostLocks;
use crate::inode::identity::{FileKind, key_of, statx};
use crate::inode::limit::InodeLimit;
use crate::inode::mount_fd::MountFds;
use crate::inode::table::InodeTable;
use crate::inode::{Inode, InodeRef, PathFd, open_handle};
use crate::journal::Journal;
use crate::labels;
use crate::listings::{Listings, opens_any_directory};
use crate::name_hints::NameHints;
use crate::negotiated::Negotiated;
use crate::new_files::NewFiles;
use crate::notifier::SendInval;
use crate::parked::Parked;
use crate::recent_fds::{KEPT, RecentFds};
use crate::removed::Removed;
use crate::resolve::{decimal, reopen_in};
use crate::stats::{Stats, this_thread};
use crate::submounts::SubMounts;
use crate::waits::Waits;
use crate::write_batch::groups::WriteGroups;

/// How long what is owed to the kernel has before another process serves.
const FINISH: Duration = Duration::from_millis(50);

/// What LOOKUP and the creating operations tell the kernel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Nodeid.
    pub ino: u64,
    /// Tells the inode from others that had the nodeid before; 0 where it is held by a descriptor.
    pub generation: u64,
    /// Attributes.
    pub attr: Attr,
    /// How long the name may be used without asking again.
    pub entry_timeout: Duration,
    /// The directory is the root of a file system that is mounted below SOURCE, and the client mounts it.
    pub is_submount: bool,
}

/// A directory served through FUSE; see the crate's page.
#[derive(Debug)]
pub struct Passthrough {
    pub(crate) config: Config,
    pub(crate) backing: Arc<dyn Backing>,
    pub(crate) inodes: InodeTable,
    /// None where a name cannot be looked at without opening it.
    pub(crate) name_hints: Option<NameHints>,
    pub(crate) handles: HandleTable,
    pub(crate) listings: Listings,
    /// This process may, whatever its mode.
    pub(crate) opens_any_directory: bool,
    pub(crate) backing_ids: Arc<BackingIds>,
    pub(crate) new_files: NewFiles,
    /// SOURCE's file system reports nothing at close(2).
    pub(crate) closes_silently: bool,
    pub(crate) write_groups: WriteGroups,
    pub(crate) locks: HostLocks,
    pub(crate) create_retries: CreateRetries,
    pub(crate) stats: Arc<Stats>,
    pub(crate) invalidations: Arc<Invalidations>,
    pub(crate) watches: Arc<Watches>,
    /// None where nothing bounds the number of inodes.
    pub(crate) pressure: Option<Arc<InodeLimit>>,
    pub(crate) negotiated: OnceLock<Negotiated>,
    pub(crate) mounts: MountFds,
    pub(crate) fd_limit: FdLimit,
    pub(crate) recent: Arc<RecentFds>,
    pub(crate) removed: Removed,
    pub(crate) forgotten: Forgotten,
    pub(crate) forgets: Arc<ForgetWait>,
    pub(crate) parked: Arc<Parked>,
    pub(crate) crossing: Crossing,
    pub(crate) waits: Waits,
    pub(crate) sub_mounts: Arc<SubMounts>,
    /// None where nothing outlives this process.
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) deaths: u64,
    pub(crate) lives: u64,
    /// Another server has served this mount before.
    pub(crate) goes_on: bool,
    /// O_PATH on /proc/self/fd, to open what an O_PATH descriptor stands for.
    pub(crate) proc_self_fd: Arc<OwnedFd>,
}

impl Passthrough {
    /// Serves `source`, an O_PATH descriptor of a directory, or of a regular file, which is all that there is then.
    ///
    /// # Errors
    /// When `source` is something else, /proc is not mounted, or file handles are mandatory and
    /// cannot be had.
    pub fn new(source: OwnedFd, config: Config) -> io::Result<Self> {
        Self::with_backing(source, config, Arc::new(HostBacking))
    }

    /// As [`Passthrough::new`], with the data calls going through `backing`.
    ///
    /// # Errors
    /// As there.
    pub fn with_backing(
        source: OwnedFd,
        mut config: Config,
        backing: Arc<dyn Backing>,
    ) -> io::Result<Self> {
        let stat = statx(&source)?;
        let kind = FileKind::from_mode(u32::from(stat.stx_mode));
        if !matches!(kind, FileKind::Directory | FileKind::Regular) {
            return Err(io::Error::other("SOURCE is neither a directory nor a file"));
        }
        let mounts = mount_of(&source, stat.stx_mnt_id, &mut config)?;
        let proc_self_fd = crate::caller::proc::self_fd()?;
        crate::caller::proc::own()?;
        config.security_label = labels::possible(&source, &config);
        let fd_limit = FdLimit::of_this_process();
        config.readdirplus &= fd_limit.is_enough_for_readdirplus(&config);
        let forgets = Arc::default();
        let aside = Aside::new(&forgets);
        let pressure = fd_limit.inode_limit(&config);
        let pressure = pressure.map(|limit| Arc::new(InodeLimit::new(limit)));
        Ok(Self {
            name_hints: NameHints::of(&source),
            closes_silently: closes_silently(&source),
            inodes: InodeTable::new(key_of(&stat), kind, InodeRef::Fd(source)),
            config,
            backing,
            handles: HandleTable::default(),
            listings: Listings::default(),
            opens_any_directory: opens_any_directory(),
            backing_ids: Arc::default(),
            new_files: NewFiles::default(),
            write_groups: WriteGroups::default(),
            locks: HostLocks::default(),
            create_retries: CreateRetries::default(),
            stats: Arc::default(),
            invalidations: Arc::default(),
            watches: Arc::default(),
            pressure,
            negotiated: OnceLock::new(),
            mounts,
            proc_self_fd: Arc::new(proc_self_fd),
            recent: Arc::new(RecentFds::new(fd_limit.recent(), KEPT, Arc::clone(&aside))),
            removed: Removed::new(fd_limit.pins(), aside),
            forgotten: Forgotten::default(),
            forgets,
            parked: Arc::default(),
            crossing: Crossing::default(),
            waits: Waits::default(),
            sub_mounts: Arc::new(SubMounts::new(stat.stx_mnt_id)),
            journal: None,
            deaths: 0,
            lives: 0,
            goes_on: false,
            fd_limit,
        })
    }

    /// The same, counting into `stats`, which several file systems share one after the other.
    #[must_use]
    pub fn counting_into(self, stats: Arc<Stats>) -> Self {
        Self { stats, ..self }
    }

    /// What the mount was asked to do.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What INIT agreed on; none before it.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }

    /// Notes what INIT agreed on. A second INIT on the same file system changes nothing.
    pub fn set_negotiated(&self, negotiated: Negotiated) {
        let _second_session = self.negotiated.set(negotiated);
    }

    /// From now on, invalidates in the kernel's cache the range of a WRITE that fails or is short, and
    /// files that were changed outside this mount.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start_invalidating(self: &Arc<Self>, send: SendInval) -> io::Result<()> {
        // Weak: the thread must not keep the file system, and all it has open, alive.
        let fs = Arc::downgrade(self);
        let known = KnownInodes {
            all: Box::new({
                let fs = Weak::clone(&fs);
                move || fs.upgrade().map_or_else(Vec::new, |fs| fs.inodes.numbers())
            }),
            identify: Box::new(move |ino| match fs.upgrade() {
                Some(fs) => fs.identify(ino).to_string(),
                None => format!("nodeid {ino}"),
            }),
        };
        self.invalidations.start(send, known)?;
        let Some(period) = self.config.watch_period() else {
            return Ok(());
        };
        let (watches, fs) = (Arc::clone(&self.watches), Arc::downgrade(self));
        watches.start();
        let round = move || {
            if let Some(fs) = fs.upgrade() {
                fs.look_at_open_files();
            }
        };
        std::thread::Builder::new()
            .name("thrufs-external".into())
            .spawn(move || watches.serve(period, round))
            .map(|_detached| ())
            .inspect_err(|_| self.stop_notifying())
    }

    /// Looks at each open file for changes from outside.
    fn look_at_open_files(&self) {
        let began = Time::now();
        for handle in self.handles.watched() {
            self.look_aside(|| {
                // Else it is closed by now.
                let Some(handle) = handle.upgrade() else {
                    return;
                };
                let watch = handle.file().and_then(|file| file.watch.as_ref());
                // Once for all handles of a file.
                if let Some(watch) = watch.filter(|watch| watch.is_due(began)) {
                    self.invalidate_file(handle.ino, watch.look(&handle.fd));
                }
            });
        }
    }

    /// Queues the invalidation of a file that was changed outside this mount.
    pub(crate) fn invalidate_file(&self, ino: u64, external: Option<ExternalChange>) {
        if let Some(external) = external {
            self.invalidate_file_then(ino, external, || ());
        }
    }

    /// The same; calls `then` when it has.
    pub fn invalidate_file_then(
        &self,
        ino: u64,
        external: ExternalChange,
        then: impl FnOnce() + Send + 'static,
    ) {
        tracing::debug!(inode = %self.identify(ino), "changed under SOURCE");
        let done = move || {
            external.dropped();
            then();
        };
        self.invalidations
            .push_then(ino, InvalRange::WHOLE, Box::new(done));
    }

    /// So many threads take requests from now on, and keep what they look up for a moment.
    ///
    /// # Errors
    /// When there can be no thread that lets go of it.
    pub fn start_serving(&self, threads: usize) -> io::Result<()> {
        self.forgets.set_threads(threads);
        match self.config.inode_file_handles {
            InodeFileHandles::Never => Ok(()),
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => self.recent.start(),
        }
    }

    /// Waits until the notifications that are owed have been sent, for a short time at most: another process serves on.
    pub fn finish_notifying(&self) {
        self.invalidations.finish(FINISH);
    }

    /// Sends no more notifications: the session has ended.
    pub fn stop_notifying(&self) {
        self.watches.stop();
        self.backing_ids.stop();
        self.invalidations.stop();
        self.recent.stop();
        self.sub_mounts.stop();
        self.parked.stop();
        if let Some(pressure) = &self.pressure {
            pressure.stop();
        }
    }

    /// Requests served so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Inodes that the kernel holds now.
    pub fn known_inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Files and directories open now.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// The inode `ino`.
    pub(crate) fn inode(&self, ino: u64) -> Result<Arc<Inode>> {
        let inode = self.inodes.get(ino).ok_or(Errno::ESTALE)?;
        self.sub_mounts.used(&inode);
        Ok(inode)
    }

    /// An O_PATH descriptor on `inode`. A file that was removed on SOURCE, and that no handle opens any
    /// more, is reached through what a client still has open.
    pub(crate) fn path_fd<'a>(&self, inode: &'a Inode) -> Result<PathFd<'a>> {
        match inode.path_fd() {
            Err(Errno::ESTALE) => {
                let open = self.handles.any_of(inode.ino).ok_or(Errno::ESTALE)?;
                open.fd.try_clone().or_errno().map(PathFd::Owned)
            }
            found => found,
        }
    }

    /// Opens a regular file or directory. Nothing else is ever opened by the daemon: a FIFO would
    /// block it and a device would act.
    pub(crate) fn open_inode(&self, inode: &Inode, flags: i32) -> Result<OwnedFd> {
        match inode.kind {
            FileKind::Regular | FileKind::Directory => {}
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::Fifo | FileKind::Socket => return Err(Errno::ENXIO),
            FileKind::CharDevice | FileKind::BlockDevice => return Err(Errno::ENXIO),
        }
        if let (InodeRef::Handle { mount, fid }, None) = (&inode.held, inode.kept()) {
            match open_handle(mount, fid, flags) {
                Err(Errno::ESTALE) => {}
                opened => return opened,
            }
        }
        self.reopen(self.path_fd(inode)?, flags)
    }

    /// Opens what `fd` stands for ([`reopen_in`]).
    pub(crate) fn reopen(&self, fd: impl AsFd, flags: i32) -> Result<OwnedFd> {
        reopen_in(&self.proc_self_fd, fd, flags)
    }

    /// Descriptor of /proc/self/fd and the name there of `fd`: for calls that take no O_PATH
    /// descriptor but follow this link to exactly that inode, symlinks included.
    pub(crate) fn proc_path(&self, fd: impl AsFd) -> (&OwnedFd, CString) {
        (&self.proc_self_fd, decimal(fd.as_fd().as_raw_fd()))
    }

    /// The open handle `fh` of `ino`.
    pub(crate) fn handle(&self, fh: u64, ino: u64) -> Result<Arc<Handle>> {
        self.handles.get(fh, ino)
    }

    /// The same, for a thread that serves many requests on few files.
    pub(crate) fn handle_again(&self, fh: u64, ino: u64) -> Result<HandleRef> {
        self.handles.get_again(this_thread(), fh, ino)
    }

    /// EROFS on a mount that is read-only.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.config.readonly {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }
}

/// What opens the file handles of SOURCE's own mount, or nothing, and then `config` says that inodes are held by
/// descriptors.
///
/// # Errors
/// There are none, and they are mandatory.
fn mount_of(source: &OwnedFd, mnt_id: u64, config: &mut Config) -> io::Result<MountFds> {
    match config.inode_file_handles {
        InodeFileHandles::Never => Ok(MountFds::default()),
        wanted => match probe_file_handles(source) {
            Ok(top) => Ok(MountFds::with_top(mnt_id, top)),
            Err(error) if wanted == InodeFileHandles::Mandatory => Err(io::Error::new(
                error.kind(),
                format!(
                    "SOURCE gives no file handles ({error}): they need a backing file system \
                         that has them and CAP_DAC_READ_SEARCH; use --inode-file-handles=prefer"
                ),
            )),
            Err(error) => {
                tracing::info!(%error, "no file handles on SOURCE: a descriptor per known inode");
                config.inode_file_handles = InodeFileHandles::Never;
                Ok(MountFds::default())
            }
        },
    }
}

/// Opens `source`, for handles of its mount, and checks that the kernel gives them and opens them again.
fn probe_file_handles(source: &OwnedFd) -> io::Result<OwnedFd> {
    let real = rustix::fs::openat(
        source,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    FileHandle::of(source)?.open(real.as_fd(), libc::O_PATH)?;
    Ok(real)
}
