//! Safe wrappers for the system calls that nix, rustix and libc leave open, one file per family.
//!
//! This is the only crate of thrufs with `unsafe`: one operation a block, each with the reason why
//! it is sound. A wrapper that one of those libraries gains is taken out here.

pub mod confine;
pub mod creds;
pub mod file_handle;
pub mod fork;
pub mod fuse_device;
pub mod fuser_backing;
pub mod guest_memory;
pub mod idmapped;
pub mod inherited;
pub mod ioctl;
pub mod lease;
pub mod malloc;
pub mod mapped_io;
pub mod mapping;
pub mod mountinfo;
pub mod peek;
pub mod range_io;
mod region;
pub mod restart;
pub mod session_buffer;
pub mod shared_buffers;
pub mod shared_words;
pub mod uring;
pub mod verity;
