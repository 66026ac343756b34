//! The notifications that the file system asks its transport to send, as functions that the session
//! hands in: so nothing here knows the protocol.
//!
//! Invariant: each is called from a thread that serves no request and holds no lock of ours, since the
//! kernel waits in them for folio locks and directory locks that requests under way may hold.

use std::ffi::OsStr;
use std::io;

/// Sends NOTIFY_INVAL_INODE(ino, offset, len); `len` 0 means to the end of the file. An inode that
/// the kernel no longer has is no error.
pub type SendInval = Box<dyn Fn(u64, i64, i64) -> io::Result<()> + Send>;
/// Sends NOTIFY_INVAL_ENTRY(parent, name). A name that the kernel does not know is no error.
pub type SendEntry = Box<dyn Fn(u64, &OsStr) -> io::Result<()> + Send>;
/// Sends NOTIFY_INC_EPOCH: no name that the kernel has cached is used without asking again.
pub type SendEpoch = Box<dyn Fn() -> io::Result<()> + Send>;
/// Sends NOTIFY_PRUNE: the kernel forgets those of these inodes that are not in use.
pub type SendPrune = Box<dyn Fn(&[u64]) -> io::Result<()> + Send>;
