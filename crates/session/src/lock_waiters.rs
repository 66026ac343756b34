//! Requests that wait for a lock (SETLKW, flock(2)), so that no session thread blocks on one.
//!
//! One thread, running while there is a waiter: it retries each lock when one is released through this
//! mount, and at intervals for those that host processes hold. A caller whose request was read cannot even
//! be killed, so the thread also asks whether the caller has a signal, and answers EINTR (which the kernel
//! restarts as for a local lock): by INTERRUPT, or, since fuser does not hand that on, by the caller's
//! pending signals. Why not a blocking F_OFD_SETLKW in a thread each: unbounded threads, which only a
//! signal of ours could free.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use thrufs_fs::{Errno, LockRequest, LockWait, Passthrough, Result};

/// Longest time until a lock that a host process released, or a signal, is noticed.
const INTERVAL: Duration = Duration::from_millis(50);

/// Called once with the outcome.
pub(crate) type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// Whether the caller has a signal.
pub(crate) type IsInterrupted = Box<dyn Fn() -> bool + Send>;

struct Waiter {
    request: LockRequest,
    is_interrupted: IsInterrupted,
    answer: Answer,
}

/// See the module.
#[derive(Default)]
pub(crate) struct LockWaiters {
    /// None while no thread runs.
    waiting: Mutex<Option<Vec<Waiter>>>,
}

impl LockWaiters {
    /// Answers when the lock is taken, cannot be taken at all, or the caller has a signal.
    pub(crate) fn wait(
        self: &Arc<Self>,
        fs: &Arc<Passthrough>,
        request: LockRequest,
        is_interrupted: IsInterrupted,
        answer: Answer,
    ) {
        let waiter = Waiter {
            request,
            is_interrupted,
            answer,
        };
        let mut waiting = self.waiting.lock();
        match waiting.as_mut() {
            Some(list) => list.push(waiter),
            None => {
                *waiting = Some(vec![waiter]);
                let (waiters, fs) = (self.clone(), fs.clone());
                let thread = std::thread::Builder::new().name("thrufs-locks".into());
                if let Err(error) = thread.spawn(move || waiters.serve(&fs)) {
                    tracing::error!(%error, "no thread for waiting locks");
                    for waiter in waiting.take().into_iter().flatten() {
                        (waiter.answer)(Err(Errno::ENOLCK));
                    }
                }
            }
        }
    }

    /// Drops all waiters when the session has ended: each holds a reply, and with it the connection.
    pub(crate) fn stop(&self) {
        *self.waiting.lock() = None;
    }

    fn serve(&self, fs: &Passthrough) {
        loop {
            let Some(list) = self.waiting.lock().as_mut().map(std::mem::take) else {
                return;
            };
            let mut left: Vec<Waiter> = list
                .into_iter()
                .filter_map(|waiter| waiter.advance(fs))
                .collect();
            let mut waiting = self.waiting.lock();
            let Some(fresh) = waiting.as_mut() else {
                return;
            };
            left.append(fresh);
            if left.is_empty() {
                *waiting = None;
                return;
            }
            *waiting = Some(left);
            drop(waiting);
            fs.wait_lock_released(INTERVAL);
        }
    }
}

impl Waiter {
    /// Tries again; returns itself if there is still reason to wait.
    fn advance(self, fs: &Passthrough) -> Option<Self> {
        let outcome = match fs.try_setlk(&self.request) {
            Ok(LockWait::Busy) if (self.is_interrupted)() => Err(Errno::EINTR),
            Ok(LockWait::Busy) => return Some(self),
            Ok(LockWait::Done) => Ok(()),
            Err(error) => Err(error),
        };
        (self.answer)(outcome);
        None
    }
}
