//! The daemon, seen from the process that started it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal};

use super::wait::wait_for_input;

/// How long a child whose start failed may take to unmount before it is killed.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The pidfd cannot come to mean another process.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    pub(super) fn new(pid: Pid) -> anyhow::Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("a child's id")?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).context("pidfd")?;
        Ok(Self { pid, pidfd })
    }

    pub(super) fn wait_for_exit(&self, patience: Duration) -> Option<WaitStatus> {
        match wait_for_input(&[&self.pidfd], patience) {
            Ok(Some(_)) => nix::sys::wait::waitpid(self.pid, None).ok(),
            _ => None,
        }
    }

    /// Asks it to unmount and end, and makes it end.
    pub(super) fn stop(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            // It fails only if the child is gone, which is what is wanted.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
            if self.wait_for_exit(STOP_DEADLINE).is_some() {
                return;
            }
        }
    }
}
