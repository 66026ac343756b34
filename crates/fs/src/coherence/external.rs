//! Tells an external change, made under SOURCE, from the mount's own, for files that are open with
//! `--cache=auto`: the kernel must invalidate its cache of the file after the former, and must not after
//! the latter.
//!
//! Why not FUSE_AUTO_INVAL_DATA, by which the kernel invalidates a file whenever a reply shows another
//! mtime: the kernel cannot tell either, so the mount's own WRITEs make it drop the file at the next
//! GETATTR. A WRITE in flight has filled a page that is uptodate, clean and unlocked, so it is dropped too;
//! a fault or a read-ahead fetches it again, and if that READ is served before the WRITE, the older bytes
//! stay in the cache after write(2) has returned. (Ordering the requests does not help: the kernel fills
//! the pages before it sends the WRITE.) An OPEN without FOPEN_KEEP_CACHE has the same effect. A daemon
//! cannot make such an invalidation safe, only avoid it; an external change of a file that the mount is
//! writing to at the same time still causes one.
//!
//! The mtime decides. A WRITE of the mount gives a file an mtime within [coarse clock before it, clock
//! after it]. Any other mtime that differs from the last one seen is an external change. Before the first
//! WRITE in a tick of the coarse clock the tracker samples the file, so that a WRITE does not hide an
//! external change before it; a steady writer pays one statx(2) every 4 ms or so. Missed: an external
//! change in the same tick as a WRITE of the mount, after that began. Where SOURCE has another clock
//! (network file systems) the mount's own WRITEs count as external, which costs the cache, as
//! FUSE_AUTO_INVAL_DATA does. (A tick lasts until the clock of files passes the end of the WRITE, which
//! lags on a busy machine.)
//!
//! Invariant: attributes that show an external change reach the kernel only after it has invalidated its
//! cache ([`ExternalChange`]), so a reader that sees the new mtime reads the new bytes.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use rustix::fs::Statx;

use crate::inode::identity::statx;

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
    pub(crate) fn tick() -> Self {
        Self::of(ClockId::CLOCK_REALTIME_COARSE)
    }

    /// One that a file has.
    pub(crate) fn new(seconds: i64, nanoseconds: i64) -> Self {
        Self {
            seconds,
            nanoseconds,
        }
    }

    /// Seconds and nanoseconds.
    pub(crate) fn parts(self) -> (i64, i64) {
        (self.seconds, self.nanoseconds)
    }

    /// The earliest timestamp that a file system may store for this time, judging by `kept`, which it
    /// stored: FAT has whole (even) seconds, exFAT hundredths, others at least microseconds.
    pub(crate) fn rounded_as(self, kept: Self) -> Self {
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

/// The attributes by which a change of content is noticed.
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
    /// As of the last judgement.
    known: Stamp,
    own: Option<Own>,
    under_way: usize,
    /// When the last of the mount's own changes ended.
    ended: Time,
    /// When it was last looked at.
    looked: Time,
    /// External changes found, and how many of them the kernel has been invalidated for.
    found: u64,
    dropped: u64,
}

/// One open file.
#[derive(Debug)]
pub(crate) struct ChangeTracker {
    /// A leaf lock, of this inode alone; held for no system call.
    state: Mutex<State>,
}

/// An external change for which the kernel's cache is not yet invalidated.
#[derive(Clone)]
pub struct ExternalChange {
    watch: Arc<ChangeTracker>,
    found: u64,
}

impl fmt::Debug for ExternalChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalChange({})", self.found)
    }
}

impl ExternalChange {
    /// The kernel's cache has been invalidated.
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
pub(crate) struct OwnChange<'a>(&'a ChangeTracker);

impl Drop for OwnChange<'_> {
    fn drop(&mut self) {
        let now = Time::now();
        let mut state = self.0.state.lock();
        state.under_way -= 1;
        state.ended = state.ended.max(now);
    }
}

impl ChangeTracker {
    /// A file of which the kernel has cached nothing older than `stat`.
    pub(crate) fn new(stat: &Statx) -> Self {
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

    /// The external change that `stat` shows (statx(2) was called at `asked` or later), or an earlier one
    /// that is still pending. While own changes are in flight the two cannot be told apart; the next
    /// sample finds it.
    pub(crate) fn judge(self: &Arc<Self>, asked: Time, stat: &Statx) -> Option<ExternalChange> {
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
        (state.dropped < state.found).then(|| ExternalChange {
            watch: Arc::clone(self),
            found: state.found,
        })
    }

    /// Samples the file behind `fd`. One that cannot be sampled counts as unchanged.
    pub(crate) fn look(self: &Arc<Self>, fd: impl AsFd) -> Option<ExternalChange> {
        let asked = Time::now();
        statx(fd).ok().and_then(|stat| self.judge(asked, &stat))
    }

    /// Whether the last sample is older than `time`.
    pub(crate) fn is_due(&self, time: Time) -> bool {
        self.state.lock().looked < time
    }

    /// Begins an own change of the file behind `fd`, which ends when the guard is dropped; returns the
    /// external change before it as well, if there was one.
    pub(crate) fn begin(
        self: &Arc<Self>,
        fd: impl AsFd,
        sets: Sets,
    ) -> (OwnChange<'_>, Option<ExternalChange>) {
        let tick = Time::tick();
        let is_first_of_tick = {
            let state = self.state.lock();
            state.under_way == 0 && state.ended < tick && state.looked < tick
        };
        let external = if is_first_of_tick {
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
        (OwnChange(self), external)
    }
}

#[cfg(test)]
mod tests;
