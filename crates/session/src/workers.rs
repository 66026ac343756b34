//! Threads for requests that may wait for SOURCE, so that what is behind them in their queue does not wait too.
//!
//! Invariant: every request that is handed over is served, by at most [`MOST`] threads at a time; when there can
//! be no thread at all, by the one that hands it over. Threads are started when none is idle, and end when idle
//! for [`IDLE`], or with the session.
//!
//! Why not a thread for each request: a guest has as many under way as its queues have entries.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Threads at most: two disks' worth of requests, and what 16 slow READs leave for an fsync(2).
pub(crate) const MOST: usize = 32;
/// How long a thread waits for another request.
const IDLE: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Workers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// A leaf lock.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
    /// Those of them that wait for a request, or are about to take the one that was pushed for them.
    idle: usize,
    has_ended: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// Has a thread call `job`, which must not panic.
    pub(crate) fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        state.waiting.push_back(Box::new(job));
        if state.waiting.len() <= state.idle {
            drop(state);
            self.0.changed.notify_one();
            return;
        }
        if state.threads == MOST {
            return;
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("thrufs-worker".into());
        match thread.spawn(move || shared.serve()) {
            Ok(_runs) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                tracing::debug!(%error, "no thread for what may wait");
                let jobs = std::mem::take(&mut state.waiting);
                drop(state);
                jobs.into_iter().for_each(|job| job());
            }
            Err(error) => tracing::debug!(%error, "no other thread for what may wait"),
        }
    }

    /// How many threads there are.
    #[cfg(test)]
    fn threads(&self) -> usize {
        self.0.state.lock().threads
    }
}

impl Drop for Workers {
    /// Its threads serve what waits, and end.
    fn drop(&mut self) {
        self.0.state.lock().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            while let Some(job) = state.waiting.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut state, job);
            }
            if state.has_ended {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Hands over jobs that say that they run, and then wait until the lock is released.
    fn hold(workers: &Workers, gate: &Arc<Mutex<()>>, jobs: usize) -> (Receiver<()>, Receiver<()>) {
        let ((begin, began), (end, ended)) = (channel(), channel());
        for _ in 0..jobs {
            let (gate, begin, end) = (Arc::clone(gate), begin.clone(), end.clone());
            workers.hand_over(move || {
                begin.send(()).unwrap();
                drop(gate.lock());
                end.send(()).unwrap();
            });
        }
        (began, ended)
    }

    fn all(from: &Receiver<()>, count: usize) {
        (0..count).for_each(|_| from.recv_timeout(LIMIT).unwrap());
    }

    #[test]
    fn hand_over_of_more_than_there_are_threads_serves_all() {
        let (workers, gate) = (Workers::default(), Arc::<Mutex<()>>::default());
        let held = gate.lock();
        let (began, ended) = hold(&workers, &gate, MOST + 10);
        all(&began, MOST);
        assert_eq!(workers.threads(), MOST);
        assert!(
            began.try_recv().is_err(),
            "more at a time than there may be"
        );
        drop(held);
        all(&began, 10);
        all(&ended, MOST + 10);
    }

    #[test]
    fn drop_serves_what_waits() {
        let (workers, gate) = (Workers::default(), Arc::<Mutex<()>>::default());
        let held = gate.lock();
        let (_began, ended) = hold(&workers, &gate, MOST + 10);
        drop(workers);
        drop(held);
        all(&ended, MOST + 10);
    }

    #[test]
    fn threads_that_are_idle_end_and_others_follow() {
        let (workers, gate) = (Workers::default(), Arc::<Mutex<()>>::default());
        for _ in 0..2 {
            let (_began, ended) = hold(&workers, &gate, 3);
            all(&ended, 3);
            let start = Instant::now();
            while workers.threads() > 0 {
                assert!(start.elapsed() < LIMIT, "idle threads do not end");
                std::thread::yield_now();
            }
        }
    }
}
