//! The descriptors of one inode through which durable WRITEs are written and flushed.
//!
//! Linux reports a failed write-back once per open file description, to the next flush through it
//! (errseq_t). So a description shared by two flushes can hide the failure from one of them, and one that
//! was idle for a while reports an old failure.
//!
//! Invariants:
//! * a flush descriptor serves one flush at a time, so that a WRITE learns of every failure during its
//!   flush, its own among them;
//! * one that was opened before a failure is reopened before its next use, so that a WRITE learns of no
//!   failure from before its arrival.
//!
//! Why not the descriptors of the handles: a client's fsync(2) goes through them, and must learn of the
//! failures too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::error::Result;
use crate::resolve::reopen_in;

/// See the module.
#[derive(Debug)]
pub(super) struct FlushFds {
    /// The leader's, so free whenever it is needed; held across its system calls.
    lead: Mutex<FlushFd>,
    /// For WRITEs that run in parallel: as many as were concurrent at most. A leaf lock, never held
    /// across a system call.
    free: Mutex<Vec<FlushFd>>,
    /// Calls that failed.
    failures: AtomicU64,
    /// Descriptor of /proc/self/fd.
    proc_self_fd: Arc<OwnedFd>,
}

/// One open file description.
#[derive(Debug)]
pub(super) struct FlushFd {
    file: OwnedFd,
    /// [`FlushFds::failures`] when it was opened.
    opened_after: u64,
}

impl AsFd for FlushFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FlushFds {
    /// `proc_self_fd` is a descriptor of /proc/self/fd.
    ///
    /// # Errors
    /// Those of reopening what `file` stands for.
    pub(super) fn new(file: impl AsFd, proc_self_fd: &Arc<OwnedFd>) -> Result<Self> {
        let lead = FlushFd {
            file: open(proc_self_fd, file)?,
            opened_after: 0,
        };
        Ok(Self {
            lead: Mutex::new(lead),
            free: Mutex::default(),
            failures: AtomicU64::new(0),
            proc_self_fd: Arc::clone(proc_self_fd),
        })
    }

    /// The leader's. If it cannot be reopened, the old one is used: that may report a failure twice but
    /// hides none.
    pub(super) fn lead(&self) -> MutexGuard<'_, FlushFd> {
        let mut lead = self.lead.lock();
        if self.is_old(&lead)
            && let Ok(fresh) = self.open_anew(&lead.file)
        {
            *lead = fresh;
        }
        lead
    }

    /// One for a WRITE that runs in parallel, returned with [`FlushFds::give`]; `handle` is any
    /// descriptor of the inode.
    ///
    /// # Errors
    /// open(2)'s: EMFILE, or the file can no longer be opened.
    pub(super) fn take(&self, handle: impl AsFd) -> Result<FlushFd> {
        let free = self.free.lock().pop();
        match free {
            Some(lane) if !self.is_old(&lane) => Ok(lane),
            _old_or_none => self.open_anew(handle),
        }
    }

    pub(super) fn give(&self, lane: FlushFd) {
        self.free.lock().push(lane);
    }

    /// A call through one of them failed: the others must not report it to a later WRITE.
    pub(super) fn note_failure(&self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }

    fn is_old(&self, lane: &FlushFd) -> bool {
        lane.opened_after != self.failures.load(Ordering::SeqCst)
    }

    fn open_anew(&self, file: impl AsFd) -> Result<FlushFd> {
        // Loaded before open(2): a failure in between makes the new descriptor stale.
        let opened_after = self.failures.load(Ordering::SeqCst);
        let file = open(&self.proc_self_fd, file)?;
        Ok(FlushFd { file, opened_after })
    }
}

fn open(proc_self_fd: &OwnedFd, file: impl AsFd) -> Result<OwnedFd> {
    reopen_in(proc_self_fd, file, libc::O_WRONLY | libc::O_NONBLOCK)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn lanes() -> (tempfile::NamedTempFile, FlushFds) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let links = std::fs::File::open("/proc/self/fd").unwrap();
        let lanes = FlushFds::new(file.as_file(), &Arc::new(links.into())).unwrap();
        (file, lanes)
    }

    fn number(lane: &impl AsFd) -> i32 {
        lane.as_fd().as_raw_fd()
    }

    #[test]
    fn take_while_another_is_taken_is_another_and_one_given_back_is_used_again() {
        let (file, lanes) = lanes();
        let (first, second) = (lanes.take(&file).unwrap(), lanes.take(&file).unwrap());
        assert_ne!(number(&first), number(&second));
        let number_of_second = number(&second);
        lanes.give(second);
        assert_eq!(number(&lanes.take(&file).unwrap()), number_of_second);
    }

    #[test]
    fn take_after_a_failure_is_opened_anew() {
        let (file, lanes) = lanes();
        let lane = lanes.take(&file).unwrap();
        let opened_after = |lane: &FlushFd| lane.opened_after;
        lanes.note_failure();
        // Under way when it happened, so old when it is given back.
        lanes.give(lane);
        assert_eq!(opened_after(&lanes.take(&file).unwrap()), 1);
        assert_eq!(opened_after(&lanes.lead()), 1);
    }

    #[test]
    fn lead_that_cannot_be_opened_anew_is_the_old_one() {
        let (_file, mut lanes) = lanes();
        let before = number(&*lanes.lead());
        lanes.proc_self_fd = Arc::new(std::fs::File::open("/proc/self").unwrap().into());
        lanes.note_failure();
        assert_eq!(number(&*lanes.lead()), before);
    }
}
