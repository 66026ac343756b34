//! Faults on purpose, for tests at a real mount: a [`Backing`] that fails, shortens or delays the
//! calls that a specification names, and passes on the others.
//!
//! A specification is `OPERATION[:nth=N][:range=OFFSET+LENGTH]:OUTCOME`, such as
//! `write:nth=3:ENOSPC`, `write:range=4096+4096:short=100` or `sync:delay=50`. `write` is every
//! pwritev2(2), of joined WRITEs too; `flush` is what makes WRITEs durable, after them
//! (`--durability=dsync`), and `sync` is the client's fsync(2). `kill`, `abort` and `panic` end the server, or its thread,
//! after the call, also after those that only name files (`remove:nth=2:kill`). Why here and not by strace's
//! injection: that counts per thread and cannot write a part.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::backing::{Backing, HostBacking, NamedCall, Position, Span};
use crate::error::{Errno, Result};

/// A call of [`Backing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Flush,
    Sync,
    Truncate,
    Allocate,
    Copy,
    Named(NamedCall),
    Journal,
}

const OPERATIONS: &[(&str, Operation)] = &[
    ("read", Operation::Read),
    ("write", Operation::Write),
    ("flush", Operation::Flush),
    ("sync", Operation::Sync),
    ("truncate", Operation::Truncate),
    ("allocate", Operation::Allocate),
    ("copy", Operation::Copy),
    ("remove", Operation::Named(NamedCall::Remove)),
    ("rename", Operation::Named(NamedCall::Rename)),
    ("make", Operation::Named(NamedCall::Make)),
    ("link", Operation::Named(NamedCall::Link)),
    ("xattr", Operation::Named(NamedCall::Xattr)),
    ("open", Operation::Named(NamedCall::Open)),
    ("lookup", Operation::Named(NamedCall::Lookup)),
    ("journal", Operation::Journal),
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fail(Errno),
    /// At most so many bytes (READ and WRITE).
    Short(usize),
    Delay(Duration),
    /// The server is killed after the call. Its successors (`--survive`) have no such fault.
    Kill,
    /// The server aborts after the call, and so do its successors.
    Abort,
    /// The thread panics after the call; with `--survive`, in the first server alone.
    Panic,
    /// Nothing is noted (`journal`).
    Off,
}

impl Outcome {
    fn is_end(self) -> bool {
        matches!(self, Self::Kill | Self::Abort | Self::Panic)
    }
}

/// Which calls, and what becomes of them; see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    operation: Operation,
    /// Counted from 1, among the calls of this operation that touch the range.
    nth: Option<u64>,
    /// From the first byte to before the second. A call without a known offset touches none.
    range: Option<(u64, u64)>,
    outcome: Outcome,
}

/// Why a specification is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; expected OPERATION[:nth=N][:range=OFFSET+LENGTH]:OUTCOME with an OPERATION of read, write, flush, \
     sync, truncate, allocate or copy and an OUTCOME such as ENOSPC, short=BYTES, delay=MILLISECONDS, kill, \
     abort or panic; or with remove, rename, make, link, xattr, open or lookup, and kill, abort or panic; or journal:off"
)]
pub struct FaultError(String);

fn number(text: &str) -> std::result::Result<u64, FaultError> {
    text.parse()
        .map_err(|_| FaultError(format!("`{text}` is not a number")))
}

/// By the names in errno(3).
fn errno_named(name: &str) -> Option<Errno> {
    let all = (1..=133).map(Errno::from_raw);
    all.filter(|errno| *errno != Errno::UnknownErrno)
        .find(|errno| format!("{errno:?}") == name)
}

fn range(text: &str) -> std::result::Result<(u64, u64), FaultError> {
    let wrong = || FaultError(format!("`{text}` is not a range OFFSET+LENGTH"));
    let (offset, length) = text.split_once('+').ok_or_else(wrong)?;
    let (offset, length) = (number(offset)?, number(length)?);
    let end = offset.checked_add(length).ok_or_else(wrong)?;
    if length == 0 {
        return Err(wrong());
    }
    Ok((offset, end))
}

fn outcome(text: &str) -> std::result::Result<Outcome, FaultError> {
    if let Some(bytes) = text.strip_prefix("short=") {
        let bytes = usize::try_from(number(bytes)?)
            .map_err(|_| FaultError(format!("`{text}` is too large")))?;
        return Ok(Outcome::Short(bytes));
    }
    if let Some(milliseconds) = text.strip_prefix("delay=") {
        return Ok(Outcome::Delay(Duration::from_millis(number(milliseconds)?)));
    }
    let end = match text {
        "kill" => Some(Outcome::Kill),
        "abort" => Some(Outcome::Abort),
        "panic" => Some(Outcome::Panic),
        "off" => Some(Outcome::Off),
        _errno => None,
    };
    if let Some(end) = end {
        return Ok(end);
    }
    errno_named(text)
        .map(Outcome::Fail)
        .ok_or_else(|| FaultError(format!("`{text}` is no outcome")))
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> std::result::Result<Self, FaultError> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let operation = OPERATIONS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, operation)| *operation)
            .ok_or_else(|| FaultError(format!("`{name}` is no operation")))?;
        let (conditions, last) = rest.rsplit_once(':').unwrap_or(("", rest));
        let mut fault = Self {
            operation,
            nth: None,
            range: None,
            outcome: outcome(last)?,
        };
        for condition in conditions.split(':').filter(|part| !part.is_empty()) {
            match condition.split_once('=') {
                Some(("nth", count)) => match number(count)? {
                    0 => return Err(FaultError("nth counts from 1".to_owned())),
                    count => fault.nth = Some(count),
                },
                Some(("range", text)) => fault.range = Some(range(text)?),
                _ => return Err(FaultError(format!("`{condition}` is no condition"))),
            }
        }
        let has_count = matches!(operation, Operation::Read | Operation::Write);
        if matches!(fault.outcome, Outcome::Short(_)) && !has_count {
            return Err(FaultError(format!("{name} has no count to be short")));
        }
        let fits = match operation {
            Operation::Named(_) => fault.outcome.is_end(),
            Operation::Journal => fault.outcome == Outcome::Off,
            _call => fault.outcome != Outcome::Off,
        };
        if !fits {
            return Err(FaultError(format!("{name} has no such outcome")));
        }
        if fault.range.is_some() && matches!(operation, Operation::Sync | Operation::Flush) {
            return Err(FaultError(format!("{name} has no range")));
        }
        Ok(fault)
    }
}

impl Fault {
    /// Whether it is for the first server of a mount alone.
    pub fn is_kill(&self) -> bool {
        matches!(self.outcome, Outcome::Kill | Outcome::Panic)
    }
}

/// The host's calls with faults; see the module.
#[derive(Debug)]
pub struct FaultyBacking {
    /// Each with the number of calls that it matched so far, `nth` aside.
    faults: Vec<(Fault, AtomicU64)>,
}

impl FaultyBacking {
    /// Several faults may match one call: delays add up, the first other outcome counts.
    pub fn new(faults: Vec<Fault>) -> Self {
        let faults = faults.into_iter().map(|fault| (fault, AtomicU64::new(0)));
        Self {
            faults: faults.collect(),
        }
    }

    /// How many bytes the call may move, after the delays that are due.
    fn meet(&self, operation: Operation, offset: Option<u64>, length: u64) -> Result<usize> {
        let mut allowed = None;
        for (fault, seen) in &self.faults {
            let touches = fault.range.is_none_or(|(start, end)| {
                offset.is_some_and(|at| at < end && start < at.saturating_add(length))
            });
            if fault.operation != operation || !touches || fault.outcome.is_end() {
                continue;
            }
            let count = seen.fetch_add(1, Ordering::Relaxed) + 1;
            if fault.nth.is_some_and(|nth| nth != count) {
                continue;
            }
            match fault.outcome {
                Outcome::Delay(time) => std::thread::sleep(time),
                Outcome::Fail(errno) => allowed = allowed.or(Some(Err(errno))),
                Outcome::Short(bytes) => allowed = allowed.or(Some(Ok(bytes))),
                Outcome::Kill | Outcome::Abort | Outcome::Panic | Outcome::Off => {}
            }
        }
        allowed.unwrap_or(Ok(usize::MAX))
    }

    /// The call is done: ends this process if a fault says so.
    fn end_after(&self, operation: Operation) {
        for (fault, seen) in &self.faults {
            if fault.operation != operation || !fault.outcome.is_end() {
                continue;
            }
            let count = seen.fetch_add(1, Ordering::Relaxed) + 1;
            if fault.nth.is_some_and(|nth| nth != count) {
                continue;
            }
            match fault.outcome {
                Outcome::Abort => std::process::abort(),
                Outcome::Panic => panic!("--fault"),
                _kill => {
                    // No signal is caught there, so nothing follows.
                    let _ended = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
    }
}

impl Backing for FaultyBacking {
    fn named(&self, call: NamedCall) {
        self.end_after(Operation::Named(call));
    }

    fn keeps_journal(&self) -> bool {
        let mut faults = self.faults.iter();
        !faults.any(|(fault, _)| fault.operation == Operation::Journal)
    }

    fn read(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let allowed = self.meet(Operation::Read, Some(offset), buf.len() as u64)?;
        let length = buf.len().min(allowed);
        HostBacking.read(fd, &mut buf[..length], offset)
    }

    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        let offset = match position {
            Position::At(offset) => Some(offset),
            Position::Append => None,
        };
        let allowed = self.meet(Operation::Write, offset, data.len() as u64)?;
        let written = HostBacking.write(fd, &data[..data.len().min(allowed)], position);
        self.end_after(Operation::Write);
        written
    }

    fn write_joined(
        &self,
        fd: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> Result<usize> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut allowed = self.meet(Operation::Write, Some(offset), length as u64)?;
        let parts = parts.iter().map(|part| {
            let (kept, _refused) = part.split_at(part.len().min(allowed));
            allowed -= kept.len();
            IoSlice::new(kept)
        });
        HostBacking.write_joined(fd, &parts.collect::<Vec<_>>(), offset)
    }

    fn flush(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        self.meet(Operation::Flush, None, 0)?;
        HostBacking.flush(fd, datasync)
    }

    fn sync(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        self.meet(Operation::Sync, None, 0)?;
        let synced = HostBacking.sync(fd, datasync);
        self.end_after(Operation::Sync);
        synced
    }

    fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        self.meet(Operation::Truncate, Some(size), 1)?;
        HostBacking.truncate(fd, size)
    }

    fn allocate(&self, fd: BorrowedFd<'_>, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.meet(Operation::Allocate, Some(offset), length)?;
        HostBacking.allocate(fd, mode, offset, length)
    }

    fn copy_range(&self, from: Span<'_>, to: Span<'_>, length: usize) -> Result<usize> {
        self.meet(Operation::Copy, Some(to.offset), length as u64)?;
        HostBacking.copy_range(from, to, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Fault {
        text.parse().expect("a specification of this test")
    }

    #[test]
    fn parse_of_each_part_keeps_it() {
        let fault = parsed("write:nth=3:range=4096+100:ENOSPC");
        assert_eq!(
            fault,
            Fault {
                operation: Operation::Write,
                nth: Some(3),
                range: Some((4096, 4196)),
                outcome: Outcome::Fail(Errno::ENOSPC),
            }
        );
        assert_eq!(parsed("read:short=7").outcome, Outcome::Short(7));
        let killed = parsed("remove:nth=2:kill");
        assert_eq!(killed.operation, Operation::Named(NamedCall::Remove));
        assert!(killed.is_kill() && !parsed("write:abort").is_kill());
        let noted = FaultyBacking::new(vec![killed]).keeps_journal();
        assert!(noted && !FaultyBacking::new(vec![parsed("journal:off")]).keeps_journal());
        let delay = Outcome::Delay(Duration::from_millis(50));
        assert_eq!(parsed("sync:delay=50").outcome, delay);
    }

    #[test]
    fn parse_of_a_wrong_part_names_it() {
        for (text, named) in [
            ("", "`` is no operation"),
            ("unlink:EIO", "`unlink` is no operation"),
            ("write", "`` is no outcome"),
            ("remove:EIO", "remove has no such outcome"),
            ("write:off", "write has no such outcome"),
            ("journal:kill", "journal has no such outcome"),
            ("write:EWRONG", "`EWRONG` is no outcome"),
            ("write:nth=x:EIO", "`x` is not a number"),
            ("write:nth=0:EIO", "counts from 1"),
            ("write:range=5:EIO", "`5` is not a range"),
            ("write:range=5+0:EIO", "`5+0` is not a range"),
            ("write:often:EIO", "`often` is no condition"),
            ("sync:short=1", "sync has no count"),
            ("sync:range=0+1:EIO", "sync has no range"),
            ("flush:range=0+1:EIO", "flush has no range"),
        ] {
            let error = text.parse::<Fault>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn meet_of_the_nth_call_in_the_range_alone_fails() {
        let backing = FaultyBacking::new(vec![parsed("write:range=100+10:nth=2:EIO")]);
        let meet = |offset, length| backing.meet(Operation::Write, offset, length);
        assert_eq!(meet(Some(0), 100), Ok(usize::MAX), "ends before the range");
        assert_eq!(meet(Some(110), 5), Ok(usize::MAX), "starts after it");
        assert_eq!(meet(None, 500), Ok(usize::MAX), "appends");
        assert_eq!(meet(Some(0), 101), Ok(usize::MAX), "the first");
        assert_eq!(meet(Some(109), 1), Err(Errno::EIO), "the second");
        assert_eq!(meet(Some(109), 1), Ok(usize::MAX), "the third");
        assert_eq!(backing.meet(Operation::Read, Some(100), 1), Ok(usize::MAX));
    }

    #[test]
    fn meet_of_several_faults_takes_the_first_outcome() {
        let faults = ["write:delay=1", "write:short=5", "write:EIO"];
        let backing = FaultyBacking::new(faults.map(parsed).to_vec());
        assert_eq!(backing.meet(Operation::Write, Some(0), 9), Ok(5));
    }
}
