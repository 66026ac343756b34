//! The session on /dev/fuse by our own transport: INIT, then each message to its operation.
//!
//! Invariant: INIT is answered before any other message is read.
//!
//! Why not fuser alone: it loses INTERRUPT and several fields of requests, reports a refused answer to
//! nothing, and each request wakes the thread that has slept longest.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thrufs_fs::{Config, Errno, Ledger, Negotiated, Passthrough, SendEntry, SendInval};
use thrufs_transport::dev_fuse::{
    self, Buffers, DevFuse, Drain, Ended, ReaderCounts, Received, RequestBuffer,
};
use thrufs_wire::abi::{InHeader, InitIn, InitOut};
use thrufs_wire::{Dialect, InitFlags, Reply, Request, decode};
use zerocopy::{FromBytes, IntoBytes};

use crate::init::{Handshake, shake_hands};
use crate::notify;
use crate::requests::{Allowed, Capabilities, Incoming, Responder, Server};

/// Until INIT has agreed on a size.
const BEFORE_INIT: u32 = 4096;

/// A connection after INIT.
#[derive(Debug)]
pub struct DevFuseSession {
    device: Arc<DevFuse>,
    server: Arc<Server>,
    max_write: u32,
    counts: Arc<ReaderCounts>,
    drain: Arc<Drain>,
}

impl DevFuseSession {
    /// Answers INIT on `connection`.
    ///
    /// # Errors
    /// The connection ended, the kernel is older than Linux 5.4, or lacks what an option needs.
    pub fn handshake(
        fs: Arc<Passthrough>,
        connection: OwnedFd,
        allowed: Allowed,
    ) -> io::Result<Self> {
        let device = Arc::new(DevFuse::new(connection));
        let mut buffer = RequestBuffer::for_max_write(BEFORE_INIT);
        let capabilities = Capabilities::of_kernel(&device);
        loop {
            let message = match device.receive(&mut buffer)? {
                Received::Message(message) => message,
                Received::Nothing => continue,
                Received::Ended => {
                    let text = "the connection ended before INIT";
                    return Err(io::Error::new(io::ErrorKind::NotConnected, text));
                }
            };
            let (header, arg) = init_of(Some(&device), message)?;
            let unique = header.unique;
            match shake_hands(fs.config(), &capabilities, &arg) {
                // The kernel sends another INIT, of this version.
                Handshake::OtherVersion(version) => {
                    device.send(&Reply::Init(version).encode(unique))?;
                }
                Handshake::Refused(errno, error) => {
                    let _refused_too = device.send(&Reply::Error(errno).encode(unique));
                    return Err(error);
                }
                Handshake::Agreed {
                    answer,
                    dialect,
                    negotiated,
                } => {
                    if let Some(ledger) = fs.ledger() {
                        ledger.note_init(message, answer.as_bytes());
                    }
                    device.send(&Reply::Init(answer).encode(unique))?;
                    return Ok(Self::new(
                        (fs, device),
                        (capabilities, dialect, allowed),
                        negotiated,
                    ));
                }
            }
        }
    }

    /// Goes on after a server that died, which has answered INIT on `connection`, and has the kernel send again what
    /// it had read and not answered. No message is read before.
    ///
    /// # Errors
    /// The ledger has no INIT that this server answers; the connection has ended.
    pub fn resume(fs: Arc<Passthrough>, connection: OwnedFd, allowed: Allowed) -> io::Result<Self> {
        let ledger = fs.ledger().ok_or(io::ErrorKind::Unsupported)?;
        let device = Arc::new(DevFuse::new(connection));
        let capabilities = Capabilities::of_kernel(&device);
        let (dialect, negotiated) = agreed(fs.config(), ledger, Some(&device), &capabilities)?;
        let session = Self::new((fs, device), (capabilities, dialect, allowed), negotiated);
        session.server.forget_what_was_read(session.max_write);
        notify::resend(&session.device)?;
        Ok(session)
    }

    /// Whether [`Self::resume`] on `connection` is one for what `ledger` says, with this `config`.
    ///
    /// # Errors
    /// Why not.
    pub fn can_resume(config: &Config, ledger: &Ledger, connection: OwnedFd) -> io::Result<()> {
        let device = Arc::new(DevFuse::new(connection));
        let capabilities = Capabilities::of_kernel(&device);
        agreed(config, ledger, Some(&device), &capabilities).map(drop)
    }

    fn new(
        (fs, device): (Arc<Passthrough>, Arc<DevFuse>),
        (capabilities, dialect, allowed): (Capabilities, Dialect, Allowed),
        negotiated: Negotiated,
    ) -> Self {
        let max_write = negotiated.max_write_asked;
        fs.set_negotiated(negotiated);
        let server = Server::new(fs, capabilities, dialect, allowed);
        Self {
            device,
            server: Arc::new(server),
            max_write,
            counts: Arc::default(),
            drain: Arc::default(),
        }
    }

    /// As [`crate::send_inval`].
    pub fn send_inval(&self) -> SendInval {
        notify::inval(Arc::clone(&self.device))
    }

    /// As [`crate::send_entry`].
    pub fn send_entry(&self) -> SendEntry {
        notify::entry(Arc::clone(&self.device))
    }

    /// The threads of the session, when it runs.
    pub fn reader_counts(&self) -> Arc<ReaderCounts> {
        Arc::clone(&self.counts)
    }

    /// What ends the session while the connection lasts.
    pub fn drain(&self) -> Arc<Drain> {
        Arc::clone(&self.drain)
    }

    /// Serves until the connection ends, with at most `threads` threads at a time; or until it is drained, and then
    /// what waits is left to wait.
    ///
    /// # Errors
    /// Those of [`dev_fuse::serve`].
    pub fn run(self, threads: usize) -> io::Result<Ended> {
        let server = Arc::clone(&self.server);
        let device = Arc::clone(&self.device);
        let handle = Arc::new(move |message: &[u8]| {
            let responder = Responder::DevFuse(Arc::clone(&device));
            server.serve(Incoming::whole(message), responder);
        });
        let buffers = match self.server.fs().ledger() {
            Some(ledger) => Buffers::Shared(self.max_write, Arc::clone(ledger.messages())),
            None => Buffers::AsUsed(self.max_write),
        };
        let buffers = (buffers, threads);
        let result = dev_fuse::serve(&self.device, buffers, &self.counts, &self.drain, handle);
        if matches!(result, Ok(Ended::Drained)) {
            // The answers of what waits would be errors.
            std::mem::forget(self);
        } else {
            self.server.stop();
        }
        result
    }
}

/// What the INIT in `ledger` was answered with, if this version answers it so too. Anything else there is refused by
/// `device`, where there is one.
///
/// # Errors
/// It would be answered otherwise; there is none.
pub(crate) fn agreed(
    config: &Config,
    ledger: &Ledger,
    device: Option<&DevFuse>,
    capabilities: &Capabilities,
) -> io::Result<(Dialect, Negotiated)> {
    let (_header, mut arg) = init_of(device, &ledger.init()?)?;
    let before = ledger.init_answer();
    let before = InitOut::read_from_prefix(&before);
    let (before, _rest) = before.map_err(|_| io::ErrorKind::InvalidData)?;
    // What was not agreed on then cannot be now, though this version may know more.
    (arg.flags, arg.flags2) = (arg.capabilities() & before.capabilities()).halves();
    match shake_hands(config, capabilities, &arg) {
        Handshake::Agreed {
            answer,
            dialect,
            negotiated,
        } if lasting(&answer) == lasting(&before) && config.max_write >= before.max_write => {
            Ok((dialect, negotiated))
        }
        Handshake::Agreed { .. } | Handshake::OtherVersion(_) | Handshake::Refused(..) => {
            Err(io::Error::other(
                "INIT would be answered otherwise than it was: what the kernel was told lasts as long as the mount",
            ))
        }
    }
}

/// What an answer to INIT says that does not follow from a sysctl.
fn lasting(answer: &InitOut) -> (InitFlags, [u32; 5]) {
    let numbers = [
        answer.minor,
        u32::from(answer.max_background),
        answer.time_gran,
        u32::from(answer.request_timeout),
        answer.max_stack_depth,
    ];
    (answer.capabilities(), numbers)
}

/// What the first message of a connection says.
fn init_of(device: Option<&DevFuse>, message: &[u8]) -> io::Result<(InHeader, InitIn)> {
    let decoded = decode(Dialect::BEFORE_INIT, message, message.len());
    let decoded = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match decoded.request {
        Request::Init(arg) => Ok((decoded.header, arg)),
        _too_early => {
            let refusal = Reply::Error(Errno::EIO).encode(decoded.header.unique);
            let _refused_too = device.map(|device| device.send(&refusal));
            let text = "the kernel's first message is not INIT";
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}
