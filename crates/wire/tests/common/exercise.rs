//! Any bytes, as a message: the body of the fuzz target `wire` and of the test `hostile`.
//!
//! What must hold: decoding names the fault or gives a request from which the same message can be
//! made again, so that nothing was lost, invented or read by a wrong length.
#![allow(dead_code, reason = "each user uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use nix::errno::Errno;
use thrufs_wire::abi::InHeader;
use thrufs_wire::{Dialect, InitFlags, Opcode, Request, decode, head_len};
use zerocopy::FromBytes;

use crate::parts::{SHAPES, Tail, parts};

/// The header's length is made the message's.
pub(crate) const FIX_LENGTH: u8 = 0x80;
/// Only the required bytes are given in one piece.
pub(crate) const HEAD_ONLY: u8 = 0x40;
/// What INIT granted.
pub(crate) const SETXATTR_EXT: u8 = 1;
pub(crate) const SECURITY_CTX: u8 = 2;
pub(crate) const SUPP_GROUP: u8 = 4;
/// Linux 5.17 to 6.2: extensions that the header does not count.
pub(crate) const OLD: u8 = 8;

/// The dialect that the first byte of an input stands for.
pub(crate) fn dialect(choice: u8) -> Dialect {
    let mut granted = InitFlags::empty();
    granted.set(InitFlags::FUSE_SETXATTR_EXT, choice & SETXATTR_EXT != 0);
    granted.set(InitFlags::FUSE_SECURITY_CTX, choice & SECURITY_CTX != 0);
    granted.set(InitFlags::FUSE_CREATE_SUPP_GROUP, choice & SUPP_GROUP != 0);
    Dialect::new(if choice & OLD != 0 { 37 } else { 46 }, granted)
}

/// Decodes `input`, a byte for the circumstances and a message, and checks what must hold. Says
/// whether it was a message.
pub(crate) fn exercise(input: &[u8]) -> bool {
    let (choice, message) = input.split_first().unwrap_or((&0, &[]));
    let mut message = message.to_vec();
    let len = (message.len() as u32).to_ne_bytes();
    if choice & FIX_LENGTH != 0 && message.len() >= len.len() {
        message[..len.len()].copy_from_slice(&len);
    }
    let total = message.len();
    let mut head = &message[..];
    if choice & HEAD_ONLY != 0
        && let Ok((header, _)) = InHeader::read_from_prefix(head)
    {
        head = &head[..head_len(&header, total)];
    }
    let dialect = dialect(*choice);
    match decode(dialect, head, total) {
        Ok(decoded) => {
            assert!(!format!("{decoded:?}").is_empty());
            same_again(dialect, &message, decoded.header, &decoded.request);
            true
        }
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            assert!([Errno::EINVAL, Errno::ENOSYS].contains(&refused.errno()));
            let unique = refused.header.map(|header| header.unique);
            assert!(refused.unanswered().is_none() || refused.unanswered() == unique);
            false
        }
    }
}

/// What was decoded makes the same message.
fn same_again(dialect: Dialect, message: &[u8], header: InHeader, request: &Request<'_>) {
    let apart = parts(request);
    let opcode = Opcode::from_raw(header.opcode).unwrap();
    let shape = SHAPES.iter().find(|shape| shape.opcode == opcode).unwrap();
    let payload = match request {
        Request::Write { data, .. } | Request::NotifyReply { data, .. } => {
            data.of(message).expect("the data are in the message")
        }
        _no_payload => &[],
    };
    let mut again = apart.message(header, payload);
    match (shape.opcode, shape.tail) {
        // Its older and newer forms are shorter and longer than ours.
        (Opcode::Init, _) => return,
        (Opcode::Setxattr, _) if dialect.granted().contains(InitFlags::FUSE_SETXATTR_EXT) => {}
        (Opcode::Setxattr, _) => {
            again.drain(48..56);
            again[..4].copy_from_slice(&header.len.to_ne_bytes());
        }
        // Padding, order and, before 7.39, the count in the header are the sender's.
        (_, Tail::Extensions) => {
            let total = again.len();
            let twice = decode(dialect, &again, total).unwrap();
            assert_eq!(parts(&twice.request), apart);
            return;
        }
        // Four bytes of padding before the items.
        (Opcode::BatchForget, _) => again[44..48].copy_from_slice(&message[44..48]),
        _otherwise => {}
    }
    assert!(
        again == message,
        "{request:?}\nfrom {message:x?}\nmakes {again:x?}"
    );
}
