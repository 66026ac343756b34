//! What a transport can do. The session decides by this, not by the transport's name.

use std::sync::Arc;

use thrufs_transport::dev_fuse::DevFuse;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// `fuse_in_header.pid` is a process of this machine.
    pub(crate) has_caller_pid: bool,
    /// One thread takes the requests of a queue: what it waits for, all behind it wait for.
    pub(crate) has_queues: bool,
    /// Pages that a request can have at most, where that is not fs.fuse.max_pages_limit of this machine.
    pub(crate) max_pages: Option<u64>,
    /// The client takes messages that answer none of its requests: a notification, or the EAGAIN to an
    /// INTERRUPT.
    pub(crate) channel: Option<Arc<DevFuse>>,
}

impl Capabilities {
    /// Of a connection to this machine's kernel.
    pub(crate) fn of_kernel(device: &Arc<DevFuse>) -> Self {
        Self {
            has_caller_pid: true,
            has_queues: false,
            max_pages: None,
            channel: Some(Arc::clone(device)),
        }
    }

    /// Of a virtiofs device without a notification queue, which no driver has. How many pages a request
    /// has is a matter of the guest's kernel, and of its queue's size.
    pub(crate) fn of_guest() -> Self {
        Self {
            has_caller_pid: false,
            has_queues: true,
            max_pages: Some(u16::MAX.into()),
            channel: None,
        }
    }
}
