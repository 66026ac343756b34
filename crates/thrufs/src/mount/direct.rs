//! mount(2) by root (or in a user namespace of one's own).
//!
//! `default_permissions` is always set: the kernel checks owner, mode and ACL before a request is
//! sent, and the file system relies on it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{anyhow, bail};
use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use super::options::{Access, MountOptions, fs_type};

const DEVICE: &str = "/dev/fuse";

/// Opens /dev/fuse, or says what to do.
pub(super) fn open_device() -> anyhow::Result<OwnedFd> {
    use rustix::io::Errno;
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        match errno {
            Errno::NOENT => anyhow!(
                "{DEVICE} does not exist: load the kernel module (`modprobe fuse`); in a container, \
                 pass the device in (`--device {DEVICE}`)"
            ),
            Errno::NODEV | Errno::NXIO => {
                anyhow!("{DEVICE}: the kernel has no FUSE: load the module (`modprobe fuse`)")
            }
            Errno::ACCESS | Errno::PERM => anyhow!(
                "{DEVICE}: not permitted: in a container, pass the device in (`--device {DEVICE}`); \
                 else check its mode (should be 0666)"
            ),
            other => anyhow!("{DEVICE}: {other}"),
        }
    })
}

/// Mounts, and returns the descriptor that serves it.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> anyhow::Result<OwnedFd> {
    let device = open_device()?;
    let data = mount_data(device.as_raw_fd(), options);
    nix::mount::mount(
        Some(options.fsname.as_os_str()),
        mountpoint,
        Some(fs_type(&options.subtype).as_str()),
        options.flags,
        Some(data.as_str()),
    )
    .map_err(|errno| refused(mountpoint, errno))?;
    Ok(device)
}

fn mount_data(device: i32, options: &MountOptions) -> String {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let mut data =
        format!("fd={device},rootmode=40000,user_id={uid},group_id={gid},default_permissions");
    match options.access {
        Access::Owner => {}
        Access::OwnerAndRoot | Access::AllUsers => data.push_str(",allow_other"),
    }
    if let Some(max_read) = options.max_read {
        data.push_str(&format!(",max_read={max_read}"));
    }
    data
}

fn refused(mountpoint: &Path, errno: Errno) -> anyhow::Error {
    let shown = mountpoint.display();
    match errno {
        Errno::EPERM => anyhow!(
            "mount(2) at {shown}: not permitted, although the user is root: CAP_SYS_ADMIN is missing \
             (in a container: `--cap-add SYS_ADMIN`)"
        ),
        Errno::ENODEV => anyhow!("mount(2) at {shown}: the kernel has no FUSE (`modprobe fuse`)"),
        Errno::ENOSPC => anyhow!("mount(2) at {shown}: too many mounts (sysctl fs.mount-max)"),
        other => anyhow!("mount(2) at {shown}: {other}"),
    }
}

/// `mount -o remount`: sets the flags of the topmost mount at `mountpoint`, if it is one of ours.
pub(crate) fn remount(mountpoint: &Path, options: &MountOptions) -> anyhow::Result<()> {
    let place = thrufs_sys::mountinfo::MountPath::open(mountpoint)
        .map_err(|error| anyhow!("{}: {error}", mountpoint.display()))?;
    let entry = place.entry()?;
    let wanted = fs_type(&options.subtype);
    if entry.fs_type != wanted || place.path()? != entry.mount_point {
        bail!(
            "{} is not a mount of type {wanted}: nothing to remount",
            mountpoint.display()
        );
    }
    nix::mount::mount(
        None::<&str>,
        &place.link(),
        None::<&str>,
        options.flags,
        None::<&str>,
    )
    .map_err(|errno| match errno {
        Errno::EPERM => anyhow!("remount of {}: only root may do that", mountpoint.display()),
        other => anyhow!("remount of {}: {other}", mountpoint.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::MsFlags;

    fn options(access: Access, max_read: Option<u32>) -> MountOptions {
        MountOptions {
            flags: MsFlags::empty(),
            fsname: "name".into(),
            subtype: "thrufs".to_owned(),
            max_read,
            access,
        }
    }

    #[test]
    fn mount_data_for_everybody_lets_others_in() {
        let data = mount_data(7, &options(Access::AllUsers, Some(65536)));
        assert!(data.starts_with("fd=7,rootmode=40000,user_id="), "{data}");
        assert!(
            data.ends_with(",default_permissions,allow_other,max_read=65536"),
            "{data}"
        );
    }

    #[test]
    fn mount_data_for_owner_and_root_lets_the_kernel_pass_all() {
        // The kernel knows no allow_root; the session refuses the others.
        assert!(mount_data(7, &options(Access::OwnerAndRoot, None)).ends_with("allow_other"));
    }

    #[test]
    fn mount_data_for_owner_still_checks_permissions() {
        let data = mount_data(7, &options(Access::Owner, None));
        assert!(data.ends_with(",default_permissions"), "{data}");
    }
}
