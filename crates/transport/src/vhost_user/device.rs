//! The device: its queues, and the life of a connection to a front end.

use std::io;
use std::net::Shutdown as Half;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thrufs_sys::inherited;
use vhost::vhost_user::{BackendReqHandler, Error};

use super::handler::{Handler, Serial, told};
use super::kept::{Kept, KeptQueue};
use super::memory::SharedMemory;
use super::offer::{Offer, Tag};
use super::queue::Queue;
use super::relay::Relay;
use super::service::Service;
use super::used::Resumed;
use super::vring::Vring;

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

struct Inner {
    service: Arc<dyn Service>,
    offer: Offer,
    /// Where another server goes on when this one dies.
    kept: Option<Arc<Kept>>,
    memory: Arc<SharedMemory>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("offer", &self.0.offer)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// One with `request_queues` queues beside hiprio, 1 to [`super::REQUEST_QUEUES_MAX`]. The front end is told
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
            offer: Offer::new(tag, request_queues),
            kept,
            memory: Arc::default(),
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
        let served = std::thread::scope(|scope| {
            let _closed = Closed(device, &vrings);
            for (index, vring) in vrings.iter().enumerate() {
                let thread = std::thread::Builder::new().name("vring_worker".to_owned());
                thread.spawn_scoped(scope, move || device.serve_queue(index, vring))?;
            }
            let handler = device.handler(vrings.clone());
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
        Ok(self.0.handler(self.0.vrings()?))
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
            let service = Arc::clone(&self.service);
            let resumed = Resumed::new(kept.under_way(), move || service.has_resumed());
            (kept, Arc::new(resumed))
        });
        let of = |queue| {
            let kept = kept
                .as_ref()
                .map(|(kept, resumed)| (KeptQueue::new(kept, queue), Arc::clone(resumed)));
            Vring::new(&self.service, kept)
        };
        (0..=self.offer.request_queues()).map(of).collect()
    }

    /// What handles the messages of a front end to these queues.
    fn handler(&self, vrings: Vec<Vring>) -> Arc<Serial> {
        let handler = Handler::new(self.offer.clone(), Arc::clone(&self.memory), vrings);
        Arc::new(Serial::new(handler))
    }

    /// The life of a queue's thread.
    fn serve_queue(&self, index: usize, vring: &Vring) {
        vring.serve_until_closed(|shared, start| {
            Queue::new(index, (&self.service, &self.memory), shared, start).serve()
        });
    }
}
