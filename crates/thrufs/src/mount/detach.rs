//! Removes the mount that this process made, and never another one.
//!
//! Invariant: a mount is detached only after it was shown to be the one that [`crate::mount::attach`] made.
//! The id of a mount and the device number of a file system are used again after an unmount. So the
//! number that is never used again decides; where the kernel has none (before Linux 6.8) the two are
//! compared while the connection is alive, since then our device number belongs to no other mount. The
//! place is held by descriptor meanwhile and unmounted through it, so whatever is mounted over the path
//! in between is not hit. fuser's own unmount takes the path, at any later time.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nix::mount::MntFlags;
use thrufs_sys::mountinfo::{self, MountEntry, MountPath};

use super::connection::is_connected;
use super::fusermount;
use crate::user;

/// The mount of this process.
#[derive(Clone, Debug)]
pub(crate) struct OwnedMount {
    mountpoint: PathBuf,
    mount_id: u64,
    /// None before Linux 6.8.
    unique_id: Option<u64>,
    device: String,
}

impl OwnedMount {
    /// The mount at `place`, which is `entry`.
    pub(crate) fn new(mountpoint: PathBuf, place: &MountPath, entry: &MountEntry) -> Self {
        Self {
            mountpoint,
            mount_id: entry.mount_id,
            unique_id: place.unique_mount_id(),
            device: entry.device.clone(),
        }
    }

    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Device of the file system, as `major:minor`.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// The number of the mount that is never used again; none before Linux 6.8.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        self.unique_id
    }

    /// Whether `place` is in this mount, by the number that is never used again.
    fn is_same(&self, place: &MountPath) -> bool {
        self.unique_id.is_some() && place.unique_mount_id() == self.unique_id
    }

    /// Whether `entry` is this mount, if it has its numbers still.
    fn is(&self, entry: &MountEntry) -> bool {
        entry.mount_id == self.mount_id && entry.device == self.device
    }

    /// Whether the mount is in the tree still, dead or alive.
    ///
    /// Before Linux 6.8 a mount that the next daemon makes at once, and that gets the same numbers, is
    /// taken for this one.
    pub(crate) fn is_there(&self) -> bool {
        let Some(entry) = self.entry() else {
            return false;
        };
        match MountPath::open(&entry.mount_point) {
            Ok(place) if place.mount_id().is_ok_and(|id| id == self.mount_id) => {
                place.unique_mount_id() == self.unique_id
            }
            // Covered by another mount.
            _ => true,
        }
    }

    /// The line of the mount table with this mount's numbers, which may be another mount's by now.
    fn entry(&self) -> Option<MountEntry> {
        let entries = mountinfo::all().ok()?;
        entries.into_iter().find(|entry| self.is(entry))
    }

    /// Whether the numbers of this mount cannot be another mount's. Nothing is opened for it: holding the
    /// place would keep what is mounted below busy, which after an unmount may be unmounted next.
    fn has_own_numbers(&self, device: &OwnedFd) -> bool {
        is_connected(device) || self.unique_id.is_some() && self.entry().is_some()
    }

    /// Takes the mount out of the tree, also if it is busy: then the users keep it until they
    /// close their files or this process ends. Does nothing if it is gone or covered already.
    ///
    /// `device` is the /dev/fuse descriptor, or a duplicate of it.
    pub(crate) fn detach(&self, device: &OwnedFd) -> anyhow::Result<Detached> {
        if !self.has_own_numbers(device) {
            return Ok(Detached::WasGone);
        }
        let Ok(place) = MountPath::open(&self.mountpoint) else {
            return Ok(Detached::WasGone);
        };
        let Ok(entry) = place.entry() else {
            return Ok(Detached::WasGone);
        };
        if !self.is(&entry) || !(is_connected(device) || self.is_same(&place)) {
            return Ok(Detached::WasGone);
        }
        if user::is_root() {
            nix::mount::umount2(&place.link(), MntFlags::MNT_DETACH)
                .map_err(|errno| anyhow!("unmount {}: {errno}", self.mountpoint.display()))?;
        } else {
            // The helper takes a path and nothing else; it refuses what is not this user's own
            // FUSE mount, so even the small gap after the check above harms no other user.
            drop(place);
            fusermount::unmount(&self.mountpoint, true)
                .with_context(|| format!("unmount {}", self.mountpoint.display()))?;
        }
        Ok(Detached::Now)
    }
}

impl OwnedMount {
    /// Ends the connection of a mount that is still in use: callers that wait for an answer get an
    /// error. Without it a daemon that ends could wait for ever for itself: a thread of its own that
    /// sends a notification may be in the kernel, uninterruptibly, until a request is answered that
    /// no thread serves any more, and holds the connection open meanwhile.
    ///
    /// Does nothing where the control file system of FUSE is not mounted.
    ///
    /// `device` as in [`OwnedMount::detach`].
    pub(crate) fn abort(&self, device: &OwnedFd) {
        let Some(("0", minor)) = self.device.split_once(':') else {
            return;
        };
        let path = format!("/sys/fs/fuse/connections/{minor}/abort");
        // Opened before the check: the file stays that of the connection that had the number then.
        let opened = std::fs::File::options().write(true).open(&path);
        if !is_connected(device) {
            return;
        }
        if let Err(error) = opened.and_then(|mut file| file.write_all(b"1")) {
            tracing::debug!("{path}: {error}");
        }
    }
}

/// What [`OwnedMount::detach`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detached {
    /// It was there, and is no longer.
    Now,
    /// It was unmounted or covered by another program.
    WasGone,
}

/// Takes exactly the mount that `place` is in out of the tree, busy or not.
pub(crate) fn detach_place(place: &MountPath, mountpoint: &Path) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    if user::is_root() {
        nix::mount::umount2(&place.link(), MntFlags::MNT_DETACH)
            .map_err(|errno| anyhow!("unmount {shown}: {errno}"))
    } else {
        fusermount::unmount(mountpoint, true)
    }
}
