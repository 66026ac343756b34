//! The device as the front end sees it: features, configuration, memory, and the life of a connection.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use parking_lot::Mutex;
use thrufs_sys::guest_memory::GuestMemory;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error, ShutdownHandle, VhostUserBackend, VhostUserDaemon};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::memory::{Memory, SharedMemory};
use super::queue::Queue;
use super::ring::QUEUE_SIZE_MAX;
use super::service::Service;
use super::vring::Vring;

/// Request queues at most: with hiprio, bits of a word.
pub const REQUEST_QUEUES_MAX: usize = 62;
/// Bytes of `tag` in the configuration.
const TAG_LEN: usize = 36;
/// Bytes of the configuration that a front end may ask for (VHOST_USER_CONFIG_SIZE).
const CONFIG_MAX: usize = 256;

/// A name for mount(8) in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a tag is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag has 1 to {TAG_LEN} bytes, none of them 0")]
pub struct TagError;

impl std::str::FromStr for Tag {
    type Err = TagError;

    fn from_str(tag: &str) -> Result<Self, TagError> {
        match (1..=TAG_LEN).contains(&tag.len()) && !tag.contains('\0') {
            true => Ok(Self(tag.to_owned())),
            false => Err(TagError),
        }
    }
}

/// Ends the connection to the front end.
#[derive(Clone)]
pub struct Shutdown(ShutdownHandle);

impl Shutdown {
    /// The requests under way are answered, and [`Device::serve`] returns.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shutdown")
    }
}

/// A device, which serves one front end after the other.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    service: Arc<dyn Service>,
    tag: Option<Tag>,
    request_queues: usize,
    memory: SharedMemory,
    /// Those that have been started; none without a front end.
    vrings: Mutex<Option<Vec<Vring>>>,
    /// What ends the threads of the queues: vhost-user-backend takes these descriptors and closes none.
    exits: Mutex<Vec<RawFd>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("tag", &self.0.tag)
            .field("request_queues", &self.0.request_queues)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// One with `request_queues` queues beside hiprio, 1 to [`REQUEST_QUEUES_MAX`]. The front end is told
    /// of `tag` and their number only if there is a tag: some take their own.
    pub fn new(service: Arc<dyn Service>, tag: Option<Tag>, request_queues: usize) -> Self {
        Self(Arc::new(Inner {
            service,
            tag,
            request_queues: request_queues.clamp(1, REQUEST_QUEUES_MAX),
            memory: SharedMemory::default(),
            vrings: Mutex::default(),
            exits: Mutex::default(),
        }))
    }

    /// Waits for a front end and serves it until it disconnects; `connected` gets what ends that.
    ///
    /// # Errors
    /// The front end violates the protocol, or there can be no thread.
    pub fn serve(
        &self,
        listener: &UnixListener,
        connected: impl FnOnce(Shutdown),
    ) -> io::Result<()> {
        let mut listener = Listener::from(listener.try_clone()?);
        let memory = GuestMemoryAtomic::new(GuestMemory::new());
        self.0.memory.set(Some(memory.clone()));
        let name = "vhost-user".to_owned();
        *self.0.vrings.lock() = Some(Vec::new());
        let _closed = Exits(&self.0);
        let backend = Backend(Arc::clone(&self.0));
        let mut daemon = VhostUserDaemon::new(name, backend, memory).map_err(told)?;
        daemon.start(&mut listener).map_err(told)?;
        if let Some(handle) = daemon.shutdown_handle() {
            connected(Shutdown(handle));
        }
        let ended = daemon.wait();
        // The threads of the queues wait for nothing else.
        let vrings = self.0.vrings.lock().take();
        vrings.into_iter().flatten().for_each(|vring| vring.stop());
        drop(daemon);
        self.0.memory.set(None);
        match ended {
            Ok(()) | Err(Error::HandleRequest(VhostError::Disconnected)) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }
}

/// Closes [`Inner::exits`]. Dropped after the daemon, whose threads wait for them.
struct Exits<'a>(&'a Inner);

impl Drop for Exits<'_> {
    fn drop(&mut self) {
        for exit in self.0.exits.lock().drain(..) {
            // An eventfd, which nothing else has.
            let _closed = nix::unistd::close(exit);
        }
    }
}

/// The crate's errors are no [`std::error::Error`].
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn told(error: Error) -> io::Error {
    io::Error::other(format!("vhost-user: {error}"))
}

/// The device, to vhost-user-backend.
#[derive(Clone)]
struct Backend(Arc<Inner>);

impl Inner {
    fn config(&self) -> Vec<u8> {
        let tag = self.tag.as_ref().map_or("", |tag| &tag.0);
        let mut config = tag.as_bytes().to_vec();
        config.resize(TAG_LEN, 0);
        // At most REQUEST_QUEUES_MAX.
        config.extend((self.request_queues as u32).to_le_bytes());
        config
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        1 + self.0.request_queues
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE_MAX.into()
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let always = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        match self.0.tag {
            Some(_) => always | VhostUserProtocolFeatures::CONFIG,
            None => always,
        }
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.0.config();
        config.resize(CONFIG_MAX, 0);
        let part = (offset as usize)
            .checked_add(size as usize)
            .and_then(|end| config.get(offset as usize..end));
        // The front end takes an answer of another length for a refusal.
        part.unwrap_or_default().to_vec()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.0.memory.set(Some(memory));
        let vrings = self.0.vrings.lock();
        vrings
            .iter()
            .flatten()
            .for_each(|vring| vring.shared.wake());
        Ok(())
    }

    /// A thread for each queue.
    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.num_queues()).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let flags = EventFlag::NONBLOCK | EventFlag::CLOEXEC;
        let (consumer, notifier) = new_event_consumer_and_notifier(flags).ok()?;
        self.0.exits.lock().push(consumer.as_raw_fd());
        Some((consumer, notifier))
    }

    /// Called when the queue is started; returns when it is stopped.
    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        thread: usize,
    ) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(event)) else {
            return Ok(());
        };
        {
            let mut known = self.0.vrings.lock();
            let Some(known) = known.as_mut() else {
                return Ok(());
            };
            let is_known = known
                .iter()
                .any(|known| Arc::ptr_eq(&known.shared, &vring.shared));
            if !is_known {
                known.push(vring.clone());
            }
        }
        vring.run(&self.0.service, |shared, start| {
            let device = (&self.0.service, &self.0.memory);
            Queue::new(thread, device, shared, start).serve()
        });
        Ok(())
    }
}
