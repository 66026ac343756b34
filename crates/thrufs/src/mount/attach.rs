//! Makes the mount: mount(2) as root, fusermount3 for other users.
//!
//! Both return the /dev/fuse descriptor and the mount's identity. fuser could mount as well, but
//! only as type `fuse`, and its own unmount trusts the path (see [`crate::mount::detach`]).

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, bail};
use thrufs_sys::mountinfo::MountPath;

use super::detach::OwnedMount;
use super::options::{MountOptions, fs_type};
use super::{direct, fusermount};
use crate::user;

/// What can be known to be missing before anything is done.
pub(crate) fn check_prerequisites() -> anyhow::Result<()> {
    if user::is_root() {
        direct::open_device().map(drop)
    } else {
        fusermount::find().map(drop)
    }
}

/// Mounts at `mountpoint` (absolute, without symlinks).
pub(crate) fn attach(
    mountpoint: &Path,
    options: &MountOptions,
) -> anyhow::Result<(OwnedFd, OwnedMount)> {
    let device = if user::is_root() {
        direct::mount(mountpoint, options)?
    } else {
        fusermount::mount(mountpoint, options)?
    };
    let ours = identify(mountpoint, &fs_type(&options.subtype))
        .with_context(|| format!("the mount just made at {}", mountpoint.display()))?;
    Ok((device, ours))
}

/// Which mount is ours. No thread serves it yet, so it must not be sent a request.
fn identify(mountpoint: &Path, fs_type: &str) -> anyhow::Result<OwnedMount> {
    let place = MountPath::open(mountpoint)?;
    let entry = place.entry()?;
    if entry.fs_type != fs_type {
        bail!(
            "is covered by a mount of type {} already: another program mounted there",
            entry.fs_type
        );
    }
    Ok(OwnedMount::new(mountpoint.to_owned(), &place, &entry))
}
