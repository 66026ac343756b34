//! Notifications as functions that the file system calls, over a descriptor of the connection.
//!
//! Invariant: never called from a session thread: the kernel waits in them for locks that requests under
//! way may hold. fuser has senders of its own for the first two ([`crate::send_inval`]).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use thrufs_fs::{Negotiated, SendEntry, SendEpoch, SendInval, SendPrune};
use thrufs_transport::dev_fuse::DevFuse;
use thrufs_wire::abi::InvalEntryFlags;
use thrufs_wire::{Dialect, InitFlags, Notification};

/// NOTIFY_INVAL_INODE.
pub(crate) fn inval(device: Arc<DevFuse>) -> SendInval {
    Box::new(move |nodeid, offset, len| {
        let of = Notification::InvalInode {
            nodeid,
            offset,
            len,
        };
        unless_unknown(send(&device, &of))
    })
}

/// NOTIFY_INVAL_ENTRY.
pub(crate) fn entry(device: Arc<DevFuse>) -> SendEntry {
    Box::new(move |parent, name: &OsStr| {
        let name = CString::new(name.as_bytes())?;
        let of = Notification::InvalEntry {
            parent,
            name: &name,
            flags: InvalEntryFlags::empty(),
        };
        unless_unknown(send(&device, &of))
    })
}

/// NOTIFY_RESEND: what was read and not answered comes again, before anything new.
pub(crate) fn resend(device: &DevFuse) -> io::Result<()> {
    send(device, &Notification::Resend)
}

/// The sender on `device`, a descriptor of the connection; none where the kernel does not have it.
pub fn send_epoch(device: File, negotiated: &Negotiated) -> Option<SendEpoch> {
    let device = DevFuse::new(device.into());
    let is_known = Notification::IncEpoch.is_known(dialect(negotiated));
    let notify = move || send(&device, &Notification::IncEpoch);
    is_known.then(|| Box::new(notify) as SendEpoch)
}

/// As [`send_epoch`].
pub fn send_prune(device: File, negotiated: &Negotiated) -> Option<SendPrune> {
    let device = DevFuse::new(device.into());
    let is_known = Notification::Prune { nodeids: &[] }.is_known(dialect(negotiated));
    let notify = move |nodeids: &[u64]| send(&device, &Notification::Prune { nodeids });
    is_known.then(|| Box::new(notify) as SendPrune)
}

/// What the kernel knows depends on its version alone here.
fn dialect(negotiated: &Negotiated) -> Dialect {
    Dialect::new(negotiated.kernel_abi.1, InitFlags::empty())
}

fn send(device: &DevFuse, notification: &Notification<'_>) -> io::Result<()> {
    let message = notification.encode().map_err(io::Error::other)?;
    device.send(&message)
}

/// An inode or a name that the kernel has forgotten needs no invalidation.
fn unless_unknown(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

    use super::*;

    fn negotiated(minor: u32) -> Negotiated {
        Negotiated {
            kernel_abi: (7, minor),
            max_write_asked: 4096,
            max_write: 4096,
            max_pages_limit: 256,
            max_readahead: 4096,
            max_background: 64,
            granted: Vec::new(),
            refused: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// The kernel's end of a connection, and the server's.
    pub(crate) fn pair() -> (File, OwnedFd) {
        let kind = SockType::SeqPacket;
        let (kernel, server) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        for end in [&kernel, &server] {
            setsockopt(end, sockopt::SndBuf, &(1 << 20)).unwrap();
        }
        (kernel.into(), server)
    }

    #[test]
    fn send_prune_is_one_message_with_count_and_numbers() {
        let (mut kernel, server) = pair();
        let send = send_prune(server.into(), &negotiated(45)).unwrap();
        send(&[7, 9]).unwrap();
        let mut bytes = [0; 100];
        let len = kernel.read(&mut bytes).unwrap();
        let words: Vec<u32> = bytes[..len]
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [48, 9, 0, 0, 2, 0, 0, 0, 7, 0, 9, 0]);
    }

    #[test]
    fn send_to_a_kernel_without_the_notification_is_none() {
        let device = || File::from(pair().1);
        assert!(send_epoch(device(), &negotiated(43)).is_none());
        assert!(send_epoch(device(), &negotiated(44)).is_some());
        assert!(send_prune(device(), &negotiated(44)).is_none());
    }
}
