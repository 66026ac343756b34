//! What serves the requests of a device.

use thrufs_sys::guest_memory::GuestRange;

use super::completion::Completion;

/// A request, where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The queue that it came on, below the number that [`super::Device::new`] was told of, hiprio included.
    pub queue: usize,
    /// Where another server may serve it once more: a number that no other request of the device has, even and not 0.
    pub number: Option<u64>,
    /// The part that is decoded ([`thrufs_wire::head_len`]), read once.
    pub head: &'a [u8],
    /// The whole, of which a reader uses what follows `head` alone: the guest may change it.
    pub all: GuestRange<'a>,
}

impl Request<'_> {
    /// It came on the queue for FORGET and INTERRUPT.
    pub fn is_priority(&self) -> bool {
        self.queue == 0
    }
}

/// Serves requests. Must not panic.
pub trait Service: Send + Sync {
    /// Serves one request, on its queue's thread.
    fn serve(&self, request: Request<'_>, completion: Completion);

    /// The front end stops a queue, and waits: what waits for a lock or a descriptor is answered.
    fn interrupt_waiting(&self);

    /// All that an earlier server had under way is given back.
    fn has_resumed(&self);
}
