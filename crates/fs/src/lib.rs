//! A directory served through FUSE, write-through: a WRITE is answered when its bytes are in the
//! backing file.
//!
//! # One WRITE, top to bottom
//! ```text
//! thrufs-session  dispatch: counts, times, catches panics; calls the operation
//! ops/            write.rs: finds the handle, decides where the bytes go
//! write_batch.rs  joins WRITEs that wait on the same inode
//! backing.rs      trait Backing: the seam where tests inject faults
//! rustix          pwritev2(2), until all is written
//! ```
//! Calls go down, values come back: no operation holds a reply or knows a transport.
//!
//! # What holds what
//! * [`Passthrough`] owns an inode table and a handle table.
//! * The inode table has an inode exactly as long as the kernel holds it (`nlookup`). An inode is
//!   held by a file handle (name_to_handle_at(2)) or an O_PATH descriptor, never by a path. One that
//!   is held by handle gets a descriptor for a moment when it is looked up (`recent_fds.rs`), and
//!   before its last name is removed through the mount one for as long as it is known (`removed.rs`).
//! * The handle table has the open files and directories, by the number given to the kernel.
//! * Every access goes through such a descriptor and at most one checked name (`component` in
//!   `resolve.rs`), never through a path: nothing outside SOURCE can be reached.
//!
//! # Who checks what
//! The kernel checks permissions (mounts of thrufs always have `default_permissions`), applies
//! ACLs when FUSE_POSIX_ACL is on, and leaves it to the daemon when set-uid bits go
//! (`ops/killpriv.rs`). The daemon makes new files belong to the caller, with its umask
//! (`ops/create.rs`), and checks again what the kernel may have checked by what it had cached, or by
//! another file that had the name (`ops/rights.rs`, `create_retry.rs`).
//!
//! # Locks in the daemon
//! All are leaf locks: none is held across a system call that may wait for the client kernel, and
//! none is taken while another is held. The exceptions are a directory handle's position, held
//! across getdents64(2) and the look-ups of READDIRPLUS, and how an inode's handles are served, held while the
//! supervisor registers the file (`handle_sort.rs`), which waits for no request.

mod aside;
mod attr;
mod backing;
mod backing_ids;
mod buffer;
mod caller;
mod coherence;
mod config;
mod create_retry;
mod crossing;
mod error;
mod far_cookies;
mod fault;
mod fd_limit;
mod forget_wait;
mod forgotten;
mod handle_sort;
mod handle_table;
mod host_locks;
mod inode;
mod journal;
mod labels;
mod ledger;
mod listings;
mod name_hints;
mod negotiated;
mod new_files;
mod notifier;
mod ops;
mod parked;
mod passthrough;
mod recent_fds;
mod removed;
mod resolve;
mod stats;
mod submounts;
mod survival;
mod translate;
mod waits;
mod write_batch;

pub use attr::Attr;
pub use backing::{AtOnce, Backing, HostBacking, NamedCall, Position, Span};
pub use backing_ids::{PassedThrough, Reason};
pub use caller::inspect::{is_dying, is_interrupted, read_status, read_system_call};
pub use caller::proc::{HeldProc, hold_own_proc, max_pages_limit};
pub use caller::{Caller, CallerStatus, Callers, IdRanges};
pub use coherence::external::ExternalChange;
pub use coherence::fanotify::{Notify, Watch, Watching};
pub use config::{
    CachePolicy, Config, Durability, InodeFileHandles, KernelPassthrough, LONG_TIMEOUT, Locks,
    PosixAcl, SecurityLabel, Timeouts, WriteJoining,
};
pub use crossing::{Covered, IsThrufs, OwnMount};
pub use error::{Errno, Result};
pub use fault::{Fault, FaultError, FaultyBacking};
pub use handle_sort::{InUse, RegisterBacking};
pub use host_locks::{LockKind, LockRange, LockRequest, LockWait};
pub use inode::ROOT_INO;
pub use inode::identity::FileKind;
pub use journal::Noted;
pub use ledger::take_in::Ahead;
pub use ledger::{Damaged, ForgetPlace, Ledger, Turn};
pub use negotiated::Negotiated;
pub use notifier::{SendEntry, SendEpoch, SendInval, SendPrune};
pub use ops::{
    CountedEntry, CountedLookup, DirEntry, DirEntryRef, Gone, Label, NewNode, Opened, ReadRequest,
    SetAttr, SetTime, SetXattr, WriteRequest,
};
pub use passthrough::{Entry, Passthrough};
pub use stats::{
    Bucket, CallerCounts, Histogram, Opcode, OpcodeCounts, Process, Snapshot, Stats, Writes,
};
pub use submounts::LetGo;
pub use survival::Life;
pub use translate::ids::{IdMap, IdMapError, IdMaps, IdRule, Shift};
pub use translate::xattrs::{ClientName, XattrMap, XattrMapError};
