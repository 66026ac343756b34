//! How messages come from the kernel and go to it. A transport moves bytes: it decodes nothing, answers
//! nothing, and knows no file system.
//!
//! [`dev_fuse`]: read(2) and writev(2) on /dev/fuse, which needs nothing but the descriptor of a mount.
//!
//! [`vhost_user`]: the queues of a virtiofs device, in the memory of a virtual machine.

pub mod dev_fuse;
pub mod vhost_user;

/// Backing ids that another process registered, in replies of the crate fuser.
pub use thrufs_sys::fuser_backing;
