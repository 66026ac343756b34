//! What the tests of a real mount share: mounts that never stay behind, other users, other
//! processes, waiting with a deadline, and skipping by name.
//!
//! A library and not a `tests/common` module, so that each test file compiles it once and the
//! suites and checks of the binary use the same mounts.

pub mod asked;
pub mod call_counts;
pub mod calls;
pub mod checks;
pub mod command;
pub mod daemon_fixture;
pub mod guest;
pub mod held_source;
pub mod idmapped;
pub mod install;
pub mod interrupt;
pub mod kernel_log;
pub mod kernel_trace;
pub mod load;
pub mod lock_holder;
pub mod mount;
pub mod mount_table;
pub mod operator;
pub mod peers;
pub mod process;
pub mod random;
pub mod request_trace;
pub mod scratch;
mod shutdown_wait;
pub mod skip;
pub mod stdout;
pub mod stuck_notification;
pub mod surviving;
pub mod syscall_trace;
pub mod threads;
pub mod trees;
pub mod user;
pub mod wait;

pub use mount::{Mount, ino, mounted, on_backing, on_daemon, on_mount, on_whole, unmounted};
pub use peers::Peer;
pub use scratch::{Backing, Layout, Scratch};
pub use skip::{Outcome, case, missing};
pub use user::User;
