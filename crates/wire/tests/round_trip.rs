//! Every operation, with any arguments: what was sent is what is decoded.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/parts.rs"]
mod parts;

use std::ffi::CString;

use parts::{Parts, SHAPES, Shape, Tail, everything, parts};
use proptest::collection::vec;
use proptest::prelude::*;
use thrufs_wire::abi::InHeader;
use thrufs_wire::{Opcode, Request, decode, head_len};
use zerocopy::FromBytes;

/// No byte is NUL.
fn name() -> impl Strategy<Value = CString> {
    vec(1_u8.., 0..40).prop_map(|bytes| CString::new(bytes).unwrap())
}

/// A message of the operation, in pieces, and its payload.
fn sent(shape: &'static Shape) -> impl Strategy<Value = (Parts, Vec<u8>)> {
    let arg = vec(any::<u8>(), shape.arg);
    let names = vec(name(), shape.names);
    let (unit, most) = match shape.tail {
        Tail::Items { unit, .. } => (unit, 64_usize),
        Tail::Payload { .. } => (1, 5000),
        Tail::Nothing | Tail::Extensions => (1, 0),
    };
    let count = if shape.tail == Tail::Extensions { 3 } else { 0 };
    let labels = vec((name(), vec(any::<u8>(), 0..40)), 0..=count);
    let groups = vec(any::<u32>(), 0..=count);
    let data = (0..=most).prop_flat_map(move |items| vec(any::<u8>(), items * unit));
    (arg, names, labels, groups, data).prop_map(|(arg, names, labels, groups, data)| {
        let mut parts = Parts {
            arg,
            names,
            labels,
            groups,
            ..Parts::default()
        };
        consistent(shape, &mut parts.arg, data.len());
        if matches!(shape.tail, Tail::Payload { .. }) {
            parts.payload = data.len();
            return (parts, data);
        }
        parts.tail = data;
        (parts, Vec::new())
    })
}

/// Makes the fields right that cannot be anything.
fn consistent(shape: &Shape, arg: &mut [u8], data: usize) {
    let mut put = |at: usize, value: u32| arg[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    match shape.tail {
        Tail::Items { count_at, unit } => put(count_at, u32::try_from(data / unit).unwrap()),
        Tail::Payload { size_at } => put(size_at, u32::try_from(data).unwrap()),
        Tail::Nothing | Tail::Extensions => {}
    }
    match shape.opcode {
        Opcode::Init => put(0, 7),
        // Padding, which the request does not keep.
        Opcode::BatchForget => put(4, 0),
        // Nanoseconds of fuse_setattr_in.
        Opcode::Setattr => {
            for at in [56, 60, 64] {
                let value = u32::from_ne_bytes(arg[at..at + 4].try_into().unwrap());
                let below = (value % 1_000_000_000).to_ne_bytes();
                arg[at..at + 4].copy_from_slice(&below);
            }
        }
        _any => {}
    }
}

fn header(opcode: Opcode) -> impl Strategy<Value = InHeader> {
    any::<[u8; 40]>().prop_map(move |bytes| {
        let any = InHeader::read_from_bytes(&bytes).unwrap();
        InHeader {
            opcode: opcode.as_raw(),
            ..any
        }
    })
}

#[test]
fn shapes_are_those_of_every_operation() {
    let mut all: Vec<Opcode> = SHAPES.iter().map(|shape| shape.opcode).collect();
    all.sort();
    assert_eq!(all, Opcode::ALL);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decode_of_any_message_gives_what_was_sent(
        (header, (sent, payload), elsewhere) in (0..SHAPES.len()).prop_flat_map(|index| {
            let shape = &SHAPES[index];
            (header(shape.opcode), sent(shape), any::<bool>())
        })
    ) {
        let message = sent.message(header, &payload);
        let sent_header = InHeader::read_from_prefix(&message).unwrap().0;
        // The data lie behind the head, or somewhere else.
        let head = match elsewhere {
            true => &message[..head_len(&sent_header, message.len())],
            false => &message[..],
        };
        let got = decode(everything(), head, message.len()).unwrap();
        prop_assert_eq!(got.header, sent_header);
        prop_assert_eq!(parts(&got.request), sent);
        if let Request::Write { data, .. } | Request::NotifyReply { data, .. } = got.request {
            prop_assert_eq!(data.of(&message).unwrap(), &payload[..]);
            prop_assert_eq!(head.len() == message.len(), data.len == 0 || !elsewhere);
        }
    }
}
