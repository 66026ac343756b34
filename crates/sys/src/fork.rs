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

/// As [`fork`], and the two share one table of descriptors: what the child opens stays open when it dies, and
/// what either closes is closed for both. So no object of either may close what the other still uses.
///
/// By clone(2) itself, since fork(3) copies the table. The C library then takes the first thread of the child for
/// that of the parent by its number, which it uses for robust and error-checking mutexes alone; nothing here has one.
///
/// # Errors
/// As [`fork`].
pub fn fork_sharing_descriptors() -> io::Result<Side> {
    check_single_thread()?;
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM the child has a copy of the memory and of this stack, as after fork(2); this process
    // has a single thread (checked above), so no lock of another is copied in a taken state.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    match child {
        0 => Ok(Side::Child),
        // A process id has 32 bits.
        1.. => Ok(Side::Parent(Pid::from_raw(child as i32))),
        _failed => Err(io::Error::last_os_error()),
    }
}

/// Also where there is no /proc: unshare(2) takes CLONE_THREAD of a process with one thread, and does nothing then.
fn check_single_thread() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let done = unsafe { libc::unshare(libc::CLONE_THREAD) };
    match done {
        0 => Ok(()),
        _more => Err(io::Error::other(
            "clone refused: the process has several threads, and their locks would stay taken in the child",
        )),
    }
}

/// An open descriptor: its number, and the device and the number of its file.
pub type OpenDescriptor = (i32, u64, u64);

/// The descriptors of this process with numbers below `end`.
pub fn open_descriptors(end: i32) -> Vec<OpenDescriptor> {
    let look = |number: i32| {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` has room for what the kernel writes.
        let done = unsafe { libc::fstat(number, stat.as_mut_ptr()) };
        if done != 0 {
            return None;
        }
        // SAFETY: fstat(2) succeeded, and has written all of it.
        let stat = unsafe { stat.assume_init() };
        Some((number, stat.st_dev, stat.st_ino))
    };
    (0..end).filter_map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_with_a_second_thread_is_refused() {
        // The test harness itself runs this test in a second thread.
        let error = fork().expect_err("more than one thread runs here");
        assert!(error.to_string().contains("threads"), "{error}");
        let error = fork_sharing_descriptors().expect_err("more than one thread runs here");
        assert!(error.to_string().contains("threads"), "{error}");
    }

    #[test]
    fn open_descriptors_has_those_that_are_open_alone() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let has = |end| open_descriptors(end).iter().any(|open| open.0 == number);
        assert!(has(number + 1) && !has(number));
    }
}
