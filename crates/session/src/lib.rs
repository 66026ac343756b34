//! Serves a [`PassthroughFs`](thrufs_fs::Passthrough) to a transport: INIT, one request from its decoded
//! form to its outcome, and what the outcome asks of the kernel's cache.
//!
//! # One request
//! ```text
//! requests/          decodes messages and encodes the answers: translates, decides nothing
//! fuser/             the same with fuser's arguments and replies
//! dispatch.rs        counts, times, opens the span, catches panics; calls the operation in thrufs-fs
//! after_reply.rs     what a failed, short or direct WRITE, or an external change that a reply shows,
//!                    asks of the kernel's cache, and whether before or after the reply
//! ```
//! Two transports serve over the same [`dispatch::Dispatch`]: [`DevFuseSession`] by our own loop on
//! /dev/fuse, and [`FuseAdapter`], whose private modules alone know fuser.
//!
//! What the kernel does not send, and what fuser cannot carry, is listed in contrib/doc/semantics.md, "What a mount cannot do".

mod after_reply;
mod convert;
mod dev_fuse;
mod device;
mod dispatch;
mod fuser;
mod ids;
mod init;
mod lock_waiters;
mod notify;
mod panics;
mod requests;
mod workers;

pub use dev_fuse::DevFuseSession;
pub use device::{DeviceSession, DeviceUse, DeviceView, Survival};
pub use fuser::{FuseAdapter, send_entry, send_inval};
pub use init::optional_capabilities;
pub use notify::{send_epoch, send_prune};
pub use panics::{Panicked, on_session_panic};
pub use requests::Allowed;
pub use thrufs_transport::dev_fuse::{Drain, Ended, ReaderCounts};
pub use thrufs_transport::dev_fuse::{SHARED_BUFFER_START, shared_buffer_size};
pub use thrufs_transport::vhost_user::{Damaged, Kept, REQUEST_QUEUES_MAX, Shutdown, Tag};
