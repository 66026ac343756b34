//! The directory with the sockets of one user's daemons.
//!
//! Invariant: it belongs to that user and no other may enter it (0700), so a socket in it was
//! made by that user, and no other can hold its lock. /run/thrufs for root;
//! $XDG_RUNTIME_DIR/thrufs for a user, and /tmp/thrufs-UID where that cannot be.
//!
//! Root of a user namespace (`unshare --map-root-user`, a rootless container) has /run/thrufs only where
//! /run is that root's, and else what the user has that it is outside: hence UID by the number outside,
//! where two users who are both root inside are apart.

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

/// Whether `path` is a directory of this process's user.
fn is_own_directory(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == uid())
}

/// Whether this is root, and /run is that root's: in a user namespace it can be the machine's.
fn has_run() -> bool {
    uid() == 0 && is_own_directory(Path::new("/run"))
}

fn own_xdg() -> Option<PathBuf> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let usable = runtime.is_absolute() && is_own_directory(&runtime);
    usable.then(|| runtime.join("thrufs"))
}

fn in_tmp(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/thrufs-{}", uid_outside(uid)))
}

/// What the parent of this user namespace calls the user; itself where there is none.
fn uid_outside(uid: u32) -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(&map, uid).unwrap_or(uid)
}

/// By lines of `FIRST-INSIDE FIRST-OUTSIDE COUNT` (user_namespaces(7)).
fn mapped(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        let mut field = || fields.next()?.ok();
        let (inside, outside, count) = (field()?, field()?, field()?);
        let at = uid.checked_sub(inside).filter(|at| *at < count)?;
        outside.checked_add(at)
    })
}

/// Where a daemon of this user puts its socket.
pub(super) fn own() -> PathBuf {
    if has_run() {
        return PathBuf::from(OF_ROOT);
    }
    own_xdg().unwrap_or_else(|| in_tmp(uid()))
}

/// Where the socket of a daemon of `owner` can be.
pub(super) fn of(owner: u32) -> Vec<PathBuf> {
    let of_root = (owner == 0).then(|| PathBuf::from(OF_ROOT));
    let mut places = Vec::from_iter(of_root);
    if owner == 0 && has_run() {
        // Any user can make the others.
        return places;
    }
    if owner == uid() {
        places.extend(own_xdg());
    }
    places.push(PathBuf::from(format!(
        "/run/user/{}/thrufs",
        uid_outside(owner)
    )));
    places.push(in_tmp(owner));
    places.dedup();
    places
}

/// Name of the socket of the mount with this device (`major:minor`), which no two mounts share
/// at a time, whatever namespaces they are in.
pub(super) fn socket_name(device: &str) -> String {
    format!("{}.sock", device.replace(':', "-"))
}

/// Ends the names of the sockets for orders.
pub(super) const CONTROL: &str = "control";

/// Name of the socket for orders of the same mount.
pub(super) fn control_name(device: &str) -> String {
    format!("{}.{CONTROL}", device.replace(':', "-"))
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
            "{shown} is not a directory that only uid {} may enter: remove it, or set \
             XDG_RUNTIME_DIR to a directory of your own",
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
    fn mapped_by_the_range_that_the_user_is_in() {
        // A rootless container: the user, and subordinate ids.
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(
            [0, 1, 999].map(|uid| mapped(map, uid)),
            [Some(1000), Some(100_000), Some(100_998)]
        );
        assert_eq!(mapped(map, 65_537), None);
        assert_eq!(mapped("0 0 4294967295\n", 1000), Some(1000));
        assert_eq!(mapped("no map", 0), None);
    }

    #[test]
    fn open_locked_of_a_symlink_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &path).unwrap();
        assert!(open_locked(&path).is_err());
    }
}
