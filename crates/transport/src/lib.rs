//! How messages come from the kernel and go to it. A transport moves bytes: it decodes nothing, answers
//! nothing, and knows no file system.
//!
//! [`dev_fuse`]: read(2) and writev(2) on /dev/fuse, which needs nothing but the descriptor of a mount.

pub mod dev_fuse;

/// Backing ids that another process registered, in replies of the crate fuser.
pub use thrufs_sys::fuser_backing;
