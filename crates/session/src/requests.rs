//! Requests in the form of the wire, whatever transport they come by: each decoded message to its operation,
//! and the answer to where the message came from.
//!
//! Invariant: every request is answered exactly once ([`reply::Reply`]), also when an operation panics
//! (EIO), and what an answer that the client refused gave out (a lookup, a handle, a lock) is taken back.

mod allowed;
mod attributes;
mod capabilities;
mod convert;
mod data;
mod directories;
mod dying;
mod extensions;
mod forgets;
mod handles;
mod incoming;
mod interrupts;
mod locks;
mod names;
mod reply;
mod responder;
mod running;
mod server;

pub use allowed::Allowed;
pub(crate) use capabilities::Capabilities;
pub(crate) use incoming::{Chain, Incoming};
pub(crate) use responder::Responder;
pub(crate) use server::{Server, caught_or_logged};
