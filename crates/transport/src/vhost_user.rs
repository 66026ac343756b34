//! A virtiofs device: the back end of vhost-user, whose front end is a virtual machine monitor.
//!
//! Each queue has a thread of its own, which reads the ring where it lies and serves one request after the
//! other; the first, hiprio, waits for no other queue. READ and WRITE move the bytes between a file and
//! the guest's memory without a copy here ([`thrufs_sys::guest_memory`]).
//!
//! Invariant: the guest is not believed. A chain of descriptors that makes no sense costs the guest that
//! request, and a ring that lies that queue; the cause is in the log, the other queues go on, and no word
//! of the guest's ends this process.
//!
//! Why not the queue of virtio-queue: its iterator ends silently at a chain or an index that lies, and it
//! looks each address up in the guest's memory again for each of its fields.

mod calls;
mod chain;
mod completion;
mod device;
mod handler;
mod kept;
mod kick;
mod memory;
mod message;
mod offer;
mod polling;
mod queue;
mod relay;
mod ring;
mod service;
mod setup;
mod used;
mod vring;

pub use completion::Completion;
pub use device::{Device, Shutdown};
pub use kept::Kept;
pub use offer::{REQUEST_QUEUES_MAX, Tag, TagError};
pub use service::{Request, Service};
pub use setup::Damaged;
