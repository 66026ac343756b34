//! The operations, one file per family, each a method of [`crate::Passthrough`] that returns a
//! value or an errno. None knows fuser or holds a reply.
//!
//! # System calls of each
//!
//! Without those on /dev/fuse, for root, with the inode held by a descriptor and `--cache=auto`. A new inode that
//! is held by a file handle takes one more (name_to_handle_at). Counted by `xtests/tests/system_calls.rs`, which
//! fails when one comes back.
//!
//! | operation | before | now | calls, and why not fewer |
//! |---|---|---|---|
//! | LOOKUP, new inode | 2 | 2 | openat2, statx: what is looked at is what is held |
//! | LOOKUP, known inode | 3 | 1 | statx (`known.rs`); 3, or 4 by handle, where that cannot tell (`name_hints.rs`) |
//! | LOOKUP, no such name | 1 | 1 | openat2 |
//! | READDIRPLUS, each new inode | 2 | 2 | as LOOKUP |
//! | READDIRPLUS, each known inode | 3 | 1 | statx |
//! | GETATTR | 1 | 1 | statx |
//! | SETATTR, mode or times | 2 + 1 question | 2 | one change, and one statx for the reply |
//! | SETATTR, owner | 3 + 2 questions | 3 | the statx before it shows whose the file is, which decides whether a user may, and the group that a set-gid bit goes by |
//! | SETATTR, size | 2 to 4 + 1 question | 3 to 5 | a statx before it, since set-uid must go before the bytes change; by name the file is opened, so that what is checked is what is cut |
//! | CREATE | 7 | 3 | openat, openat (O_PATH, which holds the inode longer than the handle), statx |
//! | OPEN | 2 | 2 | the statx is what later changes under SOURCE are told by; 1 with another `--cache` |
//! | OPEN by a user | 3 | 2 | the same statx shows whether the mode still lets the user (`rights.rs`) |
//! | RELEASE | 1 | 1 | close |
//! | MKDIR, MKNOD, SYMLINK | 6 | 3 | mkdirat, openat2, statx |
//! | UNLINK, RMDIR, RENAME | 2 | 2 | the statx before it shows whether the last name of a known inode goes (`removal.rs`) |
//! | UNLINK by a user | 3 | 3 | one more statx: a sticky directory is for owners |
//! | CREATE by a user | 15 | 8 | setfsgid, setfsuid and capset, and two back (`thrufs_sys::creds`) |
//! | SETATTR of the mode by a user | 11 + 1 question | 7 | the same |
//!
//! Without kernel passthrough, too. A file that is passed through takes at CREATE, and at a first OPEN, a message
//! to the supervisor and its answer, and fstatfs where space was not ample 50 ms before; at the last RELEASE fstat
//! (has it a name still). It needs no READ, WRITE and, on a SOURCE of this machine, no FLUSH.
//!
//! A question is a message to the supervisor about the caller, and the wait for its answer: asked now only about
//! a file that has a set-uid or set-gid bit (`killpriv.rs`). While a file is open, its first change in a tick of
//! the clock costs a statx more (`coherence/external.rs`).

mod admission;
mod attr;
mod by_nodeid;
mod counted;
mod create;
mod directory;
mod guest;
mod identify;
mod ioctl;
mod killpriv;
mod known;
mod label;
mod listing;
mod lock;
mod lookup;
mod namespace;
mod once;
mod open;
mod pass_through;
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
pub use counted::{CountedEntry, CountedLookup};
pub use create::NewNode;
pub use directory::DirEntry;
pub use label::Label;
pub use namespace::DirEntryRef;
pub use open::Opened;
pub use read::ReadRequest;
pub use removal::Gone;
pub use write::WriteRequest;
pub use xattr::SetXattr;
