//! The directory with the sockets of one user's daemons.
//!
//! Invariant: it belongs to that user and nobody else may enter it (0700), so a socket in it was
//! made by that user, and nobody else can hold its lock. /run/thrufs for root;
//! $XDG_RUNTIME_DIR/thrufs for a user, and /tmp/thrufs-UID where that is not set.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const OF_ROOT: &str = "/run/thrufs";

/// This process's user.
pub(super) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn own_xdg() -> Option<PathBuf> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    runtime.is_absolute().then(|| runtime.join("thrufs"))
}

fn in_tmp(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/thrufs-{uid}"))
}

/// Where a daemon of this user puts its socket.
pub(super) fn own() -> PathBuf {
    match uid() {
        0 => PathBuf::from(OF_ROOT),
        user => own_xdg().unwrap_or_else(|| in_tmp(user)),
    }
}

/// Where the socket of a daemon of `owner` can be.
pub(super) fn of(owner: u32) -> Vec<PathBuf> {
    if owner == 0 {
        return vec![PathBuf::from(OF_ROOT)];
    }
    let mut places = Vec::new();
    if owner == uid() {
        places.extend(own_xdg());
    }
    places.push(PathBuf::from(format!("/run/user/{owner}/thrufs")));
    places.push(in_tmp(owner));
    places
}

/// Name of the socket of the mount with this device (`major:minor`), which no two mounts share
/// at a time, whatever namespaces they are in.
pub(super) fn socket_name(device: &str) -> String {
    format!("{}.sock", device.replace(':', "-"))
}

/// Makes `path` if need be, checks it, and locks it until the file is closed.
pub(super) fn open_locked(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("make {shown}"));
        }
        _ => {}
    }
    let meta = path
        .symlink_metadata()
        .with_context(|| format!("{shown}"))?;
    if !meta.is_dir() || meta.uid() != uid() || meta.mode() & 0o077 != 0 {
        bail!(
            "{shown} is not a directory that only uid {} may enter: remove it",
            uid()
        );
    }
    let directory = File::open(path).with_context(|| format!("open {shown}"))?;
    // Held for a few system calls by another daemon that starts or ends.
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive)
        .with_context(|| format!("lock {shown}"))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn open_locked_of_a_directory_that_others_may_enter_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("thrufs");
        drop(open_locked(&path).unwrap());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
        let error = open_locked(&path).unwrap_err().to_string();
        assert!(error.contains("may enter: remove it"), "{error}");
    }

    #[test]
    fn open_locked_of_a_symlink_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &path).unwrap();
        assert!(open_locked(&path).is_err());
    }
}
