//! Leader and followers: one thread does the work that several threads want done at the same time.
//!
//! The first thread leads. A thread that arrives meanwhile queues its job and sleeps; when the leader is
//! done, the first sleeper becomes the next leader and takes all jobs queued by then.
//!
//! Invariants, which a test explores in every interleaving (loom, `tests/write_queue.rs`):
//! * at most one thread leads at any time;
//! * each job is answered exactly once, and no thread sleeps for ever, also when a leader panics;
//! * jobs are done in their order of arrival: a leader takes all of them, and later ones wait.
//!
//! Why hand the lead over instead of draining the queue: the leader's own caller would wait for jobs that
//! arrived after its own, without limit. Why the standard library's lock: loom has the same
//! interface, so that what is explored is this file and not a copy of it.

use std::mem;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::sync::{Arc, Condvar, Mutex, MutexGuard, wait_timeout};

/// See the module. `J` is a job, `A` the answer to it.
#[derive(Debug)]
pub(super) struct Queue<J, A> {
    /// A leaf lock, never held across a system call.
    state: Mutex<State<J, A>>,
    /// `wanted` jobs are queued.
    gathered: Condvar,
}

#[derive(Debug)]
struct State<J, A> {
    /// A thread leads. Otherwise `waiting` is empty.
    led: bool,
    /// In the order of arrival.
    waiting: Vec<Waiting<J, A>>,
    /// Jobs that the leader gathers; `usize::MAX` while it does not.
    wanted: usize,
}

#[derive(Debug)]
struct Waiting<J, A> {
    job: J,
    bed: Arc<Bed<J, A>>,
}

/// Where one thread sleeps.
#[derive(Debug)]
struct Bed<J, A> {
    /// A leaf lock.
    call: Mutex<Option<Call<J, A>>>,
    called: Condvar,
}

/// What wakes it.
#[derive(Debug)]
enum Call<J, A> {
    Lead(J),
    Done(A),
    Lost,
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Turn<'q, J, A> {
    /// The caller leads now, and does the job.
    Lead(Lead<'q, J, A>, J),
    /// Another thread did it.
    Done(A),
    /// The leader panicked before it did it.
    Lost,
}

impl<J, A> Queue<J, A> {
    pub(super) fn new() -> Self {
        let state = State {
            led: false,
            waiting: Vec::new(),
            wanted: usize::MAX,
        };
        Self {
            state: Mutex::new(state),
            gathered: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<J, A>> {
        // Nothing in this file can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lead, if it is free: the fast path, which queues no job.
    pub(super) fn try_lead(&self) -> Option<Lead<'_, J, A>> {
        let was_led = mem::replace(&mut self.state().led, true);
        // Not `then_some`: a lead that is made is passed on when it is dropped.
        (!was_led).then(|| Lead { queue: self })
    }

    /// Queues `job` for the next leader, which may be the caller.
    pub(super) fn join(&self, job: J) -> Turn<'_, J, A> {
        let mut state = self.state();
        if !mem::replace(&mut state.led, true) {
            drop(state);
            return Turn::Lead(Lead { queue: self }, job);
        }
        let bed = Arc::new(Bed {
            call: Mutex::new(None),
            called: Condvar::new(),
        });
        state.waiting.push(Waiting {
            job,
            bed: Arc::clone(&bed),
        });
        let is_gathered = state.waiting.len() >= state.wanted;
        drop(state);
        if is_gathered {
            self.gathered.notify_one();
        }
        match bed.sleep() {
            Call::Lead(job) => Turn::Lead(Lead { queue: self }, job),
            Call::Done(answer) => Turn::Done(answer),
            Call::Lost => Turn::Lost,
        }
    }
}

#[cfg(test)]
impl<J, A> Queue<J, A> {
    /// Jobs that wait now.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }
}

impl<J, A> Bed<J, A> {
    fn sleep(&self) -> Call<J, A> {
        let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(call) = call.take() {
                return call;
            }
            let woken = self.called.wait(call);
            call = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self, with: Call<J, A>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(with);
        self.called.notify_one();
    }
}

/// The right to do jobs. Passed on when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Lead<'q, J, A> {
    queue: &'q Queue<J, A>,
}

impl<J, A> Lead<'_, J, A> {
    /// Jobs that wait now.
    pub(super) fn waiting(&self) -> usize {
        self.queue.state().waiting.len()
    }

    /// Waits until `wanted` jobs wait, but no longer than `limit`.
    pub(super) fn gather(&mut self, wanted: usize, limit: Duration) {
        let began = Instant::now();
        let mut state = self.queue.state();
        state.wanted = wanted;
        while state.waiting.len() < wanted {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            state = wait_timeout(&self.queue.gathered, state, left);
        }
        state.wanted = usize::MAX;
    }

    /// All jobs that wait, in the order of arrival, each with the way to answer it. To be answered
    /// before the lead is passed on, so that those who are answered can come again and be met.
    pub(super) fn take(&mut self) -> Vec<(J, Answer<J, A>)> {
        let waiting = mem::take(&mut self.queue.state().waiting);
        let taken = waiting.into_iter();
        taken
            .map(|Waiting { job, bed }| (job, Answer { bed: Some(bed) }))
            .collect()
    }
}

impl<J, A> Drop for Lead<'_, J, A> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.waiting.is_empty() {
            state.led = false;
            return;
        }
        let next = state.waiting.remove(0);
        drop(state);
        next.bed.wake(Call::Lead(next.job));
    }
}

/// Answers one job; dropped without an answer, it says so.
#[derive(Debug)]
pub(super) struct Answer<J, A> {
    bed: Option<Arc<Bed<J, A>>>,
}

impl<J, A> Answer<J, A> {
    pub(super) fn give(mut self, answer: A) {
        if let Some(bed) = self.bed.take() {
            bed.wake(Call::Done(answer));
        }
    }
}

impl<J, A> Drop for Answer<J, A> {
    fn drop(&mut self) {
        if let Some(bed) = self.bed.take() {
            bed.wake(Call::Lost);
        }
    }
}
