//! A virtiofs device: from a [`DevicePlan`] to a socket that is served, and to its end.
//!
//! ```text
//! thrufs device ── supervisor: socket and its files, signals, systemd
//!   └─ server: in its sandbox, answers the guest ([`serving`])
//! ```
//!
//! With `--survive` there is one more between the two, in the same sandbox, that starts one server after the other
//! ([`crate::daemon::zygote`], [`outlived`]).
//!
//! With neither sandbox nor filter there is one process. Invariant: the end by a front end that disconnects,
//! and by SIGTERM, is exit code 0, with every request that was taken answered; whatever a guest says ends
//! neither process.

mod confined;
mod control;
mod outlived;
mod serving;
mod socket;

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, bail};
use rustix::fs::FileType;
use thrufs_fs::InodeFileHandles;

use crate::daemon::{limits, readiness::notify_systemd};
use crate::device_plan::DevicePlan;
use crate::failure::Failure;
use crate::mount::paths::{is_whole, open_any};
use crate::sandbox::plan::Sandbox;
use crate::stderr::warn;
use socket::Socket;

/// Serves until the front end disconnects, or until a signal.
///
/// # Errors
/// Nothing is served, or the serving process has died, as the message says.
pub(crate) fn run(plan: &DevicePlan) -> Result<(), Failure> {
    let (source, plan) = open_source(plan).map_err(Failure::Configuration)?;
    let plan = &plan.with_safe_file_handles(|| is_whole(&source));
    let mut socket = Socket::open(&plan.socket).map_err(Failure::Configuration)?;
    limits::apply(plan.rlimit_nofile)?;
    // As for a mount: what was inherited is its owner's.
    thrufs_sys::confine::close_all_but(&[source.as_fd(), socket.listener().as_fd()])
        .context("close what was inherited")?;
    let result = match plan.sandbox.splits() {
        true => confined::serve(&source, &mut socket, plan),
        false => serving::serve_here(source, &mut socket, plan),
    };
    notify_systemd(&[sd_notify::NotifyState::Stopping]);
    drop(socket);
    Ok(result?)
}

/// SOURCE, as O_PATH, and what can be done of `plan` with it. A file cannot be the root of a sandbox.
fn open_source(plan: &DevicePlan) -> anyhow::Result<(OwnedFd, DevicePlan)> {
    let (source, kind) = open_any("--shared-dir", &plan.source)?;
    let mut plan = plan.clone();
    let shown = plan.source.display();
    match kind {
        FileType::Directory => {}
        FileType::RegularFile if plan.sandbox.candidates.contains(&Sandbox::None) => {
            if plan.sandbox.candidates != [Sandbox::None] {
                warn(&format!(
                    "--shared-dir {shown} is a file: the serving process is not shut in, as with \
                     --sandbox=none"
                ));
            }
            plan.sandbox.candidates = &[Sandbox::None];
            plan.config.inode_file_handles = InodeFileHandles::Never;
        }
        FileType::RegularFile => bail!(
            "--shared-dir {shown} is a file, which cannot be a sandbox's root: use --sandbox=none"
        ),
        _special => bail!("--shared-dir {shown} is neither a directory nor a file"),
    }
    Ok((source, plan))
}
