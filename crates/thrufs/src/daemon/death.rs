//! What is told of a mount that has lost its server: the error with which the daemon ends, and a copy of
//! it in the system log.
//!
//! Invariant: a death that leaves a dead mount is told where an operator looks, also by a daemon in the
//! background, whose standard error is /dev/null. Not by `--syslog` alone: what is only in a log that was
//! not asked for in advance is missing when it is needed.

use anyhow::{anyhow, bail};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::logging;
use crate::logging::destination::stderr_is_journal;
use crate::mount::attached::Attached;
use crate::mount_plan::MountPlan;
use crate::status::plain;

/// How a session ended, and what the mount was left as.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The session's own result.
    pub(crate) result: anyhow::Result<()>,
    /// What the serving process wrote last, where there is one.
    pub(crate) last_words: Vec<String>,
    /// A call on SOURCE does not return.
    pub(crate) hangs: bool,
}

impl Ended {
    /// A session without a serving process of its own.
    pub(crate) fn with(result: anyhow::Result<()>) -> Self {
        Self {
            result,
            last_words: Vec::new(),
            hangs: false,
        }
    }
}

/// The result of a daemon that ends without having been told to.
pub(crate) async fn conclude(
    attached: Attached,
    ended: Ended,
    plan: &MountPlan,
) -> anyhow::Result<()> {
    let mountpoint = attached.mountpoint().display().to_string();
    if !attached.is_left_dead().await {
        match (&ended.result, ended.hangs) {
            (_, true) => tracing::warn!(
                "{mountpoint} was unmounted, and a call on SOURCE does not return: left behind"
            ),
            (Ok(()), false) => tracing::info!("{mountpoint} was unmounted"),
            (Err(_), false) => {}
        }
        return ended.result;
    }
    let device = attached.device();
    let reason = match ended.result {
        Err(error) => format!("{error:#}"),
        Ok(()) => lost_connection(device, plan.request_timeout, ended.hangs),
    };
    let error = anyhow!(
        "{mountpoint}: {reason}. It stays mounted and answers ENOTCONN: run `thrufs umount \
         {mountpoint}`, or mount again with --replace-dead"
    );
    tell_the_system_log(&error, &ended.last_words, plan);
    Err(error)
}

fn lost_connection(device: &str, timeout: Option<u16>, hangs: bool) -> String {
    let number = device.rsplit(':').next().unwrap_or_default();
    let by_abort = format!("an abort by /sys/fs/fuse/connections/{number}/abort");
    let by = match timeout {
        Some(seconds) => {
            format!("a request without an answer for --request-timeout={seconds}, or {by_abort}")
        }
        None => by_abort,
    };
    let hang = match hangs {
        true => "; a call on SOURCE does not return and is left behind",
        false => "",
    };
    format!("the connection to the kernel was ended ({by}){hang}")
}

/// Where the daemon logs there already, the error gets there as every other one.
fn tell_the_system_log(error: &anyhow::Error, last_words: &[String], plan: &MountPlan) {
    if plan.log.syslog {
        if plan.foreground {
            // The error itself goes to standard error.
            tracing::error!("{error:#}");
        }
        return;
    }
    if stderr_is_journal() {
        return;
    }
    let options = syslog_tracing::Options::LOG_PID;
    let facility = syslog_tracing::Facility::Daemon;
    let Some(syslog) = syslog_tracing::Syslog::new(c"thrufs", options, facility) else {
        return;
    };
    logging::in_the_system_log(syslog, || {
        tracing::error!("{error:#}");
        for line in last_words {
            tracing::error!("its last words: {}", plain(line));
        }
    });
}

/// How a server ended that gave no reason.
pub(crate) fn ended(status: WaitStatus) -> anyhow::Result<()> {
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Signaled(_, Signal::SIGSYS, _) => bail!(
            "the serving process made a system call that --seccomp forbids, and was ended: \
             --seccomp=log serves on and names it in the kernel's log"
        ),
        WaitStatus::Signaled(_, signal, dumped) => bail!(
            "the serving process was ended by {signal}{}",
            if dumped { " and dumped core" } else { "" }
        ),
        WaitStatus::Exited(_, code) => bail!("the serving process ended with exit code {code}"),
        other => bail!("the serving process ended without a reason ({other:?})"),
    }
}
