//! Kernel passthrough: which files the kernel reads and writes past the daemon, and by which backing id.
//!
//! Invariants:
//! * all handles of an inode that are open at one time are of one sort, since the kernel answers open(2) with
//!   EIO when cached and passed-through handles of an inode meet, or handles with two ids. So what the first
//!   one got, the later ones get, until the last is released;
//! * an id belongs to one inode, and is kept in it: a nodeid may come to stand for another file;
//! * an id without a handle lasts for twice [`IDLE`] at most, and not beyond the last name: what is removed
//!   frees its space;
//! * an OPEN waits for a registration as long as the [`RegisterBacking`] allows, and only one of its own inode.
//!
//! Registering costs about as much as a READ, so it is not done where one READ brings in the file
//! ([`SMALL`]), nor for a small file that is opened for writing before its WRITEs have shown that it is
//! written much ([`MANY`]); a new file has an id at once. The id stays for a moment when the last handle is
//! released. Why not an id for each inode that is looked up: most are never opened, and each id holds its file on SOURCE open.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{FsWord, fstatfs};
use serde::{Deserialize, Serialize};

use crate::coherence::invalidate::InvalRange;
use crate::handle_sort::{BackingId, InUse, RegisterBacking};
use crate::inode::Inode;
use crate::ledger::Damaged;
use crate::notifier::{SendInval, SendPrune};

/// How long an id stays when the last handle is released.
pub(crate) const IDLE: Duration = Duration::from_millis(500);
/// Inodes that wait to be forgotten; beyond these they stay as they are.
const MOST_VOLATILE: usize = 4096;
/// Ids that stay without a handle.
const MOST_IDLE: usize = 256;
/// Devices that are remembered.
const MOST_REFUSED: usize = 1024;
/// A file of so many bytes is read into the kernel's cache through the daemon: with the default read-ahead that
/// is one READ.
pub(crate) const SMALL: u64 = 128 << 10;
/// WRITEs through the daemon after which a small file is worth an id the next time it is opened for writing.
pub(crate) const MANY: u32 = 4;

/// File systems without a `flush` operation: ext4, XFS, Btrfs, tmpfs, F2FS.
const CLOSE_SILENTLY: [FsWord; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];
/// With less than this free, or half of a smaller file system, files that are opened for writing go through
/// the daemon.
const PLENTY: u64 = 1 << 30;
/// With four times as much free, for so long no OPEN asks again.
const PLENTY_LASTS: Duration = Duration::from_millis(50);

/// Whether close(2) reports nothing on the file system of `source`.
pub(crate) fn closes_silently(source: &OwnedFd) -> bool {
    fstatfs(source).is_ok_and(|stat| CLOSE_SILENTLY.contains(&stat.f_type))
}

/// Whether little is free on the file system of `file`, and whether so much is that it lasts for [`PLENTY_LASTS`].
fn free_space(file: &OwnedFd) -> (bool, bool) {
    let Ok(stat) = fstatfs(file) else {
        return (false, false);
    };
    let size = u64::try_from(stat.f_bsize).unwrap_or(4096);
    let plenty = PLENTY.min(stat.f_blocks.saturating_mul(size) / 2);
    let free = stat.f_bavail.saturating_mul(size);
    (free < plenty, free >= 4 * PLENTY)
}

/// Why a file goes through the daemon although the mount passes files through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// Small, and open for reading alone or not known to be written much.
    Small,
    /// New, where new files have been small lately.
    NewAndSmallLately,
    /// An open handle of the inode does.
    OpenOtherwise,
    /// SOURCE is on a stacked file system (overlayfs).
    Stacked,
    /// The file is on another file system than SOURCE, and not one that was mounted below it at the start.
    OtherFileSystem,
    /// The supervisor did not answer in time.
    NoAnswer,
    /// SOURCE is nearly full: a write(2) past the daemon waits for no FORGET of what was just removed.
    NearlyFull,
    /// Any other error of the registration.
    Refused,
}

impl WhyNot {
    const ALL: [(Self, &str); 8] = [
        (Self::Small, "small, and not written much"),
        (Self::NewAndSmallLately, "new, where new files are small"),
        (Self::OpenOtherwise, "open through the daemon already"),
        (Self::Stacked, "on a stacked file system"),
        (Self::OtherFileSystem, "on another file system"),
        (Self::NoAnswer, "the supervisor did not answer in time"),
        (Self::NearlyFull, "while SOURCE is nearly full"),
        (Self::Refused, "refused by the kernel"),
    ];

    /// Whether the daemon decides so since it is as fast; the others are what it cannot help.
    fn is_choice(self) -> bool {
        match self {
            Self::Small | Self::NewAndSmallLately | Self::OpenOtherwise => true,
            Self::Stacked
            | Self::OtherFileSystem
            | Self::NoAnswer
            | Self::NearlyFull
            | Self::Refused => false,
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ELOOP) => Self::Stacked,
            Some(libc::EXDEV) => Self::OtherFileSystem,
            Some(libc::ETIMEDOUT) => Self::NoAnswer,
            _other => Self::Refused,
        }
    }
}

/// How many files and OPENs are passed through, and why others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedThrough {
    /// Why no file of the mount is; none where they are.
    pub off: Option<String>,
    /// Backing ids that the kernel holds now, each of one file.
    pub files: usize,
    /// OPENs and CREATEs whose READs and WRITEs go past the daemon.
    pub opens: u64,
    /// The other OPENs of regular files, by reason, where the mount passes files through.
    pub through_daemon: Vec<Reason>,
}

/// A number of OPENs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Why.
    pub reason: String,
    /// How many.
    pub opens: u64,
    /// The daemon decides so, since it is as fast; else it cannot help it.
    #[serde(default)]
    pub is_choice: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct BackingIds {
    registrar: OnceLock<Arc<dyn RegisterBacking>>,
    /// Held while a notification of attributes alone is sent, for which the kernel takes no folio lock: so a
    /// thread that serves an OPEN may, before its reply. A leaf lock.
    send: Mutex<Option<SendInval>>,
    off: Mutex<Option<String>>,
    /// Devices of which the kernel takes no file. A leaf lock.
    refused: Mutex<HashMap<u64, WhyNot>>,
    files: Arc<AtomicUsize>,
    opens: AtomicU64,
    /// The device on which there was plenty of space, and until when that is taken for granted. A leaf lock.
    plenty: Mutex<Option<(u64, Instant)>>,
    through_daemon: [AtomicU64; WhyNot::ALL.len()],
    /// Oldest first, each inode once. Taken inside an inode's lock; a leaf lock.
    idle: Mutex<Idle>,
    changed: Condvar,
}

#[derive(Default)]
struct Idle {
    running: bool,
    inodes: VecDeque<(Instant, Weak<Inode>)>,
    /// Those that the kernel is to forget, since it asks for their attributes each time.
    volatile: Vec<u64>,
}

impl Idle {
    /// All handles are released: what may have been mapped is an inode like any other once the kernel has forgotten
    /// it, which it does unless the mapping lasts.
    fn note_closed(&mut self, inode: &Inode) {
        if inode.sort.may_be_mapped() && self.volatile.len() < MOST_VOLATILE {
            self.volatile.push(inode.ino);
        }
    }
}

impl fmt::Debug for BackingIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackingIds")
            .field("registrar", &self.registrar)
            .finish_non_exhaustive()
    }
}

/// Counts the ids of one mount that exist.
#[derive(Debug)]
struct Counting {
    by: Arc<dyn RegisterBacking>,
    files: Arc<AtomicUsize>,
}

impl RegisterBacking for Counting {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        let id = self.by.open(file)?;
        self.files.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    fn close_soon(&self, id: i32) {
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.by.close_soon(id);
    }

    fn flush(&self) {
        self.by.flush();
    }

    fn keep(&self, ids: &[InUse<'_>]) -> io::Result<()> {
        self.files.fetch_add(ids.len(), Ordering::Relaxed);
        self.by.keep(ids)
    }

    fn settle(&self) {
        self.by.settle();
    }
}

impl BackingIds {
    /// From now on files are passed through, by ids of `registrar`'s. Before the first OPEN.
    ///
    /// # Errors
    /// When there can be no thread that ends what is idle.
    pub(crate) fn start(
        self: &Arc<Self>,
        registrar: Arc<dyn RegisterBacking>,
        send: SendInval,
        prune: Option<SendPrune>,
    ) -> io::Result<()> {
        let files = Arc::clone(&self.files);
        let counting = Arc::new(Counting {
            by: registrar,
            files,
        });
        if self.registrar.set(counting).is_err() {
            return Err(io::Error::other("files are passed through already"));
        }
        *self.send.lock() = Some(send);
        self.idle.lock().running = true;
        let ids = Arc::clone(self);
        std::thread::Builder::new()
            .name("thrufs-backing".into())
            .spawn(move || ids.serve(prune.as_ref()))
            .map(drop)
    }

    /// Says why no file of the mount is passed through.
    pub(crate) fn set_off(&self, reason: String) {
        *self.off.lock() = Some(reason);
    }

    /// Whether files of this mount are passed through.
    pub(crate) fn is_on(&self) -> bool {
        self.registrar.get().is_some()
    }

    /// Waits until what was ended before is let go.
    pub(crate) fn settle(&self) {
        if let Some(registrar) = self.registrar.get() {
            registrar.settle();
        }
    }

    /// The kernel asks for the attributes of `ino` the next time they are used.
    pub(crate) fn invalidate_attributes(&self, ino: u64) {
        let (offset, len) = InvalRange::ATTRIBUTES.offset_and_len();
        if let Some(send) = &*self.send.lock()
            && let Err(error) = send(ino, offset, len)
        {
            tracing::debug!(ino, %error, "attributes stay until their timeout");
        }
    }

    /// Ends the thread, and keeps no id without a handle from now on.
    pub(crate) fn stop(&self) {
        *self.send.lock() = None;
        let mut idle = self.idle.lock();
        idle.running = false;
        let all = std::mem::take(&mut idle.inodes);
        drop(idle);
        self.changed.notify_all();
        for inode in all.iter().filter_map(|(_, inode)| inode.upgrade()) {
            inode.sort.let_idle_go();
        }
    }

    /// Counts one more handle of `inode`, and returns the backing id that it is opened by, if it is passed
    /// through. `why_not` is asked of the first handle; `file` is what is registered then.
    ///
    /// # Errors
    /// Those of the registration, with `must`; nothing is counted then.
    pub(crate) fn enter<F: AsFd>(
        &self,
        inode: &Inode,
        must: bool,
        why_not: impl FnOnce() -> Option<WhyNot>,
        file: impl FnOnce() -> io::Result<F>,
    ) -> io::Result<Option<i32>> {
        let Some(registrar) = self.registrar.get() else {
            return Ok(None);
        };
        let mut sort = inode.sort.state.lock();
        if sort.id.is_none() {
            let why_not = match sort.handles {
                0 => why_not().or_else(|| self.is_known_refused(inode, must)),
                _open => Some(WhyNot::OpenOtherwise),
            };
            let registered = match why_not {
                Some(why_not) => Err(why_not),
                None => match file().and_then(|file| registrar.open(file.as_fd())) {
                    Ok(id) => Ok(id),
                    Err(error) if must => return Err(error),
                    Err(error) => Err(self.failed(inode, &error)),
                },
            };
            match registered {
                Ok(id) => {
                    let by = Arc::clone(registrar);
                    sort.id = Some(BackingId {
                        id,
                        by,
                        is_for_later: false,
                    });
                }
                Err(why_not) => {
                    self.through_daemon[why_not as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        sort.handles += 1;
        let id = sort.id.as_ref().map(|id| id.id);
        if id.is_some() {
            self.opens.fetch_add(1, Ordering::Relaxed);
        }
        Ok(id)
    }

    /// Counts a handle of `inode` that a server which died has opened, by the id `id` or through the daemon. Before
    /// [`keep`](Self::keep).
    ///
    /// # Errors
    /// Its handles are not of one sort.
    pub(crate) fn take_over(&self, inode: &Inode, id: Option<i32>) -> Result<(), Damaged> {
        let Some(by) = self.registrar.get() else {
            return Ok(());
        };
        let mut sort = inode.sort.state.lock();
        let there = sort.id.as_ref().map(|id| id.id);
        if sort.handles > 0 && there != id {
            return Err(Damaged("handles of one inode are of two sorts"));
        }
        if let (None, Some(id)) = (there, id) {
            let by = Arc::clone(by);
            let is_for_later = false;
            sort.id = Some(BackingId {
                id,
                by,
                is_for_later,
            });
        }
        sort.handles += 1;
        Ok(())
    }

    /// Ends the ids that a server which died has left, all but these.
    ///
    /// # Errors
    /// One of them is not an id of its file.
    pub(crate) fn keep(&self, ids: &[InUse<'_>]) -> io::Result<()> {
        let Some(registrar) = self.registrar.get() else {
            return Ok(());
        };
        match registrar.keep(ids) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "files that are closed may take space for a while");
                Ok(())
            }
            kept => kept,
        }
    }

    /// An inode that a server which died knew as [`HandleSort::may_be_mapped`](crate::handle_sort::HandleSort).
    pub(crate) fn take_over_mapped(&self, inode: &Inode) {
        inode.sort.note_mappable();
        self.idle.lock().note_closed(inode);
    }

    /// Whether little is free where `inode` is, which is open as `file`.
    pub(crate) fn is_nearly_full(&self, inode: &Inode, file: &OwnedFd) -> bool {
        let (dev, now) = (inode.key.dev, Instant::now());
        let mut plenty = self.plenty.lock();
        if plenty.is_some_and(|(of, until)| of == dev && now < until) {
            return false;
        }
        let (is_nearly_full, is_plenty) = free_space(file);
        *plenty = is_plenty.then_some((dev, now + PLENTY_LASTS));
        is_nearly_full
    }

    fn is_known_refused(&self, inode: &Inode, must: bool) -> Option<WhyNot> {
        let refused = self.refused.lock();
        (!must).then(|| refused.get(&inode.key.dev).copied())?
    }

    fn failed(&self, inode: &Inode, error: &io::Error) -> WhyNot {
        let (ino, dev) = (inode.ino, inode.key.dev);
        tracing::debug!(ino, %error, "no kernel passthrough");
        let why_not = WhyNot::of(error);
        let lasts = matches!(why_not, WhyNot::Stacked | WhyNot::OtherFileSystem)
            || error.raw_os_error() == Some(libc::EPERM);
        if lasts {
            let mut refused = self.refused.lock();
            if refused.len() < MOST_REFUSED && refused.insert(dev, why_not).is_none() {
                tracing::info!("no kernel passthrough of files on device {dev:#x}: {error}");
            }
        }
        why_not
    }

    /// A handle that entered was released. With `keep` its id stays for a moment.
    pub(crate) fn release(&self, inode: &Arc<Inode>, keep: impl FnOnce() -> bool) {
        if !self.is_on() {
            return;
        }
        let mut sort = inode.sort.state.lock();
        sort.handles = sort.handles.saturating_sub(1);
        if sort.handles > 0 || sort.id.is_none() {
            return;
        }
        let (now, keep) = (Instant::now(), keep());
        sort.since = Some(now);
        if keep && sort.is_queued {
            return;
        }
        let kept = keep.then(|| self.queue(now, inode)).flatten();
        let Some(overflow) = kept else {
            let gone = sort.id.take();
            drop(sort);
            return drop(gone);
        };
        sort.is_queued = true;
        drop(sort);
        if let Some(oldest) = overflow.and_then(|oldest| oldest.upgrade()) {
            oldest.sort.make_room();
            self.idle.lock().note_closed(&oldest);
        }
    }

    /// None: nothing is kept. Else the one that is kept no longer, if there are too many.
    #[expect(clippy::option_option, reason = "whether it is kept, and what is not")]
    fn queue(&self, now: Instant, inode: &Arc<Inode>) -> Option<Option<Weak<Inode>>> {
        let mut idle = self.idle.lock();
        if !idle.running {
            return None;
        }
        if idle.inodes.is_empty() {
            self.changed.notify_all();
        }
        idle.inodes.push_back((now, Arc::downgrade(inode)));
        let overflow = (idle.inodes.len() > MOST_IDLE).then(|| idle.inodes.pop_front());
        Some(overflow.flatten().map(|(_, oldest)| oldest))
    }

    fn serve(&self, prune: Option<&SendPrune>) {
        let mut idle = self.idle.lock();
        while idle.running {
            let Some(&(since, _)) = idle.inodes.front() else {
                self.changed.wait(&mut idle);
                continue;
            };
            if !self.changed.wait_until(&mut idle, since + IDLE).timed_out() {
                continue;
            }
            let now = Instant::now();
            let is_due = |since: &Instant| now.duration_since(*since) >= IDLE;
            let count = idle.inodes.partition_point(|(since, _)| is_due(since));
            let due: Vec<_> = idle.inodes.drain(..count).collect();
            MutexGuard::unlocked(&mut idle, || {
                for inode in due.iter().filter_map(|(_, inode)| inode.upgrade()) {
                    self.end_if_idle(&inode);
                }
                // Also those that made room for others before.
                if let Some(registrar) = self.registrar.get() {
                    registrar.flush();
                }
            });
            let volatile = std::mem::take(&mut idle.volatile);
            if let (Some(prune), false) = (prune, volatile.is_empty()) {
                MutexGuard::unlocked(&mut idle, || {
                    if let Err(error) = prune(&volatile) {
                        tracing::debug!(%error, "the kernel forgets no inode");
                    }
                });
            }
        }
    }

    /// Ends the id of an inode that was queued, unless it has been used since.
    fn end_if_idle(&self, inode: &Arc<Inode>) {
        let mut sort = inode.sort.state.lock();
        sort.is_queued = false;
        if sort.handles > 0 {
            return;
        }
        let gone = match sort.since {
            Some(since) if since.elapsed() < IDLE => {
                let mut idle = self.idle.lock();
                sort.is_queued = idle.running;
                match idle.running {
                    true => {
                        idle.inodes
                            .push_back((Instant::now(), Arc::downgrade(inode)));
                        None
                    }
                    false => sort.id.take(),
                }
            }
            _long_ago => sort.id.take(),
        };
        drop(sort);
        // Also one that is used again and again: with its FORGET the id ends.
        self.idle.lock().note_closed(inode);
        drop(gone);
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> PassedThrough {
        let counted = WhyNot::ALL.iter().map(|(why_not, reason)| Reason {
            reason: (*reason).to_owned(),
            opens: self.through_daemon[*why_not as usize].load(Ordering::Relaxed),
            is_choice: why_not.is_choice(),
        });
        PassedThrough {
            off: self.off.lock().clone(),
            files: self.files.load(Ordering::Relaxed),
            opens: self.opens.load(Ordering::Relaxed),
            through_daemon: counted.filter(|reason| reason.opens > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
