//! One request, from its decoded form to its outcome: counted, timed, traced, and with a panic turned
//! into EIO. The same for every transport.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

use thrufs_fs::{Caller, Errno, ForgetPlace, LockRequest, NewNode, Opcode, Passthrough, Result};

use crate::ids;
use crate::lock_waiters::{Answer, IsInterrupted, LockWaiters};
use crate::panics;

/// A file system, and the callers that wait for its locks.
pub(crate) struct Dispatch {
    fs: Arc<Passthrough>,
    lock_waiters: Arc<LockWaiters>,
}

impl Dispatch {
    /// Several sessions may share one file system, one after another.
    pub(crate) fn new(fs: Arc<Passthrough>) -> Self {
        Self {
            fs,
            lock_waiters: Arc::default(),
        }
    }

    /// The file system.
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        &self.fs
    }

    /// The caller, with its ids on SOURCE.
    pub(crate) fn caller(&self, by: Requester) -> Result<Caller> {
        ids::caller(&self.fs.config().ids, by.uid, by.gid, by.pid)
    }

    /// The node to make, and its creator.
    pub(crate) fn new_node<'a>(
        &self,
        by: Requester,
        parent: u64,
        name: &'a OsStr,
        (mode, umask): (u32, u32),
    ) -> Result<NewNode<'a>> {
        Ok(NewNode {
            parent,
            name,
            mode,
            umask,
            caller: self.caller(by)?,
            groups: None,
            labels: &[],
        })
    }

    /// Runs the operation of a request: admits it, counts it, times it, logs its failure, and turns a
    /// panic into EIO.
    pub(crate) fn run<'a, T>(
        &'a self,
        opcode: Opcode,
        by: Requester,
        target: impl Into<Target>,
        operation: impl FnOnce(&'a Passthrough) -> Result<T>,
    ) -> Result<T> {
        self.run_begun(self.begin(opcode), by, target, operation)
    }

    /// A request is served from now on, for [`Dispatch::run_begun`].
    pub(crate) fn begin(&self, opcode: Opcode) -> Begun {
        Begun {
            opcode,
            at: self.fs.stats().begin(opcode),
        }
    }

    /// As [`Dispatch::run`], of a request that has begun, maybe on another thread.
    pub(crate) fn run_begun<'a, T>(
        &'a self,
        Begun { opcode, at }: Begun,
        Requester {
            unique, uid, pid, ..
        }: Requester,
        target: impl Into<Target>,
        operation: impl FnOnce(&'a Passthrough) -> Result<T>,
    ) -> Result<T> {
        let name = opcode.name();
        let Target {
            ino,
            fh,
            offset,
            size,
        } = target.into();
        self.fs.stats().count_caller(pid, at);
        let _span =
            tracing::trace_span!("request", opcode = name, unique, ino, fh, offset, size).entered();
        let done = panics::caught(|| {
            self.fs.admit(opcode, uid)?;
            operation(&self.fs)
        });
        let result = done.unwrap_or_else(|_panic| {
            tracing::error!(opcode = name, inode = %self.fs.identify(ino), "panic in an operation: a bug");
            Err(Errno::EIO)
        });
        self.fs.stats().end(opcode, at);
        result.inspect_err(|error| {
            self.fs.stats().count_error(opcode);
            let inode = self.fs.identify(ino);
            tracing::debug!(opcode = name, unique, %inode, fh, offset, size, %error);
        })
    }

    /// FORGETs that came in one message, and have no answer. All are counted before what they leave is closed, which may
    /// take long: a server that dies meanwhile is not asked again.
    pub(crate) fn forget(&self, all: impl Iterator<Item = (u64, u64, Option<ForgetPlace>)>) {
        let count = |(ino, nlookup, place)| {
            let began = self.fs.stats().begin(Opcode::Forget);
            let gone = self.fs.count_forget(ino, nlookup, place);
            self.fs.stats().end(Opcode::Forget, began);
            gone
        };
        let gone: Vec<_> = all.filter_map(count).collect();
        for gone in gone {
            self.fs.let_go(gone);
        }
    }

    /// Answers when the lock is taken, cannot be taken at all, or the caller has a signal.
    pub(crate) fn wait_for_lock(
        &self,
        request: LockRequest,
        is_interrupted: IsInterrupted,
        answer: Answer,
    ) {
        let fs = Arc::clone(&self.fs);
        let counted = move |outcome: Result<()>| {
            if outcome.is_err() {
                fs.stats().count_error(Opcode::SetLk);
            }
            answer(outcome);
        };
        let answer = Box::new(counted);
        self.lock_waiters
            .wait(&self.fs, request, is_interrupted, answer);
    }

    /// The session has ended: nothing waits for a lock any more.
    pub(crate) fn stop(&self) {
        self.lock_waiters.stop();
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// When a request began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    opcode: Opcode,
    at: Instant,
}

/// A request's number, and the caller that made it (in the client's ids).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requester {
    pub(crate) unique: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

/// What a request is about, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) ino: u64,
    pub(crate) fh: Option<u64>,
    pub(crate) offset: Option<u64>,
    pub(crate) size: Option<u64>,
}

impl From<u64> for Target {
    fn from(ino: u64) -> Self {
        Self {
            ino,
            fh: None,
            offset: None,
            size: None,
        }
    }
}

/// A handle of an inode.
impl From<(u64, u64)> for Target {
    fn from((ino, fh): (u64, u64)) -> Self {
        Self {
            fh: Some(fh),
            ..ino.into()
        }
    }
}

/// A range of an open file: inode, handle, offset and size.
impl From<(u64, u64, u64, u64)> for Target {
    fn from((ino, fh, offset, size): (u64, u64, u64, u64)) -> Self {
        Self {
            offset: Some(offset),
            size: Some(size),
            ..(ino, fh).into()
        }
    }
}
