//! What is at MOUNTPOINT before the mount.
//!
//! Invariant: a FUSE mount is not covered by accident, which `thrufs umount` or fusermount3 would bring to
//! light again later: a second mount at one place is an error unless `--nonempty` asks for it. That name is
//! what libfuse 2, and sshfs, bindfs and mergerfs after it, call the option with which a FUSE mount may
//! cover something; mount(8) has no name for it. Other mounts may be covered: a disk, a volume of a
//! container, what systemd's automount put there.

use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{fstat, stat};
use thrufs_sys::mountinfo::{MountEntry, MountPath};

use super::options::fs_type;
use super::paths::Endpoints;
use crate::stderr::warn;

/// Refuses a second FUSE mount, and warns of files that the mount will hide.
pub(crate) fn check(endpoints: &Endpoints, subtype: &str) -> anyhow::Result<()> {
    let mountpoint = &endpoints.mountpoint;
    let shown = mountpoint.display();
    let place = MountPath::open(mountpoint).with_context(|| format!("MOUNTPOINT {shown}"))?;
    let entry = place
        .entry()
        .with_context(|| format!("MOUNTPOINT {shown}"))?;
    if is_fuse(&entry) && entry.mount_point == *mountpoint {
        let umount = match entry.fs_type == fs_type(subtype) {
            true => "thrufs umount",
            false => "umount",
        };
        bail!(
            "MOUNTPOINT {shown} is mounted already: {} of type {} is there; run `{umount} {shown}` \
             first, or mount over it with --nonempty",
            entry.source.display(),
            entry.fs_type
        );
    }
    // To look into an automount is to wait for the mount that is being made.
    let is_looked_into = entry.fs_type != "autofs" && !is_source(endpoints, mountpoint);
    if is_looked_into && has_entries(mountpoint) {
        warn(&format!(
            "MOUNTPOINT {shown} is not empty: its files are hidden while it is mounted (--nonempty \
             leaves this warning out)"
        ));
    }
    Ok(())
}

fn is_fuse(entry: &MountEntry) -> bool {
    entry.fs_type == "fuse" || entry.fs_type.starts_with("fuse.")
}

/// A directory that is mounted over itself hides nothing.
fn is_source(endpoints: &Endpoints, mountpoint: &Path) -> bool {
    match (fstat(&endpoints.source), stat(mountpoint)) {
        (Ok(source), Ok(target)) => {
            (source.st_dev, source.st_ino) == (target.st_dev, target.st_ino)
        }
        _ => false,
    }
}

/// False as well where it cannot be known, for lack of permission.
fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}
