//! The answer that a request is owed.
//!
//! Invariant: exactly one answer a request. Sending consumes the [`Reply`]; one that is dropped, by a
//! panic or by a mistake, answers EIO.

use std::io;

use thrufs_fs::{Errno, Result};
use thrufs_sys::guest_memory::GuestRange;
use thrufs_wire::abi::{GetxattrOut, WriteOut};
use thrufs_wire::reply::payload_header;
use thrufs_wire::{Opcode, Reply as Answer};

use super::responder::Responder;
use super::running::Ticket;
use crate::convert::visible_errno;

/// What came of sending an answer.
#[must_use = "what a refused answer gave out has to be taken back"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The kernel took it.
    Taken,
    /// The kernel refused it: nothing waits for it any more, and what it gave out is not held.
    Refused,
}

impl Sent {
    /// An answer that gave out nothing.
    pub(super) fn gives_nothing(self) {}

    /// Takes back what the answer gave out, if it was refused.
    pub(super) fn or_else(self, take_back: impl FnOnce()) {
        if self == Self::Refused {
            take_back();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reply {
    responder: Responder,
    unique: u64,
    opcode: Opcode,
    is_owed: bool,
    /// None for a request that is never given up.
    ticket: Option<Ticket>,
}

impl Reply {
    pub(super) fn new(
        responder: Responder,
        unique: u64,
        opcode: Opcode,
        ticket: Option<Ticket>,
    ) -> Self {
        Self {
            ticket,
            responder,
            unique,
            opcode,
            is_owed: true,
        }
    }

    /// Sends the answer.
    pub(super) fn send(mut self, answer: &Answer<'_>) -> Sent {
        debug_assert!(
            answer.answers(self.opcode),
            "{answer:?} to {:?}",
            self.opcode
        );
        let delivered = self.deliver(answer);
        self.sent(delivered)
    }

    /// Room in the client's memory for `size` bytes of data, for [`Reply::filled`].
    pub(super) fn room(&self, size: usize) -> Option<GuestRange<'_>> {
        self.responder.room(size)
    }

    /// `count` bytes are in the room already, or the error.
    pub(super) fn filled(mut self, count: Result<usize>) {
        let unique = self.unique;
        match count.and_then(|count| payload_header(unique, count).ok_or(Errno::EIO)) {
            Ok(header) => {
                let delivered = self.responder.send_filled(&header);
                self.sent(delivered).gives_nothing();
            }
            Err(error) => self.error(error),
        }
    }

    fn sent(mut self, delivered: io::Result<()>) -> Sent {
        self.is_owed = false;
        match delivered {
            Ok(()) => Sent::Taken,
            Err(error) => {
                // ENOENT: the request was ended meanwhile, by an abort or with its caller.
                let (opcode, unique) = (self.opcode.name(), self.unique);
                if error.kind() == io::ErrorKind::NotFound {
                    tracing::debug!(opcode, unique, "nothing waits for the answer any more");
                } else {
                    tracing::error!(opcode, unique, %error, "the client refuses an answer");
                }
                Sent::Refused
            }
        }
    }

    fn deliver(&mut self, answer: &Answer<'_>) -> io::Result<()> {
        if self.ticket.take().is_some_and(|ticket| !ticket.claim()) {
            // Another thread has sent the answer.
            return Err(io::ErrorKind::NotFound.into());
        }
        self.responder.send(&answer.encode(self.unique))
    }

    pub(super) fn error(self, error: Errno) {
        let answer = Answer::Error(visible_errno(error));
        self.send(&answer).gives_nothing();
    }

    /// An answer that gives out nothing, or the error.
    pub(super) fn plain(self, answer: Result<Answer<'_>>) {
        match answer {
            Ok(answer) => self.send(&answer).gives_nothing(),
            Err(error) => self.error(error),
        }
    }

    /// Success without data, or the error.
    pub(super) fn done(self, done: Result<()>) -> Sent {
        match done {
            Ok(()) => self.send(&Answer::Empty),
            Err(error) => {
                self.error(error);
                Sent::Taken
            }
        }
    }

    /// Bytes, or the error.
    pub(super) fn data(self, data: Result<&[u8]>) {
        self.plain(data.map(Answer::Data));
    }

    /// How much was written or copied, or the error.
    pub(super) fn written(self, done: Result<usize>) {
        // At most what the request asked for, in 32 bits, or what the operation bounds.
        let count = done.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self.plain(count.map(|count| Answer::Write(WriteOut::new(count))));
    }

    /// A value or a list of which `size` bytes were asked for; 0 asks for its size.
    pub(super) fn xattr(self, value: Result<Vec<u8>>, size: u32) {
        match value {
            Ok(value) if size == 0 => {
                let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
                self.plain(Ok(Answer::XattrSize(GetxattrOut::new(len))));
            }
            Ok(value) if value.len() > size as usize => self.error(Errno::ERANGE),
            Ok(value) => self.data(Ok(&value)),
            Err(error) => self.error(error),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_owed {
            return;
        }
        // After the end of the connection nothing waits, and dropping is what the end consists of.
        if self.deliver(&Answer::Error(Errno::EIO)).is_ok() {
            let (opcode, unique) = (self.opcode.name(), self.unique);
            tracing::error!(opcode, unique, "a request got no answer but EIO: a bug");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use thrufs_transport::dev_fuse::DevFuse;

    use super::*;
    use crate::notify::tests::pair;

    #[test]
    fn reply_that_is_dropped_answers_eio() {
        let (mut socket, server) = pair();
        let responder = Responder::DevFuse(Arc::new(DevFuse::new(server)));
        drop(Reply::new(responder, 8, Opcode::Getattr, None));
        let mut bytes = [0; 100];
        assert_eq!(socket.read(&mut bytes).unwrap(), 16);
        assert_eq!(bytes[4..8], (-libc::EIO).to_ne_bytes());
        assert_eq!(bytes[8..16], 8_u64.to_ne_bytes());
    }
}
