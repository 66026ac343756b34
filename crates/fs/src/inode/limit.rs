//! `--max-inodes`: NOTIFY_PRUNE asks the kernel to forget inodes when it knows more of them than the
//! limit. A kernel with memory to spare forgets nothing by itself, and each inode that it knows costs us
//! memory, or a descriptor.
//!
//! By NOTIFY_PRUNE, which makes the kernel drop what is not in use; the FORGETs come by themselves. So the
//! bound is soft: what is open, or a directory above something that is known, stays. A walk that looks up
//! faster than the kernel forgets is held back a little, so that it does not use up all descriptors.
//!
//! Invariant: notifications are sent from a thread that serves no request and holds no lock of ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::forget_wait::ForgetWait;
use crate::notifier::SendPrune;

/// Inodes in one notification.
const BATCH: usize = 512;
/// Until the FORGETs of a batch have come, about.
const SETTLE: Duration = Duration::from_millis(2);
/// They come by requests that session threads have to get to: on a busy machine the first one not before this.
const LATE: Duration = Duration::from_secs(3);
/// When the kernel uses all that it knows: until it is asked again.
const IN_USE: Duration = Duration::from_secs(1);
/// A LOOKUP is held back no longer.
const HELD_BACK: Duration = Duration::from_millis(50);
/// Where no other thread is left to hear of a FORGET, it gives the notification this time.
const ONE_THREAD: Duration = Duration::from_millis(1);

/// The inodes that the kernel knows, and what depends on their number.
pub(crate) trait Known: Send + Sync + 'static {
    /// How many.
    fn known(&self) -> usize;

    /// How many it has forgotten so far.
    fn forgotten(&self) -> u64;

    /// Nodeids of `count` of them, in the order of their becoming known from the `from`th on.
    fn some_numbers(&self, from: usize, count: usize) -> Vec<u64>;

    /// What is left of `limit` now.
    fn limit_now(&self, limit: usize) -> usize;

    /// What a FORGET wakes.
    fn forgets(&self) -> &Arc<ForgetWait>;

    /// The kernel uses all of them: a request that waits for one waits in vain.
    fn hope_for_none(&self);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct InodeLimit {
    limit: usize,
    /// More are known than `limit`; cleared by the thread.
    over: AtomicBool,
    /// The thread that asks the kernel to forget is there.
    is_asking: AtomicBool,
    /// The kernel uses all that it knows: it was asked to forget each, and has forgotten none since.
    in_vain: AtomicBool,
    /// A leaf lock, never held while a notification is sent. True while the thread runs.
    running: Mutex<bool>,
    changed: Condvar,
}

impl InodeLimit {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            over: AtomicBool::new(false),
            is_asking: AtomicBool::new(false),
            in_vain: AtomicBool::new(false),
            running: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// After a LOOKUP: more are known now.
    pub(crate) fn note(&self, fs: &impl Known) {
        if self.is_over(fs) && !self.over.swap(true, Ordering::Relaxed) {
            let _running = self.running.lock();
            self.changed.notify_all();
        }
    }

    /// How many may be known now.
    pub(crate) fn now(&self, fs: &impl Known) -> usize {
        fs.limit_now(self.limit)
    }

    /// More are known than the limit allows.
    pub(crate) fn is_over(&self, fs: &impl Known) -> bool {
        fs.known() > fs.limit_now(self.limit)
    }

    /// More than 1.5 x limit are known.
    pub(crate) fn is_far_over(&self, fs: &impl Known) -> bool {
        let limit = fs.limit_now(self.limit);
        fs.known() > limit + limit / 2
    }

    /// Nothing comes of waiting for the kernel to forget.
    pub(crate) fn is_in_vain(&self) -> bool {
        !self.is_asking.load(Ordering::Relaxed) || self.in_vain.load(Ordering::Relaxed)
    }

    /// The kernel has forgotten an inode: what it knows is not all in use.
    pub(crate) fn forgotten(&self) {
        if self.in_vain.load(Ordering::Relaxed) {
            self.in_vain.store(false, Ordering::Relaxed);
        }
    }

    /// Throttles LOOKUP: while the number exceeds 1.5 x limit, its answer waits for the kernel to
    /// forget some, but not for long.
    pub(crate) fn hold_back(&self, fs: &impl Known) {
        let may_go_on = || !self.is_far_over(fs) || self.is_in_vain();
        if may_go_on() {
            return;
        }
        match fs.forgets().enter() {
            Some(waiting) => {
                waiting.until(Instant::now() + HELD_BACK, may_go_on);
            }
            None => std::thread::sleep(ONE_THREAD),
        }
    }

    /// Below this it is enough, so that not every LOOKUP that follows is one too many.
    fn enough(&self, fs: &impl Known) -> usize {
        let limit = fs.limit_now(self.limit);
        limit - limit / 8
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self: &Arc<Self>, fs: &Arc<impl Known>, send: SendPrune) -> io::Result<()> {
        *self.running.lock() = true;
        self.is_asking.store(true, Ordering::Relaxed);
        // Weak: the thread must not keep the file system, and all it has open, alive.
        let (pressure, fs) = (Arc::clone(self), Arc::downgrade(fs));
        let thread = std::thread::Builder::new().name("thrufs-prune".into());
        let serve = move || {
            while pressure.wait_until_over() {
                let Some(fs) = fs.upgrade() else { return };
                if let Err(error) = pressure.relieve(&*fs, &send) {
                    pressure.is_asking.store(false, Ordering::Relaxed);
                    fs.hope_for_none();
                    tracing::warn!(%error, "NOTIFY_PRUNE: the number of inodes is no longer bounded");
                    return;
                }
            }
        };
        thread.spawn(serve).map(drop)
    }

    /// Ends the thread; it is not waited for, since it may be waiting for the kernel.
    pub(crate) fn stop(&self) {
        *self.running.lock() = false;
        self.changed.notify_all();
    }

    /// False when there is nothing more to do.
    fn wait_until_over(&self) -> bool {
        let mut running = self.running.lock();
        while *running && !self.over.load(Ordering::Relaxed) {
            self.changed.wait(&mut running);
        }
        *running
    }

    /// Waits; false when the thread is to end.
    fn pause(&self, time: Duration) -> bool {
        let mut running = self.running.lock();
        if *running {
            self.changed.wait_for(&mut running, time);
        }
        *running
    }

    /// Whether the kernel has forgotten any since there were so many, however slowly it is heard.
    fn wait_for_forget(&self, fs: &impl Known, before: u64) -> bool {
        let start = Instant::now();
        while fs.forgotten() == before {
            if start.elapsed() >= LATE || !self.pause(SETTLE) {
                return false;
            }
        }
        true
    }

    /// Goes through all that are known, until it is enough or the kernel forgets no more.
    fn relieve(&self, fs: &impl Known, send: &SendPrune) -> io::Result<()> {
        let (mut asked, mut from) = (0, fs.forgotten());
        loop {
            let known = fs.known();
            if known <= self.enough(fs) {
                break;
            }
            let some = BATCH.min(known - self.enough(fs));
            // Those that were forgotten are no longer among them.
            let gone = usize::try_from(fs.forgotten() - from).unwrap_or(asked);
            let batch = fs.some_numbers(asked.saturating_sub(gone), some);
            if batch.is_empty() {
                if self.wait_for_forget(fs, from) {
                    (asked, from) = (0, fs.forgotten());
                    continue;
                }
                tracing::debug!(
                    known,
                    limit = self.limit,
                    "the kernel uses all inodes that it knows"
                );
                self.in_vain.store(true, Ordering::Relaxed);
                fs.hope_for_none();
                self.pause(IN_USE);
                break;
            }
            tracing::trace!(known, count = batch.len(), "NOTIFY_PRUNE");
            send(&batch)?;
            if !self.pause(SETTLE) {
                break;
            }
            asked += batch.len();
        }
        self.over.store(false, Ordering::Relaxed);
        self.note(fs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;

    use super::*;
    use crate::config::Config;
    use crate::inode::ROOT_INO;
    use crate::passthrough::Passthrough;

    /// On a busy machine all that were asked for had been asked for before the first FORGET was read. That
    /// was taken for a kernel that uses all that it knows, and for a second nothing was bounded.
    #[test]
    fn relieve_with_forgets_that_come_late_goes_on_until_it_is_enough() {
        let (_source, fs, _inodes) = crowded(40);
        let fs = Arc::new(fs);
        let pressure = fs.pressure.clone().unwrap();
        *pressure.running.lock() = true;
        let kernel = Arc::clone(&fs);
        let send: SendPrune = Box::new(move |batch| {
            let (fs, batch) = (Arc::clone(&kernel), batch.to_vec());
            std::thread::spawn(move || {
                std::thread::sleep(25 * SETTLE);
                batch.iter().for_each(|ino| fs.forget(*ino, 1));
            });
            Ok(())
        });
        pressure.relieve(&*fs, &send).unwrap();
        assert!(fs.inodes.len() <= 8, "{} are left", fs.inodes.len());
        assert!(!pressure.in_vain.load(Ordering::Relaxed));
    }

    /// Serves `files` files of which the kernel knows all, and is to know eight.
    fn crowded(files: usize) -> (tempfile::TempDir, Passthrough, Vec<u64>) {
        let source = tempfile::tempdir().unwrap();
        let config = Config {
            max_inodes: Some(8),
            ..Config::default()
        };
        let top = File::open(source.path()).unwrap();
        let fs = Passthrough::new(top.into(), config).unwrap();
        let look_up = |index: usize| {
            let name = format!("f{index}");
            File::create(source.path().join(&name)).unwrap();
            fs.lookup(ROOT_INO, OsStr::new(&name))
                .unwrap()
                .into_entry()
                .ino
        };
        let inodes = (0..files).map(look_up).collect();
        (source, fs, inodes)
    }

    #[test]
    fn hold_back_waits_until_enough_are_forgotten() {
        let (_source, fs, inodes) = crowded(14);
        fs.forgets.set_threads(2);
        let pressure = fs.pressure.clone().unwrap();
        pressure.is_asking.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| inodes.iter().for_each(|ino| fs.forget(*ino, 1)));
            while pressure.is_far_over(&fs) {
                pressure.hold_back(&fs);
            }
        });
    }

    #[test]
    fn hold_back_waits_for_nothing_that_cannot_come() {
        let (_source, fs, _inodes) = crowded(40);
        let pressure = fs.pressure.clone().unwrap();
        // No thread asks the kernel to forget; waiting would take a thread that takes requests.
        fs.forgets.set_threads(2);
        let _all_that_may_wait = fs.forgets.enter().unwrap();
        pressure.hold_back(&fs);
        assert!(pressure.is_far_over(&fs));
    }
}
