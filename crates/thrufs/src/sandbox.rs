//! The sandbox of the process that serves: an attacker who takes it over finds SOURCE and
//! nothing else.
//!
//! Invariant: it is complete before the process reads its first request, and nothing of it can be
//! undone from inside. What has to happen outside (mounting, unmounting, the files in the runtime
//! directory, looking at callers in /proc) is done by the process that started it
//! (`daemon/supervisor.rs`), over a few fixed questions.
//!
//! The order is bound: namespaces while there are capabilities, descriptors closed when the last
//! path was opened, capabilities dropped when the last mount was made, the filter at the very end.

#[cfg(feature = "break-out")]
pub(crate) mod breakout;
pub(crate) mod capabilities;
pub(crate) mod id_range;
pub(crate) mod namespaces;
pub(crate) mod plan;
pub(crate) mod seccomp;
mod syscalls;

use std::os::fd::OwnedFd;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use thrufs_fs::{Callers, HeldProc};

use capabilities::Needs;
use plan::{Sandbox, SandboxPlan};

/// What a confined process is made with, beside the request.
pub(crate) struct Inside {
    pub(crate) sandbox: Sandbox,
    /// SOURCE, as O_PATH, from outside; also the current directory.
    pub(crate) source: OwnedFd,
    /// Becomes standard error.
    pub(crate) log: OwnedFd,
    pub(crate) callers: Box<dyn Callers>,
    pub(crate) needs: Needs,
    /// The mount namespace of a server before this one, from which this one takes over.
    pub(crate) joins: Option<OwnedFd>,
}

/// Shuts this process in, but for the filter. Returns SOURCE, as O_PATH, from inside.
pub(crate) fn enter(plan: &SandboxPlan, inside: Inside) -> anyhow::Result<OwnedFd> {
    // A terminal that closes, or a key pressed there, is the supervisor's matter.
    rustix::process::setsid().context("start a session")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&inside.log)?;
    drop((null, inside.log));
    let processes = match plan.restarts {
        true => namespaces::take_processes_along(inside.sandbox)?,
        false => None,
    };
    let held = match (namespaces::take_proc_along(inside.sandbox)?, processes) {
        (Some(_own), Some(processes)) => Some(HeldProc::for_others(processes, inside.callers)),
        (Some(self_fd), None) => Some(HeldProc::open(self_fd, inside.callers)?),
        (None, _) => None,
    };
    let source = match (inside.sandbox, inside.joins) {
        (Sandbox::Namespace, Some(mounts)) => namespaces::join(&mounts)?,
        (Sandbox::Namespace, None) => namespaces::pivot_into(inside.source)?,
        (Sandbox::Chroot, _) => namespaces::chroot_into(inside.source)?,
        (Sandbox::None, _) => inside.source,
    };
    if let Some(held) = held {
        held.hold().context("hold on to /proc/self/fd")?;
    }
    if inside.sandbox == Sandbox::Namespace && plan.has_map() {
        namespaces::become_first_user(plan)?;
    }
    let kept = plan.capabilities(inside.sandbox, inside.needs);
    capabilities::drop_all_but(kept, inside.needs.for_the_start())?;
    Ok(source)
}

/// The filter of a process that starts servers, under which those put their own ([`seal`]).
pub(crate) fn seal_zygote(plan: &SandboxPlan) -> anyhow::Result<()> {
    // No server of the same user can trace it, or write to its memory.
    let none = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(none).context("be traced by no server")?;
    seccomp::apply_to_zygote(plan.seccomp)
}

/// What a server that was started by such a process has of its own.
pub(crate) fn begin_server() -> anyhow::Result<()> {
    let as_before = rustix::process::DumpableBehavior::Dumpable;
    rustix::process::set_dumpable_behavior(as_before).context("leave a core file if asked to")?;
    thrufs_fs::hold_own_proc().context("/proc of the serving process")
}

/// The last step, while there is one thread, and after SOURCE is watched.
pub(crate) fn seal(plan: &SandboxPlan, sandbox: Sandbox, needs: Needs) -> anyhow::Result<()> {
    capabilities::reduce_to(plan.capabilities(sandbox, needs))?;
    for name in plan.modcaps.missing()? {
        tracing::warn!("--modcaps=+{name}: the daemon was started without it, and has it not");
    }
    seccomp::apply(plan.seccomp)
}
