//! `--max-inodes`: has the kernel forget inodes when it knows more of them than this file system is to
//! hold. A kernel with memory to spare forgets nothing by itself, and each inode that it knows costs us
//! memory, or a descriptor.
//!
//! By NOTIFY_PRUNE, which makes the kernel drop what nobody uses; the FORGETs come by themselves. So the
//! bound is soft: what is open, or a directory above something that is known, stays. A walk that looks up
//! faster than the kernel forgets is held back a little, so that it does not use up all descriptors.
//!
//! Invariant: notifications are sent from a thread that serves no request and holds no lock of ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::notify::SendPrune;
use crate::passthrough::Passthrough;

/// Inodes in one notification.
const BATCH: usize = 512;
/// Until the FORGETs of a batch have come, about.
const SETTLE: Duration = Duration::from_millis(2);
/// When the kernel uses all that it knows: until it is asked again.
const IN_USE: Duration = Duration::from_secs(1);
/// A LOOKUP that is held back looks again after such a while, so often.
const HELD_BACK: (Duration, u32) = (Duration::from_millis(1), 50);

/// See the module.
#[derive(Debug)]
pub(crate) struct InodePressure {
    limit: usize,
    /// More are known than `limit`; cleared by the thread.
    over: AtomicBool,
    /// Waiting for the kernel to forget would be in vain: there is no thread that asks it to, or it uses
    /// all that it knows.
    in_vain: AtomicBool,
    /// A leaf lock, never held while a notification is sent. True while the thread runs.
    running: Mutex<bool>,
    changed: Condvar,
}

impl InodePressure {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            over: AtomicBool::new(false),
            in_vain: AtomicBool::new(true),
            running: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// After a LOOKUP: so many are known now.
    pub(crate) fn note(&self, known: usize) {
        if known > self.limit && !self.over.swap(true, Ordering::Relaxed) {
            let _running = self.running.lock();
            self.changed.notify_all();
        }
    }

    /// Before a LOOKUP is answered: while half as many again are known as are to be, it waits for the
    /// kernel to forget some, but not for long.
    pub(crate) fn hold_back(&self, known: impl Fn() -> usize) {
        let (step, most) = HELD_BACK;
        for _ in 0..most {
            if known() <= self.limit + self.limit / 2 || self.in_vain.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(step);
        }
    }

    /// Below this it is enough, so that not every LOOKUP that follows is one too many.
    fn enough(&self) -> usize {
        self.limit - self.limit / 8
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        self: &Arc<Self>,
        fs: &Arc<Passthrough>,
        send: SendPrune,
    ) -> io::Result<()> {
        *self.running.lock() = true;
        self.in_vain.store(false, Ordering::Relaxed);
        // Weak: the thread must not keep the file system, and all it has open, alive.
        let (pressure, fs) = (Arc::clone(self), Arc::downgrade(fs));
        let thread = std::thread::Builder::new().name("thrufs-prune".into());
        let serve = move || {
            while pressure.wait_until_over() {
                let Some(fs) = fs.upgrade() else { return };
                if let Err(error) = pressure.relieve(&fs, &send) {
                    pressure.in_vain.store(true, Ordering::Relaxed);
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

    /// Goes once through all that are known, until it is enough.
    fn relieve(&self, fs: &Passthrough, send: &SendPrune) -> io::Result<()> {
        let mut asked = 0;
        self.in_vain.store(false, Ordering::Relaxed);
        loop {
            let known = fs.inodes.len();
            if known <= self.enough() {
                break;
            }
            let batch = fs
                .inodes
                .some_numbers(asked, BATCH.min(known - self.enough()));
            if batch.is_empty() {
                tracing::debug!(
                    known,
                    limit = self.limit,
                    "the kernel uses all inodes that it knows"
                );
                self.in_vain.store(true, Ordering::Relaxed);
                self.pause(IN_USE);
                break;
            }
            tracing::trace!(known, count = batch.len(), "NOTIFY_PRUNE");
            send(&batch)?;
            if !self.pause(SETTLE) {
                break;
            }
            // Those that were forgotten are no longer among them.
            asked += batch
                .len()
                .saturating_sub(known.saturating_sub(fs.inodes.len()));
        }
        self.over.store(false, Ordering::Relaxed);
        self.note(fs.inodes.len());
        Ok(())
    }
}

impl Passthrough {
    /// From now on, has the kernel forget inodes when it knows too many. `send` is none where the kernel
    /// does not have the notification.
    ///
    /// # Errors
    /// When there can be no thread that sends it, or it is asked for and cannot be had.
    pub fn start_pruning(self: &Arc<Self>, send: Option<SendPrune>) -> io::Result<()> {
        match (&self.pressure, send) {
            (None, _) => Ok(()),
            (Some(pressure), Some(send)) => pressure.start(self, send),
            (Some(_), None) if self.config.max_inodes.is_some() => Err(io::Error::other(
                "--max-inodes needs NOTIFY_PRUNE (Linux 6.18): leave it out",
            )),
            (Some(_), None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn hold_back_waits_until_enough_are_forgotten() {
        let pressure = InodePressure::new(100);
        pressure.in_vain.store(false, Ordering::Relaxed);
        let known = Cell::new(153);
        pressure.hold_back(|| {
            known.set(known.get() - 1);
            known.get()
        });
        assert_eq!(known.get(), 150);
    }

    #[test]
    fn hold_back_waits_for_nothing_that_cannot_come() {
        let pressure = InodePressure::new(100);
        let asked = Cell::new(0);
        let known = || {
            asked.set(asked.get() + 1);
            1000
        };
        pressure.hold_back(known);
        assert_eq!(asked.get(), 1, "no thread asks the kernel to forget");
        pressure.in_vain.store(false, Ordering::Relaxed);
        pressure.hold_back(known);
        assert_eq!(asked.get(), 1 + HELD_BACK.1, "the kernel forgets none");
    }
}
