//! SOURCE as root, in namespaces of its own or by chroot(2) alone.
//!
//! Invariant: what is held afterwards is a copy of SOURCE's mounts, in which `..` of the top is
//! itself, without a descriptor on anything that lies beside it. That copy is made by open_tree(2),
//! since a descriptor from before would still be in the tree outside, and could be left by `..`. On
//! the copy no device can be opened: the right to make device nodes, which a file server needs,
//! would else be the right to read every disk.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::{Gid, Uid};

use super::id_range::IdRange;
use super::plan::{Sandbox, SandboxPlan};

/// Users and groups of the user namespace; oneself where nothing was asked for.
fn ranges(plan: &SandboxPlan) -> (IdRange, IdRange) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (
        plan.uid_map.unwrap_or(IdRange::only(uid.as_raw())),
        plan.gid_map.unwrap_or(IdRange::only(gid.as_raw())),
    )
}

/// Leaves the namespaces of this process for fresh ones; its next child is the first process in
/// them. `ask_for_maps` has the ids of the user namespace mapped from outside, where that is needed.
pub(crate) fn enter(
    plan: &SandboxPlan,
    ask_for_maps: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC;
    if plan.has_user_namespace() {
        let (uids, gids) = ranges(plan);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        unshare(CloneFlags::CLONE_NEWUSER)?;
        if uids.is_only(uid.as_raw()) && gids.is_only(gid.as_raw()) {
            // Oneself can be mapped without privilege, though only without setgroups(2).
            write_map("/proc/self/setgroups", "deny")?;
            write_map("/proc/self/uid_map", &uids.fields().join(" "))?;
            write_map("/proc/self/gid_map", &gids.fields().join(" "))?;
        } else {
            ask_for_maps()?;
        }
    }
    unshare(spaces)
}

fn unshare(spaces: CloneFlags) -> anyhow::Result<()> {
    nix::sched::unshare(spaces).with_context(|| {
        let what = match spaces == CloneFlags::CLONE_NEWUSER {
            true => {
                "the machine forbids user namespaces (sysctl user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
            }
            false => "CAP_SYS_ADMIN is missing, or the container forbids unshare(2)",
        };
        format!("new namespaces: {what}; use --sandbox=none or allow them")
    })
}

fn write_map(path: &str, text: &str) -> anyhow::Result<()> {
    let mut file = File::options()
        .write(true)
        .open(path)
        .with_context(|| path.to_owned())?;
    // The kernel takes a map in one write(2) only.
    file.write_all(text.as_bytes())
        .with_context(|| format!("write '{text}' to {path}"))
}

/// Maps the ids of the process `pid`, which has just made a user namespace, from outside: by
/// writing, as root, or by newuidmap and newgidmap, which look into /etc/subuid and /etc/subgid.
pub(crate) fn map_ids(pid: i32, plan: &SandboxPlan) -> anyhow::Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let (uids, gids) = ranges(plan);
    for (map, helper, range) in [
        ("uid_map", "newuidmap", uids),
        ("gid_map", "newgidmap", gids),
    ] {
        let fields = range.fields();
        if is_root {
            write_map(&format!("/proc/{pid}/{map}"), &fields.join(" "))?;
            continue;
        }
        let output = Command::new(helper)
            .arg(pid.to_string())
            .args(&fields)
            .output()
            .with_context(|| {
                format!("{helper} (Debian, Ubuntu: `apt-get install uidmap`) cannot be started")
            })?;
        if !output.status.success() {
            bail!(
                "{helper} refuses {range}: {}; is the range in /etc/sub{}?",
                String::from_utf8_lossy(&output.stderr).trim(),
                &map[..3]
            );
        }
    }
    Ok(())
}

/// In a user namespace with maps: the first user and group that there are in it.
pub(super) fn become_first_user(plan: &SandboxPlan) -> anyhow::Result<()> {
    let (uids, gids) = ranges(plan);
    let (uid, gid) = (Uid::from_raw(uids.inside), Gid::from_raw(gids.inside));
    // Refused where setgroups(2) is (a map without privilege); the old groups are unmapped then.
    let _refused = rustix::thread::set_thread_groups(&[]);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .context("become the first user and group of the user namespace")
}

/// /proc/self/fd on a mount of its own, before the way to /proc is lost; none without a sandbox.
pub(super) fn take_proc_along(sandbox: Sandbox) -> anyhow::Result<Option<OwnedFd>> {
    match sandbox {
        Sandbox::None => return Ok(None),
        Sandbox::Chroot => {}
        Sandbox::Namespace => {
            // Mounts made or removed here must not propagate.
            let none = None::<&OsStr>;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
                .context("cut the mount namespace off")?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, none).context(
                "mount /proc of the pid namespace (a container with a masked /proc forbids it)",
            )?;
        }
    }
    clone_tree("/proc/self/fd", OpenTreeFlags::empty()).map(Some)
}

/// /proc of this pid namespace, with processes alone and mounted nowhere, in which each server that is started later finds
/// its own; none without a sandbox.
pub(super) fn take_processes_along(sandbox: Sandbox) -> anyhow::Result<Option<OwnedFd>> {
    match sandbox {
        Sandbox::None => return Ok(None),
        Sandbox::Chroot => bail!("--survive=always needs --sandbox=namespace or none"),
        Sandbox::Namespace => {}
    }
    let make = || {
        let proc = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&proc, "subset", "pid")?;
        rustix::mount::fsconfig_create(&proc)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&proc, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make()
        .context("make a /proc of processes (Linux 5.8)")
        .map(Some)
}

fn clone_tree(path: &str, also: OpenTreeFlags) -> anyhow::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | also;
    rustix::mount::open_tree(CWD, path, flags)
        .with_context(|| format!("copy the mount of {path} (open_tree(2), Linux 5.2)"))
}

/// A sealed copy of SOURCE, which is the current directory, with all that is mounted below it.
fn copy_source() -> anyhow::Result<OwnedFd> {
    let copy = clone_tree(".", OpenTreeFlags::AT_RECURSIVE)?;
    thrufs_sys::confine::seal_mounts(copy.as_fd())
        .context("seal the mounts of SOURCE (mount_setattr(2), Linux 5.12)")?;
    Ok(copy)
}

pub(super) fn pivot_into(outside: OwnedFd) -> anyhow::Result<OwnedFd> {
    let copy = copy_source()?;
    drop(outside);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&copy, "", CWD, ".", flags).context("mount SOURCE over itself")?;
    rustix::process::fchdir(&copy).context("change to SOURCE")?;
    drop(copy);
    // The old root lands on top of the new one, and is taken off from there.
    nix::unistd::pivot_root(".", ".").context("pivot_root(2) into SOURCE")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).context("let go of the old root")?;
    rustix::process::chdir("/").context("change to the new root")?;
    open_root()
}

/// The mount namespace that [`enter`] has made, as seen from the process that called it.
pub(crate) fn own_mounts() -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/proc/self/ns/mnt", flags, Mode::empty()).context("/proc/self/ns/mnt")
}

/// Goes into the mount namespace of a server before this one, with the mounts that its descriptors are on: on a copy of
/// its own rename(2) between an old directory and a new one would be EXDEV.
pub(super) fn join(mounts: &OwnedFd) -> anyhow::Result<OwnedFd> {
    nix::sched::setns(mounts, CloneFlags::CLONE_NEWNS)
        .context("join the mount namespace of the server before")?;
    open_root()
}

pub(super) fn chroot_into(outside: OwnedFd) -> anyhow::Result<OwnedFd> {
    let copy = copy_source()?;
    drop(outside);
    rustix::process::fchdir(&copy).context("change to SOURCE")?;
    // A detached copy is gone with its descriptor, unless it is in use: it is the root now.
    rustix::process::chroot(".").context("chroot(2) into SOURCE")?;
    let root = open_root()?;
    drop(copy);
    Ok(root)
}

/// SOURCE from inside, once it is the root.
fn open_root() -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/", flags, Mode::empty()).context("open SOURCE from inside")
}
