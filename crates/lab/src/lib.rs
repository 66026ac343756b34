//! Build kernels, boot them, and get a verdict. Knows nothing of FUSE.
//!
//! A [`Lab`] is a directory. It fetches a kernel's source, lays a [`Series`] of patches over it, builds
//! User Mode Linux with the requested configuration and gives a [`Kernel`]; a [`Machine`] boots that on a
//! read-only view of the host's files and gives an [`Outcome`]: what the guest said about its tests, what
//! the kernel itself complained about, and whether it got to the end. [`guest`] is the other side: what
//! the first process inside does.
//!
//! Invariant: neither a build nor a guest writes anything outside of the lab's directory.
//!
//! Kernels are built as User Mode Linux and not for a hypervisor, because it is a plain program: it
//! boots in a second, needs no privilege and no image, and works wherever a compiler does. A
//! distribution's own kernel ([`Lab::distribution`]) is no program; QEMU boots that, with an
//! initramfs of programs of the host's.

mod archive;
mod boot;
mod build;
mod clean;
mod config;
mod console;
mod distribution;
mod error;
pub mod guest;
mod initramfs;
mod machine;
mod modules;
mod outcome;
mod package;
mod process;
mod progress;
mod qemu;
mod series;
mod source;

pub use build::{Kernel, Kind, Lab, Recipe};
pub use config::Fragment;
pub use error::{Error, Result};
pub use machine::{Device, Machine, Root};
pub use outcome::{End, Mark, Outcome, Report, Verdict};
pub use package::Package;
pub use series::Series;
pub use source::Source;
