//! Several threads of a test at once; the first failure of any is the result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use anyhow::Result;

use super::skip::Outcome;

/// Runs `work` in `count` threads, told which of them it is.
pub fn in_threads(count: usize, work: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    let work = &work;
    scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        let mut outcomes = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        outcomes.try_for_each(|outcome| outcome)
    })
}

/// Runs `again` over and over in a thread for as long as `work` takes.
pub fn beside<T>(
    again: impl Fn() -> Outcome + Sync,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let done = AtomicBool::new(false);
    scope(|scope| {
        let other = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                again()?;
            }
            Ok(())
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        other.join().expect("no panic").and(worked)
    })
}
