//! Where the answer to one message goes.

use std::io;
use std::sync::Arc;

use thrufs_sys::guest_memory::GuestRange;
use thrufs_transport::dev_fuse::DevFuse;
use thrufs_transport::vhost_user::Completion;
use thrufs_wire::Encoded;
use thrufs_wire::abi::OutHeader;

/// See the module. An enum and not a trait object: it is made for each message, on the path of READ and WRITE.
#[derive(Debug)]
pub(crate) enum Responder {
    /// The connection that it came by.
    DevFuse(Arc<DevFuse>),
    /// The chain that it came in. Dropped without an answer, that goes back as it is.
    VhostUser(Completion),
}

impl Responder {
    /// Sends the answer.
    ///
    /// # Errors
    /// NotFound: nothing waits for it any more. Else it is none that the client takes.
    pub(crate) fn send(&mut self, answer: &Encoded<'_>) -> io::Result<()> {
        match self {
            Self::DevFuse(device) => device.send(answer),
            Self::VhostUser(completion) => completion.send(answer),
        }
    }

    /// The client's memory for at least `size` bytes of an answer's data, if it can be reached.
    pub(super) fn room(&self, size: usize) -> Option<GuestRange<'_>> {
        match self {
            Self::DevFuse(_) => None,
            Self::VhostUser(completion) => completion.room().filter(|room| room.len() >= size),
        }
    }

    /// Sends the answer whose data are in the room already.
    ///
    /// # Errors
    /// As [`Responder::send`].
    pub(super) fn send_filled(&mut self, header: &OutHeader) -> io::Result<()> {
        match self {
            Self::DevFuse(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::VhostUser(completion) => completion.send_filled(header),
        }
    }
}
