//! The FUSE protocol as typed values: FUSE 7.46, as Linux 7.3 speaks it, and the older forms down
//! to 7.31 (Linux 5.4).
//!
//! What goes where, in the order of one request:
//!
//! - a transport reads a message, or as much of it as [`request::head_len`] asks for;
//! - [`request::decode`] makes a [`Message`] of it, where it lies;
//! - the session answers with a [`Reply`], whose [`Encoded`] bytes the transport writes, or writes
//!   the data of a READ itself behind [`reply::payload_header`];
//! - a [`Notification`] goes the same way, without a request.
//!
//! Invariants: no descriptor, no I/O, no allocation; no panic whatever the bytes; no length or
//! count of a message is used before it was compared with what is there. The vocabulary is the
//! kernel's, so that fs/fuse can be read beside it: [`abi`] has its structs field by field, and
//! tests compare them with its header.
//!
//! fuser has such a layer, but private, up to 7.40, and with panics on messages that contradict
//! themselves; the crates with structs only are older still and leave decoding open.

#![forbid(unsafe_code)]

pub mod abi;
mod dialect;
mod encoded;
mod init_flags;
pub mod kernel_names;
pub mod notify;
mod opcode;
pub mod reply;
pub mod request;

pub use dialect::Dialect;
pub use encoded::{Encoded, IoSlices};
pub use init_flags::InitFlags;
pub use notify::Notification;
pub use opcode::Opcode;
pub use reply::Reply;
pub use request::{Message, Request, decode, head_len};
