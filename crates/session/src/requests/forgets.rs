//! FORGET and BATCH_FORGET, which have no answer and come once.
//!
//! Invariant: each is counted once, also where the server dies with a message read: where another follows it,
//! messages are read into memory that outlives it, and the ledger has how far each was counted.

use thrufs_fs::{ForgetPlace, Ledger};
use thrufs_transport::dev_fuse::{RequestBuffer, current_shared_buffer};
use thrufs_wire::{Message, Request, decode};

use super::incoming::Chain;
use super::server::Server;

impl Server {
    /// The FORGETs of a message that this thread has read, or that came in `chain`: a queue has one at a time.
    pub(super) fn forget(&self, message: &Message<'_>, chain: Option<Chain>) {
        let place = match chain {
            Some(Chain { queue, number }) => Some((queue, number)),
            None => current_shared_buffer().map(|buffer| (buffer, message.header.unique)),
        };
        self.forget_from(self.fs().ledger().and(place), message);
    }

    /// FORGETs that a server which died had read, and not counted: the kernel does not send them again.
    pub(crate) fn forget_what_was_read(&self, max_write: u32) {
        let Some(messages) = self.fs().ledger().map(Ledger::messages) else {
            return;
        };
        for at in 0..messages.count() {
            let shared = messages.take(at);
            let Some(buffer) = shared.and_then(|shared| RequestBuffer::shared(shared, max_write))
            else {
                continue;
            };
            let bytes = buffer.bytes();
            let len = bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes);
            let message = &bytes[..bytes.len().min(len as usize)];
            // What it was besides is sent again, or answered.
            if let Ok(message) = decode(self.dialect, message, message.len()) {
                self.forget_from(Some((at, message.header.unique)), &message);
            }
        }
    }

    /// Those of the message that are not counted yet, by its buffer and its number.
    fn forget_from(&self, place: Option<(usize, u64)>, Message { header, request }: &Message<'_>) {
        let ledger = self.fs().ledger().zip(place);
        let counted = ledger.map_or(0, |(ledger, (at, unique))| {
            ledger.forgets_counted(at, unique)
        });
        let skipped = usize::try_from(counted).unwrap_or(usize::MAX);
        let placed = |((ino, nlookup), number)| {
            let place = place.map(|(buffer, unique)| ForgetPlace {
                buffer,
                unique,
                number,
            });
            (ino, nlookup, place)
        };
        match request {
            Request::Forget(arg) => {
                let one = std::iter::once((header.nodeid, arg.nlookup));
                self.dispatch.forget(one.zip(1..).skip(skipped).map(placed));
            }
            Request::BatchForget(all) => {
                let all = (*all).map(|one| (one.nodeid, one.nlookup));
                self.dispatch.forget(all.zip(1..).skip(skipped).map(placed));
            }
            _none => {}
        }
    }
}
