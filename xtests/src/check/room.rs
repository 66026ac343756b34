//! The temporary directory of a stage: its tests make and mount everything in it, and it is removed
//! with its content.
//!
//! Invariant: nothing is removed below a mount. A test that is ended by a signal drops nothing, so
//! their mounts are looked up in the mount table.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use thrufs_sys::mountinfo;

/// The directory, which every user may enter.
pub(super) struct Room(Option<TempDir>);

impl Room {
    /// Creates it in the directory for temporary files.
    pub(super) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("xtests-check-").tempdir();
        let dir = dir.context("cannot make a directory for the tests; set TMPDIR")?;
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        Ok(Self(Some(dir)))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().expect("taken by the drop alone").path()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let (Err(error), Some(dir)) = (unmount_below(self.path()), self.0.take()) {
            eprintln!("{} is kept: {error:#}", dir.keep().display());
        }
    }
}

/// Unmounts everything below `path`, last first.
fn unmount_below(path: &Path) -> Result<()> {
    for mount in mountinfo::all()?.iter().rev() {
        let point = &mount.mount_point;
        if point.starts_with(path) {
            umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .with_context(|| format!("umount {}", point.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn room_with_mounts_in_it_is_gone_with_them_and_nothing_beside() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let room = Room::new().unwrap();
        let path = room.path().to_owned();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "").unwrap();
        for name in ["a", "a/b", "bound"] {
            std::fs::create_dir(path.join(name)).unwrap();
            let mut mount = Command::new("mount");
            match name {
                "bound" => mount.arg("--bind").arg(outside.path()),
                _ => mount.args(["-t", "tmpfs", "tmpfs"]),
            };
            assert!(mount.arg(path.join(name)).status().unwrap().success());
        }
        drop(room);
        assert!(!path.exists());
        assert!(outside.path().join("kept").exists());
    }
}
