//! Requests that wait for a descriptor to hold an inode by, each with its reply.
//!
//! Invariant: no session thread waits for one. The FORGETs that free descriptors come by the session
//! threads, of which there may be one, and more requests may wait than there are session threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::passthrough::Passthrough;
use crate::stats::Opcode;

/// A request waits no longer. Where the kernel uses all that it knows, the thread that asks it to forget
/// says so before (`inode/limit.rs`).
const LONGEST: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub(crate) struct Parked {
    /// Taken before no other lock but leaf locks of the tables; not held while a request is served.
    requests: Mutex<Requests>,
    /// How many wait: each FORGET asks.
    count: AtomicUsize,
    changed: Condvar,
}

#[derive(Default)]
struct Requests {
    is_running: bool,
    /// In the order they came.
    waiting: VecDeque<Request>,
}

struct Request {
    opcode: Opcode,
    uid: u32,
    until: Instant,
    serve: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Parked {
    /// Starts the thread that serves them.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self: &Arc<Self>, fs: &Arc<Passthrough>) -> io::Result<()> {
        self.requests.lock().is_running = true;
        // Weak: the thread must not keep the file system, and all it has open, alive.
        let (parked, fs) = (Arc::clone(self), Arc::downgrade(fs));
        std::thread::Builder::new()
            .name("thrufs-parked".into())
            .spawn(move || parked.serve(&fs))
            .map(drop)
            .inspect_err(|_| self.stop())
    }

    /// Ends the thread, which serves what waits before: each request gets its reply.
    pub(crate) fn stop(&self) {
        self.requests.lock().is_running = false;
        self.changed.notify_all();
    }

    /// A descriptor may be free, or none can be hoped for any more.
    pub(crate) fn notify(&self) {
        // After what was done, as `push` counts before it looks.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) > 0 {
            drop(self.requests.lock());
            self.changed.notify_all();
        }
    }

    fn push(&self, request: Request) {
        let mut requests = self.requests.lock();
        if !requests.is_running {
            drop(requests);
            return (request.serve)();
        }
        requests.waiting.push_back(request);
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(requests);
        self.changed.notify_all();
    }

    fn serve(&self, fs: &Weak<Passthrough>) {
        let mut requests = self.requests.lock();
        while requests.is_running {
            fence(Ordering::SeqCst);
            let now = Instant::now();
            let may_go = |request: &Request| {
                let fs = fs.upgrade();
                now >= request.until
                    || fs.is_none_or(|fs| !fs.waits_for_inode(request.opcode, request.uid))
            };
            let next = requests.waiting.iter().position(may_go);
            match next.and_then(|next| requests.waiting.remove(next)) {
                Some(request) => {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    MutexGuard::unlocked(&mut requests, request.serve);
                }
                None => self.wait(&mut requests),
            }
        }
        let rest = std::mem::take(&mut requests.waiting);
        self.count.store(0, Ordering::Relaxed);
        drop(requests);
        rest.into_iter().for_each(|request| (request.serve)());
    }

    fn wait(&self, requests: &mut MutexGuard<'_, Requests>) {
        match requests.waiting.iter().map(|request| request.until).min() {
            Some(until) => {
                self.changed.wait_until(requests, until);
            }
            None => self.changed.wait(requests),
        }
    }
}

impl Passthrough {
    /// Calls `serve`, which serves a request of user `uid` and answers it, when it has a descriptor for an
    /// inode, or none can be hoped for ([`Passthrough::has_to_wait`]).
    pub fn park(&self, opcode: Opcode, uid: u32, serve: Box<dyn FnOnce() + Send>) {
        if let Some(pressure) = &self.pressure {
            pressure.note(self);
        }
        let until = Instant::now() + LONGEST;
        self.parked.push(Request {
            opcode,
            uid,
            until,
            serve,
        });
    }
}
