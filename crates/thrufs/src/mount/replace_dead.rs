//! `--replace-dead`: removes the mounts that daemons which died left at MOUNTPOINT.
//!
//! Invariant: what is unmounted is of our type, is mounted exactly there, and its connection is gone: every
//! request to it fails with ENOTCONN. A mount that is served, busy or slow, and what others mounted
//! there, stays. The place is held by descriptor from the check to the unmount.

use std::path::Path;

use anyhow::{Context, anyhow};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use thrufs_sys::mountinfo::MountPath;

use super::detach::detach_place;
use super::options::fs_type;

/// More mounts on top of each other than a restarting daemon leaves.
const STACKED_MAX: usize = 64;

/// Does nothing where no dead mount is.
pub(crate) fn run(mountpoint: &Path, subtype: &str) -> anyhow::Result<()> {
    for _ in 0..STACKED_MAX {
        let Some(place) = dead(mountpoint, &fs_type(subtype))? else {
            return Ok(());
        };
        detach_place(&place, mountpoint)?;
    }
    Err(anyhow!(
        "--replace-dead: more than {STACKED_MAX} dead mounts at {0}: `umount -l {0}` until it is free",
        mountpoint.display()
    ))
}

fn dead(mountpoint: &Path, fs_type: &str) -> anyhow::Result<Option<MountPath>> {
    let shown = mountpoint.display();
    // One that cannot be opened is left to the checks of every mount, which say why.
    let Ok(place) = MountPath::open(mountpoint) else {
        return Ok(None);
    };
    let entry = place
        .entry()
        .with_context(|| format!("MOUNTPOINT {shown}"))?;
    if entry.fs_type != fs_type || place.path()? != entry.mount_point {
        return Ok(None);
    }
    // Past the cache: attributes may outlive their daemon. A live daemon answers, or blocks this call as any
    // other.
    let flags = AtFlags::STATX_FORCE_SYNC;
    match statx(CWD, place.link(), flags, StatxFlags::BASIC_STATS) {
        Err(Errno::NOTCONN) => Ok(Some(place)),
        _served => Ok(None),
    }
}
