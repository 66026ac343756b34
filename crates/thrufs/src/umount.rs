//! `thrufs umount`: unmounts what thrufs mounted, also when its daemon is dead.
//!
//! Invariant: only a mount of type fuse.thrufs is ever unmounted here, and no request is sent to it
//! (a dead daemon would answer with an error, a hung one never).

mod busy;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use nix::errno::Errno;
use nix::mount::MntFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use thrufs_sys::mountinfo::MountPath;

use crate::mount::detach::detach_place;
use crate::mount::fusermount;
use crate::mount::options::{DEFAULT_SUBTYPE, fs_type};
use crate::status;
use crate::user;

/// How long the daemon may take to end once its mount is gone.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// What `thrufs umount` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Take it out of the tree now, although files in it are open
    #[arg(short = 'l', long)]
    lazy: bool,
}

/// Unmounts the topmost mount at MOUNTPOINT.
pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<()> {
    let shown = args.mountpoint.display();
    let place = MountPath::open(&args.mountpoint).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("{shown} does not exist"),
        _ => anyhow!("{shown}: {error}"),
    })?;
    let entry = place.entry().with_context(|| format!("{shown}"))?;
    if place.path()? != entry.mount_point {
        bail!(
            "{shown} is not a mount point (it lies in the {} mount at {})",
            entry.fs_type,
            entry.mount_point.display()
        );
    }
    let wanted = fs_type(DEFAULT_SUBTYPE);
    if entry.fs_type != wanted {
        bail!(
            "{shown} is a mount of type {}, not {wanted}: use umount(8)",
            entry.fs_type
        );
    }
    if args.lazy {
        return detach_place(&place, &entry.mount_point);
    }
    // A held place keeps the mount busy.
    drop(place);
    let daemon = status::daemon_of(&entry);
    unmount(&entry.mount_point, entry.mount_id)?;
    if let Some(daemon) = daemon {
        wait_for_end(&daemon);
    }
    Ok(())
}

/// The daemon holds SOURCE, which may be what is unmounted next. One that serves the mount still in another
/// mount namespace does not end.
fn wait_for_end(daemon: &OwnedFd) {
    let mut ended = [PollFd::new(daemon, PollFlags::IN)];
    // However it ends, the mount is gone.
    let _waited = rustix::event::poll(&mut ended, Some(&PATIENCE));
}

fn unmount(mountpoint: &Path, mount_id: u64) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    let refused = if user::is_root() {
        match nix::mount::umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) => None,
            Err(errno) => Some(anyhow!("unmount {shown}: {errno}")),
        }
    } else {
        match fusermount::unmount(mountpoint, false) {
            Ok(()) => return Ok(()),
            Err(error) if error.to_string().contains("busy") => None,
            Err(error) => Some(error),
        }
    };
    Err(refused.unwrap_or_else(|| {
        let users = busy::users(mount_id, mountpoint);
        anyhow!("{shown} is busy: {users}; end them, or use `thrufs umount --lazy {shown}`")
    }))
}
