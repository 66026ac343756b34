//! Safe wrappers for the system calls that nix, rustix and libc leave open, one file per family.
//!
//! This is the only crate of thrufs with `unsafe`: one operation a block, each with the reason why
//! it is sound. A wrapper that one of those libraries gains is taken out here.

pub mod creds;
pub mod file_handle;
pub mod fork;
pub mod ioctl;
pub mod mapping;
pub mod mountinfo;
