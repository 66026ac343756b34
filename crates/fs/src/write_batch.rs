//! Concurrent WRITEs to one inode, batched: one leader writes neighbours in one pwritev2(2), and with
//! `--durability=dsync` one flush (fdatasync(2)) makes the whole batch durable.
//!
//! Uncontended fast path: one pwritev2(2) straight from the request buffer (with RWF_DSYNC for a durable
//! WRITE), between taking and releasing the inode's own lead ([`queue`]). No copy, no allocation, no lock
//! shared between inodes. Concurrent durable WRITEs take this path too, in parallel, where measurement
//! shows that to be faster than joining them ([`strategy`]).
//!
//! Invariants:
//! * a WRITE is answered after its bytes are in the backing file; a durable one after a flush that began
//!   after that;
//! * each WRITE gets its own count or errno. A short joined pwritev2(2) is credited from the first WRITE
//!   on; the one within which it stopped gets the remaining part, and those after it are retried alone. A
//!   failed flush fails every WRITE of its batch, and possibly one that another flush covers at the same
//!   time, but none before or after ([`flush_fds`]);
//! * batches run one after the other, and overlapping WRITEs within a batch in their order of arrival
//!   ([`plan`]). Of two WRITEs that were never concurrent, the later one overwrites the earlier.
//!
//! Why a follower copies its payload: fuser lends it for the length of a call, and safe code cannot lend
//! it on to the leader's thread. A follower has to wait for the leader anyway. The buffer belongs to the
//! follower's thread and returns to it with the answer.
//!
//! Why not by default without `dsync`: there is no flush to share, and a pwritev2(2) into the page
//! cache is over before others come. Sixteen writers had 1.0 to 1.3 WRITEs a call and no more
//! throughput (fio-jobs/RESULTS.md has the figures).

mod flush_fds;
mod gather;
pub(crate) mod groups;
mod plan;
mod queue;
mod strategy;
mod sync;

use std::cell::Cell;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::backing::{Backing, Position};
use crate::error::{Errno, Result};
use crate::stats::Stats;
use flush_fds::FlushFds;
use gather::Gather;
use plan::{Extent, calls};
use queue::{Answer, Lead, Queue, Turn};
use strategy::Strategy;

/// A buffer that grew beyond this is not kept by its thread.
const BUFFER_KEPT: usize = 1 << 20;

thread_local! {
    /// What this thread copies a payload into when it follows.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The WRITEs of one inode.
#[derive(Debug)]
pub(crate) struct WriteGroup {
    /// For durable WRITEs.
    flush_fds: Option<FlushFds>,
    /// None where WRITEs are always joined.
    strategy: Option<Strategy>,
    queue: Queue<Job, Written>,
    gather: Gather,
}

/// One WRITE, as its own thread has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) position: Position,
    /// All or an error: a short count would be lost.
    pub(crate) whole: bool,
}

/// One WRITE handed to the leader.
#[derive(Debug)]
struct Job {
    data: Vec<u8>,
    position: Position,
    whole: bool,
    datasync: bool,
}

/// Its outcome; the buffer returns to the follower's thread.
#[derive(Debug)]
struct Written {
    result: Result<usize>,
    buffer: Vec<u8>,
}

/// What it takes to write to one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) backing: &'a dyn Backing,
    pub(crate) stats: &'a Stats,
    pub(crate) fd: BorrowedFd<'a>,
    /// Some: on stable storage before the answer; `Some(true)`: only data and size.
    pub(crate) datasync: Option<bool>,
}

impl WriteGroup {
    /// For WRITEs that are not durable: concurrent ones are joined.
    pub(crate) fn cached() -> Self {
        Self {
            flush_fds: None,
            strategy: None,
            queue: Queue::new(),
            gather: Gather::default(),
        }
    }

    /// For durable WRITEs to what `file` stands for: concurrent ones are joined if that is faster, or
    /// `always`. `proc_self_fd` is a descriptor of /proc/self/fd.
    ///
    /// # Errors
    /// Those of reopening `file`.
    pub(crate) fn durable(
        file: BorrowedFd<'_>,
        proc_self_fd: &Arc<OwnedFd>,
        always: bool,
    ) -> Result<Self> {
        Ok(Self {
            flush_fds: Some(FlushFds::new(file, proc_self_fd)?),
            strategy: (!always).then(Strategy::default),
            ..Self::cached()
        })
    }
}

impl Job {
    fn new(piece: &Piece<'_>, datasync: bool) -> Self {
        let mut data = BUFFER.take();
        data.clear();
        data.extend_from_slice(piece.data);
        Self {
            data,
            position: piece.position,
            whole: piece.whole,
            datasync,
        }
    }

    fn piece(&self) -> Piece<'_> {
        Piece {
            data: &self.data,
            position: self.position,
            whole: self.whole,
        }
    }
}

fn keep_buffer(buffer: Vec<u8>) {
    if buffer.capacity() <= BUFFER_KEPT {
        BUFFER.set(buffer);
    }
}

impl Piece<'_> {
    fn extent(&self) -> Extent {
        Extent {
            position: self.position,
            len: self.data.len(),
        }
    }

    /// The rest of it after the first `done` bytes.
    pub(crate) fn after(self, done: usize) -> Self {
        let position = match self.position {
            Position::At(offset) => Position::At(offset + done as u64),
            Position::Append => Position::Append,
        };
        Self {
            data: &self.data[done..],
            position,
            ..self
        }
    }
}

impl Writer<'_> {
    /// Writes without joining.
    pub(crate) fn write_alone(&self, piece: Piece<'_>) -> Result<usize> {
        self.write_rest(piece, self.write_once(piece)?)
    }

    /// Writes, joined with concurrent WRITEs of the group where that pays.
    pub(crate) fn write_in(&self, group: &WriteGroup, piece: Piece<'_>) -> Result<usize> {
        let concurrent = group.strategy.as_ref().map(Strategy::enter);
        if concurrent
            .as_ref()
            .is_some_and(strategy::Concurrent::runs_alone)
            && let Some(flush_fds) = &group.flush_fds
            && let Ok(flush_fd) = flush_fds.take(self.fd)
        {
            let written = self.through(flush_fd.as_fd()).write_alone(piece);
            if written.is_err() {
                flush_fds.note_failure();
            }
            flush_fds.give(flush_fd);
            return written;
        }
        if group.gather.wait().is_none()
            && let Some(_lead) = group.queue.try_lead()
        {
            return self.leading(group, |writer| {
                let written = writer.write_alone(piece);
                let failed = written.is_err();
                (written, failed)
            });
        }
        let job = Job::new(&piece, self.datasync.unwrap_or(true));
        match group.queue.join(job) {
            Turn::Lead(lead, job) => self.lead(group, lead, job),
            Turn::Done(written) => {
                keep_buffer(written.buffer);
                written.result
            }
            Turn::Lost => Err(Errno::EIO),
        }
    }

    fn through<'a>(&'a self, fd: BorrowedFd<'a>) -> Writer<'a> {
        Writer { fd, ..*self }
    }

    /// Runs `write` on the leader's descriptor; its second result says whether a call failed.
    fn leading<T>(&self, group: &WriteGroup, write: impl FnOnce(&Writer<'_>) -> (T, bool)) -> T {
        let Some(flush_fds) = &group.flush_fds else {
            return write(self).0;
        };
        let flush_fd = flush_fds.lead();
        let (result, failed) = write(&self.through(flush_fd.as_fd()));
        if failed {
            flush_fds.note_failure();
        }
        result
    }

    /// Writes `own` and all waiting jobs.
    fn lead(
        &self,
        group: &WriteGroup,
        mut lead: Lead<'_, Job, Written>,
        own: Job,
    ) -> Result<usize> {
        let gather = &group.gather;
        // Gathering pays only where there is a flush to share.
        if let (true, Some((wanted, limit))) = (self.datasync.is_some(), gather.wait()) {
            let before = lead.waiting();
            lead.gather(wanted, limit);
            gather.waited(lead.waiting() - before);
        }
        let began = Instant::now();
        let others: Vec<(Job, Answer<Job, Written>)> = lead.take();
        let jobs: Vec<&Job> = std::iter::once(&own)
            .chain(others.iter().map(|(job, _)| job))
            .collect();
        let results = self.leading(group, |writer| {
            let results = match jobs[..] {
                [own] => vec![writer.write_alone(own.piece())],
                _ => writer.write_batch(&jobs),
            };
            let failed = results.iter().any(Result::is_err);
            (results, failed)
        });
        let mut results = results.into_iter();
        // Before the first answer: an answered writer can come again at once.
        gather.ended(began, jobs.len() + lead.waiting());
        let result = results.next().expect("as many results as jobs");
        for ((job, answer), result) in others.into_iter().zip(results) {
            let buffer = job.data;
            answer.give(Written { result, buffer });
        }
        drop(lead);
        keep_buffer(own.data);
        result
    }

    /// A result for each job.
    fn write_batch(&self, jobs: &[&Job]) -> Vec<Result<usize>> {
        let cached = Writer {
            datasync: None,
            ..*self
        };
        let extents: Vec<Extent> = jobs.iter().map(|job| job.piece().extent()).collect();
        let mut results = vec![Ok(0); jobs.len()];
        for call in calls(&extents) {
            match call[..] {
                [at] => results[at] = cached.write_alone(jobs[at].piece()),
                _ => cached.write_joined(jobs, &call, &mut results),
            }
        }
        let written = |result: &Result<usize>| matches!(result, Ok(1..));
        if self.datasync.is_some() && results.iter().any(written) {
            let datasync = jobs.iter().all(|job| job.datasync);
            if let Err(error) = self.backing.flush(self.fd, datasync) {
                let lost = results.iter_mut().filter(|result| written(result));
                lost.for_each(|result| *result = Err(error));
            }
        }
        results
    }

    /// One pwritev2(2) for neighbours, and each one's share of its count.
    fn write_joined(&self, jobs: &[&Job], call: &[usize], results: &mut [Result<usize>]) {
        let parts: Vec<_> = call
            .iter()
            .map(|&at| IoSlice::new(&jobs[at].data))
            .collect();
        self.stats.count_joined(call.len() as u64);
        // An error cannot be attributed to one of them: retry each alone.
        let mut left = match jobs[call[0]].position {
            Position::At(offset) => self.backing.write_joined(self.fd, &parts, offset),
            Position::Append => Ok(0),
        }
        .unwrap_or(0);
        for &at in call {
            let piece = jobs[at].piece();
            let done = left.min(piece.data.len());
            left -= done;
            results[at] = match done {
                0 => self.write_alone(piece),
                done => self.write_rest(piece, done),
            };
        }
    }

    /// One call to the backing file.
    fn write_once(&self, piece: Piece<'_>) -> Result<usize> {
        let Piece { data, position, .. } = piece;
        match self.datasync {
            None => self.backing.write(self.fd, data, position),
            Some(datasync) => self
                .backing
                .write_durable(self.fd, data, position, datasync),
        }
    }

    /// After `written` bytes: a `whole` piece is continued until it is complete or a call says why not.
    fn write_rest(&self, piece: Piece<'_>, mut written: usize) -> Result<usize> {
        let goes_on = piece.whole && piece.position != Position::Append;
        while goes_on && written < piece.data.len() {
            match self.write_once(piece.after(written))? {
                0 => return Err(Errno::EIO),
                count => written += count,
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
