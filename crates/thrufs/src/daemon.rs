//! The daemon: from a [`MountPlan`] to a mount that serves, and to its end.
//!
//! ```text
//! thrufs mount ── starter: returns when the mount answers ([`background`]; absent with -f)
//!   └─ supervisor: mount table, signals, systemd, files of the runtime directory ([`supervisor`])
//!        └─ server: in its sandbox, answers the kernel ([`server`], [`serving`])
//! ```
//!
//! With `--survive` there is one more between the last two, in the same sandbox ([`zygote`]), and the mount goes from
//! one such pair to another while it is in use ([`succession`]).
//!
//! With neither sandbox nor filter the supervisor serves itself ([`unconfined`]).

mod background;
pub(crate) mod callers;
mod candidate;
pub(crate) mod control;
pub(crate) mod death;
mod descriptors;
mod last_words;
mod lifecycle;
pub(crate) mod limits;
pub(crate) mod link;
mod output;
pub(crate) mod preflight;
pub(crate) mod readiness;
mod registrar;
pub(crate) mod running;
pub(crate) mod server;
pub(crate) mod server_process;
pub(crate) mod serving;
pub(crate) mod shortfall;
pub(crate) mod source_space;
pub(crate) mod source_state;
mod stuck;
mod succession;
mod successor;
pub(crate) mod supervisor;
pub(crate) mod take_over;
pub(crate) mod taken;
mod turn;
mod unconfined;
pub(crate) mod zygote;

use std::os::fd::AsFd;

use anyhow::Context;

use crate::failure::Failure;
use crate::findings::kernel::Version;
use crate::logging::LogOptions;
use crate::mount::paths::Endpoints;
use crate::mount::replace_dead;
use crate::mount_plan::MountPlan;
use readiness::Readiness;

/// Mounts, and returns when the mount serves (in the background) or has ended.
///
/// # Errors
/// Nothing is mounted then, or a mount is left dead, as the message says.
pub(crate) fn run(plan: &MountPlan) -> Result<(), Failure> {
    if plan.replace_dead {
        replace_dead::run(&plan.mountpoint, &plan.kernel.subtype)?;
    }
    let endpoints = preflight::check(plan)?;
    // For the page of --metrics, which is made in the sandbox.
    let _known = Version::running();
    let plan = &plan
        .clone()
        .with_safe_file_handles(|| endpoints.are_whole());
    limits::apply(plan.rlimit_nofile)?;
    // A lock of flock(1) or a pipe of a CI job is its owner's: what the daemon holds of it would last as
    // long as the mount. thrufs takes no descriptors (LISTEN_FDS), and NOTIFY_SOCKET is a path.
    thrufs_sys::confine::close_all_but(&[endpoints.source.as_fd()])
        .context("close what was inherited")?;
    if plan.foreground {
        serve(endpoints, plan, &mut Readiness::Foreground, plan.log)?;
    } else {
        background::start(endpoints, plan, serve)?;
    }
    Ok(())
}

/// Serves until a signal, or until the mount is unmounted.
fn serve(
    endpoints: Endpoints,
    plan: &MountPlan,
    readiness: &mut Readiness,
    log: LogOptions,
) -> anyhow::Result<()> {
    if plan.sandbox.splits() {
        supervisor::serve(endpoints, plan, readiness, log)
    } else {
        unconfined::serve(endpoints, plan, readiness, log)
    }
}
