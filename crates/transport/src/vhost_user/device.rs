//! The device as the front end sees it: features, configuration, memory, and the life of a connection.

use std::io;
use std::net::Shutdown as Half;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use thrufs_sys::guest_memory::GuestMemory;
use thrufs_sys::inherited;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{BackendReqHandler, Error};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use super::handler::{Handler, Serial, told};
use super::kept::{Kept, KeptQueue};
use super::memory::SharedMemory;
use super::queue::Queue;
use super::relay::Relay;
use super::service::Service;
use super::used::Resumed;
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
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    was_asked_for: AtomicBool,
}

impl Shutdown {
    /// The requests under way are answered, and [`Device::serve`] returns.
    pub fn shutdown(&self) {
        self.0.was_asked_for.store(true, Ordering::Release);
        // One that is gone already has ended.
        let _gone = self.0.socket.shutdown(Half::Both);
    }
}

/// A device, which serves one front end after the other.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

pub(super) struct Inner {
    service: Arc<dyn Service>,
    tag: Option<Tag>,
    request_queues: usize,
    /// Where another server goes on when this one dies.
    kept: Option<Arc<Kept>>,
    memory: SharedMemory,
    /// None without a front end.
    vrings: Mutex<Vec<Vring>>,
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
    /// of `tag` and their number only if there is a tag: some take their own. With `kept`, another one goes on with the
    /// front end when this process dies.
    pub fn new(
        service: Arc<dyn Service>,
        tag: Option<Tag>,
        request_queues: usize,
        kept: Option<Arc<Kept>>,
    ) -> Self {
        Self(Arc::new(Inner {
            service,
            tag,
            request_queues: request_queues.clamp(1, REQUEST_QUEUES_MAX),
            kept,
            memory: SharedMemory::default(),
            vrings: Mutex::default(),
        }))
    }

    /// Waits for a front end, or goes on with the one that an earlier server had, and serves it until it disconnects;
    /// `connected` gets what ends that.
    ///
    /// # Errors
    /// The front end violates the protocol, or there can be no thread; what an earlier server has left is damaged.
    pub fn serve(
        &self,
        listener: &UnixListener,
        connected: impl FnOnce(Shutdown),
    ) -> io::Result<()> {
        let device = &self.0;
        let front = device.front_end(listener)?;
        let connection = Arc::new(Connection {
            socket: front.try_clone()?,
            was_asked_for: AtomicBool::new(false),
        });
        let vrings = device.vrings()?;
        device.memory.set(None);
        *device.vrings.lock() = vrings.clone();
        let served = std::thread::scope(|scope| {
            let _closed = Closed(device, &vrings);
            for (index, vring) in vrings.iter().enumerate() {
                let thread = std::thread::Builder::new().name("vring_worker".to_owned());
                thread.spawn_scoped(scope, move || device.serve_queue(index, vring))?;
            }
            let handler = Handler::new(Arc::clone(device), vrings.clone());
            let handler = Arc::new(Serial::new(handler));
            match &device.kept {
                Some(kept) => {
                    let relay = Relay::new(front, &handler, Arc::clone(kept))?;
                    connected(Shutdown(Arc::clone(&connection)));
                    relay.run()
                }
                None => {
                    connected(Shutdown(Arc::clone(&connection)));
                    serve_alone(front, handler)
                }
            }
        });
        match served {
            Err(_) if connection.was_asked_for.load(Ordering::Acquire) => Ok(()),
            served => served,
        }
    }
}

#[cfg(test)]
impl Device {
    /// What handles the messages, of queues without threads.
    pub(super) fn handler(&self) -> io::Result<Arc<Serial>> {
        let vrings = self.0.vrings()?;
        let handler = Handler::new(Arc::clone(&self.0), vrings);
        Ok(Arc::new(Serial::new(handler)))
    }
}

/// Hands the front end's messages to their handler, until it is gone.
fn serve_alone(front: UnixStream, handler: Arc<Serial>) -> io::Result<()> {
    let mut messages = BackendReqHandler::from_stream(front, handler);
    loop {
        match messages.handle_request() {
            Ok(()) => {}
            Err(Error::Disconnected | Error::SocketBroken(_)) => return Ok(()),
            Err(error) => return Err(told(&error)),
        }
    }
}

/// Ends the queues and their threads, whatever ends the connection.
struct Closed<'a>(&'a Inner, &'a [Vring]);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.1.iter().for_each(Vring::close);
        self.0.vrings.lock().clear();
        self.0.memory.set(None);
    }
}

impl Inner {
    fn front_end(&self, listener: &UnixListener) -> io::Result<UnixStream> {
        let Some(kept) = &self.kept else {
            return listener.accept().map(|(front, _)| front);
        };
        if let Some(number) = kept.connection()? {
            return inherited::adopt(number).map(UnixStream::from);
        }
        let (front, _) = listener.accept()?;
        let number = front.into_raw_fd();
        kept.connected(number);
        inherited::adopt(number).map(UnixStream::from)
    }

    fn vrings(&self) -> io::Result<Vec<Vring>> {
        let kept = self.kept.as_ref().map(|kept| {
            let resumed = Resumed::new(kept.under_way(), &self.service);
            (kept, Arc::new(resumed))
        });
        let of = |queue| {
            let kept = kept
                .as_ref()
                .map(|(kept, resumed)| (KeptQueue::new(kept, queue), Arc::clone(resumed)));
            Vring::new(&self.service, kept)
        };
        (0..self.num_queues()).map(of).collect()
    }

    /// The life of a queue's thread.
    fn serve_queue(&self, index: usize, vring: &Vring) {
        vring.serve_until_closed(|shared, start| {
            Queue::new(index, (&self.service, &self.memory), shared, start).serve()
        });
    }

    fn num_queues(&self) -> usize {
        1 + self.request_queues
    }

    fn config(&self) -> Vec<u8> {
        let tag = self.tag.as_ref().map_or("", |tag| &tag.0);
        let mut config = tag.as_bytes().to_vec();
        config.resize(TAG_LEN, 0);
        // At most REQUEST_QUEUES_MAX.
        config.extend((self.request_queues as u32).to_le_bytes());
        config
    }

    pub(super) fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    pub(super) fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let always = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        match self.tag {
            Some(_) => always | VhostUserProtocolFeatures::CONFIG,
            None => always,
        }
    }

    /// Part of the configuration. The front end takes an answer of another length for a refusal.
    pub(super) fn config_part(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.config();
        config.resize(CONFIG_MAX, 0);
        let part = (offset as usize)
            .checked_add(size as usize)
            .and_then(|end| config.get(offset as usize..end));
        part.unwrap_or_default().to_vec()
    }

    /// The front end shares this from now on.
    pub(super) fn change_memory(&self, memory: Option<GuestMemory>) {
        self.memory.set(memory);
        let vrings = self.vrings.lock();
        vrings.iter().for_each(|vring| vring.shared.wake());
    }
}
