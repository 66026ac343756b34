//! A directory served through FUSE, write-through: a WRITE is answered when its bytes are in the
//! backing file.
//!
//! # One WRITE, top to bottom
//! ```text
//! kernel      fuse_perform_write > fuse_send_write_pages
//! ----------------------------------------------------------- /dev/fuse
//! fuser       session thread reads and decodes
//! fuse.rs     FuseAdapter: the only module that sees fuser's requests and replies
//! ops/        write.rs: finds the handle, decides where the bytes go
//! write_batch.rs  joins WRITEs that wait on the same inode
//! backing.rs  trait Backing: the seam where tests inject faults
//! rustix      pwritev2(2), until all is written
//! ```
//! Calls go down, values come back: no operation holds a reply, so a second transport is another
//! adapter beside `fuse.rs`.
//!
//! # What holds what
//! * [`Passthrough`] owns an inode table and a handle table.
//! * The inode table has an inode exactly as long as the kernel holds it (`nlookup`). An inode is
//!   held by a file handle (name_to_handle_at(2)) or an O_PATH descriptor, never by a path. One that
//!   is held by handle gets a descriptor for a moment when it is looked up (`recent_fds.rs`), and
//!   before its last name is removed through the mount one for as long as it is known (`removed.rs`).
//! * The handle table has the open files and directories, by the number given to the kernel.
//! * Every access goes through such a descriptor and at most one checked name (`component` in
//!   `passthrough.rs`), never through a path: nothing outside SOURCE can be reached.
//!
//! # Who checks what
//! The kernel checks permissions (mounts of thrufs always have `default_permissions`), applies
//! ACLs when FUSE_POSIX_ACL is on, and leaves it to the daemon when set-uid bits go
//! (`ops/privs.rs`). The daemon makes new files belong to the caller, with its umask
//! (`ops/create.rs`).
//!
//! # Locks in the daemon
//! All are leaf locks: none is held across a system call that may wait for the client kernel, and
//! none is taken while another is held. The one exception is a directory handle's position, held
//! across getdents64(2) and the look-ups of READDIRPLUS.
//!
//! What fuser cannot carry is listed in [`UNSUPPORTED`].

mod attr;
mod backing;
mod backing_ids;
mod caller;
mod config;
mod convert;
mod create_retry;
mod crossing;
mod error;
mod fault;
mod foreign;
mod forget_wait;
mod fuse;
mod handle_table;
mod id_map;
mod init;
mod inode;
mod inode_pressure;
mod inode_table;
mod inval;
mod lock_wait;
mod mount_fd;
mod notify;
mod ops;
mod panics;
mod passthrough;
mod proc;
mod recent_fds;
mod removed;
mod room;
mod stats;
mod submounts;
mod unsupported;
mod watch;
mod write_batch;
mod xattr_map;

pub use attr::{Attr, FileKind};
pub use backing::{Backing, HostBacking, Position, Span};
pub use caller::{CallerStatus, read_status, read_system_call};
pub use config::{
    CachePolicy, Config, Durability, InodeFileHandles, KernelPassthrough, LONG_TIMEOUT, Locks,
    PosixAcl, Timeouts, WriteJoining,
};
pub use crossing::{Covered, IsThrufs, OwnMount};
pub use error::{Errno, Result};
pub use fault::{Fault, FaultError, FaultyBacking};
pub use foreign::Foreign;
pub use fuse::{FuseAdapter, send_entry, send_inval};
pub use id_map::{IdMap, IdMapError, IdMaps, IdRule, Shift};
pub use init::Negotiated;
pub use inode::ROOT_INO;
pub use inval::SendInval;
pub use notify::{SendEpoch, SendPrune, send_epoch, send_prune};
pub use ops::{
    DirEntry, LockKind, LockRange, LockRequest, LockWait, NewNode, Opened, Place, SetAttr, SetTime,
    WriteRequest,
};
pub use panics::{Panicked, on_session_panic};
pub use passthrough::{Caller, Entry, Passthrough};
pub use proc::{Callers, HeldProc};
pub use stats::{Bucket, Histogram, Opcode, OpcodeCounts, Process, Snapshot, Stats, Writes};
pub use submounts::LetGo;
pub use unsupported::{UNSUPPORTED, Unsupported};
pub use watch::{Notify, SendEntry, Watch, Watching};
pub use xattr_map::{ClientName, XattrMap, XattrMapError};
