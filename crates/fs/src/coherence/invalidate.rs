//! NOTIFY_INVAL_INODE: the range of a WRITE that failed or was short, so that the next reader, by read(2) or
//! through a mapping, gets what the backing file holds; the attributes after an IOCTL that changed a file,
//! which the kernel does not expect; and a whole file after an external change (`external.rs`).
//!
//! Invariant: the notification is sent after the reply, from a thread that serves no request and holds no
//! lock of ours. The kernel waits for the folio locks of the range, and the writer may hold one until it
//! has the reply (a partial page); it writes a page that was dirtied through a mapping back before it drops
//! it, so no store is lost, and that WRITE needs a session thread. From the WRITE handler either wait would
//! never end.
//!
//! What remains: up to Linux 7.2 the kernel clears the uptodate flag of a failed WRITE's pages before
//! write(2) returns. From 7.3 on it does not, so between the reply and the notification a reader can see
//! the refused bytes, and a store through a mapping of the same page in that time makes them durable with
//! the rest of the page. Sending the notification first would close that gap and deadlock on every write
//! that starts or ends within a page.
//! If the daemon is killed (SIGKILL) while the thread waits for a folio that an unanswered request holds,
//! only /sys/fs/fuse/connections/N/abort ends the connection: that wait cannot be interrupted. On SIGTERM
//! the daemon does so itself.
//!
//! Memory is bounded: one range per inode (the hull of the failed ones), and beyond [`MAX_PENDING`] inodes
//! all known inodes are invalidated instead.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::notifier::SendInval;

/// Inodes with a pending range.
const MAX_PENDING: usize = 256;

/// Runs when the notification has been sent, or cannot be: sends a reply that waits for it.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

/// Bytes of a file from `start`, and its attributes; `None` as the end is beyond any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalRange {
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
}

impl InvalRange {
    pub(crate) const WHOLE: Self = Self {
        start: 0,
        end: None,
    };
    /// No byte: nothing but the attributes. No WRITE leaves such a range.
    pub(crate) const ATTRIBUTES: Self = Self {
        start: u64::MAX,
        end: Some(0),
    };

    fn hull(self, other: Self) -> Self {
        if self == Self::ATTRIBUTES {
            return other;
        }
        if other == Self::ATTRIBUTES {
            return self;
        }
        Self {
            start: self.start.min(other.start),
            end: self.end.zip(other.end).map(|(a, b)| a.max(b)),
        }
    }

    /// As the notification has it. The kernel rounds to pages.
    pub(crate) fn offset_and_len(self) -> (i64, i64) {
        // A negative offset means "attributes only".
        if self == Self::ATTRIBUTES {
            return (-1, 0);
        }
        let Ok(offset) = i64::try_from(self.start) else {
            return (0, 0);
        };
        let len = self.end.map_or(0, |end| end.saturating_sub(self.start));
        (offset, i64::try_from(len).unwrap_or(0))
    }
}

#[derive(Default)]
struct State {
    /// First in, first out, each inode once.
    pending: VecDeque<(u64, InvalRange, Vec<Then>)>,
    /// Too many inodes: all are invalidated, and then these run.
    overflowed: Option<Vec<Then>>,
    running: bool,
    /// The thread sends what it took.
    is_sending: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inodes = self.pending.iter().map(|(ino, stale, _)| (ino, stale));
        f.debug_list().entries(inodes).finish()
    }
}

/// The pending invalidations.
#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    /// A leaf lock, never held while a notification is sent.
    state: Mutex<State>,
    changed: Condvar,
}

/// What the thread asks of the inode table.
pub(crate) struct KnownInodes {
    /// The inodes that the kernel knows.
    pub(crate) all: Box<dyn Fn() -> Vec<u64> + Send>,
    /// The inode for the log.
    pub(crate) identify: Box<dyn Fn(u64) -> String + Send>,
}

/// What the thread does next.
enum Next {
    One(u64, InvalRange, Vec<Then>),
    All(Vec<Then>),
    End,
}

impl Invalidations {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self: &Arc<Self>, send: SendInval, known: KnownInodes) -> io::Result<()> {
        self.state.lock().running = true;
        let queue = Arc::clone(self);
        let thread = std::thread::Builder::new().name("thrufs-inval".into());
        thread
            .spawn(move || queue.serve(&send, &known))
            .map(|_detached| ())
            .inspect_err(|_| self.stop())
    }

    /// Ends the thread after its current notification, without waiting for it: it may be blocked in the
    /// kernel.
    pub(crate) fn stop(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        self.changed.notify_all();
        let pending = state.pending.into_iter().map(|(.., then)| then);
        for then in pending.chain(state.overflowed).flatten() {
            then();
        }
    }

    /// Waits until what is queued has been sent, for so long at most: a notification may wait in the kernel for a
    /// request that is not served any more.
    pub(crate) fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.running
            && (state.is_sending || !state.pending.is_empty() || state.overflowed.is_some())
        {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Queues `stale` of `ino`. Does nothing without the thread (no kernel, no cache).
    pub(crate) fn push(&self, ino: u64, stale: InvalRange) {
        self.add(ino, stale, None);
    }

    /// The same; calls `then` when the notification has been sent, or cannot be.
    pub(crate) fn push_then(&self, ino: u64, stale: InvalRange, then: Then) {
        if let Some(then) = self.add(ino, stale, Some(then)) {
            then();
        }
    }

    /// Returns `then` if the thread will not call it.
    fn add(&self, ino: u64, stale: InvalRange, then: Option<Then>) -> Option<Then> {
        let mut state = self.state.lock();
        if !state.running {
            return then;
        }
        if let Some(waiting) = &mut state.overflowed {
            waiting.extend(then);
        } else if let Some((_, known, waiting)) =
            state.pending.iter_mut().find(|(known, ..)| *known == ino)
        {
            *known = known.hull(stale);
            waiting.extend(then);
        } else if state.pending.len() < MAX_PENDING {
            let waiting = then.into_iter().collect();
            state.pending.push_back((ino, stale, waiting));
        } else {
            let pending = state.pending.drain(..).flat_map(|(.., then)| then);
            let waiting = pending.chain(then).collect();
            state.overflowed = Some(waiting);
        }
        self.changed.notify_all();
        None
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        state.is_sending = false;
        loop {
            if !state.running {
                return Next::End;
            }
            if let Some(then) = state.overflowed.take() {
                state.is_sending = true;
                return Next::All(then);
            }
            if let Some((ino, stale, then)) = state.pending.pop_front() {
                state.is_sending = true;
                return Next::One(ino, stale, then);
            }
            // For `finish`.
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
    }

    fn serve(&self, send: &SendInval, known: &KnownInodes) {
        let invalidate = |ino: u64, stale: InvalRange| {
            let (offset, len) = stale.offset_and_len();
            tracing::debug!(ino, offset, len, "NOTIFY_INVAL_INODE");
            if let Err(error) = send(ino, offset, len)
                && self.state.lock().running
            {
                let inode = (known.identify)(ino);
                tracing::warn!(
                    inode, offset, len, %error,
                    "the kernel may go on showing bytes of a failed WRITE, or the file as it was before \
                     an external change: its cache cannot be invalidated; use --cache=never"
                );
            }
        };
        loop {
            let then = match self.next() {
                Next::One(ino, stale, then) => {
                    invalidate(ino, stale);
                    then
                }
                Next::All(then) => {
                    (known.all)()
                        .into_iter()
                        .for_each(|ino| invalidate(ino, InvalRange::WHOLE));
                    then
                }
                Next::End => return,
            };
            then.into_iter().for_each(|then| then());
        }
    }
}

#[cfg(test)]
mod tests;
