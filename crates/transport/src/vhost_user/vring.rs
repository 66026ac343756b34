//! What the front end has said of one queue, and whether its thread may serve it.
//!
//! Invariant: when a call that stops the queue has returned, its thread has let go of the ring, and after
//! GET_VRING_BASE nothing of it is under way any more: what the front end then does to the ring or the
//! memory meets no request.
//!
//! Why not the vring of vhost-user-backend: it ties the thread to one epoll(7) call, and one lock over the
//! ring, for each request.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

use super::kept::KeptQueue;
use super::ring::{QUEUE_SIZE_MAX, RingAddresses};
use super::service::Service;
use super::used::{Resumed, Used};

/// How long the front end waits for what is under way in a queue that it stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) struct Vring {
    pub(super) shared: Arc<Shared>,
    service: Arc<dyn Service>,
}

/// What the queue's thread sees.
pub(super) struct Shared {
    pub(super) used: Arc<Used>,
    /// Where another server goes on when this one dies.
    kept: Option<KeptQueue>,
    control: Mutex<Control>,
    /// The queue's thread has let go.
    ended: Condvar,
    /// `control` has changed.
    changed: Condvar,
    /// `control` says that the queue is served.
    may_run: AtomicBool,
    /// Wakes the queue's thread.
    wake: OwnedFd,
}

#[derive(Default)]
struct Control {
    is_ready: bool,
    is_enabled: bool,
    is_closed: bool,
    kick: Option<Arc<File>>,
    error: Option<File>,
    size: Option<u16>,
    /// Descriptors, available ring, used ring.
    addresses: [u64; 3],
    next_available: u16,
    /// Where the used ring starts; none where it goes on.
    next_used: Option<u16>,
    event_index: bool,
    is_running: bool,
    /// An earlier server may have served the queue: where that stood is where it goes on.
    may_go_on: bool,
    /// What that server had under way is served though the queue is not.
    must_finish: bool,
}

/// Where a queue starts.
pub(super) struct Start {
    pub(super) addresses: RingAddresses,
    pub(super) next_available: u16,
    pub(super) next_used: Option<u16>,
    pub(super) event_index: bool,
    /// It goes on where an earlier server stood, if one did.
    pub(super) may_go_on: bool,
}

impl Shared {
    /// Whether the queue is served any longer.
    pub(super) fn may_run(&self) -> bool {
        self.may_run.load(Ordering::Acquire)
    }

    pub(super) fn wake_fd(&self) -> &OwnedFd {
        &self.wake
    }

    pub(super) fn kick(&self) -> Option<Arc<File>> {
        self.control.lock().kick.clone()
    }

    /// Has the queue's thread look again.
    pub(super) fn wake(&self) {
        // A full eventfd wakes as well.
        let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The queue is in trouble: waits until the front end stops it. Without a descriptor, since that may be the trouble.
    pub(super) fn wait_for_stop(&self) {
        let mut control = self.control.lock();
        while self.may_run() {
            self.changed.wait(&mut control);
        }
    }

    /// Tells the front end that the queue is in trouble.
    pub(super) fn signal_error(&self) {
        if let Some(error) = &self.control.lock().error {
            // A front end that reads it not was told all the same.
            let _full = rustix::io::write(error, &1_u64.to_ne_bytes());
        }
    }

    /// Changes what the front end has said; waits for the thread to let go if the queue is not to be served.
    fn change(&self, change: impl FnOnce(&mut Control)) {
        let mut control = self.control.lock();
        change(&mut control);
        let may_run = control.is_ready && control.is_enabled && control.kick.is_some();
        self.may_run.store(may_run, Ordering::Release);
        self.wake();
        self.changed.notify_all();
        while !may_run && (control.is_running || control.must_finish) {
            self.ended.wait(&mut control);
        }
    }
}

impl Control {
    fn start(&mut self) -> Start {
        let [descriptors, available, used] = self.addresses;
        self.is_running = true;
        self.must_finish = false;
        Start {
            addresses: RingAddresses {
                size: self.size.unwrap_or(QUEUE_SIZE_MAX),
                descriptors,
                available,
                used,
            },
            next_available: self.next_available,
            next_used: self.next_used.take(),
            event_index: self.event_index,
            may_go_on: std::mem::take(&mut self.may_go_on),
        }
    }
}

impl Vring {
    /// A queue of which nothing is said yet; `kept` is where another server goes on, with what was `resumed`.
    pub(super) fn new(
        service: &Arc<dyn Service>,
        kept: Option<(KeptQueue, Arc<Resumed>)>,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let control = Control {
            next_used: Some(0),
            may_go_on: kept.is_some(),
            ..Control::default()
        };
        Ok(Self {
            shared: Arc::new(Shared {
                kept: kept.as_ref().map(|(kept, _)| kept.clone()),
                used: Arc::new(Used::new(kept)),
                control: Mutex::new(control),
                ended: Condvar::new(),
                changed: Condvar::new(),
                may_run: AtomicBool::new(false),
                wake: eventfd(0, flags)?,
            }),
            service: Arc::clone(service),
        })
    }

    /// Calls `serve` each time that the front end starts or enables the queue, until the queue is closed.
    pub(super) fn serve_until_closed(&self, serve: impl Fn(&Shared, Start) -> u16) {
        loop {
            let start = {
                let mut control = self.shared.control.lock();
                while !self.shared.may_run() && !control.must_finish {
                    if control.is_closed {
                        return;
                    }
                    self.shared.changed.wait(&mut control);
                }
                control.start()
            };
            let _ended = Ended(&self.shared);
            let next_available = serve(&self.shared, start);
            self.shared.control.lock().next_available = next_available;
        }
    }

    /// Stops the queue for good.
    pub(super) fn close(&self) {
        self.shared.change(|control| {
            control.is_enabled = false;
            control.is_closed = true;
        });
        self.finish();
    }

    /// Waits for what is under way.
    fn finish(&self) {
        if self.shared.used.is_placed() {
            self.service.interrupt_waiting();
            let next = self.shared.used.stop(PATIENCE);
            self.shared.control.lock().next_used = Some(next);
        }
    }

    pub(super) fn set_enabled(&self, is_enabled: bool) {
        self.shared
            .change(|control| control.is_enabled = is_enabled);
    }

    pub(super) fn set_event_index(&self, event_index: bool) {
        self.shared.control.lock().event_index = event_index;
    }

    pub(super) fn set_size(&self, size: u16) {
        self.shared.change(|control| control.size = Some(size));
    }

    /// The used ring is at `next_used`, unless it is in use.
    pub(super) fn set_addresses(&self, addresses: [u64; 3], next_used: u16) {
        let mut control = self.shared.control.lock();
        control.addresses = addresses;
        if !control.is_ready {
            control.next_used = Some(next_used);
        }
    }

    /// The available ring starts there. Unless it `is_again`, that is so whatever an earlier server did.
    pub(super) fn set_base(&self, base: u16, is_again: bool) {
        let mut control = self.shared.control.lock();
        control.next_available = base;
        if !is_again && !control.is_ready {
            control.may_go_on = false;
            if let Some(kept) = &self.shared.kept {
                kept.forget();
            }
        }
    }

    /// Returns the index of the next chain.
    pub(super) fn stop_and_get_base(&self) -> u16 {
        let has_left = |kept: &KeptQueue| {
            let stood = kept.stood(None);
            stood.is_some_and(|stood| !stood.under_way.is_empty())
        };
        self.shared.change(|control| {
            control.is_ready = false;
            control.must_finish =
                control.may_go_on && self.shared.kept.as_ref().is_some_and(has_left);
        });
        self.finish();
        let mut control = self.shared.control.lock();
        if control.may_go_on
            && let Some(stood) = self.shared.kept.as_ref().and_then(|kept| kept.stood(None))
        {
            control.next_available = stood.next_available();
        }
        let base = control.next_available;
        drop(control);
        self.set_kick(None);
        self.set_call(None);
        base
    }

    /// A queue is started by its kick.
    pub(super) fn start_if_kicked(&self) {
        let has_kick = self.shared.control.lock().kick.is_some();
        if has_kick {
            self.shared.change(|control| control.is_ready = true);
        }
    }

    pub(super) fn set_kick(&self, file: Option<File>) {
        self.shared
            .change(|control| control.kick = file.map(Arc::new));
    }

    pub(super) fn set_call(&self, file: Option<File>) {
        self.shared.used.set_call(file);
    }

    pub(super) fn set_error(&self, file: Option<File>) {
        self.shared.control.lock().error = file;
    }
}

/// The queue's thread lets go, by a panic as well.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.control.lock().is_running = false;
        self.0.ended.notify_all();
    }
}
