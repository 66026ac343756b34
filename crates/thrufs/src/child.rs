//! A child process, seen from the one that started it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal};

use crate::wait::wait_for_input;

/// How long a child whose start failed may take to unmount before it is killed.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The pidfd cannot come to mean another process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    pub(crate) fn new(pid: Pid) -> anyhow::Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("a child's id")?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).context("pidfd")?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn wait_for_exit(&self, patience: Duration) -> Option<WaitStatus> {
        match wait_for_input(&[&self.pidfd], patience) {
            Ok(Some(_)) => nix::sys::wait::waitpid(self.pid, None).ok(),
            _ => None,
        }
    }

    /// Asks it to unmount and end, and makes it end.
    pub(crate) fn stop(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            // It fails only if the child is gone, which is what is wanted.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
            if self.wait_for_exit(STOP_DEADLINE).is_some() {
                return;
            }
        }
    }

    /// Lets it end whenever it can.
    pub(crate) fn abandon(&self) {
        let _gone = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}
