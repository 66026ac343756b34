//! Serves a [`PassthroughFs`](thrufs_fs::Passthrough) to a transport: INIT, one request from its decoded
//! form to its outcome, and what the outcome asks of the kernel's cache.
//!
//! # One request
//! ```text
//! fuser/requests.rs  decodes fuser's arguments and encodes the answer: translates, decides nothing
//! dispatch.rs        counts, times, opens the span, catches panics; calls the operation in thrufs-fs
//! after_reply.rs     what a failed, short or direct WRITE, or an external change that a reply shows,
//!                    asks of the kernel's cache, and whether before or after the reply
//! ```
//! Only [`FuseAdapter`] and its private modules know fuser; another transport would be another such
//! module over the same [`dispatch::Dispatch`].
//!
//! What fuser cannot carry is listed in [`UNSUPPORTED`].

mod after_reply;
mod backing_ids;
mod dispatch;
mod fuser;
mod init;
mod lock_waiters;
mod notify;
mod panics;
mod unsupported;

pub use fuser::{FuseAdapter, send_entry, send_inval};
pub use notify::{send_epoch, send_prune};
pub use panics::{Panicked, on_session_panic};
pub use unsupported::{UNSUPPORTED, Unsupported};
