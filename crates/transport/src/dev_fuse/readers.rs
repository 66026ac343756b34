//! Which threads read: more while there is work, up to [`USUAL`], and up to the limit when requests wait for
//! SOURCE; all but one end when nothing comes for long.
//!
//! A reader reads a message, serves it, and reads the next. A further one begins after every [`A_FEW`] messages
//! of one of them, and when every reader has been at one request for long and the kernel has more
//! ([`Readers::watch`]).
//!
//! Invariant: until the connection ends there is a reader, and a request that waits for another message
//! (FORGET, or one on the mount itself) meets one within the time of [`STUCK`], up to the limit of threads.
//!
//! Why not one warm thread while one client asks, the others waiting elsewhere: that thread sleeps on the other
//! CPU than the client, which each request and each answer then has to wake. Of several in read(2), one runs on
//! the client's CPU when the client goes to sleep, and takes the message before the one that was woken for it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thrufs_sys::restart::restart_call;

use super::buffer::Buffers;
use super::connection::{DevFuse, Received};

/// A request that lasts longer may be waiting, for SOURCE or for another request.
const STUCK: Duration = Duration::from_micros(200);
/// Between two looks at one reader while it has work; at more of them, as many times as long: each look wakes a
/// thread on a CPU that a reader or its client then lacks, and all of many readers rarely wait at once.
const TICK: Duration = Duration::from_micros(300);
/// Between two looks while all threads are at a request, or nothing more has come.
const LONG_TICK: Duration = Duration::from_millis(20);
/// Looks without a new request after which there are none until the next one.
const QUIET: u32 = 32;
/// How long a drain waits for requests under way ([`Drain`]).
const FINISH: Duration = Duration::from_millis(100);
/// How long nothing comes before all readers but one end.
const IDLE: Duration = Duration::from_secs(10);
/// Readers that work alone brings about.
const USUAL: usize = 8;
/// Messages of one reader after which one more begins: a mount that is hardly used has one.
const A_FEW: u64 = 16;

/// Serves one message.
pub type Handler = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How many threads there are, for an operator. Each value is true by itself.
#[derive(Debug, Default)]
pub struct ReaderCounts {
    threads: AtomicUsize,
    started: AtomicU64,
}

impl ReaderCounts {
    /// Threads that read and serve.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// How many were started so far.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// To be called under the lock of the state.
    fn note(&self, state: &State) {
        self.threads.store(state.members.len(), Ordering::Relaxed);
        self.started.store(state.started, Ordering::Relaxed);
    }
}

/// Ends [`serve`] while the connection lasts, for a process that takes the connection over.
#[derive(Debug, Default)]
pub struct Drain {
    is_asked: AtomicBool,
    watcher: OnceLock<Thread>,
}

impl Drain {
    /// Messages that are read from now on are left unserved, and those under way have the time of [`FINISH`].
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::SeqCst)
    }
}

/// Why [`serve`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The connection has ended.
    Connection,
    /// As was asked by [`Drain::ask`]. Threads may still wait for a message, which they will not serve, or for a
    /// call on SOURCE: the caller ends the process.
    Drained,
}

/// Serves all messages of `device` until the connection ends or `drain` is asked, with at most `most` threads at a
/// time; the calling thread watches them. Messages are read into `buffers`. `handle` must not panic.
///
/// # Errors
/// There can be no thread; reading failed ([`DevFuse::receive`]).
pub fn serve(
    device: &Arc<DevFuse>,
    (buffers, most): (Buffers, usize),
    counts: &Arc<ReaderCounts>,
    drain: &Arc<Drain>,
    handle: Handler,
) -> io::Result<Ended> {
    let readers = Readers {
        counts: Arc::clone(counts),
        drain: Arc::clone(drain),
        ..Readers::new(device, buffers, most, handle)
    };
    Arc::new(readers).serve()
}

struct Readers {
    device: Arc<DevFuse>,
    buffers: Buffers,
    most: usize,
    handle: Handler,
    counts: Arc<ReaderCounts>,
    drain: Arc<Drain>,
    /// A leaf lock, held across no system call but a thread's start.
    state: Mutex<State>,
    /// Whether the watcher looks at intervals; otherwise the next request wakes it.
    is_watched: AtomicBool,
    /// [`IDLE`].
    idle: Duration,
    watcher: Thread,
    started: Instant,
}

#[derive(Default)]
struct State {
    members: Vec<(Arc<Member>, JoinHandle<()>)>,
    started: u64,
    /// The connection has ended.
    result: Option<io::Result<()>>,
}

/// A thread.
#[derive(Debug)]
struct Member {
    /// It ends before it reads again.
    ends: AtomicBool,
    /// When its request began, in nanoseconds; 0 while it reads.
    since: AtomicU64,
    served: AtomicU64,
}

impl Readers {
    /// The calling thread is the one that will watch.
    fn new(device: &Arc<DevFuse>, buffers: Buffers, most: usize, handle: Handler) -> Self {
        Self {
            device: Arc::clone(device),
            buffers,
            most: most.max(1),
            handle,
            counts: Arc::default(),
            drain: Arc::default(),
            state: Mutex::default(),
            is_watched: AtomicBool::new(true),
            idle: IDLE,
            watcher: std::thread::current(),
            started: Instant::now(),
        }
    }

    fn serve(self: &Arc<Self>) -> io::Result<Ended> {
        // Before it is looked at: a drain that is asked for later wakes this thread.
        let _once = self.drain.watcher.set(self.watcher.clone());
        // A server that died may have left it so.
        self.device.set_nonblocking(false)?;
        self.add(&mut self.state.lock())?;
        if self.watch() == Ended::Drained {
            return Ok(Ended::Drained);
        }
        let members = std::mem::take(&mut self.state.lock().members);
        for (_member, thread) in members {
            if thread.join().is_err() {
                return Err(io::Error::other("a session thread panicked"));
            }
        }
        let result = self.state.lock().result.take().unwrap_or(Ok(()));
        result.map(|()| Ended::Connection)
    }

    fn now(&self) -> u64 {
        // 0 means none; a u64 has nanoseconds for 584 years.
        self.started.elapsed().as_nanos() as u64 + 1
    }

    /// One more reader; false if there are as many as there may be.
    fn add(self: &Arc<Self>, state: &mut State) -> io::Result<bool> {
        if state.members.len() >= self.most {
            return Ok(false);
        }
        let member = Arc::new(Member {
            ends: AtomicBool::new(false),
            since: AtomicU64::new(0),
            served: AtomicU64::new(0),
        });
        let (this, me) = (Arc::clone(self), Arc::clone(&member));
        let thread = std::thread::Builder::new()
            .name(format!("session-{}", state.started))
            .spawn(move || this.work(&me))?;
        state.started += 1;
        state.members.push((member, thread));
        self.counts.note(state);
        Ok(true)
    }

    /// As [`Self::add`]; without another thread those that there are do all the work.
    fn try_add(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.result.is_some() {
            return false;
        }
        self.add(&mut state).unwrap_or(false)
    }

    /// The life of a thread.
    fn work(self: &Arc<Self>, me: &Arc<Member>) {
        let mut buffer = self.buffers.make();
        while !self.drain.is_asked() && !me.ends.load(Ordering::Acquire) {
            let message = match self.device.receive(&mut buffer) {
                Ok(Received::Message(message)) => message,
                Ok(Received::Nothing) => {
                    std::thread::yield_now();
                    continue;
                }
                Ok(Received::Ended) => return self.end(Ok(())),
                Err(error) => return self.end(Err(error)),
            };
            // Before `is_watched`: either the watcher sees this request, or this thread wakes it.
            me.since.store(self.now(), Ordering::SeqCst);
            // After `since`: either this thread sees the drain, or the watcher sees this request and waits for it.
            if self.drain.is_asked() {
                me.since.store(0, Ordering::SeqCst);
                return;
            }
            self.wake_watcher();
            let served = me.served.load(Ordering::Relaxed) + 1;
            if served.is_multiple_of(A_FEW) && self.counts.threads() < self.most.min(USUAL) {
                self.try_add();
            }
            (self.handle)(message);
            me.served.store(served, Ordering::Relaxed);
            me.since.store(0, Ordering::SeqCst);
        }
        let mut state = self.state.lock();
        state.members.retain(|(member, _)| !Arc::ptr_eq(member, me));
        self.counts.note(&state);
    }

    /// The connection has ended; what was told first counts.
    fn end(&self, result: io::Result<()>) {
        let mut state = self.state.lock();
        state.result.get_or_insert(result);
        drop(state);
        self.watcher.unpark();
    }

    fn wake_watcher(&self) {
        if !self.is_watched.load(Ordering::SeqCst) && !self.is_watched.swap(true, Ordering::SeqCst)
        {
            self.watcher.unpark();
        }
    }

    /// Adds readers while those that there are wait; returns when the connection has ended, or when no request is
    /// under way after a drain was asked for.
    fn watch(self: &Arc<Self>) -> Ended {
        let (mut quiet, mut served) = (0, 0);
        loop {
            if self.drain.is_asked() {
                self.finish();
                return Ended::Drained;
            }
            let seen = self.look();
            quiet = match seen {
                Seen::Waiting(now) if now == served => quiet + 1,
                Seen::Working(now) | Seen::Waiting(now) => {
                    served = now;
                    0
                }
                Seen::Stuck | Seen::Ended => 0,
            };
            match seen {
                Seen::Ended => return Ended::Connection,
                // No second thread may be added: only the end remains to be seen.
                _one_thread if self.most == 1 => std::thread::park(),
                Seen::Stuck => self.help(),
                Seen::Waiting(_) if quiet >= QUIET => {
                    self.rest();
                    quiet = 0;
                }
                Seen::Working(_) | Seen::Waiting(_) => std::thread::park_timeout(self.tick()),
            }
        }
    }

    /// Until the next look.
    fn tick(&self) -> Duration {
        TICK * self.counts.threads().clamp(1, USUAL) as u32
    }

    /// Waits until each request that is being served has been.
    fn finish(&self) {
        let until = Instant::now() + FINISH;
        let is_serving = || {
            let state = self.state.lock();
            let mut all = state.members.iter();
            all.any(|(member, _thread)| member.since.load(Ordering::SeqCst) != 0)
        };
        while is_serving() && Instant::now() < until {
            std::thread::park_timeout(TICK);
        }
    }

    /// Waits for the next request, or the end.
    fn rest(&self) {
        self.is_watched.store(false, Ordering::SeqCst);
        // A request may have come between the last look and this.
        if self.is_idle() {
            std::thread::park_timeout(self.idle);
            if !self.is_watched.load(Ordering::SeqCst) && self.is_idle() {
                self.end_all_but_one();
                std::thread::park();
            }
        }
        self.is_watched.store(true, Ordering::SeqCst);
    }

    fn is_idle(&self) -> bool {
        matches!(self.look(), Seen::Waiting(_)) && !self.drain.is_asked()
    }

    /// A thread that misses the signal, since it was about to read, ends after its next message.
    fn end_all_but_one(&self) {
        if let Err(error) = self.device.set_nonblocking(true) {
            tracing::debug!(%error, "idle threads stay");
            return;
        }
        for (member, thread) in self.state.lock().members.iter().skip(1) {
            member.ends.store(true, Ordering::Release);
            restart_call(thread);
        }
        // Those that were asleep in read(2) are gone by then, or it does not matter.
        let until = Instant::now() + LONG_TICK;
        while self.counts.threads() > 1 && Instant::now() < until {
            std::thread::sleep(TICK);
        }
        if let Err(error) = self.device.set_nonblocking(false) {
            tracing::warn!(%error, "the thread that reads does not sleep");
        }
    }

    fn look(&self) -> Seen {
        let (now, stuck) = (self.now(), STUCK.as_nanos() as u64);
        let state = self.state.lock();
        if state.result.is_some() {
            return Seen::Ended;
        }
        let (mut served, mut works, mut all_stuck) = (0, false, true);
        for (member, _thread) in &state.members {
            served += member.served.load(Ordering::Relaxed);
            match member.since.load(Ordering::SeqCst) {
                0 => all_stuck = false,
                since => {
                    works = true;
                    all_stuck &= now.saturating_sub(since) > stuck;
                }
            }
        }
        match (all_stuck, works) {
            (true, _) => Seen::Stuck,
            (false, true) => Seen::Working(served),
            (false, false) => Seen::Waiting(served),
        }
    }

    /// Every reader is at a request for long: adds one as soon as there is a message for it.
    fn help(self: &Arc<Self>) {
        match self.device.wait_readable(LONG_TICK) {
            true if self.try_add() => {}
            // All threads are at work, and each reads again when it is done; or the connection has ended.
            true => std::thread::park_timeout(LONG_TICK),
            false => {}
        }
    }
}

/// What the readers do.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The connection has ended.
    Ended,
    /// All have been at one request for long.
    Stuck,
    /// Some are at a request; how many have been served.
    Working(u64),
    /// All wait for the next message; how many have been served.
    Waiting(u64),
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers")
            .field("device", &self.device)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
