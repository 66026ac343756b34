//! What the kernel is told of a mount: the options of mount(2), and of fusermount3.

use std::ffi::OsString;

use nix::mount::MsFlags;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The user who mounts.
    Owner,
    /// That user and root (`allow_root`); the kernel admits all users, the session refuses the others.
    OwnerAndRoot,
    /// All users (`allow_other`).
    AllUsers,
}

/// What the kernel is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountOptions {
    pub(crate) flags: MsFlags,
    pub(crate) fsname: OsString,
    pub(crate) subtype: String,
    pub(crate) max_read: Option<u32>,
    pub(crate) access: Access,
}

/// `--subtype` where none is given.
pub(crate) const DEFAULT_SUBTYPE: &str = env!("CARGO_PKG_NAME");

/// The type under which the mount is listed.
pub(crate) fn fs_type(subtype: &str) -> String {
    format!("fuse.{subtype}")
}
