//! Options that exclude each other, or that the user who mounts cannot have.

use thrufs_fs::{Durability, InodeFileHandles, KernelPassthrough, Locks};

use super::kernel_passthrough;
use crate::options::files::FileOptions;
use crate::options::kernel::KernelOptions;
use crate::options::process::{ProcessOptions, Survive, Transport};
use crate::sandbox::plan::SandboxPlan;

/// How the daemon runs.
pub(super) fn check_process(
    process: &ProcessOptions,
    (mount, files): (&KernelOptions, &FileOptions),
    is_root: bool,
) -> Result<(), String> {
    if process.clone_fd && process.transport == Transport::Device {
        return Err(
            "--clone-fd is for --transport=fuser: --transport=device needs one descriptor, leave \
             --clone-fd out"
                .to_owned(),
        );
    }
    if mount.idmap && process.transport == Transport::Fuser {
        return Err("--idmap needs --transport=device: add it, or leave --idmap out".to_owned());
    }
    if mount.read_ahead.is_some() && !is_root {
        return Err(
            "--read-ahead needs root: leave it out, or have root write to read_ahead_kb in \
             /sys/class/bdi"
                .to_owned(),
        );
    }
    // fuser's INIT has no timeout: a sysctl is changed while it mounts.
    if files.request_timeout.is_some() && process.transport == Transport::Fuser && !is_root {
        return Err(
            "--request-timeout needs root or --transport=device: leave it out, or have root set \
             fs.fuse.default_request_timeout"
                .to_owned(),
        );
    }
    Ok(())
}

/// What a server cannot leave to the next one yet.
pub(super) fn check_survival(
    process: &ProcessOptions,
    files: &FileOptions,
    sandbox: &SandboxPlan,
) -> Result<(), String> {
    if process.survive == Survive::Never {
        return Ok(());
    }
    if process.transport != Transport::Device {
        return Err(
            "--survive=always and --transport=fuser exclude each other: say --transport=device"
                .to_owned(),
        );
    }
    check_surviving(files, sandbox)
}

/// What no server can leave to the next one, of a mount or of a device.
pub(crate) fn check_surviving(files: &FileOptions, sandbox: &SandboxPlan) -> Result<(), String> {
    let is_by_handle = files
        .inode_file_handles
        .is_some_and(|handles| handles != InodeFileHandles::Never);
    let refused = [
        (files.watch, "--watch", "leave it out"),
        (
            is_by_handle,
            "--inode-file-handles",
            "leave it out: inodes are held by descriptors then",
        ),
        (
            sandbox.has_user_namespace(),
            "a user namespace",
            "run it as root, without --uid-map and --gid-map",
        ),
        (
            !sandbox.splits(),
            "--sandbox=none with --seccomp=none",
            "leave one of them out, since another process has to start the next",
        ),
    ];
    match refused.iter().find(|(is, _, _)| *is) {
        Some((_, option, remedy)) => Err(format!(
            "--survive=always and {option} exclude each other: {remedy}"
        )),
        None => Ok(()),
    }
}

/// The ways to serve data that exclude each other, and what they need.
pub(crate) fn check(files: &FileOptions, is_root: bool) -> Result<(), String> {
    if files.writeback && files.cache.is_direct() {
        return Err("--writeback needs a cache: use --cache=auto or --cache=always".to_owned());
    }
    if files.durability == Durability::Dsync && files.writeback {
        return Err(
            "--durability=dsync and --writeback exclude each other, since with the writeback \
             cache write(2) returns before there is a WRITE: leave one out"
                .to_owned(),
        );
    }
    if files.passthrough == Some(KernelPassthrough::Always)
        && let Some(reason) = kernel_passthrough::why_not(files, is_root)
    {
        return Err(format!(
            "--passthrough=always cannot be: {reason}; use --passthrough=auto, or leave that out"
        ));
    }
    check_watch(files, is_root)?;
    if files.raise_max_pages_limit && !is_root {
        return Err(
            "--raise-max-pages-limit needs root: leave it out, or have root set \
             fs.fuse.max_pages_limit"
                .to_owned(),
        );
    }
    if files.request_timeout.is_some() && files.locks == Locks::Host {
        return Err(
            "--request-timeout and --locks=host exclude each other, since a caller that waits for a \
             lock that long would end the mount: use --locks=local"
                .to_owned(),
        );
    }
    Ok(())
}

/// Where what others change can be told from what the mount's own users do, and be shown.
fn check_watch(files: &FileOptions, is_root: bool) -> Result<(), String> {
    if !files.watch {
        return Ok(());
    }
    if !is_root {
        return Err("--watch needs root: use --cache=auto or --cache=never".to_owned());
    }
    if files.writeback {
        return Err(
            "--watch and --writeback exclude each other, since with the writeback cache the kernel \
             believes its own sizes and times: leave one out"
                .to_owned(),
        );
    }
    Ok(())
}
