//! The operations, one file per family, each a method of [`crate::Passthrough`] that returns a
//! value or an errno. None knows fuser or holds a reply.

mod attr;
mod create;
mod data;
mod directory;
mod ioctl;
pub(crate) mod lock;
mod lookup;
mod namespace;
mod open;
mod privs;
mod range;
mod rights;
mod statfs;
mod write;
mod xattr;

pub use attr::{SetAttr, SetTime};
pub use create::NewNode;
pub(crate) use data::with_read_buffer;
pub use directory::DirEntry;
pub use lock::{LockKind, LockRange, LockRequest, LockWait};
pub use namespace::Place;
pub use open::Opened;
pub use write::WriteRequest;
