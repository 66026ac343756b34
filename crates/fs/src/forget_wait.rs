//! Requests that wait until the kernel has forgotten something.
//!
//! Invariant: of the threads that take requests one never waits here, since the FORGETs that the others
//! wait for come the same way. So with one thread (`--thread-pool-size=1`) nothing is waited for.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// See the module.
#[derive(Debug)]
pub(crate) struct ForgetWait {
    /// Threads that take requests.
    threads: AtomicUsize,
    /// How many of them wait.
    waiting: AtomicUsize,
    /// FORGETs that came while some waited. A leaf lock.
    forgets: Mutex<u64>,
    changed: Condvar,
}

impl Default for ForgetWait {
    fn default() -> Self {
        Self {
            threads: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            forgets: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

/// Leave to wait, for one thread, until it is dropped.
pub(crate) struct Waiting<'a>(&'a ForgetWait);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ForgetWait {
    /// So many threads take requests; one, if never told.
    pub(crate) fn set_threads(&self, threads: usize) {
        self.threads.store(threads, Ordering::Relaxed);
    }

    /// Leave to wait; none if all other threads have it.
    pub(crate) fn enter(&self) -> Option<Waiting<'_>> {
        let most = self.threads.load(Ordering::Relaxed).saturating_sub(1);
        let one_more = |waiting| (waiting < most).then_some(waiting + 1);
        let entered = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        // Before `done` is asked, as `notify` looks here after what was done.
        fence(Ordering::SeqCst);
        entered.is_ok().then(|| Waiting(self))
    }

    /// The kernel has forgotten an inode, and what that pinned is free.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            *self.forgets.lock() += 1;
            self.changed.notify_all();
        }
    }
}

impl Waiting<'_> {
    /// Waits until `done`, which is asked at once and after each FORGET, but not beyond `deadline`.
    /// Returns whether it is done.
    pub(crate) fn until(&self, deadline: Instant, done: impl Fn() -> bool) -> bool {
        let Self(wait) = self;
        loop {
            let before = *wait.forgets.lock();
            if done() {
                return true;
            }
            let mut forgets = wait.forgets.lock();
            while *forgets == before {
                if wait.changed.wait_until(&mut forgets, deadline).timed_out() {
                    drop(forgets);
                    return done();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn until_a_forget_waits_for_it() {
        let (wait, forgotten) = (ForgetWait::default(), AtomicBool::new(false));
        wait.set_threads(2);
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let waiting = wait.enter().unwrap();
                waiting.until(deadline, || forgotten.load(Ordering::SeqCst))
            });
            while wait.waiting.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // Of another inode.
            wait.notify();
            forgotten.store(true, Ordering::SeqCst);
            wait.notify();
            assert!(waiter.join().unwrap());
        });
        assert!(Instant::now() < deadline);
        assert_eq!(wait.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn enter_by_the_last_thread_that_takes_requests_is_refused() {
        let wait = ForgetWait::default();
        assert!(wait.enter().is_none(), "one thread in all");
        wait.set_threads(2);
        let other = wait.enter();
        assert!(wait.enter().is_none(), "the other one waits already");
        drop(other);
        assert!(wait.enter().is_some());
    }

    #[test]
    fn until_the_deadline_is_not_done() {
        let wait = ForgetWait::default();
        wait.set_threads(8);
        assert!(!wait.enter().unwrap().until(Instant::now(), || false));
    }
}
