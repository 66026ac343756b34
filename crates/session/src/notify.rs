//! Notifications that fuser 0.18 does not have, as the bytes that go to the device.
//!
//! Like fuser's own notifications, these are never sent from a session thread.

use std::fs::File;
use std::io::Write;

use thrufs_fs::{Negotiated, SendEpoch, SendPrune};

const FUSE_NOTIFY_INC_EPOCH: u32 = 8;
const FUSE_NOTIFY_PRUNE: u32 = 9;
/// Version of the protocol that has it (Linux 6.16).
const INC_EPOCH_SINCE: (u32, u32) = (7, 44);
/// The same (Linux 6.18).
const PRUNE_SINCE: (u32, u32) = (7, 45);
/// Bytes of struct fuse_out_header.
const HEADER_SIZE: usize = 16;

/// struct fuse_out_header, with the code in place of an error and no request, and what follows it.
fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_SIZE + body.len()).expect("a batch is some KiB");
    let mut bytes = Vec::with_capacity(HEADER_SIZE + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(code.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The sender on `device`, a descriptor of the connection; none where the kernel does not have it.
pub fn send_epoch(device: File, negotiated: &Negotiated) -> Option<SendEpoch> {
    let message = message(FUSE_NOTIFY_INC_EPOCH, &[]);
    let send = move || (&device).write_all(&message);
    (negotiated.kernel_abi >= INC_EPOCH_SINCE).then(|| Box::new(send) as SendEpoch)
}

/// As [`send_epoch`].
pub fn send_prune(device: File, negotiated: &Negotiated) -> Option<SendPrune> {
    let send = move |inodes: &[u64]| {
        // struct fuse_notify_prune_out, and the numbers.
        let count = u32::try_from(inodes.len()).expect("a batch is some hundred");
        let mut body = count.to_ne_bytes().to_vec();
        body.extend([0; 12]);
        body.extend(inodes.iter().flat_map(|ino| ino.to_ne_bytes()));
        (&device).write_all(&message(FUSE_NOTIFY_PRUNE, &body))
    };
    (negotiated.kernel_abi >= PRUNE_SINCE).then(|| Box::new(send) as SendPrune)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_begins_with_its_length_and_code() {
        let bytes = message(9, &[7; 8]);
        assert_eq!(bytes.len(), 24);
        assert_eq!(
            bytes[..8],
            [24_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat()
        );
        assert_eq!(bytes[8..], [[0; 8], [7; 8]].concat());
    }
}
