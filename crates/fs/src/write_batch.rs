//! WRITEs to one inode that wait at the same time, done by one of them for all: neighbours in one
//! pwritev2(2), and with `--durability=dsync` one flush (fdatasync(2)) for everybody.
//!
//! Who meets nobody takes the straight path: one pwritev2(2) from fuser's buffer (with RWF_DSYNC, if
//! it is to be durable), between taking and giving back the inode's own lead ([`queue`]). No copy,
//! no allocation, no lock shared between inodes. Durable WRITEs that meet take it too, at the same
//! time, where that has been measured to be faster than joining them ([`choice`]).
//!
//! Invariants:
//! * a WRITE is answered after its bytes are in the backing file, and if it is to be durable after
//!   a flush that began after that;
//! * each gets its own count or errno. What a joined pwritev2(2) wrote belongs to the first ones;
//!   the one that it stopped within gets its part, and those after it are tried alone. A flush that
//!   fails fails every WRITE of its batch; one that another has part in at that time may fail with
//!   it, none before or after ([`lanes`]);
//! * WRITEs that are joined are done one batch after the other, and within a batch those that
//!   overlap in their order of arrival ([`plan`]). Of two that were never both under way, the later
//!   one overwrites the earlier.
//!
//! Why a follower copies its payload: fuser lends it for the length of a call, and safe code cannot
//! lend it on to the thread that leads. It happens only while somebody leads, when the follower has
//! to wait anyhow. The buffer is the thread's own and comes back to it with the answer.
//!
//! Why not by default without `dsync`: there is no flush to share, and a pwritev2(2) into the page
//! cache is over before others come. Sixteen writers had 1.0 to 1.3 WRITEs a call and no more
//! throughput (`README.md` has the figures).

mod choice;
mod groups;
mod lanes;
mod pace;
mod plan;
mod queue;

/// What [`queue`] is built on; its test puts loom's here.
mod sync {
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
}

use std::cell::Cell;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::backing::{Backing, Position};
use crate::error::{Errno, Result};
use crate::stats::Stats;
use choice::Choice;
pub(crate) use groups::WriteGroups;
use lanes::Lanes;
use pace::Pace;
use plan::{Extent, calls};
use queue::{Answer, Lead, Queue, Turn};

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
    lanes: Option<Lanes>,
    /// None if they are joined whether it pays or not.
    choice: Option<Choice>,
    queue: Queue<Job, Written>,
    pace: Pace,
}

/// One WRITE, as its own thread has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) position: Position,
    /// All or an error: a short count would be lost.
    pub(crate) whole: bool,
}

/// One WRITE that is left to another thread.
#[derive(Debug)]
struct Job {
    data: Vec<u8>,
    position: Position,
    whole: bool,
    datasync: bool,
}

/// What became of it; the buffer goes back to its thread.
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
    /// On stable storage before the answer: only data and size, if `Some(true)`.
    pub(crate) datasync: Option<bool>,
}

impl WriteGroup {
    /// For WRITEs that are not durable: joined if they meet.
    pub(crate) fn cached() -> Self {
        Self {
            lanes: None,
            choice: None,
            queue: Queue::new(),
            pace: Pace::default(),
        }
    }

    /// For durable WRITEs to what `file` stands for: joined if they meet, and `always` or that is
    /// faster. `proc_self_fd` is a descriptor of /proc/self/fd.
    ///
    /// # Errors
    /// Of opening it once more.
    pub(crate) fn durable(
        file: BorrowedFd<'_>,
        proc_self_fd: &Arc<OwnedFd>,
        always: bool,
    ) -> Result<Self> {
        Ok(Self {
            lanes: Some(Lanes::new(file, proc_self_fd)?),
            choice: (!always).then(Choice::default),
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

    /// What is left of it when the first `done` bytes are written.
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
    /// Writes without looking at anybody else.
    pub(crate) fn write_alone(&self, piece: Piece<'_>) -> Result<usize> {
        self.write_rest(piece, self.write_once(piece)?)
    }

    /// Writes, together with others of the group if there are any and it pays.
    pub(crate) fn write_in(&self, group: &WriteGroup, piece: Piece<'_>) -> Result<usize> {
        let company = group.choice.as_ref().map(Choice::enter);
        if company.as_ref().is_some_and(choice::Company::goes_apart)
            && let Some(lanes) = &group.lanes
            && let Ok(lane) = lanes.take(self.fd)
        {
            let written = self.through(lane.as_fd()).write_alone(piece);
            if written.is_err() {
                lanes.note_failure();
            }
            lanes.give(lane);
            return written;
        }
        if group.pace.wait().is_none()
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

    /// Has `write` use the descriptor of who leads, and say whether something failed.
    fn leading<T>(&self, group: &WriteGroup, write: impl FnOnce(&Writer<'_>) -> (T, bool)) -> T {
        let Some(lanes) = &group.lanes else {
            return write(self).0;
        };
        let lane = lanes.lead();
        let (result, failed) = write(&self.through(lane.as_fd()));
        if failed {
            lanes.note_failure();
        }
        result
    }

    /// Does `own` and all that wait.
    fn lead(
        &self,
        group: &WriteGroup,
        mut lead: Lead<'_, Job, Written>,
        own: Job,
    ) -> Result<usize> {
        let pace = &group.pace;
        // Waiting for others pays only where there is a flush to share.
        if let (true, Some((wanted, limit))) = (self.datasync.is_some(), pace.wait()) {
            let before = lead.waiting();
            lead.gather(wanted, limit);
            pace.waited(lead.waiting() - before);
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
        // Before anybody is answered, who could come again.
        pace.ended(began, jobs.len() + lead.waiting());
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

    /// One pwritev2(2) for neighbours, and what each of them has of it.
    fn write_joined(&self, jobs: &[&Job], call: &[usize], results: &mut [Result<usize>]) {
        let parts: Vec<_> = call
            .iter()
            .map(|&at| IoSlice::new(&jobs[at].data))
            .collect();
        self.stats.count_joined(call.len() as u64);
        // Whose error it would be is not known: all are tried alone then.
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

    /// When `written` bytes are: if it is all or an error, as many more calls as it takes to learn
    /// what stopped it.
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
