//! The answer that a chain is owed: the bytes that go into its writable part.
//!
//! Invariant: each chain is given back exactly once: with an answer, or, when this is dropped without one,
//! with none (FORGET is owed none).

use std::io;
use std::sync::Arc;

use thrufs_sys::guest_memory::{GuestBuffers, GuestRange};
use thrufs_wire::Encoded;
use thrufs_wire::abi::OutHeader;
use zerocopy::IntoBytes;

use super::used::{ChainId, Used};

/// See the module.
#[derive(Debug)]
pub struct Completion {
    used: Arc<Used>,
    chain: ChainId,
    /// None once the chain is given back.
    writable: Option<GuestBuffers>,
}

impl Completion {
    pub(super) fn new(used: &Arc<Used>, chain: ChainId, writable: GuestBuffers) -> Self {
        Self {
            used: Arc::clone(used),
            chain,
            writable: Some(writable),
        }
    }

    /// Room for the data of an answer, behind its header.
    pub fn room(&self) -> Option<GuestRange<'_>> {
        let writable = self.writable.as_ref()?;
        (writable.len() >= HEADER).then(|| writable.all().after(HEADER))
    }

    /// Answers.
    ///
    /// # Errors
    /// There is no room for it; if there is room for a header, the guest gets EIO.
    pub fn send(&mut self, message: &Encoded<'_>) -> io::Result<()> {
        let Some(writable) = self.writable.take() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if message.len() > writable.len() {
            return self.refuse(writable, message);
        }
        let mut at = writable.all();
        for part in message.io_slices().iter() {
            at = at.after(at.copy_from(part));
        }
        self.give_back(writable, message.len());
        Ok(())
    }

    /// Answers with `header` and the data that are in the room already.
    ///
    /// # Errors
    /// As [`Completion::send`].
    pub fn send_filled(&mut self, header: &OutHeader) -> io::Result<()> {
        let Some(writable) = self.writable.take() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        writable.all().copy_from(header.as_bytes());
        let len = (header.len as usize).min(writable.len());
        self.give_back(writable, len);
        Ok(())
    }

    fn refuse(&self, writable: GuestBuffers, message: &Encoded<'_>) -> io::Result<()> {
        let (need, have) = (message.len(), writable.len());
        let written = match message.head().first_chunk::<HEADER>() {
            Some(header) if have >= HEADER => {
                let mut error = *header;
                error[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
                let errno = -rustix::io::Errno::IO.raw_os_error();
                error[4..8].copy_from_slice(&errno.to_ne_bytes());
                writable.all().copy_from(&error)
            }
            _nothing_fits => 0,
        };
        self.give_back(writable, written);
        Err(io::Error::other(format!(
            "an answer of {need} bytes for {have} bytes of room"
        )))
    }

    fn give_back(&self, writable: GuestBuffers, len: usize) {
        // At most what a message can say.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.used.end(self.chain, len, writable.into_storage());
    }
}

const HEADER: usize = size_of::<OutHeader>();

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(writable) = self.writable.take() {
            self.give_back(writable, 0);
        }
    }
}
