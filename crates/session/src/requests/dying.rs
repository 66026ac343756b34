//! Callers that have a signal while SOURCE keeps their requests waiting: looked at until they die, which gives the
//! request up, or are answered.
//!
//! One thread, running while there is such a caller. Why not look once, when INTERRUPT comes: the kernel sends it for
//! the first signal only, and the one that kills may be the second.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thrufs_fs::Errno;
use thrufs_transport::dev_fuse::DevFuse;
use thrufs_wire::Reply as Answer;

use super::running::{Running, Ticket};

/// How long a caller may be dead before it is noticed.
const INTERVAL: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct DyingCallers {
    device: Arc<DevFuse>,
    running: Arc<Running>,
    /// Requests; none while no thread runs. A leaf lock.
    watched: Mutex<Option<Vec<u64>>>,
}

impl DyingCallers {
    pub(super) fn new(device: &Arc<DevFuse>) -> Self {
        Self {
            device: Arc::clone(device),
            running: Arc::default(),
            watched: Mutex::default(),
        }
    }

    /// The request can be given up from now on; none if too many can.
    pub(super) fn enter(&self, unique: u64, tid: u32) -> Option<Ticket> {
        self.running.enter(unique, tid)
    }

    /// Whether the request can be given up.
    pub(super) fn knows(&self, request: u64) -> bool {
        self.running.caller(request).is_some()
    }

    /// Looks at the caller of `request` from now on.
    pub(super) fn watch(self: &Arc<Self>, request: u64) {
        let mut watched = self.watched.lock();
        match watched.as_mut() {
            Some(list) => list.push(request),
            None => {
                let this = Arc::clone(self);
                let thread = std::thread::Builder::new().name("thrufs-signals".into());
                match thread.spawn(move || this.look()) {
                    Ok(_runs) => *watched = Some(vec![request]),
                    // Its caller waits for the answer then.
                    Err(error) => tracing::error!(%error, "no thread for callers with a signal"),
                }
            }
        }
    }

    /// The session has ended.
    pub(super) fn stop(&self) {
        *self.watched.lock() = None;
    }

    fn look(&self) {
        loop {
            let list = self.watched.lock().clone();
            let done: Vec<u64> = list
                .into_iter()
                .flatten()
                .filter(|&request| !self.is_still_watched(request))
                .collect();
            let mut watched = self.watched.lock();
            let Some(list) = watched.as_mut() else {
                return;
            };
            list.retain(|request| !done.contains(request));
            if list.is_empty() {
                *watched = None;
                return;
            }
            drop(watched);
            std::thread::sleep(INTERVAL);
        }
    }

    /// Gives the request up if its caller dies.
    fn is_still_watched(&self, request: u64) -> bool {
        let Some(tid) = self.running.caller(request) else {
            return false;
        };
        if !thrufs_fs::is_dying(tid) {
            return true;
        }
        if self.running.give_up(request) {
            let answer = Answer::Error(Errno::EINTR).encode(request);
            if let Err(error) = self.device.send(&answer) {
                tracing::debug!(request, %error, "nothing waits for the answer any more");
            }
        }
        false
    }
}
