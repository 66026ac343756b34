//! The protocol of `write_batch/queue.rs` in every interleaving that the memory model allows: the
//! same source, on loom's locks instead of the standard library's.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

#[allow(dead_code, reason = "the models use some of it")]
#[path = "../src/write_batch/queue.rs"]
mod queue;

mod sync {
    use std::time::Duration;

    pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    /// Never ends by itself: a wake-up that is lost is a deadlock, which loom reports.
    pub(super) fn wait_timeout<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _limit: Duration,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap()
    }
}

use queue::{Lead, Queue, Turn};

/// What the threads of a model share: the queue, and what the leaders did.
struct Shared {
    queue: Queue<usize, usize>,
    leading: AtomicBool,
    done: [AtomicUsize; 3],
}

impl Shared {
    fn new() -> Self {
        Self {
            queue: Queue::new(),
            leading: AtomicBool::new(false),
            done: std::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    /// Does one job, which no other thread may be doing at that time.
    fn perform(&self, job: usize) -> usize {
        assert!(!self.leading.swap(true, Ordering::SeqCst), "two lead");
        self.done[job].fetch_add(1, Ordering::SeqCst);
        self.leading.store(false, Ordering::SeqCst);
        job * 10
    }

    fn lead(&self, mut lead: Lead<'_, usize, usize>, own: usize) -> usize {
        let taken = lead.take();
        let result = self.perform(own);
        for (job, answer) in taken {
            answer.give(self.perform(job));
        }
        result
    }

    /// As a WRITE does it.
    fn submit(&self, job: usize) -> usize {
        if let Some(_lead) = self.queue.try_lead() {
            return self.perform(job);
        }
        match self.queue.join(job) {
            Turn::Lead(lead, own) => self.lead(lead, own),
            Turn::Done(answer) => answer,
            Turn::Lost => panic!("no thread panicked"),
        }
    }
}

/// With three threads: more switches against a thread's will than that take minutes to explore.
fn check_bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn submit_by_three_threads_answers_each_job_once_and_ends() {
    check_bounded(|| {
        let shared = Arc::new(Shared::new());
        let submit = |job: usize| {
            let shared = Arc::clone(&shared);
            move || assert_eq!(shared.submit(job), job * 10)
        };
        let others = [thread::spawn(submit(1)), thread::spawn(submit(2))];
        submit(0)();
        for other in others {
            other.join().unwrap();
        }
        let done = shared.done.each_ref().map(|n| n.load(Ordering::SeqCst));
        assert_eq!(done, [1, 1, 1]);
        assert!(shared.queue.try_lead().is_some(), "the lead is free again");
    });
}

#[test]
fn submit_twice_by_two_threads_answers_each_job_once_and_ends() {
    loom::model(|| {
        let shared = Arc::new(Shared::new());
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                assert_eq!(shared.submit(1), 10);
                assert_eq!(shared.submit(2), 20);
            })
        };
        assert_eq!(shared.submit(0), 0);
        other.join().unwrap();
        let done = shared.done.each_ref().map(|n| n.load(Ordering::SeqCst));
        assert_eq!(done, [1, 1, 1]);
    });
}

#[test]
fn gather_of_one_that_comes_meanwhile_is_woken() {
    loom::model(|| {
        let shared = Arc::new(Shared::new());
        let mut lead = shared.queue.try_lead().unwrap();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || assert_eq!(shared.submit(1), 10))
        };
        lead.gather(1, Duration::from_secs(3600));
        assert_eq!(lead.waiting(), 1);
        shared.lead(lead, 0);
        other.join().unwrap();
    });
}

#[test]
fn lead_that_is_lost_with_its_jobs_wakes_everybody() {
    check_bounded(|| {
        let shared = Arc::new(Shared::new());
        let mut lead = shared.queue.try_lead().unwrap();
        let join = |job: usize| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || match shared.queue.join(job) {
                Turn::Lead(lead, own) => {
                    shared.lead(lead, own);
                    true
                }
                Turn::Done(_) => true,
                Turn::Lost => false,
            })
        };
        let others = [join(1), join(2)];
        // As a panic does: neither answered nor passed on in the regular way.
        let taken = lead.take();
        let lost = taken.len();
        drop(taken);
        drop(lead);
        let done = others.map(|other| other.join().unwrap());
        assert_eq!(done.iter().filter(|done| !**done).count(), lost);
        assert!(shared.queue.try_lead().is_some(), "the lead is free again");
    });
}
