//! Tells a change that was made under SOURCE from the mount's own, for files that are open with
//! `--cache=auto`: after a foreign one the kernel has to drop what it cached of the file, after one
//! of the mount's own it must not.
//!
//! Why not FUSE_AUTO_INVAL_DATA, with which the kernel drops a file's pages by itself whenever a
//! reply shows another mtime: it cannot tell either, so the mount's own WRITEs make it drop the
//! file at the next GETATTR. A WRITE that is under way then has filled a page, which is uptodate,
//! clean and not locked, so it goes like any other; a fault or a read-ahead fetches it again, and if
//! that READ is served before the WRITE, the bytes of before stay in the cache after write(2) has
//! returned. (The order of requests is no help: the kernel fills pages before it sends the WRITE.)
//! The same goes for an OPEN without FOPEN_KEEP_CACHE. No daemon can make such a drop safe, only
//! avoid it; for the foreign change of a file that the mount is writing to as well it remains.
//!
//! The mtime decides. A WRITE of ours can give a file an mtime from [coarse clock before it,
//! clock after it] and no other. Whatever else is found, compared with what was found last, is
//! somebody else's. Before the first WRITE in a tick of the coarse clock the file is looked at, so
//! that a WRITE does not hide the foreign change before it; a steady writer pays one statx(2) in
//! some 4 ms. What is missed: a foreign change in the same tick as a WRITE of ours, after it began.
//! Where SOURCE has another clock (network file systems), our own WRITEs count as foreign, which
//! costs the cache, as FUSE_AUTO_INVAL_DATA does. (A tick is what the clock of files takes to pass the
//! end of our WRITE: on a busy machine it can lag.)
//!
//! Invariant: attributes that show a foreign change reach the kernel only after it has dropped what it
//! cached ([`Foreign`]), so whoever sees the new mtime reads the new bytes.

mod table;

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use rustix::fs::Statx;

use crate::attr::statx;

pub(crate) use table::{Entered, Watches};

/// A point in time, as files have it: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    seconds: i64,
    nanoseconds: i64,
}

impl Time {
    fn of(clock: ClockId) -> Self {
        let now = clock_gettime(clock).expect("every Linux has this clock");
        Self {
            seconds: now.tv_sec(),
            nanoseconds: now.tv_nsec(),
        }
    }

    /// Now. No timestamp that a file of this machine has been given is later.
    pub(crate) fn now() -> Self {
        Self::of(ClockId::CLOCK_REALTIME)
    }

    /// The beginning of this tick: files get no earlier one from now on.
    fn tick() -> Self {
        Self::of(ClockId::CLOCK_REALTIME_COARSE)
    }

    /// The earliest time that a file system may keep for this one, to judge by `kept`, which it
    /// kept: FAT has whole (even) seconds, exFAT hundredths, others at least microseconds.
    fn rounded_as(self, kept: Self) -> Self {
        let grain = match kept.nanoseconds {
            0 => 2_000_000_000,
            nanoseconds if nanoseconds % 10_000_000 == 0 => 10_000_000,
            _fine => 1_000,
        };
        let nanoseconds = self.nanoseconds - grain;
        Self {
            seconds: self.seconds + nanoseconds.div_euclid(1_000_000_000),
            nanoseconds: nanoseconds.rem_euclid(1_000_000_000),
        }
    }
}

/// What of a file shows that its content was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    mtime: Time,
    size: u64,
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            mtime: Time {
                seconds: stat.stx_mtime.tv_sec,
                nanoseconds: i64::from(stat.stx_mtime.tv_nsec),
            },
            size: stat.stx_size,
        }
    }
}

/// The mount's own changes since the file was last judged.
#[derive(Clone, Copy, Debug)]
struct Own {
    /// No mtime that they give is earlier.
    from: Time,
    /// One of them can give any mtime: SETATTR.
    any: bool,
}

#[derive(Debug)]
struct State {
    /// As it was last judged.
    known: Stamp,
    own: Option<Own>,
    under_way: usize,
    /// When the last of the mount's own changes ended.
    ended: Time,
    /// When it was last looked at.
    looked: Time,
    /// Foreign changes that were found, and of these those after which the kernel has dropped
    /// what it cached.
    found: u64,
    dropped: u64,
}

/// One open file.
#[derive(Debug)]
pub(crate) struct Watch {
    /// A leaf lock, of this inode alone; held for no system call.
    state: Mutex<State>,
}

/// A foreign change after which the kernel has not yet dropped what it cached.
#[derive(Clone)]
pub struct Foreign {
    watch: Arc<Watch>,
    found: u64,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({})", self.found)
    }
}

impl Foreign {
    /// The kernel has dropped it.
    pub(crate) fn dropped(&self) {
        let mut state = self.watch.state.lock();
        state.dropped = state.dropped.max(self.found);
    }
}

/// What an own change does to the mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sets {
    /// The time at which it is made.
    Now,
    /// Any: SETATTR.
    Any,
}

/// An own change that is under way.
#[derive(Debug)]
pub(crate) struct OwnChange<'a>(&'a Watch);

impl Drop for OwnChange<'_> {
    fn drop(&mut self) {
        let now = Time::now();
        let mut state = self.0.state.lock();
        state.under_way -= 1;
        state.ended = state.ended.max(now);
    }
}

impl Watch {
    /// Of a file of which the kernel has cached nothing older than `stat`.
    fn new(stat: &Statx) -> Self {
        let state = State {
            known: Stamp::of(stat),
            own: None,
            under_way: 0,
            ended: Time::default(),
            looked: Time::default(),
            found: 0,
            dropped: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Whether `stat`, for which statx(2) was called at `asked` or later, shows a foreign change; or
    /// an earlier one is still with the kernel. While own changes are under way it cannot be told;
    /// whoever looks next will find it.
    pub(crate) fn judge(self: &Arc<Self>, asked: Time, stat: &Statx) -> Option<Foreign> {
        let stamp = Stamp::of(stat);
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.under_way == 0 && state.ended < asked && state.looked <= asked {
            state.looked = asked;
            let own = state.own.take();
            if stamp != state.known {
                state.known = stamp;
                let (mtime, ended) = (stamp.mtime, state.ended);
                let is_ours = own.is_some_and(|Own { from, any }| {
                    any || from.rounded_as(mtime) <= mtime && mtime <= ended
                });
                state.found += u64::from(!is_ours);
            }
        }
        (state.dropped < state.found).then(|| Foreign {
            watch: Arc::clone(self),
            found: state.found,
        })
    }

    /// Looks at the file behind `fd`. One that cannot be looked at has not changed.
    pub(crate) fn look(self: &Arc<Self>, fd: impl AsFd) -> Option<Foreign> {
        let asked = Time::now();
        statx(fd).ok().and_then(|stat| self.judge(asked, &stat))
    }

    /// Whether nobody has looked since `time`.
    pub(crate) fn is_due(&self, time: Time) -> bool {
        self.state.lock().looked < time
    }

    /// An own change of the file behind `fd` begins, until the guard is dropped; and the foreign
    /// change that there was before it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        fd: impl AsFd,
        sets: Sets,
    ) -> (OwnChange<'_>, Option<Foreign>) {
        let tick = Time::tick();
        let is_first_of_tick = {
            let state = self.state.lock();
            state.under_way == 0 && state.ended < tick && state.looked < tick
        };
        let foreign = if is_first_of_tick {
            self.look(fd)
        } else {
            None
        };
        let mut state = self.state.lock();
        state.under_way += 1;
        let own = state.own.get_or_insert(Own {
            from: tick,
            any: false,
        });
        own.any |= sets == Sets::Any;
        drop(state);
        (OwnChange(self), foreign)
    }
}

#[cfg(test)]
mod tests;
