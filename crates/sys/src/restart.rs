//! Having a thread begin its system call once more, to find what has changed meanwhile: O_NONBLOCK, say.
//!
//! By SIGURG, which a process that does not handle it ignores, so that one that comes late does no harm.
//!
//! Invariant: no call fails with EINTR. Why not have it fail: the thread may have left the call that was meant, and
//! be in one for a client, to whom EINTR would be a lie.

use std::os::unix::thread::JoinHandleExt;
use std::sync::Once;
use std::thread::JoinHandle;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static HANDLED: Once = Once::new();

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// `thread` begins the system call that it is in once more (SA_RESTART, signal(7)); one that is in none misses it.
pub fn restart_call<T>(thread: &JoinHandle<T>) {
    HANDLED.call_once(|| {
        let action = SigAction::new(
            SigHandler::Handler(do_nothing),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, which any thread may do at any time.
        let _ignored_then = unsafe { sigaction(Signal::SIGURG, &action) };
    });
    let thread = thread.as_pthread_t();
    // SAFETY: the thread is not detached and not joined, since its handle exists.
    let _has_ended = unsafe { libc::pthread_kill(thread, libc::SIGURG) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn restart_call_of_a_thread_that_reads_makes_it_see_that_it_may_not_wait() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let same = ours.try_clone().unwrap();
        let thread = std::thread::spawn(move || ours.read(&mut [0]).unwrap_err().kind());
        for _ in 0..1000 {
            restart_call(&thread);
            std::thread::yield_now();
        }
        assert!(!thread.is_finished());
        same.set_nonblocking(true).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !thread.is_finished() {
            assert!(Instant::now() < until, "it reads on");
            restart_call(&thread);
            std::thread::yield_now();
        }
        assert_eq!(thread.join().unwrap(), ErrorKind::WouldBlock);
    }
}
