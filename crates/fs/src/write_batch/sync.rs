//! What the queue is built on; its test puts loom's here.

use std::sync::PoisonError;
pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub(super) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    let woken = condvar.wait_timeout(guard, limit);
    woken.unwrap_or_else(PoisonError::into_inner).0
}
