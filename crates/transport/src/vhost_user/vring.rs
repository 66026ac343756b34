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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error, QueueT};

use super::memory::Memory;
use super::ring::RingAddresses;
use super::service::Service;
use super::used::Used;

type Result<T> = std::result::Result<T, Error>;

/// How long the front end waits for what is under way in a queue that it stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) struct Vring {
    inner: VringMutex<Memory>,
    pub(super) shared: Arc<Shared>,
}

/// What the queue's thread sees.
pub(super) struct Shared {
    pub(super) used: Arc<Used>,
    control: Mutex<Control>,
    /// The queue's thread has let go.
    ended: Condvar,
    /// The queue is not served any more.
    stopped: Condvar,
    /// `control` says that the queue is served.
    may_run: AtomicBool,
    /// Wakes the queue's thread.
    wake: OwnedFd,
    service: OnceLock<Arc<dyn Service>>,
}

#[derive(Default)]
struct Control {
    is_ready: bool,
    is_enabled: bool,
    kick: Option<Arc<File>>,
    error: Option<File>,
    /// The size that the front end said, whatever the crate's queue makes of it.
    size: Option<u32>,
    is_running: bool,
}

/// Where a queue starts.
pub(super) struct Start {
    pub(super) addresses: RingAddresses,
    pub(super) next_available: u16,
    pub(super) event_index: bool,
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
            self.stopped.wait(&mut control);
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
        self.stopped.notify_all();
        while !may_run && control.is_running {
            self.ended.wait(&mut control);
        }
    }
}

impl Vring {
    /// Runs `serve` unless the queue is not to be served, or is already.
    pub(super) fn run(
        &self,
        service: &Arc<dyn Service>,
        serve: impl FnOnce(&Shared, Start) -> u16,
    ) {
        {
            let mut control = self.shared.control.lock();
            if !self.shared.may_run() || control.is_running {
                return;
            }
            control.is_running = true;
        }
        let _ended = Ended(&self.shared);
        let _known = self.shared.service.set(Arc::clone(service));
        let next_available = serve(&self.shared, self.start());
        self.inner.set_queue_next_avail(next_available);
    }

    fn start(&self) -> Start {
        let said = self.shared.control.lock().size;
        let state = self.inner.get_ref();
        let queue = state.get_queue();
        let size = match said {
            // What is no size at all is refused with the ring.
            Some(said) => u16::try_from(said).unwrap_or(0),
            None => queue.size(),
        };
        Start {
            addresses: RingAddresses {
                size,
                descriptors: queue.desc_table(),
                available: queue.avail_ring(),
                used: queue.used_ring(),
            },
            next_available: queue.next_avail(),
            event_index: queue.event_idx_enabled(),
        }
    }

    /// Stops the queue for good.
    pub(super) fn stop(&self) {
        self.shared.change(|control| control.is_enabled = false);
        self.finish();
    }

    /// Waits for what is under way.
    fn finish(&self) {
        if let Some(service) = self.shared.service.get() {
            service.interrupt_waiting();
            self.shared.used.stop(PATIENCE);
        }
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

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_size: u16) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).map_err(|_no_descriptor| Error::QueueNotReady)?;
        Ok(Self {
            inner: VringMutex::new(memory, max_size)?,
            shared: Arc::new(Shared {
                used: Arc::default(),
                control: Mutex::default(),
                ended: Condvar::new(),
                stopped: Condvar::new(),
                may_run: AtomicBool::new(false),
                wake,
                service: OnceLock::new(),
            }),
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.inner.get_mut()
    }

    fn add_used(&self, head: u16, len: u32) -> Result<()> {
        self.inner.add_used(head, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<()> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        self.shared.change(|control| control.is_enabled = enabled);
    }

    fn set_queue_info(&self, descriptors: u64, available: u64, used: u64) -> Result<()> {
        self.inner.set_queue_info(descriptors, available, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.inner.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, next: u16) {
        // Of a ring in use this process knows better than the front end, and a disabled one goes on where it was.
        if !self.shared.control.lock().is_ready {
            self.shared.used.begin_at(next);
        }
        self.inner.set_queue_next_used(next);
    }

    fn queue_used_idx(&self) -> Result<u16> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.shared
            .change(|control| control.size = Some(size.into()));
        self.inner.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
        self.shared.change(|control| control.is_ready = ready);
        if !ready {
            self.finish();
        }
    }

    fn set_kick(&self, file: Option<File>) {
        // One that cannot be duplicated is one that the queue never hears.
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.shared
            .change(|control| control.kick = ours.map(Arc::new));
        self.inner.set_kick(file);
    }

    /// The queue's thread reads it.
    fn read_kick(&self) -> io::Result<bool> {
        Ok(self.shared.may_run())
    }

    fn set_call(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.shared.used.set_call(ours);
        self.inner.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.shared.control.lock().error = ours;
        self.inner.set_err(file);
    }
}
