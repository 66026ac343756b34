//! The session on /dev/fuse by our own transport: INIT, then each message to its operation.
//!
//! Invariant: every request is answered exactly once ([`reply::Reply`]), also when an operation panics
//! (EIO), and what an answer that the kernel refused gave out (a lookup, a handle, a lock) is taken back.
//!
//! Why not fuser alone: it loses INTERRUPT and several fields of requests, reports a refused answer to
//! nothing, and each request wakes the thread that has slept longest.

mod allowed;
mod attributes;
mod convert;
mod data;
mod directories;
mod dying;
mod handles;
mod interrupts;
mod locks;
mod names;
mod reply;
mod running;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thrufs_fs::{Errno, Passthrough, SendEntry, SendInval};
use thrufs_transport::dev_fuse::{self, DevFuse, ReaderCounts, RequestBuffer};
use thrufs_wire::abi::{FUSE_KERNEL_MINOR_VERSION, FUSE_KERNEL_VERSION, InHeader, InitIn, InitOut};
use thrufs_wire::{Dialect, InitFlags, Reply, Request, decode};

use crate::init::{Agreed, Offer, negotiate};
use crate::notify;
pub use allowed::Allowed;
use server::Server;

/// The oldest protocol that is decoded: Linux 5.4.
const OLDEST_MINOR: u32 = 31;
/// Until INIT has agreed on a size.
const BEFORE_INIT: u32 = 4096;

/// A connection after INIT.
#[derive(Debug)]
pub struct DevFuseSession {
    device: Arc<DevFuse>,
    server: Arc<Server>,
    max_write: u32,
    counts: Arc<ReaderCounts>,
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
        let (header, arg) = loop {
            let (header, arg) = receive_init(&device, &mut buffer)?;
            if arg.major <= FUSE_KERNEL_VERSION {
                break (header, arg);
            }
            // The kernel sends another INIT, of this version.
            let version = InitOut {
                major: FUSE_KERNEL_VERSION,
                minor: FUSE_KERNEL_MINOR_VERSION,
                ..InitOut::default()
            };
            device.send(&Reply::Init(version).encode(header.unique))?;
        };
        let refuse = |errno, error| {
            let _refused_too = device.send(&Reply::Error(errno).encode(header.unique));
            Err(error)
        };
        if (arg.major, arg.minor) < (FUSE_KERNEL_VERSION, OLDEST_MINOR) {
            let (major, minor) = (arg.major, arg.minor);
            let text = format!(
                "the kernel's FUSE protocol {major}.{minor} is older than 7.31 (Linux 5.4)"
            );
            return refuse(Errno::EPROTO, io::Error::other(text));
        }
        let offer = Offer {
            abi: (arg.major, arg.minor),
            capabilities: arg.capabilities(),
            carried: InitFlags::from_bits_retain(!0),
            max_readahead: arg.max_readahead,
        };
        let agreed = match negotiate(fs.config(), &offer) {
            Ok(agreed) => agreed,
            Err(error) => return refuse(Errno::EIO, error),
        };
        let minor = arg.minor.min(FUSE_KERNEL_MINOR_VERSION);
        device.send(&Reply::Init(answer(minor, &agreed)).encode(header.unique))?;
        let max_write = agreed.negotiated.max_write_asked;
        let dialect = Dialect::new(minor, agreed.capabilities);
        fs.set_negotiated(agreed.negotiated);
        let server = Arc::new(Server::new(fs, Arc::clone(&device), dialect, allowed));
        Ok(Self {
            device,
            server,
            max_write,
            counts: Arc::default(),
        })
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

    /// Serves until the connection ends, with at most `threads` threads at a time.
    ///
    /// # Errors
    /// Those of [`dev_fuse::serve`].
    pub fn run(self, threads: usize) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        let handle = Arc::new(move |message: &[u8]| server.serve(message));
        let result = dev_fuse::serve(&self.device, self.max_write, threads, &self.counts, handle);
        self.server.stop();
        result
    }
}

/// The first message of a connection.
fn receive_init(device: &DevFuse, buffer: &mut RequestBuffer) -> io::Result<(InHeader, InitIn)> {
    let Some(message) = device.receive(buffer)? else {
        let text = "the connection ended before INIT";
        return Err(io::Error::new(io::ErrorKind::NotConnected, text));
    };
    let decoded = decode(Dialect::BEFORE_INIT, message, message.len());
    let decoded = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match decoded.request {
        Request::Init(arg) => Ok((decoded.header, arg)),
        _too_early => {
            let refusal = Reply::Error(Errno::EIO).encode(decoded.header.unique);
            let _refused_too = device.send(&refusal);
            let text = "the kernel's first message is not INIT";
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn answer(minor: u32, agreed: &Agreed) -> InitOut {
    let negotiated = &agreed.negotiated;
    // What was asked for, whatever limit the sysctl shows by now: the kernel has noted its own at the
    // mount, and obeys that one. Its buffers are checked against this value (`fuse_dev_do_read`).
    let max_write = negotiated.max_write_asked;
    // A READ is as large as read-ahead makes it.
    let largest = max_write.max(negotiated.max_readahead);
    let max_pages = u64::from(largest).div_ceil(rustix::param::page_size() as u64);
    InitOut {
        major: FUSE_KERNEL_VERSION,
        minor,
        max_readahead: negotiated.max_readahead,
        max_background: agreed.max_background,
        // The kernel's own share: 3/4.
        congestion_threshold: agreed.max_background / 4 * 3,
        max_write,
        time_gran: agreed.time_gran,
        max_pages: u16::try_from(max_pages).unwrap_or(u16::MAX),
        max_stack_depth: agreed.max_stack_depth,
        ..InitOut::default()
    }
    .with_capabilities(agreed.capabilities)
}
