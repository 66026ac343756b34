//! SOURCE and MOUNTPOINT, opened once and checked before anything is changed.
//!
//! Invariant: SOURCE is held by descriptor from here on, so that it stays what was checked even if
//! the mount covers it (MOUNTPOINT may be SOURCE itself, or below it, or above it).

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, makedev};
use rustix::io::Errno;
use thrufs_sys::mountinfo::MountPath;

/// File systems whose regular files are the kernel's: to write to one is to change something else.
const KERNELS_OWN: [&str; 17] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// What a mount needs of the file systems that are there.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// SOURCE, as O_PATH.
    pub(crate) source: OwnedFd,
    /// MOUNTPOINT, absolute and without symlinks.
    pub(crate) mountpoint: PathBuf,
}

impl Endpoints {
    /// Opens and checks both.
    pub(crate) fn open(source: &Path, mountpoint: &Path) -> anyhow::Result<Self> {
        let source = open_directory("SOURCE", source)?;
        check_not_dead(mountpoint)?;
        drop(open_directory("MOUNTPOINT", mountpoint)?);
        let place = MountPath::open(mountpoint)
            .with_context(|| format!("MOUNTPOINT {}", mountpoint.display()))?;
        let mountpoint = place
            .path()
            .with_context(|| format!("where MOUNTPOINT {} is", mountpoint.display()))?;
        Ok(Self { source, mountpoint })
    }

    /// SOURCE, absolute: what was typed may be relative to a directory that the daemon has left.
    pub(crate) fn source_path(&self) -> PathBuf {
        path_of(&self.source)
    }
}

impl Endpoints {
    /// MOUNTPOINT from SOURCE, if it lies below. Where it is known by another path, by a bind mount say, it
    /// is taken for one that does not.
    pub(crate) fn mountpoint_below_source(&self) -> Option<PathBuf> {
        let below = self.mountpoint.strip_prefix(self.source_path()).ok()?;
        let is_source = below.as_os_str().is_empty();
        (!is_source).then(|| below.to_owned())
    }

    /// Whether a sandbox, whose mounts are copies, sees what is unmounted at or below SOURCE, and can keep
    /// it from being unmounted. What cannot be known is taken for that.
    pub(crate) fn tell_of_mounts(&self) -> bool {
        let Ok(mounts) = thrufs_sys::mountinfo::all() else {
            return true;
        };
        let (source, own) = (
            self.source_path(),
            thrufs_sys::mountinfo::mount_id(&self.source),
        );
        mounts
            .iter()
            .filter(|mount| {
                mount.mount_point.starts_with(&source)
                    || own.as_ref().is_ok_and(|id| *id == mount.mount_id)
            })
            .any(|mount| mount.is_shared)
    }

    /// The devices of SOURCE and of what is mounted below it, apart from the kernel's own file systems, whose
    /// files do things.
    ///
    /// # Errors
    /// SOURCE cannot be looked at.
    pub(crate) fn devices(&self) -> std::io::Result<HashSet<u64>> {
        let own = rustix::fs::fstat(&self.source)?.st_dev;
        let source = self.source_path();
        let mounts = thrufs_sys::mountinfo::all().unwrap_or_default();
        let below = mounts.iter().filter(|mount| {
            source.is_absolute()
                && mount.mount_point.starts_with(&source)
                && !KERNELS_OWN.contains(&mount.fs_type.as_str())
        });
        let below = below.filter_map(|mount| device_number(&mount.device));
        Ok(below.chain([own]).collect())
    }

    /// See [`is_whole`].
    pub(crate) fn are_whole(&self) -> bool {
        is_whole(&self.source)
    }
}

/// Where a directory is now.
pub(crate) fn path_of(directory: &OwnedFd) -> PathBuf {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::read_link(link).unwrap_or_default()
}

/// Whether SOURCE and what is mounted below it are whole file systems, so that no file handle can name a
/// file beside them. What cannot be known is taken for a part.
pub(crate) fn is_whole(source: &OwnedFd) -> bool {
    let Ok(mounts) = thrufs_sys::mountinfo::all() else {
        return false;
    };
    let path = path_of(source);
    let Ok(id) = thrufs_sys::mountinfo::mount_id(source) else {
        return false;
    };
    let top = mounts.iter().find(|mount| mount.mount_id == id);
    top.is_some_and(|top| top.mount_point == path)
        && mounts
            .iter()
            .filter(|mount| mount.mount_point.starts_with(&path))
            .all(|mount| mount.root == Path::new("/"))
}

/// The number of a device, from `major:minor`.
pub(crate) fn device_number(device: &str) -> Option<u64> {
    let (major, minor) = device.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A mount point whose daemon died answers everything with ENOTCONN, which names no remedy.
fn check_not_dead(mountpoint: &Path) -> anyhow::Result<()> {
    // Attributes that the kernel still has cached would hide it for their lifetime.
    let flags = AtFlags::STATX_FORCE_SYNC;
    match rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::BASIC_STATS) {
        Err(Errno::NOTCONN) => bail!(
            "MOUNTPOINT {0} is a FUSE mount whose daemon is gone: run `thrufs umount {0}` \
             (or `umount -l {0}`) first, or mount with --replace-dead",
            mountpoint.display()
        ),
        _ => Ok(()),
    }
}

/// `path`, which errors call `role`, as O_PATH.
pub(crate) fn open_directory(role: &str, path: &Path) -> anyhow::Result<OwnedFd> {
    let (fd, kind) = open_any(role, path)?;
    if kind != FileType::Directory {
        let shown = path.display();
        bail!("{role} {shown} is not a directory, and only directories can be served or covered");
    }
    Ok(fd)
}

/// The same of whatever there is, with its type.
pub(crate) fn open_any(role: &str, path: &Path) -> anyhow::Result<(OwnedFd, FileType)> {
    let shown = path.display();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => anyhow!("{role} {shown} does not exist: create it, or correct the path"),
        Errno::ACCESS => anyhow!(
            "{role} {shown}: no permission to reach it (a directory above it is closed to you)"
        ),
        Errno::NOTDIR => anyhow!("{role} {shown}: something on the way is not a directory"),
        Errno::LOOP => anyhow!("{role} {shown}: too many symbolic links"),
        other => anyhow!("{role} {shown}: {other}"),
    })?;
    let stat = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH)
        .with_context(|| format!("{role} {shown}"))?;
    Ok((fd, FileType::from_raw_mode(stat.st_mode)))
}
