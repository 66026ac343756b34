//! One inode that the kernel knows, and how it is held: never by a path.
//!
//! An inode that is held by a file handle has a descriptor at times ([`Kept`]): for a moment after a
//! LOOKUP (`recent_fds.rs`), and from the removal of its last name to the FORGET (`removed.rs`). Why not
//! open the handle when the inode is used: it cannot be opened once the last name is gone.

pub(crate) mod identity;
pub(crate) mod limit;
pub(crate) mod mount_fd;
pub(crate) mod table;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fs::Statx;
use thrufs_sys::file_handle::FileHandle;

use crate::error::{Errno, Result, errno};
use crate::handle_sort::HandleSort;
use identity::{FileKind, InodeKey};
use mount_fd::MountFd;

/// Nodeid of the root of the mount (FUSE_ROOT_ID).
pub const ROOT_INO: u64 = 1;

/// What keeps hold of an inode.
#[derive(Debug)]
pub(crate) enum InodeRef {
    /// An O_PATH descriptor: keeps the inode itself alive, costs a descriptor.
    Fd(OwnedFd),
    /// A file handle: costs memory only; the inode may be gone when it is opened (ESTALE).
    Handle {
        mount: Arc<MountFd>,
        fid: FileHandle,
    },
}

impl InodeRef {
    /// Whether `other`, which has the same [`InodeKey`], is another inode that was given the
    /// number again. A descriptor keeps the number from being given away.
    pub(crate) fn is_successor(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Handle { fid: old, .. }, Self::Handle { fid: new, .. }) => old != new,
            (Self::Fd(_), _) | (_, Self::Fd(_)) => false,
        }
    }
}

/// The O_PATH descriptor that an inode has beside its file handle.
#[derive(Debug, Default)]
pub(crate) enum Kept {
    /// None.
    #[default]
    Nothing,
    /// For a moment.
    Recent(Arc<OwnedFd>),
    /// Until the kernel forgets the inode.
    Pinned { fd: Arc<OwnedFd>, _count: PinCount },
}

/// One of the inodes that are pinned, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct PinCount(Arc<AtomicUsize>);

impl PinCount {
    /// One more in `count`, unless there are `most`.
    pub(crate) fn one_more(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one_more = |pinned| (pinned < most).then_some(pinned + 1);
        let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for PinCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kept {
    fn fd(&self) -> Option<&Arc<OwnedFd>> {
        match self {
            Self::Nothing => None,
            Self::Recent(fd) | Self::Pinned { fd, .. } => Some(fd),
        }
    }
}

/// An inode in the table. Immutable, apart from the kernel's count of lookups and what is kept.
#[derive(Debug)]
pub(crate) struct Inode {
    /// Nodeid, and st_ino as the client sees it (fuser ties the two). No other inode has it before the
    /// kernel has forgotten this one.
    pub(crate) ino: u64,
    pub(crate) key: InodeKey,
    pub(crate) kind: FileKind,
    pub(crate) held: InodeRef,
    /// A leaf lock, held for no system call. Nothing, if the inode is held by a descriptor.
    kept: Mutex<Kept>,
    /// Lookups that the kernel has not yet forgotten. Changed under the table's lock only: raised
    /// under the read lock, lowered (and the inode removed at 0) under the write lock.
    pub(crate) nlookup: AtomicU64,
    /// A READ has been served whose bytes the kernel may have cached.
    pub(crate) is_read: AtomicBool,
    /// How its open handles are served.
    pub(crate) sort: HandleSort,
    told: Told,
}

/// What replies have told the kernel of mode and owner.
#[derive(Debug, Default)]
struct Told {
    /// A digest of what the last one had; 0 for none.
    last: AtomicU64,
    /// Not all of them had the same. Then the kernel may go by an older one: the last may be on its way
    /// yet, or came in when the kernel had begun to take no older answers.
    differs: AtomicBool,
}

impl Told {
    fn digest(stat: &Statx) -> u64 {
        let owner = u64::from(stat.stx_uid) << 32 | u64::from(stat.stx_gid);
        // The finalizer of SplitMix64, so that no two owners differ in a mode's bits alone.
        let mut x = owner.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Other bits open no file, and set-uid goes at every write. The lowest bit is for `to_word`.
        (x ^ (x >> 31)) << 10 ^ u64::from(stat.stx_mode & 0o777) << 1
    }

    /// For the next server.
    fn to_word(&self) -> u64 {
        self.last.load(Ordering::SeqCst) | u64::from(self.differs.load(Ordering::SeqCst))
    }

    fn take_over(&self, word: u64) {
        self.last.store(word & !1, Ordering::SeqCst);
        self.differs.store(word & 1 != 0, Ordering::SeqCst);
    }
}

/// An O_PATH descriptor on an inode, for as long as an operation needs it.
#[derive(Debug)]
pub(crate) enum PathFd<'a> {
    Borrowed(BorrowedFd<'a>),
    Shared(Arc<OwnedFd>),
    Owned(OwnedFd),
}

impl AsFd for PathFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Shared(fd) => fd.as_fd(),
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

impl Inode {
    /// One that the kernel has looked up once.
    pub(crate) fn new(ino: u64, key: InodeKey, kind: FileKind, held: InodeRef) -> Self {
        Self {
            ino,
            key,
            kind,
            held,
            kept: Mutex::default(),
            nlookup: AtomicU64::new(1),
            is_read: AtomicBool::new(false),
            sort: HandleSort::default(),
            told: Told::default(),
        }
    }

    /// See [`crate::Entry::generation`]. 32 bits, of which the kernel makes its own file handles; 0 for the root, as
    /// the kernel wants.
    pub(crate) fn generation(&self) -> u64 {
        match &self.held {
            InodeRef::Handle { fid, .. } if self.ino != ROOT_INO => u64::from(fid.digest().max(1)),
            _root_or_by_descriptor => 0,
        }
    }

    /// The kernel is told these attributes now.
    pub(crate) fn tell(&self, stat: &Statx) {
        let now = Told::digest(stat);
        let compare = |before| {
            if before != 0 && before != now {
                self.told.differs.store(true, Ordering::SeqCst);
            }
        };
        // Before: `is_known` must not find the new digest first. After: another may have told meanwhile.
        compare(self.told.last.load(Ordering::SeqCst));
        compare(self.told.last.swap(now, Ordering::SeqCst));
    }

    /// What the kernel was told, for the next server.
    pub(crate) fn told(&self) -> u64 {
        self.told.to_word()
    }

    /// The kernel was told this by a server that died.
    pub(crate) fn take_over_told(&self, told: u64) {
        self.told.take_over(told);
    }

    /// Mode and owner have been changed for the kernel, which goes by the reply in any case. Not where
    /// that failed: any caller can have it fail.
    pub(crate) fn tell_anew(&self) {
        self.told.last.store(0, Ordering::SeqCst);
    }

    /// Whether mode and owner are what the kernel was told last.
    pub(crate) fn is_told(&self, stat: &Statx) -> bool {
        self.told.last.load(Ordering::SeqCst) == Told::digest(stat)
    }

    /// Whether they are what it was told, and nothing else ever was.
    pub(crate) fn is_known(&self, stat: &Statx) -> bool {
        self.is_told(stat) && !self.told.differs.load(Ordering::SeqCst)
    }

    /// An O_PATH descriptor on this inode.
    ///
    /// # Errors
    /// ESTALE when it is gone.
    pub(crate) fn path_fd(&self) -> Result<PathFd<'_>> {
        match &self.held {
            InodeRef::Fd(fd) => Ok(PathFd::Borrowed(fd.as_fd())),
            InodeRef::Handle { mount, fid } => match self.kept() {
                Some(fd) => Ok(PathFd::Shared(fd)),
                None => open_handle(mount, fid, libc::O_PATH).map(PathFd::Owned),
            },
        }
    }

    /// The same, to be pinned by it; none if the inode is held by a descriptor anyway.
    ///
    /// # Errors
    /// ESTALE when it is gone.
    pub(crate) fn fd_to_pin(&self) -> Result<Option<Arc<OwnedFd>>> {
        match (&self.held, self.kept()) {
            (InodeRef::Fd(_), _) => Ok(None),
            (InodeRef::Handle { .. }, Some(fd)) => Ok(Some(fd)),
            (InodeRef::Handle { mount, fid }, None) => {
                let fd = open_handle(mount, fid, libc::O_PATH)?;
                Ok(Some(Arc::new(fd)))
            }
        }
    }

    /// The descriptor that is kept on it.
    pub(crate) fn kept(&self) -> Option<Arc<OwnedFd>> {
        self.kept.lock().fd().cloned()
    }

    /// Whether a descriptor is kept on it until the kernel forgets it.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(*self.kept.lock(), Kept::Pinned { .. })
    }

    /// Keeps this, whatever is kept now.
    pub(crate) fn pin(&self, fd: Arc<OwnedFd>, count: PinCount) {
        let pinned = Kept::Pinned { fd, _count: count };
        let before = std::mem::replace(&mut *self.kept.lock(), pinned);
        drop(before);
    }

    /// Keeps `fd` for a moment, unless there is one that is kept. Returns whether it does.
    pub(crate) fn keep_recent(&self, fd: Arc<OwnedFd>) -> bool {
        let mut kept = self.kept.lock();
        let is_free = matches!(*kept, Kept::Nothing);
        if is_free {
            *kept = Kept::Recent(fd);
        }
        is_free
    }

    /// Closes what was kept for a moment.
    pub(crate) fn let_recent_go(&self) {
        let mut kept = self.kept.lock();
        if let Kept::Recent(_) = *kept {
            let closed = std::mem::take(&mut *kept);
            drop(kept);
            drop(closed);
        }
    }

    /// Closes what is kept.
    pub(crate) fn let_go(&self) {
        let closed = std::mem::take(&mut *self.kept.lock());
        drop(closed);
    }
}

/// Opens the inode behind a handle.
///
/// # Errors
/// ESTALE when it is gone; else of open_by_handle_at(2).
pub(crate) fn open_handle(mount: &MountFd, fid: &FileHandle, flags: i32) -> Result<OwnedFd> {
    fid.open(mount.as_fd(), flags)
        .map_err(|error| match errno(&error) {
            // ext4 is just making a new file with that inode number (iget_locked finds I_CREATING).
            Errno::ENOMEM => Errno::ESTALE,
            other => other,
        })
}
