//! fork(2) for a program that goes to the background.
//!
//! Invariant: only a process with one thread is forked. Then the child owns every lock that its
//! copy of the memory shows as taken, and may allocate, log and start threads like any program.
//! That is why this is a safe function here and an unsafe one in nix: the condition is checked.
//! `Command` of the same executable would do without fork, but the descriptors and the checks
//! already made would have to cross exec.

use std::io;

use nix::unistd::{ForkResult, Pid};

/// On which side of the fork the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The process that called, with the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Splits this process in two.
///
/// # Errors
/// The process has more than one thread, or fork(2) failed (EAGAIN: too many processes).
pub fn fork() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "fork refused: the process has {threads} threads, and their locks would stay taken in the child"
        )));
    }
    // SAFETY: this process has a single thread (checked above, and no other thread can start one in
    // it), so no lock of another thread is copied in a taken state.
    let result = unsafe { nix::unistd::fork() }?;
    Ok(match result {
        ForkResult::Parent { child } => Side::Parent(child),
        ForkResult::Child => Side::Child,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_with_a_second_thread_is_refused() {
        // The test harness itself runs this test in a second thread.
        let error = fork().expect_err("more than one thread runs here");
        assert!(error.to_string().contains("threads"), "{error}");
    }
}
