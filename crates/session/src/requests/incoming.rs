//! A message as its transport has it: whole, or with the data of a WRITE where the client left them.

use thrufs_sys::guest_memory::{GuestBuffers, GuestRange};
use thrufs_wire::request::{DecodeError, PayloadRange};
use thrufs_wire::{Dialect, Message, decode};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'m> {
    /// All that is decoded ([`thrufs_wire::head_len`]).
    head: &'m [u8],
    /// The whole message; none if `head` is that.
    in_guest: Option<GuestRange<'m>>,
    chain: Option<Chain>,
}

/// Where a message of a guest comes from, if another server may serve it once more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) queue: usize,
    /// No other request of the device has it, whatever a driver says in `unique`.
    pub(crate) number: u64,
}

/// The data of a WRITE.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'m> {
    Bytes(&'m [u8]),
    Guest(GuestRange<'m>),
}

impl<'m> Incoming<'m> {
    /// A message that is read.
    pub(crate) fn whole(message: &'m [u8]) -> Self {
        Self {
            head: message,
            in_guest: None,
            chain: None,
        }
    }

    /// A message in a guest's memory, of which `head` is read.
    pub(crate) fn of_guest(head: &'m [u8], all: GuestRange<'m>) -> Self {
        Self {
            head,
            in_guest: Some(all),
            chain: None,
        }
    }

    /// The same, which comes in `chain`.
    pub(crate) fn in_chain(self, chain: Option<Chain>) -> Self {
        Self { chain, ..self }
    }

    pub(super) fn chain(&self) -> Option<Chain> {
        self.chain
    }

    /// What of it is not read, for another thread.
    pub(super) fn to_guest_buffers(self) -> Option<GuestBuffers> {
        self.in_guest.map(GuestRange::to_buffers)
    }

    pub(super) fn head(&self) -> &'m [u8] {
        self.head
    }

    pub(super) fn decode(&self, dialect: Dialect) -> Result<Message<'m>, DecodeError> {
        let total = self.in_guest.map_or(self.head.len(), |all| all.len());
        decode(dialect, self.head, total)
    }

    /// The data that decoding found; none if they are not there.
    pub(super) fn payload(&self, range: PayloadRange) -> Option<Payload<'m>> {
        match self.in_guest {
            None => range.of(self.head).map(Payload::Bytes),
            Some(all) => {
                let data = all.after(range.start).first(range.len);
                (data.len() == range.len).then_some(Payload::Guest(data))
            }
        }
    }
}
