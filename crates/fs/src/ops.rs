//! The operations, one file per family, each a method of [`crate::Passthrough`] that returns a
//! value or an errno. None knows fuser or holds a reply.

mod admission;
mod attr;
mod create;
mod directory;
mod ioctl;
mod killpriv;
mod lock;
mod lookup;
mod namespace;
mod open;
mod range;
mod read;
mod removal;
mod rights;
mod snapshot;
mod statfs;
mod submounts;
mod write;
mod xattr;

pub use attr::{SetAttr, SetTime};
pub use create::NewNode;
pub use directory::DirEntry;
pub use namespace::DirEntryRef;
pub use open::Opened;
pub use read::ReadRequest;
pub use write::WriteRequest;
