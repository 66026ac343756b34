//! Panics on session threads: which of them were answered, and what to do about those that were not.
//!
//! Invariant: no caller hangs because a thread that served it is gone. A panic in an operation is
//! caught and answered with EIO, by every transport. But fuser takes a request apart before it
//! calls us, and panics where a message contradicts itself (a WRITE whose size is not that of its data,
//! a time that does not fit): that thread ends in silence, its request is never answered, and the
//! others serve on. That panic cannot be caught here, only observed, so the session's owner is notified
//! and ends the session. No kernel sends such a message; one that did has a bug or is not what it seems.

use std::cell::Cell;
use std::panic::PanicHookInfo;

/// Session threads are called `fuser-N` by fuser, and `session-N` by our own loop.
const SESSION_THREADS: [&str; 2] = ["fuser-", "session-"];

thread_local! {
    static IN_OPERATION: Cell<bool> = const { Cell::new(false) };
}

/// Where a session thread panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panicked {
    /// In an operation: a bug of ours. Its caller gets EIO, and the thread serves on.
    InOperation,
    /// Outside of one: the thread is gone, and its caller waits until the connection ends.
    OutsideOperation,
}

/// Calls `act` on every panic of a session thread of this process, from that thread, after the panic's
/// own message.
pub fn on_session_panic(act: impl Fn(Panicked) + Send + Sync + 'static) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        before(info);
        let thread = std::thread::current();
        if thread
            .name()
            .is_some_and(|name| SESSION_THREADS.iter().any(|of| name.starts_with(of)))
        {
            act(if IN_OPERATION.get() {
                Panicked::InOperation
            } else {
                Panicked::OutsideOperation
            });
        }
    }));
}

/// Runs one operation; a panic in it is an error.
pub(crate) fn caught<T>(operation: impl FnOnce() -> T) -> std::thread::Result<T> {
    let outer = IN_OPERATION.replace(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(operation));
    IN_OPERATION.set(outer);
    done
}
