//! File systems mounted below SOURCE, which are let go when they are idle: umount(8) of one is EBUSY
//! while anything on it is held, in a sandbox that follows the mounts outside as well.
//!
//! What is held is what the kernel knows, and a kernel with memory to spare forgets nothing by itself. So
//! when nothing on such a mount has been asked for during [`IDLE`], the kernel is asked to forget all of it
//! that is not in use (NOTIFY_PRUNE, Linux 6.18), and again while something is left: what a current
//! directory keeps is forgotten soon after that process has left. Why not when umount(2) is tried: nothing
//! tells of an attempt that failed. Why not NOTIFY_INVAL_ENTRY for older kernels: it unhashes directories
//! that are in use, so that getcwd(2) fails there, and it detaches what the client has mounted on them.
//!
//! Invariant: notifications are sent from a thread that serves no request and holds no lock of ours.

mod absent;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::inode::Inode;
use crate::notifier::{SendEntry, SendPrune};
use absent::Absent;

/// So long nothing on a mount is asked for before it is let go.
const IDLE: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Before what is in use is asked for again.
const IN_USE: Duration = Duration::from_millis(500);
/// Of the time that takes, which is short unless a great many are in use, the thread rests so many times.
const REST: u32 = 20;
/// Inodes in one notification.
const BATCH: usize = 512;
/// Until the FORGETs of a round have come, about; and at most, if none comes.
const SETTLE: (Duration, u32) = (Duration::from_millis(1), 20);

/// See the module.
#[derive(Debug)]
pub(crate) struct SubMounts {
    /// The mount of SOURCE itself.
    top: u64,
    /// By mount id. A leaf lock.
    mounts: RwLock<HashMap<u64, Arc<SubMount>>>,
    /// While the thread runs; nothing is noted while it does not.
    running: AtomicBool,
    /// A leaf lock. The thread is to look.
    woken: Mutex<bool>,
    changed: Condvar,
}

#[derive(Debug)]
struct SubMount {
    start: Instant,
    /// Not to be let go before this, in milliseconds from `start`.
    due: AtomicU64,
    /// The inodes that the kernel knows, by number, with their addresses: a number is used again before the
    /// one that had it has told that it is forgotten. A leaf lock.
    inodes: Mutex<HashMap<u64, usize>>,
    /// A leaf lock.
    absent: Mutex<Absent>,
}

/// How a mount is let go.
pub struct LetGo {
    /// NOTIFY_PRUNE.
    pub prune: SendPrune,
    /// NOTIFY_INVAL_ENTRY.
    pub entry: SendEntry,
}

impl SubMount {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            due: AtomicU64::new(0),
            inodes: Mutex::default(),
            absent: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_due(&self) -> bool {
        self.now() >= self.due.load(Ordering::Relaxed)
    }

    fn put_off(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let due = self.now().saturating_add(time);
        self.due.fetch_max(due, Ordering::Relaxed);
    }

    fn len(&self) -> usize {
        self.inodes.lock().len()
    }
}

impl SubMounts {
    pub(crate) fn new(top: u64) -> Self {
        Self {
            top,
            mounts: RwLock::default(),
            running: AtomicBool::new(false),
            woken: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Whether mounts are let go.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether `inode` is on another mount than SOURCE's own.
    pub(crate) fn is_below(&self, inode: &Inode) -> bool {
        inode.key.mnt_id != self.top
    }

    /// The mount that `inode` is on, if it is not SOURCE's own and something is known of it.
    fn of(&self, inode: &Inode) -> Option<Arc<SubMount>> {
        if inode.key.mnt_id == self.top {
            return None;
        }
        self.mounts.read().get(&inode.key.mnt_id).cloned()
    }

    /// The kernel asks for something about `inode`.
    pub(crate) fn used(&self, inode: &Inode) {
        if let Some(mount) = self.of(inode) {
            mount.put_off(IDLE);
        }
    }

    /// The kernel comes to know `inode`, or knows it already.
    pub(crate) fn looked_up(&self, inode: &Arc<Inode>) {
        if inode.key.mnt_id == self.top || !self.running.load(Ordering::Relaxed) {
            return;
        }
        let mount = self.of(inode).unwrap_or_else(|| {
            let mut mounts = self.mounts.write();
            let fresh = || Arc::new(SubMount::new());
            Arc::clone(mounts.entry(inode.key.mnt_id).or_insert_with(fresh))
        });
        mount.put_off(IDLE);
        let is_first = {
            let mut inodes = mount.inodes.lock();
            inodes.insert(inode.ino, Arc::as_ptr(inode) as usize);
            inodes.len() == 1
        };
        if is_first {
            self.wake();
        }
    }

    /// The kernel is told that there is no `name` in directory `parent`.
    pub(crate) fn is_absent(&self, parent: &Inode, name: &OsStr) {
        if let Some(mount) = self.of(parent)
            && mount.absent.lock().insert(parent.ino, name)
        {
            self.wake();
        }
    }

    /// The kernel is told of `name` in directory `parent` next.
    pub(crate) fn is_present(&self, parent: &Inode, name: &OsStr) {
        if let Some(mount) = self.of(parent) {
            mount.absent.lock().remove(parent.ino, name);
        }
    }

    /// The kernel has forgotten `inode`.
    pub(crate) fn forgotten(&self, inode: &Arc<Inode>) {
        let Some(mount) = self.of(inode) else { return };
        let mut inodes = mount.inodes.lock();
        if inodes.get(&inode.ino) == Some(&(Arc::as_ptr(inode) as usize)) {
            inodes.remove(&inode.ino);
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self: &Arc<Self>, send: LetGo) -> io::Result<()> {
        self.running.store(true, Ordering::Relaxed);
        let mounts = Arc::clone(self);
        let serve = move || {
            while let Some(mount) = mounts.next() {
                if let Err(error) = mount.let_go(&send) {
                    tracing::warn!(%error, "mounts below SOURCE are kept busy from now on");
                    mounts.stop();
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("thrufs-idle".into());
        thread.spawn(serve).map(drop).inspect_err(|_| self.stop())
    }

    /// Ends the thread; it is not waited for, since it may be waiting for the kernel.
    pub(crate) fn stop(&self) {
        self.running.store(false, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for a mount that there is something to do for; none when the thread is to end.
    fn next(&self) -> Option<Arc<SubMount>> {
        while self.running.load(Ordering::Relaxed) {
            let (due, is_none_known) = self.due();
            if due.is_some() {
                return due;
            }
            let mut woken = self.woken.lock();
            while is_none_known && !*woken {
                self.changed.wait(&mut woken);
            }
            if !*woken {
                self.changed.wait_for(&mut woken, LOOK);
            }
            *woken = false;
        }
        None
    }

    /// One that there is something to do for, and whether there is nothing known on any.
    fn due(&self) -> (Option<Arc<SubMount>>, bool) {
        let mut mounts = self.mounts.write();
        // A second owner is about to note an inode.
        mounts.retain(|_, mount| mount.len() > 0 || Arc::strong_count(mount) > 1);
        let is_due = |mount: &&Arc<SubMount>| mount.is_due() || mount.absent.lock().is_full();
        (mounts.values().find(is_due).cloned(), mounts.is_empty())
    }
}

impl SubMount {
    /// Makes the kernel forget what it does not use: names that are not there, the files, then the
    /// directories that held them, and so on, until no more is forgotten or something is asked for. On a
    /// mount that is not idle just the names, when there are too many.
    fn let_go(&self, send: &LetGo) -> io::Result<()> {
        let start = Instant::now();
        while let Some((parent, name)) = self.pop_absent() {
            (send.entry)(parent, &name)?;
        }
        while self.is_due() {
            let inodes: Vec<u64> = self.inodes.lock().keys().copied().collect();
            if inodes.is_empty() {
                return Ok(());
            }
            for batch in inodes.chunks(BATCH) {
                (send.prune)(batch)?;
            }
            if !self.becomes_fewer(inodes.len()) {
                break;
            }
        }
        if self.is_due() {
            self.put_off(IN_USE.max(start.elapsed() * REST));
        }
        Ok(())
    }

    fn pop_absent(&self) -> Option<absent::Name> {
        let is_due = self.is_due();
        self.absent.lock().pop(is_due)
    }

    /// Waits a little for FORGETs.
    fn becomes_fewer(&self, than: usize) -> bool {
        let (step, most) = SETTLE;
        (0..most).any(|_| {
            std::thread::sleep(step);
            self.len() < than
        })
    }
}
