//! Requests that wait for a descriptor to hold an inode by, each with its reply.
//!
//! Invariant: no session thread waits for one. The FORGETs that free descriptors come by the session
//! threads, of which there may be one, and more requests may wait than there are session threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::stats::Opcode;

/// A request waits no longer. Where the kernel uses all that it knows, the thread that asks it to forget
/// says so before (`inode/limit.rs`).
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

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

/// One that waits.
pub(crate) struct Request {
    pub(crate) opcode: Opcode,
    pub(crate) uid: u32,
    pub(crate) until: Instant,
    pub(crate) serve: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Parked {
    /// Starts the thread that serves them; `has_to_wait` says of a request whether it does still.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        self: &Arc<Self>,
        has_to_wait: impl Fn(Opcode, u32) -> bool + Send + 'static,
    ) -> io::Result<()> {
        self.requests.lock().is_running = true;
        let parked = Arc::clone(self);
        std::thread::Builder::new()
            .name("thrufs-parked".into())
            .spawn(move || parked.serve(has_to_wait))
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

    /// Serves `request` when it has not to wait any more.
    pub(crate) fn push(&self, request: Request) {
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

    fn serve(&self, has_to_wait: impl Fn(Opcode, u32) -> bool) {
        let mut requests = self.requests.lock();
        while requests.is_running {
            fence(Ordering::SeqCst);
            let now = Instant::now();
            let may_go = |request: &Request| {
                now >= request.until || !has_to_wait(request.opcode, request.uid)
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::config::{Config, InodeFileHandles};
    use crate::fd_limit::FdLimit;
    use crate::inode::ROOT_INO;
    use crate::passthrough::Passthrough;

    /// Serves the files f0 to f299 with a descriptor for each inode and a limit of 256, all looked up that can be.
    /// The kernel forgets nothing of itself.
    fn crowded() -> (tempfile::TempDir, Arc<Passthrough>, Vec<u64>) {
        let source = tempfile::tempdir().unwrap();
        let config = Config {
            inode_file_handles: InodeFileHandles::Never,
            max_inodes: Some(64),
            ..Config::default()
        };
        let top = File::open(source.path()).unwrap();
        let mut fs = Passthrough::new(top.into(), config).unwrap();
        fs.fd_limit = FdLimit::of(256, 0);
        let mut known = Vec::new();
        for index in 0..300 {
            let name = format!("f{index}");
            File::create(source.path().join(&name)).unwrap();
            if fs.admit(Opcode::Lookup, 1000).is_ok() {
                known.push(fs.lookup(ROOT_INO, OsStr::new(&name)).unwrap().ino);
            }
        }
        assert_eq!(known.len(), 180);
        (source, Arc::new(fs), known)
    }

    /// Parks a LOOKUP of user 1000; its outcome.
    fn look_up(fs: &Arc<Passthrough>) -> Receiver<crate::error::Result<()>> {
        let (sender, outcome) = channel();
        let served = Arc::downgrade(fs);
        let serve = move || {
            let admitted = served.upgrade().unwrap().admit(Opcode::Lookup, 1000);
            sender.send(admitted).unwrap();
        };
        fs.park(Opcode::Lookup, 1000, Box::new(serve));
        outcome
    }

    /// The one session thread could not wait: it was the one that would have read the FORGET.
    #[test]
    fn park_on_the_only_session_thread_waits_until_it_has_served_a_forget() {
        let (_source, fs, known) = crowded();
        // The kernel is told, and forgets when its FORGETs are read: below.
        fs.start_pruning(Some(Box::new(|_batch| Ok(())))).unwrap();
        assert!(fs.has_to_wait(Opcode::Lookup, 1000));
        assert!(!fs.has_to_wait(Opcode::Lookup, 0), "root has a share");
        assert!(!fs.has_to_wait(Opcode::GetAttr, 1000));
        let outcomes = [look_up(&fs), look_up(&fs)];
        assert!(
            outcomes[0].try_recv().is_err(),
            "served without a descriptor"
        );
        known.iter().for_each(|ino| fs.forget(*ino, 1));
        for outcome in outcomes {
            assert_eq!(outcome.recv_timeout(LONGEST), Ok(Ok(())));
        }
        fs.stop_notifying();
    }

    #[test]
    fn park_while_the_kernel_uses_all_inodes_is_enfile() {
        let (_source, fs, _known) = crowded();
        fs.start_pruning(Some(Box::new(|_batch| Ok(())))).unwrap();
        let outcome = look_up(&fs).recv_timeout(LONGEST);
        assert_eq!(outcome, Ok(Err(crate::error::Errno::ENFILE)));
        assert!(!fs.has_to_wait(Opcode::Lookup, 1000), "known by now");
        fs.stop_notifying();
    }

    #[test]
    fn stop_answers_what_is_parked() {
        let (_source, fs, _known) = crowded();
        fs.start_pruning(Some(Box::new(|_batch| Ok(())))).unwrap();
        let outcome = look_up(&fs);
        fs.stop_notifying();
        assert!(outcome.recv_timeout(LONGEST).is_ok());
        assert!(
            look_up(&fs).recv_timeout(LONGEST).is_ok(),
            "parked after the end"
        );
    }
}
