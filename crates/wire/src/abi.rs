//! include/uapi/linux/fuse.h of Linux 7.3 (FUSE 7.46) as Rust: the same structs, fields, flags and
//! numbers under the same names.
//!
//! Every struct can be read from any bytes and has no hidden padding (zerocopy proves it), and
//! `tests/kernel_header.rs` compares sizes, offsets and values with the kernel's header. Bindgen
//! would give the same layouts without typed flags, and a header to be kept up to date beside them.
//!
//! Left out: the structs of FUSE_OVER_IO_URING, which no transport uses yet, and CUSE's.

mod file;
mod flags;
mod inode;
mod macros;
mod names;
mod session;

pub use file::*;
pub use flags::*;
pub use inode::*;
pub use macros::{Abi, Field, Layout};
pub(crate) use macros::{flags, numbers};
pub use names::*;
pub use session::*;

use macros::constants;

constants! {
    /// Major version of the protocol.
    FUSE_KERNEL_VERSION: u32 = 7;
    /// Minor version of Linux 7.3, the newest known here.
    FUSE_KERNEL_MINOR_VERSION: u32 = 46;
    /// `nodeid` of the root.
    FUSE_ROOT_ID: u64 = 1;
    /// Bytes of `fuse_setxattr_in` without FUSE_SETXATTR_EXT.
    FUSE_COMPAT_SETXATTR_IN_SIZE: usize = 8;
    /// read(2) of /dev/fuse with less is EINVAL.
    FUSE_MIN_READ_BUFFER: usize = 8192;
    /// Iovecs in and out together in a retried ioctl.
    FUSE_IOCTL_MAX_IOV: u32 = 256;
    /// Extension types up to this one are numbers of security contexts.
    FUSE_MAX_NR_SECCTX: u32 = 31;
    /// Extension type of supplementary groups.
    FUSE_EXT_GROUPS: u32 = 32;
    /// In `fuse_in_header.unique`: the request is sent again, after NOTIFY_RESEND.
    FUSE_UNIQUE_RESEND: u64 = 1 << 63;
    /// `uid` and `gid` of a request on an idmapped mount, where no mapping is known.
    FUSE_INVALID_UIDGID: u32 = u32::MAX;
    /// ioctl(2) on /dev/fuse: this descriptor reads from the connection of another.
    FUSE_DEV_IOC_CLONE: u32 = 0x8004_e500;
    /// ioctl(2) on /dev/fuse: registers a backing file ([`BackingMap`]).
    FUSE_DEV_IOC_BACKING_OPEN: u32 = 0x4010_e501;
    /// ioctl(2) on /dev/fuse: ends a backing id.
    FUSE_DEV_IOC_BACKING_CLOSE: u32 = 0x4004_e502;
    /// ioctl(2) on /dev/fuse: mount(2) waits for INIT and fails with it.
    FUSE_DEV_IOC_SYNC_INIT: u32 = 0xe503;
    /// Opcode of a character device's INIT, which no file system gets.
    CUSE_INIT: u32 = 4096;
    /// `FUSE_INIT` from a machine of the other byte order.
    FUSE_INIT_BSWAP_RESERVED: u32 = 436_207_616;
    /// `CUSE_INIT` from a machine of the other byte order.
    CUSE_INIT_BSWAP_RESERVED: u32 = 1_048_576;
}

/// Every struct, for the comparison with the kernel's header.
#[allow(unused_qualifications, reason = "each table of structs has a LAYOUTS")]
pub fn layouts() -> impl Iterator<Item = &'static Layout> {
    [
        file::LAYOUTS,
        inode::LAYOUTS,
        names::LAYOUTS,
        session::LAYOUTS,
    ]
    .into_iter()
    .flatten()
}

/// The flags and constants of this module by the kernel's name.
#[allow(unused_qualifications, reason = "each table of flags has FLAGS")]
pub(crate) fn values() -> impl Iterator<Item = &'static (&'static str, u64)> {
    [flags::FLAGS, CONSTANTS].into_iter().flatten()
}
