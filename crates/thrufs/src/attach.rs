//! Makes the mount: mount(2) as root, fusermount3 for everybody else.
//!
//! Both return the /dev/fuse descriptor and the mount's identity. fuser could mount as well, but
//! only as type `fuse`, and its own unmount trusts the path (see [`crate::teardown`]).

mod direct;
mod fusermount;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, bail};
use thrufs_sys::mountinfo::Place;

use crate::request::KernelRequest;
use crate::teardown::OurMount;

pub(crate) use direct::remount;
pub(crate) use fusermount::unmount as fusermount_unmount;

/// The type under which the mount is listed.
pub(crate) fn fs_type(subtype: &str) -> String {
    format!("fuse.{subtype}")
}

/// Whether mount(2) is used; otherwise fusermount3.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What can be known to be missing before anything is done.
pub(crate) fn check_prerequisites() -> anyhow::Result<()> {
    if is_root() {
        direct::open_device().map(drop)
    } else {
        fusermount::find().map(drop)
    }
}

/// Mounts at `mountpoint` (absolute, without symlinks).
pub(crate) fn attach(
    mountpoint: &Path,
    request: &KernelRequest,
) -> anyhow::Result<(OwnedFd, OurMount)> {
    let device = if is_root() {
        direct::mount(mountpoint, request)?
    } else {
        fusermount::mount(mountpoint, request)?
    };
    let ours = identify(mountpoint, &fs_type(&request.subtype))
        .with_context(|| format!("the mount just made at {}", mountpoint.display()))?;
    Ok((device, ours))
}

/// Which mount is ours. Nobody answers it yet, so nothing may be asked of it.
fn identify(mountpoint: &Path, fs_type: &str) -> anyhow::Result<OurMount> {
    let place = Place::open(mountpoint)?;
    let entry = place.entry()?;
    if entry.fs_type != fs_type {
        bail!(
            "is covered by a mount of type {} already: somebody else mounted there",
            entry.fs_type
        );
    }
    Ok(OurMount::new(mountpoint.to_owned(), &place, &entry))
}

/// A message with what fusermount3 wrote, in one line.
fn one_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Joins options with commas.
fn join(parts: &[OsString]) -> OsString {
    parts.join(std::ffi::OsStr::new(","))
}
